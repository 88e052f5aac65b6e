"""How long a closed-form plan takes: by itself, all topologies, and through the REST API of this process.

Run it alone with `python -m tests.bench.bench_plan`. It uses the recorded configs of real models and a
database in a temporary folder.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).resolve().parents[1] / "recordings" / "planner" / "models.json"
ROUNDS = 5


def main() -> None:
    """Print median, p95 and maximum of each way to plan, in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="raydeck-bench-") as folder:
        os.environ |= {"RAYDECK_DATA_DIR": folder, "DJANGO_SETTINGS_MODULE": "console.settings"}
        os.environ["RAYDECK_TESTING"] = "1"
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        _measure()


def _measure() -> None:
    from serving.accelerators import accelerator
    from serving.planner.plan import make_plan
    from serving.planner.request import PlanRequest
    from serving.planner.topologies import ClusterView, topologies

    models = [model["config"] for model in json.loads(RECORDED.read_text())["models"]]
    h100 = accelerator("H100")
    requests = [PlanRequest(config=config, accelerator=h100, max_model_len=4096) for config in models]
    make_plan(requests[0])  # imports and data files
    _print("closed form, one plan", [_timed(make_plan, one) for one in requests * ROUNDS])
    _print("all topologies of a model", [_timed(topologies, one, ClusterView()) for one in requests])
    post = _poster()
    bodies = [{"config": config, "accelerator": "H100", "max_model_len": 4096} for config in models]
    post(bodies[0])
    _print("POST /api/v1/plan", [_timed(post, body) for body in bodies * ROUNDS])


def _poster() -> Callable[[dict[str, Any]], Any]:
    from django.test import Client

    from console import auth
    from console.models import User

    user = User.objects.create_user(username="bench", password=os.urandom(12).hex(), role="viewer")
    token = auth.create_token(user=user, name="bench", role="viewer")[1]
    client = Client()

    def post(body: dict[str, Any]) -> Any:
        answer = client.post(
            "/api/v1/plan",
            json.dumps(body),
            content_type="application/json",
            headers={"Authorization": f"Bearer {token}"},
        )
        assert answer.status_code == 200, answer.content[:300]
        return answer

    return post


def _timed(call: Callable[..., Any], *arguments: Any) -> float:
    started = time.perf_counter()
    call(*arguments)
    return (time.perf_counter() - started) * 1000


def _print(what: str, times_ms: list[float]) -> None:
    ordered = sorted(times_ms)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    print(
        f"{what:28} {len(ordered):4} × median {statistics.median(ordered):6.2f} ms"
        f" · p95 {p95:6.2f} ms · max {ordered[-1]:6.2f} ms"
    )


if __name__ == "__main__":
    main()
