"""“Fits on” chips of the registry: per accelerator type the fewest accelerators that hold a model, tensor
parallel on one node first, then with pipeline stages over several.

Read only. Plans are kept per process by what they depend on, so that a list of models costs them once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from console.accelerators import catalogue_entries
from console.models import RegisteredModel
from console.placements import cluster_now
from console.planning import checkpoint_of, view_of
from serving.model_config import read_config
from serving.planner.inputs import Checkpoint
from serving.planner.plan import make_plan
from serving.planner.request import Accelerator, BadPlanInput, PlanRequest
from serving.planner.result import Plan
from serving.planner.topologies import ClusterView
from serving.spec import EngineSpec

CONTEXT_TOKENS = 8192
"""Chips answer for this context, or the model's own where it is shorter."""
TENSOR_SIZES = (1, 2, 4, 8)
STAGES = (2, 4, 8)
"""Tried with the largest tensor-parallel group of one node, where one node is not enough."""
MAX_NUM_SEQS = EngineSpec.model_fields["max_num_seqs"].default
"""As a deployment gets it when nothing is said, so that chip and form agree."""
TYPES_AT_MOST = 4
USUAL_TYPES = ("L4", "L40S", "A100", "H100")
"""Shown where neither the cluster nor the catalogue says what the organisation has."""
PLANS_KEPT = 4096
SAID = {"y": "fits", "t": "tight", "w": "fits, none free", "n": "fits, not here", "u": "not known"}

_plans: dict[tuple[object, ...], Plan] = {}


@dataclass(frozen=True)
class Chip:
    """One accelerator type. `colour`: y fits and is free, t tight, w fits and waits, n not in the cluster, u
    not known, b not. `said` is the same as a word, for those who do not see colours."""

    accelerator_type: str
    colour: str
    words: str
    lines: tuple[str, ...]

    @property
    def said(self) -> str:
        """The colour as a word."""
        return SAID.get(self.colour, "does not fit")


@dataclass(frozen=True)
class Shelf:
    """What chips are made for: accelerators with what the cluster has of each."""

    accelerators: tuple[Accelerator, ...]
    views: tuple[ClusterView, ...]


def shelf() -> Shelf:
    """The types to show: what the cluster has, then what is owned or rented, else the usual ones."""
    entries = [entry for entry in catalogue_entries() if entry.accelerator is not None]
    here = [entry for entry in entries if entry.detected or entry.supply]
    wanted = here or [entry for entry in entries if entry.name in USUAL_TYPES]
    accelerators = tuple(entry.accelerator for entry in wanted[:TYPES_AT_MOST] if entry.accelerator)
    now = cluster_now()
    return Shelf(accelerators, tuple(view_of(one.name, now) for one in accelerators))


def context_of(model: RegisteredModel) -> int:
    """The context that a model's chips answer for."""
    known = read_config(model.config).max_context_tokens if model.config is not None else None
    return min(CONTEXT_TOKENS, known or CONTEXT_TOKENS)


def chips(model: RegisteredModel, on: Shelf) -> list[Chip]:
    """Chips of one model, what is free first; empty when its files were not kept (a list reads no disk)."""
    if model.config is None:
        return []
    checkpoint = checkpoint_of(model)
    assert checkpoint is not None
    made = [
        _chip(model, checkpoint, accelerator, view)
        for accelerator, view in zip(on.accelerators, on.views, strict=True)
    ]
    return sorted(made, key=lambda chip: "ytwnub".index(chip.colour))


def _chip(
    model: RegisteredModel, checkpoint: Checkpoint, accelerator: Accelerator, view: ClusterView
) -> Chip:
    split, plan = _smallest(model, checkpoint, accelerator)
    ranks = split[0] * split[1]
    words = accelerator.name if ranks == 1 else f"{ranks} × {accelerator.name}"
    if plan.verdict not in ("fits", "tight"):
        colour = "u" if plan.verdict == "unknown" else "b"
        why = plan.reasons or ("It is not known whether it fits." if colour == "u" else "It does not fit.",)
        lines = why if colour == "u" else why[:1]
        return Chip(accelerator.name, colour, accelerator.name, (*lines, *plan.arithmetic))
    stages_free = sum(free // split[0] for free in view.free_by_node.values())
    if not view.total_by_node:
        colour, now = "n", "The cluster has none of these."
    elif stages_free >= split[1]:
        colour, now = ("y" if plan.verdict == "fits" else "t"), "Free now."
    else:
        colour, now = "w", "Fits, but not enough are free now."
    return Chip(accelerator.name, colour, words, (now, *_sum(plan, split), *plan.arithmetic))


def _sum(plan: Plan, split: tuple[int, int]) -> Iterable[str]:
    memory = plan.memory
    if memory is None:
        return ()
    context = plan.settings.get("max_model_len", CONTEXT_TOKENS)
    return (
        f"TP {split[0]} × PP {split[1]}: {memory.kv_cache_tokens:,} KV tokens, "
        f"{memory.max_concurrency:.1f} requests of {context:,} tokens at once.",
    )


def _smallest(
    model: RegisteredModel, checkpoint: Checkpoint, accelerator: Accelerator
) -> tuple[tuple[int, int], Plan]:
    """The smallest split that surely fits, else the smallest that is tight, else the last one tried."""
    tight: tuple[tuple[int, int], Plan] | None = None
    last: tuple[tuple[int, int], Plan] = ((1, 1), Plan("unknown"))
    for split in _splits(accelerator):
        plan = _kept_plan(model, checkpoint, accelerator, split)
        if plan.verdict == "fits":
            return split, plan
        if plan.verdict == "tight" and tight is None:
            tight = split, plan
        if plan.verdict != "refused" or split == (1, 1):
            last = split, plan
        if plan.verdict == "unknown":
            break  # more ranks make nothing known
    return tight or last


def _splits(accelerator: Accelerator) -> list[tuple[int, int]]:
    """(tensor, pipeline) sizes to try in turn; a tensor-parallel group stays on one node."""
    tensors = [size for size in TENSOR_SIZES if size <= max(1, accelerator.accelerators_per_node)]
    return [*((size, 1) for size in tensors), *((tensors[-1], stages) for stages in STAGES)]


def _kept_plan(
    model: RegisteredModel, checkpoint: Checkpoint, accelerator: Accelerator, split: tuple[int, int]
) -> Plan:
    key = (model.pk, model.updated_at, model.inspected_at, repr(accelerator), split)
    if key not in _plans:
        while len(_plans) >= PLANS_KEPT:
            _plans.pop(next(iter(_plans)))
        _plans[key] = _plan(checkpoint, accelerator, split)
    return _plans[key]


def _plan(checkpoint: Checkpoint, accelerator: Accelerator, split: tuple[int, int]) -> Plan:
    facts = PlanRequest(
        config=checkpoint.config,
        tensors=checkpoint.tensors,
        checkpoint_bytes=checkpoint.checkpoint_bytes,
        accelerator=accelerator,
        tensor_parallel_size=split[0],
        pipeline_parallel_size=split[1],
        max_num_seqs=MAX_NUM_SEQS,
        max_model_len=_context(checkpoint),
    )
    try:
        return make_plan(facts)
    except BadPlanInput as error:
        return Plan("refused", (error.message,), refused_field=error.field)


def _context(checkpoint: Checkpoint) -> int:
    return min(CONTEXT_TOKENS, read_config(checkpoint.config).max_context_tokens or CONTEXT_TOKENS)
