import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.catlib.checkpoints import Checkpoints, FolderStore
from components.catlib.errors import UserError

ORIGIN = {"stage": "teacher", "config": {"batch_size": 4, "adam_betas": [0.5, 0.999]}, "inputs": {"dataset": "abc"}}


def checkpoints(folder: Path, **changes: Any) -> Checkpoints:
    return Checkpoints(FolderStore(str(folder)), origin={**ORIGIN, **changes})


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": {"w": torch.full((3,), float(step))}, "scores": [1.5, (2, "text")]}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_saved_is_nothing_found(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert checkpoints(tmp_path / "new").load_newest() is None
    assert not caplog.records


def test_the_newest_state_comes_back_and_two_are_kept(tmp_path: Path):
    writer = checkpoints(tmp_path)
    for step in (5, 10, 15):
        writer.save(step, state(step))
    found = checkpoints(tmp_path).load_newest()
    assert found is not None
    assert found["step"] == 15
    assert torch.equal(found["weights"]["w"], torch.full((3,), 15.0))
    assert found["scores"] == [1.5, (2, "text")]
    assert files(tmp_path) == [f"step-0000000{step}.{kind}" for step in (10, 15) for kind in ("json", "pt")]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, flip_one_bit, Path.unlink])
@pytest.mark.parametrize("kind", ["pt", "json"])
def test_a_damaged_newest_falls_back_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], kind: str
):
    writer = checkpoints(tmp_path)
    writer.save(5, state(5))
    writer.save(10, state(10))
    damage(tmp_path / f"step-000000010.{kind}")
    reader = checkpoints(tmp_path)
    found = reader.load_newest()
    assert found is not None
    assert found["step"] == 5
    assert any("step 10" in record.getMessage() and record.levelno == logging.WARNING for record in caplog.records)
    reader.save(8, state(8))
    assert {name.split(".")[0] for name in files(tmp_path)} == {"step-000000005", "step-000000008"}


def test_all_damaged_starts_anew_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    checkpoints(tmp_path).save(5, state(5))
    cut_short(tmp_path / "step-000000005.pt")
    assert checkpoints(tmp_path).load_newest() is None
    assert "from the beginning" in caplog.text


def test_a_kill_while_writing_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writer = checkpoints(tmp_path)
    writer.save(5, state(5))

    def dies(value: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        writer.save(10, state(10))
    monkeypatch.undo()
    found = checkpoints(tmp_path).load_newest()
    assert found is not None
    assert found["step"] == 5
    assert files(tmp_path) == ["step-000000005.json", "step-000000005.pt"]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"stage": "distill"}, "stage is 'teacher' there and 'distill' here"),
        ({"config": {"batch_size": 8, "adam_betas": [0.5, 0.999]}}, "config.batch_size is 4 there and 8 here"),
        ({"config": {"batch_size": 4, "adam_betas": [0.0, 0.9]}}, r"config.adam_betas is \[0.5, 0.999\] there"),
        ({"config": {"adam_betas": [0.5, 0.999]}}, "config.batch_size is 4 there and absent here"),
        ({"inputs": {"dataset": "abc", "teacher": "f"}}, "inputs.teacher is absent there and 'f' here"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, changes: dict[str, Any], difference: str):
    checkpoints(tmp_path).save(5, state(5))
    with pytest.raises(UserError, match=difference):
        checkpoints(tmp_path, **changes).load_newest()
    assert checkpoints(tmp_path).load_newest() is not None


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-by-step.pt").write_text("mine too")
    writer = checkpoints(tmp_path)
    for step in (1, 2, 3):
        writer.save(step, state(step))
    assert {"notes.txt", "step-by-step.pt"} <= set(files(tmp_path))


def test_an_address_that_is_no_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="not a local folder"):
        FolderStore("gs://bucket/checkpoints")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        FolderStore(str(tmp_path / "file"))
