"""How commands end: real processes, real signals, streams that are closed, full or read by nobody."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

LATER = 1.2
"""Seconds after which Ctrl-C is a second one."""


def script(body: str, head: str = "") -> list[str]:
    """Returns the command of a process whose `main` runs some lines with the functions of `exits` at hand."""
    program = f"""
import threading, time
from pathlib import Path
from components.catlib.errors import *
from components.catlib.exits import *
{textwrap.dedent(head)}
def command():
{textwrap.indent(textwrap.dedent(body), "    ")}
quiet_ctrl_c()
leave(lambda: exit_code(command, interrupted="start again"))
"""
    return [sys.executable, "-c", program]


def start(command: list[str], *, ignoring: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    """Starts a process and waits for the word `ready` on its stdout."""

    def dispositions() -> None:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN if number in ignoring else signal.SIG_DFL)

    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=dispositions
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Returns the exit code and what was said on stderr."""
    _, said = process.communicate(timeout=30)
    return process.returncode, said


SLEEPS = """
    answer("ready")
    time.sleep(30)
"""
FINISHES_ITS_STEP = """
    stop = threading.Event()
    with on_stop(stop.set):
        answer("ready")
        stop.wait(30)
        time.sleep(STEP)
    raise Interrupted("saved")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_is_one_sentence(number: int) -> None:
    process = start(script(SLEEPS))
    process.send_signal(number)
    assert end(process) == (75, "interrupted: start again\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_a_request_calls_may_end_a_step_first_and_repeated_requests_do_not_hasten_it(number: int) -> None:
    process = start(script(FINISHES_ITS_STEP, "STEP = 1.0"))
    for _ in range(3):  # at once, as from a terminal and a parent
        process.send_signal(number)
        time.sleep(0.1)
    assert end(process) == (75, "interrupted: saved\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_only_a_second_ctrl_c_hastens(number: int) -> None:
    process = start(script(FINISHES_ITS_STEP, "STEP = 3.0"))
    process.send_signal(number)
    time.sleep(LATER)
    process.send_signal(number)
    assert end(process) == (75, "interrupted: saved\n")


def test_a_second_ctrl_c_ends_at_once() -> None:
    process = start(script(FINISHES_ITS_STEP, "STEP = 20.0"))
    process.send_signal(signal.SIGINT)
    time.sleep(LATER)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert end(process) == (75, "interrupted: start again\n")
    assert time.monotonic() - began < 4


def test_a_second_ctrl_c_ends_a_clean_up_that_hangs() -> None:
    hangs = """
        try:
            answer("ready")
            time.sleep(30)
        finally:
            for _ in range(20):
                try:
                    time.sleep(30)
                except KeyboardInterrupt:
                    pass
    """
    process = start(script(hangs))
    process.send_signal(signal.SIGINT)
    time.sleep(LATER)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    code, said = end(process)
    assert (code, "Traceback" in said) == (75, False)
    assert time.monotonic() - began < 9


def test_threads_that_wait_for_a_server_do_not_delay_the_end() -> None:
    process = start(script("    threading.Thread(target=time.sleep, args=(30,)).start()" + SLEEPS))
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert end(process) == (75, "interrupted: start again\n")
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_ignored_signals_stay_ignored(number: int) -> None:
    """As SIGHUP under nohup, and SIGINT in a script's background."""
    process = start(script('answer("ready"); time.sleep(1); answer("done")'), ignoring=(number,))
    process.send_signal(number)
    assert end(process) == (0, "")


@pytest.mark.usefixtures("heeded_signals")
def test_handlers_are_restored_and_other_threads_change_nothing() -> None:
    from threading import Thread

    from components.catlib.exits import on_stop

    seen = []

    def enter() -> None:
        with on_stop(list):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    thread = Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == before[:1]
    enter()
    assert seen[1] != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before


@pytest.mark.parametrize("name", ["components", "pipelines"])
def test_ctrl_c_during_the_imports_is_silent(name: str, tmp_path: Path) -> None:
    """The first heavy import waits until the signal has come."""
    (tmp_path / "pydantic.py").write_text("import time; print('ready', flush=True); time.sleep(30)")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    process = start(["env", f"PYTHONPATH={path}", sys.executable, "-m", name, "--help"])
    process.send_signal(signal.SIGINT)
    assert end(process) == (-signal.SIGINT, "")


# ------------------------------------------------------------------------------------------------------------- parents


@pytest.mark.parametrize("system", ["linux", "other"])
def test_a_child_dies_with_its_parent(system: str, tmp_path: Path) -> None:
    child = f"""
import os, sys, time
from pathlib import Path
sys.platform = {system!r}
from components.catlib.exits import dying_with_parent, interrupt, on_stop
with on_stop(interrupt), dying_with_parent():
    try:
        print("ready", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        Path({str(tmp_path / "saved")!r}).touch()
"""
    parent = start([sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"])
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while not (tmp_path / "saved").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------------------- streams

SHORT, LONG = 'answer("one")', 'answer("one"); time.sleep(0.5); [answer(str(n)) for n in range(100000)]'


def in_shell(command: list[str], redirection: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a shell; the last line of its output is the command's own exit code."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}; echo "code ${{PIPESTATUS[0]}}"', "bash", *command],
        capture_output=True,
        text=True,
        timeout=60,
    )


COMMANDS = {
    "short": script(SHORT),
    "long": script(LONG),
    "help of components": [sys.executable, "-m", "components", "--help"],
    "help of a stage": [sys.executable, "-m", "components", "evaluate", "--help"],
    "help of pipelines": [sys.executable, "-m", "pipelines", "--help"],
    "recipes": [sys.executable, "-m", "pipelines", "recipes"],
}


@pytest.mark.parametrize("redirection", ["| head -1", "| true", ">&-", "2>&1 | true", "2>&-", "<&-"])
@pytest.mark.parametrize("name", COMMANDS)
def test_readers_may_go_away_at_any_time(name: str, redirection: str) -> None:
    ended = in_shell(COMMANDS[name], redirection)
    assert ended.stderr == ""
    assert ended.stdout.splitlines()[-1] == "code 0"
    assert "Traceback" not in ended.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_behind_stdout_is_a_sentence(name: str) -> None:
    ended = in_shell(COMMANDS[name], "> /dev/full")
    sentence = "error: The answer cannot be written to standard output (No space left on device).\n"
    assert (ended.stderr, ended.stdout) == (sentence, "code 2\n")


def test_a_closed_stdout_is_not_taken_by_a_file(tmp_path: Path) -> None:
    ended = in_shell(
        script(f'opened = open({str(tmp_path / "file")!r}, "w"); import os; os.write(1, b"stray"); opened.close()'),
        ">&- 2>&-",
    )
    assert ended.stdout == "code 0\n"
    assert (tmp_path / "file").read_text() == ""


def test_progress_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    work = (
        f'[note("progress") for _ in range(9)]; time.sleep(0.5); note("more"); Path({str(tmp_path / "done")!r}).touch()'
    )
    ended = in_shell(script(work), "2>&1 | head -1")
    assert ended.stdout == "progress\ncode 0\n"
    assert (tmp_path / "done").exists()
