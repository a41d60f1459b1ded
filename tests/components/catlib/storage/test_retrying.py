import logging
import threading
import time
from collections.abc import Callable

import pytest

from components.catlib.errors import UserError
from components.catlib.storage import retrying
from components.catlib.storage.parallel import in_parallel
from components.catlib.storage.retrying import Retrying, Unreachable, passes, silent


def patiently(seconds: float) -> Retrying:
    return Retrying(
        seconds,
        errors=(OSError,),
        passes=passes,
        explain=lambda what, error, elapsed: (
            silent("The server", what, str(error), elapsed) if passes(error) else UserError(f"{what}: {error}")
        ),
    )


def failing(*errors: BaseException) -> Callable[[], str]:
    """An action that fails in these ways, and then succeeds."""
    left = list(errors)

    def act() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return act


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.mark.usefixtures("fast")
def test_what_passes_is_repeated_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    action = failing(*[ConnectionError("gone")] * 3, TimeoutError("slow"))
    with caplog.at_level(logging.INFO):
        assert patiently(5)("reading a", action) == "done"
    assert [record.message for record in caplog.records] == ["reading a failed (gone); trying again"]


def test_what_stays_ends_at_once() -> None:
    with pytest.raises(UserError, match="reading a: no") as caught:
        patiently(5)("reading a", failing(PermissionError("no"), AssertionError("asked again")))
    assert isinstance(caught.value.__cause__, PermissionError)


def test_other_errors_are_left_alone() -> None:
    for error in (KeyboardInterrupt(), ValueError("ours"), UserError("said already")):
        with pytest.raises(type(error)):
            patiently(5)("reading a", failing(error, AssertionError("asked again")))


def test_patience_ends() -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"The server did not answer for \d s \(reading a: gone\); is it up"):
        patiently(1)("reading a", failing(*[ConnectionError("gone")] * 1000))
    assert time.monotonic() - began < 1.5
    with pytest.raises(Unreachable):
        patiently(0)("reading a", failing(ConnectionError("gone")))


def test_one_failure_ends_the_waiting_of_the_others() -> None:
    waiting = threading.Event()

    def never() -> str:
        waiting.set()
        raise ConnectionError("gone")

    def refused() -> None:
        assert waiting.wait(10)
        raise UserError("no such bucket")

    began = time.monotonic()
    with pytest.raises(UserError):
        in_parallel([lambda: patiently(60)("reading a", never), refused])
    assert time.monotonic() - began < 5
    assert patiently(5)("reading a", failing(ConnectionError("gone"))) == "done", "only those beside it"
