"""Words the same question in other ways: frames, synonyms, politeness, slips of the keyboard.

A model of five million parameters learns wording by heart unless it meets each question in many forms. Pure
functions of a text and a random generator; the meaning of a question must survive every change made here.
"""

import random
import re

from serving.demo.wordings import DROPPABLE, ENDINGS, FRAMES, OPENINGS, SYNONYMS


def vary(question: str, rng: random.Random) -> str:
    """The same question in another form; about one in six comes back as it was."""
    if rng.random() < 0.15:
        return question
    if rng.random() < 0.5:
        question = rng.choice(frames_of(question) or [question])
    if rng.random() < 0.5:
        question = _with_synonyms(question, rng)
    if rng.random() < 0.12:
        question = _without_a_small_word(question, rng)
    if rng.random() < 0.12:
        question = _with_a_slip(question, rng)
    if rng.random() < 0.22:
        question = _with_opening(question, rng)
    if rng.random() < 0.12:
        question += rng.choice(ENDINGS)
    if rng.random() < 0.25:
        question = question.rstrip("?.!")
    return question.lower() if rng.random() < 0.25 else question


def frames_of(question: str) -> list[str]:
    """All ways to turn the sentence around its subject, as in "How do I …?" into "What can I do to …?"."""
    for pattern, templates in FRAMES:
        found = pattern.match(question)
        if found:
            return [template.format(*found.groups()) for template in templates]
    return []


def _with_synonyms(question: str, rng: random.Random) -> str:
    for pattern, replacements in SYNONYMS:
        if rng.random() < 0.6:
            question = re.sub(pattern, rng.choice(replacements), question, count=1)
    return question


def _with_opening(question: str, rng: random.Random) -> str:
    opening = rng.choice(OPENINGS)
    starts_with_plain_word = len(question) > 1 and question[1].islower()
    if opening.endswith((". ", "! ")) or not starts_with_plain_word:
        return opening + question
    return opening + question[0].lower() + question[1:]


def _without_a_small_word(question: str, rng: random.Random) -> str:
    words = question.split(" ")
    small = [index for index, word in enumerate(words) if word.lower() in DROPPABLE]
    if len(words) < 4 or not small:
        return question
    del words[rng.choice(small)]
    return " ".join(words)


def _with_a_slip(question: str, rng: random.Random) -> str:
    """Swaps, drops or doubles one letter inside a longer word, as a hurried typist does."""
    words = question.split(" ")
    long_words = [index for index, word in enumerate(words) if len(word) > 5 and word.isalpha()]
    if not long_words:
        return question
    index = rng.choice(long_words)
    word = words[index]
    place = rng.randrange(1, len(word) - 2)
    slips = (
        word[:place] + word[place + 1] + word[place] + word[place + 2 :],
        word[:place] + word[place + 1 :],
        word[:place] + word[place] + word[place:],
    )
    words[index] = rng.choice(slips)
    return " ".join(words)
