"""Every table: what operators want (desired), what was seen (observed), and what happened (append only).

Desired rows are written by console/actions/ alone, observed rows by workers/ alone; the two never share a
row. A deployment's phase is never stored: serving/observed.py computes it. Money is Decimal, times that are
compared with engine clocks are float seconds since the epoch.
"""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q

from console.columns import CountsField


class Role(models.TextChoices):
    """What a person or token may do; each role includes the ones before it."""

    VIEWER = "viewer", "Viewer"
    OPERATOR = "operator", "Operator"
    ADMIN = "admin", "Admin"


class User(AbstractUser):
    """A person who logs in to the console."""

    role = models.CharField(max_length=10, choices=Role.choices, default=Role.VIEWER)
    keep_chat_history = models.BooleanField(default=True)


# --- desired -----------------------------------------------------------------------------------------------


class SourceKind(models.TextChoices):
    """Where a model's files come from."""

    FOLDER = "folder", "Local folder"
    HUB = "hub", "Hub repository"
    OBJECT_STORE = "object_store", "Object store"


class RegisteredModel(models.Model):
    """A model that deployments can use. `facts` and `problems` come from serving/checkpoint.py."""

    name = models.SlugField(max_length=63, unique=True)
    source_kind = models.CharField(max_length=12, choices=SourceKind.choices)
    source = models.CharField(max_length=1000)
    hub_revision = models.CharField(max_length=200, blank=True)
    hub_token_encrypted = models.TextField(blank=True)
    note = models.CharField(max_length=500, blank=True)
    facts = models.JSONField(default=dict, blank=True)
    problems = models.JSONField(default=list, blank=True)
    config = models.JSONField(null=True, blank=True, help_text="config.json, for the planner")
    tensors = models.JSONField(null=True, blank=True, help_text="serving.planner.tensors groups")
    inspected_at = models.DateTimeField(null=True, blank=True)
    version = models.PositiveIntegerField(default=1)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def has_hub_token(self) -> bool:
        """Whether a token is stored; the token itself is never shown again."""
        return bool(self.hub_token_encrypted)


class ModelAdapter(models.Model):
    """A LoRA adapter of a registered model. `facts` and `problems` come from serving/adapter.py."""

    model = models.ForeignKey(RegisteredModel, on_delete=models.CASCADE, related_name="adapters")
    name = models.SlugField(max_length=40)
    source = models.CharField(max_length=1000, help_text="folder with adapter_config.json")
    facts = models.JSONField(default=dict, blank=True)
    problems = models.JSONField(default=list, blank=True)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["model", "name"], name="adapter_unique")]

    def __str__(self) -> str:
        return f"{self.model.name}:{self.name}"


class DesiredState(models.TextChoices):
    """What the operator asked for."""

    RUNNING = "running", "Running"
    STOPPED = "stopped", "Stopped"


