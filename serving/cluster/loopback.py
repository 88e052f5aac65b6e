"""Keeps a replica's internal port on the node's own address.

Serve starts a gRPC server in every replica for calls between deployments, bound to every interface, without
a token and with pickled payloads: whoever reaches it can run code. Ray 2.60 has no setting for the address,
so the one function that opens the port is replaced inside the replica, before Serve calls it (after the
constructor). Must only touch that call; a Ray without it is left alone and reported.
"""

import logging
import sys

import ray

log = logging.getLogger("ray.serve")
WILDCARD = "[::]:"


def bind_replica_port_to_node_address() -> bool:
    """Replaces the wildcard by the node's address; call it in a replica's constructor.

    Returns False, with a warning in the replica's log, where this Ray looks different.
    """
    module = sys.modules.get("ray.serve._private.replica")
    original = getattr(module, "add_port_to_grpc_server", None)
    if module is None or original is None:
        log.warning("loopback: this Ray opens replica ports elsewhere; they may listen on every interface")
        return False
    if getattr(original, "raydeck", False):
        return True
    node_address = ray.util.get_node_ip_address()

    def add_port(server: object, address: str) -> int:
        if address.startswith(WILDCARD):
            address = f"{node_address}:{address.removeprefix(WILDCARD)}"
        return int(original(server, address))

    add_port.raydeck = True  # type: ignore[attr-defined]
    module.add_port_to_grpc_server = add_port  # type: ignore[attr-defined]
    return True
