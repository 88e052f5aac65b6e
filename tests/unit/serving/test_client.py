"""The HTTP to Ray, against a real server on loopback that gives Ray's answers."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serving.client import RayClient
from serving.errors import ConfigRejected, RayRefused, RayUnavailable

NODE_ID = "095fc12f6211ced465f98c6d261193bf4dd36b599c62a95f4feb2ddb"
# As ray 2.60 answers, cut to what is read.
NODES = {
    "result": True,
    "data": {
        "summary": [
            {
                "hostname": "gpu-1",
                "ip": "10.0.0.5",
                "cpu": 12.5,
                "mem": [1000, 400, 60.0, 600],
                "gpus": [{"name": "H100", "memoryUsed": 5}],
                "raylet": {
                    "nodeId": NODE_ID,
                    "isHeadNode": True,
                    "state": "ALIVE",
                    "metricsExportPort": 8090,
                    "resourcesTotal": {
                        "CPU": 4.0,
                        "GPU": 2.0,
                        "acceleratorType:H100": 2.0,
                        "objectStoreMemory": 9.0,
                    },
                },
            },
            {
                "hostname": "gone",
                "ip": "10.0.0.6",
                "raylet": {"nodeId": "ab", "state": "DEAD", "resourcesTotal": {}},
            },
        ]
    },
}
USAGE = {
    NODE_ID: {
        "CPU": [1.0, 4.0],
        "GPU": [0.0, 2.0],
        "acceleratorType:H100": [0.5, 2.0],
        "CPUGroup0Abc": [1.0, 1.0],
    }
}
STATUS = {"data": {"clusterStatus": {"loadMetricsReport": {"usageByNode": USAGE}}}}


class Ray:
    """What the fake dashboard answers: path -> list of (status, body); the last one is repeated."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        self.url = ""

    def answer(self, path: str) -> tuple[int, bytes] | None:
        known = self.answers.get(path.partition("?")[0])
        if known is None:
            return 404, b"not found"
        status, body = known[0] if len(known) == 1 else known.pop(0)
        if status == 0:
            return None
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.fixture
def ray() -> Iterator[Ray]:
    known = Ray()

    class Dashboard(BaseHTTPRequestHandler):
        def respond(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            known.seen.append((self.command, self.path, self.headers.get("Authorization")))
            answer = known.answer(self.path)
            if answer is None:  # drops the connection without a word, as a dashboard that dies does
                self.close_connection = True
                return
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        do_GET = do_PUT = respond  # noqa: N815

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known.url = f"http://127.0.0.1:{server.server_port}"
    yield known
    server.shutdown()
    server.server_close()


def test_sends_the_token_and_reads_the_version(ray: Ray) -> None:
    ray.answers["/api/version"] = [(200, {"ray_version": "2.60.0", "ray_commit": "b7", "session_name": "s1"})]
    with RayClient(ray.url, token="secret") as client:
        version = client.version()
    assert (version.ray, version.session) == ("2.60.0", "s1")
    assert ray.seen == [("GET", "/api/version", "Bearer secret")]


def test_nodes_carry_rays_own_resource_names_and_what_is_claimed(ray: Ray) -> None:
    ray.answers["/nodes"] = [(200, NODES)]
    ray.answers["/api/cluster_status"] = [(200, STATUS)]
    with RayClient(ray.url) as client:
        node, gone = client.get_nodes()
    assert node.total == {"CPU": 4.0, "GPU": 2.0, "accelerator_type:H100": 2.0, "object_store_memory": 9.0}
    assert node.claimed == {"CPU": 1.0, "GPU": 0.0, "accelerator_type:H100": 0.5, "object_store_memory": 0.0}
    assert node.accelerator_types == ["H100"]
    assert (node.memory_total_bytes, node.memory_used_bytes) == (1000, 600)
    assert (node.metrics_url, node.is_head, node.is_alive) == ("10.0.0.5:8090", True, True)
    assert (gone.is_alive, gone.metrics_url) == (False, None)


def test_a_get_that_is_cut_off_is_tried_once_more(ray: Ray) -> None:
    ray.answers["/api/serve/applications/"] = [(0, b""), (200, {"applications": {}})]
    with RayClient(ray.url) as client:
        assert client.get_serve_state() == {"applications": {}}


def test_a_put_is_never_repeated(ray: Ray) -> None:
    ray.answers["/api/serve/applications/"] = [(0, b""), (200, b"")]
    with RayClient(ray.url) as client, pytest.raises(RayUnavailable):
        client.put_config({"applications": []})
    assert len(ray.seen) == 1


@pytest.mark.parametrize(
    ("status", "body", "raised", "words"),
    [
        (400, b"1 validation error for ServeDeploySchema\nroute prefix", ConfigRejected, "route prefix"),
        (400, {"result": False, "msg": "no such option"}, ConfigRejected, "no such option"),
        (401, b"Unauthorized", RayRefused, "token"),
        (500, b"controller is gone", RayUnavailable, "controller is gone"),
    ],
)
def test_a_document_that_is_not_taken_says_so_in_rays_words(
    ray: Ray, status: int, body: Any, raised: type[Exception], words: str
) -> None:
    ray.answers["/api/serve/applications/"] = [(status, body)]
    with RayClient(ray.url) as client, pytest.raises(raised, match=words):
        client.put_config({"applications": []})


@pytest.mark.parametrize(
    ("status", "body", "raised"),
    [
        (401, b"", RayRefused),
        (404, b"", RayRefused),
        (500, b"A file is not found at: /logs/x", RayRefused),
        (500, b"oops", RayUnavailable),
        (0, b"", RayUnavailable),
    ],
)
def test_reading_fails_only_with_errors_of_the_domain(
    ray: Ray, status: int, body: bytes, raised: type[Exception]
) -> None:
    ray.answers["/api/v0/logs/file"] = [(status, body)]
    with RayClient(ray.url) as client, pytest.raises(raised):
        client.get_log_tail("node", "x.log")


def test_an_answer_that_is_not_json_counts_as_unavailable(ray: Ray) -> None:
    ray.answers["/api/version"] = [(200, b"<html>")]
    with RayClient(ray.url) as client, pytest.raises(RayUnavailable):
        client.version()


def test_nobody_there(unused_tcp_port: int) -> None:
    with RayClient(f"http://127.0.0.1:{unused_tcp_port}", timeout_s=1) as client:
        with pytest.raises(RayUnavailable, match="does not answer"):
            client.get_serve_state()
        with pytest.raises(RayUnavailable):
            client.read_metrics(f"127.0.0.1:{unused_tcp_port}")


def test_metrics_pages_and_logs_are_listed(ray: Ray) -> None:
    ray.answers["/api/prometheus/sd"] = [
        (200, [{"targets": ["10.0.0.5:8090"]}, {"targets": ["10.0.0.6:8090"]}])
    ]
    ray.answers["/api/v0/logs"] = [
        (200, {"data": {"result": {"serve": ["serve/b.log"], "worker_err": ["a.err"]}}})
    ]
    ray.answers["/metrics"] = [(200, b"x 1\n")]
    with RayClient(ray.url, token="secret") as client:
        assert client.get_metrics_targets() == ["10.0.0.5:8090", "10.0.0.6:8090"]
        assert client.list_logs("node") == ["a.err", "serve/b.log"]
        assert client.read_metrics(ray.url.removeprefix("http://")) == "x 1\n"
    assert ray.seen[-1] == ("GET", "/metrics", None), "the token went to a metrics page"
