"""Chapter 10: what a worker may be asked, and the forms in which it answers.

SGLang's form repeats the whole text in each piece of a stream, OpenAI's only what is
new. A field that asks for something unknown is refused by name: to ignore it would be
to answer another question.

Left out here: stop strings, tools, several answers to one request, log probabilities.
Source: SGLang 0.5.9, `managers/io_struct.py` and `entrypoints/openai/protocol.py`.
"""

from __future__ import annotations

import time
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from radix_lib.prompts import refuse_half_characters
from radix_lib.request import Request

# ── What may be asked ────────────────────────────────────────────────────────────────


#: What SGLang's router adds to every body, and what changes no token of an answer.
HARMLESS = {
    "log_metrics",
    "model",
    "separate_reasoning",
    "skip_special_tokens",
    "stream_reasoning",
}


class Asked(BaseModel):
    """A body whose fields are known: another that asks for something is refused.

    So is a value of another type, "5" for 5 as well, and half a character, which JSON
    can escape: an answer that repeats it could not be sent.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    @model_validator(mode="after")
    def _refuse_what_is_not_known(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if value and name not in HARMLESS:
                raise ValueError(f"{name} is not known here: leave it out")
        return self

    @model_validator(mode="after")
    def _refuse_half_characters(self) -> Self:
        for name, value in self:
            if isinstance(value, str):
                refuse_half_characters(value, name)
        return self


class SamplingParams(Asked):
    """How to choose tokens, with SGLang's names."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    sampling_seed: int = 0
    stop_token_ids: list[int] = Field(default_factory=list)

    def options(self) -> dict[str, Any]:
        """The same, as `Sampling` names them."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.sampling_seed,
            "stop": self.stop_token_ids,
        }


class GenerateBody(Asked):
    """What `/generate` takes: a text, or token ids."""

    text: str | None = None
    input_ids: list[int] | None = None
    sampling_params: SamplingParams = Field(default_factory=SamplingParams)
    stream: bool = False
    rid: str | None = None
    extra_key: str | None = None  # SGLang's name for a salt, which its router passes on


class Message(Asked):
    """A turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class StreamOptions(Asked):
    """What a stream says beside the answer."""

    include_usage: bool = False


class ChatBody(Asked):
    """What `/v1/chat/completions` takes."""

    messages: list[Message] = Field(min_length=1)
    model: str = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    user: str = ""
    cache_salt: str = ""

    @property
    def most(self) -> int:
        """How many tokens the answer may have."""
        for asked in (self.max_completion_tokens, self.max_tokens):
            if asked is not None:
                return asked
        return 128


# ── The forms of an answer ──────────────────────────────────────────────────────────


def _usage(request: Request) -> dict[str, int]:
    return {
        "prompt_tokens": request.n_prompt,
        "completion_tokens": request.n_output,
        "cached_tokens": request.n_cached,
    }


def _stopped(request: Request) -> bool:
    """Whether the answer ended by itself, and not because it had grown long enough."""
    return bool(request.output) and request.output[-1] in request.sampler.ends


class GenerateForm:
    """SGLang's form: each piece holds all of the text so far."""

    def __init__(self, body: GenerateBody):
        self.rid = body.rid

    def whole(self, request: Request, text: str) -> dict[str, Any]:
        """An answer, whole or so far."""
        reason: dict[str, Any] | None = None
        if request.outcome:
            reason = {"type": "length", "length": request.n_output}
            if _stopped(request):
                reason = {"type": "stop", "matched": request.output[-1]}
        meta = {"id": self.rid or str(request.number), "finish_reason": reason}
        return {
            "text": text,
            "output_ids": request.output,
            "meta_info": meta | _usage(request),
        }

    def pieces(
        self, request: Request, text: str, shown: str, is_first: bool
    ) -> list[dict[str, Any]]:
        """What a stream says of this state."""
        return [self.whole(request, text)]


class ChatForm:
    """OpenAI's form: each piece holds what is new."""

    def __init__(self, body: ChatBody, name: str):
        self.name = body.model or name
        self.created = int(time.time())
        self.include_usage = body.stream_options.include_usage

    def whole(self, request: Request, text: str) -> dict[str, Any]:
        """An answer."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": self._reason(request),
        }
        return self._frame(request, "chat.completion", [choice]) | {
            "usage": self._usage(request)
        }

    def pieces(
        self, request: Request, text: str, shown: str, is_first: bool
    ) -> list[dict[str, Any]]:
        """What a stream says of this state."""
        delta: dict[str, str] = {"content": text[len(shown) :]}
        if is_first:
            delta = {"role": "assistant"} | delta
        choice = {"index": 0, "delta": delta, "finish_reason": self._reason(request)}
        pieces = [self._frame(request, "chat.completion.chunk", [choice])]
        if request.outcome and self.include_usage:
            last = self._frame(request, "chat.completion.chunk", [])
            pieces.append(last | {"usage": self._usage(request)})
        return pieces

    def _frame(self, request: Request, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{request.number}",
            "object": kind,
            "created": self.created,
            "model": self.name,
            "choices": choices,
        }

    def _reason(self, request: Request) -> str | None:
        if not request.outcome:
            return None
        return "stop" if _stopped(request) else "length"

    def _usage(self, request: Request) -> dict[str, Any]:
        usage = _usage(request)
        cached = usage.pop("cached_tokens")
        total = usage["prompt_tokens"] + usage["completion_tokens"]
        details = {"cached_tokens": cached}
        return usage | {"total_tokens": total, "prompt_tokens_details": details}
