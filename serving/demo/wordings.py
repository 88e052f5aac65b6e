"""Tables of wordings that `phrasing.py` draws from; no logic.

A frame turns a whole sentence around its subject, a synonym replaces a few words. What is listed here must
keep the meaning of any question it matches; small slips of grammar do no harm, since people make them too.
"""

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
    "What does {} stand for?",
    "What does {} show?",
    "How is {} defined?",
    "Give me a short explanation of {}.",
    "Can you describe {}?",
    "I do not know what {} is.",
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

FRAMES = tuple(
    (re.compile(pattern), templates)
    for pattern, templates in (
        (
            r"^How (?:do|can|should) I (.+)\?$",
            (
                "What can I do to {0}?",
                "What do I have to do to {0}?",
                "What is the best way to {0}?",
                "Tell me how to {0}.",
                "Can you tell me how to {0}?",
                "Can you show me how to {0}?",
                "I want to {0}.",
                "I would like to {0}. How?",
                "I need to {0}.",
                "Is it possible to {0}?",
                "Explain how to {0}.",
                "How could I {0}?",
                "How does one {0}?",
                "How do you {0}?",
                "Which steps do I need to {0}?",
                "Help me to {0}.",
            ),
        ),
        (
            r"^What is the difference between (.+) and (.+)\?$",
            (
                "How does {0} compare with {1}?",
                "How is {0} different from {1}?",
                "How is {1} different from {0}?",
                "In what way does {0} differ from {1}?",
                "What is the difference between {1} and {0}?",
                "Explain the difference between {0} and {1}.",
                "Compare {0} with {1}.",
                "Can you compare {1} and {0}?",
                "{0} versus {1}",
                "{1} or {0}?",
                "Is {0} the same as {1}?",
                "Are {0} and {1} the same thing?",
                "Please explain {0} and {1}.",
            ),
        ),
        (
            r"^When should I use (.+)\?$",
            (
                "When does {0} make sense?",
                "When would you use {0}?",
                "In which cases do I use {0}?",
                "When is it a good idea to use {0}?",
                "When do I want {0}?",
                "When is {0} the right choice?",
                "For what should I use {0}?",
                "Tell me when to use {0}.",
                "Is {0} useful for me?",
            ),
        ),
        (
            r"^How does (.+) work\?$",
            (
                "Explain how {0} works.",
                "Can you explain how {0} works?",
                "How exactly does {0} work?",
                "Tell me how {0} works.",
                "I want to understand how {0} works.",
                "Please describe how {0} works.",
                "In what way does {0} work?",
                "What is the idea of {0}?",
            ),
        ),
        (
            r"^Why (?:is|are) (?!.*\bnot\b)(.+?) (?:so )?(\w+)\?$",
            (
                "What makes {0} {1}?",
                "What is the reason that {0} is {1}?",
                "Explain why {0} is so {1}.",
                "Can you tell me why {0} is {1}?",
                "Why is it that {0} is so {1}?",
                "Why would {0} be {1}?",
            ),
        ),
        (
            r"^Why does (.+) matter\?$",
            (
                "Explain why {0} matters.",
                "Tell me why {0} is so important.",
                "Why is {0} such a big deal?",
                "Why is it important to have {0}?",
                "Why do I need {0} at all?",
                "What makes {0} important?",
                "Why should anyone care about {0}?",
                "What is the point of {0}?",
            ),
        ),
        (
            r"^What happens (?:when|if|to) (.+)\?$",
            (
                "What will happen when {0}?",
                "What happens in the case that {0}?",
                "What if {0}?",
                "Tell me what happens when {0}.",
                "And when {0}?",
            ),
        ),
        (
            r"^(?:Which|What) (.+) should I (.+)\?$",
            (
                "What {0} should I {1}?",
                "Which {0} do I {1}?",
                "Which {0} is best to {1}?",
                "Tell me which {0} to {1}.",
                "What is the right {0} to {1}?",
                "Which {0} would you {1}?",
            ),
        ),
        (
            r"^Should I (.+)\?$",
            (
                "Is it a good idea to {0}?",
                "Would you {0}?",
                "Is it worth it to {0}?",
                "Does it make sense to {0}?",
                "Do I need to {0}?",
                "Why should I {0}?",
            ),
        ),
        (
            r"^How much (.+) does (.+) (need|take|cost)\?$",
            (
                "How much {0} for {1}?",
                "What {0} does {1} {2}?",
                "Tell me how much {0} {1} {2}s.",
                "How much {0} will {1} {2}?",
                "How do I work out how much {0} {1} {2}s?",
            ),
        ),
        (
            r"^How many (.+?) (do|does|can|will) (.+)\?$",
            (
                "What number of {0} {1} {2}?",
                "Tell me how many {0} {2}.",
                "How many {0} {1} {2} exactly?",
            ),
        ),
        (
            r"^(?:Which|What) (\w+) (?:are there|does Raydeck have)\?$",
            ("Which {0} exist?", "List the {0}.", "What {0} exist in Raydeck?", "Tell me the {0}."),
        ),
        (
            r"^What are (.+)\?$",
            ("Tell me about {0}.", "List {0}.", "Which are {0}?", "Name {0}.", "I would like to know {0}."),
        ),
        (
            r"^What does (.+) do\?$",
            (
                "What is {0} for?",
                "What is the job of {0}?",
                "What is the purpose of {0}?",
                "Tell me what {0} does.",
                "What do I use {0} for?",
            ),
        ),
    )
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
