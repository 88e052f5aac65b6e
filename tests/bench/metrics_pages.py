"""A process that serves one metrics page of a given size, its counters moving: `metrics_pages PORT BYTES`."""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPLICAS = [f"r{number}-{replica}" for number in range(20) for replica in range(2)]


def page(size_bytes: int) -> str:
    """Series of 40 replicas as they are now, filled up with histograms nobody wants."""
    tokens = int(time.time() * 100) % 10_000_000
    labels = 'Component="core_worker",NodeAddress="127.0.0.1",ReplicaId="%s",engine="0",model_name="m"'
    figures = {
        "ray_vllm_num_requests_running": 3,
        "ray_vllm_num_requests_waiting": 1,
        "ray_vllm_kv_cache_usage_perc": 0.4,
        "ray_vllm_prompt_tokens_total": tokens,
        "ray_vllm_generation_tokens_total": tokens,
        "ray_raydeck_weights_bytes": 2e7,
        "ray_raydeck_kv_cache_bytes": 6.7e7,
        "ray_raydeck_process_memory_bytes": 1.3e9,
    }
    wanted = [
        f"{name}{{{labels % replica}}} {value}" for replica in REPLICAS for name, value in figures.items()
    ]
    wanted.append('ray_node_mem_used{ip="127.0.0.1"} 1.0')
    filler = f'ray_vllm_e2e_request_latency_seconds_bucket{{{labels % "r0-0"},le="0.3"}} 1.0'
    missing = max(0, size_bytes - sum(len(line) + 1 for line in wanted))
    return "\n".join([*wanted, *[filler] * (missing // (len(filler) + 1))]) + "\n"


def main() -> None:
    """Serve until ended."""
    port, size_bytes = int(sys.argv[1]), int(sys.argv[2])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            targets = [{"targets": [f"127.0.0.1:{port}"]}]
            text = json.dumps(targets) if self.path == "/api/prometheus/sd" else page(size_bytes)
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
