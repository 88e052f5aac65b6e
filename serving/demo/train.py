"""Trains the demo model from the corpus: `python -m serving.demo.train --out serving/demo/model`.

Makes a byte-level BPE tokenizer and a small Llama, both from nothing, with a fixed seed and a fixed number of
steps. The only module of this folder that imports torch and transformers; nothing in the product imports it.

The loss counts answers (and the glossary's paragraphs), not questions: questions are deliberately
distorted, and the few million parameters are better spent on the sentences users will read.
"""

import argparse
import itertools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# On 2 cores that were busy with other work, threads spinning at barriers took three times the processor time.
# torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from serving.demo.conversations import Corpus, make_conversations, make_single_turns, read_corpus

BOS, END, SYSTEM, USER, ASSISTANT, PAD = SPECIAL_TOKENS = (
    "<|bos|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|pad|>",
)
CHAT_TEMPLATE_PATH = Path(__file__).parent / "chat_template.jinja"
MODEL_CARD_PATH = Path(__file__).parent / "model_card.md"
VOCABULARY_SIZE = 4096
CONTEXT_TOKENS = 2048
LONGEST_TRAINED_TOKENS = 1024
OPENING_TOKENS = 8
IGNORED = -100
UNSEEN_SYSTEM_PROMPT = "You are an assistant in an internal chat. Keep your answers professional."


@dataclass(frozen=True)
class Settings:
    """How long and how hard to train. Both rates rise for `warmup_steps`, then fall to nearly 0."""

    steps: int = 1000
    tokens_per_batch: int = 2048
    warmup_steps: int = 20
    matrix_rate: float = 0.02
    other_rate: float = 3e-3
    seed: int = 20
    threads: int = 2


def main() -> None:
    """Trains, measures on held-out wordings, and writes the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--threads", type=int, default=Settings.threads)
    arguments = parser.parse_args()
    settings = Settings(steps=arguments.steps, threads=arguments.threads)

    torch.manual_seed(settings.seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_num_threads(settings.threads)
    corpus = read_corpus()
    tokenizer = train_tokenizer(corpus, seed=settings.seed)
    model = LlamaForCausalLM(model_config(tokenizer))
    print(
        f"{len(corpus.entries)} entries, {sum(len(e.questions) for e in corpus.entries)} questions, "
        f"{model.num_parameters():,} parameters, {settings.steps} steps",
        flush=True,
    )
    loss = train(model, tokenizer, corpus, settings)
    model = model.to(torch.bfloat16).eval()
    right, total = count_held_out(model, tokenizer, corpus)
    save(model, tokenizer, arguments.out)
    facts = {"loss": f"{loss:.4f}", "held_out_right": right, "held_out_total": total}
    write_model_card(arguments.out, config=model.config, corpus=corpus, settings=settings, facts=facts)
    print(f"written to {arguments.out}", flush=True)


def train_tokenizer(corpus: Corpus, *, seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be encoded, and the corpus' own words become single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = itertools.islice(make_conversations(corpus, seed=seed), 4000)
    chats = (message["content"] for messages in sample for message in messages)
    tokenizer.train_from_iterator(itertools.chain(corpus.texts, chats), trainer)
    if tokenizer.get_vocab_size() != VOCABULARY_SIZE:
        raise ValueError(f"the corpus yields only {tokenizer.get_vocab_size()} tokens")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE_PATH.read_text(encoding="utf-8").strip(),
    )


def model_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Heads, KV heads, layers and vocabulary all divide by 2, so that TP 2 and PP 2 can be tried with it."""
    return LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


Example = tuple[list[int], list[bool]]
"""Token ids, and for each whether the loss counts it."""


