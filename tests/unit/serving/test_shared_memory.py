"""An engine's shared memory leaves nothing in /dev/shm, and nobody else's is touched."""

import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path

from serving.cluster.shared_memory import unlink_names

CHILD = """
import multiprocessing
from multiprocessing import shared_memory
lock = multiprocessing.get_context("spawn").Lock()
print(lock._semlock.name.strip("/"), flush=True)
memory = shared_memory.SharedMemory(create=True, size=4096)
memory.buf[0] = 7
print(memory.name, flush=True)
input()
print(memory.buf[0], flush=True)
"""


def test_names_are_removed_and_the_memory_stays_usable() -> None:
    others = shared_memory.SharedMemory(create=True, size=4096)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        semaphore = Path("/dev/shm") / f"sem.{child.stdout.readline().strip()}"
        memory = Path("/dev/shm") / child.stdout.readline().strip()
        assert memory.exists() and semaphore.exists()
        assert unlink_names(child.pid) == sorted([str(memory), str(semaphore)])
        assert not memory.exists() and not semaphore.exists()
        assert (Path("/dev/shm") / others.name).exists()
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "7\n"
    finally:
        child.kill()
        child.communicate()
        others.close()
        others.unlink()
