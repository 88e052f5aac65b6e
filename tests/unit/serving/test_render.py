"""The Serve document: whole, stable, and split so that capacity never restarts an engine."""

from decimal import Decimal

from serving.cluster.ranks import group_of
from serving.render import ClusterOptions, GatewayTable, cpu_kv_cache_bytes, digest_of, redacted, render
from serving.spec import CapacitySpec, DeploymentSpec, EngineSpec

OPTIONS = ClusterOptions(
    gateway_host="127.0.0.1", gateway_port=8000, pythonpath="/project", installation="ours"
)
TABLE = GatewayTable(keys={"abc": {"id": 1, "name": "ci", "kind": "user"}}, hold_s=20.0)


def make_spec(name: str = "demo", **changes: object) -> DeploymentSpec:
    engine = EngineSpec(model="demo", model_source="/models/demo", max_model_len=1024)
    capacity = CapacitySpec()
    values: dict = {
        "name": name,
        "deployment_id": 7,
        "revision": 1,
        "generation": 1,
        "state": "serve",
        "engine": engine,
        "capacity": capacity,
    }
    return DeploymentSpec(**{**values, **changes})


def apps(*specs: DeploymentSpec) -> dict[str, dict]:
    return {app["name"]: app for app in render(specs, table=TABLE, options=OPTIONS)["applications"]}


def test_every_deployment_is_an_app_without_a_route_beside_one_gateway() -> None:
    seen = apps(make_spec("a"), make_spec("b"))
    assert set(seen) == {"gateway", "model-a", "model-b"}
    assert seen["gateway"]["route_prefix"] == "/"
    assert seen["model-a"]["route_prefix"] is None


def test_capacity_changes_only_the_override_and_engine_changes_only_the_arguments() -> None:
    before = apps(make_spec())["model-demo"]
    more = CapacitySpec(min_replicas=1, max_replicas=4, price_per_accelerator_hour_usd=Decimal("2.5"))
    scaled = apps(make_spec(capacity=more))["model-demo"]
    assert scaled["args"] == before["args"] and scaled["deployments"] != before["deployments"]
    longer = EngineSpec(model="demo", model_source="/models/demo", max_model_len=2048)
    changed = apps(make_spec(engine=longer, revision=2))["model-demo"]
    assert changed["args"] != before["args"] and changed["deployments"] == before["deployments"]


def test_a_group_that_may_span_nodes_is_said_only_where_it_may() -> None:
    args = apps(make_spec())["model-demo"]["args"]
    assert "tp_may_span_nodes" not in args  # one more argument would restart every replica there is
    assert group_of(args).strategy == "STRICT_PACK"
    wide = EngineSpec(
        model="demo",
        model_source="/models/demo",
        max_model_len=1024,
        accelerator_type="H100",
        tensor_parallel_size=16,
        tp_may_span_nodes=True,
    )
    group = group_of(apps(make_spec(engine=wide))["model-demo"]["args"])
    assert group.tp_may_span_nodes
    assert group.strategy == "PACK"


def test_the_override_is_there_for_the_smallest_deployment_with_a_real_target() -> None:
    override = apps(make_spec())["model-demo"]["deployments"][0]
    assert override["name"] == "engine"
    assert override["autoscaling_config"]["target_ongoing_requests"] == 8.0


def test_stopped_and_failed_deployments_hold_nothing_but_the_gateway_knows_the_reason() -> None:
    seen = apps(make_spec("s", state="stopped", reason="by an operator"), make_spec("f", state="failed"))
    assert set(seen) == {"gateway"}
    table = seen["gateway"]["deployments"][0]["user_config"]["models"]
    assert table["s"]["state"] == "stopped" and table["s"]["reason"] == "by an operator"
    assert table["f"]["state"] == "failed"


def test_a_new_deployment_of_an_old_name_is_another_application() -> None:
    before, after = apps(make_spec())["model-demo"], apps(make_spec(deployment_id=8))["model-demo"]
    assert before["args"] != after["args"]


def test_the_digest_does_not_depend_on_the_order_of_rows_but_on_every_value() -> None:
    a, b = make_spec("a"), make_spec("b")
    first = digest_of(render([a, b], table=TABLE, options=OPTIONS))
    assert first == digest_of(render([b, a], table=TABLE, options=OPTIONS))
    assert first != digest_of(render([a], table=TABLE, options=OPTIONS))
    assert first != digest_of(render([a, b], table=GatewayTable(keys={}, hold_s=20.0), options=OPTIONS))


def test_scale_to_zero_names_its_own_delay_and_starts_with_one_replica() -> None:
    sleepy = CapacitySpec(min_replicas=0, max_replicas=2, idle_before_zero_s=300)
    autoscaling = apps(make_spec(capacity=sleepy))["model-demo"]["deployments"][0]["autoscaling_config"]
    assert autoscaling["downscale_to_zero_delay_s"] == 300.0
    assert autoscaling["initial_replicas"] == 1


def test_what_is_shown_of_the_document_carries_no_secret_and_no_key_digest() -> None:
    spec = make_spec(secret_env={"HF_TOKEN": "hf_very_secret"})
    document = render([spec], table=TABLE, options=OPTIONS)
    assert "hf_very_secret" in str(document)
    shown = str(redacted(document))
    assert "hf_very_secret" not in shown and "abc" not in shown
    assert "hf_very_secret" in str(document), "redacting must not change the document itself"


def test_a_secret_never_shows_in_the_repr_of_a_spec() -> None:
    assert "hf_very_secret" not in repr(make_spec(secret_env={"HF_TOKEN": "hf_very_secret"}))


def test_the_cpu_kv_cache_stays_within_its_bounds() -> None:
    assert cpu_kv_cache_bytes(kv_bytes_per_token=3072, max_model_len=1024) == 64 << 20
    assert cpu_kv_cache_bytes(kv_bytes_per_token=131_072, max_model_len=131_072) == 4 << 30
    assert cpu_kv_cache_bytes(kv_bytes_per_token=32_768, max_model_len=8192) == 32_768 * 8192 * 8
    assert cpu_kv_cache_bytes(kv_bytes_per_token=None, max_model_len=8192) == 256 << 20
