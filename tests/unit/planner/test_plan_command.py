"""`manage.py plan`: one JSON object, an exit code, no database; and bad files named with their field."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from tests.unit.planner.configs import LLAMA_8B, LLAMA_70B, QWEN_7B

PROJECT_ROOT = Path(__file__).resolve().parents[3]
MEMORY_LIMIT_BYTES = 200 << 20
WHOLE = ("kv_cache_bytes_per_rank", "kv_cache_tokens")
MEASURED = """
import re, runpy, sys
code = 0
sys.argv = ["manage.py", *sys.argv[1:]]
try:
    runpy.run_path("manage.py", run_name="__main__")
except SystemExit as ended:
    code = ended.code
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(int(peak.group(1)) * 1024, file=sys.stderr)
sys.exit(code)
"""


def plan(folder: Path, config: object, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and what was printed, inside this process."""
    printed = io.StringIO()
    try:
        call_command("plan", *arguments(folder, config, *options), stdout=printed)
    except SystemExit as ended:
        return int(ended.code or 0), json.loads(printed.getvalue())
    return 0, json.loads(printed.getvalue())


def arguments(folder: Path, config: object, *options: str) -> list[str]:
    """The command's arguments for a config that is written first."""
    path = folder / "config.json"
    if isinstance(config, bytes):
        path.write_bytes(config)
    elif config is not None:
        path.write_text(json.dumps(config))
    return ["--config", str(path), *options, "--json"]


