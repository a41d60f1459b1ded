"""Local runs: the log that people read, and the whole pipeline on real images."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from components.catlib.artifacts import read_manifest
from components.catlib.code_digest import ROOT, code_and_library_digest, code_digest
from components.catlib.errors import UserError
from components.catlib.storage import Storage
from pipelines.__main__ import main
from pipelines.failure import RunFailed
from pipelines.local import NO_IMAGE, RunLog, _failure, _placement
from tests.canaries import CANARIES, found_in, watched_processes
from tests.components.opened import read_generator
from tests.object_stores import seaweed_server
from tests.small_disks import mounted

TASKS = {
    "prepare-dataset",
    "check-images",
    "measure-real-images",
    "train-teacher",
    "prune-teacher",
    "distill-student",
    "evaluate-student",
    "export-student",
    "write-report",
}


def test_the_log_says_what_ran_what_was_cached_and_what_went_wrong() -> None:
    said: list[str] = []
    log = RunLog(said.append)
    for line in (
        "Task prepare-dataset cache hit (key=0123456789ab); skipping execution.\n",
        "12:36:36.662 - INFO - Executing task \x1b[96m'train-teacher'\x1b[0m\n",
        "    [KFP Executor 2026-11-22 12:36:36,763 INFO]: Looking for component\n",
        "    [teacher] step 1/10\n",
        "    [teacher] ERROR: There is no folder /nowhere.\n",
        "12:36:36.781 - INFO - Task \x1b[96m'train-teacher'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m\n",
    ):
        log.read(line)
    assert (log.cached, log.executed, log.failed) == (["prepare-dataset"], [], ["train-teacher"])
    assert str(log.user_error) == "There is no folder /nowhere."
    assert said[:3] == ["prepare-dataset: from the cache", "train-teacher: started", "[teacher] step 1/10"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full: "),
        ("PermissionError: [Errno 30] Read-only file system: 'executor_output.json'", "the file system is read-only"),
    ],
)
def test_a_disk_that_kubeflow_itself_cannot_write_to_is_a_sentence(line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"Traceback (most recent call last):\n    {line}\n")
    error = _failure(RunLog(print, failed=["train-teacher"]), tmp_path / "log", tmp_path)
    assert isinstance(error, UserError)
    assert str(error).startswith(f"Workspace {tmp_path} cannot be written ({words}")
    assert str(error).endswith("choose another folder with --workspace.")
    (tmp_path / "log").write_text("    RuntimeError: something else\n")
    other = _failure(RunLog(print, failed=["train-teacher"]), tmp_path / "log", tmp_path)
    assert isinstance(other, RunFailed)
    assert "train-teacher failed: RuntimeError: something else" in str(other)


def run(
    workspace: Path, *further: str, output: Path | None = None, code: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", "run", "--recipe", "smoke", "--workspace", str(workspace), "--json"]
    target = ["--output", str(output)] if output else []
    secrets = {name: secret for name, secret in CANARIES.items() if name != "NETRC"}
    return subprocess.run(
        [*command, *target, *further],
        cwd=code,
        env={**os.environ, **secrets, "CAT_WEB_HOST": "pictures.invalid", "PYTHONPATH": str(code), **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_a_wrong_web_address_is_not_waited_for_though_a_task_finds_it(tmp_path: Path) -> None:
    began = time.monotonic()
    finished = run(tmp_path, "--set", "dataset.source=http://127.0.0.1:1/a.zip", output=tmp_path / "out")
    assert finished.returncode == 2
    assert "did not answer for 3 s (downloading http://127.0.0.1:1/a.zip" in finished.stderr.splitlines()[-1]
    assert time.monotonic() - began < 60


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def first_run(workspace: Path) -> dict:
    with watched_processes() as seen:
        finished = run(workspace, "--budget", "0.5x", "0.3x")
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout.splitlines()[-1])
    return told | {"printed": finished.stdout + finished.stderr, "processes": sorted(seen)}


def test_a_run_leaves_no_secret_of_its_environment(first_run: dict, workspace: Path) -> None:
    assert any("kfp" in command for command in first_run["processes"]), "the processes of stages were watched"
    assert found_in([first_run["printed"], *first_run["processes"]]) == []
    assert found_in(workspace) == []


def test_a_run_delivers_a_report_and_a_student_per_budget(first_run: dict) -> None:
    output = Path(first_run["output"])
    assert set(first_run["executed"]) == TASKS
    assert first_run["cached"] == []
    assert read_manifest(output, "report").kind == "report"
    assert (output / "report.html").stat().st_size > 10_000
    macs = []
    for student in sorted(output.rglob("model.onnx")):
        metrics = json.loads((student.parent / "metrics.json").read_text())
        macs.append(metrics["student"]["paper_macs"] / metrics["teacher"]["paper_macs"])
    assert len(macs) == 2
    assert 0.1 < min(macs) <= 0.3 < max(macs) <= 0.5


def test_an_unchanged_run_comes_from_the_cache(first_run: dict, workspace: Path, tmp_path: Path) -> None:
    """How often to save and to log is no part of what a cache knows."""
    upkeep = ["resources.log_seconds=3", "resources.checkpoint_seconds=70", "resources.keep_checkpoints=4"]
    changes = [word for change in upkeep for word in ("--set", change)]
    again = run(workspace, "--budget", "0.5x", "0.3x", *changes, output=tmp_path / "again")
    assert again.returncode == 0, again.stderr
    answer = json.loads(again.stdout.splitlines()[-1])
    assert answer["executed"] == []
    assert set(answer["cached"]) == TASKS
    assert "train-teacher: from the cache" in again.stderr
    assert (tmp_path / "again" / "report.html").read_bytes() == Path(first_run["report"]).read_bytes()


def test_a_dry_run_says_what_would_come_from_the_cache(
    first_run: dict, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(workspace.rglob("*"))

    def told(*more: str) -> tuple[Counter[str], Counter[str]]:
        assert main(["validate", "--recipe", "smoke", "--workspace", str(workspace), "--json", *more]) == 0
        answer = json.loads(capsys.readouterr().out.splitlines()[-1])
        return Counter(answer["cached"]), Counter(answer["executed"])

    of_a_student = ("prune-teacher", "distill-student", "evaluate-student", "export-student")
    once = ("prepare-dataset", "measure-real-images", "train-teacher", "check-images")
    cached, executed = told("--budget", "0.5x", "0.3x")
    assert cached == Counter([*once, *of_a_student, *of_a_student, "write-report"])
    assert not executed
    cached, executed = told("--budget", "0.5x", "0.4x")
    assert cached == Counter([*once, *of_a_student])
    assert executed == Counter([*of_a_student, "write-report"])
    cached, executed = told("--budget", "0.3x", "--set", "teacher.epochs=2")
    assert cached == Counter(once[:2])
    assert executed == Counter(["train-teacher", "check-images", *of_a_student, "write-report"])
    assert sorted(workspace.rglob("*")) == before, "a dry run writes nothing"


def test_the_last_task_publishes_every_student_to_a_folder_or_a_bucket(
    first_run: dict, workspace: Path, tmp_path: Path
) -> None:
    budgets = ["--budget", "0.5x", "0.3x", "--set", "publish.version=1.0"]
    with seaweed_server(tmp_path) as store:
        store_keys = {**store.environment, "AWS_SESSION_TOKEN": ""}
        Storage(store.environment).make_bucket("s3://cat")
        for to in (str(tmp_path / "models" / "small"), "s3://cat/models/small"):
            again = run(workspace, *budgets, "--set", f"publish.to={to}", output=tmp_path / "out", **store_keys)
            assert answer_of(again)["executed"] == ["publish-students"]
        there = Storage(store.environment)
        for version in ("1.0-0.5x", "1.0-0.3x"):
            files = set(there.file_names(f"s3://cat/models/small/{version}"))
            assert {"manifest.json", "model_card.json", "model.onnx"} <= files
            here = read_manifest(tmp_path / "models" / "small" / version, "publish")
            assert set(here.files) | {"manifest.json"} == files
    away = run(workspace, *budgets, "--set", "publish.to=s3://cat/models/small", output=tmp_path / "out",
               **store_keys)  # fmt: skip
    assert away.returncode == 2  # it has never answered: the address may be wrong
    assert away.stderr.splitlines()[-1].startswith("error: publish.to s3://cat/models/small: The object store at ")


def test_a_stage_runs_anew_on_request(first_run: dict, workspace: Path, tmp_path: Path) -> None:
    answer = answer_of(run(workspace, "--budget", "0.3x", "--no-cache", "evaluate-student", output=tmp_path / "out"))
    assert Counter(answer["executed"]) == {"evaluate-student": 1, "write-report": 1}
    assert set(answer["cached"]) == TASKS - set(answer["executed"])


def test_trainings_that_end_later_go_on_where_they_ended(first_run: dict, workspace: Path, tmp_path: Path) -> None:
    """Their results are others to the cache, but nothing is trained again, and the log follows the recipe."""
    limits = ["--set", "teacher.time_limit_seconds=9000", "--set", "distill.time_limit_seconds=9000"]
    again = run(workspace, "--budget", "0.3x", *limits, output=tmp_path / "again")
    answer = answer_of(again)
    assert {"train-teacher", "distill-student"} <= set(answer["executed"])
    for stage in ("teacher", "distill"):
        said = [line for line in again.stderr.splitlines() if line.startswith(f"[{stage}] ")]
        assert any("resumed from the checkpoint of step" in line for line in said)
        assert not any(" images/s " in line for line in said), "a step was taken"
    trained = {path.parent.name for path in (workspace / "checkpoints").glob("*/*")}
    assert len([name for name in trained if name.startswith("teacher-")]) == 1


def test_a_workspace_or_an_output_without_room_is_a_sentence(first_run: dict, workspace: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=16k"):
        refused = run(tmp_path / "disk" / "w")
        assert refused.returncode == 2, refused.stderr
        assert "are free" in refused.stderr.splitlines()[-1]
        assert "make room there" in refused.stderr.splitlines()[-1]
        shutil.rmtree(tmp_path / "disk" / "w")
        refused = run(workspace, "--budget", "0.5x", "0.3x", output=tmp_path / "disk" / "out")
        assert refused.returncode == 2, refused.stderr
        words = f"error: Output {tmp_path}/disk/out cannot be written (the disk is full: "
        assert refused.stderr.splitlines()[-1].startswith(words)
        assert list((tmp_path / "disk").iterdir()) == []
    assert first_run["executed"], "its results stay in the workspace"


def test_a_blank_line_in_the_style_of_the_report_makes_only_the_report_anew(
    first_run: dict, workspace: Path, tmp_path: Path
) -> None:
    for package in ("components", "pipelines"):
        shutil.copytree(ROOT / package, tmp_path / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("components/catlib/reporting/report.css", "components/kubeflow.py", "pipelines/cluster.py"):
        with (tmp_path / "code" / file).open("ab") as stream:
            stream.write(b"\n")
    again = run(workspace, "--budget", "0.5x", "0.3x", output=tmp_path / "again", code=tmp_path / "code")
    answer = answer_of(again)
    assert answer["executed"] == ["write-report"]
    assert set(answer["cached"]) == TASKS - {"write-report"}


def test_a_stages_refusal_reaches_the_user(workspace: Path, tmp_path: Path) -> None:
    refused = run(workspace, "--set", "dataset.source=/no/such/folder", output=tmp_path / "refused")
    assert refused.returncode == 2
    assert refused.stdout == ""
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "/no/such/folder" in last
    assert not (tmp_path / "refused").exists()


def test_an_interrupted_run_leaves_no_child(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines", "run", "--recipe", "smoke", "--workspace", str(tmp_path)]

    def heed_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a suite in the background ignores it, and its children with it

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("prepare-dataset: started"):
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 75, rest
    assert "interrupted: " in rest
    assert _processes_that_mention(str(tmp_path)) == []


def _processes_that_mention(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if text in command:
                found.append(command)
    return found


# --------------------------------------------------------------------------------------------------- further pipelines


def artifact(workspace: Path, kind: str) -> Path:
    """An artifact of the first run."""
    manifests = sorted(workspace.glob("artifacts/compress-*/**/manifest.json"), key=lambda path: path.stat().st_mtime)
    return next(path.parent for path in manifests if json.loads(path.read_text())["kind"] == kind)


def answer_of(finished: subprocess.CompletedProcess[str]) -> dict:
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.parametrize("with_teacher", [True, False])
def test_evaluate_only_scores_earlier_models(
    with_teacher: bool, first_run: dict, workspace: Path, tmp_path: Path
) -> None:
    arguments = ["--pipeline", "evaluate-only", "--argument", f"students=[{artifact(workspace, 'distill')}]"]
    if with_teacher:
        arguments += ["--argument", f"teacher={artifact(workspace, 'teacher')}"]
    answer_of(run(workspace, *arguments, output=tmp_path / "out"))
    (metrics,) = (tmp_path / "out").rglob("metrics.json")
    assert (json.loads(metrics.read_text())["teacher"] is not None) == with_teacher


def test_a_sweep_shares_the_teacher_and_what_was_made_before(first_run: dict, workspace: Path, tmp_path: Path) -> None:
    variations = "variations=[{distiller: {weight: 0}}, {}]"  # the second is the first run's own distillation
    arguments = ["--pipeline", "sweep", "--budget", "0.3x", "--argument", variations, "--argument", "seeds=[0]"]
    answer = answer_of(run(workspace, *arguments, output=tmp_path / "out"))
    for task in ("prepare-dataset", "measure-real-images", "train-teacher", "prune-teacher"):
        assert task in answer["cached"]
        assert task not in answer["executed"]
    for task in ("distill-student", "evaluate-student", "export-student"):
        assert (answer["executed"].count(task), answer["cached"].count(task)) == (1, 1)
    assert len(list((tmp_path / "out").rglob("model.onnx"))) == 2


def test_distill_only_takes_a_published_teacher(first_run: dict, workspace: Path, tmp_path: Path) -> None:
    """Kubeflow's cache must know another file at the same address for another."""
    published = tmp_path / "latest_net_G.pth"
    generator = read_generator(artifact(workspace, "teacher"), "source_to_target")
    torch.save({f"module.{name}": tensor for name, tensor in generator.state_dict().items()}, published)
    arguments = ["--pipeline", "distill-only", "--argument", f"teacher={published}"]
    finished = run(workspace, *arguments, output=tmp_path / "out")
    answer = answer_of(finished)
    assert set(answer["cached"]) == {"prepare-dataset", "measure-real-images"}
    assert set(answer["executed"]) == TASKS - {"train-teacher", *answer["cached"]} | {"fetch-teacher"}
    assert f"no published discriminator is given with {published}: a fresh one is used" in finished.stderr
    (metrics,) = (tmp_path / "out").rglob("metrics.json")
    ours = json.loads(metrics.read_text())["teacher"]
    (first, *_) = Path(first_run["output"]).rglob("metrics.json")
    theirs = json.loads(first.read_text())["teacher"]
    same = ("paper_macs", "parameters", "l1", "frechet_random_features")
    assert [ours[name] for name in same] == [theirs[name] for name in same]

    published.write_bytes(b"no state dict")
    refused = run(workspace, *arguments, output=tmp_path / "refused")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"error: {published} is not a PyTorch file")


def test_figures_bear_the_same_names_in_every_run(first_run: dict, workspace: Path) -> None:
    """Else Kubeflow's comparison of runs would put nothing side by side."""
    names: dict[str, list[set[str]]] = {}
    for file in workspace.glob("artifacts/*/**/metrics"):
        # In evaluate-only the teacher may be missing, and of what was fetched there may be no figures.
        if "evaluate-only" not in str(file) and not file.parent.name.startswith("fetch-"):
            names.setdefault(file.parent.name, []).append(set(json.loads(file.read_text())))
    assert set(names) >= TASKS - {"check-images"}, "which measures nothing"
    assert len(names["distill-student"]) >= 2
    for task, found in names.items():
        assert found[0], task
        assert all(each == found[0] for each in found), task


def test_libraries_belong_to_the_keys_of_runs_without_an_image_alone() -> None:
    assert _placement(None, {}).code_digest("teacher") == code_and_library_digest("teacher")
    assert _placement(None, {}).image == NO_IMAGE
    assert _placement("cat:1", {}).code_digest("teacher") == code_digest("teacher")
    assert _placement("cat:1", {}).image == "cat:1"