class Deployment(models.Model):
    """One model served under one name. Engine definition: `current_revision`; capacity: the columns here.

    `generation` grows with every change that must be acted on anew (engine change, start, retry, roll back);
    `version` grows with every edit and settles races between two operators.
    """

    name = models.SlugField(max_length=40, unique=True)
    model = models.ForeignKey(RegisteredModel, on_delete=models.PROTECT, related_name="deployments")
    current_revision = models.ForeignKey(
        "Revision", null=True, on_delete=models.PROTECT, related_name="current_for"
    )
    desired_state = models.CharField(max_length=8, choices=DesiredState.choices, default=DesiredState.RUNNING)
    generation = models.PositiveIntegerField(default=1)
    version = models.PositiveIntegerField(default=1)
    requested_at = models.FloatField(help_text="When this generation was asked for, epoch seconds")
    colour = models.PositiveSmallIntegerField(default=1)

    min_replicas = models.PositiveIntegerField(default=1)
    max_replicas = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    target_ongoing_requests = models.FloatField(default=8.0)
    idle_before_zero_s = models.PositiveIntegerField(null=True, blank=True)
    price_per_accelerator_hour_usd = models.DecimalField(max_digits=12, decimal_places=6, default=Decimal(0))
    api_input_usd_per_million_tokens = models.DecimalField(
        max_digits=12, decimal_places=6, null=True, blank=True, help_text="of an API to compare with"
    )
    api_output_usd_per_million_tokens = models.DecimalField(
        max_digits=12, decimal_places=6, null=True, blank=True, help_text="of an API to compare with"
    )
    limits = models.JSONField(default=dict, blank=True, help_text="serving.limits.DeploymentLimits")

    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(max_replicas__gte=1) & Q(max_replicas__gte=F("min_replicas")),
                name="deployment_min_le_max",
            ),
            models.CheckConstraint(
                condition=Q(price_per_accelerator_hour_usd__gte=0), name="deployment_price_positive"
            ),
            models.CheckConstraint(
                condition=Q(target_ongoing_requests__gt=0), name="deployment_target_positive"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Revision(models.Model):
    """An immutable engine definition (serving.spec.EngineSpec as JSON); inserted, never updated."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="revisions")
    number = models.PositiveIntegerField()
    engine = models.JSONField()
    plan = models.JSONField(null=True, blank=True, help_text="as planned when it was made; null: none")
    hub_token_encrypted = models.TextField(blank=True, help_text="the model's, when this was made")
    note = models.CharField(max_length=300, blank=True)
    rolled_back_from = models.PositiveIntegerField(null=True, blank=True)
    author = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    author_name = models.CharField(max_length=150, default="system")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["deployment", "number"], name="revision_number_unique")
        ]

    def __str__(self) -> str:
        return f"{self.deployment.name} revision {self.number}"


class GatewayAlias(models.Model):
    """A name at the gateway behind which several deployments stand, by weight and with a fallback."""

    name = models.SlugField(max_length=40, unique=True)
    version = models.PositiveIntegerField(default=1)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class AliasTarget(models.Model):
    """One deployment behind an alias. `weight` is its share of requests; null: tried only as a fallback."""

    alias = models.ForeignKey(GatewayAlias, on_delete=models.CASCADE, related_name="targets")
    deployment = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="alias_targets")
    weight = models.PositiveIntegerField(null=True, blank=True)
    position = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["alias", "deployment"], name="alias_target_unique"),
            models.CheckConstraint(
                condition=Q(weight=None) | Q(weight__gte=1), name="alias_target_weight_positive"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.alias.name} → {self.deployment.name}"


class PriceChange(models.Model):
    """The price of a deployment's accelerators from `from_at` on; history never moves."""

    # No constraint: what a deleted deployment has cost stays known, and so do its prices.
    deployment = models.ForeignKey(
        Deployment, on_delete=models.DO_NOTHING, db_constraint=False, related_name="price_changes"
    )
    from_at = models.FloatField()
    price_per_accelerator_hour_usd = models.DecimalField(max_digits=12, decimal_places=6)

    class Meta:
        ordering = ["from_at"]


class Slo(models.Model):
    """What an operator promises for a deployment (serving.slo.SloSpec); edits count in its `version`."""

    deployment = models.OneToOneField(Deployment, on_delete=models.CASCADE, related_name="slo")
    ttft_s = models.FloatField(null=True, blank=True)
    tpot_s = models.FloatField(null=True, blank=True)
    latency_target = models.FloatField(default=0.95)
    success_target = models.FloatField(null=True, blank=True)
    window_days = models.PositiveSmallIntegerField(default=30)


class AlertWebhook(models.Model):
    """Where alerts are sent. One row, primary key 1. The secret is encrypted and never shown again."""

    url = models.CharField(max_length=500, blank=True)
    secret_encrypted = models.TextField(blank=True)
    enabled = models.BooleanField(default=False)
    sends_fast = models.BooleanField(default=True)
    sends_slow = models.BooleanField(default=True)
    sends_resolved = models.BooleanField(default=True)
    version = models.PositiveIntegerField(default=1)
    updated_at = models.DateTimeField(auto_now=True)

    @property
    def has_secret(self) -> bool:
        """Whether a secret is stored; without one nothing is sent."""
        return bool(self.secret_encrypted)


class MinReplicasChange(models.Model):
    """The fewest replicas of a deployment from `from_at` on: what says which idle time was kept warm."""

    # No constraint, as with prices: the idle time of a deleted deployment may not have been shared out yet.
    deployment = models.ForeignKey(
        Deployment, on_delete=models.DO_NOTHING, db_constraint=False, related_name="min_replicas_changes"
    )
    from_at = models.FloatField()
    min_replicas = models.PositiveIntegerField()

    class Meta:
        ordering = ["from_at"]


class Supply(models.TextChoices):
    """How the organisation comes by an accelerator type."""

    UNSET = "", "Not said"
    OWNED = "owned", "Owned"
    RENTED = "rented", "Rented"


class CatalogueAccelerator(models.Model):
    """An accelerator type the operator added, or changed from the shipped catalogue. `name` is Ray's.

    Specification columns are null where the shipped entry holds. Bandwidths in GB/s (1e9 bytes), peaks in
    dense TFLOP/s, as data sheets give them.
    """

    name = models.CharField(max_length=60, unique=True)
    vendor = models.CharField(max_length=40, blank=True)
    variant = models.CharField(max_length=60, blank=True)
    usable_bytes = models.PositiveBigIntegerField(null=True, blank=True)
    memory_bandwidth_gb_per_s = models.FloatField(null=True, blank=True)
    tflops_16bit = models.FloatField(null=True, blank=True)
    tflops_fp8 = models.FloatField(null=True, blank=True)
    tflops_fp4 = models.FloatField(null=True, blank=True)
    intra_node_gb_per_s = models.FloatField(null=True, blank=True)
    inter_node_gb_per_s = models.FloatField(null=True, blank=True)
    compute_capability = models.CharField(max_length=8, blank=True)
    accelerators_per_node = models.PositiveSmallIntegerField(null=True, blank=True)
    supply = models.CharField(max_length=6, choices=Supply.choices, default=Supply.UNSET, blank=True)
    note = models.CharField(max_length=500, blank=True)
    source = models.CharField(max_length=300, blank=True, help_text="where the specification comes from")
    version = models.PositiveIntegerField(default=1)
    updated_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class AcceleratorPrice(models.Model):
    """What one accelerator of a type costs per hour from a date on; inserted, never changed."""

    accelerator_type = models.CharField(max_length=60)
    usd_per_hour = models.DecimalField(max_digits=12, decimal_places=6, validators=[MinValueValidator(0)])
    from_date = models.DateField()
    source = models.CharField(max_length=300)
    author = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    author_name = models.CharField(max_length=150, default="system")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["accelerator_type", "-from_date", "-created_at"]
        indexes = [models.Index(fields=["accelerator_type", "from_date"])]


class KeyKind(models.TextChoices):
    """Who uses a key: a caller, or the console itself (derived, never shown)."""

    USER = "user", "User"
    INTERNAL = "internal", "Internal"


SMOKE_KEY = "smoke"
"""Name of the internal key of the console's own smoke requests."""


class ApiKey(models.Model):
    """A key for the gateway. Only its HMAC digest is stored (serving/keys.py); `version` grows with every
    edit and settles races between two operators."""

    name = models.CharField(max_length=80)
    digest = models.CharField(max_length=64, unique=True)
    prefix = models.CharField(max_length=12)
    kind = models.CharField(max_length=8, choices=KeyKind.choices, default=KeyKind.USER)
    limits = models.JSONField(default=dict, blank=True, help_text="serving.limits.KeyLimits")
    version = models.PositiveIntegerField(default=1)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name


class ApiToken(models.Model):
    """A bearer token for the REST admin API, with a role of its own; stored like a key."""

    name = models.CharField(max_length=80)
    digest = models.CharField(max_length=64, unique=True)
    prefix = models.CharField(max_length=12)
    role = models.CharField(max_length=10, choices=Role.choices)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]


