"""The exceptions that end a command with an exit code of their own."""


class UserError(ValueError):
    """A mistake in the user's input, such as a recipe, an argument, a folder, an image or a checkpoint.

    The message is one sentence that names what is wrong, where, and what to do. The command line prints only this
    sentence, to stderr, and exits with code 2.
    """


class Interrupted(Exception):
    """The process received a request to stop and saved its state. It exits with code 75; run it again to resume."""
