"""A real S3 server behind a proxy that breaks connections, and one that is killed and started again meanwhile."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from components.catlib.artifacts import read_manifest, stamp, verify_checksums, writing
from components.catlib.errors import UserError
from components.catlib.storage import Storage
from components.catlib.storage.places import Places
from components.catlib.training.checkpoints import Checkpoints
from tests.faults.proxies import MISCHIEF, Proxy, proxy
from tests.object_stores import SeaweedServer, seaweed_server

PATIENCE = 60.0
ORIGIN = {"teacher": {"seed": 0}}
REPEATS = int(os.environ.get("CAT_TEST_REPEATS", "20"))


class _Nothing(BaseModel):
    pass


def make(folder: Path, number: int, megabytes: float = 0.3) -> Path:
    """Makes an artifact whose files tell which one it is."""
    with writing(folder, kind="teacher", config=_Nothing()) as writer:
        writer.summary["number"] = number
        for name in ("a.bin", "b.bin", "c/d.bin"):
            path = writer.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content(name, number, megabytes))
    stamp(folder, str(number))
    return folder


def content(name: str, number: int, megabytes: float = 0.3) -> bytes:
    return hashlib.shake_256(f"{name} {number}".encode()).digest(int(megabytes * 2**20))


def number_in(folder: Path) -> int:
    """Returns which artifact a folder holds, whole."""
    manifest = read_manifest(folder, "teacher")
    verify_checksums(folder, manifest)
    number = manifest.summary["number"]
    for name in manifest.files:
        path = folder / name
        assert path.read_bytes() == content(name, number, path.stat().st_size / 2**20)
    return number


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with seaweed_server(tmp_path_factory.mktemp("store") / "data") as running:
        Storage(running.environment).make_bucket("s3://cat")
        yield running


def storage_behind(between: Proxy, server: SeaweedServer) -> Storage:
    return Storage({**server.environment, "S3_ENDPOINT": between.endpoint}, patience=PATIENCE)


def round_trip(server: SeaweedServer, what: tuple[str, ...], seed: int, folder: Path) -> str:
    """Publishes two artifacts, one after the other, and fetches, through a bad network; returns how that ended."""
    address, said = f"s3://cat/trips/{'-'.join(what).replace(' ', '_')}-{seed}", []
    with proxy(server.port, seed=seed, mischief=what) as between:
        between.rate = 0.4
        store = storage_behind(between, server)
        for number in (1, 2):
            made = make(folder / f"made-{number}", number)
            said.append(_refusal(lambda made=made: store.publish(made, address)))
            said.append(_refusal(lambda number=number: store.fetch(address, folder / f"fetched-{number}")))
            if said[-1] is None:
                found = number_in(folder / f"fetched-{number}")
                assert found == number or said[-2] is not None
        assert between.happened.total() > between.happened["nothing"]
    calm = Storage(server.environment)
    calm.publish(folder / "made-2", address)
    assert number_in(calm.fetch(address, folder / "at-the-end")) == 2
    return "; ".join(text or "done" for text in said)


def _refusal(action: Callable[[], Any]) -> str | None:
    try:
        action()
    except UserError as refusal:
        assert len(str(refusal).splitlines()) == 1
        return str(refusal)
    return None


@pytest.mark.parametrize("what", MISCHIEF)
def test_a_bad_network_tears_nothing(server: SeaweedServer, what: str, tmp_path: Path):
    assert round_trip(server, (what,), 0, tmp_path) == "done; done; done; done"


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(REPEATS))
def test_a_network_with_all_its_mischief_tears_nothing(server: SeaweedServer, seed: int, tmp_path: Path):
    round_trip(server, MISCHIEF, seed, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(REPEATS))
def test_checkpoints_survive_a_bad_network(server: SeaweedServer, seed: int):
    address = f"s3://cat/checkpoints/{seed}"
    with proxy(server.port, seed=seed) as between:
        between.rate = 0.0
        state = Places({**server.environment, "S3_ENDPOINT": between.endpoint}, patience=PATIENCE).open(address)
        assert state.entries() == []  # a server that has never answered is given up after three seconds
        between.rate = 0.4
        with Checkpoints(state, origin=ORIGIN) as checkpoints:
            assert checkpoints.resume() is None
            for step in range(1, 6):
                checkpoints.save(step, {"step": step, "weights": torch.full((1000,), float(step))})
                checkpoints.wait()
    with Checkpoints(Places(server.environment).open(address), origin=ORIGIN) as checkpoints:
        resumed = checkpoints.resume()
    assert resumed is not None
    assert resumed["step"] == 5
    assert torch.equal(resumed["weights"], torch.full((1000,), 5.0))


def _kill_and_restart(server: SeaweedServer, moments: list[float], stopping: threading.Event) -> None:
    for moment in moments:
        if stopping.wait(moment):
            return
        server.stop()
        time.sleep(0.3)
        server.start()


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(max(REPEATS // 4, 1)))
def test_a_server_that_is_killed_under_transfers_tears_nothing(seed: int, tmp_path: Path):
    with seaweed_server(tmp_path / "data") as server:
        Storage(server.environment).make_bucket("s3://cat")
        store = Storage(server.environment, patience=PATIENCE)
        store.publish(make(tmp_path / "first", 1, 8.0), "s3://cat/result")
        second, stopping = make(tmp_path / "second", 2, 8.0), threading.Event()
        killer = threading.Thread(target=_kill_and_restart, args=(server, [0.05 + seed * 0.1, 0.5, 1.0], stopping))
        killer.start()
        try:
            published = _refusal(lambda: store.publish(second, "s3://cat/result"))
            fetched = _refusal(lambda: store.fetch("s3://cat/result", tmp_path / "fetched"))
            with Checkpoints(
                Places(server.environment, patience=PATIENCE).open("s3://cat/state"), origin=ORIGIN
            ) as saved:
                for step in (1, 2, 3):
                    saved.save(step, {"step": step})
                    saved.wait()
        finally:
            stopping.set()
            killer.join()
        if fetched is None:
            assert number_in(tmp_path / "fetched") == 2 or published is not None
        store.publish(second, "s3://cat/result")
        assert number_in(store.fetch("s3://cat/result", tmp_path / "at-the-end")) == 2
        with Checkpoints(Places(server.environment).open("s3://cat/state"), origin=ORIGIN) as saved:
            assert saved.resume() == {"step": 3}
