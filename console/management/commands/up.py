"""`python manage.py up`: start everything, watch it, and on Ctrl-C stop all of it in order."""

import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from console import parts, paths, ports
from console.preparation import PreparationFailed, prepare
from console.supervisor.portcheck import conflicts
from console.supervisor.record import AlreadyRunning
from console.supervisor.startup import supervised_copy
from console.supervisor.supervisor import Supervisor
from console.supervisor.voice import Voice

# Redis answers within a tenth of a second; after this many crashes waiting for it is no use.
REDIS_TRIES = 3


class Command(BaseCommand):
    """Starts, watches, restarts and stops all parts of one copy."""

    help = "Start everything and keep it running until Ctrl-C."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Supervise until told to stop. Raises CommandError when this copy cannot be started."""
        self._began = time.monotonic()
        self._announced = False
        self._voice = Voice(log=paths.logs_dir() / "up.log")
        try:
            with supervised_copy(
                run_folder=paths.run_dir(),
                logs=paths.logs_dir(),
                voice=self._voice,
                stop_order=parts.STOP_ORDER,
                on_ready=self._announce,
                find_left_behind=parts.left_behind_by_an_earlier_copy,
                before_start=_before_start,
                after_stop=parts.clear_ray_folders_outside,
            ) as supervisor:
                self._start(supervisor)
                supervisor.run_until(lambda: False)
        except (AlreadyRunning, PreparationFailed, parts.PartUnavailable, ports.PortError) as error:
            raise CommandError(str(error)) from error
        self._voice.say("everything has stopped", tone="good")

    def _start(self, supervisor: Supervisor) -> None:
        self._voice.say(f"data folder {settings.DATA_DIR}, logs in {paths.logs_dir()}")
        if parts.redis_is_embedded():
            supervisor.add(parts.redis_part())
            supervisor.run_until(lambda: supervisor.is_ready("redis") or _hopeless(supervisor, "redis"))
            if supervisor.stop_requested:
                return
            if not supervisor.is_ready("redis"):
                raise CommandError(f"Redis does not start; {paths.logs_dir() / 'redis.log'} says why.")
        password = prepare().password
        if password:
            self._voice.say(f"first administrator: admin, password: {password}", tone="warn", secret=True)
            self._voice.say("it is shown only now; change it or keep it in a safe place")
        supervisor.add(parts.web_part())
        for part in parts.worker_parts():
            supervisor.add(part)
        if settings.RAY_IS_EMBEDDED:
            supervisor.add(parts.ray_part())
        else:
            self._voice.say(f"using the Ray cluster at {settings.RAY_DASHBOARD_URL}")

    def _announce(self, name: str, seconds: float) -> None:
        if name == "web" and not self._announced:
            self._announced = True
            since_start_s = time.monotonic() - self._began
            self._voice.say(
                f"console: {parts.local_web_url()} (up {since_start_s:.1f} s after the start)", tone="good"
            )
            self._voice.say(f"gateway for OpenAI clients: {settings.GATEWAY_URL}/v1")
            return
        if name in parts.PARTS_WITH_A_PROBE:
            self._voice.say(f"{name} is up after {seconds:.1f} s")
        else:
            self._voice.say(f"{name} started")


def _hopeless(supervisor: Supervisor, name: str) -> bool:
    return supervisor.failures(name) >= REDIS_TRIES


def _before_start() -> None:
    _refuse_taken_ports()
    parts.forget_old_ray_sessions()


def _refuse_taken_ports() -> None:
    names = parts.listening_ports()
    taken = conflicts([name for name in names if name == "web"], host=settings.HOST)
    taken += conflicts([name for name in names if name != "web"])
    if taken:
        lines = "\n".join(f"  {conflict}" for conflict in taken)
        raise CommandError(
            f"Not started: these ports cannot be used.\n{lines}\n"
            "For a second copy on one machine, RAYDECK_PORT_OFFSET=1000 moves all of them at once "
            "(with a RAYDECK_DATA_DIR of its own)."
        )
