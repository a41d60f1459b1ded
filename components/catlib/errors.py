"""The exceptions that end a command with an exit code of their own."""


class UserError(ValueError):
    """A mistake in the user's input, such as a recipe, an argument, a folder, an image or a checkpoint.

    The message is one sentence that names what is wrong, where, and what to do. The command line prints only this
    sentence, to stderr, and exits with `exit_code`.
    """

    exit_code = 2


class Unavailable(UserError):
    """Something outside is not there now and may be later: a store, a server, a place that another process holds.

    The message is one sentence, as every `UserError`'s. Running the same command again may succeed.
    """

    exit_code = 75


class Interrupted(Exception):
    """The process received a request to stop and saved its state. It exits with code 75; run it again to resume."""

    exit_code = 75


class EndedElsewhere(BaseException):
    """Another process of the same training has ended it and says why; this one ends with the same code, silently.

    It may be raised anywhere, as KeyboardInterrupt is, so it is no `Exception`.
    """

    def __init__(self, exit_code: int) -> None:
        """Takes the exit code of the process that ended first."""
        super().__init__(exit_code)
        self.exit_code = exit_code
