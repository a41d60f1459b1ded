"""A proxy between our code and a real server: it cuts, delays, resets, throttles, or answers in its place."""

import asyncio
import contextlib
import random
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from socket import SO_LINGER, SOL_SOCKET

MISCHIEF = ("cut request", "cut answer", "reset", "delay", "throttle", "429", "503", "silence", "no answer")
"""What happens to a connection: nothing arrives any more after some bytes; it is reset; and so on."""

_ANSWERS = {
    "429": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "503": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}
_BLOCK = 4096


class Proxy:
    """A server on a port of its own that passes bytes on to another one.

    Attributes:
        port: Where it listens.
        rate: Share of the connections that something happens to; 0: none.
        mischief: What may happen to them.
        happened: How often each of it did.
    """

    def __init__(self, target: int, *, seed: int = 0, mischief: tuple[str, ...] = MISCHIEF) -> None:
        self.target = target
        self.rate = 1.0
        self.mischief = mischief
        self.happened: Counter[str] = Counter()
        self.port = 0
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        assert self._listening.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        share = self.rate if self.happened else float(self.rate > 0)  # something happens to the first one at least
        what = self._chance.choice(self.mischief) if self._chance.random() < share else "nothing"
        self.happened[what] += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if what in _ANSWERS:
                await reader.read(_BLOCK)
                writer.write(_ANSWERS[what])
                await writer.drain()
            elif what == "silence":
                await asyncio.sleep(self._chance.uniform(0.5, 2))
            else:
                await self._pass_on(what, reader, writer)
        if what in ("reset", "silence"):
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async def _pass_on(self, what: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self.target)
        few = self._chance.choice([0, 100, 5_000, 100_000])
        if what == "delay":
            await asyncio.sleep(self._chance.uniform(0.1, 1))
        pause = 0.01 if what == "throttle" else 0.0
        most_up = few if what in ("cut request", "reset") else None
        most_down = {"cut answer": few, "no answer": 0}.get(what)
        up = asyncio.create_task(_copy(reader, ours, most_up, pause))
        down = asyncio.create_task(_copy(theirs, writer, most_down, pause))
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        for task in (up, down):
            task.cancel()
        ours.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, most: int | None, pause: float) -> None:
    """Passes bytes on, at most so many."""
    passed = 0
    while block := await source.read(_BLOCK):
        if most is not None and passed + len(block) > most:
            target.write(block[: most - passed])
            with contextlib.suppress(OSError):
                await target.drain()
            return
        target.write(block)
        await target.drain()
        passed += len(block)
        await asyncio.sleep(pause)


@contextlib.contextmanager
def proxy(target: int, *, seed: int = 0, mischief: tuple[str, ...] = MISCHIEF) -> Iterator[Proxy]:
    made = Proxy(target, seed=seed, mischief=mischief)
    made.start()
    try:
        yield made
    finally:
        made.stop()
