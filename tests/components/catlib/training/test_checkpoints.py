import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.catlib.errors import Unavailable, UserError
from components.catlib.storage import Location, Storage, Store, StoreSettings, leases
from components.catlib.storage.folders import FolderStore
from components.catlib.storage.leases import Lease, LeaseLost
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
    """Lists what lies there, without the owners' files, and checkpoints without their owners."""
    return sorted(without_owner(path.name) for path in folder.iterdir() if not path.name.startswith("owner-"))


def without_owner(name: str) -> str:
    return re.sub(r"\.\d{6}-[0-9a-f]{8}\.(pt|json)$", r".\1", name)


def file_of(folder: Path, step: int, kind: str) -> Path:
    (found,) = folder.glob(f"step-{step:09d}*.{kind}")
    return found


def test_nothing_saved_is_nothing_found(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert checkpoints(tmp_path / "new").load_newest() is None
    assert not caplog.records


def test_the_newest_state_comes_back_and_two_are_kept(tmp_path: Path):
    with checkpoints(tmp_path) as writer:
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
    with checkpoints(tmp_path) as writer:
        save(writer, 5)
        save(writer, 10)
    damage(file_of(tmp_path, 10, kind))
    with checkpoints(tmp_path) as second:
        found = second.resume()
        assert found is not None
        assert found["step"] == 5
        assert any("step 10" in record.getMessage() and record.levelno == logging.WARNING for record in caplog.records)
        save(second, 8)
    assert {name.split(".")[0] for name in files(tmp_path)} == {"step-000000005", "step-000000008"}


def test_all_damaged_starts_anew_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with checkpoints(tmp_path) as writer:
        save(writer, 5)
    cut_short(file_of(tmp_path, 5, "pt"))
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
    with checkpoints(tmp_path) as writer:
        save(writer, 5)
    for read in (checkpoints(tmp_path, **changes).load_newest, checkpoints(tmp_path, **changes).resume):
        with pytest.raises(UserError, match=difference):
            read()
    assert checkpoints(tmp_path).resume() is not None


def test_checkpoints_of_another_length_are_skipped_and_never_removed(tmp_path: Path):
    short, longer = (checkpoints(tmp_path, length={"epochs": epochs}) for epochs in (4, 6))
    save(short, 5)
    save(short, 10)
    short.give_back()
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
    with checkpoints(tmp_path, keep=3) as writer:
        for step, score in enumerate([5.0, 2.0, None, 2.0, 4.0, None, None], start=1):
            save(writer, step, score)
    assert {int(name[5:14]) for name in files(tmp_path)} == {2, 5, 6, 7}
    resumed = checkpoints(tmp_path)
    assert resumed.resume() is not None
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
    with pytest.raises(UserError, match=r"cannot be written \(the disk is full"), checkpoints(tmp_path) as writer:
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
    with stored(object_store, "kept") as writer:
        for step, score in ((1, 1.0), (2, 3.0), (3, 2.0), (4, 5.0)):
            save(writer, step, score)
    store = store_on(object_store, "kept")
    names = [entry.name for entry in store.entries()]
    assert sorted(map(without_owner, names)) == [
        "owner-000001.json",
        *(f"step-00000000{step}.{kind}" for step in (1, 3, 4) for kind in ("json", "pt")),
    ]
    found = stored(object_store, "kept").load_newest()
    assert found is not None
    assert torch.equal(found["weights"]["w"], torch.full((3,), 4.0))
    (newest,) = [name for name in names if without_owner(name) == "step-000000004.pt"]
    store.write(newest, b"half")
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


def test_a_store_that_stays_away_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leases, "GIVE_BACK_SECONDS", 0.5)
    with seaweed_server(tmp_path / "data") as server:
        Storage(server.environment).make_bucket("s3://cat")
        writer = stored(server, "state", patience=0.5)
        assert writer.resume() is None
        server.stop()
        with pytest.raises(UserError, match=r"did not answer"), writer:
            writer.save(1, state(1))
        server.start()


