"""A few hundred histories, the same ones each time; `python -m tests.faults.histories` plays thousands."""

import re
from collections.abc import Callable

import pytest

from components.catlib.storage import transfer
from components.catlib.training import checkpoints
from tests.faults.histories import main, play
from tests.faults.simulator import FaultyStore

HISTORIES = 200
ENOUGH = 1000
"""A fault in our code shows within so many histories."""


@pytest.fixture(scope="module")
def stories() -> list[list[str]]:
    """The histories of `make test`, which all end well."""
    return [play(seed).world.story for seed in range(HISTORIES)]


def test_histories_hold_every_kind_of_end_and_fault(stories: list[list[str]]):
    """Else they would prove nothing."""
    told = [line for story in stories for line in story]
    for sign in (
        "is killed", "stands still", "trained to", "was taken over by", "is in use by", "the disk is full", ": torn",
        ": forgotten", ": other bytes", ": unanswered", ": hangs", ": refused", ": full", ": slow", "another training",
        "in generation 2", "goes on from step 4", "published", "fetched", "found it", "cached it",
    ):  # fmt: skip
        assert any(sign in line for line in told), sign


def test_a_history_can_be_told_again(stories: list[list[str]]):
    def told(story: list[str]) -> list[str]:
        return [re.sub(r"/tmp/\S+|process \d+|[\d.]+ [GM]B", "…", line) for line in story]

    assert told(play(11).world.story) == told(stories[11])
    assert len(stories[11]) > 5


def test_the_command_counts_and_tells():
    said: list[str] = []
    assert main(["--count", "3"], said.append) == main(["--seed", "3"], said.append) == 0
    assert said[0].startswith("3 histories in")
    assert "begins" in said[1]


def _never_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_verify", lambda *_: None)


def _checkpoints_never_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    class Equal(checkpoints.FileRecord):
        def __eq__(self, _: object) -> bool:
            return True

    monkeypatch.setattr(checkpoints, "_record", lambda _: Equal(bytes=1, sha256="0" * 64))


def _any_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints.Checkpoints, "_length", lambda *_: None)


def _created_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(self: FaultyStore, name: str, content: bytes) -> bool:
        self.write(name, content)
        return True

    monkeypatch.setattr(FaultyStore, "create", create)


def _no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody is the owner, as before there were leases."""
    lease = checkpoints.Lease
    monkeypatch.setattr(lease, "acquire", lambda self, **_: setattr(self, "generation", 1))
    monkeypatch.setattr(lease, "check", lambda *_: None)
    monkeypatch.setattr(lease, "beat", lambda *_: None)


def _forgets_what_it_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes all checkpoints of earlier owners on saving, and writes the facts before the tensors are there."""
    monkeypatch.setattr(checkpoints.Checkpoints, "_wanted", lambda _: set())


@pytest.mark.faults
@pytest.mark.parametrize(
    "fault",
    [_never_verified, _checkpoints_never_verified, _any_training, _created_twice, _no_lease, _forgets_what_it_saved],
)
def test_a_fault_in_our_code_is_found(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch):
    fault(monkeypatch)
    with pytest.raises(BaseException) as found:
        for seed in range(ENOUGH):
            play(seed)
    assert any("History " in note for note in found.value.__notes__)
