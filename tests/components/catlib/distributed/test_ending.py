"""Two processes of one training: whatever happens to one, both end within seconds, alike, and one says why."""

import contextlib
import errno
import faulthandler
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from components.catlib.artifacts import read_manifest
from components.catlib.distributed.launching import on_every_gpu
from components.catlib.errors import Interrupted, Unavailable, UserError
from components.catlib.exits import on_stop
from tests.components.small_trainings import make_dataset, teacher_config
from tests.memory_stores import MemoryStore

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.components.small_trainings", "components.__main__"])

WATCHDOG_SECONDS = 120.0
TWO_MACHINES = "two machines"
"""Name of a file in the folder of a test that makes the processes seem to be on two machines."""
CONFIG: dict[str, Any] = {"epochs": 2, "decay_epochs": 0, "evaluations": 1}


class Ended(NamedTuple):
    """How a process ended: what it printed to stderr, and its exit code."""

    said: str
    code: int | None


Prepare = Callable[[int, pytest.MonkeyPatch], None]
"""Prepares the process of a rank for its misfortune."""


def _process(rank: int, size: int, port: int, folder: Path, prepare: Prepare, arguments: list[str]) -> None:
    from components.__main__ import main

    torch.set_num_threads(1)
    local, group = (0, rank) if (folder / TWO_MACHINES).exists() else (rank, 0)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(local), "GROUP_RANK": str(group), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.stderr = (folder / f"{rank}.txt").open("w", buffering=1)
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS - 10, file=sys.stderr)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.MonkeyPatch.context() as patch:
            prepare(rank, patch)
            code = main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    getattr(prepare, "after", lambda _: None)(rank)
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def started(
    folder: Path, prepare: Prepare, arguments: list[str], *, codes: list[Ended], size: int = 2
) -> Iterator[list[Any]]:
    """Starts the processes of a training; at the end they have ended, or the test fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        PROCESSES.Process(target=_process, args=(rank, size, port, folder, prepare, arguments)) for rank in range(size)
    ]
    try:
        for process in processes:
            process.start()
        yield processes
        deadline = time.monotonic() + WATCHDOG_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        assert all(process.exitcode is not None for process in processes), [
            (folder / f"{rank}.txt").read_text() for rank in range(size)
        ]
        texts = [(folder / f"{rank}.txt").read_text() for rank in range(size)]
        codes += [Ended(text, process.exitcode) for text, process in zip(texts, processes, strict=True)]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), "paired")


def arguments(data: Path, folder: Path, **settings: Any) -> list[str]:
    import yaml

    section = teacher_config("pix2pix", **(CONFIG | settings)).model_dump(mode="json")
    recipe: dict[str, Any] = {"name": "tiny", "description": "A test.", "budgets": ["0.5x"], "teacher": section}
    recipe["resources"] = {"checkpoint_seconds": 1e-9}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return [
        *("teacher", "--recipe", str(folder / "recipe.yaml"), "--output", str(folder / "teacher")),
        *("--dataset", str(data / "dataset"), "--real-stats", str(data / "real_stats")),
        *("--checkpoint", str(folder / "checkpoint")),
    ]


# ------------------------------------------------------------------------------------------------------------ failures


class Fails:
    """Makes a function raise in one rank, at its n-th call."""

    def __init__(self, target: str, error: BaseException, *, rank: int = 0, call: int = 1) -> None:
        self.target, self.error, self.rank, self.call = target, error, rank, call

    def __call__(self, rank: int, patch: pytest.MonkeyPatch) -> None:
        import importlib
        import pkgutil

        if rank != self.rank:
            return
        module, _, attribute = self.target.partition(":")
        importlib.import_module(module)
        original, calls = pkgutil.resolve_name(self.target), 0

        def failing(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == self.call:
                raise self.error
            return original(*given, **named)

        patch.setattr(f"{module}.{attribute}", failing)


GONE = Unavailable("The store is away; is it up?")
BAD = UserError("Picture 7 is damaged; pack the dataset again.")
FULL = OSError(errno.ENOSPC, "No space left on device")
MEMORY = RuntimeError("CUDA out of memory")

TRAINING = "components.catlib.training"
FAILURES = {
    "main cannot open its inputs": (Fails("components.teacher.stage:PackedDataset.open", BAD), 2),
    "another cannot open its inputs": (Fails("components.teacher.stage:PackedDataset.open", BAD, rank=1), 2),
    "main cannot open its checkpoints": (Fails(f"{TRAINING}.artifact:open_checkpoints", BAD), 2),
    "main cannot read its checkpoints": (Fails(f"{TRAINING}.checkpoints:Checkpoints.load_newest", GONE), 75),
    "main cannot read, and did not expect it": (Fails(f"{TRAINING}.checkpoints:Checkpoints.load_newest", FULL), 2),
    "main cannot write its output": (Fails("components.catlib.distributed.writing:writing", BAD), 2),
    "the store goes away while main saves": (Fails(f"{TRAINING}.checkpoints:Checkpoints._write", GONE), 75),
    "main loses its checkpoints": (Fails(f"{TRAINING}.checkpoints:Checkpoints.due", GONE, call=3), 75),
    "main cannot evaluate": (Fails(f"{TRAINING}.validation:Validation.__call__", FULL), 2),
    "main refuses to evaluate": (Fails(f"{TRAINING}.validation:Validation.__call__", BAD), 2),
    "another reads bad data": (Fails("components.catlib.data.batches:TrainingBatches.batch", BAD, rank=1, call=2), 2),
    "another is out of memory within a step": (
        Fails("components.catlib.distributed.devices:Accelerator.backward", MEMORY, rank=1, call=3),
        1,
    ),
    "main cannot write the result": (Fails(f"{TRAINING}.artifact:write_networks", FULL), 2),
    "main cannot publish": (Fails("components.running:stamp", GONE), 75),
}


SLOW = pytest.mark.slow
QUICK = {
    "main cannot open its checkpoints",
    "the store goes away while main saves",
    "main cannot evaluate",
    "another is out of memory within a step",
}


@pytest.mark.parametrize("failure", [pytest.param(name, marks=[] if name in QUICK else SLOW) for name in FAILURES])
def test_an_error_in_one_process_ends_all_and_is_told_once(failure: str, data: Path, tmp_path: Path) -> None:
    prepare, code = FAILURES[failure]
    ends: list[Ended] = []
    began = time.monotonic()
    with started(tmp_path, prepare, arguments(data, tmp_path), codes=ends):
        pass
    everything = "".join(end.said for end in ends)
    assert [end.code for end in ends] == [code, code], everything
    assert time.monotonic() - began < WATCHDOG_SECONDS
    told = "(the disk is full: " if prepare.error is FULL else str(prepare.error)
    assert told in ends[prepare.rank].said
    if code != 1:
        assert everything.count("error: ") == everything.count(told) == 1
        assert "Traceback" not in everything
    else:
        assert "Traceback" not in ends[1 - prepare.rank].said
    assert "EndedElsewhere" not in everything
    assert not list(tmp_path.glob(".teacher.*.partial"))


def test_without_a_failure_they_end_well_and_only_main_opens_the_checkpoints(data: Path, tmp_path: Path) -> None:
    ends: list[Ended] = []
    with started(
        tmp_path,
        Fails("components.catlib.storage.folders:FolderStore.__init__", RuntimeError("not yours"), rank=1),
        arguments(data, tmp_path),
        codes=ends,
    ):
        pass
    assert [end.code for end in ends] == [0, 0], ends
    assert read_manifest(tmp_path / "teacher", "teacher").summary["metrics"]["steps"] == 6
    again: list[Ended] = []
    with started(tmp_path, Fails("components.running:_fetch", MEMORY), arguments(data, tmp_path), codes=again):
        pass  # the output exists: neither process runs the stage
    assert [end.code for end in again] == [0, 0], again


# ------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("signalled", [pytest.param([0], marks=SLOW), [1], pytest.param([0, 1], marks=SLOW)])
def test_a_request_to_stop_reaches_all_and_saves_once(signalled: list[int], data: Path, tmp_path: Path) -> None:
    ends: list[Ended] = []
    with started(tmp_path, nothing, arguments(data, tmp_path, epochs=400), codes=ends) as processes:
        deadline = time.monotonic() + WATCHDOG_SECONDS
        while not list((tmp_path / "checkpoint").glob("step-*.json")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for rank in signalled:
            os.kill(processes[rank].pid, signal.SIGTERM)
    said = "".join(end.said for end in ends)
    assert [end.code for end in ends] == [75, 75], said
    assert said.count("interrupted: Stopped after step ") == said.count("interrupted: ") == 1
    assert "the state of training is saved: run the same command again to resume" in ends[0].said


@pytest.mark.slow
def test_a_process_that_is_killed_does_not_leave_the_other_waiting(data: Path, tmp_path: Path) -> None:
    ends: list[Ended] = []
    with started(tmp_path, nothing, arguments(data, tmp_path, epochs=400), codes=ends) as processes:
        deadline = time.monotonic() + WATCHDOG_SECONDS
        while not list((tmp_path / "checkpoint").glob("step-*.json")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        processes[1].kill()
    assert [end.code for end in ends] == [1, -signal.SIGKILL], ends


def nothing(rank: int, patch: pytest.MonkeyPatch) -> None:
    """Prepares no misfortune."""


# ----------------------------------------------------------------------------------------------------- remote inputs


class RemoteInputs:
    """Puts artifacts into a store in memory, and writes down how often each process asked it."""

    def __init__(self, data: Path, folder: Path, *, fault: str | None = None) -> None:
        self.data, self.folder, self.fault = data, folder, fault

    def __call__(self, rank: int, patch: pytest.MonkeyPatch) -> None:
        from components.catlib.storage import transfer
        from components.catlib.storage.places import Places

        self.stores = {f"s3://cat/{name}": MemoryStore() for name in ("dataset", "real_stats")}
        for address, store in self.stores.items():
            transfer.publish(self.data / address.rpartition("/")[2], store)
            store.attempts = 0
            store.faults = iter([None, None, self.fault])
        opens = Places.open
        patch.setattr(Places, "open", lambda places, address: self.stores.get(address) or opens(places, address))

    def after(self, rank: int) -> None:
        requests = sum(store.attempts for store in self.stores.values())
        (self.folder / f"{rank}.requests").write_text(str(requests))


def train_on_remote_inputs(data: Path, folder: Path, fault: str | None = None) -> tuple[list[Ended], list[int]]:
    flags = {"--dataset": "s3://cat/dataset", "--real-stats": "s3://cat/real_stats"}
    given = arguments(data, folder)
    given = [flags.get(before, word) for before, word in zip(["", *given], given, strict=False)]
    ends: list[Ended] = []
    with started(folder, RemoteInputs(data, folder, fault=fault), given, codes=ends):
        pass
    return ends, [int((folder / f"{rank}.requests").read_text()) for rank in range(2)]


@pytest.mark.parametrize("machines", [1, pytest.param(2, marks=SLOW)])
def test_inputs_are_downloaded_once_per_machine(machines: int, data: Path, tmp_path: Path) -> None:
    if machines == 2:
        (tmp_path / TWO_MACHINES).touch()
    ends, requests = train_on_remote_inputs(data, tmp_path)
    assert [end.code for end in ends] == [0, 0], ends
    assert requests[0] > 4
    assert (requests[1] > 4) == (machines == 2)
    for name in ("dataset", "real_stats"):
        assert read_manifest(tmp_path / "teacher").inputs[name] == read_manifest(data / name).digest()


def test_a_download_that_fails_ends_all_and_is_told_once(data: Path, tmp_path: Path) -> None:
    ends, requests = train_on_remote_inputs(data, tmp_path, fault="refused")
    assert [end.code for end in ends] == [2, 2], ends
    assert "error: The memory refused" in ends[0].said
    assert ends[1].said.count("\n") == 0
    assert requests[1] == 0


# ----------------------------------------------------------------------------------------------------------- launchers


@pytest.mark.slow
def test_torchrun_ends_with_one_sentence(data: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").touch()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*launcher, "-m", "components", *arguments(data, tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1  # torchrun's own
    assert ended.stderr.count("error: Folder ") == 1
    assert ended.stderr.count("exitcode  : 2 ") == 2


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends that there are two GPUs")
@pytest.mark.parametrize("failure", [UserError, RuntimeError])
def test_an_error_comes_back_from_every_gpu(failure: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(failure, match="only the second") as raised:
        on_every_gpu(fails_in_the_second, failure)
    assert type(raised.value) is failure


def fails_in_the_second(failure: type[Exception]) -> None:
    from components.catlib.distributed.devices import Accelerator

    accelerator = Accelerator(cpu=True)
    if not accelerator.is_main_process:
        raise failure("only the second one noticed")
    torch.distributed.barrier()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends that there are two GPUs")
def test_a_request_to_stop_reaches_every_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    watch = threading.Thread(target=stop_once_there, args=(tmp_path / "begun",), daemon=True)
    watch.start()
    with pytest.raises(Interrupted, match="the second has saved"):
        on_every_gpu(stops_when_asked, tmp_path / "begun")


def stop_once_there(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def stops_when_asked(begun: Path) -> None:
    from components.catlib.distributed.devices import Accelerator

    accelerator = Accelerator(cpu=True)
    stop = threading.Event()
    with on_stop(stop.set):
        torch.distributed.barrier()
        begun.touch()
        while not stop.wait(0.05):
            pass
    if accelerator.is_main_process:
        raise Interrupted("the second has saved")
    raise Interrupted("nobody hears the second process")
