"""How long everything takes to be there: console, Ray, the demo model, the first token, and to be gone again.

One copy of the product on this machine, from nothing. Goals: console within 20 s, demo ready
within 60 s of the click, first token of the first user request within 1 s.
"""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from tests.product import DEPLOYMENT, Product

REQUESTS = 20


def main() -> None:
    """Measure once and print."""
    folder = Path(tempfile.mkdtemp(prefix="rdbs-", dir="/tmp"))
    product = Product(folder)
    try:
        console_s = time.monotonic() - product.copy.started
        product.copy.until(lambda: "ray is up" in product.copy.said())
        ray_s = time.monotonic() - product.copy.started
        product.copy.until(lambda: product.api.get("cluster").json()["gateway_ready"])
        gateway_s = time.monotonic() - product.copy.started
        clicked = time.monotonic()
        product.deploy()
        ready_s = time.monotonic() - clicked
        first, *others = [first_token_s(product) for _ in range(REQUESTS + 1)]
        phases = {row["name"]: row["seconds"] for row in product.deployment()["phases"]}
        stopping = time.monotonic()
        product.api.close()
        product.copy.stop()
        stop_s = time.monotonic() - stopping
    finally:
        product.copy.close()
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".out").unlink(missing_ok=True)
    print(f"console answers after the start          {console_s:7.1f} s   goal 20")
    print(f"Ray is up after the start                {ray_s:7.1f} s")
    print(f"gateway is up after the start            {gateway_s:7.1f} s")
    print(f"demo is ready after the click            {ready_s:7.1f} s   goal 60")
    for name in ("queued", "placing", "loading", "warming"):
        print(f"  {name:<38} {phases[name]:7.1f} s")
    print(f"first user request, first token          {first * 1000:7.0f} ms  goal 1000")
    print(f"next {REQUESTS} requests, first token, median    {statistics.median(others) * 1000:7.0f} ms")
    print(f"Ctrl-C until everything has ended        {stop_s:7.1f} s")


def first_token_s(product: Product) -> float:
    """Seconds from sending a streamed chat to the first text of the answer."""
    body = {
        "model": DEPLOYMENT,
        "stream": True,
        "max_tokens": 32,
        "messages": [{"role": "user", "content": "Why does the KV cache matter?"}],
    }
    headers = {"Authorization": f"Bearer {product.key}"}
    url = f"{product.gateway_url}/v1/chat/completions"
    started = time.monotonic()
    seconds = None
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if seconds is None and '"content":"' in line and '"content":""' not in line:
                seconds = time.monotonic() - started
    if seconds is None:
        raise RuntimeError("The answer carried no text.")
    return seconds


if __name__ == "__main__":
    main()
