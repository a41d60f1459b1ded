"""The exceptions that end a command with an exit code of their own."""

from pathlib import Path

LONGEST_LINE = 900
"""Largest number of characters in a message."""


class UserError(ValueError):
    """A mistake in the user's input, such as a recipe, an argument, a folder, an image or a checkpoint.

    The message is one sentence that names what is wrong, where, and what to do. The command line prints only this
    sentence, to stderr, and exits with `exit_code`.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        """Keeps the message, as one line that a terminal can show."""
        super().__init__(one_line(message))


class Unavailable(UserError):
    """Something outside is not there now and may be later: a store, a server, a place that another process holds.

    The message is one sentence, as every `UserError`'s. Running the same command again may succeed.
    """

    exit_code = 75


class OutOfMemory(UserError):
    """A stage needs more memory than it has; the message names the setting that gives it more.

    Nothing is wrong with the input, so the exit code is that of any failure.
    """

    exit_code = 1


class Incomplete(UserError):
    """An artifact, or a part of it, is not in its folder.

    Attributes:
        folder: The folder.
    """

    def __init__(self, folder: Path, message: str) -> None:
        """Stores the folder."""
        super().__init__(message)
        self.folder = folder


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


def one_line(text: str) -> str:
    """Returns a text in one line of at most `LONGEST_LINE` characters, without any that a terminal does not show.

    Messages quote names and values of any origin. Of a longer text, the middle is left out.
    """
    beginning, end = LONGEST_LINE * 2 // 3, LONGEST_LINE // 4
    if len(text) > LONGEST_LINE:
        text = f"{text[:beginning]} … {text[-end:]}"
    line = "".join(character if character.isprintable() else _visible(character) for character in text)
    return line if len(line) <= LONGEST_LINE else f"{line[:beginning]} … {line[-end:]}"


def _visible(character: str) -> str:
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")
