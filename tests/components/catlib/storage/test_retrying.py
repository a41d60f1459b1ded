import email.utils
import logging
import threading
import time
from collections.abc import Callable

import pytest
from urllib3.exceptions import NameResolutionError

from components.catlib.errors import UserError
from components.catlib.storage import retrying
from components.catlib.storage.parallel import in_parallel
from components.catlib.storage.retrying import (
    Busy,
    Retrying,
    Unreachable,
    asked_pause,
    never_reached,
    once,
    passes,
    passing,
    silent,
)


def patiently(seconds: float, expected: Callable[[], bool] = lambda: True) -> Retrying:
    def explain(what: str, error: Exception, elapsed: float) -> UserError:
        if not passes(error):
            return UserError(f"{what}: {error}")
        if expected():
            return silent("The server", what, str(error), elapsed)
        return never_reached("The server", what, error, elapsed, advice="check ITS_ADDRESS")

    return Retrying(seconds, errors=(OSError, NameResolutionError), passes=passes, explain=explain, expected=expected)


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


def test_patience_counts_from_the_first_failure_so_a_long_transfer_that_breaks_once_is_repeated() -> None:
    def long_transfer() -> str:
        time.sleep(0.6)
        return break_once()

    break_once = failing(ConnectionError("cut"))
    assert patiently(0.5)("writing a", long_transfer) == "done"


def test_the_whole_patience_is_used_and_no_more() -> None:
    attempts: list[float] = []

    def never() -> None:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            time.sleep(0.4)
        raise ConnectionError("gone")

    began = time.monotonic()
    with pytest.raises(Unreachable, match="did not answer for 1 s"):
        patiently(1)("reading a", never)
    assert 1.3 < attempts[-1] - began < 1.7


class Clock:
    """A clock that stands still but for sleeps, which it keeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.sleeps = 1000.0, list[float]()
        monkeypatch.setattr(retrying.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(retrying.tenacity, "sleep_using_event", lambda event: self.sleep)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


def test_pauses_are_random_grow_and_stay_below_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with pytest.raises(Unreachable, match="did not answer for 1800 s"):
        patiently(1800)("reading a", failing(*[ConnectionError("gone")] * 10_000))
    assert max(clock.sleeps[:3]) <= 2
    assert max(clock.sleeps) <= retrying.LONGEST_PAUSE_SECONDS
    assert len(set(clock.sleeps)) == len(clock.sleeps) > 200
    assert clock.now == pytest.approx(2800)


@pytest.mark.parametrize(("asked", "least", "most"), [("7", 7, 7.5), ("86400", 60, 60.5), ("0", 0, 0.5)])
def test_a_server_says_how_long_it_wants_to_be_left_alone(
    monkeypatch: pytest.MonkeyPatch, asked: str, least: float, most: float
) -> None:
    clock = Clock(monkeypatch)
    patiently(120)("reading a", failing(Busy(429, {"Retry-After": asked})))
    assert least <= clock.sleeps[0] <= most


def test_what_a_server_asks_for_does_not_outlast_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert patiently(5)("reading a", failing(Busy(503, {"Retry-After": "30"}))) == "done"
    assert clock.sleeps == [5]


def test_a_pause_is_given_in_seconds_or_as_a_date() -> None:
    assert asked_pause({"Retry-After": " 3 "}) == 3
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 28 < (asked_pause({"Retry-After": date}) or 0) <= 30
    for headers in ({}, {"Retry-After": ""}, {"Retry-After": "soon"}, {"Retry-After": "-1"}):
        assert asked_pause(headers) is None


def test_statuses_that_pass_and_those_that_stay() -> None:
    assert [status for status in range(100, 600) if status < 500 and passing(status)] == [408, 425, 429]
    assert [status for status in range(500, 600) if not passing(status)] == [501, 505, 507, 511]


def test_a_server_that_never_answered_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with pytest.raises(UserError, match=r"did not answer for 3 s \(reading a: gone\); check ITS_ADDRESS") as caught:
        patiently(120, lambda: False)("reading a", failing(*[ConnectionError("gone")] * 1000))
    assert caught.value.exit_code == 2
    assert clock.now == pytest.approx(1000 + retrying.FIRST_CONTACT_SECONDS)


def test_one_that_answers_meanwhile_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with pytest.raises(Unreachable) as caught:
        patiently(120, lambda: clock.now > 1001)("reading a", failing(*[ConnectionError("gone")] * 1000))
    assert caught.value.exit_code == 75
    assert clock.now == pytest.approx(1120, abs=1)


def test_an_unknown_name_is_a_wrong_address_unless_the_server_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, unknown = Clock(monkeypatch), NameResolutionError("host", None, OSError("unknown"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="The server cannot be found; is this machine online"):
        patiently(120, lambda: False)("reading a", failing(unknown, AssertionError("asked again")))
    assert clock.sleeps == []
    assert patiently(120)("reading a", failing(unknown)) == "done"


def test_a_request_may_be_made_once() -> None:
    with pytest.raises(Unreachable):
        once(lambda: patiently(60)("reading a", failing(ConnectionError("gone"), AssertionError("asked again"))))
    assert patiently(5)("reading a", failing(ConnectionError("gone"))) == "done"


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