@pytest.mark.parametrize("forgotten", ["pt", "json"])
def test_a_checkpoint_that_the_store_forgot_is_passed_over(forgotten: str, caplog: pytest.LogCaptureFixture):
    class Forgets(MemoryStore):
        def write(self, name: str, source: bytes | Path) -> None:
            if not (name.startswith("step-000000010") and name.endswith(forgotten)):
                super().write(name, source)

    store = Forgets()
    with Checkpoints(store, origin=ORIGIN) as writer:
        save(writer, 5)
        save(writer, 10)
    found = Checkpoints(store, origin=ORIGIN).load_newest()
    assert found is not None
    assert found["step"] == 5
    assert "step 10 is incomplete or damaged" in caplog.text


def test_a_checkpoint_that_the_store_refuses_is_an_error():
    store = MemoryStore()
    writer = Checkpoints(store, origin=ORIGIN, lease=Lease(store, thread=False))
    assert writer.resume() is None
    store.faults = itertools.repeat("refused")
    with pytest.raises(UserError, match="refused"):
        save(writer, 1)
    assert list(store.files) == ["owner-000001.json"]


def test_old_checkpoints_that_cannot_be_removed_are_only_worth_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    class Keeps(FolderStore):
        def remove(self, name: str) -> None:
            raise UserError("Nobody may remove anything here.")

    with Checkpoints(Keeps(str(tmp_path)), origin=ORIGIN) as writer:
        for step in (1, 2, 3, 4):
            save(writer, step)
    assert {int(name[5:14]) for name in files(tmp_path)} == {1, 2, 3, 4}
    assert "are not removed: Nobody may remove anything here." in caplog.text


# ------------------------------------------------------------------------------------------------ who owns the place


def claim(store: Store, *, attempt: str | None = None) -> Lease:
    return Lease(store, attempt=attempt, thread=False)


def replaced(store: Store) -> tuple[Checkpoints, Checkpoints]:
    """Returns the checkpoints of two owners; the first one was cut off, and does not know yet that it was replaced."""
    first = Checkpoints(store, origin=ORIGIN, lease=claim(store))
    assert first.resume() is None
    save(first, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "LEASE_SECONDS", 0.0)
        patch.setattr(leases, "_this_machine", lambda: "another")
        second = Checkpoints(store, origin=ORIGIN, lease=claim(store))
        found = second.resume()
    assert found is not None
    assert found["step"] == 5
    return first, second


