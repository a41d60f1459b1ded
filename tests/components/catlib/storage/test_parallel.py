"""Several requests at once: limits, and how they end."""

import threading
import time

import pytest

from components.catlib.errors import UserError
from components.catlib.storage import parallel
from components.catlib.storage.parallel import in_parallel, move_parts
from components.catlib.storage.retrying import Retrying, passes, silent


def patiently(seconds: float) -> Retrying:
    return Retrying(
        seconds,
        errors=(OSError,),
        passes=passes,
        explain=lambda what, error, elapsed: silent("The server", what, str(error), elapsed),
    )


def test_all_transfers_of_a_process_share_the_threads_that_move_parts() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def move() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1

    in_parallel([lambda: move_parts([move] * 10)] * 6)
    assert most == parallel.PARALLEL


@pytest.mark.parametrize("run", [in_parallel, move_parts])
def test_the_first_failure_is_raised_and_ends_the_waiting_of_the_others(run) -> None:
    waiting = threading.Event()

    def never() -> None:
        waiting.set()
        raise ConnectionError("gone")

    def refused() -> None:
        assert waiting.wait(10)
        raise UserError("no such bucket")

    began, later = time.monotonic(), []
    with pytest.raises(UserError, match="no such bucket"):
        run([lambda: patiently(60)("reading a", never), refused, *[lambda: later.append(time.sleep(0.1))] * 1000])
    assert time.monotonic() - began < 5
    assert len(later) < 200, "tasks that had not begun were left out"


def test_the_failure_of_one_file_ends_the_parts_of_the_others() -> None:
    waiting = threading.Event()

    def never() -> None:
        waiting.set()
        raise ConnectionError("gone")

    def refused() -> None:
        assert waiting.wait(10)
        raise UserError("no such bucket")

    began = time.monotonic()
    with pytest.raises(UserError, match="no such bucket"):
        in_parallel([lambda: move_parts([lambda: patiently(60)("reading a", never)] * 20), refused])
    assert time.monotonic() - began < 5


def test_a_failure_that_was_dealt_with_ends_nothing_else() -> None:
    tries = []

    def stumble() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("gone")

    def file() -> None:
        def lost() -> None:
            raise UserError("the parts are lost")

        with pytest.raises(UserError):
            move_parts([lost])
        move_parts([lambda: patiently(10)("reading a", stumble)])

    in_parallel([file])
    assert len(tries) == 3
