"""``/v1/registry-hints``: MLflow says that something has changed there. Knows nothing of what that is.

A hint is worth a look at the registry and no more: what it holds is neither read nor believed. It must be
signed with the secret that MLflow was given, so that nobody else has the registry looked at; what is sent
again within its time causes one look more, and looks are bounded elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response

from fleet.web.backend import Backend
from fleet.web.errors import Refusal
from fleet.web.gate import HINTS

PATH = HINTS
FRESH_SECONDS = 300
"""How old a hint may be, and how far its clock may be ahead."""
VERSION = "v1"


def hint_routes(backend: Backend, secret: str) -> APIRouter:
    """The route, for whoever knows ``secret``."""
    routes = APIRouter()

    @routes.post(PATH, tags=["registry"], status_code=202)
    async def hint(
        request: Request,
        x_mlflow_signature: Annotated[str, Header(max_length=256)] = "",
        x_mlflow_delivery_id: Annotated[str, Header(max_length=256)] = "",
        x_mlflow_timestamp: Annotated[str, Header(max_length=32)] = "",
    ) -> Response:
        """A webhook for MLflow: the registry is looked at soon."""
        content = await request.body()
        wanted = signature(secret, x_mlflow_delivery_id, x_mlflow_timestamp, content)
        if not hmac.compare_digest(x_mlflow_signature.encode(), wanted.encode()):
            raise Refusal(401, "bad-signature", "the hint is not signed with this service's webhook secret")
        if not (x_mlflow_timestamp.isdecimal() and _fresh(int(x_mlflow_timestamp))):
            raise Refusal(401, "bad-signature", f"the hint is older than {FRESH_SECONDS} s, or not dated")
        await backend.hint()
        return JSONResponse({"status": "noted"}, 202)

    return routes


def signature(secret: str, delivery: str, timestamp: str, content: bytes) -> str:
    """What MLflow writes into ``X-MLflow-Signature`` for this content."""
    signed = b".".join([delivery.encode(), timestamp.encode(), content])
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return f"{VERSION},{base64.b64encode(digest).decode()}"


def _fresh(timestamp: int) -> bool:
    return abs(time.time() - timestamp) <= FRESH_SECONDS
