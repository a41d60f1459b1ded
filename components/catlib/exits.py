"""How a command ends: its exit code, and its reaction to signals, closed streams and the death of its parent."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from components.catlib.credentials import refuse_in_arguments
from components.catlib.errors import EndedElsewhere, Interrupted, UserError

EXIT_INTERRUPTED = 75
"""The command was interrupted; running it again resumes. `errors` holds the exit codes of errors."""

EXIT_CTRL_C = 130
"""A command that only reads was ended by Ctrl-C; there is nothing to resume."""

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

_SAME_PRESS_SECONDS = 1.0
"""A Ctrl-C repeated within this time is the first one, which came from the terminal and from the parent process."""

_HASTE_SECONDS = 5.0
"""After a second Ctrl-C the process has this time to clean up."""

_PARENT_SECONDS = 1.0
"""Time between two looks at the parent, on systems that send no signal when it dies."""

_PR_SET_PDEATHSIG = 1


# ------------------------------------------------------------------------------------------------------------- signals


@contextlib.contextmanager
def on_stop(action: Callable[[], None]) -> Iterator[None]:
    """Calls `action` when the process is first asked to stop: by SIGTERM, SIGHUP or Ctrl-C (SIGINT).

    Later requests change nothing, except a second Ctrl-C. That raises KeyboardInterrupt, and the process ends within
    seconds even if a thread still waits for a server. Signals that the process ignores, as under `nohup`, stay
    ignored. Outside the main thread nothing changes, because signals belong to the host program there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _ending
    _ending = False
    handler = _handler(action)
    earlier = {
        number: signal.signal(number, handler) for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        _ending = False
        for number, restored in earlier.items():
            signal.signal(number, signal.SIG_DFL if restored is None else restored)


def _handler(action: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
    requests: list[float] = []

    def react(number: int, _: FrameType | None) -> None:
        if _ending:
            return
        requests.append(time.monotonic())
        if len(requests) == 1:
            action()
        elif number == signal.SIGINT and requests[-1] - requests[0] >= _SAME_PRESS_SECONDS and not launched():
            haste = threading.Timer(_HASTE_SECONDS, os._exit, [EXIT_INTERRUPTED])
            haste.daemon = True
            haste.start()
            interrupt()

    return react


_ending = False


def ignore_stops() -> None:
    """Makes the surrounding `on_stop` ignore further requests: the process ends anyway, and first says why."""
    global _ending
    _ending = True


def interrupt() -> None:
    """Raises KeyboardInterrupt; the usual action of `on_stop`."""
    raise KeyboardInterrupt


def launched() -> bool:
    """Returns whether a launcher started this process as one of several of a training; it passes signals on."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def quiet_ctrl_c() -> None:
    """Lets Ctrl-C end the process without a traceback until `on_stop` takes over: during imports, above all."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def after_interruption(*, resumes: bool) -> str:
    """Returns what the same command does after it was interrupted.

    Args:
        resumes: Whether the command is a training that keeps checkpoints.
    """
    if resumes:
        return "nothing was published; run the same command again to go on from the newest checkpoint, if there is one"
    return "nothing was published; run the same command again to start over"


@contextlib.contextmanager
def dying_with_parent() -> Iterator[None]:
    """Sends this process SIGTERM when its parent dies, by whatever signal, so that nothing runs on unattended.

    Linux sends the signal; elsewhere a thread watches the parent.
    """
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        try:
            yield
        finally:
            prctl(_PR_SET_PDEATHSIG, 0)
        return
    done = threading.Event()
    threading.Thread(target=_watch, args=(os.getppid(), done), name="parent", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(parent: int, done: threading.Event) -> None:
    while not done.wait(_PARENT_SECONDS):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return


# ------------------------------------------------------------------------------------------------------------- streams


def answer(text: str) -> None:
    """Prints a line of a command's answer to stdout, at once.

    Raises:
        SystemExit: Nobody reads it any more, as after `| head`; the exit code is 0.
        UserError: It cannot be written.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        _drop_stdout()
        if isinstance(error, BrokenPipeError):
            raise SystemExit(0) from error
        raise UserError(f"The answer cannot be written to standard output ({error.strerror}).") from error


def note(text: str) -> None:
    """Prints a line for people to stderr; a stderr that is closed or that nobody reads stops nothing."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """A parser of arguments that refuses credentials in them, and whose help is an answer like any other."""

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parses the arguments, once it is known that none of its messages would repeat a credential."""
        args = sys.argv[1:] if args is None else list(args)
        refuse_in_arguments(args)
        return super().parse_args(args, namespace)

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Prints the help; argparse itself overlooks a stdout that cannot be written."""
        if file is None:
            answer(self.format_help().rstrip("\n"))
        else:
            super().print_help(file)


def stated(text: str) -> str:
    """Reads a path or address of an argument; an empty one, as of a shell variable not set, is refused by argparse."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give a path or an address")
    return text


def _drop_stdout() -> None:
    """Points stdout nowhere, so that the rest of its buffer does not fail again when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _open_closed_streams() -> None:
    """Opens the standard streams that a parent has closed, so that no file that is opened later takes their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            assert os.open(os.devnull, os.O_RDWR) == number
            setattr(sys, name, open(number, "r" if number == 0 else "w"))  # noqa: SIM115, PTH123


# ---------------------------------------------------------------------------------------------------------- exit codes


def exit_code(command: Callable[[], None], *, interrupted: str, code: int = EXIT_INTERRUPTED) -> int:
    """Runs a command, and returns its exit code after at most one sentence on stderr.

    Args:
        command: The command.
        interrupted: The sentence when SIGTERM, SIGHUP or Ctrl-C ended it, unless the command says it better.
        code: The exit code then.

    Returns:
        0 done, 2 the user's mistake, 75 interrupted or something is not there now.
    """
    with on_stop(interrupt):
        try:
            command()
            end = None
        except (UserError, Interrupted, KeyboardInterrupt, EndedElsewhere) as raised:
            end = raised
        ignore_stops()
        match end:
            case None:
                return 0
            case EndedElsewhere():
                return end.exit_code
            case UserError():
                note(f"error: {end}")
                return end.exit_code
            case Interrupted():
                note(f"interrupted: {end}")
                return end.exit_code
            case _:
                note(f"interrupted: {interrupted}")
                return code


def parsed(parser: Parser, arguments: list[str] | None) -> argparse.Namespace | int:
    """Returns the arguments that were read, or the exit code after a credential among them was refused."""
    try:
        return parser.parse_args(arguments)
    except UserError as error:
        note(f"error: {error}")
        return error.exit_code


def leave(main: Callable[[], int]) -> NoReturn:
    """Runs a program, and ends the process with its exit code whatever has become of its streams and threads."""
    _open_closed_streams()
    try:
        code = main()
    except SystemExit as end:  # of argparse
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except UserError as error:  # of `Parser`
        note(f"error: {error}")
        code = error.exit_code
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except OSError as error:
        _drop_stdout()
        if not isinstance(error, BrokenPipeError):
            note(f"error: The answer cannot be written to standard output ({error.strerror}).")
            code = code or UserError.exit_code
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        # They wait for a server, for something that nobody wants any more; Python would wait for them.
        atexit._run_exitfuncs()
        os._exit(code)
    gc.freeze()  # the process ends, and would first search everything that torch loaded for garbage
    sys.exit(code)
