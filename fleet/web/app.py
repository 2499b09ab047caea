"""The web interface over a backend, put together. Knows nothing of replicas, clusters or models."""

from __future__ import annotations

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

from fleet.web import errors
from fleet.web.backend import Backend
from fleet.web.body_limit import BodyLimit
from fleet.web.gate import Gate
from fleet.web.guarded import Guarded
from fleet.web.hangup import Hangup
from fleet.web.health import health_routes
from fleet.web.hints import hint_routes
from fleet.web.jobs import job_routes
from fleet.web.kept import Memory
from fleet.web.key_ring import KeyRing
from fleet.web.metered import Metered, Timed, metrics_routes
from fleet.web.metrics import Metrics
from fleet.web.once import Once
from fleet.web.openai_routes import openai_routes
from fleet.web.page import page_routes
from fleet.web.settings import WebSettings


def make_app(
    backend: Backend, *, version: str, settings: WebSettings | None = None, memory: Memory | None = None
) -> FastAPI:
    """The whole interface for one backend; ``memory`` is where answers are kept by idempotency key.

    Raises ``InputError`` when its API keys cannot be read.
    """
    settings = settings or WebSettings()
    ring, metrics = KeyRing(settings.keys), Metrics()
    app = FastAPI(
        title="taskfleet",
        version=version,
        summary="A fleet of small specialised language models",
        docs_url=None,  # FastAPI's own load their scripts from elsewhere; ours is in fleet.web.page
        redoc_url=None,
        # Says in the docs that there are keys, and lets people fill one in; the gate is what asks for it.
        dependencies=[Depends(HTTPBearer(auto_error=False, scheme_name="API key"))] if ring.required else [],
    )
    errors.install(app)
    app.add_middleware(Hangup)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body)
    app.add_middleware(Gate, ring=ring)
    app.add_middleware(Timed, metrics=metrics)
    app.include_router(metrics_routes(backend, metrics))
    if settings.hint_secret:
        app.include_router(hint_routes(backend, settings.hint_secret))
    backend = Metered(Guarded(backend), metrics)
    app.include_router(health_routes(backend))
    once = Once(memory)
    app.include_router(job_routes(backend, once))
    app.include_router(openai_routes(backend, once))
    app.include_router(page_routes())
    return app
