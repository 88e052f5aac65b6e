"""What an engine is started with."""

from typing import Any

from serving.cluster.engine_config import NO_DOMAIN, engine_arguments


def args(**changed: Any) -> dict[str, Any]:
    return {"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "max_model_len": 512, **changed}


def test_an_engine_fetches_pictures_from_nowhere_unless_an_operator_names_hosts() -> None:
    assert engine_arguments(args())["allowed_media_domains"] == [NO_DOMAIN]
    named = {"allowed_media_domains": ["pictures.example.com"]}
    assert engine_arguments(args(engine_kwargs=named))["allowed_media_domains"] == ["pictures.example.com"]


def test_what_the_revision_fixes_wins_over_the_operators_arguments() -> None:
    made = engine_arguments(args(engine_kwargs={"tensor_parallel_size": 8, "seed": 1}))
    assert (made["tensor_parallel_size"], made["seed"]) == (1, 1)
