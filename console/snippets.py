"""The lines that call a deployment, ready to copy. They name the variable of a key, never a key."""

from __future__ import annotations

import json
from dataclasses import dataclass

QUESTION = "What is a KV cache?"


@dataclass(frozen=True)
class Snippet:
    """One language's lines."""

    key: str
    title: str
    text: str


def snippets(*, base_url: str, model: str) -> list[Snippet]:
    """curl, Python and JavaScript for one streamed chat request."""
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": QUESTION}]})
    curl = (
        f"curl {base_url}/chat/completions \\\n"
        '  -H "Authorization: Bearer $RAYDECK_API_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d '{body}'"
    )
    python = (
        "import os\n"
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base_url}", api_key=os.environ["RAYDECK_API_KEY"])\n'
        "stream = client.chat.completions.create(\n"
        f'    model="{model}",\n'
        f'    messages=[{{"role": "user", "content": "{QUESTION}"}}],\n'
        "    stream=True,\n"
        ")\n"
        "for chunk in stream:\n"
        '    print(chunk.choices[0].delta.content or "", end="", flush=True)'
    )
    javascript = (
        'import OpenAI from "openai";\n\n'
        f'const client = new OpenAI({{ baseURL: "{base_url}", apiKey: process.env.RAYDECK_API_KEY }});\n'
        "const stream = await client.chat.completions.create({\n"
        f'  model: "{model}",\n'
        f'  messages: [{{ role: "user", content: "{QUESTION}" }}],\n'
        "  stream: true,\n"
        "});\n"
        'for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");'
    )
    return [
        Snippet("curl", "curl", curl),
        Snippet("python", "Python", python),
        Snippet("js", "JavaScript", javascript),
    ]
