"""The reconciler against a cluster whose every move the test decides; rows, events and PUTs are counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from console import actions, states
from console.events import SYSTEM
from console.models import (
    ApiKey,
    ClusterStatus,
    Deployment,
    DeploymentStatus,
    Event,
    RegisteredModel,
    Replica,
    Revision,
    User,
)
from serving.client import RayClient
from tests.unit.planner.configs import LLAMA_8B
from tests.unit.workers.fake_ray import FakeRay
from workers import lease, observe
from workers.observe import LeaseLost
from workers.reconcile import reconcile_once

pytestmark = pytest.mark.django_db


@pytest.fixture
def ray() -> Iterator[FakeRay]:
    fake = FakeRay()
    before = settings.GATEWAY_URL
    settings.GATEWAY_URL = fake.url
    yield fake
    settings.GATEWAY_URL = before
    fake.close()


@pytest.fixture
def model(db: None) -> RegisteredModel:
    return RegisteredModel.objects.create(name="demo", source_kind="folder", source="/m", facts={})


@pytest.fixture
def viewer(db: None) -> User:
    return User.objects.create_user("vera", password="x", role="viewer")


class Reconciler:
    """Holds the lease and makes passes."""

    def __init__(self, ray: FakeRay) -> None:
        self.client = RayClient(ray.url)
        token = lease.acquire("reconciler", holder="test", ttl_s=600, now=time.time())
        assert token is not None
        self.token = token

    def __call__(self, passes: int = 1) -> bool:
        under_way = False
        for _ in range(passes):
            under_way = reconcile_once(self.client, token=self.token)
        return under_way


@pytest.fixture
def reconcile(ray: FakeRay) -> Iterator[Reconciler]:
    one = Reconciler(ray)
    yield one
    one.client.close()


def deploy(name: str = "chat", **changes: Any) -> Deployment:
    values: dict[str, Any] = {"engine": {"max_model_len": 1024}, "capacity": {}}
    return actions.create_deployment(actor=SYSTEM, name=name, model="demo", **{**values, **changes})


def phase(name: str = "chat") -> str:
    row = Deployment.objects.select_related("status").get(name=name)
    return states.phase_now(row, time.time())


def make_ready(ray: FakeRay, reconcile: Reconciler, name: str = "chat") -> None:
    reconcile()
    ray.finish(f"model-{name}")
    reconcile()
    assert phase(name) == "ready"


def test_an_empty_console_sends_the_gateway_once(ray: FakeRay, reconcile: Reconciler) -> None:
    reconcile(3)
    assert len(ray.puts) == 1
    assert [app["name"] for app in ray.puts[0]["applications"]] == ["gateway"]
    assert ClusterStatus.objects.get().gateway_status == "RUNNING"


def test_a_deployment_is_followed_to_ready_with_one_put_and_one_event_a_phase(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    assert reconcile() is True
    assert phase() == "placing"
    ray.place("model-chat")
    reconcile()
    assert phase() == "loading"
    ray.finish("model-chat")
    ray.smoke_status = 503
    assert reconcile() is True
    assert phase() == "warming"
    assert "not yet" in DeploymentStatus.objects.get().message
    ray.smoke_status = 200
    assert reconcile() is False
    assert phase() == "ready"
    reconcile(3)
    assert len(ray.puts) == 1 and ray.smokes == ["chat", "chat"]
    kinds = list(Event.objects.filter(source="system").order_by("id").values_list("kind", flat=True))
    phases = [k for k in kinds if k.split(".")[1] in ("placing", "loading", "warming", "ready")]
    assert phases == ["deployment.placing", "deployment.loading", "deployment.warming", "deployment.ready"]


def test_what_no_longer_finds_room_is_refused_by_its_own_plan_and_not_sent(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    RegisteredModel.objects.update(config=LLAMA_8B)
    deploy(engine={"max_model_len": 1024, "kv_cache_memory_bytes": 8 << 40})  # no cluster was seen yet
    reconcile()
    failure = DeploymentStatus.objects.get().failure
    assert failure is not None
    assert failure["code"] == "not_placeable"
    assert "8207.5 GiB of its node's memory" in failure["cause"]
    assert "Needs: 1 replica" in failure["raw"]
    assert [app["name"] for app in ray.puts[-1]["applications"]] == ["gateway"]


def test_timeline_seconds_add_up_to_the_time_to_ready(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    make_ready(ray, reconcile)
    state = states.deployment_state(Deployment.objects.get(), time.time())
    parts = [row["seconds"] for row in state["phases"] if row["name"] != "ready"]
    assert sum(parts) == pytest.approx(state["ready_in_s"], abs=1e-3)


def test_capacity_and_keys_are_sent_without_touching_the_replica(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    version = deploy().version
    make_ready(ray, reconcile)
    before = Replica.objects.get().replica_id
    actions.edit_deployment(actor=SYSTEM, name="chat", expected_version=version, capacity={"max_replicas": 2})
    actions.create_key(actor=SYSTEM, name="ci")
    reconcile(2)
    assert len(ray.puts) == 2
    assert Replica.objects.get(ended_at=None).replica_id == before and phase() == "ready"
    table = ray.puts[-1]["applications"][0]["deployments"][0]["user_config"]["keys"]
    assert set(table) == set(ApiKey.objects.values_list("digest", flat=True))


def test_an_engine_edit_is_proven_again_and_bills_both_replicas(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    version = deploy().version
    make_ready(ray, reconcile)
    actions.edit_deployment(
        actor=SYSTEM, name="chat", expected_version=version, engine={"max_model_len": 512}
    )
    reconcile()
    assert phase() == "placing"
    ray.finish("model-chat")
    reconcile()
    assert phase() == "ready" and len(ray.smokes) == 2
    assert DeploymentStatus.objects.get().revision == 2
    old, new = Replica.objects.order_by("pk")
    assert old.ended_at is not None and new.ended_at is None
    assert (old.revision, new.revision) == (1, 2)


def test_a_replica_that_ray_leaves_out_once_goes_on_where_it_was(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    make_ready(ray, reconcile)
    engine = ray._engine("model-chat")
    replicas, engine["replicas"] = engine["replicas"], []
    reconcile()
    assert Replica.objects.get().ended_at is not None
    engine["replicas"] = replicas
    reconcile()
    assert Replica.objects.get().ended_at is None


def test_stop_frees_it_and_start_brings_it_back(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    make_ready(ray, reconcile)
    actions.stop_deployment(actor=SYSTEM, name="chat")
    reconcile(2)
    assert "model-chat" not in ray.apps and phase() == "stopped"
    assert not Replica.objects.filter(ended_at=None).exists()
    gateway = ray.apps["gateway"]["deployed_app_config"]["deployments"][0]["user_config"]["models"]["chat"]
    assert gateway["state"] == "stopped" and gateway["reason"]
    actions.start_deployment(actor=SYSTEM, name="chat")
    make_ready(ray, reconcile)


def test_delete_removes_the_app_and_ends_the_bill(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    make_ready(ray, reconcile)
    actions.delete_deployment(actor=SYSTEM, name="chat")
    reconcile(2)
    assert set(ray.apps) == {"gateway"}
    assert Replica.objects.get().ended_at is not None


def test_a_failure_shows_the_engines_own_line_frees_the_app_and_is_not_repeated(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    reconcile()
    ray.place("model-chat")
    ray.logs["worker-worker1-01-4711.err"] = (
        "(EngineCore pid=77) ERROR 11-22 08:29:56 [core.py:1102] "
        "ValueError: Unknown engine argument: max_model_lenn\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    reconcile()
    ray.fail("model-chat", "RuntimeError: Engine core initialization failed. See root cause above.")
    reconcile()
    assert phase() == "failed"
    failure = DeploymentStatus.objects.get().failure
    assert "max_model_lenn" in failure["cause"] and "See root cause" not in failure["cause"]
    reconcile()
    assert "model-chat" not in ray.apps, "a failed generation holds nothing"
    puts = len(ray.puts)
    reconcile(3)
    actions.create_key(actor=SYSTEM, name="ci")
    reconcile()
    assert len(ray.puts) == puts + 1 and "model-chat" not in ray.apps
    assert Event.objects.filter(kind="deployment.failed").count() == 1


def test_retry_sends_a_failed_deployment_again(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    reconcile()
    ray.fail("model-chat", "RuntimeError: no luck")
    reconcile(2)
    actions.retry_deployment(actor=SYSTEM, name="chat")
    make_ready(ray, reconcile)


def test_what_does_not_fit_is_never_sent(ray: FakeRay, reconcile: Reconciler, model: RegisteredModel) -> None:
    deploy(engine={"max_model_len": 1024, "tensor_parallel_size": 4})  # the cluster was not seen yet
    reconcile(2)
    assert phase() == "failed"
    assert "4 CPU cores" in DeploymentStatus.objects.get().failure["cause"]
    assert all(app["name"] == "gateway" for put in ray.puts for app in put["applications"])


def test_a_rejected_document_is_shown_and_not_repeated(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    ray.reject_with = "duplicate route prefix"
    deploy()
    reconcile(3)
    assert ray.puts == []
    assert "duplicate route prefix" in ClusterStatus.objects.get().rejected_message
    assert phase() == "queued"
    ray.reject_with = ""
    actions.create_key(actor=SYSTEM, name="ci")
    reconcile()
    assert len(ray.puts) == 1 and ClusterStatus.objects.get().rejected_message == ""


def test_going_back_from_a_rejected_document_clears_what_was_said_of_it(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    reconcile()
    deploy()
    ray.reject_with = "no"
    reconcile()
    assert ClusterStatus.objects.get().rejected_message == "no"
    actions.delete_deployment(actor=SYSTEM, name="chat")
    reconcile()
    assert ClusterStatus.objects.get().rejected_message == ""


def test_one_deployment_that_cannot_be_read_does_not_stop_the_others(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    broken = deploy("broken")
    Revision.objects.filter(deployment=broken).update(engine={"surprise": 1}, hub_token_encrypted="")
    deploy("fine")
    reconcile()
    ray.finish("model-fine")
    reconcile()
    assert phase("fine") == "ready" and phase("broken") == "failed"
    status = DeploymentStatus.objects.get(deployment=broken)
    assert status.failure["code"] == "unreadable" and "not valid any more" in status.failure["cause"]


def test_a_smoke_that_hangs_delays_nobody_and_one_deleted_meanwhile_is_forgotten(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy("gone")
    deploy("here")
    reconcile()
    ray.finish("model-gone")
    ray.finish("model-here")
    row = Deployment.objects.get(name="gone")
    original = observe.write_progress

    def delete_first(deployment: Deployment, *args: Any, **kwargs: Any) -> str:
        if deployment.name == "gone":
            Deployment.objects.filter(pk=row.pk).update(current_revision=None)
            Deployment.objects.filter(pk=row.pk).delete()
        return original(deployment, *args, **kwargs)

    observe.write_progress = delete_first
    try:
        reconcile()
    finally:
        observe.write_progress = original
    assert phase("here") == "ready"
    assert not DeploymentStatus.objects.filter(deployment_id=row.pk).exists()


def test_a_new_hub_token_reaches_a_running_deployment_only_with_its_next_start(
    ray: FakeRay, reconcile: Reconciler
) -> None:
    gated = actions.register_model(
        actor=SYSTEM, name="demo", source_kind="hub", source="a/b", hub_token="hf_first_token"
    )
    deploy()
    make_ready(ray, reconcile)
    actions.edit_model(actor=SYSTEM, model=gated, expected_version=gated.version, hub_token="hf_second_token")
    reconcile(2)
    assert len(ray.puts) == 1
    actions.stop_deployment(actor=SYSTEM, name="chat")
    actions.start_deployment(actor=SYSTEM, name="chat")
    reconcile()
    env = ray.apps["model-chat"]["deployed_app_config"]["runtime_env"]["env_vars"]
    assert env["HF_TOKEN"] == "hf_second_token"
    assert Deployment.objects.get().current_revision.number == 2


def test_a_cluster_with_somebody_elses_applications_is_left_alone(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    ray._put({"applications": [{"name": "shop", "args": {}}]})
    ray.puts.clear()
    deploy()
    reconcile(2)
    assert ray.puts == [] and "shop" in ray.apps
    assert "shop" in ClusterStatus.objects.get().rejected_message


def test_a_restarted_head_gets_everything_again(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    make_ready(ray, reconcile)
    ray.restart()
    reconcile()
    assert len(ray.puts) == 2 and set(ray.apps) == {"gateway", "model-chat"}
    assert phase() != "ready"
    ray.finish("model-chat")
    reconcile()
    assert phase() == "ready"


def test_a_dead_engine_is_not_called_ready_and_recovers(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    make_ready(ray, reconcile)
    DeploymentStatus.objects.update(queued_at=time.time() - 600)
    ray.logs["replica.log"] = "ERROR raydeck-engine-died"
    ray.kill_replica("model-chat")
    reconcile()
    assert phase() == "placing" and len(ray.puts) == 1
    died, again = Event.objects.order_by("id").filter(source="system")[4:]
    assert (died.kind, died.level) == ("deployment.engine_died", "bad")
    assert "engine process died" in died.message and "sent to Ray" not in again.message
    ray.finish("model-chat")
    reconcile()
    assert phase() == "ready" and Replica.objects.filter(ended_at=None).count() == 1
    state = states.deployment_state(Deployment.objects.get(), time.time())
    assert state["ready_in_s"] < 60 and state["phases"][0]["seconds"] < 60
    assert Event.objects.filter(kind="deployment.ready").first().message.startswith("chat is ready again")


def test_which_revision_answers_is_read_from_the_replicas(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel, client: Client, viewer: User
) -> None:
    version = deploy().version
    make_ready(ray, reconcile)
    client.force_login(viewer)
    actions.edit_deployment(
        actor=SYSTEM, name="chat", expected_version=version, engine={"max_model_len": 512}
    )
    page = client.get("/deployments/chat/parts/timeline/").content.decode()
    assert "revision 1 still answers" in page
    reconcile(2)
    page = client.get("/deployments/chat/parts/timeline/").content.decode()
    assert "revision 1 has stopped: requests wait or get 503" in page and "still answers" not in page
    ray.finish("model-chat")
    reconcile()
    page = client.get("/deployments/chat/parts/timeline/").content.decode()
    assert "has stopped" not in page and "still answers" not in page


def test_replicas_that_are_replaced_or_let_go_did_not_die(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    version = deploy(capacity={"min_replicas": 0, "idle_before_zero_s": 60}).version
    make_ready(ray, reconcile)
    actions.edit_deployment(
        actor=SYSTEM, name="chat", expected_version=version, engine={"max_model_len": 512}
    )
    reconcile(2)
    make_ready(ray, reconcile)
    ray.sleep("model-chat")
    reconcile(2)
    assert phase() == "asleep" and not Event.objects.filter(kind="deployment.engine_died").exists()


def test_starts_that_fail_alike_are_given_up_and_the_app_leaves_the_document(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    reconcile()
    for pid in (41, 42, 43):
        assert phase() != "failed"
        ray.place("model-chat")
        reconcile()
        ray.start_dies("model-chat", f"RuntimeError: no luck in process {pid}")
        reconcile()
    assert phase() == "failed"
    reconcile()
    assert [app["name"] for app in ray.puts[-1]["applications"]] == ["gateway"]
    assert "model-chat" not in ray.apps
    puts = len(ray.puts)
    reconcile(3)
    assert len(ray.puts) == puts


def test_starts_that_fail_for_different_reasons_are_tried_longer(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    RegisteredModel.objects.update(source_kind="hub", source="a/b")  # no folder to find a fault in
    deploy()
    reconcile()
    for cause in ("port taken", "out of luck", "no such thing"):
        ray.place("model-chat")
        reconcile()
        ray.start_dies("model-chat", f"RuntimeError: {cause}")
        reconcile()
    assert phase() != "failed" and "model-chat" in ray.apps
    assert DeploymentStatus.objects.get().start_failures == 3


def test_a_name_made_anew_while_its_document_was_sent_starts_its_own_clock(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy()
    original = RayClient.put_config

    def put_and_recreate(client: RayClient, document: dict[str, Any]) -> None:
        original(client, document)
        actions.delete_deployment(actor=SYSTEM, name="chat")
        deploy()

    monkeypatch.setattr(RayClient, "put_config", put_and_recreate)
    assert reconcile() is True
    assert phase() == "queued", "what was sent is the one before"
    monkeypatch.setattr(RayClient, "put_config", original)
    reconcile()
    status = DeploymentStatus.objects.get()
    assert phase() == "placing" and status.placing_at >= status.queued_at


def test_placing_is_said_before_the_metrics_pages_are_read(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconcile()
    deploy("first")
    reconcile()
    read: list[str] = []
    monkeypatch.setattr("workers.reconcile.replica_phases", lambda ray: read.append(phase("chat")) or {})
    deploy()
    reconcile()
    assert phase() == "placing" and read == []
    reconcile()
    assert read == ["placing"]


def test_zero_replicas_by_policy_is_asleep_not_broken(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy(capacity={"min_replicas": 0, "idle_before_zero_s": 60})
    make_ready(ray, reconcile)
    ray.sleep("model-chat")
    reconcile(2)
    assert phase() == "asleep"
    ray.finish("model-chat")
    reconcile(2)
    assert phase() == "ready"


def test_an_unreachable_ray_changes_nothing_but_the_age(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    make_ready(ray, reconcile)
    before = DeploymentStatus.objects.values().get()
    ray.close()
    assert reconcile() is False
    assert DeploymentStatus.objects.values().get() == before
    status = ClusterStatus.objects.get()
    assert not status.reachable and status.error
    later = time.time() + 60
    assert states.deployment_state(Deployment.objects.get(), later)["phase"] == "unknown"
    assert Event.objects.filter(kind="cluster.unreachable").count() == 1


def test_a_worker_that_lost_its_lease_writes_nothing(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    lease.acquire("reconciler", holder="somebody else", ttl_s=60, now=time.time() + 3600)
    with pytest.raises(LeaseLost):
        reconcile()
    assert ray.puts == [] and not ClusterStatus.objects.exists()


def test_when_a_replica_was_ready_and_when_it_began_to_drain_is_noted_once(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    reconcile()
    ray.place("model-chat")
    reconcile()
    assert Replica.objects.get().ready_at is None
    ray.finish("model-chat")
    reconcile(2)
    ready_at = Replica.objects.get().ready_at
    assert ready_at is not None and Replica.objects.get().draining_at is None
    ray._replica("model-chat")["state"] = "STOPPING"
    reconcile()
    draining_at = Replica.objects.get().draining_at
    assert draining_at is not None and draining_at > ready_at
    reconcile()
    replica = Replica.objects.get()
    assert (replica.ready_at, replica.draining_at) == (ready_at, draining_at)


def test_what_was_accounted_for_is_not_moved_by_a_later_look(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    make_ready(ray, reconcile)
    before = Replica.objects.get()
    Replica.objects.update(accounted_until=int(before.started_at) + 60)
    ray._replica("model-chat")["start_time_s"] = before.started_at - 500
    reconcile()
    replica = Replica.objects.get()
    assert replica.started_at == before.started_at
    assert replica.accounted_until == int(before.started_at) + 60


def test_a_life_that_goes_on_after_its_cost_was_shared_out_goes_on_as_a_row_of_its_own(
    ray: FakeRay, reconcile: Reconciler, model: RegisteredModel
) -> None:
    deploy()
    make_ready(ray, reconcile)
    before = Replica.objects.get()
    ended_at = time.time() - 300
    Replica.objects.update(
        started_at=ended_at - 100, ended_at=ended_at, settled=True, accounted_until=int(ended_at) + 60
    )
    reconcile(2)
    old, rest = Replica.objects.order_by("started_at")
    assert old.replica_id == f"{before.replica_id}~1" and old.settled and old.ended_at == ended_at
    assert (rest.replica_id, rest.started_at, rest.ended_at) == (before.replica_id, ended_at, None)
    assert not rest.settled and rest.accounted_until == int(ended_at) and rest.ready_at == ended_at
