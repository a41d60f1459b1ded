"""Runs a pipeline on this machine with Kubeflow's own local runners: processes, or containers of an image.

The runner leaves global state behind and does not stop its children, so each run gets a process of its own with its own
process group. `run_locally` starts it, turns its log into a few readable lines, and stops the whole group when it is
interrupted. If `run_locally` is killed, the run's process stops the group.

A workspace folder keeps everything: `artifacts/` (one folder per run and task), `cache/` (the tasks that need no
second run), `checkpoints/` (of trainings) and `logs/`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from components.catlib.artifacts import check_replaceable, copy, read_manifest, replacing_folder, stamp
from components.catlib.code_digest import code_and_library_digest, code_digest
from components.catlib.config import Recipe
from components.catlib.credentials import without_credentials
from components.catlib.disk import number_in, writing_to
from components.catlib.errors import Interrupted, UserError
from components.catlib.exits import dying_with_parent, interrupt, on_stop
from components.catlib.memory import killed
from components.catlib.storage.settings import WAIT_VARIABLE
from components.catlib.training.upkeep import CHECKPOINTS_VARIABLE, variables
from components.kubeflow import refusal
from pipelines import workspaces
from pipelines.anew import marked
from pipelines.containers import check_image_code, docker_runner, stop_containers
from pipelines.failure import RunFailed
from pipelines.outputs import check_writable
from pipelines.tasks import stage_of

if TYPE_CHECKING:
    from pipelines.resources import Placement

STOP_SECONDS = 60.0
"""Time for interrupted stages to save their state before they are killed."""

NO_IMAGE = "none"
"""Stands for the image of tasks that run in processes. Kubeflow's key holds the image's name, and the real name changes
with every change of the code."""

_TASK_STARTED = re.compile(r"Executing task '([\w-]+)'")
_TASK_CACHED = re.compile(r"Task ([\w-]+) cache hit")
_TASK_ENDED = re.compile(r"Task '([\w-]+)' finished with status (\w+)")
_STAGE_LINE = re.compile(r"^\s*(\[[\w-]+\] .*)$")
_KILLED = "The task was killed by SIGKILL."
"""What a run's process prints of a task, since Kubeflow's runners tell only that it failed."""

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class RunLog:
    """The output of a run's process so far, read line by line.

    Attributes:
        say: Function that receives the lines worth showing.
    """

    say: Callable[[str], None]
    cached: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    killed: bool = False
    user_error: UserError | None = None
    interruption: str | None = None
    started: dict[str, float] = field(default_factory=dict)

    def read(self, raw: str) -> None:
        """Takes one line of the runner's output."""
        line = _ESCAPES.sub("", raw.rstrip("\n"))
        if found := _STAGE_LINE.match(line):
            self._read_stage_line(found.group(1))
        elif line.strip() == _KILLED:
            self.killed = True
        elif found := _TASK_CACHED.search(line):
            self.cached.append(found.group(1))
            self.say(f"{found.group(1)}: from the cache")
        elif found := _TASK_STARTED.search(line):
            self.started[found.group(1)] = time.monotonic()
            self.say(f"{found.group(1)}: started")
        elif found := _TASK_ENDED.search(line):
            task, status = found.groups()
            seconds = time.monotonic() - self.started.get(task, time.monotonic())
            (self.executed if status == "SUCCESS" else self.failed).append(task)
            self.say(f"{task}: {'done' if status == 'SUCCESS' else 'FAILED'} after {seconds:.1f} s")

    def _read_stage_line(self, line: str) -> None:
        _, _, message = line.partition("] ")
        if error := refusal(message):
            self.user_error = error
        elif message.startswith("INTERRUPTED: "):
            self.interruption = message.removeprefix("INTERRUPTED: ")
        else:
            self.say(line)


@dataclass(frozen=True)
class LocalRun:
    """A finished run.

    Attributes:
        output: Folder with `report.html` and a folder per student.
        artifact: The report's artifact in the workspace, with the same content.
        executed: Tasks that ran.
        cached: Tasks whose earlier results were used.
        seconds: Wall-clock time.
    """

    output: Path
    artifact: Path
    executed: list[str]
    cached: list[str]
    seconds: float


