"""What the inspection of a model's folder says about good, incomplete and broken folders."""

import json
import os
import struct
from pathlib import Path

import pytest

from serving.checkpoint import inspect_folder
from serving.data import make_vllm_architectures as maker
from tests.unit.serving.checkpoint_folders import LLAMA, safetensors, with_header, write_checkpoint


def said(folder: Path, *, level: str = "error") -> str:
    inspection = inspect_folder(str(folder))
    return "\n".join(f"{p['field']}: {p['message']}" for p in inspection.problems if p["level"] == level)


def test_a_complete_folder_gives_exact_facts_and_no_problem(tmp_path: Path) -> None:
    inspection = inspect_folder(str(write_checkpoint(tmp_path / "m")))
    assert inspection.problems == []
    assert inspection.is_servable
    facts = inspection.facts
    assert facts["parameters"] == 100 * 64 + 64
    assert facts["weight_bytes"] == 100 * 64 * 2 + 64 * 4
    assert facts["weight_bytes_by_dtype"] == {"BF16": 12800, "F32": 256}
    assert (facts["layers"], facts["attention_heads"], facts["kv_heads"], facts["head_dim"]) == (2, 4, 2, 16)
    assert facts["kv_bytes_per_token"] == 2 * 2 * 2 * 2 * 16
    assert (facts["architecture"], facts["dtype"], facts["quantization"]) == (
        "LlamaForCausalLM",
        "bfloat16",
        None,
    )
    assert (facts["max_context_tokens"], facts["vocab_size"], facts["hidden_size"]) == (512, 100, 64)
    assert (facts["tie_word_embeddings"], facts["chat_template"], facts["tokenizer"]) == (True, True, True)
    assert json.dumps(facts)


def test_a_symlink_to_a_folder_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(write_checkpoint(tmp_path / "m"))
    assert inspect_folder(str(link)).problems == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "absolute path"),
        ("models/demo", "absolute path"),
        ("~/demo", "absolute path"),
        ("/no/such/folder", "does not exist"),
        ("/etc/passwd", "is a file"),
        ("/etc/\0passwd", "cannot be opened"),
        ("/" + "a" * 5000, "cannot be opened"),
    ],
)
def test_what_is_no_folder_is_refused_with_the_reason(path: str, words: str) -> None:
    inspection = inspect_folder(path)
    assert inspection.facts == {}
    assert [p["field"] for p in inspection.problems] == ["source"]
    assert words in inspection.problems[0]["message"]


def test_an_empty_folder_names_everything_that_is_missing(tmp_path: Path) -> None:
    text = said(tmp_path)
    assert "There is no config.json" in text
    assert "There are no weights" in text
    assert "There is no tokenizer" in text
    assert "There is no chat template" in said(tmp_path, level="warn")


@pytest.mark.parametrize(
    ("file_name", "words"),
    [
        ("pytorch_model.bin", "convert them to safetensors"),
        ("model.pt", "convert them to safetensors"),
        ("model.Q4_K_M.gguf", "Only GGUF"),
        ("consolidated.safetensors", "Transformers layout"),
    ],
)
def test_other_weight_formats_are_named(tmp_path: Path, file_name: str, words: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / file_name)
    assert words in said(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"architectures": ["Llama', "seems to be cut off"),
        (b"[1, 2]", "a list where a JSON object is expected"),
        (b"null", "null where"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "denser"),
        (b'{"a":' * 1900 + b"1" + b"}" * 1900, "nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "a number in it is too long"),
        (b'{"num_hidden_layers": NaN}', "NaN"),
        (b" " * 5_000_000, "more than the 4,000,000"),
    ],
    ids=["empty", "truncated", "list", "null", "utf16", "brackets", "nested", "digits", "nan", "huge"],
)
def test_a_broken_config_is_said_plainly(tmp_path: Path, content: bytes, words: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    text = said(tmp_path)
    assert text.startswith("config.json: config.json ")
    assert words in text


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"num_hidden_layers": -4}, "num_hidden_layers", "between 1 and"),
        ({"num_hidden_layers": "32"}, "num_hidden_layers", "must be a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers", "must be a whole number"),
        ({"hidden_size": 10**40}, "hidden_size", "more than 15 digits"),
        ({"vocab_size": 1.5}, "vocab_size", "must be a whole number, not 1.5"),
        ({"vocab_size": [1]}, "vocab_size", "not a list"),
        ({"num_key_value_heads": 3}, "num_key_value_heads", "cannot be shared evenly"),
        ({"max_position_embeddings": 0}, "max_position_embeddings", "between 1 and"),
        ({"architectures": "LlamaForCausalLM"}, "architectures", "no list of names"),
        ({"architectures": ["NoSuchForCausalLM"]}, "architectures", "does not support the architecture"),
        ({"architectures": ["QWenLMHeadModel"]}, "architectures", "up to 0.23.0"),
        ({"architectures": ["EagleLlamaForCausalLM"]}, "architectures", "draft model"),
        ({"architectures": ["X"], "auto_map": {"AutoModel": "x.X"}}, "architectures", "Python code"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config", "“bitsandbytes”"),
        ({"quantization_config": []}, "quantization_config", "quant_method"),
        ({"rope_scaling": "x"}, "rope_scaling", "must be an object"),
        ({"rope_scaling": {"type": "linear", "factor": -2}}, "rope_scaling", "must be a positive number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings", "true or false"),
    ],
)
def test_a_senseless_field_is_named_with_the_reason(
    tmp_path: Path, changed: dict[str, object], field: str, words: str
) -> None:
    write_checkpoint(tmp_path, config={**LLAMA, **changed})
    text = said(tmp_path)
    assert f"config.json:{field}: " in text
    assert words in text


