"""The web interface over a backend, put together. Knows nothing of replicas, clusters or models."""

from __future__ import annotations

from fastapi import FastAPI

from fleet.web import errors
from fleet.web.backend import Backend
from fleet.web.body_limit import BodyLimit
from fleet.web.health import health_routes
from fleet.web.jobs import job_routes
from fleet.web.openai_routes import openai_routes
from fleet.web.settings import WebSettings


def make_app(backend: Backend, *, version: str, settings: WebSettings | None = None) -> FastAPI:
    """The whole interface for one backend."""
    settings = settings or WebSettings()
    app = FastAPI(title="taskfleet", version=version, summary="A fleet of small specialised language models")
    errors.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body)
    app.include_router(health_routes(backend))
    app.include_router(job_routes(backend))
    app.include_router(openai_routes(backend))
    return app
