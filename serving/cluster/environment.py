"""Takes the gateway's secrets out of an engine's environment. Pure but for the mapping it is given.

Ray gives every process of the cluster the head's environment, and an engine may run code that came with a
model. The kernel's own copy of a process' first environment stays readable to that process.
"""

from collections.abc import MutableMapping

GATEWAY_ONLY = ("RAYDECK_KEY_PEPPER", "RAYDECK_USAGE_REDIS_URL", "RAYDECK_SPOOL_DIR")
"""What the gateway alone needs: the pepper of the keys, the usage stream's address, the spool."""


def withhold_from_engine(environment: MutableMapping[str, str]) -> None:
    """Drop the gateway's variables; whatever this process imports or starts later does not find them."""
    for name in GATEWAY_ONLY:
        environment.pop(name, None)
