"""Runs on this machine that are stopped: by signals, by a second Ctrl-C, by the death of the command."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.kubeflow_server import RUN_ID, KubeflowServer, kubeflow

ENDLESS = [
    "--set",
    "teacher.epochs=9999",
    "--set",
    "teacher.evaluations=0",
    "--set",
    "resources.checkpoint_seconds=0.5",
]
WATCHDOG_SECONDS = 120.0


class Run:
    """A run whose teacher, one of its own, trains for days."""

    def __init__(self, workspace: Path, *, ignoring: tuple[int, ...] = ()) -> None:
        command = [sys.executable, "-m", "pipelines", "run", "--recipe", "smoke", "--workspace", str(workspace)]
        self.earlier = set(_trainings(workspace))
        command += ["--set", f"teacher.seed={len(self.earlier)}"]

        def dispositions() -> None:
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN if number in ignoring else signal.SIG_DFL)

        self.workspace = workspace
        self.process = subprocess.Popen(
            [*command, *ENDLESS], stderr=subprocess.PIPE, text=True, preexec_fn=dispositions, start_new_session=True
        )

    def wait_for_checkpoint(self) -> None:
        """Waits until the teacher trains and has saved its state."""
        deadline = time.monotonic() + WATCHDOG_SECONDS
        while not self.step():
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)

    def step(self) -> int:
        """Returns the step of the newest checkpoint; 0 without one."""
        found = [path.stem for path in self.workspace.glob("checkpoints/**/step-*.json") if not self._is_earlier(path)]
        return max((int(stem.removeprefix("step-").partition(".")[0]) for stem in found), default=0)

    def _is_earlier(self, checkpoint: Path) -> bool:
        return any(checkpoint.is_relative_to(training) for training in self.earlier)

    def end(self) -> tuple[int, str]:
        """Returns the exit code and stderr."""
        _, said = self.process.communicate(timeout=WATCHDOG_SECONDS)
        return self.process.returncode, said

    def group(self) -> int:
        """Returns the process group of the stages."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and b"pipelines.local" in _command(entry) and self._is_ours(entry):
                return int(entry.name)
        raise AssertionError("the run has no process")

    def living(self, group: int) -> list[str]:
        """Returns the commands of the processes of a group that are alive."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                except OSError:
                    continue
                if int(its_group) == group and state != "Z":
                    found.append(_command(entry).decode())
        return found

    def _is_ours(self, entry: Path) -> bool:
        return str(self.workspace).encode() in _command(entry)


def _command(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the images that the first run packs and measures, for all that follow."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(workspace: Path) -> Iterator[Run]:
    started = Run(workspace)
    try:
        yield started
    finally:
        started.process.kill()


def test_a_closed_terminal_stops_the_stages_which_save(run: Run) -> None:
    run.wait_for_checkpoint()
    group = run.group()
    run.process.send_signal(signal.SIGHUP)
    code, said = run.end()
    assert code == 75, said
    last = said.splitlines()[-1]
    assert last.startswith("interrupted: Stopped after step ")
    assert last.endswith("the state of training is saved: run the same command again to resume.")
    _gone(run, group)
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_second_ctrl_c_kills_at_once(run: Run) -> None:
    run.wait_for_checkpoint()
    group = run.group()
    for pid in _members(group):  # a stage that does not stop: frozen, it cannot save
        os.kill(pid, signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    time.sleep(1.5)
    began = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    code, said = run.end()
    assert time.monotonic() - began < 10
    assert code == 75, said
    assert said.splitlines()[-1].startswith("interrupted: The stages were killed; ")
    assert "Traceback" not in said
    _gone(run, group)


def test_a_killed_command_leaves_no_stage(run: Run) -> None:
    run.wait_for_checkpoint()
    group = run.group()
    before = run.step()
    run.process.kill()
    _gone(run, group)
    assert run.step() >= before


def test_a_stage_that_the_kernel_kills_ran_out_of_memory(run: Run) -> None:
    run.wait_for_checkpoint()
    group = run.group()
    of_task = [pid for pid in _members(group) if b"executor_main" in _command(Path("/proc") / str(pid))]
    os.kill(max(of_task), signal.SIGKILL)  # the shell that starts the stage is older
    code, said = run.end()
    assert code == 1, said
    last = said.splitlines()[-1]
    assert last.startswith(
        "error: Stage teacher was killed, as the kernel does when memory runs out (SIGKILL; full log"
    )
    assert "raise resources.stages.teacher.memory on a cluster" in last
    assert "lower teacher.batch_size" in last
    _gone(run, group)


@pytest.mark.slow
def test_a_killed_runner_leaves_no_stage(run: Run) -> None:
    """The process between the command and the stage is killed, as by the kernel when memory is short."""
    run.wait_for_checkpoint()
    group = run.group()
    os.kill(group, signal.SIGKILL)
    code, said = run.end()
    assert code in (1, 75), said
    assert "Traceback" not in said
    _gone(run, group)


@pytest.mark.slow
def test_under_nohup_a_closed_terminal_stops_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, ignoring=(signal.SIGHUP,))
    try:
        run.wait_for_checkpoint()
        group = run.group()
        run.process.send_signal(signal.SIGHUP)
        os.killpg(group, signal.SIGHUP)
        saved = run.step()
        deadline = time.monotonic() + WATCHDOG_SECONDS
        while run.step() <= saved:
            assert run.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        run.process.send_signal(signal.SIGTERM)
        assert run.end()[0] == 75
        _gone(run, group)
    finally:
        run.process.kill()


def _members(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                its_group = (entry / "stat").read_text().rpartition(")")[2].split()[2]
            except OSError:
                continue
            if int(its_group) == group:
                found.append(int(entry.name))
    return found


def _trainings(workspace: Path) -> list[Path]:
    """Returns the folders of checkpoints, one per training."""
    return [path for path in workspace.glob("checkpoints/*/*") if path.is_dir()]


def _gone(run: Run, group: int) -> None:
    """Waits until every process of a group has ended; a killed one takes a moment."""
    deadline = time.monotonic() + 60
    while run.living(group):
        assert time.monotonic() < deadline, run.living(group)
        time.sleep(0.1)


# --------------------------------------------------------------------------------------------------------- on a cluster

ONE_TASK = {"components": {"c": {}}, "root": {"dag": {"tasks": {"train-teacher": {"componentRef": {"name": "c"}}}}}}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["status", RUN_ID, "--wait"], 75),
        (["logs", RUN_ID, "--follow"], 130),
        (["submit", "--recipe", "smoke", "--image", "registry/cat:0.1.0", "--wait"], 75),
    ],
)
def test_ctrl_c_while_a_run_is_watched_says_that_it_goes_on(arguments: list[str], code: int) -> None:
    server = Endless(history=[("RUNNING", {"train-teacher": "Running"})])
    with kubeflow(server):
        if arguments[0] != "submit":
            server.runs.append({"run_id": RUN_ID, "display_name": "run", "pipeline_spec": ONE_TASK})
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", *arguments, "--host", server.host],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert server.watched.wait(60)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=30)
        server.released.set()
    assert (process.returncode, out) == (code, ""), said
    last = said.splitlines()[-1]
    assert last.startswith("interrupted: ")
    assert "run goes on" in last
    assert "Traceback" not in said


class Endless(KubeflowServer):
    """A server whose run goes on for days, and whose logs do not end."""

    def __init__(self, **state: Any) -> None:
        super().__init__(**state)
        self.watched, self.released = threading.Event(), threading.Event()

    def _get_run(self, run_id: str, **given: Any) -> tuple[int, Any]:
        self.watched.set()
        return super()._get_run(run_id, **given)

    def _found_log(self, run_id: str, place: str) -> str | None:
        self.watched.set()
        self.released.wait(60)
        return ""
