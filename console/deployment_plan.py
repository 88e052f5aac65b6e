"""The plan beside the deployment form: what it would claim, whether it can be placed now, what it costs.

Asks the checks that the actions ask before they write; writes nothing. Every figure is arithmetic on what
was typed and on the cluster as last seen; what is unknown is said to be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from django.core.exceptions import ValidationError

from console.actions.deployments import make_capacity, make_engine
from console.differences import Difference, differences
from console.forms import DeploymentForm
from console.models import Deployment, RegisteredModel
from console.placements import check_against_cluster
from serving.errors import NotPlaceable, RaydeckError
from serving.spec import CapacitySpec, EngineSpec

HOURS_OF_30_DAYS = 720


@dataclass
class Plan:
    """`verdict`: incomplete, invalid, faulty_files, fits or does_not_fit; `lines` is the arithmetic."""

    verdict: str
    reason: str = ""
    lines: list[str] = field(default_factory=list)
    engine: EngineSpec | None = None
    capacity: CapacitySpec | None = None
    weight_bytes: int | None = None
    parameters: int | None = None
    kv_bytes_per_token: int | None = None
    engine_changes: list[Difference] = field(default_factory=list)
    capacity_changes: list[Difference] = field(default_factory=list)
    is_edit: bool = False

    @property
    def kv_tokens(self) -> int | None:
        """Tokens that the KV cache of one replica holds; None when its size is the engine's to measure."""
        if self.engine is None or not self.kv_bytes_per_token or not self.engine.kv_cache_memory_bytes:
            return None
        return (
            self.engine.kv_cache_memory_bytes
            * self.engine.accelerators_per_replica
            // self.kv_bytes_per_token
        )

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


def make_plan(form: DeploymentForm, *, name: str | None) -> Plan:
    """The plan for what the form holds; `name` is the deployment's own when it is edited."""
    values, wrong = _cleaned(form)
    registered = RegisteredModel.objects.filter(name=values.get("model") or "").first()
    if registered is None:
        return Plan("incomplete", "Choose a model to see what it needs.")
    facts = registered.facts or {}
    plan = Plan(
        "invalid",
        weight_bytes=facts.get("weight_bytes"),
        parameters=facts.get("parameters"),
        kv_bytes_per_token=facts.get("kv_bytes_per_token"),
    )
    try:
        plan.engine = make_engine(registered, _given(values, EngineSpec))
        plan.capacity = make_capacity(_given(values, CapacitySpec))
        plan.lines = check_against_cluster(
            name=name or str(values.get("name") or "this deployment"),
            engine=plan.engine,
            capacity=plan.capacity,
            facts=facts,
        )
        plan.verdict, plan.reason = _verdict_of_what_fits(registered, wrong)
    except NotPlaceable as error:
        plan.verdict, plan.reason, plan.lines = "does_not_fit", error.message, error.arithmetic
    except RaydeckError as error:
        plan.reason = error.message
    if name is not None:
        _compare(plan, name)
    return plan


def _verdict_of_what_fits(registered: RegisteredModel, wrong: list[str]) -> tuple[str, str]:
    """There is room; whether anything else is known to stand in the way."""
    if wrong:
        return "invalid", wrong[0]
    faults = [problem["message"] for problem in registered.problems if problem.get("level") == "error"]
    if faults:
        return (
            "faulty_files",
            f"{faults[0]} There is room, but it will hardly start from this machine.",
        )
    return "fits", ""


def _compare(plan: Plan, name: str) -> None:
    """What the form would change of the deployment: its engine restarts replicas, its capacity does not."""
    present = Deployment.objects.select_related("current_revision").filter(name=name).first()
    if present is None or present.current_revision is None or plan.engine is None or plan.capacity is None:
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
    wanted = {name: values[name] for name in spec.model_fields if name in values and name != "model"}
    keep_none = ("accelerator_type", "max_model_len", "kv_cache_memory_bytes", "idle_before_zero_s")
    return {name: value for name, value in wanted.items() if value is not None or name in keep_none}
