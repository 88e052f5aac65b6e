"""What a replica tells of its ranks: the rank that decides per stage; memory that is held, not promised."""

from __future__ import annotations

import ctypes
import mmap
import os
from dataclasses import dataclass

import pytest

from serving.cluster import worker_facts
from serving.cluster.phases import stage_bytes

PAGE = os.sysconf("SC_PAGE_SIZE")


def test_of_a_stages_ranks_the_fullest_counts_and_of_room_the_smallest() -> None:
    ranks = [
        {"weights": 60, "kv_room": 22},
        {"weights": 61, "kv_room": 21},
        {"weights": 90, "kv_room": 25, "device_total": 80},
        {"weights": 90, "kv_room": 26, "device_total": 79},
    ]
    assert stage_bytes(ranks, ranks_per_stage=2) == {
        0: {"weights": 61, "kv_room": 21},
        1: {"weights": 90, "kv_room": 25, "device_total": 79},
    }
    assert list(stage_bytes(ranks, ranks_per_stage=1)) == [0, 1, 2, 3]
    assert stage_bytes([], ranks_per_stage=1) == {}


@dataclass
class Stored:
    """As much of a tensor as is looked at: where its storage lies and how long it is."""

    address: int
    size_bytes: int

    def untyped_storage(self) -> Stored:
        return self

    def data_ptr(self) -> int:
        return self.address

    def nbytes(self) -> int:
        return self.size_bytes


@pytest.mark.skipif(not hasattr(mmap, "MADV_NOHUGEPAGE"), reason="Linux only")
def test_memory_that_was_never_written_is_not_held() -> None:
    with mmap.mmap(-1, 1000 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(30):
            memory[page * PAGE] = 1
        view = ctypes.c_char.from_buffer(memory)
        tensor = Stored(ctypes.addressof(view), 1000 * PAGE)
        # The same storage twice is counted once.
        assert worker_facts._resident_bytes_of([tensor, tensor]) == 30 * PAGE
        assert worker_facts._storage_bytes([tensor, tensor]) == 1000 * PAGE
        del view
    assert worker_facts._resident_bytes() > 1 << 20
