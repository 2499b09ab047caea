"""Whether the service is alive and who is ready to answer. Knows nothing of jobs."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from fleet.plain import plain
from fleet.web.backend import Backend, ServiceState


def health_routes(backend: Backend) -> APIRouter:
    """``/healthz``, ``/readyz`` and ``/v1/experts``."""
    routes = APIRouter()

    @routes.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Whether this process is alive; says nothing about experts."""
        return {"status": "alive"}

    @routes.get("/readyz", tags=["health"], responses={503: {"description": "No expert can answer yet"}})
    async def readyz() -> Response:
        """Which experts are ready, at which version, on how many replicas; 503 before there is any."""
        state = await backend.state()
        content = {
            "ready": state.ready,
            "replicas": state.replicas,
            "router_version": state.router_version,
            "experts": {e.task: {"version": e.version, "ready_on": e.ready_on} for e in state.experts},
        }
        return JSONResponse(content, 200 if state.ready else 503)

    @routes.get("/v1/experts", tags=["experts"], responses={200: {"model": ServiceState}})
    async def experts() -> Response:
        """Every expert: versions, digest, state, and why a version must not answer."""
        return JSONResponse(plain(await backend.state()))

    return routes
