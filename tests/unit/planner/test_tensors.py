"""A checkpoint's tensors as groups: few, exact in sum, and the same after storage."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.planner.request import BadPlanInput
from serving.planner.tensors import from_json, group_index, group_tensors, to_json, total_size

names = st.from_regex(r"\A(model\.)?layers\.[0-9]{1,3}\.[a-z_]{1,8}\.weight\Z")


def test_layers_share_a_group_and_their_bytes_add_up() -> None:
    groups = group_tensors((f"model.layers.{n}.mlp.up.weight", "BF16", (4, 8), 64) for n in range(40))
    assert groups is not None
    (group,) = groups
    assert (group.pattern, group.count, group.total_bytes, group.shape) == (
        "model.layers.*.mlp.up.weight", 40, 2560, (4, 8),
    )  # fmt: skip


def test_which_layers_have_it_is_told_where_not_all_do() -> None:
    groups = group_tensors(
        [
            *((f"layers.{n}.norm.weight", "BF16", (4,), 8) for n in range(4)),
            *((f"layers.{n}.mlp.qweight", "I32", (4,), 16) for n in (1, 3)),
        ]
    )
    assert groups is not None
    by_pattern = {group.pattern: group for group in groups}
    assert by_pattern["layers.*.mlp.qweight"].indices == (1, 3)
    assert by_pattern["layers.*.norm.weight"].indices == ()


def test_different_shapes_have_no_common_shape() -> None:
    groups = group_tensors([("l.0.w", "BF16", (1,), 2), ("l.1.w", "BF16", (2,), 4)])
    assert groups is not None
    assert groups[0].shape is None


@given(st.lists(st.tuples(names, st.sampled_from(["BF16", "F32"]), st.just((2,)), st.integers(0, 1 << 40))))
def test_nothing_is_lost_and_storage_gives_it_back(tensors: list[tuple[str, str, tuple[int], int]]) -> None:
    groups = group_tensors(tensors)
    assert groups is not None
    assert sum(group.total_bytes for group in groups) == sum(size for *_, size in tensors)
    assert sum(group.count for group in groups) == len(tensors)
    assert from_json(json.loads(json.dumps(to_json(groups)))) == groups


def test_names_too_diverse_for_a_model_are_not_summed_up() -> None:
    assert group_tensors((f"t{n}", "BF16", (1,), 2) for n in range(30_000)) is None


def test_an_index_gives_names_and_a_size() -> None:
    index = {"metadata": {"total_size": 16.0}, "weight_map": {"layers.0.a.qweight": "x", "lm_head": "x"}}
    groups = group_index(index)
    assert groups is not None
    assert [group.pattern for group in groups] == ["layers.*.a.qweight", "lm_head"]
    assert total_size(index) == 16


@pytest.mark.parametrize("size", [-1, 0, True, "16060522496", 1e30, 10**30, 2.5, [16], {}])
def test_a_senseless_size_is_bad_input_with_its_field(size: object) -> None:
    with pytest.raises(BadPlanInput) as refusal:
        total_size({"metadata": {"total_size": size}})
    assert refusal.value.field == "safetensors_index:metadata.total_size"


def test_a_size_that_is_not_stated_is_none_and_metadata_that_is_no_object_is_refused() -> None:
    assert total_size({}) is total_size({"metadata": {}}) is total_size({"metadata": None}) is None
    with pytest.raises(BadPlanInput) as refusal:
        total_size({"metadata": [1]})
    assert refusal.value.field == "safetensors_index:metadata"


def test_layers_with_holes_are_told_one_by_one() -> None:
    groups = group_tensors((f"layers.{n}.norm.weight", "BF16", (4,), 8) for n in (0, 1, 3))
    assert groups is not None and groups[0].indices == (0, 1, 3)


@pytest.mark.parametrize(
    "names", [None, [], {}, "x", 3, {"a": 3}, {"a": None}, {"a": ["x"]}, {"a": "../x"}, {"a": ""}]
)
def test_an_index_without_names_is_refused_by_its_field(names: object) -> None:
    with pytest.raises(BadPlanInput) as refusal:
        group_index({"weight_map": names})
    assert refusal.value.field == "safetensors_index:weight_map"
