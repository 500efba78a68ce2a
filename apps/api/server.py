"""Routes and serving: completions, the list of models, health, and figures for Prometheus."""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from apps.api.messages import Request as Asked
from apps.api.messages import choice, names, read_request
from studio.errors import TriptychError, UnknownName
from studio.variants import Engine

#: Largest body of a request, media included.
MAX_BODY = 32 << 20
#: Says who asks from the bearer's key, or None to refuse.
Admit = Callable[[str], str | None]


class _Refused(Exception):
    """An answer of the protocol that says why not: status, code, sentence."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.code = status, code


def build(engine: Engine, *, admit: Admit | None = None) -> FastAPI:
    """Return the service over an engine; without ``admit`` everyone who can reach it may ask."""
    app = FastAPI(title="Triptych", docs_url=None, redoc_url=None, openapi_url=None)
    began = int(time.time())
    registry = CollectorRegistry()
    asked = Counter(
        "triptych_requests", "Requests by variant and outcome.", ["variant", "outcome"], registry=registry
    )
    took = Histogram(
        "triptych_answer_seconds", "Time to the end of an answer.", ["variant"], registry=registry
    )
    written = Counter("triptych_answer_tokens", "Tokens answered.", ["variant"], registry=registry)
    running = Gauge("triptych_answers_running", "Answers in progress.", registry=registry)

    @app.exception_handler(_Refused)
    async def refused(_: Request, error: _Refused) -> JSONResponse:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        told = {"message": str(error), "type": kind, "param": None, "code": error.code}
        return JSONResponse({"error": told}, status_code=error.status)

    def admitted(request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if admit is not None and (scheme.lower() != "bearer" or admit(key.strip()) is None):
            raise _Refused(401, "invalid_api_key", "this service needs a key: Authorization: Bearer KEY")

    def known(model: str) -> None:
        if model not in engine.names:
            asked.labels("", "unknown").inc()
            raise _Refused(404, "model_not_found", str(UnknownName("model", model, engine.names)))

    @app.get("/healthz")
    def health() -> dict[str, Any]:
        return {"status": "ok", "variants": len(engine.names)}

    @app.get("/metrics")
    def metrics(request: Request) -> Response:
        admitted(request)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    def models(request: Request) -> dict[str, Any]:
        admitted(request)
        return names(engine.names, began)

    @app.get("/v1/models/{model:path}")
    def model(model: str, request: Request) -> dict[str, Any]:
        admitted(request)
        known(model)
        found: dict[str, Any] = names([model], began)["data"][0]
        return found

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        admitted(request)
        body = await _body(request)
        return await run_in_threadpool(answer, body)

    def answer(body: Any) -> Response:
        folder = tempfile.TemporaryDirectory(prefix="triptych-")
        start = time.monotonic()
        try:
            wanted = read_request(body, Path(folder.name))
            known(wanted.model)
            texts = engine.stream(wanted.model, wanted.sample, **wanted.settings)
            prompt = engine.prompt_tokens(wanted.model, wanted.sample)
            first = next(texts, "")  # what is wrong with the question is told before the answer begins
        except TriptychError as error:
            folder.cleanup()
            asked.labels("", "refused").inc()
            raise _Refused(400, "invalid_request", str(error).replace(folder.name, "")) from None
        except BaseException:
            folder.cleanup()
            raise
        about = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": wanted.model,
        }

        def follow() -> Iterator[str]:
            outcome = "left"
            running.inc()
            try:
                yield first
                yield from texts
                outcome = "answered"
            except Exception:
                outcome = "failed"
                traceback.print_exc(file=sys.stderr)
                raise
            finally:
                running.dec()
                asked.labels(wanted.model, outcome).inc()
                took.labels(wanted.model).observe(time.monotonic() - start)
                folder.cleanup()

        if wanted.stream:
            return StreamingResponse(
                _events(engine, wanted, prompt, about, follow(), written), media_type="text/event-stream"
            )
        *_, text = follow()
        usage = _usage(engine, wanted, prompt, text, written)
        reason = "length" if usage["completion_tokens"] >= wanted.max_new_tokens else "stop"
        return JSONResponse(
            {**about, "object": "chat.completion", "choices": [choice(text, reason)], "usage": usage}
        )

    return app


def _events(
    engine: Engine,
    wanted: Asked,
    prompt: int,
    about: dict[str, Any],
    texts: Iterator[str],
    written: Counter,
) -> Iterator[str]:
    """Yield an answer as server-sent events: what was added each time, the reason of the end, the usage."""
    about = {**about, "object": "chat.completion.chunk"}

    def event(**more: Any) -> str:
        return f"data: {json.dumps({**about, **more}, ensure_ascii=False)}\n\n"

    sent = ""
    try:
        yield event(choices=[choice("", None, delta=True)])
        for text in texts:
            if text.startswith(sent) and text != sent:
                yield event(choices=[choice(text[len(sent) :], None, delta=True)])
                sent = text
        usage = _usage(engine, wanted, prompt, sent, written)
        reason = "length" if usage["completion_tokens"] >= wanted.max_new_tokens else "stop"
        yield event(choices=[choice(None, reason, delta=True)])
        if wanted.usage:
            yield event(choices=[], usage=usage)
        yield "data: [DONE]\n\n"
    except Exception:
        told = {"message": "the answer broke off; the server's log says why", "type": "server_error"}
        yield f"data: {json.dumps({'error': told})}\n\n"
    finally:
        close = getattr(texts, "close", None)
        if close:
            close()


def _usage(engine: Engine, wanted: Asked, prompt: int, text: str, written: Counter) -> dict[str, int]:
    completion = engine.text_tokens(wanted.model, text)
    written.labels(wanted.model).inc(completion)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def _body(request: Request) -> Any:
    """Return the request's JSON; a body that is too large is not read to its end."""
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_BODY:
            raise _Refused(413, "request_too_large", f"the request is larger than {MAX_BODY >> 20} MiB")
        pieces.append(piece)
    try:
        return json.loads(b"".join(pieces))
    except (ValueError, RecursionError):
        raise _Refused(400, "invalid_json", "the body is not valid JSON") from None


def serve(app: FastAPI, host: str, port: int) -> None:
    """Serve until Ctrl-C."""
    import uvicorn

    uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False)
