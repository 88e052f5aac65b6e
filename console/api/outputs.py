"""Answers of the API as types, and how rows become them. Money is text in US dollars, times are ISO 8601 or,
where a name ends in `_at` and a number stands, epoch seconds. Secrets have no field here."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from ninja import Schema
from pydantic import BeforeValidator, Field

Item = TypeVar("Item")


def _plain_money(value: Any) -> Any:
    return format(value, "f") if isinstance(value, Decimal) else value


Money = Annotated[str, BeforeValidator(_plain_money), Field(description="US dollars, exact decimal as text")]


class Page(Schema, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    total: int
    limit: int
    offset: int


class Feed(Schema, Generic[Item]):
    """The newest entries first; give `next_before` as `before` for older ones; null at the end."""

    items: list[Item]
    next_before: str | None


class ErrorBody(Schema):
    """What went wrong."""

    code: str
    message: str
    field: str | None
    details: dict[str, Any] | None


class ErrorAnswer(Schema):
    """Every refusal of this API."""

    error: ErrorBody


class ProblemOut(Schema):
    """One thing wrong with a model's files."""

    level: str
    field: str
    message: str


class ModelOut(Schema):
    """A registered model. `facts` and `problems` come from reading a folder; others have none."""

    name: str
    source_kind: str
    source: str
    hub_revision: str
    has_hub_token: bool
    note: str
    facts: dict[str, Any]
    problems: list[ProblemOut]
    inspected_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime


class PhaseOut(Schema):
    """One phase of a start and the seconds it took, or has taken so far."""

    name: str
    started_at: float | None
    seconds: float | None
    done: bool
    current: bool


class FailureOut(Schema):
    """Why a start failed: the root cause and what to do."""

    code: str = "unknown"
    cause: str = ""
    advice: str = ""
    raw: str = ""


class CapacityOut(Schema):
    """How many replicas, when more, and their price."""

    min_replicas: int
    max_replicas: int
    target_ongoing_requests: float
    idle_before_zero_s: int | None
    price_per_accelerator_hour_usd: Money
    api_input_usd_per_million_tokens: Money | None
    api_output_usd_per_million_tokens: Money | None