def run_locally(
    recipe: Recipe,
    *,
    origin: str,
    output: Path,
    workspace: Path,
    say: Callable[[str], None],
    pipeline: str = "compress",
    arguments: Mapping[str, Any] | None = None,
    image: str | None = None,
    anew: Mapping[str, str] = MappingProxyType({}),
) -> LocalRun:
    """Runs a pipeline on this machine and puts the report and the students into a folder.

    Args:
        recipe: The settings.
        origin: Where they come from, as `recipe_origin` names it.
        output: Folder for the results; results of an earlier run in it are replaced.
        workspace: Folder for artifacts, cache and logs of all runs.
        say: Function that receives progress lines.
        pipeline: Name of the pipeline.
        arguments: Values of its parameters; the others have the recipe's settings.
        image: Image in whose containers the stages run; None: they run in processes.
        anew: Marks of stages that run anew, by stage; see `pipelines.anew`.

    Raises:
        UserError: A stage refused its input or ran out of memory, `output` holds something else, or there is no such
            image.
        Interrupted: The run was interrupted; the same call resumes it.
        RunFailed: A stage failed.
    """
    check_output(output, workspace)
    if image:
        check_image_code(image)
    began = time.monotonic()
    name = f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    logs = workspace / "logs"
    request, answer, log_path = (logs / f"{name}.{end}" for end in ("request.json", "answer.json", "log"))
    asked = {
        "name": name,
        "recipe": recipe.model_dump(mode="json"),
        "pipeline": pipeline,
        "arguments": dict(arguments or {}),
        "workspace": str(workspace),
        "answer": str(answer),
        "image": image,
        "anew": dict(anew),
        "parent": os.getpid(),
    }
    log = RunLog(say)
    try:
        with _writing_to(workspace):
            logs.mkdir(parents=True, exist_ok=True)
            request.write_text(json.dumps(asked), encoding="utf-8")
        with _writing_to(workspace), workspaces.in_use(workspace):
            exit_code = _run_in_own_group([sys.executable, "-m", "pipelines.local", str(request)], log_path, log)
    finally:
        if image:
            stop_containers(name)
    if log.user_error is not None:
        raise log.user_error
    if log.interruption is not None:
        raise Interrupted(log.interruption)
    if exit_code != 0:
        raise _failure(log, log_path, workspace)
    deliverables = Path(json.loads(answer.read_text(encoding="utf-8"))["report"])
    read_manifest(deliverables, "report")
    check = functools.partial(_check_kind, output, workspace)
    with replacing_folder(output, what=f"Output {output}", check=check) as folder:
        copy(deliverables, folder)
        stamp(folder, _digest(origin))
    return LocalRun(output, deliverables, log.executed, log.cached, time.monotonic() - began)


