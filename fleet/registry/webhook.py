"""A webhook on an MLflow server: aliases that change there are told to an address of ours.

MLflow delivers when it can and forgets what it could not: a delivery is a hint, never the truth. Knows
nothing of who listens.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleet.errors import RegistryError
from fleet.registry.door import enter, speaking

NAME = "fleet-serve"
EVENTS = ["model_version_alias.created", "model_version_alias.deleted"]
"""MLflow knows no "updated": an alias that is moved is created again."""


def webhook_settings(key_file: Path) -> dict[str, str]:
    """What the server's environment needs to deliver to this machine, where it does not say otherwise.

    Secrets are stored encrypted; with another key after a restart nothing would be delivered any more, and
    nothing said. So the key is kept, readable for its owner only.
    """
    settings = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    }
    if "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY" not in os.environ:
        settings["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"] = _kept_key(key_file)
    return {name: value for name, value in settings.items() if name not in os.environ}


def _kept_key(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Born with these rights: there is no moment at which others could read it.
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as fresh:
            fresh.write(base64.urlsafe_b64encode(os.urandom(32)).decode())  # the form of a Fernet key
    except FileExistsError:
        pass
    return file.read_text().strip()


@contextmanager
def webhook(server: str, url: str, *, secret: str, owner: str) -> Iterator[None]:
    """Have the MLflow at ``server`` tell ``url`` of every alias, for the length of a ``with`` block.

    What an earlier service of the same ``owner`` left behind is removed, and nobody else's: several projects
    may share a store. Raises ``RegistryError`` when it cannot be set up; that it cannot be removed at the
    end is nobody's affair, as the owner's next one does it.
    """
    client = enter().MlflowClient(tracking_uri=server, registry_uri=server)
    about = f"of {owner}; removed when the service ends"
    with speaking("set up a webhook", server):
        _remove(client, about)
        client.create_webhook(NAME, url, EVENTS, about, secret=secret, status="ACTIVE")
    try:
        yield
    finally:
        with contextlib.suppress(RegistryError), speaking("remove its webhook", server):
            _remove(client, about)


def _remove(client: Any, about: str) -> None:
    found, token = [], None
    while True:
        page = client.list_webhooks(max_results=100, page_token=token)
        found += [each.webhook_id for each in page if (each.name, each.description) == (NAME, about)]
        token = page.token
        if not token:
            break
    for each in found:
        client.delete_webhook(each)
