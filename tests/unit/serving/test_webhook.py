"""The webhook's guard and signature, against a server of its own on loopback."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from serving import webhook
from serving.errors import InvalidSpec

SECRET = "a secret of some length"


class Receiver(BaseHTTPRequestHandler):
    """Answers with the status in the path and keeps what it was sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        status = int(self.path.strip("/") or 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/200")
        self.end_headers()
        self.wfile.write(b"x" * 100_000)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def receiver() -> Iterator[Any]:
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    server.received = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def send(url: str, *, allow_private: bool = True) -> webhook.Outcome:
    return webhook.deliver(
        url=url, body=b'{"a":1}', headers={"X-Raydeck-Event": "test"}, secret=SECRET, timestamp=1700,
        allow_private=allow_private,
    )  # fmt: skip


def test_a_message_arrives_signed_over_timestamp_and_body(receiver: Any) -> None:
    assert send(f"http://localhost:{receiver.server_port}/204") == webhook.Outcome(204)
    ((path, headers, body),) = receiver.received
    assert (path, body, headers["X-Raydeck-Event"]) == ("/204", b'{"a":1}', "test")
    assert headers["Host"] == f"localhost:{receiver.server_port}"
    expected = hmac.new(SECRET.encode(), b"1700." + body, hashlib.sha256).hexdigest()
    assert headers["X-Raydeck-Timestamp"] == "1700"
    assert headers["X-Raydeck-Signature"] == f"v1={expected}"


def test_redirects_are_not_followed_and_errors_carry_no_body(receiver: Any) -> None:
    base = f"http://127.0.0.1:{receiver.server_port}"
    assert send(f"{base}/302") == webhook.Outcome(302, "It answered 302; redirects are not followed.")
    assert send(f"{base}/500") == webhook.Outcome(500, "It answered 500.")
    assert [path for path, _, _ in receiver.received] == ["/302", "/500"]


def test_loopback_takes_the_setting(receiver: Any) -> None:
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"):
        outcome = send(f"http://{host}:{receiver.server_port}/200", allow_private=False)
        assert outcome.status is None and outcome.error, host
    assert receiver.received == []


def test_a_name_with_one_forbidden_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("93.184.216.34", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert "RAYDECK_WEBHOOK_ALLOW_PRIVATE" in send("http://mixed.example/", allow_private=False).error


def test_who_does_not_answer_is_left_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "DEADLINE_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        outcome = send(f"http://127.0.0.1:{silent.getsockname()[1]}/")
    assert outcome.status is None and outcome.error


def test_a_refused_connection_is_named_without_its_address() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refused = send(f"http://127.0.0.1:{closed.getsockname()[1]}/")
    assert refused == webhook.Outcome(None, "The connection failed (ConnectError).")


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        ("93.184.216.34", True, True),
        ("2606:2800:220:1:248:1893:25c8:1946", True, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("10.1.2.3", False, True),
        ("192.168.1.1", False, True),
        ("fd00::1", False, True),
        ("100.64.0.1", False, False),
        ("169.254.169.254", False, False),
        ("fe80::1", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("::ffff:10.0.0.1", False, True),
        ("64:ff9b::a00:1", False, True),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("2002:a00:1::", False, True),
        ("0.0.0.0", False, False),
        ("224.0.0.1", False, False),
        ("255.255.255.255", False, False),
        ("::", False, False),
        ("::169.254.169.254", False, False),
        ("::7f00:1", False, False),
        ("64:ff9b:1::a9fe:a9fe", False, False),
        ("fec0::1", False, False),
    ],
)
def test_which_addresses_are_allowed(address: str, public: bool, private: bool) -> None:
    parsed = ipaddress.ip_address(address)
    assert webhook.is_allowed(parsed, allow_private=False) is public
    assert webhook.is_allowed(parsed, allow_private=True) is private


@pytest.mark.parametrize(
    "url",
    ["", "ftp://a.example", "file:///etc/passwd", "https://", "http://user:pw@a.example/", "gopher://x",
     "http://a.example/ b", "http://a.example:99999/", "javascript:alert(1)", "http://[::1", "http://ä.example/",
     "https://a.example/" + "x" * 500],
)  # fmt: skip
def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        webhook.checked_url(url)
    assert refused.value.field == "url"


def test_a_web_address_is_trimmed() -> None:
    assert webhook.checked_url(" https://a.example:8443/x?y=1 ") == "https://a.example:8443/x?y=1"
