"""Rules on engine and capacity definitions."""

from decimal import Decimal

import pytest
from pydantic import ValidationError

from serving.errors import InvalidSpec
from serving.keys import digest_of, internal_key, new_key
from serving.spec import CapacitySpec, EngineSpec
from serving.topology import check_topology


def engine(**changes: object) -> EngineSpec:
    return EngineSpec(**{"model": "m", "model_source": "/m", "max_model_len": 1024, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensor_parallel_size": 0}, "greater than or equal to 1"),
        ({"max_model_len": 3}, "greater than or equal to 16"),
        ({"dtype": "int3"}, "auto"),
        ({"engine_kwargs": {"model": "x"}}, "comes from the registry"),
        ({"engine_kwargs": {"trust_remote_code": True}}, "run code"),
        ({"engine_kwargs": {"Bad-Name": 1}}, "not the name"),
        ({"engine_kwargs": {"x": object()}}, "must be text"),
        ({"engine_kwargs": {"tokenizer": "\ud800"}}, "must be text"),
        ({"engine_kwargs": {"tokenizer": "a\x00"}}, "must be text"),
        ({"engine_kwargs": {"x": {"\ud800": 1}}}, "must be text"),
        ({"engine_kwargs": {"seed": float("nan")}}, "must be text"),
        ({"engine_kwargs": {"max_num_seqs": 3}}, "concurrent sequences"),
        ({"engine_kwargs": {"data_parallel_size": 2}}, "replicas"),
        ({"engine_kwargs": {"worker_cls": "os.system"}}, "code to import"),
        ({"engine_kwargs": {"kv_transfer_config": {"kv_connector_module_path": "m"}}}, "code to import"),
        ({"engine_kwargs": {"hf_token": "hf_abc"}}, "stored encrypted"),
        ({"engine_kwargs": {"allowed_local_media_path": "/"}}, "files of the cluster"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
def test_a_bad_engine_is_refused_with_the_reason(changes: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        engine(**changes)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"min_replicas": 3, "max_replicas": 2}, "must not exceed"),
        ({"min_replicas": 0}, "idle_before_zero_s must say"),
        ({"min_replicas": 1, "idle_before_zero_s": 60}, "only acts with"),
        ({"target_ongoing_requests": 0}, "greater than 0"),
        ({"price_per_accelerator_hour_usd": Decimal("-1")}, "greater than or equal to 0"),
        ({"price_per_accelerator_hour_usd": Decimal("NaN")}, "finite"),
    ],
)
def test_a_bad_capacity_is_refused_with_the_reason(values: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        CapacitySpec(**values)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tensor_parallel_size": 3}, "tensor_parallel_size"),
        ({"tensor_parallel_size": 4}, "tensor_parallel_size"),
        ({"pipeline_parallel_size": 41}, "pipeline_parallel_size"),
        ({"max_model_len": 16_385}, "max_model_len"),
    ],
)
def test_topologies_the_engine_would_refuse_are_refused_before(changes: dict, field: str) -> None:
    # phi-4: 40 heads, 10 KV heads. TP 4 divides the heads and still dies in vLLM on the KV heads.
    facts = {"attention_heads": 40, "kv_heads": 10, "layers": 40, "max_context_tokens": 16_384}
    with pytest.raises(InvalidSpec) as refused:
        check_topology(engine(**changes), facts)
    assert refused.value.field == field


def test_unknown_facts_refuse_nothing() -> None:
    check_topology(engine(tensor_parallel_size=7), {})


def test_keys_are_random_and_their_digests_depend_on_key_and_pepper() -> None:
    one, two = new_key(), new_key()
    assert one != two and one.startswith("rd-") and len(one) == 46
    assert digest_of(key=one, pepper="p") != digest_of(key=two, pepper="p")
    assert digest_of(key=one, pepper="p") != digest_of(key=one, pepper="q")


def test_internal_keys_are_stable_and_differ_by_purpose() -> None:
    assert internal_key(pepper="p", purpose="smoke") == internal_key(pepper="p", purpose="smoke")
    assert internal_key(pepper="p", purpose="smoke") != internal_key(pepper="p", purpose="playground")
