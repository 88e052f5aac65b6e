"""Tiny random models with a byte-level tokenizer, for tests that need an engine but no sense."""

import json
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT_TOKENS = 1024
EMBEDDING_SIZE = 64


def make_tiny_model(folder: Path) -> Path:
    """A Llama that generates: config, weights and tokenizer in `folder` (about 1 MB), which is returned."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary_size = _save_tokenizer(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 1}))
    return folder


def make_tiny_embedding_model(folder: Path) -> Path:
    """A BERT that makes embeddings of EMBEDDING_SIZE numbers."""
    from transformers import BertModel

    return _make_tiny_bert(folder, BertModel)


def make_tiny_scoring_model(folder: Path) -> Path:
    """A BERT that gives one score to a pair of texts."""
    from transformers import BertForSequenceClassification

    return _make_tiny_bert(folder, BertForSequenceClassification, num_labels=1)


def _make_tiny_bert(folder: Path, kind: Any, **more: Any) -> Path:
    import torch
    from transformers import BertConfig

    vocabulary_size = _save_tokenizer(folder)
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=EMBEDDING_SIZE,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        pad_token_id=1,
        **more,
    )
    kind(config).save_pretrained(folder)
    return folder


def _save_tokenizer(folder: Path) -> int:
    """One token per byte and a few to spare; returns the size of the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1, **{letter: index + 2 for index, letter in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return len(vocabulary) + 6