class IdempotencyRecord(models.Model):
    """The answer given to a create request with an Idempotency-Key, so that a repeat gets the same answer."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=200)
    method_and_path = models.CharField(max_length=300)
    request_digest = models.CharField(max_length=64)
    response_status = models.PositiveSmallIntegerField()
    response_body = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "key", "method_and_path"], name="idempotency_unique")
        ]


# --- observed ----------------------------------------------------------------------------------------------


class Lease(models.Model):
    """Who may act as the one writer (`reconciler`, `collector`); `token` fences off a holder that lost it."""

    name = models.CharField(max_length=40, primary_key=True)
    holder = models.CharField(max_length=200, blank=True)
    token = models.PositiveBigIntegerField(default=0)
    expires_at = models.FloatField(default=0)


class ClusterStatus(models.Model):
    """What was last seen of the Ray cluster, and what was last sent to it. One row, primary key 1."""

    reachable = models.BooleanField(default=False)
    error = models.TextField(blank=True)
    observed_at = models.FloatField(null=True)
    ray_version = models.CharField(max_length=40, blank=True)
    nodes = models.JSONField(default=list)
    gateway_status = models.CharField(max_length=20, blank=True)
    gateway_limits = models.JSONField(
        default=dict, blank=True, help_text="what the gateway last said of its limits, and `at`"
    )
    put_digest = models.CharField(max_length=64, blank=True)
    put_at = models.FloatField(null=True)
    rejected_digest = models.CharField(max_length=64, blank=True)
    rejected_message = models.TextField(blank=True)
    decision = models.CharField(max_length=200, blank=True)
    reconciled_at = models.FloatField(null=True)


class DeploymentStatus(models.Model):
    """What was last seen of one deployment. Times are epoch seconds of the generation in `generation`."""

    deployment = models.OneToOneField(Deployment, on_delete=models.CASCADE, related_name="status")
    generation = models.PositiveIntegerField(default=0)
    revision = models.PositiveIntegerField(default=0)
    app_status = models.CharField(max_length=20, blank=True)
    observed_at = models.FloatField(null=True)
    replicas_running = models.PositiveIntegerField(default=0)
    replicas_target = models.PositiveIntegerField(default=0)
    queued_at = models.FloatField(null=True)
    sent_at = models.FloatField(null=True, help_text="when this generation was first sent to Ray")
    placing_at = models.FloatField(null=True)
    loading_at = models.FloatField(null=True)
    warming_at = models.FloatField(null=True)
    ready_at = models.FloatField(null=True)
    failed_at = models.FloatField(null=True)
    asleep_at = models.FloatField(null=True)
    followed_from = models.FloatField(null=True, help_text="deadlines count from here, if it is later")
    start_kind = models.CharField(
        max_length=10, default="asked", help_text="what began the present start: serving.progress"
    )
    start_failures = models.PositiveIntegerField(default=0)
    start_causes = models.JSONField(default=list, blank=True, help_text="of the failed starts in a row")
    failure = models.JSONField(null=True, blank=True, help_text="{code, cause, advice, raw}")
    message = models.TextField(blank=True)
    last_phase = models.CharField(max_length=10, blank=True, help_text="phase of the last event written")


class Replica(models.Model):
    """One replica's life, from its claim of accelerators to its end: the base of every cost figure."""

    # No constraint: the replicas of a deleted deployment keep its number, which its prices carry too.
    deployment = models.ForeignKey(
        Deployment, null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="replicas"
    )
    deployment_name = models.CharField(max_length=40)
    replica_id = models.CharField(max_length=120, unique=True)
    revision = models.PositiveIntegerField(default=0)
    accelerators = models.PositiveIntegerField(default=1)
    state = models.CharField(max_length=20)
    node_id = models.CharField(max_length=80, blank=True)
    node_ip = models.CharField(max_length=45, blank=True)
    pid = models.PositiveIntegerField(null=True)
    actor_id = models.CharField(max_length=80, blank=True)
    worker_id = models.CharField(max_length=80, blank=True)
    log_file_path = models.CharField(max_length=300, blank=True)
    facts = models.JSONField(default=dict, blank=True)
    started_at = models.FloatField()
    ready_at = models.FloatField(null=True, help_text="when it was first seen running")
    draining_at = models.FloatField(null=True, help_text="when it was first seen stopping")
    last_seen_at = models.FloatField()
    ended_at = models.FloatField(null=True)
    accounted_until = models.BigIntegerField(
        null=True, help_text="its cost up to this second is in CostEntry; null: none of it"
    )
    settled = models.BooleanField(default=False, help_text="ended, and its whole cost is in CostEntry")

    class Meta:
        indexes = [
            models.Index(fields=["deployment_name", "ended_at"]),
            models.Index(fields=["deployment", "ended_at"]),
            models.Index(fields=["started_at"], condition=Q(settled=False), name="replica_unsettled"),
        ]


