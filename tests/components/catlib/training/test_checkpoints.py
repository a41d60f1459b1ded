import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.catlib.errors import UserError
from components.catlib.storage import Location, Storage, Store, StoreSettings
from components.catlib.storage.folders import FolderStore
from components.catlib.storage.objects import Objects, S3Store
from components.catlib.training.checkpoints import Checkpoints, on_cpu
from tests.memory_stores import MemoryStore
from tests.object_stores import SeaweedServer, seaweed_server

ORIGIN = {"stage": "teacher", "config": {"batch_size": 4, "adam_betas": [0.5, 0.999]}, "inputs": {"dataset": "abc"}}


def checkpoints(folder: Path, *, keep: int = 2, **changes: Any) -> Checkpoints:
    return Checkpoints(FolderStore(str(folder)), origin={**ORIGIN, **changes}, keep=keep)


def save(writer: Checkpoints, step: int, score: float | None = None) -> None:
    writer.save(step, state(step), score=score)
    writer.wait()


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
        save(writer, step)
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
    save(writer, 5)
    save(writer, 10)
    damage(tmp_path / f"step-000000010.{kind}")
    reader = checkpoints(tmp_path)
    found = reader.load_newest()
    assert found is not None
    assert found["step"] == 5
    assert any("step 10" in record.getMessage() and record.levelno == logging.WARNING for record in caplog.records)
    save(reader, 8)
    assert {name.split(".")[0] for name in files(tmp_path)} == {"step-000000005", "step-000000008"}


def test_all_damaged_starts_anew_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    save(checkpoints(tmp_path), 5)
    cut_short(tmp_path / "step-000000005.pt")
    assert checkpoints(tmp_path).load_newest() is None
    assert "from the beginning" in caplog.text


