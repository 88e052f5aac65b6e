"""The plan beside the deployment form: what it would claim, whether it can be placed now, what it costs.

Asks the checks that the actions ask before they write; writes nothing. Every figure is arithmetic on what
was typed and on the cluster as last seen; what is unknown is said to be.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import NamedTuple

from django.core.exceptions import ValidationError

from console.actions.deployments import (
    capacity_of,
    edited_capacity,
    make_capacity,
    make_engine,
    with_catalogue_price,
)
from console.differences import Difference, differences
from console.exact_comparison import Comparison, compare
from console.forms import DeploymentForm, without_stale_price
from console.models import Deployment, RegisteredModel
from console.placements import check_against_cluster, update_of
from console.planning import Load, plan_engine, question_of
from serving.errors import NotPlaceable, RaydeckError
from serving.planner.memory import expected_parts
from serving.planner.request import BadPlanInput
from serving.planner.result import ByteRange, Memory
from serving.planner.result import Plan as Prediction
from serving.planner.update_needs import UpdateNeeds
from serving.spec import CapacitySpec, EngineSpec

HOURS_OF_30_DAYS = 720


class BarPart(NamedTuple):
    """One part of the memory bar: colour class, label, expected bytes and their share of the whole; `low` and
    `high` bound what is an estimate."""

    kind: str
    label: str
    size: int
    share: float
    low: int
    high: int

    @property
    def is_estimate(self) -> bool:
        """Whether the figure is the middle of a band."""
        return self.low != self.high


BAR = (
    ("w", "weights", "Weights"),
    ("k", "kv_cache", "KV cache"),
    ("a", "activation", "Activations"),
    ("o", "runtime", "Runtime"),
    ("o", "cuda_graphs", "CUDA graphs"),
)
"""Colour class -> part of the plan, and its label."""


@dataclass
class Plan:
    """`verdict`: incomplete, invalid, faulty_files, unread, or the planner's (serving/planner/result.py).

    Whether it fits in an accelerator and whether the cluster has room now are two things: `placement` is
    free, waits or "" where it could not be asked, `placement_reason` and `lines` its arithmetic.
    """

    verdict: str
    reason: str = ""
    placement: str = ""
    placement_reason: str = ""
    lines: list[str] = field(default_factory=list)
    predicted: Prediction | None = None
    exact: Comparison | None = None
    load: Load = field(default_factory=Load)
    engine: EngineSpec | None = None
    capacity: CapacitySpec | None = None
    weight_bytes: int | None = None
    parameters: int | None = None
    kv_bytes_per_token: int | None = None
    engine_changes: list[Difference] = field(default_factory=list)
    capacity_changes: list[Difference] = field(default_factory=list)
    is_edit: bool = False
    update: UpdateNeeds | None = None
    accepts_faulty_files: bool = False

    @property
    def memory(self) -> Memory | None:
        """The planner's memory of one rank, where it could be computed."""
        return self.predicted.memory if self.predicted else None

    @property
    def bar(self) -> list[BarPart]:
        """One rank's memory by part as expected, on the pipeline stage with the least room for the cache;
        what stays free comes last. Parts that together exceed the accelerator's memory do not fit."""
        memory = self.memory
        if memory is None:
            return []
        expected = expected_parts(memory)
        exact = memory.weights_are_exact
        parts = [
            (kind, f"{label}, at most" if name == "weights" and not exact else label, *expected[name])
            for kind, name, label in BAR
        ]
        used = sum(size for _, _, size, _ in parts)
        whole = max(used, memory.usable_bytes or 0) or 1
        if memory.usable_bytes and memory.usable_bytes > used:
            free = memory.usable_bytes - used
            parts.append(("f", "Left free", free, ByteRange(free, free)))
        return [
            BarPart(kind, label, size, size / whole, band.low, band.high)
            for kind, label, size, band in parts
            if size or band.high
        ]

    @property
    def limit_share(self) -> float | None:
        """Where on the bar gpu_memory_utilization ends; None where the cache has a size of its own."""
        memory = self.memory
        if memory is None or not memory.usable_bytes or memory.requested_bytes is None:
            return None
        cache = memory.kv_cache_range
        if memory.kv_cache_bytes and cache.low == cache.high:
            return None
        used = sum(part.size for part in self.bar if part.kind != "f")
        return memory.requested_bytes / max(used, memory.usable_bytes)

    @property
    def arithmetic(self) -> list[str]:
        """The planner's sum, line by line."""
        return list(self.predicted.arithmetic) if self.predicted else []

    @property
    def per_replica_per_hour_usd(self) -> Decimal:
        """One replica's price."""
        assert self.engine is not None and self.capacity is not None
        return self.capacity.price_per_accelerator_hour_usd * self.engine.accelerators_per_replica

    @property
    def least_per_hour_usd(self) -> Decimal:
        """The price at the fewest replicas."""
        assert self.capacity is not None
        return self.per_replica_per_hour_usd * self.capacity.min_replicas

    @property
    def most_per_hour_usd(self) -> Decimal:
        """The price at the most replicas."""
        assert self.capacity is not None
        return self.per_replica_per_hour_usd * self.capacity.max_replicas

    @property
    def most_per_month_usd(self) -> Decimal:
        """30 days at the most replicas: the bound on what it can cost."""
        return self.most_per_hour_usd * HOURS_OF_30_DAYS


