"""Repeats requests that fail for a passing reason: one policy for the store, the web and Kubeflow."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import tenacity

from components.catlib.credentials import without_credentials
from components.catlib.errors import Unavailable, UserError

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 120.0
"""Seconds for which a server may be out of reach before the stage gives up."""
FIRST_PAUSE_SECONDS = 0.5
"""Longest first pause; each later one may be twice as long. Pauses are random, so that threads and pods that failed
together do not come back together."""
LONGEST_PAUSE_SECONDS = 10.0
QUIET_SECONDS = 5.0
"""Shortest time between two warnings, however many requests fail."""

Result = TypeVar("Result")

_stopping: contextvars.ContextVar[threading.Event] = contextvars.ContextVar("stopping")
_NEVER = threading.Event()


class Unreachable(Unavailable):
    """A server did not answer before patience ran out; it may answer later."""


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
    ) -> None:
        """Takes the differences between kinds of servers.

        Args:
            patience: Seconds for which a request is repeated, counted from its start.
            errors: Exceptions of failed requests; others are not caught.
            passes: Returns whether a request that failed with this exception may succeed later.
            explain: Makes the final error from the action, the last exception, and the seconds since the start.
            reason: Returns an exception in a few words, for the log.
        """
        self._patience = patience
        self._errors = errors
        self._passes = passes
        self._explain = explain
        self._reason = reason
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
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, self._errors) and self._passes(error)),
            stop=tenacity.stop_before_delay(self._patience) | tenacity.stop_when_event_set(stopping),
            wait=tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
            sleep=tenacity.sleep_using_event(stopping),
            before_sleep=lambda state: self._complain(what, state),
            reraise=True,
        )
        try:
            return attempts(action)
        except self._errors as error:
            raise self._explain(what, error, time.monotonic() - began) from error

    def _complain(self, what: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Exception) and time.monotonic() - self._last_complaint > QUIET_SECONDS:
            self._last_complaint = time.monotonic()
            logger.warning("%s failed (%s); trying again", what, self._reason(error))


def until(stopping: threading.Event, action: Callable[[], Result]) -> Result:
    """Runs an action; once an event is set, its requests are no longer repeated and no longer wait."""
    previous = _stopping.set(stopping)
    try:
        return action()
    finally:
        _stopping.reset(previous)


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
    """Returns an exception in at most 200 characters, without the credentials of addresses in it."""
    text = without_credentials(str(error).split("\n", 1)[0])
    return text if len(text) < 200 else f"{text[:200]}…"


def untrusted(server: str, error: Exception) -> UserError:
    """Returns the error for a server whose certificate is not trusted, or that has none."""
    return UserError(
        f"{server} is not trusted, or does not use TLS ({first_line(error)}); check its address and AWS_CA_BUNDLE."
    )


def silent(server: str, what: str, reason: str, seconds: float) -> Unreachable:
    """Returns the error for a server that did not answer for too long."""
    return Unreachable(f"{server} did not answer for {seconds:.0f} s ({what}: {reason}); is it up?")
