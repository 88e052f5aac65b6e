"""One cluster for the whole session: starting it and a model costs half a minute."""

from collections.abc import Iterator

import pytest

from tests.cluster.local_cluster import LocalCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """A head with the gateway and the model `demo`, both running."""
    running = LocalCluster()
    try:
        running.start_redis()
        running.start()
        running.add_model("demo")
        running.put()
        running.wait_running("gateway", "model-demo")
        yield running
    finally:
        running.close()
