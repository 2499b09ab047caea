"""The door to the Hugging Face hub: a repository's base as a local folder, or what to do instead.

Knows nothing of conversion or of our cache: the hub's own cache holds what is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# From here, since the client library below it changed between releases.
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]

from fleet.engine.base_folder import check_text_gemma
from fleet.errors import BaseError

__all__ = ["Download", "cached_base", "download", "fetch_base"]

CONFIG_ONLY = ("config.json",)
BASE_FILES = ("config.json", "tokenizer.json", "model*.safetensors", "model.safetensors.index.json")


class Download(Protocol):
    """Fetches the named files of a repository; raises ``huggingface_hub``'s own errors."""

    def __call__(
        self, repo: str, revision: str | None, patterns: Sequence[str], local_only: bool
    ) -> Path: ...


def download(repo: str, revision: str | None, patterns: Sequence[str], local_only: bool) -> Path:
    """The real one: token, mirror and cache folder are what ``huggingface_hub`` is configured with."""
    return Path(
        snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(patterns),
            local_files_only=local_only,
            tqdm_class=None,
        )
    )


def cached_base(repo: str, get: Download = download) -> Path | None:
    """The snapshot of ``repo`` if the hub's cache already holds all of it; never asks the network."""
    try:
        folder = get(repo, None, BASE_FILES, True)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        return None
    whole = all((folder / name).is_file() for name in ("config.json", "tokenizer.json"))
    return folder if whole and any(folder.glob("model*.safetensors")) else None


def fetch_base(name: str, get: Download = download) -> Path:
    """The snapshot of ``owner/model`` or ``owner/model@revision``, fetched if need be.

    The configuration comes first, so that a wrong model is refused before its weights travel.
    Raises ``BaseError`` with what to do.
    """
    repo, _, revision = name.partition("@")
    page = f"https://huggingface.co/{repo}"
    try:
        config = get(repo, revision or None, CONFIG_ONLY, False) / "config.json"
        if not config.is_file():
            raise BaseError(f"{page} has no config.json: it is no model in transformers' format.")
        check_text_gemma(json.loads(config.read_text(encoding="utf-8")), name)
        return get(repo, revision or None, BASE_FILES, False)
    except GatedRepoError as error:
        raise BaseError(
            f"{name} is gated: accept its licence at {page} while logged in, then make the token known with "
            "`hf auth login` or HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise BaseError(f"{page} has no revision {revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise BaseError(
            f"There is no folder {repo!r}, and the hub knows no such model or it is private: look for a "
            "slip of the pen, or make a token that may read it known with `hf auth login` or HF_TOKEN."
        ) from error
    except HFValidationError as error:
        raise BaseError(f"{name!r} is no hub id of the form owner/model: {error}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise _unreachable(name) from error
    except EntryNotFoundError as error:
        raise BaseError(f"{page} lacks a file that a base needs: {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise BaseError(
                f"The hub refuses {name} ({status}): the token is missing, expired or may not read it. "
                "Renew it with `hf auth login` or HF_TOKEN."
            ) from error
        raise BaseError(f"The hub failed on {name} ({error}); try again later.") from error
    except TransportError as error:  # what the transport raises: no route, no name, timeouts
        raise _unreachable(name) from error
    except OSError as error:
        raise BaseError(f"{name} cannot be stored in the hub's cache ({error}); HF_HOME moves it.") from error
    except ValueError as error:
        raise BaseError(f"{name}: config.json is no JSON ({error}).") from error


def _unreachable(name: str) -> BaseError:
    return BaseError(
        f"{name} is not in the hub's cache on this machine and the hub cannot be reached: check the network "
        "(or HF_HUB_OFFLINE), give `base:` a folder, or use the packaged gemma-3-270m."
    )
