"""Repeats requests that fail for a passing reason: one policy for the store, the web and Kubeflow.

Patience counts from the first failure of a request, so that a healthy transfer of any length that breaks once is
repeated for the whole patience. A server that has never answered this process gets only `FIRST_CONTACT_SECONDS`, unless
its silence is to be waited for (`settings.waits_for_servers`): its address is more likely to be wrong.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import tenacity

from components.catlib.errors import Unavailable, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 120.0
"""Seconds for which a server may be out of reach before the stage gives up."""
FIRST_CONTACT_SECONDS = 3.0
"""Seconds for which requests to a server that has never answered are repeated."""
FIRST_PAUSE_SECONDS = 0.5
"""Longest first pause; each later one may be twice as long. Pauses are random, so that threads and pods that failed
together do not come back together."""
LONGEST_PAUSE_SECONDS = 10.0
LONGEST_ASKED_PAUSE_SECONDS = 60.0
"""Longest pause that a server may ask for (Retry-After)."""
QUIET_SECONDS = 5.0
"""Shortest time between two warnings, however many requests fail."""

_REFUSALS_OF_SERVERS = (501, 505, 507, 511)
"""Statuses above 500 that stay: not implemented, unknown version of HTTP, storage full, a login page of the network."""

Result = TypeVar("Result")

_stopping: contextvars.ContextVar[threading.Event] = contextvars.ContextVar("stopping")
_NEVER = threading.Event()


class Unreachable(Unavailable):
    """A server did not answer before patience ran out; it may answer later."""


class Busy(ConnectionError):
    """A server answered that it cannot serve the request now.

    Attributes:
        pause: Seconds after which it wants to be asked again; None if it does not say.
    """

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        """Reads an answer.

        Args:
            status: Its HTTP status.
            headers: Its headers.
        """
        super().__init__(f"HTTP status {status}")
        self.pause = asked_pause(headers)


class Retrying:
    """Sends requests to one server and repeats each while it fails for a passing reason."""

    def __init__(
        self,
        patience: float,
        *,
        errors: tuple[type[Exception], ...],
        passes: Callable[[Exception], bool],
        explain: Callable[[str, Exception, float], UserError],
        reason: Callable[[Exception], str] = str,
        pause: Callable[[Exception], float | None] = lambda error: error.pause if isinstance(error, Busy) else None,
        expected: Callable[[], bool] = lambda: True,
    ) -> None:
        """Takes the differences between kinds of servers.

        Args:
            patience: Seconds for which a request is repeated, counted from its first failure.
            errors: Exceptions of failed requests; others are not caught.
            passes: Returns whether a request that failed with this exception may succeed later.
            explain: Makes the final error from the action, the last exception, and the seconds since the first failure
                (for a server that is not expected, since the first attempt).
            reason: Returns an exception in a few words, for the log.
            pause: Returns the seconds after which the server wants to be asked again; None if it does not say.
            expected: Returns whether there is a server, as far as is known, so that its silence is waited for.
        """
        self._patience = patience
        self._errors = errors
        self._passes = passes
        self._explain = explain
        self._reason = reason
        self._pause = pause
        self._expected = expected
        self._last_complaint = -float("inf")

    def __call__(self, what: str, action: Callable[[], Result]) -> Result:
        """Makes a request.

        Args:
            what: The action in words, for messages: "reading s3://…".
            action: The request; safe to repeat.

        Raises:
            UserError: The request failed for good, or for too long; the cause is the last error.
        """
        stopping, began = _stopping.get(_NEVER), time.monotonic()
        first_failure: list[float] = []

        def left() -> float:
            if not self._expected():
                return min(self._patience, FIRST_CONTACT_SECONDS) - (time.monotonic() - began)
            return self._patience - (time.monotonic() - first_failure[0])

        def wait(state: tenacity.RetryCallState) -> float:
            first_failure.append(time.monotonic())
            return max(0.0, min(self._wait(state), left()))

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_pass),
            stop=lambda _: left() <= 0 or stopping.is_set(),
            wait=wait,
            sleep=tenacity.sleep_using_event(stopping),
            before_sleep=lambda state: self._complain(what, state),
            reraise=True,
        )
        try:
            return attempts(action)
        except self._errors as error:
            since = first_failure[0] if first_failure and self._expected() else began
            raise self._explain(what, error, time.monotonic() - since) from error

    def _may_pass(self, error: BaseException) -> bool:
        from urllib3.exceptions import NameResolutionError

        if not isinstance(error, self._errors) or not self._passes(error):
            return False
        return self._expected() or not isinstance(error, NameResolutionError)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Returns a random pause, or the one that the server asked for and a little more."""
        own = tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS)(state)
        error = state.outcome.exception() if state.outcome else None
        asked = self._pause(error) if isinstance(error, Exception) else None
        return own if asked is None else min(asked, LONGEST_ASKED_PAUSE_SECONDS) + random.uniform(0, own)  # noqa: S311

    def _complain(self, what: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Exception) and time.monotonic() - self._last_complaint > QUIET_SECONDS:
            self._last_complaint = time.monotonic()
            logger.warning("%s failed (%s); trying again", what, self._reason(error))


