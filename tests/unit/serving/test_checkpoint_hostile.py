"""Whatever lies in a folder, its inspection ends soon, in little memory, with problems and no exception."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.checkpoint import inspect_folder
from tests.unit.serving.checkpoint_folders import LLAMA, with_header, write_checkpoint

PROJECT_ROOT = Path(__file__).resolve().parents[3]

numbers = st.one_of(
    st.integers(),
    st.integers(min_value=-2, max_value=2),
    st.floats(),
    st.sampled_from([10**400, -(10**30), 1 << 63, 2**53 + 1]),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=30)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
fields = st.sampled_from(
    [
        *LLAMA, "rope_scaling", "rope_parameters", "quantization_config", "text_config", "auto_map",
        "head_dim", "layer_types", "sliding_window", "n_layer", "compression_config", "dtype", "multi_query",
    ]
)  # fmt: skip
configs = st.dictionaries(fields, anything, max_size=6).map(lambda changed: {**LLAMA, **changed})
tensor_entries = st.one_of(
    anything,
    st.fixed_dictionaries(
        {
            "dtype": st.one_of(st.sampled_from(["BF16", "F32", "I32", "F4"]), anything),
            "shape": st.one_of(st.lists(numbers, max_size=4), anything),
            "data_offsets": st.one_of(st.lists(numbers, max_size=3), anything),
        }
    ),
)
headers = st.dictionaries(st.text(max_size=20), tensor_entries, max_size=5)


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(config=configs, header=headers, index=anything, tail=st.integers(0, 64), cut=st.floats(0, 1))
def test_no_content_makes_the_inspection_fail(
    config: dict[str, Any], header: dict[str, Any], index: Any, tail: int, cut: float
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = write_checkpoint(Path(name), config=config)
        weights = with_header(json.dumps(header).encode(), data_bytes=tail)
        (folder / "second.safetensors").write_bytes(weights)
        (folder / "tokenizer_config.json").write_bytes(json.dumps(index).encode())
        check(name)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        whole = (folder / "config.json").read_bytes()
        (folder / "config.json").write_bytes(whole[: int(len(whole) * cut)])
        check(name)


@settings(max_examples=100, deadline=2000)
@given(raw=st.binary(max_size=300), path=st.text(max_size=40))
def test_no_bytes_and_no_path_make_the_inspection_fail(raw: bytes, path: str) -> None:
    check("/" + path)
    with tempfile.TemporaryDirectory() as name:
        for file in ("config.json", "model.safetensors", "model.safetensors.index.json"):
            (Path(name) / file).write_bytes(raw)
        check(name)


def check(path: str) -> None:
    inspection = inspect_folder(path)
    # Both go into JSON columns and answers: PostgreSQL and browsers take no NaN.
    json.dumps([inspection.facts, inspection.problems], allow_nan=False)
    for problem in inspection.problems:
        assert problem["level"] in ("error", "warn")
        assert problem["field"]
        assert 10 < len(problem["message"]) < 800
        assert "Traceback" not in problem["message"]
    for name in ("parameters", "weight_bytes", "layers", "kv_bytes_per_token", "max_context_tokens"):
        value = inspection.facts.get(name)
        assert value is None or (type(value) is int and value >= 0)


MEASURE = """
import json, resource, sys, time
from serving.checkpoint import inspect_folder
inspect_folder("/")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
problems = inspect_folder(sys.argv[1]).problems
cpu_s = time.process_time() - began
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"cpu_s": cpu_s, "grown_bytes": (after - before) * 1024, "problems": problems}))
"""


def test_huge_hostile_files_cost_little_time_and_memory(tmp_path: Path) -> None:
    tensor = '"t%05d":{"dtype":"F32","shape":[1,1],"data_offsets":[%d,%d]}'
    many = ",".join(tensor % (n, 4 * n, 4 * n + 4) for n in range(100_000))
    cases: dict[str, dict[str, bytes]] = {
        "a 50 MB config": {"config.json": b'{"a": "' + b"x" * 50_000_000 + b'"}'},
        "a config of empty lists": {"config.json": b'{"a":[' + b"[]," * 1_300_000 + b"1]}"},
        "a config of numbers": {"config.json": b'{"a":[' + b"1.1," * 900_000 + b"1]}"},
        "a 50 MB index": {
            "model.safetensors.index.json": b'{"weight_map":{' + b'"a":"b",' * 6_000_000 + b"}}"
        },
        "an index of short names": {
            "model.safetensors.index.json": b'{"weight_map":{'
            + b'"abcdefg":"12345678",' * 1_000_000
            + b'"z":"z"}}'
        },
        "a dense header": {
            "model.safetensors": with_header(b'{"a":[' + b"{}," * 2_000_000 + b"1]}", data_bytes=0)
        },
        "a legal header of 100,000 tensors": {
            "model.safetensors": with_header(("{" + many + "}").encode(), data_bytes=400_000)
        },
        "300 weight files": {
            f"m-{n}.safetensors": with_header(
                b'{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', data_bytes=0
            )
            for n in range(300)
        },
    }
    for number, (what, files) in enumerate(cases.items()):
        folder = write_checkpoint(tmp_path / str(number))
        for name, content in files.items():
            (folder / name).write_bytes(content)
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, str(folder)], cwd=PROJECT_ROOT, capture_output=True, check=True
        )
        measured = json.loads(result.stdout)
        assert measured["cpu_s"] < 2, (what, measured)
        assert measured["grown_bytes"] < 200_000_000, (what, measured)
        for file in files:
            (folder / file).unlink()
