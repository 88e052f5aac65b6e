"""The demo model's plan on CPU as a revision keeps it, worked out by hand: 64 MiB of KV cache, context 512.

Weights: 4,096 × 256 embedding, tied; 6 layers of (256 × 512 QKV + 256 × 256 output + 3 × 256 × 688 MLP +
2 × 256 norms); 256 final norm; all in two bytes; 2,048 × 32 × 2 bytes of rotary table. KV: 6 layers × 4 heads
× (32 + 32) × 2 bytes a token, 128 tokens a block, whole blocks only.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from serving.planner.result import ByteRange, CacheGroup, Memory, Plan, StageMemory

MIB = 1 << 20
WEIGHT_BYTES = (4096 * 256 + 6 * (256 * 512 + 256 * 256 + 3 * 256 * 688 + 2 * 256) + 256) * 2 + 2048 * 32 * 2
KV_BYTES_PER_TOKEN = 6 * 4 * (32 + 32) * 2
BLOCK_TOKENS = 128


def demo_plan(*, kv_cache_bytes: int = 64 * MIB, max_model_len: int = 512, **memory: Any) -> dict[str, Any]:
    """The stored JSON; `memory` replaces figures of the memory part."""
    blocks = kv_cache_bytes // (BLOCK_TOKENS * KV_BYTES_PER_TOKEN)
    figures = Memory(
        usable_bytes=None,
        requested_bytes=None,
        stages=(StageMemory(0, 6, WEIGHT_BYTES, {}, KV_BYTES_PER_TOKEN),),
        activation=ByteRange(0, 0),
        cuda_graphs=ByteRange(0, 0),
        runtime=ByteRange(0, 0),
        kv_cache_bytes=kv_cache_bytes,
        kv_cache_range=ByteRange(kv_cache_bytes, kv_cache_bytes),
        kv_bytes_per_token=KV_BYTES_PER_TOKEN,
        groups=(CacheGroup("full", 6, BLOCK_TOKENS, BLOCK_TOKENS * KV_BYTES_PER_TOKEN, 4),),
        num_blocks=blocks,
        kv_cache_tokens=blocks * BLOCK_TOKENS,
        max_concurrency=blocks / -(-max_model_len // BLOCK_TOKENS),
        weights_are_exact=True,
    )
    plan = asdict(Plan(verdict="fits", memory=figures, architecture="LlamaForCausalLM"))
    plan["memory"].update(memory)
    return dict(json.loads(json.dumps(plan)))
