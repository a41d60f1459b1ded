"""A task that was refused is not worked on again: its next attempt passes the sentence on."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.__main__ import main
from components.attempts import Attempt
from components.catlib.code_digest import ROOT, code_digest
from components.catlib.errors import OutOfMemory, Unavailable, UserError
from components.catlib.storage import Storage, open_store
from components.kubeflow import stage_process
from pipelines import compile_recipe
from pipelines.collectable import REFUSAL_FILE
from tests.object_stores import SeaweedServer, seaweed_server

RUN = "e1eb44c0-731d-4cbf-b9e5-13bafc072141"


def executor_input(task: str = "prepare-dataset", own: str = "8ab89bcd", folder: str = "minio://cat/artifacts") -> str:
    """What the driver hands to a task, as it was recorded."""
    root = f"{folder}/compress/{RUN}/{task}/{own}"
    named = {
        "dataset": "system.Dataset",
        "metrics": "system.Metrics",
        "summary": "system.Markdown",
        "page": "system.HTML",
    }
    artifacts = {
        name: {"artifacts": [{"name": name, "type": {"schemaTitle": kind}, "uri": f"{root}/{name}"}]}
        for name, kind in {"executor-logs": "system.Artifact", **named}.items()
    }
    outputs = {"artifacts": artifacts, "outputFile": f"{root}/executor_output.json"}
    return json.dumps({"inputs": {"parameterValues": {}}, "outputs": outputs})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAT_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setattr("components.attempts.PATIENCE_SECONDS", 0.2)
    return tmp_path / "checkpoints"


class Ended(Exception):
    """Something that is no refusal."""


def attempt(
    monkeypatch: pytest.MonkeyPatch, number: int | None, error: Exception | None, given: str | None = None
) -> tuple[int, bool]:
    """Runs one attempt of a stage that ends with an error; returns its exit code, and whether the stage ran at all."""
    if number is None:
        monkeypatch.delenv("KFP_RETRY_INDEX", raising=False)
    else:
        monkeypatch.setenv("KFP_RETRY_INDEX", str(number))
    monkeypatch.setattr(
        sys, "argv", ["executor_main.py", "--executor_input", given or executor_input(), "--function_to_execute", "f"]
    )
    ran = False
    try:
        with stage_process("dataset", code_digest("dataset")):
            ran = True
            if error is not None:
                raise error
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code, ran
    except Ended:
        return 1, ran
    return 0, ran


REFUSED = UserError("There are no images in /data: give a folder with images.")


def test_the_next_attempts_pass_the_refusal_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attempt(monkeypatch, 0, REFUSED) == (2, True)
    line = f"[dataset] ERROR: {REFUSED}"
    assert capsys.readouterr().err.splitlines() == [line]
    for number in (1, 2):
        assert attempt(monkeypatch, number, None) == (2, False)
        assert capsys.readouterr().err.splitlines()[-1] == line
    assert [path.name for path in (place / "refused").iterdir()] == [f"{RUN}.prepare-dataset.8ab89bcd.json"]


def test_code_that_the_image_lacks_is_refused_once(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["executor_main.py", "--executor_input", executor_input()])
    said = []
    for number in range(2):
        monkeypatch.setenv("KFP_RETRY_INDEX", str(number))
        with pytest.raises(SystemExit), stage_process("dataset", "0123456789ab"):
            pass
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert said[0] == said[1]
    assert len(list(place.rglob("*.json"))) == 1


@pytest.mark.parametrize("of_torch", [False, True])
def test_memory_that_ran_out_is_not_tried_again(place: Path, of_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt ends with the same sentence and exit code, and its stage does not run."""
    error = RuntimeError("CUDA out of memory.") if of_torch else OutOfMemory("No memory.")
    assert attempt(monkeypatch, 0, error) == (1, True)
    assert attempt(monkeypatch, 1, None) == (1, False)
    assert attempt(monkeypatch, 2, None) == (1, False)
    assert attempt(monkeypatch, 0, None) == (0, True), "a task that somebody starts again runs"