@pytest.fixture(params=["folder", "s3", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(str(tmp_path / "place"))
    return (
        MemoryStore() if request.param == "memory" else store_on(request.getfixturevalue("object_store"), tmp_path.name)
    )


def steps(store: Store) -> set[str]:
    """Names the checkpoints of a place with the generations of their owners."""
    return {entry.name[:21] for entry in store.entries() if entry.name.startswith("step-")}


def test_a_place_in_use_is_refused_and_not_touched(tmp_path: Path):
    with checkpoints(tmp_path) as first:
        assert first.resume() is None
        save(first, 5)
        before = {path.name for path in tmp_path.iterdir()}
        second = checkpoints(tmp_path)
        for action in (second.resume, lambda: second.save(6, state(6))):
            with pytest.raises(Unavailable, match=rf"in use by process {os.getpid()} on "), second:
                action()
        assert {path.name for path in tmp_path.iterdir()} == before
        save(first, 10)
    with checkpoints(tmp_path) as third:
        assert (third.resume() or {})["step"] == 10


def test_who_was_replaced_stops_and_harms_nothing(store: Store):
    first, second = replaced(store)
    save(second, 6)
    save(second, 7)
    save(second, 8)
    assert steps(store) == {"step-000000007.000002", "step-000000008.000002"}, "the earlier owner's are cleared away"
    with pytest.raises(LeaseLost, match="was taken over by process"), first:
        save(first, 10)
    assert steps(store) == {"step-000000007.000002", "step-000000008.000002"}
    save(second, 9)
    with second:
        pass
    found = Checkpoints(store, origin=ORIGIN).load_newest()
    assert found is not None
    assert found["step"] == 9


def test_who_is_replaced_while_it_writes_adds_a_whole_checkpoint_and_removes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    """Both write step 10 at the same time, under their own names."""
    first, second = Checkpoints(store, origin=ORIGIN, lease=claim(store)), None
    assert first.resume() is None
    save(first, 5)
    torch_save = torch.save

    def slow(value: Any, path: Path) -> None:
        nonlocal second
        monkeypatch.setattr(torch, "save", torch_save)
        torch_save(value, path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(leases, "LEASE_SECONDS", 0.0)
            patch.setattr(leases, "_this_machine", lambda: "another")
            second = Checkpoints(store, origin=ORIGIN, lease=claim(store))
            assert (second.resume() or {})["step"] == 5
        second.save(10, state(10) | {"by": "second"})
        second.wait()

    monkeypatch.setattr(torch, "save", slow)
    with pytest.raises(LeaseLost):
        save(first, 10)
    assert second is not None
    assert steps(store) >= {"step-000000010.000001", "step-000000010.000002"}
    with second:
        found = Checkpoints(store, origin=ORIGIN).load_newest()
        assert found is not None
        assert found["by"] == "second", "of one step, the newest owner's counts"


def test_a_loss_ends_a_training_at_its_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    store = MemoryStore()
    with checkpoints(tmp_path) as writer, pytest.raises(LeaseLost, match="taken over"):
        writer = Checkpoints(store, origin=ORIGIN)
        assert writer.resume() is None
        assert not writer.due(1e9)
        store.write("owner-000002.json", b"somebody")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            writer.due(1e9)
            time.sleep(0.01)


def test_a_newest_checkpoint_that_vanishes_while_it_is_read_is_not_missed(store: Store):
    """Its owner has just written a newer one, and then removed it."""
    _, second = replaced(store)
    reading = store.reading

    def vanishes(name: str) -> Any:
        store.reading = reading  # type: ignore[method-assign]
        save(second, 6)
        save(second, 7)
        assert name not in {entry.name for entry in store.entries()}
        return reading(name)

    store.reading = vanishes  # type: ignore[method-assign]
    found = Checkpoints(store, origin=ORIGIN).load_newest()
    assert found is not None
    assert found["step"] == 7
    with second:
        pass


def test_files_of_an_owner_with_the_same_number_are_left_alone(store: Store):
    """The store had forgotten the first owner."""
    first = Checkpoints(store, origin=ORIGIN, lease=claim(store, attempt="first"))
    first.resume()
    save(first, 5)
    for entry in store.entries():
        if entry.name.startswith("owner-"):
            store.remove(entry.name)
    store.write("step-000000009.000002-other.pt", b"half")
    second = Checkpoints(store, origin=ORIGIN, lease=claim(store, attempt="second"))
    assert second.resume() is not None
    for step in (10, 11, 12):
        save(second, step)
    assert steps(store) == {"step-000000011.000003", "step-000000012.000003"}, "its number is above every file's"
    store.write("step-000000009.000003-other.pt", b"half")
    store.write("step-000000009.000004-other.pt", b"half")
    save(second, 13)
    assert {"step-000000009.000003", "step-000000009.000004"} <= steps(store)
    with second:
        pass


def test_checkpoints_of_layout_version_1_are_read_and_cleared_away(tmp_path: Path):
    with checkpoints(tmp_path) as writer:
        save(writer, 5)
        save(writer, 10)
    for path in list(tmp_path.iterdir()):
        if path.name.startswith("owner-"):
            path.unlink()
        else:
            path.rename(tmp_path / without_owner(path.name))
    for path in tmp_path.glob("*.json"):
        path.write_text(path.read_text().replace('"layout_version": 2', '"layout_version": 1'))
    assert [path.name for path in sorted(tmp_path.iterdir())] == files(tmp_path)
    with checkpoints(tmp_path) as second:
        assert (second.resume() or {})["step"] == 10
        save(second, 15)
        assert "step-000000010.pt" in {path.name for path in tmp_path.iterdir()}
        save(second, 20)
    assert files(tmp_path) == [f"step-0000000{step}.{kind}" for step in (15, 20) for kind in ("json", "pt")]


def test_a_layout_of_the_future_is_refused(tmp_path: Path):
    with checkpoints(tmp_path) as writer:
        save(writer, 5)
    path = file_of(tmp_path, 5, "json")
    path.write_text(path.read_text().replace('"layout_version": 2', '"layout_version": 3'))
    with pytest.raises(UserError, match="has layout version 3, not 2"):
        checkpoints(tmp_path).load_newest()


def test_only_who_resumes_or_saves_touches_the_place(tmp_path: Path):
    """The other processes of a training open the same checkpoints."""
    with checkpoints(tmp_path / "place") as other:
        assert not other.due(1e9)
        assert checkpoints(tmp_path / "place").load_newest() is None
    assert not (tmp_path / "place").exists()
