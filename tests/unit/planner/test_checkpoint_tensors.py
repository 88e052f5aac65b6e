"""What the checkpoint's tensors say where config.json is silent."""

from __future__ import annotations

from serving.planner.plan import make_plan
from serving.planner.request import PlanRequest, TensorGroup
from tests.unit.planner.recorded import card, model

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
AWQ = "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"


def group(pattern: str, dtype: str) -> TensorGroup:
    return TensorGroup(pattern, dtype, None, count=32, total_bytes=0)


def test_narrow_weights_without_a_word_in_the_config_make_the_plan_unknown() -> None:
    plan = make_plan(
        PlanRequest(
            model(LLAMA)["config"],
            tensors=(group("model.layers.*.mlp.down_proj.weight", "F8_E4M3"),),
            accelerator=card(usable_gib=79.18),
        )
    )
    assert plan.verdict == "unknown"
    assert "hf_quant_config.json" in plan.reasons[0]


def test_a_checkpoint_far_smaller_than_its_config_makes_the_plan_unknown() -> None:
    plan = make_plan(
        PlanRequest(model(LLAMA)["config"], checkpoint_bytes=5 << 30, accelerator=card(usable_gib=79.18))
    )
    assert plan.verdict == "unknown"
    assert plan.memory is not None and not plan.memory.weights_are_exact


def test_the_right_size_raises_no_doubt() -> None:
    plan = make_plan(
        PlanRequest(
            model(LLAMA)["config"], checkpoint_bytes=16_060_522_496, accelerator=card(usable_gib=79.18)
        )
    )
    assert plan.verdict == "fits"


def test_modules_that_an_awq_checkpoint_stores_in_16_bit_are_counted_so() -> None:
    packed = [
        group(f"model.layers.*.{name}.qweight", "I32")
        for name in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj",
        )
    ]  # fmt: skip
    down = (group("model.layers.*.mlp.down_proj.qweight", "I32"),)

    def weights(tensors: tuple[TensorGroup, ...] | None) -> int:
        plan = make_plan(
            PlanRequest(model(AWQ)["config"], tensors=tensors, accelerator=card(usable_gib=79.18))
        )
        assert plan.memory is not None
        return plan.memory.stages[0].weight_bytes

    whole = weights(None)
    assert weights((*packed, *down)) == whole
    in_16_bit = 32 * 14336 * 4096 * 2
    packed_down = 32 * (14336 * 4096 // 2 + 112 * (4096 * 2 + 2048))
    assert weights(tuple(packed)) == whole + in_16_bit - packed_down


def test_an_unknown_architecture_gets_a_band_from_its_checkpoint() -> None:
    config = model(LLAMA)["config"] | {"architectures": ["BrandNewForCausalLM"]}
    plan = make_plan(
        PlanRequest(
            config, checkpoint_bytes=16 << 30, accelerator=card(usable_gib=79.18), tensor_parallel_size=2
        )
    )
    assert plan.verdict == "unknown"
    assert not plan.architecture_is_known
    assert plan.memory is not None
    assert "7.20 GiB to 9.20 GiB" in plan.reasons[1]
