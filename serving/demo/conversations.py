"""Reads the demo model's corpus and turns it into training conversations.

Pure text work with a given random generator: the same seed gives the same conversations in the same order.
It must not import torch or transformers, and it holds no answers itself; those are in `corpus/` and in the
glossary of the documentation.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from serving.demo import phrasing, wordings

CORPUS_FOLDER = Path(__file__).parent / "corpus"
SUGGESTIONS_PATH = Path(__file__).parent / "suggestions.json"
GLOSSARY_PATH = Path(__file__).parents[2] / "docs" / "glossary.md"

Message = dict[str, str]


@dataclass(frozen=True)
class Entry:
    """One thing the model knows: ways to ask for it, the answer, and follow-up questions that lean on it."""

    questions: tuple[str, ...]
    answer: str
    follow_ups: tuple["Entry", ...] = ()
    weight: float = 1.0
    is_off_topic: bool = False


@dataclass(frozen=True)
class Corpus:
    """Everything the model is trained on. `texts` are plain paragraphs, learnt without a conversation."""

    entries: tuple[Entry, ...]
    system_prompts: tuple[str, ...]
    system_prompt_parts: tuple[tuple[str, ...], ...]
    remarks: tuple[Entry, ...]
    texts: tuple[str, ...]
    held_out: tuple[tuple[str, str], ...] = field(default=())


def read_corpus(
    *,
    folder: Path = CORPUS_FOLDER,
    glossary_path: Path = GLOSSARY_PATH,
    suggestions_path: Path = SUGGESTIONS_PATH,
) -> Corpus:
    """Reads all corpus files in the order of their names; raises ValueError for a malformed one."""
    glossary = read_glossary(glossary_path)
    entries = [Entry(questions=tuple(_definition_questions(names)), answer=text) for names, text in glossary]
    for path in sorted((folder / "answers").glob("*.yaml")):
        entries += [_entry_from(item, path) for item in _load(path)]
    entries += _off_topic_entries(_load(folder / "off_topic.yaml"))
    entries += _suggested_entries(json.loads(suggestions_path.read_text(encoding="utf-8")), entries)
    extras = _load(folder / "conversation.yaml")
    corpus = Corpus(
        entries=tuple(entries),
        system_prompts=tuple(extras["system_prompts"]),
        system_prompt_parts=tuple(tuple(parts) for parts in extras["system_prompt_parts"].values()),
        remarks=tuple(_entry_from(item, folder / "conversation.yaml") for item in extras["remarks"]),
        texts=tuple(f"{names[0]}: {text}" for names, text in glossary),
        held_out=_held_out(_load(folder / "held_out.yaml"), entries),
    )
    _refuse_contradictions(corpus)
    return corpus


def read_glossary(path: Path) -> list[tuple[list[str], str]]:
    """Reads `### Name (other name)` headings with one paragraph each: [([names], paragraph)]."""
    terms = []
    for block in re.split(r"^### ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, rest = block.partition("\n")
        paragraph = rest.split("\n## ")[0].strip()
        if not paragraph or "\n\n" in paragraph:
            raise ValueError(f"{path}: '{heading}' needs exactly one paragraph")
        names = [name.strip() for name in re.split(r"[(),]", heading) if name.strip()]
        terms.append((names, " ".join(paragraph.replace("`", "").split())))
    return terms


def make_conversations(corpus: Corpus, *, seed: int) -> Iterator[list[Message]]:
    """Yields training conversations without end, as chat messages; the same seed gives the same ones."""
    rng = random.Random(seed)
    weights = [entry.weight + len(entry.follow_ups) for entry in corpus.entries]
    while True:
        messages = _instruction(corpus, rng)
        for entry in rng.choices(corpus.entries, weights=weights, k=_number_of_turns(rng)):
            messages += _turn(entry, rng)
            messages += _continuation(entry, corpus.remarks, rng)
        yield messages


def make_single_turns(corpus: Corpus, *, seed: int) -> Iterator[list[Message]]:
    """Yields one question with its answer at a time, without end, for learning to tell questions apart."""
    rng = random.Random(seed)
    weights = [entry.weight for entry in corpus.entries]
    while True:
        entry = rng.choices(corpus.entries, weights=weights)[0]
        yield _instruction(corpus, rng) + _turn(entry, rng)


def _instruction(corpus: Corpus, rng: random.Random) -> list[Message]:
    """A system prompt in front of every second conversation; the answers are the same with and without."""
    if rng.random() < 0.5:
        return []
    composed = " ".join(part for parts in corpus.system_prompt_parts if (part := rng.choice(parts)))
    if composed and rng.random() < 0.6:
        return [{"role": "system", "content": composed}]
    return [{"role": "system", "content": rng.choice(corpus.system_prompts)}]


def _number_of_turns(rng: random.Random) -> int:
    """Most chats are short; a few are long, so that positions late in the context are trained as well."""
    return rng.choices((1, 2, 3, 5, 9), weights=(50, 24, 16, 8, 2))[0]


def _turn(entry: Entry, rng: random.Random) -> list[Message]:
    return [
        {"role": "user", "content": phrasing.vary(rng.choice(entry.questions), rng)},
        {"role": "assistant", "content": entry.answer},
    ]


def _continuation(entry: Entry, remarks: tuple[Entry, ...], rng: random.Random) -> list[Message]:
    """What a user says next: a follow-up question where there is one, or a remark such as thanks."""
    if entry.follow_ups and rng.random() < 0.6:
        return _turn(rng.choice(entry.follow_ups), rng)
    if rng.random() < 0.1:
        return _turn(rng.choice(remarks), rng)
    return []


def _definition_questions(names: list[str]) -> list[str]:
    """Every template with every name of a term, with and without an article in front of it."""
    spoken = []
    for name in names:
        plain = name if name[:2].isupper() else name[0].lower() + name[1:]
        spoken += [name, plain, f"{'an' if plain[0].lower() in 'aeiou' else 'a'} {plain}", f"the {plain}"]
    return [template.format(name) for name in spoken for template in wordings.DEFINITION_TEMPLATES]


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _entry_from(item: dict[str, Any], path: Path) -> Entry:
    unknown = set(item) - {"ask", "answer", "follow", "weight"}
    if unknown or not item.get("ask") or not item.get("answer"):
        raise ValueError(f"{path}: an entry needs 'ask' and 'answer', and no {sorted(unknown)}: {item}")
    return Entry(
        questions=tuple(item["ask"]),
        answer=item["answer"].strip(),
        follow_ups=tuple(_entry_from(follow, path) for follow in item.get("follow", ())),
        weight=item.get("weight", 1.0),
    )


def _off_topic_entries(groups: list[dict[str, Any]]) -> list[Entry]:
    """One entry per group; `fill` lists are put into every question that has a {} in it."""
    entries = []
    for group in groups:
        questions = []
        for question in group["ask"]:
            fillings = group.get("fill", ()) if "{}" in question else ("",)
            questions += [question.format(filling) for filling in fillings]
        entries.append(
            Entry(
                questions=tuple(questions),
                answer=group["answer"].strip(),
                weight=group.get("weight", 1.0),
                is_off_topic=True,
            )
        )
    return entries


def _suggested_entries(suggestions: list[str], entries: list[Entry]) -> list[Entry]:
    """The playground's own suggestions once more: they must be answered right at any temperature."""
    answers = {question: entry.answer for entry in entries for question in entry.questions}
    return [Entry(questions=(question,), answer=answers[question], weight=5.0) for question in suggestions]


def _held_out(items: list[dict[str, Any]], entries: list[Entry]) -> tuple[tuple[str, str], ...]:
    """(question never trained on, expected answer); `like` names a corpus question with that answer."""
    answers = {question: entry.answer for entry in entries for question in entry.questions}
    trained = {form.lower() for question in answers for form in (question, *phrasing.frames_of(question))}
    pairs = []
    for item in items:
        for question in item["ask"]:
            if question.lower() in trained:
                raise ValueError(f"held-out question is in the corpus: {question}")
            pairs.append((question, answers[item["like"]]))
    return tuple(pairs)


def _refuse_contradictions(corpus: Corpus) -> None:
    """The same question with two answers would teach the model to mix them."""
    seen: dict[str, str] = {}
    for entry in (*corpus.entries, *corpus.remarks):
        for question in entry.questions:
            key = question.lower().strip(" ?.!")
            if seen.setdefault(key, entry.answer) != entry.answer:
                raise ValueError(f"two answers to one question: {question}")
