"""A real HTTP server on this machine that stands for a reward service."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[int, dict[str, Any]], Any]


@contextmanager
def reward_service(reply: Reply) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its URL, and the requests that it has got.

    Args:
        reply: (number of the request from 0, its JSON) -> status and content (bytes, or what becomes JSON), or "drop",
            which closes the connection without a word.
    """
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(body)
            chosen = reply(len(seen) - 1, body)
            if chosen == "drop":
                self.close_connection = True
                return
            status, content = chosen
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/score", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
