"""Which tensor- and pipeline-parallel sizes a model admits. Pure.

The rules are vLLM's own refusals (config/model.py `verify_with_parallel_config`, QKVParallelLinear), caught
before a launch so that nobody waits a minute for an AssertionError.
"""

from typing import Any

from serving.errors import InvalidSpec
from serving.spec import EngineSpec


def check_topology(engine: EngineSpec, facts: dict[str, Any]) -> None:
    """Raise InvalidSpec when the model cannot be split as asked or is asked for more than its context.

    `facts` as serving/checkpoint.py gives them; what is not known is not checked.
    """
    tp, pp = engine.tensor_parallel_size, engine.pipeline_parallel_size
    heads, kv_heads, layers = facts.get("attention_heads"), facts.get("kv_heads"), facts.get("layers")
    if heads and heads % tp:
        raise InvalidSpec(
            f"{heads} attention heads cannot be split over {tp} ranks; use a divisor of {heads}.",
            field="tensor_parallel_size",
        )
    if kv_heads and kv_heads % tp and tp % kv_heads:
        raise InvalidSpec(
            f"{kv_heads} KV heads can be neither split over nor repeated on {tp} ranks.",
            field="tensor_parallel_size",
        )
    if layers and pp > layers:
        raise InvalidSpec(f"{layers} layers cannot make {pp} stages.", field="pipeline_parallel_size")
    context = facts.get("max_context_tokens")
    if context and engine.max_model_len > context:
        raise InvalidSpec(
            f"The model's context ends at {context:,} tokens; {engine.max_model_len:,} were asked for.",
            field="max_model_len",
        )
