"""Ways to word the same question: templates, synonyms, politeness, slips of the keyboard.

A model of five million parameters learns wording by heart unless it meets each question in many forms. Pure
functions of a text and a random generator; the meaning of a question must survive every change made here.
"""

import random
import re

DEFINITION_TEMPLATES = (
    "What is {}?",
    "What is {}?",
    "What does {} mean?",
    "Explain {}.",
    "Define {}.",
    "Tell me about {}.",
    "Can you explain {}?",
    "Describe {} in short.",
    "{}?",
    "What do you mean by {}?",
    "I keep reading about {}. What is it?",
    "What is the meaning of {}?",
    "What exactly is {}?",
    "Give me a definition of {}.",
    "What do people mean when they say {}?",
    "I have never heard of {}.",
    "Could you tell me what {} is?",
    "How would you describe {}?",
    "What is meant by {} in LLM serving?",
)

SYNONYMS = (
    (r"\bWhat is\b", ("What's", "Whats", "What is")),
    (r"\bHow do I\b", ("How can I", "How should I", "How would I", "How to", "What is the way to")),
    (r"\bHow can I\b", ("How do I", "What can I do to", "Is there a way to")),
    (r"\bWhy does\b", ("Why would", "How come", "What is the reason that")),
    (r"\bWhy is\b", ("How come", "What is the reason that", "Why is")),
    (r"\bDoes\b", ("Will", "Does", "Do you know if")),
    (r"\bShould I\b", ("Do I have to", "Is it a good idea to", "Ought I to")),
    (r"\bWhen should I\b", ("When do I", "In which case should I", "When would I")),
    (r"\bmodels\b", ("models", "LLMs", "language models")),
    (r"\bmodel\b", ("model", "LLM", "language model")),
    (r"\bGPUs\b", ("GPUs", "accelerators", "graphics cards", "cards")),
    (r"\bGPU\b", ("GPU", "accelerator", "graphics card", "card")),
    (r"\brequests\b", ("requests", "calls", "queries")),
    (r"\breduce\b", ("reduce", "lower", "cut", "bring down")),
    (r"\bimprove\b", ("improve", "better", "speed up")),
    (r"\bincrease\b", ("increase", "raise", "grow")),
    (r"\bdifference between\b", ("difference between", "distinction between")),
    (r"\bimportant\b", ("important", "relevant", "useful")),
    (r"\bchoose\b", ("choose", "pick", "select")),
    (r"\bneed\b", ("need", "require")),
    (r"\bfast\b", ("fast", "quick")),
    (r"\bslow\b", ("slow", "sluggish")),
    (r"\bdeployment\b", ("deployment", "deployed model")),
    (r"\btime to first token\b", ("TTFT", "time to first token")),
    (r"\bKV cache\b", ("KV cache", "key-value cache", "KV-cache", "kv cache")),
    (r"\bmemory\b", ("memory", "memory", "RAM")),
    (r"\bcost\b", ("cost", "price")),
    (r"\bconfigure\b", ("configure", "set up", "set")),
)

OPENINGS = (
    "Hi, ",
    "Hello! ",
    "Hey, ",
    "Please tell me: ",
    "Quick question: ",
    "I am new to this. ",
    "I have a question. ",
    "Can you help me? ",
    "Just curious: ",
    "OK, ",
    "And ",
    "So ",
    "Now ",
    "One more thing: ",
    "Can you tell me, ",
    "Another question: ",
    "I was wondering, ",
    "My colleague asked me: ",
)

ENDINGS = (
    " Please.",
    " Thanks!",
    " Thank you.",
    " Keep it short.",
    " Answer in one sentence.",
    " I am a beginner.",
    " Please explain it simply.",
    " In plain words, please.",
)

DROPPABLE = {"a", "an", "the", "is", "are", "do", "does", "of", "please", "my", "in", "to", "can"}


def vary(question: str, rng: random.Random) -> str:
    """The same question in another form; about one in five comes back as it was."""
    if rng.random() < 0.2:
        return question
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