class PlanCheck(models.Model):
    """What an engine of a revision was measured to hold, beside what was planned; the newest replica's.

    `measured`: weight_bytes, kv_cache_bytes, kv_cache_tokens, num_blocks, block_tokens, max_concurrency,
    process_bytes, device_bytes …, each null where it was not seen. `differences`: part -> {planned, measured,
    error} with error = (measured - planned) / planned.
    """

    revision = models.OneToOneField(Revision, on_delete=models.CASCADE, related_name="plan_check")
    replica_id = models.CharField(max_length=120)
    measured = models.JSONField(default=dict)
    differences = models.JSONField(default=dict)
    cause = models.CharField(max_length=300, blank=True)
    measured_at = models.FloatField()


class ExactPlan(models.Model):
    """What vLLM's own classes say of a configuration, kept by its digest (serving/cluster/exact_plan.py)."""

    class Status(models.TextChoices):
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        DONE = "done", "Done"
        FAILED = "failed", "Failed"

    digest = models.CharField(primary_key=True, max_length=64)
    request = models.JSONField(default=dict)
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.QUEUED)
    result = models.JSONField(null=True, blank=True)
    error = models.TextField(blank=True)
    engine_version = models.CharField(max_length=40, blank=True)
    requested_at = models.FloatField()
    started_at = models.FloatField(null=True)
    finished_at = models.FloatField(null=True)


