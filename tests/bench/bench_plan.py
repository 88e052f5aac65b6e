"""How exact closed-form plans are on the recorded models and engine logs, and how long one takes: by itself,
all topologies, and through the REST API of this process.

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
        _score()
        _measure()


def _score() -> None:
    """Largest errors against what vLLM's own classes said and what engines logged."""
    from tests.unit.planner.recorded import models
    from tests.unit.planner.test_recorded_models import planned

    weights, caches = [], []
    for found in models():
        for key, sizes in found["vllm_weight_bytes_per_rank"].items():
            memory = planned(found, key).memory if isinstance(sizes, list) else None
            if memory is not None:
                weights += [
                    one.weight_bytes / size - 1 for one, size in zip(memory.stages, sizes, strict=True)
                ]
        for key, by_length in found.get("kv_capacity_for_20GiB_per_rank_mbt8192", {}).items():
            for length, expected in by_length.items():
                memory = planned(found, key, max_model_len=int(length)).memory
                if memory is not None and expected.get("tokens"):
                    caches.append(memory.kv_cache_tokens / expected["tokens"] - 1)
    for what, errors in (("weights of a rank", weights), ("KV tokens for 20 GiB", caches)):
        print(f"{what:28} {len(errors):4} recorded · largest error {max(map(abs, errors)):.5%}")
    for what, errors in _logged_errors().items():
        sizes = [abs(error) for error in errors]
        print(
            f"{what:28} {len(errors):4} logged   · median error {statistics.median(sizes):.3%}"
            f" · largest {max(sizes):.2%}"
        )


def _logged_errors() -> dict[str, list[float]]:
    """Signed errors against engine logs: weights (one row that nothing explains left out), KV end to end."""
    from serving.planner.request import GIB
    from tests.unit.planner import test_logged_engines as logged

    found: dict[str, list[float]] = {"logged weights": [], "KV cache, end to end": []}
    for parameter in logged.rows_with("model_loading_gib"):
        row = parameter.values[0]
        memory = logged.plan_of(row).memory
        if row["n"] != logged.UNLIKE and memory is not None:
            planned_gib = memory.stages[0].weight_bytes / GIB
            found["logged weights"].append(planned_gib / row["observed"]["model_loading_gib"] - 1)
    for parameter in logged.END_TO_END:
        row = parameter.values[0]
        memory = logged.plan_of(row).memory
        if memory is not None:
            planned_gib = memory.kv_cache_bytes / GIB
            found["KV cache, end to end"].append(planned_gib / row["observed"]["available_kv_gib"] - 1)
    return found


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
    client = Client(SERVER_NAME="127.0.0.1")

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
