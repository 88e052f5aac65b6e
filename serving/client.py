"""The only HTTP to Ray: Serve's document and state, nodes, metrics pages, logs.

Synchronous, with timeouts; a GET that fails in transport is tried once more (Ray's dashboard stalls for
seconds under load), a PUT never. Raises the domain's errors only. Must not decide anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serving.errors import ConfigRejected, RayRefused, RayUnavailable

APPLICATIONS = "/api/serve/applications/"
LONGEST_MESSAGE = 2000
# The dashboard turns the names of resources into camel case like any other JSON key.
CAMEL_CASED = {"acceleratorType:": "accelerator_type:", "objectStoreMemory": "object_store_memory"}
# Ray answers 500 for these although asking again cannot help.
NOT_THERE = ("A file is not found", "doesn't exist")


@dataclass(frozen=True)
class Node:
    """One node as Ray sees it now. Resources are in Ray's units (CPUs, GPUs, bytes of memory)."""

    id: str
    address: str
    host_name: str
    is_head: bool
    is_alive: bool
    total: dict[str, float]
    available: dict[str, float]
    memory_total_bytes: int
    memory_used_bytes: int
    cpu_percent: float
    gpus: list[dict[str, Any]]
    accelerator_types: list[str]
    metrics_url: str | None
    state_message: str

    @property
    def claimed(self) -> dict[str, float]:
        """What placed work holds: total minus available."""
        return {name: self.total[name] - self.available.get(name, 0.0) for name in self.total}


@dataclass(frozen=True)
class Versions:
    """What runs on the cluster."""

    ray: str
    ray_commit: str
    session: str