class Sample(models.Model):
    """One deployment over one interval. Null means not measured (a gap), 0 means measured as 0.

    Histograms are sparse maps bucket index -> count over the bounds in serving/histogram.py, so that any
    window's percentile is exact to its bucket.
    """

    # Without an index of its own: the unique one below begins with it.
    deployment = models.ForeignKey(
        Deployment, on_delete=models.CASCADE, related_name="samples", db_index=False
    )
    resolution_s = models.PositiveIntegerField()
    at = models.BigIntegerField(help_text="start of the interval, epoch seconds")
    requests_running = models.FloatField(null=True)
    requests_waiting = models.FloatField(null=True)
    kv_cache_usage = models.FloatField(null=True, help_text="0 to 1")
    prompt_tokens = models.BigIntegerField(null=True)
    completion_tokens = models.BigIntegerField(null=True)
    requests_ok = models.IntegerField(null=True)
    requests_failed = models.IntegerField(null=True)
    replicas = models.FloatField(null=True)
    weights_bytes = models.BigIntegerField(null=True)
    kv_cache_bytes = models.BigIntegerField(null=True)
    rest_bytes = models.BigIntegerField(null=True)
    cost_per_hour_usd = models.DecimalField(max_digits=14, decimal_places=6, null=True)
    ttft = CountsField(default=dict)
    tpot = CountsField(default=dict)
    e2e = CountsField(default=dict)
    queue = CountsField(default=dict)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["deployment", "resolution_s", "at"], name="sample_unique")
        ]


class SampleMark(models.Model):
    """Up to when the samples of one resolution are complete: whatever ends later is still to be rolled up."""

    resolution_s = models.PositiveIntegerField(primary_key=True)
    complete_to = models.BigIntegerField(default=0, help_text="epoch seconds")


class RequestTotal(models.Model):
    """All requests ever counted with these labels; only ever grows, unlike the ledger. `key_number` 0: none.

    `deployment_name` is empty where the caller named one that does not exist, so that the labels stay few.
    """

    deployment_name = models.CharField(max_length=40, blank=True)
    key_number = models.BigIntegerField(default=0)
    status = models.PositiveSmallIntegerField()
    outcome = models.CharField(max_length=10)
    requests = models.BigIntegerField(default=0)
    prompt_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["deployment_name", "key_number", "status", "outcome"], name="request_total_unique"
            )
        ]


class LatencyTotal(models.Model):
    """All latencies of a deployment ever counted: buckets as in Sample, and their sums in seconds."""

    deployment = models.OneToOneField(Deployment, on_delete=models.CASCADE, related_name="latency_total")
    ttft = CountsField(default=dict)
    tpot = CountsField(default=dict)
    e2e = CountsField(default=dict)
    queue = CountsField(default=dict)
    ttft_sum_s = models.FloatField(default=0.0)
    tpot_sum_s = models.FloatField(default=0.0)
    e2e_sum_s = models.FloatField(default=0.0)
    queue_sum_s = models.FloatField(default=0.0)


class GatewayHealth(models.Model):
    """What the gateway that answered last says of its usage records. One row, primary key 1."""

    queued = models.BigIntegerField(default=0)
    spooled_bytes = models.BigIntegerField(default=0)
    unrecorded = models.BigIntegerField(default=0, help_text="since that gateway replica started")
    observed_at = models.FloatField()


