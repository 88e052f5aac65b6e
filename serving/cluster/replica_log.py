"""Keeps a replica's log alive while vLLM is imported.

vLLM configures logging at import; Python's `dictConfig` then closes every handler there is, and Serve's
memory handler loses the file behind it: without this nothing more of a replica's own log reaches its file.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler


@contextmanager
def handlers_kept(logger_name: str = "ray.serve") -> Iterator[None]:
    """Gives the logger's memory handlers their targets back at the end of the block."""
    handlers = logging.getLogger(logger_name).handlers
    targets = [(handler, handler.target) for handler in handlers if isinstance(handler, MemoryHandler)]
    try:
        yield
    finally:
        for handler, target in targets:
            if handler.target is None and target is not None:
                handler.setTarget(target)