def run_plan(folder: Path, config: object, *options: str) -> tuple[int, dict[str, Any], int]:
    """The same in a process of its own, without a database, and the process's peak memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "plan", *arguments(folder, config, *options)],
        cwd=PROJECT_ROOT,
        env={**os.environ, "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.returncode, json.loads(done.stdout), int(done.stderr.split()[-1])


def test_a_model_that_fits_prints_the_whole_answer_without_a_database(tmp_path: Path) -> None:
    code, answer, _ = run_plan(
        tmp_path, LLAMA_8B, "--accelerator", "H100", "--tp", "2", "--max-model-len", "16384",
        "--max-num-seqs", "256", "--max-num-batched-tokens", "8192", "--gpu-memory-utilization", "0.92",
    )  # fmt: skip
    assert (code, answer["verdict"]) == (0, "fits")
    assert answer["weight_bytes_per_rank"] == [8064082432]
    assert answer["kv_bytes_per_token_per_rank"] == [65536]
    assert all(type(answer[name]) is int for name in WHOLE)
    assert answer["activation_bytes"]["low"] <= answer["activation_bytes"]["high"]
    assert 0 < answer["tpot_s"]["low"] <= answer["tpot_s"]["expected"] <= answer["tpot_s"]["high"] < 1
    assert 0 < answer["ttft_unloaded_s"] < 5
    assert answer["usd_per_hour"] > 0
    assert answer["usd_per_million_output_tokens"] > 0
    assert answer["max_concurrency_at_max_model_len"] == pytest.approx(
        answer["kv_cache_tokens"] / 16384, rel=1e-3
    )


def test_the_answer_has_every_key_that_scripts_rely_on(tmp_path: Path) -> None:
    wanted = {
        "verdict", "reasons", "weight_bytes_per_rank", "kv_bytes_per_token_per_rank",
        "kv_cache_bytes_per_rank", "kv_cache_tokens", "max_concurrency_at_max_model_len", "activation_bytes",
        "ttft_unloaded_s", "tpot_s", "usd_per_hour", "usd_per_million_output_tokens",
    }  # fmt: skip
    for config in (LLAMA_8B, LLAMA_70B, {**LLAMA_8B, "architectures": ["New"]}, b"{"):
        _, answer = plan(tmp_path, config, "--accelerator", "H100")
        assert wanted <= set(answer)


@pytest.mark.parametrize("option", ["--config", "--safetensors-index"])
def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path, option: str) -> None:
    code, answer = plan(tmp_path, LLAMA_8B, "--accelerator", "H100", option, str(tmp_path))
    assert code == 2 and "is a folder" in " ".join(answer["reasons"])


def test_a_given_kv_cache_is_planned_exactly(tmp_path: Path) -> None:
    code, answer = plan(
        tmp_path, LLAMA_8B, "--accelerator", "H100", "--kv-cache-memory-bytes", str(20 << 30),
        "--max-model-len", "32768",
    )  # fmt: skip
    assert code == 0
    assert (answer["kv_cache_tokens"], answer["max_concurrency_at_max_model_len"]) == (163840, 5.0)


@pytest.mark.parametrize(
    ("config", "options", "verdict", "word"),
    [
        (LLAMA_70B, ["--accelerator", "L4"], "does_not_fit", "GiB"),
        (QWEN_7B, ["--accelerator", "H100", "--tp", "3"], "refused", "28"),
    ],
)
def test_what_cannot_run_ends_with_3_and_says_why(
    tmp_path: Path, config: dict[str, Any], options: list[str], verdict: str, word: str
) -> None:
    code, answer = plan(tmp_path, config, *options)
    assert (code, answer["verdict"]) == (3, verdict)
    assert word in " ".join(answer["reasons"])


@pytest.mark.parametrize(
    ("config", "options", "field"),
    [
        (b"", [], "config"),
        (b'{"architectures": ["Llama', [], "config"),
        (b"[" * 100_000, [], "config"),
        (None, [], "config"),
        ({**LLAMA_8B, "num_hidden_layers": -1}, [], "num_hidden_layers"),
        ({**LLAMA_8B, "num_hidden_layers": 10**12}, [], "num_hidden_layers"),
        ({**LLAMA_8B, "num_attention_heads": "many"}, [], "num_attention_heads"),
        ({**LLAMA_8B, "num_key_value_heads": 7}, [], "num_key_value_heads"),
        ({"architectures": ["LlamaForCausalLM"]}, [], ""),
        (LLAMA_8B, ["--accelerator", "H1000"], "accelerator"),
        (LLAMA_8B, ["--tp", "0"], "tensor_parallel_size"),
        (LLAMA_8B, ["--gpu-memory-utilization", "nan"], "gpu_memory_utilization"),
        (LLAMA_8B, ["--max-model-len", "-5"], "max_model_len"),
        (LLAMA_8B, ["--usd-per-hour", "much"], "usd_per_hour"),
        (LLAMA_8B, ["--safetensors-index", "/nowhere/index.json"], "safetensors_index"),
    ],
)
def test_bad_input_ends_with_2_and_names_the_field(
    tmp_path: Path, config: object, options: list[str], field: str
) -> None:
    wanted = [] if "--accelerator" in options else ["--accelerator", "H100"]
    code, answer = plan(tmp_path, config, *wanted, *options)
    assert (code, answer["verdict"]) == (2, "refused")
    assert field in answer["reasons"][0].split(":")[0]


@pytest.mark.parametrize(
    "content",
    [b'{"a": [' + b"1," * (25 << 20) + b"1]}", b'{"a":' * 700_000, b"[]," * 1_300_000],
    ids=["50 MB", "deep", "dense"],
)
def test_a_hostile_file_is_refused_in_little_memory(tmp_path: Path, content: bytes) -> None:
    code, answer, peak_bytes = run_plan(tmp_path, content, "--accelerator", "H100")
    assert (code, answer["verdict"]) == (2, "refused")
    assert "config" in answer["reasons"][0]
    assert peak_bytes < MEMORY_LIMIT_BYTES


def test_cpu_is_planned_with_the_cache_that_a_deployment_gets(tmp_path: Path) -> None:
    code, answer = plan(
        tmp_path, LLAMA_8B, "--accelerator", "CPU", "--max-model-len", "2048", "--usable-gib", "64"
    )
    assert (code, answer["verdict"]) == (0, "fits")
    assert answer["kv_cache_bytes_per_rank"] == 131072 * 2048 * 8
    assert answer["tpot_s"] is None and "CPU" in answer["no_times_because"]
    code, answer = plan(
        tmp_path, LLAMA_8B, "--accelerator", "cpu", "--max-model-len", "2048", "--usable-gib", "8"
    )
    assert (code, answer["verdict"]) == (3, "does_not_fit")


@pytest.mark.parametrize("gib", ["0", "-1", "nan", "inf", "1e30"])
def test_a_senseless_memory_is_bad_input(tmp_path: Path, gib: str) -> None:
    code, answer = plan(tmp_path, LLAMA_8B, "--accelerator", "H100", f"--usable-gib={gib}")
    assert code == 2 and answer["reasons"][0].startswith("usable_gib")


def test_another_memory_of_a_shipped_accelerator(tmp_path: Path) -> None:
    assert (
        plan(tmp_path, LLAMA_8B, "--accelerator", "H100", "--usable-gib", "12")[1]["verdict"]
        == "does_not_fit"
    )


def test_an_unknown_accelerator_says_which_catalogue_is_read(tmp_path: Path) -> None:
    code, answer = plan(tmp_path, LLAMA_8B, "--accelerator", "Our-Card")
    assert code == 2 and "only the catalogue that is shipped" in answer["reasons"][0]


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    options = arguments(tmp_path, LLAMA_8B, "--accelerator", "H100")[:-1]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "manage.py", "plan", *options],
        cwd=PROJECT_ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_option_ends_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "plan", "--speed", "fast"],
        cwd=PROJECT_ROOT, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
