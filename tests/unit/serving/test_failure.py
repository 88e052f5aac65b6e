"""The root cause is found in what the real engine wrote (tests/recordings/engine_failures, vLLM 0.29 on CPU)
and in messages of GPU machines, copied from vLLM's and Ray's source."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.failure import CAUSE_CHARACTERS, RAW_CHARACTERS, clean, root_cause
from serving.failure_rules import RULES

RECORDINGS = Path(__file__).resolve().parents[2] / "recordings" / "engine_failures"

RECORDED = {
    "bad_dtype": ("unsupported_dtype", "“float8”"),
    "bad_path": ("bad_path", "The folder /srv/models/nosuch does not exist"),
    "context_too_long": ("context_too_long", "100000 is more than the model's 4096 tokens"),
    "corrupt_header": ("corrupt_weights", "header too large"),
    "heads_not_divisible": (
        "topology_invalid",
        "4 attention heads cannot be split over a tensor-parallel size of 3",
    ),
    "hub_offline": ("hub_unreachable", "hub cannot be reached"),
    "no_tokenizer": ("tokenizer_missing", "tokenizer is missing"),
    "no_weights": ("missing_weights", "no weights in /srv/models/no_weights"),
    "truncated_weights": ("corrupt_weights", "file not fully covered"),
    "unknown_model_type": ("unsupported_architecture", "“nosuch”"),
    "unknown_quantization": ("unsupported_quantization", "“bitsandbytes”"),
    "unsupported_architecture": ("unsupported_architecture", "['NoSuchForCausalLM']"),
    "wrong_shape": ("wrong_weights", "exceeds dimension size"),
}


def test_every_recording_is_expected_to_say_something() -> None:
    assert sorted(RECORDED) == sorted(path.stem for path in RECORDINGS.glob("*.txt"))


@pytest.mark.parametrize("name", RECORDED)
def test_the_cause_is_found_in_real_engine_output(name: str) -> None:
    failure = root_cause((RECORDINGS / f"{name}.txt").read_text())
    code, words = RECORDED[name]
    assert failure.code == code
    assert words in failure.cause
    assert "\n" not in failure.cause
    assert failure.advice.endswith(".")
    assert 0 < len(failure.raw) <= RAW_CHARACTERS


ENGINE_FAILED = (
    "\x1b[36m(ServeReplica:model-a:engine pid=12)\x1b[0m RuntimeError: Engine core initialization failed. "
    "See root cause above. Failed core proc(s): {}"
)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("ValueError: Unknown engine argument: max_model_lenn", "unknown_argument", "“max_model_lenn”"),
        (
            "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB "
            "KV cache is "
            "needed, which is larger than the available KV cache memory (4.25 GiB). Based on the "
            "available memory, "
            "the estimated maximum model length is 34816. Try increasing `gpu_memory_utilization`",
            "kv_cache_too_small",
            "One request of 131072 tokens needs 16.0 GiB of KV cache and 4.25 GiB are there; 34816 tokens "
            "would fit.",
        ),
        (
            "ValueError: To serve at least one request with the model's max seq len (4096), (2.0 GiB KV "
            "cache is "
            "needed, which is larger than the available KV cache memory (0.1 GiB). Try increasing",
            "kv_cache_too_small",
            "0.1 GiB are there.",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try",
            "no_kv_memory",
            "no memory for the KV cache",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 448.00 MiB. GPU 0 has a total "
            "capacity "
            "of 23.64 GiB of which 180.81 MiB is free.",
            "out_of_accelerator_memory",
            "Tried to allocate 448.00 MiB",
        ),
        (
            "ValueError: Free memory on device cuda:0 (12.1/79.1 GiB) on startup is less than desired GPU "
            "memory "
            "utilization (0.92, 72.8 GiB).",
            "out_of_accelerator_memory",
            "Only 12.1 of 79.1 GiB are free on cuda:0",
        ),
        (
            "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.",
            "out_of_memory",
            "The node ran low on memory",
        ),
        (
            'Resources required for each replica: [{"CPU": 0.1, "GPU": 1.0}], total resources available: '
            "{}. Use",
            "cannot_be_placed",
            'needs: [{"CPU": 0.1, "GPU": 1.0}]; free: {}.',
        ),
        (
            "AssertionError: Not enough allowed NUMA nodes to bind threads of 2 local CPUWorkers. ",
            "topology_invalid",
            "NUMA",
        ),
        (
            "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your "
            "Tesla T4 "
            "GPU has compute capability 7.5.",
            "unsupported_dtype",
            "Tesla T4",
        ),
        (
            "huggingface_hub.errors.GatedRepoError: 403 Client Error. Access to model meta/x is restricted",
            "hub_gated",
            "restricted",
        ),
        (
            "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: …",
            "hub_unauthorized",
            "401",
        ),
        (
            "ValueError: Following weights were not initialized from checkpoint: {'model.layers.1.mlp.down'}",
            "missing_weights",
            "model.layers.1.mlp.down",
        ),
        ("TimeoutError: Timed out waiting for engine core processes to start.", "timed_out", "Timed out"),
        ("RuntimeError: NCCL error: unhandled system error", "interconnect_failed", "NCCL"),
        ("ray.exceptions.ActorDiedError: The actor died unexpectedly.", "engine_died", "died unexpectedly"),
        (
            "RuntimeError: something new\nThe actor died unexpectedly",
            "unknown",
            "RuntimeError: something new",
        ),
    ],
)
def test_known_messages_are_named_even_before_their_consequence(text: str, code: str, words: str) -> None:
    for raw in (
        text,
        f"{ENGINE_FAILED}\n{text}",
        f"(EngineCore pid=7) ERROR 11-22 08:43:37 [core.py:9] {text}",
    ):
        failure = root_cause(raw)
        assert failure.code == code
        assert words in failure.cause


def test_an_unknown_exception_is_given_as_it_is_without_its_wrappers() -> None:
    raw = (
        "Traceback (most recent call last):\n"
        '  File "x.py", line 1, in f\n'
        "KeyError: 'first'\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n"
        "some.module.OddError: the flux is too high\n"
        f"{ENGINE_FAILED}\n"
    )
    failure = root_cause(raw)
    assert (failure.code, failure.cause) == ("unknown", "OddError: the flux is too high")


def test_a_refused_engine_value_carries_its_reason() -> None:
    raw = (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig\n"
        "max_num_seqs\n"
        "  Input should be greater than or equal to 1 [type=greater_than_equal, input_value=0]\n"
        "    For further information visit https://errors.pydantic.dev\n"
    )
    failure = root_cause(raw)
    assert failure.code == "bad_value"
    assert "max_num_seqs Input should be greater than or equal to 1" in failure.cause


@pytest.mark.parametrize("raw", ["", "\n\n", "INFO all is well", ENGINE_FAILED])
def test_no_reason_is_said_to_be_none(raw: str) -> None:
    assert root_cause(raw).cause == "The engine gave no reason."


@given(st.text(max_size=2000))
def test_any_text_gives_a_short_cause(raw: str) -> None:
    failure = root_cause(raw)
    assert 0 < len(failure.cause) <= CAUSE_CHARACTERS
    assert set(failure.as_dict()) == {"code", "cause", "advice", "raw"}


def test_prefixes_and_colours_are_stripped() -> None:
    line = "\x1b[0;36m(Worker_TP0 pid=1)\x1b[0;0m ERROR 11-22 08:43:37 [executor.py:944] ValueError: x"
    assert clean(line) == "ValueError: x"


def test_every_rule_has_advice_in_a_sentence() -> None:
    assert all(rule.advice.endswith(".") and rule.advice[0].isupper() for rule in RULES)
