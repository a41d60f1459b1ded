"""Histories: trainings, publications, downloads and caches in a world where anything fails, thousands of times.

    python -m tests.faults.histories --seed 123       tell one history
    python -m tests.faults.histories --count 10000    play many; the first that ends badly is told

Whatever happens, a history ends in a whole artifact, an exact resume or a refusal in one sentence. When calm returns,
the same commands, run again, succeed.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from pydantic import BaseModel

from components.catlib.artifacts import read_manifest, stamp, verify_checksums, writing
from components.catlib.errors import UserError
from components.catlib.storage import transfer
from components.catlib.storage.cache import Cache
from components.catlib.storage.leases import BEAT_SECONDS, Lease
from components.catlib.storage.transfer import StoredFile
from components.catlib.training.checkpoints import Checkpoints
from tests.faults.simulator import LASTING, LIES, PASSING, FaultyFolder, FaultyStore, Worker, World, inside

ORIGIN = {"teacher": {"seed": 0}, "inputs": {"dataset": "0123"}}
OTHER_ORIGIN = {"teacher": {"seed": 1}, "inputs": {"dataset": "0123"}}
LAST_STEP, SAVE_EVERY = 6, 2
REQUEST = "request"


class _Nothing(BaseModel):
    """The configuration of a stage without settings."""


def weights_after(step: int, origin: dict[str, object] = ORIGIN) -> int:
    """Returns what stands for the weights: a number that follows from the one before, as in a training."""
    value = int.from_bytes(hashlib.sha256(json.dumps(origin).encode()).digest()[:4], "big")
    for number in range(1, step + 1):
        value = int.from_bytes(hashlib.sha256(f"{value} {number}".encode()).digest()[:4], "big")
    return value


class History:
    """One history: its world, its stores, and what must be true in it."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.world = World(seed)
        self.folder = folder
        self.state = FaultyStore(self.world, "state", patience=1800.0)
        self.results = {kind: FaultyStore(self.world, f"results/{kind}") for kind in ("trained", "copied")}
        self.durable = 0
        self.published: dict[str, set[int]] = {"trained": set(), "copied": set()}
        self.started = 0
        chance = self.world.chance
        kinds = chance.choice(
            [PASSING, PASSING, ("slow",), (*PASSING, "slow", *LASTING), LASTING, LIES, (*PASSING, *LIES)]
        )
        self.world.faults = kinds
        self.world.rate = chance.choice([0.01, 0.05, 0.1, 0.3])
        self.world.deadliness = chance.choice([0.0, 0.005, 0.02, 0.1])
        self.world.pauses = chance.choice([0.0, 0.0, 0.02, 0.08])
        self.duel = chance.random() < 0.2  # trainings alone, on machines that sleep again and again
        if self.duel:
            self.world.deadliness, self.world.pauses = 0.0, 0.1
        elif chance.random() < 0.3:
            self.state = FaultyFolder(self.world, folder / "state")

    # -------------------------------------------------------------------------------------------------------- commands

    def train(self) -> str:
        """Trains, or goes on, and publishes the result, as a stage does."""
        self.started += 1
        world, attempt = self.world, f"attempt{self.started}"
        lease = Lease(self.state, clock=world, attempt=attempt, thread=False)
        promised = self.durable
        with Checkpoints(self.state, origin=ORIGIN, lease=lease) as checkpoints:
            found = checkpoints.resume()
            step = found["step"] if found else 0
            value = _only(found["weights"]) if found else weights_after(0)
            world.tell(f"goes on from step {step} in generation {lease.generation}")
            assert value == weights_after(step), f"step {step} was resumed with other weights"
            assert step <= LAST_STEP
            assert world.lies or step >= promised, f"step {promised} was saved, but only step {step} was found"
            beaten = world.now
            while step < LAST_STEP:
                world.sleep(world.chance.choice([1.0, 10.0, 30.0]))
                step += 1
                value = int.from_bytes(hashlib.sha256(f"{value} {step}".encode()).digest()[:4], "big")
                if world.now - beaten >= BEAT_SECONDS:
                    beaten = world.now
                    lease.beat()
                if step % SAVE_EVERY == 0:
                    checkpoints.save(step, {"step": step, "weights": torch.full((500,), value)}, score=float(value % 7))
                    checkpoints.wait()
                    self.durable = max(self.durable, step)
                    world.tell(f"has saved step {step}")
        self._publish("trained", value)
        return f"trained to {value}"

    def train_another(self) -> str:
        """Tries to use the place of another training."""
        with Checkpoints(
            self.state, origin=OTHER_ORIGIN, lease=Lease(self.state, clock=self.world, thread=False)
        ) as other:
            found = other.resume()
        assert found is None, "the state of another training was resumed"
        return "found nothing"

    def copy(self) -> str:
        """Publishes another artifact, again and again a new one, beside readers and other writers."""
        self.started += 1
        self._publish("copied", self.started)
        return f"published {self.started}"

    def fetch(self) -> str:
        """Downloads an artifact while others replace it."""
        self.started += 1
        kind = self.world.chance.choice(["trained", "copied"])
        folder = self.folder / f"fetched-{self.started}"
        transfer.fetch(self.results[kind], folder, kind)
        return f"fetched {self._check(folder, kind)}"

    def find(self) -> str:
        """Looks whether the result exists, as a command does before it works."""
        found = transfer.find(self.results["trained"], REQUEST)
        assert found is None or found.summary["number"] in self.published["trained"]
        return "found it" if found else "did not find it"

    def cache(self) -> str:
        """Gets a file of the artifact through a cache, which earlier processes may have left half filled."""
        name = "a.bin"
        file = StoredFile(self.results["copied"], name)
        path = Cache(self.folder / "cache").get(f"s3://x/{name}", file)
        content = path.read_bytes()
        assert self.world.lies or content in {_content(name, number) for number in self.published["copied"]}
        return "cached it"

    # ------------------------------------------------------------------------------------------------------- artifacts

    def _publish(self, kind: str, number: int) -> None:
        """Writes an artifact to a local folder, which outlives this process, and uploads it."""
        self.started += 1
        output = self.folder / f"made-{kind}-{self.started}"
        with writing(output, kind=kind, config=_Nothing(), stage="teacher") as writer:
            writer.summary["number"] = number
            for name in ("a.bin", "b/c.bin"):
                path = writer.folder / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(_content(name, number))
        stamp(output, REQUEST)
        assert self._check(output, kind, published=False) == number
        self.published[kind].add(number)
        transfer.publish(output, self.results[kind])

    def _check(self, folder: Path, kind: str, *, published: bool = True) -> int:
        """Returns the number of a whole artifact."""
        manifest = read_manifest(folder, kind)
        number = manifest.summary["number"]
        assert not published or number in self.published[kind], f"nobody published {number}"
        for name in manifest.files:
            assert (folder / name).read_bytes() == _content(name, number), f"{name} is not that of {number}"
        verify_checksums(folder, manifest)
        return number

    # ------------------------------------------------------------------------------------------------------------- plot

    def play(self) -> None:
        """Plays the history to its end.

        Raises:
            AssertionError: Something happened that must not.
        """
        world = self.world
        if world.chance.random() < 0.6:  # the results of an earlier time
            world.calm = True
            self._publish("copied", self.started)
            self._publish("trained", weights_after(LAST_STEP))
            world.calm = False
        commands = (self.train, self.train, self.copy, self.copy, self.fetch, self.fetch, self.find, self.cache)
        plot = [world.chance.choice(commands) for _ in range(world.chance.randint(1, 4))]
        if world.chance.random() < 0.6:
            plot += [self.train] * world.chance.randint(1, 3)  # the same command again, perhaps beside the first
        if self.duel:
            plot = [self.train] * 3
        elif world.chance.random() < 0.3:
            plot.append(self.train_another)
        for number, command in enumerate(plot):
            begin = world.chance.choice([0.0, world.chance.uniform(0, 60), world.chance.uniform(0, 300), 1000.0])
            Worker(world, f"{command.__name__}-{number}", command, at=begin)
        self._let_work()
        world.calm = True
        if world.lies:
            self.durable = 0
        for command in (self.train, self.train, self.copy):
            last = Worker(world, f"calm-{command.__name__}", command, at=world.now)
            self._let_work()
            assert last.refusal is None or world.lies, f"refused after calm returned: {last.refusal}"
        self._check_end()

    def _let_work(self) -> None:
        self.world.run()
        for worker in self.world.workers:
            worker.join()
            if worker.fault is not None:
                raise worker.fault
            if worker.refusal is not None:
                sentence = str(worker.refusal)
                assert len(sentence.splitlines()) == 1 and sentence.endswith((".", "?")), f"no sentence: {sentence!r}"

    def _check_end(self) -> None:
        for kind, right in (("trained", {weights_after(LAST_STEP)}), ("copied", {self.started - 1, self.started})):
            folder = self.folder / f"at-the-end-{kind}"
            try:
                transfer.fetch(self.results[kind], folder, kind)
            except UserError as refusal:
                assert self.world.lies, f"the last artifact cannot be fetched: {refusal}"
                continue
            number = self._check(folder, kind)
            assert kind == "copied" or number in right, f"{number} is not what the training ends with"
        owners: dict[str, set[str]] = {}
        for name, *_ in self.state.inner.entries():
            if name.startswith("step-") and name.endswith(".json"):
                generation, _, attempt = name.split(".")[1].partition("-")
                owners.setdefault(generation, set()).add(attempt)
        assert self.world.lies or all(len(attempts) == 1 for attempts in owners.values()), owners


