"""A headless Chromium, spoken to over the DevTools protocol: just enough to load a page and ask about it."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
START_SECONDS = 30.0
SWITCHES = (
    "--headless",
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=IsolateSandboxedIframes",  # so that frames can be asked through their page
    "--use-fake-device-for-media-stream",  # a camera with a test picture
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


def find_chromium() -> str | None:
    """Returns the path of a Chromium, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class NoAnswerError(Exception):
    """Chromium did not start."""


class Tab:
    """A page of the browser.

    Attributes:
        problems: What went to the console as an error, and exceptions of scripts.
        requests: Addresses that were asked for.
    """

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=START_SECONDS)
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result; events that come meanwhile are kept."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def open(self, address: str, *, width: int, dark: bool = False) -> None:
        """Loads a page and waits until it is loaded.

        Args:
            address: Of the page.
            width: Of the window, in CSS pixels; narrow ones are phones.
            dark: Whether the system prefers dark colours.
        """
        self.problems, self.requests, self._events = [], [], []
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._receive()

    def evaluate(self, expression: str, *, frame: str | None = None) -> Any:
        """Returns the JSON value of a JavaScript expression in the page, or in one of its frames."""
        context = {}
        if frame is not None:
            world = self.call("Page.createIsolatedWorld", frameId=frame)
            context = {"contextId": world["executionContextId"]}
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, **context)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def frames(self) -> list[str]:
        """Returns the ids of the frames inside the page."""
        tree = self.call("Page.getFrameTree")["frameTree"]
        return [child["frame"]["id"] for child in tree.get("childFrames", [])]

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def _receive(self) -> dict[str, Any]:
        message = json.loads(self._socket.recv())
        if "method" in message:
            self._events.append(message)
            self._note(message["method"], message["params"])
        return message

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.problems.append(f"{parameters['entry']['level']}: {parameters['entry']['text']}")
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.problems.append(str(parameters["args"]))


@contextlib.contextmanager
def chromium_tab(executable: str, profile: Path, *, switches: tuple[str, ...] = SWITCHES) -> Iterator[Tab]:
    """Starts a browser with an empty profile and ends it afterwards.

    Args:
        executable: The browser.
        profile: Empty folder for its settings.
        switches: Arguments that it is started with.

    Raises:
        NoAnswerError: It did not start within half a minute.
    """
    command = [executable, *switches, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        try:
            port = _debugging_port(process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=START_SECONDS) as answer:
                pages = [target for target in json.load(answer) if target["type"] == "page"]
            tab = Tab(pages[0]["webSocketDebuggerUrl"])
            yield tab
            tab.close()
        finally:
            process.kill()


def _debugging_port(process: subprocess.Popen[str]) -> str:
    """Waits for the line that names the port; goes on reading so that the browser never blocks on a full pipe."""
    ports: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if "DevTools listening on ws://" in line:
                ports.put(line.rpartition("ws://")[2].partition("/")[0].rpartition(":")[2])

    threading.Thread(target=read, daemon=True).start()
    try:
        return ports.get(timeout=START_SECONDS)
    except queue.Empty:
        raise NoAnswerError(f"{process.args} did not start within {START_SECONDS:.0f} s") from None