class LimitsOut(Schema):
    """What a deployment's callers may use together; null is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_in_flight: int | None = None
    budget_usd_per_day: Money | None = None
    budget_usd_per_month: Money | None = None


class KeyLimitsOut(LimitsOut):
    """What a key may use, ask, and until when; null is no limit."""

    deployments: list[str] | None = None
    expires_at: datetime | None = None


class LimitUseOut(Schema):
    """How much of the limits is used now; null where it is not limited or cannot be read."""

    requests_last_minute: int | None
    tokens_last_minute: int | None
    requests_in_flight: int | None
    spent_usd_today: Money | None
    spent_usd_this_month: Money | None


class DeploymentOut(Schema):
    """A deployment: what is wanted, what was seen, and how old that is."""

    name: str
    model: str
    desired_state: str
    phase: str = Field(
        description="queued, placing, loading, warming, ready, asleep, stopped, failed or unknown"
    )
    word: str = Field(description="the phase, or over_slo while a ready one misses an objective")
    reason: str
    advice: str
    failure: FailureOut | None
    age_s: float | None = Field(description="seconds since the cluster was last seen")
    stale: bool
    revision: int
    serving_revision: int = Field(description="the oldest that takes requests, 0 when none does")
    version: int
    generation: int
    engine: dict[str, Any]
    capacity: CapacityOut
    limits: LimitsOut
    topology: str
    replicas_running: int
    replicas_target: int
    accelerators: int = Field(description="claimed now")
    phases: list[PhaseOut]
    ready_in_s: float | None
    cost_per_hour_usd: Money
    created_at: datetime


class DeploymentDetail(DeploymentOut):
    """A deployment with what it has cost so far."""

    cost_so_far_usd: Money


class RevisionOut(Schema):
    """An immutable engine definition."""

    number: int
    engine: dict[str, Any]
    note: str
    author: str = Field(validation_alias="author_name")
    rolled_back_from: int | None
    created_at: datetime


class DifferenceOut(Schema):
    """One part as planned and as measured."""

    unit: str = Field(description="bytes (of one rank), tokens, blocks or requests")
    planned: float | None = Field(description="the expected figure")
    low: float | None = Field(description="the lower bound where the plan gave a band, else planned")
    high: float | None
    measured: float | None
    error: float | None = Field(description="(measured - planned) / planned")
    is_off: bool = Field(
        description="more than 5 % beside the plan, rounding of the engine's log allowed for"
    )
    is_within_band: bool | None
    note: str = Field(description="why it could not be compared")


class PlanErrorOut(Schema):
    """How far one part of one revision was beside its plan."""

    error: float | None
    is_off: bool
    is_within_band: bool | None


class PlanTrendOut(Schema):
    """One revision in the trend."""

    revision: int
    measured_at: float | None
    cause: str
    notes: list[str]
    errors: dict[str, PlanErrorOut]


class PlanCheckOut(Schema):
    """What a revision planned beside what its engine holds; null where there is none."""

    revision: int
    plan: dict[str, Any] | None = Field(description="as it was stored with the revision")
    measured: dict[str, Any] | None = Field(description="null until a replica of the revision runs")
    differences: dict[str, DifferenceOut] = Field(description="by part: weights, kv_cache, kv_blocks …")
    is_off: bool
    cause: str = Field(description="the likely cause where something is off, else empty")
    replica_id: str | None
    measured_at: float | None
    notes: list[str] = Field(description="what is missing, and why")
    trend: list[PlanTrendOut] = Field(description="errors of the newest revisions, oldest first")


class EventOut(Schema):
    """Who did what to what, before and after."""

    id: int
    at: datetime
    actor: str
    source: str
    subject_kind: str
    subject_name: str
    kind: str
    level: str
    message: str
    before: Any
    after: Any


class LogOut(Schema):
    """The end of one log."""

    source: str
    file: str | None
    lines: list[str]
    note: str = Field(description="why there are no lines, when there are none")
    failure: FailureOut | None = Field(description="the root cause found in these lines, when there is one")


class PointsOut(Schema):
    """Samples of a window; null is a gap."""

    resolution_s: int
    from_: float = Field(validation_alias="from", serialization_alias="from")
    to: float
    points: list[dict[str, Any]]


class LatencyOut(Schema):
    """One latency of a window; null where no request told it."""

    count: int = Field(description="requests that told it")
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


class PercentilesOut(Schema):
    """Percentiles of a window, from summed bucket counts: each within 5 % of the true value."""

    from_: int = Field(
        validation_alias="from",
        serialization_alias="from",
        description="epoch seconds; the window is widened to whole rows: 1 s within the last hour, 10 s "
        "within a day, 60 s within 30 days",
    )
    to: int
    requests: int
    failed: int
    latencies: dict[str, LatencyOut] = Field(description="ttft, tpot, e2e and queue")


class SloOut(Schema):
    """What is promised; null is no objective."""

    ttft_s: float | None
    tpot_s: float | None
    latency_target: float
    success_target: float | None
    window_days: int


class ObjectiveOut(Schema):
    """How one objective stands, from exact counts."""

    objective: str = Field(description="ttft, tpot or errors")
    limit_s: float | None
    held_limit_s: float | None = Field(
        description="the bucket bound that the threshold is held to: at most 5 % below it, never above"
    )
    target: float
    window_days: int
    requests: int = Field(description="in the objective's window")
    bad: int
    good_share: float | None
    budget_left: float | None = Field(description="1 is untouched, 0 spent, below 0 overspent")
    burn_rates: dict[str, float | None] = Field(description="by window in seconds; null without requests")
    is_over: bool = Field(description="whether the last 5 minutes missed the target")


class AlertOut(Schema):
    """An error budget that burned too fast."""

    id: int
    deployment: str = Field(validation_alias="deployment_name")
    objective: str
    speed: str = Field(description="fast or slow")
    long_window_s: int
    short_window_s: int
    factor: float
    target: float
    limit_s: float | None
    burn_rate: float = Field(description="of the long window when it opened")
    opened_at: float
    resolved_at: float | None
    reason: str


class StandingOut(Schema):
    """A deployment and its objectives."""

    version: int
    slo: SloOut
    evaluated_at: float | None
    age_s: float | None
    stale: bool
    objectives: list[ObjectiveOut]
    is_over: bool
    open_alerts: list[AlertOut]


class WebhookOut(Schema):
    """Where alerts are sent. The secret is never given back."""

    url: str
    has_secret: bool
    enabled: bool
    sends_fast: bool
    sends_slow: bool
    sends_resolved: bool
    version: int


class DeliveryOut(Schema):
    """One message to the webhook and what became of it."""

    id: UUID
    alert_id: int | None
    event: str
    status: str = Field(description="queued, delivered or failed")
    attempts: int
    last_status: int | None = Field(description="HTTP status of the last attempt")
    last_error: str
    created_at: float
    next_at: float
    finished_at: float | None


class KeyOut(Schema):
    """A gateway key; its secret is not stored and cannot be shown again."""

    id: int
    name: str
    prefix: str
    version: int
    limits: KeyLimitsOut
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


class KeyDetail(KeyOut):
    """A gateway key with the use of its limits now."""

    use: LimitUseOut


class AdapterOut(Schema):
    """A LoRA adapter of a registered model. `facts` and `problems` come from reading its folder."""

    name: str
    source: str
    facts: dict[str, Any]
    problems: list[ProblemOut]
    created_at: datetime


class AliasTargetOut(Schema):
    """A deployment and its share of an alias's requests."""

    deployment: str
    weight: int


