"""The demo model's files as they ship: complete, small, of the promised shape, with a sound corpus."""

import json
import random
from itertools import islice
from pathlib import Path

import pytest

from serving.demo import phrasing
from serving.demo.conversations import (
    GLOSSARY_PATH,
    Entry,
    make_conversations,
    read_corpus,
    read_glossary,
)

DEMO_FOLDER = Path(__file__).parents[2] / "serving" / "demo"
MODEL_FOLDER = DEMO_FOLDER / "model"
LARGEST_TOTAL_BYTES = 15_000_000


def _json(name: str) -> dict:
    return json.loads((MODEL_FOLDER / name).read_text(encoding="utf-8"))


def _safetensors_header() -> dict[str, dict]:
    with (MODEL_FOLDER / "model.safetensors").open("rb") as file:
        length_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length_bytes))
    header.pop("__metadata__", None)
    return header


def _parameters_by_config(config: dict) -> int:
    """Llama with tied embeddings: embedding, attention, gated feed-forward and norms."""
    hidden, head = config["hidden_size"], config["head_dim"]
    attention = 2 * hidden * head * (config["num_attention_heads"] + config["num_key_value_heads"])
    layer = attention + 3 * hidden * config["intermediate_size"] + 2 * hidden
    return config["vocab_size"] * hidden + config["num_hidden_layers"] * layer + hidden


def test_model_folder_is_complete_and_small() -> None:
    names = {path.name for path in MODEL_FOLDER.iterdir()}
    assert names >= {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in MODEL_FOLDER.iterdir()) <= LARGEST_TOTAL_BYTES


def test_parameters_in_the_weights_are_those_of_the_configuration() -> None:
    config = _json("config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"] is True
    count = 0
    for tensor in _safetensors_header().values():
        assert tensor["dtype"] == "BF16"
        size = 1
        for length in tensor["shape"]:
            size *= length
        count += size
    assert count == _parameters_by_config(config)
    assert 4_000_000 <= count <= 6_000_000


def test_weights_file_ends_where_its_header_says() -> None:
    path = MODEL_FOLDER / "model.safetensors"
    last_offset = max(tensor["data_offsets"][1] for tensor in _safetensors_header().values())
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    assert path.stat().st_size == 8 + header_bytes + last_offset


def test_shape_allows_two_way_parallelism() -> None:
    config = _json("config.json")
    for name in ("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "vocab_size"):
        assert config[name] % 2 == 0, name


def test_answers_end_with_a_token_the_engine_stops_at() -> None:
    vocabulary = _json("tokenizer.json")["model"]["vocab"]
    end_id = vocabulary["<|end|>"]
    stops = _json("generation_config.json")["eos_token_id"]
    assert end_id in (stops if isinstance(stops, list) else [stops])
    assert len(vocabulary) == _json("config.json")["vocab_size"]


def test_chat_template_marks_every_role() -> None:
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Template((MODEL_FOLDER / "chat_template.jinja").read_text(encoding="utf-8"))
    text = template.render(
        bos_token="<|bos|>",
        add_generation_prompt=True,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": " Hello "},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "Bye"},
        ],
    )
    assert text == (
        "<|bos|><|system|>Be brief.<|end|><|user|>Hello<|end|>"
        "<|assistant|>Hi.<|end|><|user|>Bye<|end|><|assistant|>"
    )


def test_model_card_says_that_it_is_a_toy() -> None:
    card = (MODEL_FOLDER / "README.md").read_text(encoding="utf-8")
    assert "toy" in card
    assert "{" not in card


def test_suggestions_are_six_different_questions_the_corpus_answers() -> None:
    suggestions = json.loads((DEMO_FOLDER / "suggestions.json").read_text(encoding="utf-8"))
    known = {question for entry in read_corpus().entries for question in entry.questions}
    assert len(set(suggestions)) == len(suggestions) == 6
    assert set(suggestions) <= known


def test_corpus_has_hundreds_of_answers_each_short_and_complete() -> None:
    corpus = read_corpus()
    assert len(corpus.entries) >= 350
    for entry in (*corpus.entries, *corpus.remarks):
        assert entry.answer.endswith((".", "?")), entry.answer
        assert len(entry.answer) <= 320, entry.answer
        assert not any(sign in entry.answer for sign in "\n{}`"), entry.answer


def test_glossary_has_one_paragraph_for_each_of_many_terms() -> None:
    terms = read_glossary(GLOSSARY_PATH)
    names = [name.lower() for aliases, _ in terms for name in aliases]
    assert len(terms) >= 60
    assert len(names) == len(set(names))


def test_glossary_heading_without_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "glossary.md"
    path.write_text("# Glossary\n\n### Token\n\n### Tokenizer\nIt makes tokens.\n", encoding="utf-8")
    with pytest.raises(ValueError, match="'Token' needs exactly one paragraph"):
        read_glossary(path)


def test_conversations_repeat_with_the_seed_and_alternate_roles() -> None:
    corpus = read_corpus()
    first = list(islice(make_conversations(corpus, seed=3), 50))
    assert first == list(islice(make_conversations(corpus, seed=3), 50))
    assert first != list(islice(make_conversations(corpus, seed=4), 50))
    assert {messages[0]["role"] for messages in first} == {"system", "user"}
    for messages in first:
        spoken = [message["role"] for message in messages if message["role"] != "system"]
        assert spoken == ["user", "assistant"] * (len(spoken) // 2)


def test_off_topic_questions_are_answered_with_a_refusal() -> None:
    off_topic: list[Entry] = [entry for entry in read_corpus().entries if entry.is_off_topic]
    assert len(off_topic) >= 5
    for entry in off_topic:
        assert "toy model" in entry.answer


def test_varied_questions_differ_but_keep_the_subject() -> None:
    rng = random.Random(1)
    forms = {phrasing.vary("Why does the KV cache matter?", rng) for _ in range(200)}
    assert len(forms) > 60
    assert sum("cache" in form.lower() for form in forms) > 0.9 * len(forms)