def make_examples(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Iterator[Example]:
    """Without end: a chat, then six openings of single answers; a glossary paragraph after every eighth chat.

    The first words decide which answer is given, the rest follows from them. So single questions are cut
    after a few tokens of the answer: the same time then shows each question about three times as often.
    """
    texts = itertools.cycle(corpus.texts)
    single_turns = make_single_turns(corpus, seed=seed + 1)
    for number, messages in enumerate(make_conversations(corpus, seed=seed)):
        yield encode_chat(messages, tokenizer)
        for single_turn in itertools.islice(single_turns, 6):
            ids, counted = encode_chat(single_turn, tokenizer)
            end = counted.index(True) + OPENING_TOKENS
            yield ids[:end], counted[:end]
        if number % 8 == 7:
            ids = tokenizer(next(texts))["input_ids"] + [tokenizer.eos_token_id]
            yield ids, [True] * len(ids)


def encode_chat(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerFast) -> Example:
    """The same tokens as the chat template gives; only answers and their end are counted."""
    roles = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
    ids, counted = [tokenizer.bos_token_id], [False]
    for message in messages:
        words = tokenizer(message["content"].strip(), add_special_tokens=False)["input_ids"]
        part = [tokenizer.convert_tokens_to_ids(roles[message["role"]]), *words, tokenizer.eos_token_id]
        ids += part
        counted += [False] + [message["role"] == "assistant"] * (len(part) - 1)
    return ids[:LONGEST_TRAINED_TOKENS], counted[:LONGEST_TRAINED_TOKENS]


def make_batches(
    examples: Iterator[Example], *, tokens_per_batch: int, pad_id: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Groups examples of like length, so that little is spent on padding; (input ids, labels)."""
    shuffler = torch.Generator().manual_seed(0)
    while True:
        pool = sorted(itertools.islice(examples, 512), key=lambda example: len(example[0]))
        groups: list[list[Example]] = [[]]
        for example in pool:
            if groups[-1] and len(example[0]) * (len(groups[-1]) + 1) > tokens_per_batch:
                groups.append([])
            groups[-1].append(example)
        for index in torch.randperm(len(groups), generator=shuffler).tolist():
            yield _padded(groups[index], pad_id)


def _padded(group: list[Example], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids, _ in group)
    inputs = torch.full((len(group), longest), pad_id)
    labels = torch.full((len(group), longest), IGNORED)
    for row, (ids, counted) in enumerate(group):
        tokens = torch.tensor(ids)
        inputs[row, : len(ids)] = tokens
        labels[row, : len(ids)] = torch.where(torch.tensor(counted), tokens, IGNORED)
    return inputs, labels


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, settings: Settings
) -> float:
    """Trains in place; prints, and at the end returns, the mean loss of the last 25 steps."""
    optimizers = make_optimizers(model, settings)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_factor(step, settings))
        for optimizer in optimizers
    ]
    batches = make_batches(
        make_examples(corpus, tokenizer, seed=settings.seed),
        tokens_per_batch=settings.tokens_per_batch,
        pad_id=tokenizer.pad_token_id,
    )
    started, losses, tokens = time.monotonic(), [], 0
    for step, (inputs, labels) in enumerate(itertools.islice(batches, settings.steps), start=1):
        loss = answer_loss(model, inputs, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        tokens += inputs.numel()
        if step % 25 == 0 or step == settings.steps:
            elapsed_s = time.monotonic() - started
            print(
                f"step {step}/{settings.steps} loss {sum(losses[-25:]) / len(losses[-25:]):.4f} "
                f"{tokens / elapsed_s:.0f} tokens/s {elapsed_s:.0f} s",
                flush=True,
            )
    return sum(losses[-25:]) / len(losses[-25:])


def make_optimizers(model: LlamaForCausalLM, settings: Settings) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the layers' matrices, AdamW for embeddings and norms.

    In short trials on this corpus the loss after 75 steps was 3.3 with Muon and 5.1 with AdamW alone.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return (
        torch.optim.Muon(matrices, lr=settings.matrix_rate, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=settings.other_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    )


def answer_loss(model: LlamaForCausalLM, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over the counted tokens; the vocabulary's logits are made for those alone."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        counted = targets != IGNORED
        logits = model.lm_head(hidden[counted])
    return torch.nn.functional.cross_entropy(logits.float(), targets[counted])


def _rate_factor(step: int, settings: Settings) -> float:
    """Linear rise, then a cosine down to nearly nothing at the last step."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done))) + 0.01


@torch.inference_mode()
def count_held_out(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> tuple[int, int]:
    """Greedy answers to wordings that were never trained on, each without and with a system prompt.

    Prints every one that differs from the intended answer and returns (right, all).
    """
    right = 0
    instructions: tuple[list[dict[str, str]], ...] = (
        [],
        [{"role": "system", "content": UNSEEN_SYSTEM_PROMPT}],
    )
    for question, expected in corpus.held_out:
        for instruction in instructions:
            answer = generate(model, tokenizer, [*instruction, {"role": "user", "content": question}])
            right += answer == expected
            if answer != expected:
                print(f"held out, other answer: {question}\n    -> {answer}", flush=True)
    total = len(corpus.held_out) * len(instructions)
    print(f"held out: {right} of {total} got exactly the intended answer", flush=True)
    return right, total


def generate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]
) -> str:
    """One greedy answer, at most 160 tokens."""
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=160, do_sample=False)
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes weights (bfloat16), configuration, generation defaults, tokenizer and chat template."""
    model.generation_config.update(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=0.3,
        top_p=0.9,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def write_model_card(
    folder: Path, *, config: LlamaConfig, corpus: Corpus, settings: Settings, facts: dict[str, object]
) -> None:
    """Fills the numbers of this training into the model card, so that they cannot go stale."""
    text = MODEL_CARD_PATH.read_text(encoding="utf-8").format(
        parameters=f"{LlamaForCausalLM(config).num_parameters():,}",
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocabulary=f"{config.vocab_size:,}",
        context=f"{config.max_position_embeddings:,}",
        trained_context=f"{LONGEST_TRAINED_TOKENS:,}",
        entries=len({e.answer for entry in corpus.entries for e in (entry, *entry.follow_ups)}),
        questions=f"{sum(len(entry.questions) for entry in corpus.entries):,}",
        steps=f"{settings.steps:,}",
        tokens_per_batch=f"{settings.tokens_per_batch:,}",
        seed=settings.seed,
        threads=settings.threads,
        **facts,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
