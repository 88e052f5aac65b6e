"""Builders named by the Serve document. Light on purpose: a build imports ray.serve and nothing heavier.

`build_model` runs in a build task on the head for every change of a model app; importing vLLM there would
add 10 s to every start. The engine itself is imported by the replica (`engine.Engine`).
"""

from typing import Any

from ray import serve
from ray.serve import Application

from serving.cluster.engine import Engine
from serving.cluster.ranks import group_of

ENGINE_DEPLOYMENT = "engine"


def build_model(args: dict[str, Any]) -> Application:
    """The application of one model: deployment `engine`, one replica per tensor × pipeline group.

    `args` are the document's (render.py). Capacity comes from the document's `deployments` override; the
    values here only hold where it is silent.
    """
    return application_of(Engine, args)


def application_of(engine: type, args: dict[str, Any]) -> Application:
    """The application with `engine` as the class of its replicas, placed as `args` say."""
    group = group_of(args)
    actor_options: dict[str, Any] = {"num_cpus": 1}
    environment = {str(name): str(value) for name, value in (args.get("env") or {}).items()}
    if environment:
        actor_options["runtime_env"] = {"env_vars": environment}
    deployment = serve.deployment(
        engine,
        name=ENGINE_DEPLOYMENT,
        ray_actor_options=actor_options,
        placement_group_bundles=group.bundles,
        placement_group_strategy=group.strategy,
        max_ongoing_requests=64,
        # An engine process that died is seen within these seconds; Serve then starts a new replica.
        health_check_period_s=2,
        health_check_timeout_s=30,  # a machine under load is slow, not dead
        graceful_shutdown_timeout_s=120,
        logging_config={"enable_access_log": False},
    )
    return deployment.bind(args)
