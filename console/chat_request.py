"""What a browser may ask of the playground, validated, and the gateway request it becomes. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MESSAGE_CHARACTERS = 200_000
MESSAGES = 400


class Turn(BaseModel):
    """One message of the conversation so far."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["user", "assistant"]
    content: Annotated[str, Field(min_length=1, max_length=MESSAGE_CHARACTERS)]


class ChatRequest(BaseModel):
    """A question with everything said before it; the last message is the user's.

    `regenerate` asks for another answer to the same question: nothing is added to the conversation but the
    new answer. Sampling fields that are None are left to the engine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    deployment: Annotated[str, Field(min_length=1, max_length=40)]
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MESSAGES)]
    conversation_id: int | None = None
    regenerate: bool = False
    system: Annotated[str, Field(max_length=MESSAGE_CHARACTERS)] = ""
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    max_tokens: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> ChatRequest:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return self

    @property
    def question(self) -> str:
        """The message to answer."""
        return self.messages[-1].content

    def settings(self) -> dict[str, Any]:
        """What a conversation remembers of it, so that reopening it continues the same way."""
        return self.model_dump(include={"system", "temperature", "top_p", "max_tokens", "seed"})

    def body(self) -> dict[str, Any]:
        """The OpenAI request, without streaming options."""
        messages = [turn.model_dump() for turn in self.messages]
        if self.system.strip():
            messages.insert(0, {"role": "system", "content": self.system})
        sampling = self.model_dump(include={"temperature", "top_p", "max_tokens", "seed"}, exclude_none=True)
        return {"model": self.deployment, "messages": messages, **sampling}


def read_request(given: Any) -> tuple[ChatRequest | None, str, str]:
    """(request, "", "") or (None, field, reason); the reason never repeats what was written."""
    try:
        return ChatRequest.model_validate(given), "", ""
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        return None, field, str(first["msg"]).removeprefix("Value error, ")
