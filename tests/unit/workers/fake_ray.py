"""A stand-in for Ray's dashboard and the gateway at the transport: real HTTP, invented cluster.

It keeps to what was seen of Ray 2.60 (`tests/cluster/` asks the real one the same things): PUT replaces
everything, answers with an empty body, and apps go DEPLOYING → RUNNING by `finish()`.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeRay:
    """One cluster of one node with two CPU cores. Tests move its apps on by hand."""

    def __init__(self) -> None:
        self.apps: dict[str, dict[str, Any]] = {}
        self.puts: list[dict[str, Any]] = []
        self.smokes: list[str] = []
        self.reject_with = ""
        self.smoke_status = 200
        self.logs: dict[str, str] = {}
        self._replicas = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Address of the dashboard, and of the gateway."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def restart(self) -> None:
        """The head came back without its memory."""
        self.apps = {}

    def place(self, name: str) -> None:
        """A replica of this app gets a process."""
        self._replica(name)["pid"] = 4711

    def finish(self, name: str) -> None:
        """The app's replica takes requests."""
        replica = self._replica(name)
        replica.update(state="RUNNING", pid=4711)
        self.apps[name]["status"] = "RUNNING"

    def fail(self, name: str, message: str) -> None:
        """The app gave up."""
        engine = self._engine(name)
        engine["recent_dead_replicas"] = engine["replicas"]
        engine["replicas"] = []
        engine["message"] = message
        self.apps[name].update(status="DEPLOY_FAILED", message=message)

    def kill_replica(self, name: str) -> None:
        """The engine process died and Ray is about to start another."""
        self._engine(name)["replicas"] = []
        self.apps[name]["status"] = "UNHEALTHY"

    def start_dies(self, name: str, cause: str) -> None:
        """A replica of a start under way ended; Ray tries again."""
        engine = self._engine(name)
        engine["recent_dead_replicas"] = engine["replicas"]
        engine["replicas"] = []
        engine["message"] = f"A replica failed to start with exception. Error:\nraydeck-cause:\n{cause}"

    def sleep(self, name: str) -> None:
        """Scaled to zero."""
        self._engine(name).update(replicas=[], target_num_replicas=0)

    def _put(self, document: dict[str, Any]) -> None:
        self.puts.append(document)
        wanted = {app["name"]: app for app in document["applications"]}
        for name in [name for name in self.apps if name not in wanted]:
            del self.apps[name]
        for name, config in wanted.items():
            old = self.apps.get(name)
            if old and old["deployed_app_config"]["args"] == config["args"]:
                old["deployed_app_config"] = config
                continue
            self.apps[name] = self._new_app(config)

    def _new_app(self, config: dict[str, Any]) -> dict[str, Any]:
        is_gateway = config["name"] == "gateway"
        return {
            "status": "RUNNING" if is_gateway else "DEPLOYING",
            "message": "",
            "source": "declarative",
            "deployed_app_config": config,
            "deployments": {
                "Gateway" if is_gateway else "engine": {
                    "status": "UPDATING",
                    "message": "",
                    "target_num_replicas": 1,
                    "replicas": [],
                    "recent_dead_replicas": [],
                }
            },
        }

    def _engine(self, name: str) -> dict[str, Any]:
        return self.apps[name]["deployments"]["engine"]

    def _replica(self, name: str) -> dict[str, Any]:
        engine = self._engine(name)
        engine["target_num_replicas"] = max(1, engine["target_num_replicas"])
        if not engine["replicas"]:
            self._replicas += 1
            engine["replicas"].append(
                {
                    "replica_id": f"replica{self._replicas}",
                    "state": "STARTING",
                    "start_time_s": time.time(),
                    "node_id": "node1",
                    "worker_id": f"worker{self._replicas}",
                    "log_file_path": f"/serve/replica_{self._replicas}.log",
                }
            )
        return engine["replicas"][0]

    def _answer(self, path: str) -> Any:
        path = path.split("?")[0]
        if path == "/api/serve/applications/":
            return {"applications": self.apps}
        if path == "/nodes":
            raylet = {
                "nodeId": "node1",
                "state": "ALIVE",
                "isHeadNode": True,
                "resourcesTotal": {"CPU": 2.0},
            }
            node = {"ip": "127.0.0.1", "hostname": "head", "mem": [24 << 30, 0, 0.0, 0], "raylet": raylet}
            return {"data": {"summary": [node]}}
        if path == "/api/version":
            return {"ray_version": "2.60.0"}
        if path == "/api/v0/logs":
            return {"data": {"result": {"worker_err": sorted(self.logs)}}}
        return [] if path == "/api/prometheus/sd" else {}

    def _handler(fake) -> type[BaseHTTPRequestHandler]:  # noqa: N805  (the handler's own self is the request)
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # noqa: N802
                if self.path.startswith("/api/v0/logs/file"):
                    return self._send(200, "".join(fake.logs.values()).encode())
                return self._send(200, json.dumps(fake._answer(self.path)).encode())

            def do_PUT(self) -> None:  # noqa: N802
                document = json.loads(self._body())
                if fake.reject_with:
                    return self._send(400, fake.reject_with.encode())
                fake._put(document)
                return self._send(200, b"")

            def do_POST(self) -> None:  # noqa: N802
                model = json.loads(self._body())["model"]
                fake.smokes.append(model)
                if fake.smoke_status == 200:
                    return self._send(200, b'{"choices": [{"text": "hi"}]}')
                return self._send(fake.smoke_status, b'{"error": {"message": "not yet"}}')

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        return Handler