class RequestRecords(models.QuerySet["RequestRecord"]):
    """The ledger."""

    def of_callers(self) -> RequestRecords:
        """Without the console's own smoke requests, which nobody asked."""
        return self.exclude(key__kind=KeyKind.INTERNAL, key__name=SMOKE_KEY)


class RequestRecord(models.Model):
    """One finished, failed, aborted or refused request as the gateway reported it; inserted once by id."""

    id = models.CharField(primary_key=True, max_length=40)
    key = models.ForeignKey(ApiKey, null=True, on_delete=models.SET_NULL, related_name="requests")
    user_name = models.CharField(max_length=150, blank=True)
    deployment = models.ForeignKey(Deployment, null=True, on_delete=models.SET_NULL, related_name="requests")
    deployment_name = models.CharField(max_length=100)
    alias = models.CharField(max_length=40, blank=True, help_text="the name that was asked for, if one")
    adapter = models.CharField(max_length=40, blank=True)
    revision = models.PositiveIntegerField(default=0)
    replica = models.CharField(max_length=120, blank=True)
    path = models.CharField(max_length=60)
    stream = models.BooleanField(default=False)
    started_at = models.FloatField()
    prompt_tokens = models.PositiveIntegerField(null=True)
    cached_tokens = models.PositiveIntegerField(null=True)
    completion_tokens = models.PositiveIntegerField(null=True)
    gateway_s = models.FloatField(null=True)
    held_s = models.FloatField(null=True, help_text="waiting for a sleeping deployment")
    queue_s = models.FloatField(null=True)
    prefill_s = models.FloatField(null=True)
    engine_decode_s = models.FloatField(null=True, help_text="first to last token by the engine's clock")
    ttft_s = models.FloatField(null=True)
    tpot_s = models.FloatField(null=True)
    decode_s = models.FloatField(null=True)
    e2e_s = models.FloatField(null=True)
    status = models.PositiveSmallIntegerField()
    outcome = models.CharField(max_length=10)
    finish_reason = models.CharField(max_length=30, blank=True)
    error_class = models.CharField(max_length=80, blank=True)
    woke = models.BooleanField(default=False)
    finished_at = models.FloatField(default=0.0)
    cost_units = models.BigIntegerField(
        null=True, help_text="its share of its replica's cost in trillionths of a dollar; null: not known yet"
    )

    objects = RequestRecords.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["deployment_name", "started_at"]),
            models.Index(fields=["started_at"]),
            models.Index(fields=["replica", "finished_at"]),
            models.Index(fields=["finished_at"], condition=Q(cost_units=None), name="request_unallocated"),
            models.Index(fields=["key", "started_at"]),
            models.Index(fields=["replica", "started_at"]),
        ]


class CostAccounting(models.Model):
    """How far costs have been shared out. One row, primary key 1; `version` grows with every step, so that
    of two workers that reckoned the same step one gets through."""

    until = models.BigIntegerField(null=True, help_text="epoch seconds, a whole minute")
    version = models.PositiveBigIntegerField(default=0)
    stepped_at = models.FloatField(null=True)


class CostEntry(models.Model):
    """What one kind of use of one deployment cost within an interval: a part of the ledger of costs.

    `kind` is `request` or a cause of idle time (serving/idle.py). The amount is `whole_usd` dollars and
    `rest_units` trillionths, so that no sum overflows; a correction may be negative. Every step of the
    accounting appends rows with its own number as `step`; later those of an hour, and of a day, become one
    row with step 0. Tokens and requests count in the hour in which the request finished.
    """

    deployment_id = models.BigIntegerField()
    deployment_name = models.CharField(max_length=40)
    at = models.BigIntegerField(help_text="start of the interval, epoch seconds")
    interval_s = models.PositiveIntegerField(default=3600)
    kind = models.CharField(max_length=20)
    key_id = models.BigIntegerField(default=0, help_text="0: none")
    user_name = models.CharField(max_length=150, blank=True)
    step = models.PositiveBigIntegerField(default=0)
    whole_usd = models.BigIntegerField(default=0)
    rest_units = models.BigIntegerField(default=0)
    requests = models.BigIntegerField(default=0)
    prompt_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["at", "interval_s", "deployment_id", "kind", "key_id", "user_name", "step"],
                name="cost_entry_unique",
            ),
            models.CheckConstraint(
                condition=Q(rest_units__gte=0) & Q(rest_units__lt=10**12), name="cost_entry_rest"
            ),
        ]
        indexes = [
            models.Index(fields=["deployment_id", "at"]),
            models.Index(fields=["key_id", "at"]),
            models.Index(fields=["at"], condition=Q(step__gt=0), name="cost_entry_unfolded"),
            models.Index(fields=["at"], condition=Q(interval_s=3600), name="cost_entry_hours"),
        ]


