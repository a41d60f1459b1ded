"""A real HTTP server for tests: files with ranges and versions, and the faults of the web when asked for them."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class WebServer:
    """What a running server serves, what was asked of it, and what goes wrong.

    Attributes:
        files: Path such as "/a.zip" -> content.
        etags: Path -> ETag; without one there is none.
        redirects: Path -> where it leads.
        breaks: Bytes of the body after which each of the next answers breaks off.
        errors: Status of each of the next answers.
        pause: Seconds after which those want to be asked again (Retry-After).
        ranges: Whether Range headers are understood.
        lengths: Whether answers say how long they are.
        requests: Method, path and Range header of every request.
    """

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    pause: str | None = None
    ranges: bool = True
    lengths: bool = True
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def answer(self, handler: http.server.BaseHTTPRequestHandler, *, body: bool) -> None:
        path, asked = handler.path.partition("?")[0], handler.headers.get("Range")
        self.requests.append((handler.command, handler.path, asked))
        if self.errors:
            handler.send_response(self.errors.pop(0))
            if self.pause is not None:
                handler.send_header("Retry-After", self.pause)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if path in self.redirects:
            handler.send_response(302)
            handler.send_header("Location", self.redirects[path])
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if path not in self.files:
            handler.send_error(404)
            return
        content, start, etag = self.files[path], 0, self.etags.get(path)
        if asked and self.ranges and etag and handler.headers.get("If-Range") == etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start and start >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if etag:
            handler.send_header("ETag", etag)
        if self.lengths:
            handler.send_header("Content-Length", str(len(content) - start))
        handler.send_header("Connection", "close")
        handler.end_headers()
        if body:
            stop = start + self.breaks.pop(0) if self.breaks else len(content)
            handler.wfile.write(content[start:stop])


@contextlib.contextmanager
def web_server() -> Iterator[WebServer]:
    server = WebServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self, body=True)

        def do_HEAD(self) -> None:
            server.answer(self, body=False)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *arguments: object) -> None:
            """Says nothing of clients that hang up."""

    running = Server(("127.0.0.1", 0), Handler)
    server.port = running.server_port
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        running.shutdown()
        running.server_close()