@pytest.mark.parametrize("error", [Unavailable("The store is away."), Ended(), None])
def test_only_refusals_are_passed_on(place: Path, error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt(monkeypatch, 0, error)
    assert attempt(monkeypatch, 1, None) == (0, True)
    assert not list(place.rglob("*.json"))


@pytest.mark.parametrize("other", [executor_input(own="ffffffff"), executor_input(task="distill-student")])
def test_another_task_runs(place: Path, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Iterations of a loop share the task's name."""
    attempt(monkeypatch, 0, REFUSED)
    assert attempt(monkeypatch, 1, None, other) == (0, True)
    assert attempt(monkeypatch, 1, None) == (2, False)


def test_a_run_that_is_retried_in_the_interface_begins_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tasks keep their addresses, and count their attempts from 0 again."""
    attempt(monkeypatch, 0, REFUSED)
    assert attempt(monkeypatch, 0, Ended()) == (1, True)
    assert attempt(monkeypatch, 1, None) == (0, True)
    assert not list(place.rglob("*.json"))


@pytest.mark.parametrize(
    ("number", "checkpoints", "given"),
    [
        (None, "states", executor_input()),
        (0, "", executor_input()),
        (0, "states", "{}"),
        (0, "states", "no JSON"),
        (0, "states", '{"outputs": {"artifacts": {}}}'),
        (0, "states", '{"outputs": {"artifacts": {"a": {"artifacts": [{"uri": "a"}]}}}}'),
    ],
)
def test_outside_of_pods_and_without_a_place_nothing_is_left(
    number: int | None, checkpoints: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAT_CHECKPOINTS", checkpoints)
    assert attempt(monkeypatch, number, REFUSED, given) == (2, True)
    assert Attempt.current() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["s3://cat/checkpoints", "ftp://nowhere", "/proc/nowhere"])
def test_a_place_that_cannot_be_used_changes_nothing(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CAT_CHECKPOINTS", address)
    for number in (0, 1):
        assert attempt(monkeypatch, number, REFUSED) == (2, True)
        assert capsys.readouterr().err.splitlines()[-1] == f"[dataset] ERROR: {REFUSED}"
    assert attempt(monkeypatch, 1, None) == (0, True)


@pytest.mark.parametrize("damaged", [b"", b"[]", b"{}", b"\xff"])
def test_a_damaged_note_refuses_nothing(place: Path, damaged: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(str(place)).write(f"refused/{RUN}.prepare-dataset.8ab89bcd.json", damaged)
    assert attempt(monkeypatch, 1, None) == (0, True)


def test_attempts_of_a_trainjob_pass_the_refusal_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All attempts of a Job share its UID and have no number; `torchrun` ends with 1 for everything."""
    inputs = ["--dataset", str(tmp_path / "none"), "--real-stats", str(tmp_path / "none")]
    command = ["teacher", "--recipe", "smoke", *inputs, "--output", str(tmp_path / "teacher")]
    monkeypatch.setenv("CAT_JOB_UID", "6f619e50-cc37")
    assert main(command) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path / "none") in sentence
    (note,) = (place / "refused").iterdir()
    assert REFUSAL_FILE.fullmatch(f"refused/{note.name}"), "`gc` knows it"
    (tmp_path / "none").mkdir()  # were it worked on again, it would be refused for another reason
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-2:] == ["[teacher] an earlier attempt was refused, and this one would be", sentence]
    monkeypatch.setenv("CAT_JOB_UID", "a-new-job")
    assert main(command) == 2
    assert capsys.readouterr().err.splitlines()[-1] != sentence
    monkeypatch.delenv("CAT_JOB_UID")
    assert Attempt.of_job("teacher") is None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SeaweedServer]:
    with seaweed_server(tmp_path / "store") as server:
        Storage(server.environment).make_bucket("s3://cat")
        yield server


def test_attempts_of_a_compiled_task_in_processes_of_their_own(server: SeaweedServer, tmp_path: Path) -> None:
    """As in pods: Kubeflow's own executor, the compiled command, the state in a store."""
    compiled = compile_recipe("smoke", overrides=["resources.checkpoints=s3://cat/checkpoints"])
    container: dict[str, Any] = compiled.spec["deploymentSpec"]["executors"]["exec-prepare-dataset"]["container"]
    given = json.loads(executor_input(folder=str(tmp_path)))
    nowhere = tmp_path / "nowhere"
    given["inputs"]["parameterValues"] = {
        "config": {},
        "source": str(nowhere),
        "code_digest": code_digest("dataset"),
        "source_version": "",
    }
    command = [*container["command"], *container["args"]]
    command = [part.replace("{{$}}", json.dumps(given)) for part in command]
    ends = []
    for number in range(2):
        environment = os.environ | server.environment | {
            "CAT_CHECKPOINTS": "s3://cat/checkpoints", "KFP_RETRY_INDEX": str(number), "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # the command calls python3
        }  # fmt: skip
        ends.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=False))
        nowhere.mkdir(exist_ok=True)  # were it worked on again, it would be refused for another reason
    lines = [[line for line in end.stderr.splitlines() if line.startswith("[dataset] ")] for end in ends]
    assert [end.returncode for end in ends] == [2, 2], ends
    assert lines[0][-1].startswith("[dataset] ERROR: ")
    assert str(nowhere) in lines[0][-1]
    assert lines[1] == ["[dataset] an earlier attempt was refused, and this one would be", lines[0][-1]]


def test_the_root_logger_is_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = logging.getLogger().handlers[:]
    attempt(monkeypatch, 0, REFUSED)
    attempt(monkeypatch, 1, None)
    assert logging.getLogger().handlers == before