class RayClient:
    """Talks to one cluster. `token` is the cluster's auth token, None where it has none."""

    def __init__(
        self,
        dashboard_url: str,
        *,
        token: str | None = None,
        timeout_s: float = 10.0,
        host_header: str | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if host_header:
            headers["Host"] = host_header
        self._url = dashboard_url.rstrip("/")
        self._http = httpx.Client(
            base_url=self._url, headers=headers, timeout=httpx.Timeout(timeout_s, connect=min(3.0, timeout_s))
        )
        # Metrics pages need no token and must not get it: they listen elsewhere.
        self._pages = httpx.Client(timeout=httpx.Timeout(min(timeout_s, 5.0), connect=2.0))

    @classmethod
    def from_token_file(
        cls, dashboard_url: str, token_file: Path | None, *, timeout_s: float = 10.0
    ) -> RayClient:
        """A client whose token stands in a file; a missing file means a cluster without token."""
        token = None
        if token_file is not None and token_file.exists():
            token = token_file.read_text(encoding="utf-8").strip() or None
        return cls(dashboard_url, token=token, timeout_s=timeout_s)

    def __enter__(self) -> RayClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the connections."""
        self._http.close()
        self._pages.close()

    def version(self) -> Versions:
        """Ray's version and session. Raises RayUnavailable, RayRefused."""
        answer = self._get_json("/api/version")
        return Versions(
            ray=str(answer.get("ray_version", "")),
            ray_commit=str(answer.get("ray_commit", "")),
            session=str(answer.get("session_name", "")),
        )

    def get_serve_state(self) -> dict[str, Any]:
        """Serve's state as Ray gives it: applications, proxies. Raises RayUnavailable, RayRefused."""
        return self._get_json(APPLICATIONS)

    def put_config(self, document: Mapping[str, Any], *, timeout_s: float = 60.0) -> None:
        """Replaces Serve's whole document; returns when Ray took it, not when it is done.

        The first PUT to a cluster starts the controller and takes seconds. Raises ConfigRejected with
        Ray's own words for a 4xx, RayUnavailable otherwise (then it is unknown whether Ray took it).
        """
        try:
            answer = self._http.put(APPLICATIONS, json=dict(document), timeout=timeout_s)
        except httpx.HTTPError as error:
            raise self._unavailable(error) from error
        if answer.status_code in (401, 403):
            raise self._refused(answer)
        if 400 <= answer.status_code < 500:
            raise ConfigRejected(_message_of(answer))
        if answer.status_code >= 500:
            raise RayUnavailable(f"Ray at {self._url} failed on the document: {_message_of(answer)}")

    def get_nodes(self) -> list[Node]:
        """All nodes with total, available and used resources. Raises RayUnavailable, RayRefused.

        Total comes from the dashboard's node list, available from its cluster status; where that says
        nothing about a node, everything counts as available.
        """
        summary = self._get_json("/nodes", params={"view": "summary"})
        nodes = _at(summary, "data", "summary") or []
        available = self._available_by_node()
        return [_node(raw, available) for raw in nodes if isinstance(raw, dict)]

    def get_metrics_targets(self) -> list[str]:
        """Addresses (`host:port`) of all metrics pages. Raises RayUnavailable, RayRefused."""
        groups = self._get_json("/api/prometheus/sd")
        return [target for group in _as_list(groups) for target in group.get("targets", [])]

    def read_metrics(self, target: str) -> str:
        """One metrics page in Prometheus' text form. `target` is `host:port`. Raises RayUnavailable."""
        try:
            answer = self._pages.get(f"http://{target}/metrics")
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise RayUnavailable(f"The metrics page at {target} does not answer: {_words(error)}") from error
        return answer.text

    def list_logs(self, node_id: str, glob: str = "*") -> list[str]:
        """Names of a node's log files that match, as `get_log_tail` takes them. Raises RayUnavailable."""
        answer = self._get_json("/api/v0/logs", params={"node_id": node_id, "glob": glob})
        groups = _at(answer, "data", "result") or {}
        return sorted({str(name) for names in groups.values() for name in names})

    def get_log_tail(self, node_id: str, filename: str, *, lines: int = 200) -> str:
        """The last lines of a log file. Raises RayUnavailable, RayRefused (no such file)."""
        answer = self._get(
            "/api/v0/logs/file",
            params={"node_id": node_id, "filename": filename, "lines": lines, "format": "text"},
        )
        return answer.content.decode("utf-8", errors="replace")

    def _available_by_node(self) -> dict[str, dict[str, float]]:
        answer = self._get_json("/api/cluster_status")
        usage = _at(answer, "data", "clusterStatus", "loadMetricsReport", "usageByNode") or {}
        # usageByNode: {node: {resource: [used, total]}}
        return {
            str(node): {_resource(name): float(pair[1]) - float(pair[0]) for name, pair in resources.items()}
            for node, resources in usage.items()
        }

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> httpx.Response:
        answer = self._get_twice(path, params)
        if answer.status_code in (401, 403) or 400 <= answer.status_code < 500:
            raise self._refused(answer)
        if answer.status_code >= 500 and any(words in answer.text for words in NOT_THERE):
            raise self._refused(answer)
        if answer.status_code >= 500:
            raise RayUnavailable(f"Ray at {self._url} answered {answer.status_code}: {_message_of(answer)}")
        return answer

    def _get_twice(self, path: str, params: Mapping[str, Any] | None) -> httpx.Response:
        try:
            return self._http.get(path, params=params)
        except httpx.HTTPError:
            # Once more: one stalled poll must not look like an outage.
            try:
                return self._http.get(path, params=params)
            except httpx.HTTPError as error:
                raise self._unavailable(error) from error

    def _get_json(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        answer = self._get(path, params)
        try:
            return answer.json()
        except ValueError as error:
            raise RayUnavailable(f"Ray at {self._url}{path} answered something that is not JSON.") from error

    def _unavailable(self, error: Exception) -> RayUnavailable:
        return RayUnavailable(f"Ray at {self._url} does not answer: {_words(error)}")

    def _refused(self, answer: httpx.Response) -> RayRefused:
        if answer.status_code in (401, 403):
            return RayRefused(f"Ray at {self._url} refuses the token ({answer.status_code}).", field="token")
        return RayRefused(f"Ray at {self._url} answered {answer.status_code}: {_message_of(answer)}")


def _node(raw: dict[str, Any], available: dict[str, dict[str, float]]) -> Node:
    raylet = raw.get("raylet") or {}
    total = {_resource(name): float(value) for name, value in (raylet.get("resourcesTotal") or {}).items()}
    node_id = str(raylet.get("nodeId", ""))
    address = str(raw.get("ip") or raylet.get("nodeManagerAddress") or "")
    memory = raw.get("mem") or [0, 0, 0.0, 0]
    port = raylet.get("metricsExportPort")
    free = available.get(node_id, available.get(address))
    return Node(
        id=node_id,
        address=address,
        host_name=str(raw.get("hostname") or raylet.get("nodeManagerHostname") or ""),
        is_head=bool(raylet.get("isHeadNode")),
        is_alive=raylet.get("state") == "ALIVE",
        total=total,
        # Placement groups add names of their own to what is free; they are no resources of the node.
        available={name: total[name] if free is None else free.get(name, total[name]) for name in total},
        memory_total_bytes=int(memory[0]),
        memory_used_bytes=int(memory[3]) if len(memory) > 3 else 0,
        cpu_percent=float(raw.get("cpu") or 0.0),
        gpus=list(raw.get("gpus") or []),
        accelerator_types=sorted(
            name.removeprefix("accelerator_type:") for name in total if name.startswith("accelerator_type:")
        ),
        metrics_url=f"{address}:{port}" if address and port else None,
        state_message=str(raylet.get("stateMessage") or ""),
    )


def _resource(name: str) -> str:
    for camel, plain in CAMEL_CASED.items():
        if name.startswith(camel):
            return plain + name.removeprefix(camel)
    return name


def _message_of(answer: httpx.Response) -> str:
    """Ray's own words of an error answer, without a traceback's middle."""
    text = answer.text
    try:
        decoded = json.loads(text)
    except ValueError:
        decoded = None
    if isinstance(decoded, dict):
        text = str(decoded.get("msg") or decoded.get("detail") or text)
    text = text.strip()
    return text if len(text) <= LONGEST_MESSAGE else "…" + text[-LONGEST_MESSAGE:]


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _at(value: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _as_list(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