class SloStatus(models.Model):
    """How a deployment stands against its objectives, as last evaluated (serving.slo.judged)."""

    deployment = models.OneToOneField(Deployment, on_delete=models.CASCADE, related_name="slo_status")
    evaluated_at = models.FloatField()
    objectives = models.JSONField(default=list)


# --- append only -------------------------------------------------------------------------------------------


class Event(models.Model):
    """Timeline and audit log in one: who did what to what, before → after."""

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor = models.CharField(max_length=150, default="system")
    source = models.CharField(max_length=10, default="system", help_text="page, api, cli or system")
    subject_kind = models.CharField(max_length=20)
    subject_name = models.CharField(max_length=100)
    deployment = models.ForeignKey(Deployment, null=True, on_delete=models.SET_NULL, related_name="events")
    kind = models.CharField(max_length=40)
    level = models.CharField(max_length=8, default="info", help_text="info, ok, warn or bad")
    message = models.CharField(max_length=500)
    before: Any = models.JSONField(null=True, blank=True)
    after: Any = models.JSONField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["subject_kind", "subject_name", "-id"])]


class AlertSpeed(models.TextChoices):
    """Which rule opened an alert (serving.slo.RULES)."""

    FAST = "fast", "Fast burn"
    SLOW = "slow", "Slow burn"


class Alert(models.Model):
    """An error budget that burned too fast. Opened once, resolved once; nothing else of it changes."""

    deployment = models.ForeignKey(Deployment, null=True, on_delete=models.SET_NULL, related_name="alerts")
    deployment_name = models.CharField(max_length=40)
    objective = models.CharField(max_length=8, help_text="ttft, tpot or errors")
    speed = models.CharField(max_length=4, choices=AlertSpeed.choices)
    long_window_s = models.PositiveIntegerField()
    short_window_s = models.PositiveIntegerField()
    factor = models.FloatField()
    target = models.FloatField()
    limit_s = models.FloatField(null=True)
    burn_rate = models.FloatField(help_text="of the long window when it opened")
    opened_at = models.FloatField(db_index=True)
    resolved_at = models.FloatField(null=True)
    reason = models.CharField(max_length=100, blank=True, help_text="why it was resolved")

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["deployment_name", "objective", "speed"],
                condition=Q(resolved_at=None),
                name="alert_open_once",
            )
        ]


class DeliveryStatus(models.TextChoices):
    """How far a message has come."""

    QUEUED = "queued", "Waiting"
    DELIVERED = "delivered", "Delivered"
    FAILED = "failed", "Given up"


class WebhookDelivery(models.Model):
    """One message to the webhook and what became of it. What the other side answers is not kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    alert = models.ForeignKey(Alert, null=True, on_delete=models.SET_NULL, related_name="deliveries")
    event = models.CharField(max_length=20, help_text="alert.opened, alert.resolved or test")
    body = models.JSONField(default=dict)
    status = models.CharField(max_length=9, choices=DeliveryStatus.choices, default=DeliveryStatus.QUEUED)
    attempts = models.PositiveSmallIntegerField(default=0)
    last_status = models.PositiveSmallIntegerField(null=True)
    last_error = models.CharField(max_length=200, blank=True)
    created_at = models.FloatField()
    next_at = models.FloatField()
    finished_at = models.FloatField(null=True)

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["status", "next_at"])]


# --- playground --------------------------------------------------------------------------------------------


class Conversation(models.Model):
    """A chat that its user chose to keep; seen by nobody else."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="conversations")
    title = models.CharField(max_length=120)
    deployment_name = models.CharField(max_length=40)
    settings = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True, db_index=True)

    class Meta:
        ordering = ["-updated_at"]


class ChatMessage(models.Model):
    """One turn. `stats`: ttft_s, tpot_s, prompt_tokens, completion_tokens, tokens_per_s, cost_usd …"""

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="messages")
    role = models.CharField(max_length=10)
    content = models.TextField(blank=True)
    state = models.CharField(max_length=10, default="complete", help_text="complete, stopped or error")
    stats = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