class AliasOut(Schema):
    """An alias at the gateway: deployments by weight, then those tried when none of them can answer."""

    name: str
    targets: list[AliasTargetOut]
    fallback: list[str]
    version: int
    created_at: datetime
    updated_at: datetime


class NewKeyOut(KeyOut):
    """A new gateway key with its secret, this once."""

    key: str | None = Field(description="the secret; null when an idempotent request is repeated")


class TokenOut(Schema):
    """A token for this API."""

    id: int
    name: str
    role: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None


class NewTokenOut(TokenOut):
    """A new token with its secret, this once."""

    token: str | None = Field(description="the secret; null when an idempotent request is repeated")


class MeOut(Schema):
    """Who you are to this API."""

    username: str
    role: str = Field(description="what counts for your requests: the lower of account and token")
    account_role: str
    via: str = Field(description="token or session")
    token: TokenOut | None


class ClusterOut(Schema):
    """The Ray cluster as last seen."""

    reachable: bool
    error: str
    age_s: float | None
    stale: bool
    ray_version: str
    gateway_status: str
    gateway_ready: bool
    base_url: str = Field(description="what callers give their OpenAI client")
    nodes: list[dict[str, Any]]
    cost_per_hour_usd: Money
    month_to_date_usd: Money


class RequestOut(Schema):
    """One finished, failed, aborted or refused request to the gateway."""

    id: str = Field(description="also the response header x-request-id")
    key_id: int | None
    user: str = Field(validation_alias="user_name", description="who chatted in the playground, else empty")
    deployment: str = Field(validation_alias="deployment_name", description="which one served")
    alias: str = Field(description="the alias that was asked for, else empty")
    adapter: str = Field(description="the LoRA adapter that was asked for, else empty")
    revision: int
    replica: str
    path: str
    stream: bool
    started_at: float
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    gateway_s: float | None
    held_s: float | None
    queue_s: float | None
    prefill_s: float | None
    engine_decode_s: float | None
    ttft_s: float | None
    tpot_s: float | None
    decode_s: float | None
    e2e_s: float | None
    status: int
    outcome: str
    finish_reason: str
    error_class: str
    woke: bool


class PartOut(Schema):
    """One stretch of a request's time."""

    name: str = Field(description="gateway, held, hop, queue, prefill, decode, rest or engine")
    label: str
    start_s: float = Field(description="seconds from the request's start")
    seconds: float
    how: str = Field(description="measured (by the gateway's or the engine's clock) or derived")


class RequestDetail(RequestOut):
    """One request with its waterfall."""

    # The list's aliases are those of a row; here the fields have their own names already.
    user: str
    deployment: str
    parts: list[PartOut]
    neighbours: int | None = Field(description="other requests on the same replica at the same time")