def stopping() -> threading.Event | None:
    """Returns the event that ends the repeating of this thread's requests; None if there is none."""
    return _stopping.get(None)


def until(stopping: threading.Event, action: Callable[[], Result]) -> Result:
    """Runs an action; once an event is set, its requests are no longer repeated and no longer wait."""
    previous = _stopping.set(stopping)
    try:
        return action()
    finally:
        _stopping.reset(previous)


def once(action: Callable[[], Result]) -> Result:
    """Runs an action whose requests are not repeated."""
    ended = threading.Event()
    ended.set()
    return until(ended, action)


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """Returns the seconds of an answer's Retry-After, which may be a date; None without one."""
    from urllib3 import Retry
    from urllib3.exceptions import InvalidHeader

    with contextlib.suppress(InvalidHeader):
        return Retry(respect_retry_after_header=True).parse_retry_after(headers.get("Retry-After") or "-")
    return None


def passing(status: int) -> bool:
    """Returns whether a request that was answered with this HTTP status may succeed later."""
    return status in (408, 425, 429) or (status >= 500 and status not in _REFUSALS_OF_SERVERS)


def passes(error: Exception) -> bool:
    """Returns whether a connection that failed with this error may succeed later."""
    from urllib3.exceptions import HTTPError, LocationValueError, SSLError

    match error:
        case SSLError() | LocationValueError():
            return False
        case HTTPError() | ConnectionError() | TimeoutError():
            return True
        case _:
            return False


def first_line(error: Exception) -> str:
    """Returns an exception in at most 200 characters."""
    text = str(error).split("\n", 1)[0]
    return text if len(text) < 200 else f"{text[:200]}…"


def untrusted(server: str, error: Exception) -> UserError:
    """Returns the error for a server whose certificate is not trusted, or that has none."""
    return UserError(
        f"{server} is not trusted, or does not use TLS ({first_line(error)}); check its address and AWS_CA_BUNDLE."
    )


def silent(server: str, what: str, reason: str, seconds: float) -> Unreachable:
    """Returns the error for a server that did not answer for too long."""
    return Unreachable(f"{server} did not answer for {seconds:.0f} s ({what}: {reason}); is it up?")


def busy(server: str, what: str, reason: str, seconds: float) -> Unreachable:
    """Returns the error for a server that answered for too long that it cannot serve a request."""
    return Unreachable(
        f"{server} could not serve a request for {seconds:.0f} s ({what}: {reason}); it may be overloaded, starting or "
        "full: see its log, and run the command again later."
    )


def never_reached(server: str, what: str, error: Exception, seconds: float, *, advice: str) -> UserError:
    """Returns the error for a server that has never answered this process: its address is likely to be wrong.

    Args:
        server: The server.
        what: The request in words.
        error: Its exception.
        seconds: How long it was tried.
        advice: Which setting to check.
    """
    from urllib3.exceptions import NameResolutionError

    if isinstance(error, NameResolutionError):
        return UserError(f"{server} cannot be found; is this machine online? Else {advice}.")
    return UserError(f"{server} did not answer for {seconds:.0f} s ({what}: {first_line(error)}); {advice}.")
