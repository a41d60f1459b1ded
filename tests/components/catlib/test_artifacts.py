"""Artifact folders appear whole or not at all, and damage is noticed."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.catlib import artifacts
from components.catlib.config import DatasetConfig, PruneConfig
from components.catlib.errors import UserError


def write(folder: Path, text: str = "hello", **inputs: artifacts.Manifest) -> artifacts.Manifest:
    with artifacts.writing(folder, kind="prune", config=PruneConfig(), inputs=inputs) as writer:
        (writer.folder / "nested").mkdir()
        (writer.folder / "nested" / "file.txt").write_text(text)
        writer.summary["metrics"] = {"length": len(text)}
    return artifacts.read_manifest(folder, "prune")


def test_a_manifest_names_every_file_with_its_digest(tmp_path: Path) -> None:
    manifest = write(tmp_path / "a")
    assert manifest.files["nested/file.txt"].bytes == 5
    assert manifest.files["nested/file.txt"].sha256.startswith("2cf24dba5fb0a30e")  # of "hello"
    assert manifest.config["min_channels"] == 16
    artifacts.verify_checksums(tmp_path / "a", manifest)


def test_inputs_are_recorded_by_their_digest(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    second = write(tmp_path / "b", teacher=first)
    assert second.inputs == {"teacher": first.digest()}
    assert write(tmp_path / "c", "other").digest() != first.digest()


def test_a_failing_stage_leaves_nothing_and_spoils_nothing(tmp_path: Path) -> None:
    before = write(tmp_path / "a")
    with pytest.raises(RuntimeError), artifacts.writing(tmp_path / "a", kind="prune", config=PruneConfig()) as writer:
        (writer.folder / "half").write_text("")
        raise RuntimeError
    assert artifacts.read_manifest(tmp_path / "a", "prune") == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_of_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not an artifact folder"):
        write(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda a: None, r"is a prune artifact, not replaced by a dataset artifact; choose another path or remove it"),
        (lambda a: (a / "nested/file.txt").unlink(), "is a prune artifact, not replaced by a dataset artifact"),
        (lambda a: (a / "manifest.json").write_text("{"), "has a manifest.json that is damaged or not an artifact's"),
        (lambda a: (a / "manifest.json").write_text('{"name": "an app"}'), "damaged or not an artifact's"),
        (lambda a: (a / "manifest.json").write_text("[]"), "damaged or not an artifact's"),
        (lambda a: (a / "manifest.json").unlink(), "is not an artifact folder"),
    ],
)
def test_what_another_stage_wrote_is_never_replaced(
    tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    write(tmp_path / "a")
    spoil(tmp_path / "a")
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    with (
        pytest.raises(UserError, match=sentence),
        artifacts.writing(tmp_path / "a", kind="dataset", config=DatasetConfig()),
    ):
        pytest.fail("it began")
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["notes.txt", "nested/notes.txt", "more/thesis.pdf"])
def test_a_file_of_the_user_in_an_artifact_is_not_lost(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a")
    (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "a" / name).write_text("mine")
    with pytest.raises(UserError, match=f"a holds {name}, which no stage wrote; move it away"):
        write(tmp_path / "a", "new")
    assert (tmp_path / "a" / name).read_text() == "mine"


def test_an_artifact_of_another_release_is_replaced_by_its_kind_alone(tmp_path: Path) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99, "more": 1}))
    with pytest.raises(UserError, match="not replaced by a dataset artifact"):
        artifacts.check_replaceable(tmp_path / "a", "dataset")
    write(tmp_path / "a", "new")
    assert (tmp_path / "a/nested/file.txt").read_text() == "new"


def test_nan_cannot_enter_a_manifest(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="JSON"),
        artifacts.writing(tmp_path / "a", kind="x", config=PruneConfig()) as writer,
    ):
        writer.summary["metrics"] = {"loss": float("nan")}
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "nested/file.txt").write_text("x"), "missing or has the wrong size"),
        (lambda folder: (folder / "nested/file.txt").unlink(), "missing or has the wrong size"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage, sentence: str) -> None:
    write(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(UserError, match=sentence):
        artifacts.read_manifest(tmp_path / "a", "prune")


def test_a_change_of_the_same_size_is_found_by_checksum(tmp_path: Path) -> None:
    manifest = write(tmp_path / "a")
    (tmp_path / "a/nested/file.txt").write_text("hullo")
    with pytest.raises(UserError, match="was changed after it was written"):
        artifacts.verify_checksums(tmp_path / "a", manifest)


def test_another_kind_or_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with pytest.raises(UserError, match="is a prune artifact, expected a teacher or distill artifact"):
        artifacts.read_manifest(tmp_path / "a", "teacher|distill")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(UserError, match="layout version 99"):
        artifacts.read_manifest(tmp_path / "a", "prune")


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    content = json.loads(path.read_text())
    content["files"]["../secret"] = content["files"]["nested/file.txt"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="outside its folder"):
        artifacts.read_manifest(tmp_path / "a", "prune")


def test_the_code_digest_is_stable_and_short() -> None:
    assert artifacts.code_digest() == artifacts.code_digest.__wrapped__()
    assert len(artifacts.code_digest()) == 12


def test_what_a_killed_process_left_is_cleared_away_after_a_day(tmp_path: Path) -> None:
    names = {"old": ".a.0123abcd.partial", "new": ".a.1123abcd.partial", "other": ".b.0123abcd.partial"}
    folders = {age: tmp_path / name for age, name in names.items()}
    yesterday = time.time() - 2 * artifacts.ABANDONED_SECONDS
    for folder in folders.values():
        folder.mkdir()
    for age in ("old", "other"):
        os.utime(folders[age], (yesterday, yesterday))
    write(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [names["new"], names["other"], "a"]


def test_what_a_living_process_writes_is_never_cleared_away(tmp_path: Path) -> None:
    with artifacts.writing(tmp_path / "a", kind="prune", config=PruneConfig()) as writer:
        os.utime(writer.folder, (0, 0))
        write(tmp_path / "a", "a second writer")
        assert writer.folder.is_dir()


@pytest.mark.parametrize("place", ["file/x", "file/x/y"])
def test_a_place_where_nothing_can_be_written_is_one_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(UserError, match=rf"Output .*/{place} cannot be written \(.+\); choose another path"),
        artifacts.writing(tmp_path / place, kind="dataset", config=DatasetConfig()),
    ):
        pytest.fail("it began")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
