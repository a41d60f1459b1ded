"""A TCP proxy before a server for tests: it counts bytes, is slow, and cuts connections when asked to."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """What passed through a running proxy, and what goes wrong.

    Attributes:
        target: Port of the server.
        cut_up: Bytes of a request after which its connection is cut; each entry serves once.
        cut_down: Bytes of all answers to a connection after which it is cut; each entry serves once.
        bytes_per_second: Speed of every connection; None: as fast as it can.
        up: Bytes of all requests that arrived here.
        down: Bytes of all answers that were passed on.
        first_lines: First line of every request that began a block of bytes.
    """

    target: int
    port: int = 0
    cut_up: list[int] = field(default_factory=list)
    cut_down: list[int] = field(default_factory=list)
    bytes_per_second: float | None = None
    up: int = 0
    down: int = 0
    first_lines: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.target)) as server:
            down = threading.Thread(target=self._pass_on, args=(server, client, "down"), daemon=True)
            down.start()
            self._pass_on(client, server, "up")
            down.join()

    def _pass_on(self, source: socket.socket, target: socket.socket, way: str) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while block := source.recv(2**16):
                if way == "up" and (line := block.split(b"\r\n", 1)[0]).endswith(b"HTTP/1.1"):
                    self.first_lines.append(line.decode())
                    passed = 0
                passed += len(block)
                with self._lock:
                    setattr(self, way, getattr(self, way) + len(block))
                    cuts = self.cut_up if way == "up" else self.cut_down
                    cut = next((each for each in cuts if passed > each), None)
                    if cut is not None:
                        cuts.remove(cut)
                        break
                if self.bytes_per_second is not None:
                    time.sleep(len(block) / self.bytes_per_second)
                target.sendall(block)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """Serves on a free port of this machine.

    Args:
        target: Port of the server behind it.
    """
    running = Proxy(target)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running.port = listening.getsockname()[1]

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    threading.Thread(target=running.serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield running
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
