"""Chromium against a real copy of the console: web server and Redis on free ports, a data folder of its own.

The browser is Debian's; nothing is downloaded. A page that logs an error, fails to load something or throws
fails its test.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels_redis.pubsub import RedisPubSubChannelLayer
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from tests.services import free_port, redis_server

PROJECT_ROOT = Path(__file__).resolve().parents[2]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
START_DEADLINE_S = 60.0
PASSWORD = secrets.token_urlsafe(12)
EXPECTED_REFUSALS = ("status of 400", "status of 403", "status of 404", "status of 409")
"""Chromium logs each refusal that a test asks for; everything else in the console is a fault."""


@dataclass
class Console:
    """A running copy: its address, its data folder and a way to speak as its workers do."""

    url: str
    environment: dict[str, str]
    redis_url: str
    folder: Path
    gateway_port: int
    """Where this copy looks for the gateway; nothing answers there unless a test starts something."""

    def manage(self, *arguments: str, stdin: str | None = None) -> str:
        """Run `manage.py` or, with "-c", Python inside this copy; gives what it printed."""
        program = [sys.executable, *([] if arguments[0] in ("-c", "-m") else ["manage.py"]), *arguments]
        done = subprocess.run(
            program,
            cwd=PROJECT_ROOT,
            env=self.environment,
            input=stdin,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def publish(self, topic: str, message: dict[str, Any]) -> None:
        """What console/live.py sends, from a thread of its own: this one runs Playwright's loop."""

        def send() -> None:
            layer = RedisPubSubChannelLayer(hosts=[self.redis_url], prefix="raydeck")
            payload = {"type": "push", "message": {"topic": topic, **message}}
            async_to_sync(layer.group_send)(topic.replace(":", "."), payload)

        thread = threading.Thread(target=send)
        thread.start()
        thread.join(timeout=10)


@dataclass
class Faults:
    """What went wrong in a page while nobody looked."""

    found: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Collect errors of this page."""
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.found.append(f"exception: {error}"))
        page.on(
            "requestfailed",
            lambda request: (
                None
                if request.failure in ("net::ERR_ABORTED",)
                else self.found.append(f"failed: {request.url} {request.failure}")
            ),
        )

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(
            text in message.text for text in EXPECTED_REFUSALS
        ):
            self.found.append(f"{message.type}: {message.text}")


def chromium_path() -> str:
    """Debian's Chromium; RAYDECK_CHROMIUM names another one."""
    given = os.environ.get("RAYDECK_CHROMIUM")
    found = given or next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)
    assert found, "Chromium is missing: run `make setup`, or apt-get install chromium"
    return found


@pytest.fixture(scope="session")
def console() -> Iterator[Console]:
    """A copy of the console with people and a fleet in every phase; no Ray behind it."""
    folder = Path(tempfile.mkdtemp(prefix="rdui-", dir="/tmp"))
    port, gateway_port = free_port(), free_port()
    with redis_server() as redis_url:
        environment = {
            **os.environ,
            "RAYDECK_DATA_DIR": str(folder),
            "RAYDECK_PORT": str(port),
            "RAYDECK_GATEWAY_URL": f"http://127.0.0.1:{gateway_port}",
            "REDIS_URL": redis_url,
            "RAYDECK_ADMIN_PASSWORD": PASSWORD,
            "DJANGO_SETTINGS_MODULE": "console.settings",
            "PYTHONPATH": str(PROJECT_ROOT),
        }
        for name in ("RAYDECK_TESTING", "DATABASE_URL"):
            environment.pop(name, None)
        copy = Console(f"http://127.0.0.1:{port}", environment, redis_url, folder, gateway_port)
        copy.manage("migrate", "-v0")
        copy.manage("collectstatic", "--noinput", "-v0")
        copy.manage("-m", "tests.browser.fleet")
        with (folder / "web.log").open("wb") as log:
            arguments = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
            web = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "console.asgi:application", *arguments],
                cwd=PROJECT_ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_until_it_answers(copy.url, web)
            yield copy
        finally:
            web.terminate()
            try:
                web.wait(timeout=15)
            except subprocess.TimeoutExpired:
                web.kill()
                web.wait()
            shutil.rmtree(folder, ignore_errors=True)


def _wait_until_it_answers(url: str, web: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        assert web.poll() is None, "the web server ended while starting"
        try:
            with urllib.request.urlopen(f"{url}/login/", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the web server did not answer within {START_DEADLINE_S:.0f} s")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def logged_in(console: Console, chromium: Browser) -> Callable[[str], Any]:
    """Storage state of a person, who logged in through the login page once."""
    states: dict[str, Any] = {}

    def state_of(name: str) -> Any:
        if name not in states:
            context = chromium.new_context()
            page = context.new_page()
            page.goto(f"{console.url}/login/")
            page.fill("[name=username]", name)
            page.fill("[name=password]", PASSWORD)
            page.press("[name=password]", "Enter")
            page.wait_for_url(f"{console.url}/")
            states[name] = context.storage_state()
            context.close()
        return states[name]

    return state_of


@pytest.fixture
def open_page(
    console: Console, chromium: Browser, logged_in: Callable[[str], Any]
) -> Iterator[Callable[..., Page]]:
    """Opens a path as a person; at the end no page may have had a fault."""
    contexts: list[BrowserContext] = []
    faults = Faults()

    def open_at(path: str, *, person: str = "olga", width: int = 1440, theme: str = "light") -> Page:
        context = chromium.new_context(
            storage_state=logged_in(person),
            viewport={"width": width, "height": 900 if width > 500 else 844},
            color_scheme=theme,  # type: ignore[arg-type]
            is_mobile=width < 500,
            has_touch=width < 500,
            base_url=console.url,
        )
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        faults.watch(page)
        page.goto(path)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert not faults.found, faults.found