@pytest.mark.parametrize(
    ("changed", "tokens"),
    [
        ({}, 512),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 512),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, 2048),
        ({"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 256}}, 1024),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 512),
    ],
)
def test_the_context_length_follows_the_engines_rule(
    tmp_path: Path, changed: dict[str, object], tokens: int
) -> None:
    write_checkpoint(tmp_path, config={**LLAMA, **changed})
    assert inspect_folder(str(tmp_path)).facts["max_context_tokens"] == tokens


@pytest.mark.parametrize(
    "changed",
    [
        {"sliding_window": 4096},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"kv_lora_rank": 512},
        {"architectures": ["Unknown"]},
    ],
)
def test_the_kv_size_is_unknown_where_the_simple_formula_fails(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    write_checkpoint(tmp_path, config={**LLAMA, **changed})
    assert inspect_folder(str(tmp_path)).facts["kv_bytes_per_token"] is None


def test_text_settings_nested_in_a_multimodal_config_are_read(tmp_path: Path) -> None:
    nested = {name: value for name, value in LLAMA.items() if name != "architectures"}
    write_checkpoint(
        tmp_path, config={"architectures": ["LlavaForConditionalGeneration"], "text_config": nested}
    )
    inspection = inspect_folder(str(tmp_path))
    assert inspection.is_servable
    assert (inspection.facts["layers"], inspection.facts["max_context_tokens"]) == (2, 512)


def test_packed_weights_are_counted_unpacked_when_their_bits_are_known(tmp_path: Path) -> None:
    tensors = {
        "l.qweight": ("I32", [8, 64]),
        "l.qzeros": ("I32", [1, 8]),
        "l.scales": ("F16", [1, 64]),
        "norm.weight": ("F16", [64]),
    }
    quantized = {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    write_checkpoint(tmp_path, config=quantized, tensors=tensors)
    facts = inspect_folder(str(tmp_path)).facts
    assert facts["quantization"] == "gptq"
    assert facts["parameters"] == 8 * 64 * 8 + 64
    assert facts["parameters_are_packed"] is False

    del quantized["quantization_config"]["bits"]
    write_checkpoint(tmp_path, config=quantized, tensors=tensors)
    facts = inspect_folder(str(tmp_path)).facts
    assert facts["parameters"] == 8 * 64 + 64
    assert facts["parameters_are_packed"] is True


def test_shards_named_in_the_index_are_summed_and_missing_ones_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for number in (1, 2):
        (tmp_path / f"model-{number}.safetensors").write_bytes(safetensors({f"t{number}": ("BF16", [10])}))
    (tmp_path / "extra.safetensors").write_bytes(safetensors({"unused": ("BF16", [999])}))
    weight_map = {"t1": "model-1.safetensors", "t2": "model-2.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    inspection = inspect_folder(str(tmp_path))
    assert inspection.problems == []
    assert (inspection.facts["weight_bytes"], inspection.facts["file_count"]) == (40, 2)

    (tmp_path / "model-2.safetensors").unlink()
    assert "1 of 2 weight files are missing: model-2.safetensors" in said(tmp_path)


@pytest.mark.parametrize(
    "index",
    ["[]", "{}", '{"weight_map": {"a": "../../etc/passwd"}}', '{"weight_map": 3}', '{"weight_map'],
)
def test_a_hostile_index_is_refused(tmp_path: Path, index: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json: " in said(tmp_path)


def entry(**changed: object) -> bytes:
    tensor = {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8], **changed}
    return json.dumps({"t": tensor}).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "HeaderTooSmall"),
        (b"\x01\x02", "HeaderTooSmall"),
        (struct.pack("<Q", 1 << 60), "HeaderTooLarge"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (struct.pack("<Q", 5000) + b"{}", "InvalidHeaderLength"),
        (with_header(b"{bad", data_bytes=0), "InvalidHeaderDeserialization"),
        (with_header(b"[]", data_bytes=0), "InvalidHeaderDeserialization"),
        (with_header(b'{"t": 3}', data_bytes=0), "InvalidHeaderDeserialization"),
        (with_header(entry(dtype="Q9"), data_bytes=8), "unknown type"),
        (with_header(entry(dtype=["BF16"]), data_bytes=8), "unknown type"),
        (with_header(entry(shape=[-4]), data_bytes=8), "no list of whole numbers"),
        (with_header(entry(shape=[1 << 61, 1 << 61, 1 << 61]), data_bytes=8), "TensorInvalidInfo"),
        (with_header(entry(data_offsets=[0]), data_bytes=8), "not two whole numbers"),
        (with_header(entry(data_offsets=[8, 0]), data_bytes=8), "TensorInvalidInfo"),
        (with_header(entry(data_offsets=[4, 12]), data_bytes=12), "InvalidOffset"),
        (with_header(entry(), data_bytes=7), "MetadataIncompleteBuffer"),
        (with_header(entry(), data_bytes=9), "MetadataIncompleteBuffer"),
    ],
)
def test_a_lying_weight_file_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    inspection = inspect_folder(str(tmp_path))
    text = said(tmp_path)
    assert text.startswith("model.safetensors: ")
    assert words in text
    assert inspection.facts["weight_bytes"] is None
    assert inspection.facts["parameters"] is None


def test_pipes_and_devices_are_never_waited_for(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
    text = said(tmp_path)
    assert text.count("is not a regular file") == 3


def test_a_model_without_a_template_is_warned_about_only(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": null}')
    inspection = inspect_folder(str(tmp_path))
    assert inspection.is_servable
    assert "chat needs one" in said(tmp_path, level="warn")
    (tmp_path / "chat_template.jinja").write_text("x")
    assert inspect_folder(str(tmp_path)).facts["chat_template"] is True


def test_embedding_models_are_warned_about(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, config={**LLAMA, "architectures": ["BertModel"]})
    assert "embeddings or scores" in said(tmp_path, level="warn")


def test_the_shipped_architecture_list_is_that_of_the_installed_release() -> None:
    pytest.importorskip("importlib.metadata")
    try:
        facts = maker.installed_facts()
    except SystemExit as missing:
        pytest.skip(str(missing))
    assert maker.TARGET.read_text() == maker.as_text(facts)


def layered(layers: int, *, without: str = "") -> dict[str, tuple[str, list[int]]]:
    names = [f"model.layers.{n}.{part}.weight" for n in range(layers) for part in ("q", "k", "mlp.down")]
    return {name: ("BF16", [4]) for name in names if name != without}


def test_a_layer_that_lacks_a_tensor_is_warned_about(tmp_path: Path) -> None:
    config = {**LLAMA, "num_hidden_layers": 4}
    write_checkpoint(tmp_path, config=config, tensors=layered(4))
    assert inspect_folder(str(tmp_path)).problems == []
    gone = "model.layers.2.mlp.down.weight"
    write_checkpoint(tmp_path, config=config, tensors=layered(4, without=gone))
    text = said(tmp_path, level="warn")
    assert f"Missing tensors that the other layers have: 1 ({gone})" in text
    write_checkpoint(tmp_path, config=config, tensors=layered(3))
    assert "speaks of 4 layers; the weights hold 3" in said(tmp_path, level="warn")


def test_mixed_stacks_are_left_alone(tmp_path: Path) -> None:
    tensors = layered(4, without="model.layers.0.mlp.down.weight")
    tensors["model.layers.0.dense.weight"] = ("BF16", [4])
    write_checkpoint(tmp_path, config={**LLAMA, "num_hidden_layers": 4}, tensors=tensors)
    assert inspect_folder(str(tmp_path)).problems == []
