"""What `du` and `gc` find, remove and leave, in workspaces and among downloads."""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp import dsl
from kfp.local.cache import LocalCache

from components.catlib.artifacts import Manifest, read_manifest, writing
from components.catlib.config import PruneConfig
from components.catlib.errors import Interrupted, UserError
from components.catlib.recipes import load_recipe
from components.catlib.storage.cache import Cache
from components.catlib.training.checkpoints import Checkpoints, open_checkpoints
from pipelines import local, workspaces
from pipelines.__main__ import main
from pipelines.collectable import Made, age_text, last_uses, parse_age, size_text

OLD_RUN, NEW_RUN = "compress-2026-01-01-00-00-00-000001", "compress-2026-02-01-00-00-00-000001"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "downloads"))
    (tmp_path / "runs" / "logs").mkdir(parents=True)
    return tmp_path / "runs"


def aged(path: Path, days: float) -> Path:
    """Makes a file, or a folder with all that it holds, as old as that."""
    moment = time.time() - days * 86400
    for each in [path, *path.rglob("*")]:
        os.utime(each, (moment, moment), follow_symlinks=False)
    return path


def artifact(folder: Path, kind: str, inputs: Mapping[str, Manifest], *, days: float, content: str = "") -> Manifest:
    with writing(folder, kind=kind, config=PruneConfig(), inputs=dict(inputs)) as writer:
        (writer.folder / "content").write_text(content or str(folder))
    aged(folder, days)
    return read_manifest(folder)


def task(workspace: Path, run: str, name: str, kind: str, inputs: Mapping[str, Manifest], *, days: float) -> Manifest:
    """Leaves what a task of a run leaves: its artifact, its metrics, its entry in Kubeflow's cache."""
    folder = workspace / "artifacts" / run / name
    manifest = artifact(folder / kind, kind, inputs, days=days)
    (folder / "metrics").write_text("{}")
    aged(folder, days)
    outputs = {kind: dsl.Artifact(name=kind, uri=str(folder / kind))}
    LocalCache(str(workspace / "cache")).put(key(run, name), outputs)
    return manifest


def key(run: str, name: str) -> str:
    return f"{run}-{name}".replace("/", "-")


def hits(workspace: Path, run: str, name: str) -> bool:
    """Whether Kubeflow's own cache has that task."""
    return LocalCache(str(workspace / "cache")).get(key(run, name)) is not None


def history(workspace: Path, *, student_days: float) -> None:
    """A dataset and a teacher of 90 days, a run of then, and a later student of the same teacher."""
    dataset = task(workspace, OLD_RUN, "prepare-dataset", "dataset", {}, days=90)
    teacher = task(workspace, OLD_RUN, "train-teacher", "teacher", {"dataset": dataset}, days=90)
    task(workspace, OLD_RUN, "for-loop-1-iteration-0/distill-student", "distill", {"teacher": teacher}, days=90)
    task(
        workspace, NEW_RUN, "for-loop-1-iteration-0/distill-student", "distill", {"teacher": teacher}, days=student_days
    )


def there(workspace: Path) -> set[str]:
    """The tasks whose artifacts are there."""
    return {path.parents[1].name for path in (workspace / "artifacts").rglob("manifest.json")}


def gc(workspace: Path, capsys: pytest.CaptureFixture[str], *further: str, exit_code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["gc", "--workspace", str(workspace), "--json", *further]) == exit_code
    return json.loads(capsys.readouterr().out)


def addresses(answer: dict[str, Any], kind: str) -> list[str]:
    return sorted(each["address"] for each in answer["things"] if each["kind"] == kind)


# ----------------------------------------------------------------------------------------------------------- artifacts


