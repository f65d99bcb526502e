"""The service's addresses: `/` a page, `/predict`, `/health`, `/metrics`."""

from __future__ import annotations

import time
from importlib.resources import files
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from scaletut.serve.guard import Bodies
from scaletut.serve.metrics import Metrics
from scaletut.serve.pictures import pictures
from scaletut.serve.pool import Pool
from scaletut.serve.settings import Refused
from scaletut.serve.waiting import Answer

INLINE = "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
POLICY = f"default-src 'none'; {INLINE}; img-src blob: data:; connect-src 'self'"
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_PIXELS = {
    "schema": {"type": "object", "required": ["images"], "properties": {"images": {"type": "array", "items": {}}}}
}
_FORM = {"schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}}
BODY = {"image/*": _PICTURE, "multipart/form-data": _FORM, "application/json": _PIXELS}


def make_app(pool: Pool, metrics: Metrics) -> FastAPI:
    """The application around a pool that is running."""
    names, bodies, settings = pool.program.class_names, Bodies(pool.settings), pool.settings
    # FastAPI's own documentation pages load scripts from elsewhere; the description itself stays.
    app = FastAPI(title="scaletut serve", docs_url=None, redoc_url=None)

    @app.post("/predict", openapi_extra={"requestBody": {"required": True, "content": BODY}})
    async def predict(request: Request) -> Response:
        """Classes and probabilities of one picture or several."""
        began, status = time.monotonic(), 500
        metrics.inside.move(1)
        try:
            body = await bodies.read(request.headers, request.receive)
            if len(pool.waiting) >= settings.queue:  # told before anything is decoded
                raise Refused(503, "too many requests are waiting; come again a little later", pool.come_again())
            read = time.monotonic()
            images = await pictures(request.headers, body, pool.program.side, settings)
            decoded = time.monotonic()
            answers = await pool.answers(images)
            status = 200
            return JSONResponse(_told(answers, names, decoded - read, time.monotonic() - began))
        except Refused as refused:
            status = refused.status
            return _refusal(refused.status, refused.reason, refused.retry_after)
        finally:
            metrics.inside.move(-1)
            metrics.answered(status, time.monotonic() - began)

    @app.get("/health")
    async def health() -> Response:
        """Whether it lives (it answers) and whether it is ready (a worker can take a batch)."""
        workers = [{"pid": one.process.pid, "batches": one.batches} for one in pool.workers.values()]
        manifest = pool.program.manifest
        state = {
            "live": True,
            "ready": bool(workers),
            "model": {"file": pool.program.path.name, "sha256": manifest["sha256"], "side": pool.program.side,
                      "classes": list(names)},
            "workers": workers,
            "waiting": len(pool.waiting),
        }  # fmt: skip
        return JSONResponse(state, 200 if workers else 503)

    @app.get("/health/live")
    async def live() -> Response:
        """Answers as long as the service runs: for whoever would restart it."""
        return JSONResponse({"live": True})

    @app.get("/metrics")
    async def counts() -> Response:
        """Counts in the text format of Prometheus."""
        return PlainTextResponse(
            metrics.text(len(pool.waiting), len(pool.workers)), media_type="text/plain; version=0.0.4"
        )

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(PAGE, headers={"content-security-policy": POLICY, "x-content-type-options": "nosniff"})

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        return _refusal(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:  # it is logged with its traceback, and not sent
        return _refusal(500, "the service failed at this request; its log tells why")

    return app


def _told(answers: list[Answer], names: tuple[str, ...], decoding: float, total: float) -> dict[str, Any]:
    logits = np.stack([one.logits for one in answers]).astype(np.float64)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    shares = odds / odds.sum(1, keepdims=True)
    return {
        "predictions": [
            {
                "class": names[best],
                "probability": round(row[best], 6),
                "probabilities": {name: round(share, 6) for name, share in zip(names, row, strict=True)},
            }
            for best, row in zip(shares.argmax(1).tolist(), shares.tolist(), strict=True)
        ],
        "milliseconds": {
            "decoding": round(1e3 * decoding, 3),
            "waiting": round(1e3 * max(one.waited for one in answers), 3),
            "computing": round(1e3 * max(one.computed for one in answers), 3),
            "total": round(1e3 * total, 3),
        },
        "batch": max(one.batch for one in answers),
    }


def _refusal(status: int, reason: str, retry_after: int = 0, headers: Any = None) -> Response:
    again = {"retry-after": str(retry_after)} if retry_after else {}
    return JSONResponse({"error": reason}, status, headers={**(headers or {}), **again})


PAGE = (files("scaletut.serve") / "page.html").read_text(encoding="utf-8")