def engine_of_form(form: DeploymentForm) -> tuple[RegisteredModel | None, EngineSpec | None, Load]:
    """The model, engine and load that the form holds as far as they are valid."""
    values, _ = _cleaned(form)
    registered = RegisteredModel.objects.filter(name=values.get("model") or "").first()
    if registered is None:
        return None, None, load_of(values)
    return registered, make_engine(registered, _given(values, EngineSpec)), load_of(values)


def make_plan(form: DeploymentForm, *, name: str | None) -> Plan:
    """The plan for what the form holds; `name` is the deployment's own when it is edited."""
    values, wrong = _cleaned(form)
    registered = RegisteredModel.objects.filter(name=values.get("model") or "").first()
    if registered is None:
        return Plan("incomplete", "Choose a model to see what it needs.")
    facts = registered.facts or {}
    present = _present(name)
    plan = Plan(
        "invalid",
        weight_bytes=facts.get("weight_bytes"),
        parameters=facts.get("parameters"),
        kv_bytes_per_token=facts.get("kv_bytes_per_token"),
        load=load_of(values),
        accepts_faulty_files=bool(values.get("accept_faulty_files")),
    )
    try:
        plan.engine = make_engine(registered, _given(values, EngineSpec))
        plan.capacity = _capacity(values, plan.engine, present)
        plan.update = update_of(present, plan.engine, plan.capacity.min_replicas)
        plan.predicted = plan_engine(
            plan.engine,
            registered,
            usd_per_accelerator_hour=plan.capacity.price_per_accelerator_hour_usd or None,
            load=plan.load,
        )
        plan.exact = exact_of(plan.predicted, plan.engine, registered)
        plan.verdict, plan.reason = _verdict(plan.predicted, registered, wrong)
        _place(plan, name or str(values.get("name") or "this deployment"))
    except RaydeckError as error:
        plan.reason = error.message
    if plan.verdict == "invalid":
        # Figures of the values that stand in for what is wrong would pass for figures of what was typed.
        plan.predicted = plan.exact = None
    if present is not None:
        _compare(plan, present)
    return plan


def _present(name: str | None) -> Deployment | None:
    """The deployment that is edited, as it is."""
    if name is None:
        return None
    return Deployment.objects.select_related("current_revision").filter(name=name).first()


def _capacity(values: dict[str, object], engine: EngineSpec, present: Deployment | None) -> CapacitySpec:
    """What the form's capacity becomes; with another accelerator type the price is the catalogue's."""
    given = _given(values, CapacitySpec)
    if present is None or present.current_revision is None:
        return make_capacity(with_catalogue_price(given, engine))
    given = without_stale_price(given, present, engine.accelerator_type)
    # As stored, not validated: what an older version wrote must be open to correction.
    old_type = present.current_revision.engine.get("accelerator_type")
    return edited_capacity(capacity_of(present), given, old_type, engine)


