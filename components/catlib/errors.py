"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """A mistake in what the user gave: recipe, argument, folder, image, checkpoint.

    The message is one sentence that names what was wrong, where, and what to do. Command lines print it to stderr and
    exit with code 2; nothing else is shown.
    """


class Interrupted(Exception):
    """The process was asked to stop and has saved what is needed to go on; exit code 75, run again to resume."""
