"""The one module that touches the channel layer: group names, message shapes, publishing.

Publishing is a hint to open pages; losing one loses nothing, since every page can fetch what it shows.
A message never carries HTML, prompts or answers.
"""

import logging
import re
from collections.abc import Iterable
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

log = logging.getLogger(__name__)

TOPIC = re.compile(r"^(overview|deployments|models|keys|cluster|deployment:[a-z0-9.-]{1,40})$")


def group_of(topic: str) -> str:
    """Channel-layer group of a topic; raises ValueError for a topic that does not exist."""
    if not TOPIC.fullmatch(topic):
        raise ValueError(f"no such topic: {topic[:60]}")
    return topic.replace(":", ".")


def publish_changed(topics: Iterable[str], what: str) -> None:
    """Tell pages on these topics that `what` (status, events, revisions …) changed, after commit."""
    messages = [{"t": "changed", "topic": topic, "what": what} for topic in topics]
    transaction.on_commit(lambda: _send(messages))


def publish_samples(samples: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Push (topic, sample) pairs now; the JSON is that of the history endpoint's points."""
    _send([{"t": "sample", "topic": topic, "data": data} for topic, data in samples])


async def apublish_samples(samples: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """`publish_samples` for a caller that runs an event loop of its own."""
    await _send_all([{"t": "sample", "topic": topic, "data": data} for topic, data in samples])


def _send(messages: list[dict[str, Any]]) -> None:
    async_to_sync(_send_all)(messages)


async def _send_all(messages: list[dict[str, Any]]) -> None:
    layer = get_channel_layer()
    if layer is None:
        return
    for message in messages:
        try:
            await layer.group_send(group_of(message["topic"]), {"type": "push", "message": message})
        except (OSError, TimeoutError) as error:
            log.warning("publish lost topic=%s error=%s", message["topic"], type(error).__name__)
            return
        except Exception as error:
            # redis-py has its own ConnectionError, not a subclass of OSError; pages catch up by fetching.
            if not type(error).__module__.startswith("redis"):
                raise
            log.warning("publish lost topic=%s error=%s", message["topic"], type(error).__name__)
            return
