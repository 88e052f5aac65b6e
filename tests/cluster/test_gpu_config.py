"""What is rendered for GPUs passes the validators of Serve, Ray Serve LLM and vLLM; nonsense does not.

No GPU is needed: the configuration is vLLM's own for CUDA, on a platform that only claims to be there.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.planner.placement_groups import Shape, placement_group
from serving.render import ClusterOptions, GatewayTable, render
from serving.spec import CapacitySpec, DeploymentSpec, EngineSpec
from tests.cluster.local_cluster import PROJECT

pytestmark = pytest.mark.cluster
LARGE_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
ANSWERS_WITHIN_S = 240
SIZES = {"one": (1, 1), "tensor": (4, 1), "both": (8, 2), "stages": (2, 4)}
Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Deployment name -> what the validators said."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(LARGE_LLAMA))
    good = [_spec(name, folder, tp=tp, pp=pp) for name, (tp, pp) in SIZES.items()]
    bad = [
        _spec("indivisible", folder, tp=3),
        _spec("unknown-type", folder, accelerator_type="H999"),
        _spec("unknown-argument", folder, engine_kwargs={"max_model_lenn": 5}),
    ]
    return _validated([*good, *bad])


@pytest.mark.parametrize("name", SIZES)
def test_serve_and_ray_get_the_bundles_that_are_drawn(results: Results, name: str) -> None:
    tensor, pipeline = SIZES[name]
    drawn = placement_group(Shape("H100", tensor, pipeline))
    assert results[name]["serve_bundles"] == results[name]["llm_bundles"] == drawn.bundles
    assert results[name]["serve_strategy"] == results[name]["llm_strategy"] == drawn.strategy
    assert results[name]["hardware"] == "gpu"


@pytest.mark.parametrize("name", SIZES)
def test_vllm_takes_the_topology_with_its_ray_executor(results: Results, name: str) -> None:
    tensor, pipeline = SIZES[name]
    understood = results[name]
    assert understood["device"] == "cuda"
    assert (understood["tensor_parallel_size"], understood["pipeline_parallel_size"]) == (tensor, pipeline)
    assert understood["world_size"] == tensor * pipeline == len(understood["serve_bundles"])
    assert understood["executor_name"] == "ray"
    assert understood["executor_class"] == "RayExecutorV2"
    assert understood["worker_extension"] == "serving.cluster.worker_facts.WorkerFacts"
    assert (understood["max_model_len"], understood["max_num_seqs"]) == (16384, 64)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("indivisible", "must be divisible by tensor parallel size"),
        ("unknown-type", "Unsupported accelerator type: H999"),
        ("unknown-argument", "Unknown engine argument: max_model_lenn"),
    ],
)
def test_the_validators_are_awake(results: Results, name: str, words: str) -> None:
    assert words in results[name].get("refused", "")


def _spec(name: str, folder: Path, *, tp: int = 1, pp: int = 1, **changes: Any) -> DeploymentSpec:
    engine = {
        "model": "large",
        "model_source": str(folder),
        "accelerator_type": "H100",
        "tensor_parallel_size": tp,
        "pipeline_parallel_size": pp,
        "max_model_len": 16384,
        "max_num_seqs": 64,
        **changes,
    }
    return DeploymentSpec(
        name=name,
        deployment_id=1,
        revision=1,
        generation=1,
        state="serve",
        engine=EngineSpec.model_validate(engine),
        capacity=CapacitySpec.model_validate({}),
    )


def _validated(specs: list[DeploymentSpec]) -> Results:
    """The args as the document has them, through gpu_config_checks.py."""
    options = ClusterOptions(
        gateway_host="127.0.0.1", gateway_port=8000, pythonpath="", installation="gpu-config-test"
    )
    document = render(specs, table=GatewayTable(keys={}, hold_s=5.0), options=options)
    models = [app["args"] for app in document["applications"] if app["name"] != "gateway"]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.cluster.gpu_config_checks"],
        input=json.dumps(models),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=ANSWERS_WITHIN_S,
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("results:")]
    assert len(lines) == 1, ran.stderr[-3000:]
    answers = json.loads(lines[0].removeprefix("results:"))
    return {args["deployment"]: answer for args, answer in zip(models, answers, strict=True)}
