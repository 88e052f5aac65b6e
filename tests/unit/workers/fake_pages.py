"""A stand-in for a cluster's metrics pages at the transport: real HTTP, text that the test decides."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakePages:
    """One node's page and one page of Ray's own dashboard; both on one port. `text` is served as it is."""

    def __init__(self) -> None:
        self.text = 'ray_node_mem_used{ip="127.0.0.1"} 1.0\n'
        self.broken = False
        self.reads: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """host:port of the node's page."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """Address of the dashboard."""
        return f"http://{self.address}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


def _handler(fake: FakePages) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            fake.reads.append(self.path)
            if fake.broken:
                return self._send(500, b"broken")
            if self.path == "/api/prometheus/sd":
                return self._send(200, json.dumps([{"targets": [fake.address]}]).encode())
            return self._send(200, fake.text.encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    return Handler
