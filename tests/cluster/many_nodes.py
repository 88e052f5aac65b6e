"""A Ray cluster of several nodes on one machine: raylets with loopback addresses of their own, declared GPUs.

The GPUs exist in Ray's books only; nothing here can run an engine. The head is the product's own command
line, on an address that other nodes can reach. Every process is started here and ended here, by pid.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from serving.client import Node
from tests.cluster.local_cluster import PROJECT, LocalCluster, free_ports, wait_for

HEAD_ADDRESS = "127.0.0.2"
FIRST_MEMBER = 10
PORTS_PER_NODE = 60
NODE_JOINS_WITHIN_S = 90.0
MULTI_NODE = {
    # The product's head is a cluster of its own; this one lets others join.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    # The defaults miss a lost raylet after half a minute; tests need not wait for that.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
}


@dataclass
class Member:
    """One node that joined, and its `ray start` process."""

    address: str
    process: subprocess.Popen[bytes]

    def kill_raylet(self) -> None:
        """The node is gone without a word, as if its machine had lost power."""
        raylets = [
            below
            for below in psutil.Process(self.process.pid).children(recursive=True)
            if below.name() == "raylet"
        ]
        assert len(raylets) == 1, raylets
        raylets[0].kill()
        self.process.wait(timeout=60)

    def end(self) -> None:
        """SIGTERM to the node's own process, SIGKILL to whatever of it does not follow."""
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.process.send_signal(signal.SIGTERM)
            _, left = psutil.wait_procs([psutil.Process(self.process.pid), *below], timeout=20)
            for process in left:
                process.kill()
        self.process.wait(timeout=20)


class ManyNodes(LocalCluster):
    """A head without accelerators, and the nodes that `add_node` brings in."""

    def __init__(self) -> None:
        super().__init__()
        self.members: dict[str, Member] = {}
        self.command.environment.update(MULTI_NODE)
        own = [word for word in self.command.argv if word.startswith("--node-ip-address=")]
        self.command.argv[self.command.argv.index(own[0])] = f"--node-ip-address={HEAD_ADDRESS}"

    def add_node(self, *, gpus: int, accelerator_type: str, cpus: int = 8, address: str = "") -> Member:
        """Starts a raylet and waits until it has joined: several at once stand in each other's way."""
        address = address or f"127.0.0.{FIRST_MEMBER + len(self.members)}"
        options = self._options(gpus=gpus, accelerator_type=accelerator_type, cpus=cpus, address=address)
        launcher = [sys.executable, "-m", "serving.cluster.head_process", "start", "--block"]
        with open(self.folder / f"node-{address}.log", "ab") as log:
            process = subprocess.Popen(
                [
                    *launcher,
                    "--disable-usage-stats",
                    *(f"--{name}={value}" for name, value in options.items()),
                ],
                cwd=PROJECT,
                env={**os.environ, **self.command.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        member = self.members[address] = Member(address, process)
        wait_for(f"{address} joins", lambda: self.node_at(address), within_s=NODE_JOINS_WITHIN_S, every_s=0.5)
        return member

    def node_at(self, address: str) -> Node | None:
        """The live node with this address; a dead one of the same address stays listed by Ray."""
        alive = [node for node in self.ray.get_nodes() if node.address == address and node.is_alive]
        return alive[0] if alive else None

    def listed(self, what: str) -> list[dict[str, Any]]:
        """Ray's list of `placement_groups` or `actors`, with details."""
        answer = httpx.get(
            f"{self.command.dashboard_url}/api/v0/{what}",
            params={"detail": "1", "limit": "1000"},
            headers={"Authorization": f"Bearer {self.token_file.read_text().strip()}"},
            timeout=30,
        )
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()["data"]["result"]["result"]
        return found

    def close(self) -> None:
        for member in self.members.values():
            member.end()
        super().close()

    def _options(self, *, gpus: int, accelerator_type: str, cpus: int, address: str) -> dict[str, Any]:
        first = free_ports(PORTS_PER_NODE)
        return {
            "address": f"{HEAD_ADDRESS}:{self.ports.ray_gcs}",
            "node-ip-address": address,
            "num-cpus": cpus,
            "num-gpus": gpus,
            "resources": json.dumps({f"accelerator_type:{accelerator_type}": 1}),
            "node-manager-port": first,
            "object-manager-port": first + 1,
            "dashboard-agent-listen-port": first + 2,
            "dashboard-agent-grpc-port": first + 3,
            "runtime-env-agent-port": first + 4,
            "metrics-export-port": first + 5,
            "min-worker-port": first + 6,
            "max-worker-port": first + PORTS_PER_NODE - 1,
            "object-store-memory": 100_000_000,
            # Copies workers' output to drivers, and there are none.
            "include-log-monitor": "false",
            "temp-dir": self.command.temp_dir,
        }