def _only(tensor: torch.Tensor) -> int:
    """Returns the number that a tensor is full of."""
    assert (tensor == tensor[0]).all(), "a checkpoint with other bytes was resumed"
    return int(tensor[0])


def _content(name: str, number: int) -> bytes:
    return hashlib.sha256(f"{name} {number}".encode()).digest() * (1 + number % 3)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def play(seed: int) -> History:
    """Plays one history; its error, if any, has the story as a note."""
    with tempfile.TemporaryDirectory(prefix="history-") as folder, _quiet():
        history = History(seed, Path(folder))
        with inside(history.world):
            try:
                history.play()
            except BaseException as error:
                error.add_note(f"History {seed}:\n" + "\n".join(history.world.story))
                raise
    return history


def main(arguments: list[str] | None = None, say: Callable[[str], object] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="tell this history")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        say("\n".join(play(options.seed).world.story))
        return 0
    began, ends = time.monotonic(), {"killed": 0, "refused": 0, "done": 0}
    for seed in range(options.first, options.first + options.count):
        for worker in play(seed).world.workers:
            ends["killed" if worker.is_dead else "refused" if worker.refusal else "done"] += 1
    told = ", ".join(f"{count} {end}" for end, count in ends.items())
    say(f"{options.count} histories in {time.monotonic() - began:.0f} s, all ended well; commands: {told}")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    random.seed(0)
    sys.exit(main())