def _run_in_own_group(command: list[str], log_path: Path, log: RunLog) -> int:
    """Runs a command in its own process group, and ends the whole group when this process is interrupted."""
    with (
        log_path.open("w", encoding="utf-8") as log_file,
        on_stop(interrupt),
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None

        def follow() -> None:
            """Reads the log until every process of the group has ended."""
            assert process.stdout is not None
            for line in process.stdout:
                log_file.write(line)
                log_file.flush()
                log.read(line)

        threading.Thread(target=_kill_the_rest, args=(process,), name="run", daemon=True).start()
        try:
            follow()
        except KeyboardInterrupt:
            log.say("interrupted: stopping the stages; press Ctrl-C again to kill them")
            raise _stop_group(process, log, follow) from None
        except BaseException:
            _signal_group(process.pid, signal.SIGKILL)
            raise
        return process.wait()


def _stop_group(process: subprocess.Popen[str], log: RunLog, follow: Callable[[], None]) -> Interrupted:
    """Asks the process group to stop, waits for it, then kills the rest; returns what the stages said."""
    killer = threading.Timer(STOP_SECONDS, _signal_group, [process.pid, signal.SIGKILL])
    killer.daemon = True
    killer.start()
    _signal_group(process.pid, signal.SIGTERM)
    try:
        follow()
    except KeyboardInterrupt:
        return Interrupted(
            "The stages were killed; the same command goes on from the last checkpoint, if there is one."
        )
    finally:
        killer.cancel()
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
    return Interrupted(log.interruption or "The run was interrupted; the same command resumes it.")


def _kill_the_rest(process: subprocess.Popen[str]) -> None:
    """Waits until a run's process has ended, and kills what is left of its group, which nobody watches any more."""
    process.wait()
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def own_folder(folder: Path, origin: str, say: Callable[[str], None]) -> Path:
    """Returns a folder for the results of a recipe, where no other recipe of the same name has its results.

    Args:
        folder: The folder to take unless it holds results of another recipe.
        origin: The recipe, as `recipe_origin` names it.
        say: Function that receives a line if another folder is taken.
    """
    try:
        there = read_manifest(folder, "report").request
    except UserError:
        return folder
    if there in ("", _digest(origin)):
        return folder
    own = folder.with_name(f"{folder.name}-{_digest(origin)[:6]}")
    say(f"{folder} holds results of another recipe of the same name; the results of {origin} go to {own}")
    return own


def _digest(origin: str) -> str:
    """Returns the mark that results bear of the recipe that they were made with."""
    return hashlib.sha256(f"recipe {origin}".encode()).hexdigest()


def check_output(output: Path, workspace: Path) -> None:
    """Refuses a place where a run could not leave its results (UserError)."""
    _check_kind(output, workspace)
    check_writable(output)


def _check_kind(output: Path, workspace: Path) -> None:
    """Refuses an output folder that holds something else than a run, or something that runs need."""
    check_replaceable(output, "report")
    own = [workspace, *(workspace / name for name in ("artifacts", "cache", "checkpoints", "logs"))]
    if output in own or output in workspace.parents or any(place in output.parents for place in own[1:]):
        raise UserError(
            f"Output {output} belongs to the workspace {workspace}, which it would replace; choose another."
        )


def _writing_to(workspace: Path) -> contextlib.AbstractContextManager[None]:
    return writing_to(workspace, what=f"Workspace {workspace}", advice="choose another folder with --workspace")


def _failure(log: RunLog, log_path: Path, workspace: Path) -> Exception:
    """Returns the error for a run that failed without a sentence from a stage."""
    lines = [_ESCAPES.sub("", line).strip() for line in log_path.read_text(encoding="utf-8").splitlines()]
    errors = [
        line for line in lines if re.match(r"[\w.]+(Error|Exception|Failed|Exit)\b", line) and "Inner task" not in line
    ]
    task = log.failed[0] if log.failed else "the run"
    if log.killed:
        return killed(stage_of(task), how=f"SIGKILL; full log: {log_path}")
    reason = f": {without_credentials(errors[0])}" if errors else ""
    number = next((number for line in errors if (number := number_in(line))), None)
    if number is not None:
        try:
            with _writing_to(workspace):
                raise OSError(number, os.strerror(number))
        except UserError as error:
            return error
    return RunFailed(f"{task} failed{reason} (full log: {log_path})")


def _placement(image: str | None, anew: Mapping[str, str]) -> Placement:
    """Returns the placement of tasks in an image or, without one, in processes: then libraries belong to the keys."""
    from pipelines.resources import Placement

    digest = code_digest if image else code_and_library_digest
    return Placement(image or NO_IMAGE, code_digest=marked(digest, anew))


def _tell_kills() -> None:
    """Makes Kubeflow's runners print `_KILLED` when a task's process, or the one in its container, was killed."""
    from kfp.local import docker_task_handler, subprocess_task_handler

    def telling(run: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(run)
        def told(*arguments: Any, **named: Any) -> int:
            code = run(*arguments, **named)
            if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
                print(_KILLED, flush=True)
            return code

        return told

    subprocess_task_handler.run_local_subprocess = telling(subprocess_task_handler.run_local_subprocess)
    docker_task_handler.run_docker_container = telling(docker_task_handler.run_docker_container)


def _run_request(request: Path) -> None:
    """Is the body of a run's own process: calls the pipeline with one of Kubeflow's local runners."""
    from kfp import local

    from pipelines.compiling import PIPELINES

    asked = json.loads(request.read_text(encoding="utf-8"))
    recipe = Recipe.model_validate(asked["recipe"])
    workspace = Path(asked["workspace"])
    checkpoints = workspace / "checkpoints"
    os.environ |= {CHECKPOINTS_VARIABLE: str(checkpoints), **variables(recipe.resources)}
    os.environ.setdefault(WAIT_VARIABLE, "0")  # somebody sits at the terminal
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    warnings.filterwarnings("ignore", module="kfp")
    _tell_kills()
    local.init(
        docker_runner(recipe, run=asked["name"], checkpoints=checkpoints)
        if asked["image"]
        else local.SubprocessRunner(use_venv=False),
        pipeline_root=str(workspace / "artifacts"),
        enable_caching=True,
        cache_root=str(workspace / "cache"),
    )
    pipeline = PIPELINES[asked["pipeline"]](recipe, _placement(asked["image"], asked["anew"]))
    with dying_with_parent(), on_stop(partial(_stop_stages, asked)):
        if os.getppid() != asked["parent"]:
            return
        finished: Any = pipeline(**asked["arguments"])
    Path(asked["answer"]).write_text(json.dumps({"report": finished.output.uri}), encoding="utf-8")


def _stop_stages(asked: Mapping[str, Any]) -> None:
    """Stops the stages of this process's run, which then ends too: after their last lines."""
    killer = threading.Timer(STOP_SECONDS, _signal_group, [os.getpgrp(), signal.SIGKILL])
    killer.daemon = True
    killer.start()
    _signal_group(os.getpgrp(), signal.SIGTERM)
    if asked["image"]:
        stop_containers(asked["name"])


if __name__ == "__main__":
    _run_request(Path(sys.argv[1]))