def test_a_kill_while_writing_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writer = checkpoints(tmp_path)
    save(writer, 5)

    def dies(value: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        save(writer, 10)
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
    save(checkpoints(tmp_path), 5)
    with pytest.raises(UserError, match=difference):
        checkpoints(tmp_path, **changes).load_newest()
    assert checkpoints(tmp_path).load_newest() is not None


def test_checkpoints_of_another_length_are_skipped_and_never_removed(tmp_path: Path):
    short, longer = (checkpoints(tmp_path, length={"epochs": epochs}) for epochs in (4, 6))
    save(short, 5)
    save(short, 10)
    assert longer.load_newest() is None
    assert longer.other_lengths() == {5: {"epochs": 4}, 10: {"epochs": 4}}
    for step in (11, 12, 13):
        save(longer, step)
    assert {int(name[5:14]) for name in files(tmp_path)} == {5, 10, 12, 13}
    for length, step in ((4, 10), (6, 13)):
        found = checkpoints(tmp_path, length={"epochs": length}).load_newest()
        assert found is not None
        assert found["step"] == step
    with pytest.raises(UserError, match=r"inputs\.dataset is 'abc' there and 'other' here"):
        checkpoints(tmp_path, length={"epochs": 6}, inputs={"dataset": "other"}).load_newest()


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-by-step.pt").write_text("mine too")
    writer = checkpoints(tmp_path)
    for step in (1, 2, 3):
        save(writer, step)
    assert {"notes.txt", "step-by-step.pt"} <= set(files(tmp_path))


def test_the_newest_few_and_the_best_are_kept(tmp_path: Path):
    writer = checkpoints(tmp_path, keep=3)
    for step, score in enumerate([5.0, 2.0, None, 2.0, 4.0, None, None], start=1):
        save(writer, step, score)
    assert {int(name[5:14]) for name in files(tmp_path)} == {2, 5, 6, 7}
    resumed = checkpoints(tmp_path)
    assert resumed.load_newest() is not None
    save(resumed, 8, 3.0)
    assert {int(name[5:14]) for name in files(tmp_path)} == {2, 7, 8}
    save(resumed, 9, 1.0)
    save(resumed, 10)
    save(resumed, 11)
    assert {int(name[5:14]) for name in files(tmp_path)} == {9, 10, 11}


def test_a_state_is_copied_before_save_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writing = threading.Event()
    torch_save = torch.save

    def slow(value: Any, path: Path) -> None:
        assert writing.wait(10)
        torch_save(value, path)

    monkeypatch.setattr(torch, "save", slow)
    weight, records = torch.ones(3), [{"step": 1}]
    with checkpoints(tmp_path) as writer:
        writer.save(1, {"weight": weight, "records": records})
        weight.zero_()
        records.append({"step": 2})
        assert not writer.due(0.0)
        writing.set()
    found = checkpoints(tmp_path).load_newest()
    assert found is not None
    assert torch.equal(found["weight"], torch.ones(3))
    assert found["records"] == [{"step": 1}]


def test_one_is_written_and_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    writing, at_once, together = threading.Event(), [], threading.Semaphore(1)
    torch_save = torch.save

    def slow(value: Any, path: Path) -> None:
        at_once.append(together.acquire(blocking=False))
        assert writing.wait(10)
        torch_save(value, path)
        together.release()

    monkeypatch.setattr(torch, "save", slow)
    with checkpoints(tmp_path, keep=9) as writer:
        writer.save(1, state(1))
        while not at_once:
            time.sleep(0.001)
        writer.save(2, state(2))
        writer.save(3, state(3))
        writing.set()
    assert at_once == [True, True]
    assert {int(name[5:14]) for name in files(tmp_path)} == {1, 3}
    assert "checkpoint of step 2 is left out" in caplog.text


def test_an_error_while_writing_surfaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(value: Any, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"), checkpoints(tmp_path) as writer:
        writer.save(1, state(1))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            writer.due(1e9)
            time.sleep(0.001)
        pytest.fail("nobody was told")


def test_due_counts_from_the_last_one(tmp_path: Path):
    writer = checkpoints(tmp_path)
    assert not writer.due(100.0)
    assert writer.due(0.0)
    save(writer, 1)
    assert writer.due(0.0)


def test_tensors_on_the_cpu_are_copies():
    original = {"a": [torch.ones(2), (3, "text", None)]}
    copy = on_cpu(original)
    original["a"][0].zero_()
    assert torch.equal(copy["a"][0], torch.ones(2))
    assert copy["a"][1] == (3, "text", None)


def stored(server: SeaweedServer, prefix: str, *, patience: float = 20.0) -> Checkpoints:
    return Checkpoints(store_on(server, prefix, patience=patience), origin=ORIGIN)


def store_on(server: SeaweedServer, prefix: str, *, patience: float = 20.0) -> Store:
    return S3Store(
        Objects(StoreSettings.from_environment(server.environment), patience=patience), Location("cat", prefix)
    )


def test_an_object_store_keeps_them_too(object_store: SeaweedServer, caplog: pytest.LogCaptureFixture):
    assert stored(object_store, "kept").load_newest() is None
    writer = stored(object_store, "kept")
    for step, score in ((1, 1.0), (2, 3.0), (3, 2.0), (4, 5.0)):
        save(writer, step, score)
    store = store_on(object_store, "kept")
    assert sorted(entry.name for entry in store.entries()) == [
        f"step-00000000{step}.{kind}" for step in (1, 3, 4) for kind in ("json", "pt")
    ]
    found = stored(object_store, "kept").load_newest()
    assert found is not None
    assert torch.equal(found["weights"]["w"], torch.full((3,), 4.0))
    store.write("step-000000004.pt", b"half")
    found = stored(object_store, "kept").load_newest()
    assert found is not None
    assert found["step"] == 3
    assert "step 4 is incomplete or damaged" in caplog.text


def test_a_store_that_was_killed_is_waited_for(tmp_path: Path):
    with seaweed_server(tmp_path / "data") as server:
        Storage(server.environment).make_bucket("s3://cat")
        with stored(server, "state") as writer:
            save(writer, 1)
            server.stop()
            writer.save(2, state(2))
            time.sleep(1.0)
            assert not writer.due(0.0)
            server.start()
        found = stored(server, "state").load_newest()
    assert found is not None
    assert found["step"] == 2


def test_a_store_that_stays_away_is_an_error(tmp_path: Path):
    with seaweed_server(tmp_path / "data") as server:
        Storage(server.environment).make_bucket("s3://cat")
        writer = stored(server, "state", patience=0.5)
        server.stop()
        with pytest.raises(UserError, match=r"did not answer"), writer:
            writer.save(1, state(1))
        server.start()


@pytest.mark.parametrize("forgotten", [0, 1], ids=["tensors", "facts"])
def test_a_checkpoint_that_the_store_forgot_is_passed_over(forgotten: int, caplog: pytest.LogCaptureFixture):
    store = MemoryStore()
    writer = Checkpoints(store, origin=ORIGIN)
    save(writer, 5)
    store.faults = iter([*[None] * forgotten, "forgotten"])
    save(writer, 10)
    found = Checkpoints(store, origin=ORIGIN).load_newest()
    assert found is not None
    assert found["step"] == 5
    assert "step 10 is incomplete or damaged" in caplog.text


def test_a_checkpoint_that_the_store_refuses_is_an_error():
    store = MemoryStore(["refused"])
    writer = Checkpoints(store, origin=ORIGIN)
    with pytest.raises(UserError, match="refused"):
        save(writer, 1)
    assert store.files == {}