def exact_of(
    predicted: Prediction | None, engine: EngineSpec, registered: RegisteredModel
) -> Comparison | None:
    """What is known of the exact plan; None where there is nothing to compare with."""
    if predicted is None:
        return None
    try:
        question = question_of(engine, registered)
    except BadPlanInput:
        return None
    return None if question is None else compare(question, predicted)


def load_of(values: dict[str, object]) -> Load:
    """The load named in the form; what is empty or wrong there takes its default."""
    given = {name: values.get(f"load_{name}") for name in ("concurrency", "prompt_tokens", "output_tokens")}
    return Load(**{name: value for name, value in given.items() if isinstance(value, int)})


def _place(plan: Plan, name: str) -> None:
    assert plan.engine is not None and plan.capacity is not None
    try:
        plan.lines = check_against_cluster(
            name=name,
            engine=plan.engine,
            capacity=plan.capacity,
            # Whether it fits in the accelerators stands above it, with its own sum.
            plan=replace(plan.predicted, arithmetic=()) if plan.predicted else None,
        )
        plan.placement = "free"
    except NotPlaceable as error:
        plan.placement, plan.placement_reason, plan.lines = "waits", error.message, error.arithmetic


def _verdict(predicted: Prediction | None, registered: RegisteredModel, wrong: list[str]) -> tuple[str, str]:
    """The planner's word, unless something typed is wrong or the files are known to be faulty."""
    if wrong:
        return "invalid", wrong[0]
    faults = _faults(registered, predicted)
    if faults:
        return "faulty_files", f"{faults[0]} It will hardly start from this machine."
    if predicted is None:
        return (
            "unread",
            "The engine reads this model's files when it is deployed; until then nothing can be planned.",
        )
    if predicted.verdict == "fits":
        # The first reason repeats the figures beside it; the others are what a reader should know.
        return "fits", " ".join(predicted.reasons[1:])
    return predicted.verdict, " ".join((*predicted.reasons, predicted.lever)).strip()


def _faults(registered: RegisteredModel, predicted: Prediction | None) -> list[str]:
    """What is wrong with the files. An architecture that nobody knows is no fault of theirs: the planner has
    its own word for that."""
    has_word = predicted is not None and predicted.verdict in ("unknown", "refused")
    return [
        problem["message"]
        for problem in registered.problems
        if problem.get("level") == "error" and not (has_word and problem.get("field") == "architectures")
    ]


def _compare(plan: Plan, present: Deployment) -> None:
    """What the form would change of the deployment: its engine restarts replicas, its capacity does not."""
    if present.current_revision is None or plan.engine is None or plan.capacity is None:
        return
    capacity_now = {field_name: getattr(present, field_name) for field_name in CapacitySpec.model_fields}
    plan.is_edit = True
    plan.engine_changes = differences(present.current_revision.engine, plan.engine.model_dump())
    plan.capacity_changes = differences(capacity_now, plan.capacity.model_dump())


def _cleaned(form: DeploymentForm) -> tuple[dict[str, object], list[str]]:
    """Each field by itself, so that what is wrong elsewhere does not hide the plan; and what is wrong.

    A name may still be missing: the plan does not depend on it."""
    values: dict[str, object] = {}
    wrong: list[str] = []
    for name, form_field in form.fields.items():
        raw = form[name].value()
        try:
            values[name] = form_field.clean(raw)
        except ValidationError as error:
            values[name] = form_field.initial
            if name not in ("name", "model"):
                wrong.append(f"{form_field.label}: {error.messages[0]}")
    return values, wrong


def _given(values: dict[str, object], spec: type[EngineSpec] | type[CapacitySpec]) -> dict[str, object]:
    names = (*spec.model_fields, *(("load_adapters",) if spec is EngineSpec else ()))
    wanted = {name: values[name] for name in names if name in values and name != "model"}
    keep_none = ("accelerator_type", "max_model_len", "kv_cache_memory_bytes", "idle_before_zero_s")
    return {name: value for name, value in wanted.items() if value is not None or name in keep_none}