def test_without_delete_everything_stays_and_is_listed(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history(workspace, student_days=80)
    before = sorted(workspace.rglob("*"))
    answer = gc(workspace, capsys)
    artifacts = workspace / "artifacts"
    assert addresses(answer, "artifacts") == [str(artifacts / OLD_RUN), str(artifacts / NEW_RUN)]
    assert answer["deleted"] is False
    assert answer["bytes"] == sum(each["bytes"] for each in answer["things"]) > 0
    assert {round(each["days"]) for each in answer["things"]} == {80}
    assert sorted(path for path in workspace.rglob("*") if path.name != workspaces.LOCK) == before
    assert main(["gc", "--workspace", str(workspace)]) == 0
    said = capsys.readouterr().out
    assert f"80 d   {artifacts / OLD_RUN}" in said
    assert "--delete removes it" in said


def test_old_runs_go_whole_with_their_entries_in_the_cache(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history(workspace, student_days=80)
    assert hits(workspace, OLD_RUN, "train-teacher")
    answer = gc(workspace, capsys, "--delete")
    assert len(answer["things"]) == 2
    assert there(workspace) == set()
    assert list((workspace / "artifacts").iterdir()) == []
    assert list((workspace / "cache").glob("*.json")) == []


def test_what_something_young_was_made_from_stays(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history(workspace, student_days=1)
    answer = gc(workspace, capsys, "--delete")
    (gone,) = addresses(answer, "artifacts")
    assert gone.endswith(f"{OLD_RUN}/for-loop-1-iteration-0/distill-student")
    assert hits(workspace, OLD_RUN, "prepare-dataset")
    assert hits(workspace, OLD_RUN, "train-teacher")
    assert hits(workspace, NEW_RUN, "for-loop-1-iteration-0/distill-student")
    assert not hits(workspace, OLD_RUN, "for-loop-1-iteration-0/distill-student")
    assert not (workspace / "artifacts" / OLD_RUN / "for-loop-1-iteration-0").exists(), "no empty folder is left"


def test_results_and_what_they_were_made_from_stay(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history(workspace, student_days=80)
    student = read_manifest(workspace / "artifacts" / NEW_RUN / "for-loop-1-iteration-0/distill-student/distill")
    artifact(workspace / "smoke", "report", {"distill 0.1x": student}, days=80)
    answer = gc(workspace, capsys, "--older-than", "2w", "--delete")
    (gone,) = addresses(answer, "artifacts")
    assert gone.endswith(f"{OLD_RUN}/for-loop-1-iteration-0/distill-student")
    assert (workspace / "smoke" / "manifest.json").is_file()
    assert {each["reason"] for each in answer["kept"] if each["kind"] == "artifacts"} == {"results come from them"}


def test_a_run_that_came_from_the_cache_used_what_it_took(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history(workspace, student_days=80)
    student = read_manifest(workspace / "artifacts" / NEW_RUN / "for-loop-1-iteration-0/distill-student/distill")
    task(workspace, NEW_RUN, "write-report", "report", {"distill 0.1x": student}, days=80)
    answered = workspace / "logs" / "smoke-20260301-000000-7.answer.json"
    answered.write_text(json.dumps({"report": str(workspace / "artifacts" / NEW_RUN / "write-report" / "report")}))
    gc(workspace, capsys, "--delete")
    assert there(workspace) == {"prepare-dataset", "train-teacher", "distill-student", "write-report"}
    assert not hits(workspace, OLD_RUN, "for-loop-1-iteration-0/distill-student")
    aged(answered, 40)
    gc(workspace, capsys, "--delete")
    assert there(workspace) == set()


def test_foreign_folders_stay(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact(workspace / "artifacts" / "mine" / "task" / "out", "teacher", {}, days=90)
    (workspace / "notes").mkdir()
    aged(workspace / "notes", 90)
    assert gc(workspace, capsys, "--delete")["things"] == []
    assert (workspace / "notes").is_dir()
    assert there(workspace) == {"task"}


def test_while_a_run_is_running_what_it_may_use_stays(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history(workspace, student_days=80)
    place = checkpoint_place(workspace, days=80)
    with workspaces.in_use(workspace), workspaces.in_use(workspace):
        answer = gc(workspace, capsys, "--delete")
    assert {each["reason"] for each in answer["kept"] if each["kind"] == "artifacts"} == {"a run is running there"}
    assert there(workspace) == {"prepare-dataset", "train-teacher", "distill-student"}
    assert addresses(answer, "checkpoints") == [str(place)]
    gc(workspace, capsys, "--delete")
    assert there(workspace) == set()


def test_a_run_holds_its_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def look(*_: object) -> int:
        with workspaces.out_of_use(workspace) as free:
            found.append(free)
        raise Interrupted("stop here")

    monkeypatch.setattr(local, "_run_in_own_group", look)
    with pytest.raises(Interrupted):
        local.run_locally(
            load_recipe("smoke"), origin="smoke", output=workspace / "smoke", workspace=workspace, say=print
        )
    assert found == [False]
    with workspaces.out_of_use(workspace) as free:
        assert free


def test_what_changes_while_it_is_collected_stays(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history(workspace, student_days=80)
    things = workspaces.things_in_workspace(workspace, time.time())
    changed = workspace / "artifacts" / NEW_RUN / "for-loop-1-iteration-0/distill-student/distill/content"
    os.utime(changed)
    (thing,) = [each for each in things if each.address.endswith(NEW_RUN)]
    with pytest.raises(workspaces.InUse, match="changed since"):
        thing.remove()
    assert changed.is_file()


@pytest.mark.parametrize("as_json", [True, False])
def test_a_failure_is_said_the_rest_goes_on_and_the_exit_code_is_1(
    as_json: bool, workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    history(workspace, student_days=80)
    rename = Path.rename

    def stuck(self: Path, target: Path) -> Path:
        if self.name == OLD_RUN:
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stuck)
    assert main(["gc", "--workspace", str(workspace), "--delete", *(["--json"] if as_json else [])]) == 1
    said = capsys.readouterr().out
    assert "Permission denied" in said
    if as_json:
        answer = json.loads(said)
        assert [each["address"] for each in answer["failed"]] == [str(workspace / "artifacts" / OLD_RUN)]
        assert addresses(answer, "artifacts") == [str(workspace / "artifacts" / NEW_RUN)]
    assert (workspace / "artifacts" / OLD_RUN).is_dir()
    assert not (workspace / "artifacts" / NEW_RUN).exists()


# --------------------------------------------------------------------------------------------------------- checkpoints


def checkpoint_place(workspace: Path, *, days: float, name: str = "teacher-0123456789abcdef/1+1") -> Path:
    place = workspace / "checkpoints" / name
    with Checkpoints(open_checkpoints(str(place)), origin={"stage": "teacher"}) as checkpoints:
        checkpoints.save(10, {"step": 10})
    (place / "owner-000001.json").write_text("{}")
    (place / "owner-000001.lock").write_text("")
    return aged(place, days)


def test_old_checkpoints_go_whole(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, young = (checkpoint_place(workspace, days=days, name=f"teacher-{days}/1+1") for days in (31, 29))
    assert addresses(gc(workspace, capsys), "checkpoints") == [str(old)]
    assert old.is_dir()
    gc(workspace, capsys, "--delete")
    assert not old.parent.exists()
    assert len(list(young.iterdir())) == 4


@pytest.mark.parametrize("name", ["step-000000010.pt", "owner-000001.json", "step-000000020.000002-1a2b3c4d.pt"])
def test_a_place_with_one_young_file_stays_whole(
    name: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = checkpoint_place(workspace, days=90)
    (place / name).write_text("young")
    before = sorted(place.iterdir())
    assert gc(workspace, capsys, "--delete")["things"] == []
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("days", [90, 0.02])
def test_a_place_that_a_process_owns_stays_however_old(
    days: float, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = checkpoint_place(workspace, days=days)
    with (place / "owner-000001.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = gc(workspace, capsys, "--delete", "--older-than", "0d")
        assert answer["things"] == []
        assert "a training owns them" in {each["reason"] for each in answer["kept"]}
    assert place.is_dir()
    gc(workspace, capsys, "--delete", "--older-than", "0d")
    assert place.is_dir() == (days < 1), "what changed within the last hour stays in any case"


def test_a_folder_with_something_else_is_no_place_of_checkpoints(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = checkpoint_place(workspace, days=90)
    (place / "notes.txt").write_text("mine")
    aged(place, 90)
    assert gc(workspace, capsys, "--delete")["things"] == []
    assert (place / "notes.txt").is_file()


# --------------------------------------------------------------------------------- logs, leftovers, the cache's rest


def test_old_logs_go_together_and_foreign_files_stay(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("log", "request.json", "answer.json"):
        aged_file(workspace / "logs" / f"smoke-20260101-000000-7.{name}", 40)
        aged_file(workspace / "logs" / f"smoke-20260101-000000-8.{name}", 40 if name == "log" else 1)
    aged_file(workspace / "logs" / "mine.log", 40)
    answer = gc(workspace, capsys, "--delete")
    assert addresses(answer, "logs") == [str(workspace / "logs" / "smoke-20260101-000000-7")]
    assert sorted(path.name for path in (workspace / "logs").iterdir()) == [
        "mine.log",
        *(f"smoke-20260101-000000-8.{name}" for name in ("answer.json", "log", "request.json")),
    ]


def aged_file(path: Path, days: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return aged(path, days)


def test_leftovers_of_killed_processes_go_and_those_of_living_ones_stay(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history(workspace, student_days=1)
    dead = [workspace / ".smoke.7.partial", workspace / "artifacts" / NEW_RUN / "a" / ".teacher.0123abcd.partial"]
    alive = workspace / "artifacts" / NEW_RUN / "b" / ".teacher.0123abcd.partial"
    for folder in (*dead, alive):
        aged_file(folder / "log.jsonl", 40)
        aged(folder, 40)
    aged_file(workspace / "cache" / ".kfp_cache_x.tmp", 40)
    handle = os.open(alive, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    answer = gc(workspace, capsys, "--delete")
    os.close(handle)
    assert addresses(answer, "leftovers") == sorted(map(str, [*dead, workspace / "cache" / ".kfp_cache_x.tmp"]))
    assert not any(folder.exists() for folder in dead)
    assert alive.is_dir()


def test_entries_of_the_cache_whose_artifacts_are_gone_go(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = LocalCache(str(workspace / "cache"))
    cache.put("gone", {"x": dsl.Artifact(uri=str(workspace / "nowhere"))})
    cache.put("plan", {"x": ["a", "b"]})
    for name in ("gone", "plan"):
        aged(workspace / "cache" / f"{name}.json", 40)
    assert len(addresses(gc(workspace, capsys, "--delete"), "cache")) == 2
    assert list((workspace / "cache").iterdir()) == []


# ----------------------------------------------------------------------------------------------------------- downloads


class OneFile:
    """A file elsewhere."""

    def version(self) -> str:
        return "1"

    def download(self, path: Path, sha256: str | None = None) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("downloaded")
        return "1"


def test_downloads_are_as_old_as_their_last_use(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "downloads" / "cat-pipeline"
    kept = Cache().get("https://host/a.zip", OneFile())
    assert kept.is_relative_to(folder)
    aged(folder, 40)
    assert addresses(gc(workspace, capsys), "downloads") == [str(kept)]
    modified = kept.stat().st_mtime_ns
    assert Cache().get("https://host/a.zip", OneFile()) == kept
    assert kept.stat().st_mtime_ns == modified, "it was not downloaded again"
    assert gc(workspace, capsys, "--delete", "--older-than", "0d")["things"] == []
    aged(folder, 40)
    assert addresses(gc(workspace, capsys, "--delete"), "downloads") == [str(kept)]
    assert list((folder / "content").iterdir()) == list((folder / "addresses").iterdir()) == []
    assert Cache().get("https://host/a.zip", OneFile()).read_text() == "downloaded"


def test_unfinished_downloads_go_unless_a_process_is_at_it(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "downloads" / "cat-pipeline" / "partial"
    aged_file(partial / "one" / "file.partial", 40)
    aged_file(partial / "two" / "file.partial", 40)
    with filelock.FileLock(partial / "two.lock"):
        answer = gc(workspace, capsys, "--delete")
    assert addresses(answer, "leftovers") == [str(partial / "one")]
    assert "a process is downloading it" in {each["reason"] for each in answer["kept"]}
    assert (partial / "two" / "file.partial").is_file()


# ------------------------------------------------------------------------------------------------------------- answers


def test_du_shows_sizes_and_ages_by_kind(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history(workspace, student_days=80)
    checkpoint_place(workspace, days=3)
    aged_file(workspace / "notes.txt", 1)
    assert main(["du", "--workspace", str(workspace), "--json"]) == 0
    measured, downloads = json.loads(capsys.readouterr().out)["places"]
    assert measured["address"] == str(workspace)
    everything = sum(path.stat().st_size for path in workspace.rglob("*") if path.is_file())
    assert measured["bytes"] == sum(kind["bytes"] for kind in measured["kinds"].values()) == everything
    assert measured["kinds"]["artifacts"]["count"] == 4
    assert measured["kinds"]["artifacts"]["newest_days"] == 80
    assert measured["kinds"]["artifacts"]["oldest_days"] == 90
    assert measured["kinds"]["checkpoints"]["newest_days"] == 3
    assert downloads["bytes"] == 0
    assert main(["du", "--workspace", str(workspace)]) == 0
    said = capsys.readouterr().out
    assert "checkpoints             1" in said
    assert "80 d to 90 d" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gc", "--older-than", "30"], "is not an age; give hours, days or weeks"),
        (["gc", "--older-than=-1d"], "is not an age"),
        (["gc", "--store", "/folder"], "is not an address of the form s3://"),
        (["du", "--recipe", "smoke"], "has no resources.checkpoints; give the address with --store"),
        (["du", "--workspace", "."], "is not a workspace"),
        (["gc", "--workspace", "/etc"], "is not a workspace"),
        (["gc", "--store", "s3://user:pw@cat/x"], "--store holds a user name or password"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_workspace_that_is_not_there_is_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "downloads"))
    assert gc(tmp_path / "runs", capsys, "--delete")["things"] == []
    assert list(tmp_path.iterdir()) == []


def test_ages_and_sizes_are_read_and_written() -> None:
    assert [parse_age(text) for text in ("12h", "30d", "2w", "1.5d", "0d")] == [43200, 2592000, 1209600, 129600, 0]
    with pytest.raises(UserError):
        parse_age("d")
    assert [age_text(seconds) for seconds in (10, 7200, 86400 * 1.5, 86400 * 41)] == ["< 1 h", "2 h", "36 h", "41 d"]
    assert [size_text(count) for count in (0, 999, 32_100_000, 1.2e9)] == ["0 B", "999 B", "32.1 MB", "1.2 GB"]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.frozensets(st.integers(0, 9), max_size=3), st.integers(0, 99)), max_size=20
    )
)
def test_an_artifact_is_as_young_as_the_youngest_thing_made_from_it(drawn: list) -> None:
    made = [Made(str(digest), frozenset(map(str, inputs)), used) for digest, inputs, used in drawn]
    uses = last_uses(made)
    for one in made:
        assert uses[one.digest] >= one.used
        assert all(uses[given] >= uses[one.digest] for given in one.inputs)
    assert set(uses.values()) <= {one.used for one in made}
