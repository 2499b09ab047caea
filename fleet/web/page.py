"""The page at ``/`` for people, and the one at ``/docs``. Knows nothing of jobs: the pages use the interface.

Plain files, made in this house and served by it: a page that is opened in a closed network misses nothing,
and what is typed into it goes nowhere else. The browser is told to hold the pages to that.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles

POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # No script may make HTML of a text, whoever wrote the text.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The pages' Content-Security-Policy: nothing from other hosts, no script or style within the HTML."""
FILES = "/page/"
"""Below which the pages' files are; they say nothing of this fleet, so nobody needs a key for them."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked again each time, answered with 304: no page of an older release
}


def page_routes() -> APIRouter:
    """``/``, ``/docs`` and the files that they are made of."""
    routes = APIRouter(include_in_schema=False)
    files = StaticFiles(packages=[("fleet.web", "static")])

    async def file(name: str, request: Request) -> Response:
        response = await files.get_response(name, request.scope)
        response.headers.update(HEADERS)
        return response

    @routes.get("/")
    async def page(request: Request) -> Response:
        return await file("index.html", request)

    @routes.get("/docs")
    async def docs(request: Request) -> Response:
        return await file("docs.html", request)

    @routes.get(FILES + "{name}")
    async def part(name: str, request: Request) -> Response:
        return await file(name, request)

    return routes
