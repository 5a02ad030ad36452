"""Chapter 10: a worker. One process that serves a model over HTTP, as SGLang's do.

    python -m radix_lib.worker --port 30001

The paths are SGLang's (`/generate`, `/health`, `/model_info`, `/server_info`,
`/flush_cache`) and OpenAI's (`/v1/chat/completions`, `/v1/models`); `/kv_events` is
ours. Requests that come together share the steps of one scheduler.

Left out here: the forms of questions and answers (`protocol`).
Source: SGLang 0.5.9, `entrypoints/http_server.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request as Call
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as RefusedCall
from starlette.types import Send

from radix_lib.engine import Engine, EngineStopped, Overloaded, text_of
from radix_lib.kv_events import Event, TellingCache
from radix_lib.model_loader import load_model
from radix_lib.protocol import ChatBody, ChatForm, GenerateBody, GenerateForm
from radix_lib.radix_model import RadixAttentionModel
from radix_lib.request import Request
from radix_lib.router import Namespace
from radix_lib.scheduler import Scheduler
from radix_lib.supported_models import ModelError

LOOPBACK = "127.0.0.1"


class TellingModel(RadixAttentionModel):
    """A model whose cache tells what it stores and evicts."""

    cache_type = TellingCache


# ── What is answered ─────────────────────────────────────────────────────────────────


class Answers:
    """One model behind HTTP: submits what is asked and writes what comes."""

    def __init__(self, engine: Engine, name: str):
        self.engine = engine
        self.model: Any = engine.scheduler.model
        self.name = name

    async def generate(self, body: GenerateBody, call: Call) -> Response:
        """`/generate`."""
        if (body.text is None) == (body.input_ids is None):
            raise HTTPException(400, "give either text or input_ids")
        prompt = body.input_ids if body.text is None else body.text
        states = self.engine.stream(
            prompt,
            body.sampling_params.max_new_tokens,
            namespace=Namespace(body.extra_key or ""),
            **body.sampling_params.options(),
        )
        return await self._respond(states, call, body.stream, GenerateForm(body))

    async def chat(self, body: ChatBody, call: Call) -> Response:
        """`/v1/chat/completions`."""
        states = self.engine.stream(
            [message.model_dump() for message in body.messages],
            body.most,
            namespace=Namespace(body.cache_salt),
            temperature=body.temperature,
            top_p=body.top_p,
            seed=body.seed,
        )
        return await self._respond(states, call, body.stream, ChatForm(body, self.name))

    async def _respond(
        self,
        states: AsyncGenerator[Request, None],
        call: Call,
        stream: bool,
        form: Any,
    ) -> Response:
        """The whole answer, or its pieces as they come."""
        if stream:
            first = await _unless_gone(anext(states), call)
            return Events(self._pieces(states, first, form), states)
        last = await _unless_gone(_last_of(states), call)
        _check(last)
        return JSONResponse(form.whole(last, text_of(last, self.model.tokenizer)))

    async def _pieces(
        self, states: AsyncIterator[Request], first: Request, form: Any
    ) -> AsyncIterator[str]:
        """Server-sent events."""
        shown = ""
        state = first
        is_first = True
        try:
            while True:
                over = bool(state.outcome)
                if over:
                    _check(state)
                text = text_of(state, self.model.tokenizer, shown)
                pieces = form.pieces(state, text, shown, is_first)
                # One that ended meanwhile comes once more, as it is then.
                if over or not state.outcome:
                    for piece in pieces:
                        yield f"data: {json.dumps(piece)}\n\n"
                    shown = text
                    is_first = False
                if over:
                    break
                state = await anext(states)
        except (HTTPException, EngineStopped) as error:
            said = getattr(error, "detail", str(error))
            yield f"data: {json.dumps(_error(said))}\n\n"
        yield "data: [DONE]\n\n"


class Events(StreamingResponse):
    """A stream whose source is closed when the client goes: that cancels the request.

    Also while a piece waits for a client that does not read: Starlette leaves what it
    iterates over to the garbage collector.
    """

    media_type = "text/event-stream"

    def __init__(
        self, pieces: AsyncIterator[str], source: AsyncGenerator[Request, None]
    ):
        super().__init__(pieces)
        self.source = source

    async def stream_response(self, send: Send) -> None:
        """Send the pieces."""
        async with aclosing(self.source):
            await super().stream_response(send)


async def _last_of(states: AsyncGenerator[Request, None]) -> Request:
    """The request when it is over."""
    async with aclosing(states):
        async for state in states:
            last = state
    return last


async def _unless_gone(coming: Awaitable[Request], call: Call) -> Request:
    """What is coming, or an end as soon as the client has gone."""
    answer = asyncio.ensure_future(coming)
    gone = asyncio.ensure_future(_gone(call))
    try:
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise HTTPException(499, "the client has gone")
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()


async def _gone(call: Call) -> None:
    while not await call.is_disconnected():
        await asyncio.sleep(0.1)


def _check(request: Request) -> None:
    if request.outcome != "finished":
        why = f": {request.error}" if request.error else ""
        raise HTTPException(500, f"this request was {request.outcome}{why}")


# ── The application ──────────────────────────────────────────────────────────────────


def application(engine: Engine, name: str) -> FastAPI:
    """The paths of a worker. The engine runs as long as the application does."""

    @asynccontextmanager
    async def serving(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)

    app = FastAPI(title="radix_lib worker", lifespan=serving)
    answers = Answers(engine, name)
    model = answers.model
    app.post("/generate")(answers.generate)
    app.post("/v1/chat/completions")(answers.chat)

    @app.get("/health")
    def health() -> Response:
        return Response(status_code=200 if engine.alive else 503)

    @app.get("/model_info")
    def model_info() -> dict[str, Any]:
        # No model_path: SGLang's router would ask a hub for its tokenizer.
        return {"served_model_name": name, "is_generation": True}

    @app.get("/server_info")
    def server_info() -> dict[str, Any]:
        pool = model.router.page_manager
        return {
            "served_model_name": name,
            "page_size": pool.page_size,
            "max_total_num_tokens": pool.n_pages * pool.page_size,
            "requests": engine.scheduler.n_unfinished,
            "prefilled_tokens": engine.scheduler.n_prefilled,
            "pages": model.router.usage()._asdict(),
        }

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        card = {"id": name, "object": "model", "owned_by": "radix_lib"}
        return {"object": "list", "data": [card]}

    @app.post("/flush_cache")
    def flush_cache() -> dict[str, bool]:
        try:
            model.flush()
        except RuntimeError as error:
            raise HTTPException(400, str(error)) from error
        return {"success": True}

    @app.get("/kv_events")
    def kv_events() -> list[dict[str, Any]]:
        return [_as_json(event) for event in model.cache.take_events()]

    app.add_exception_handler(RefusedCall, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_body)
    app.add_exception_handler(ValueError, _refuse_value)
    app.add_exception_handler(Overloaded, _refuse_for_now)
    app.add_exception_handler(EngineStopped, _refuse_for_now)
    return app


def _as_json(event: Event) -> dict[str, Any]:
    fields = event._asdict()
    for name in ("block_hashes", "parent_block_hash"):
        value = fields.get(name)
        if isinstance(value, bytes):
            fields[name] = value.hex()
        elif isinstance(value, list):
            fields[name] = [each.hex() for each in value]
    return {"type": type(event).__name__} | fields


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message}}


async def _refuse(_: Call, error: Exception) -> Response:
    assert isinstance(error, RefusedCall)
    return JSONResponse(_error(error.detail), error.status_code)


async def _refuse_body(_: Call, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    said = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        place = f"the body is no JSON from place {place} on"
        said = first["ctx"]["error"]
    return JSONResponse(_error(f"{place}: {said}"), 400)


async def _refuse_value(_: Call, error: Exception) -> Response:
    return JSONResponse(_error(str(error)), 400)


async def _refuse_for_now(_: Call, error: Exception) -> Response:
    return JSONResponse(_error(str(error)), 503, headers={"Retry-After": "1"})


def main() -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser("python -m radix_lib.worker", description=__doc__)
    parser.add_argument("--host", default=LOOPBACK, help=f"(default: {LOOPBACK})")
    parser.add_argument("--port", type=int, default=30001)
    parser.add_argument("--model", help="a hub id or a local folder")
    parser.add_argument("--page-size", type=int, default=16, help="tokens a page")
    parser.add_argument("--n-pages", type=int, default=512)
    parser.add_argument("--max-requests", type=int, default=256)
    args = parser.parse_args()
    try:
        loaded = load_model(args.model)
        model = TellingModel(
            loaded.model,
            loaded.tokenizer,
            page_size=args.page_size,
            n_pages=args.n_pages,
        )
        engine = Engine(Scheduler(model), args.max_requests)
    except (ModelError, ValueError) as error:
        print(f"radix_lib: {error}", file=sys.stderr)
        return 2
    if args.host != LOOPBACK:
        print(f"Open to whoever reaches {args.host}: no password.", file=sys.stderr)
    uvicorn.run(
        application(engine, loaded.name),
        host=args.host,
        port=args.port,
        log_level="error",  # SGLang's router tries gRPC first, which would be warned of
        access_log=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
