"""Hashes of weights, which identify networks whatever their names.

Reading all weights takes about a second a gigabyte, so a hash is kept: for a network in memory
until its weights change, for files until they change.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from wordmask.errors import WordmaskError
from wordmask.files import default_cache_dir, write_atomically

SAMPLES = 64  # numbers of each tensor that `mark` looks at
SETTLED = 2.0  # seconds after which a file's time stamp tells it from a later version

_hashes: WeakKeyDictionary[nn.Module, tuple[bytes, str]] = WeakKeyDictionary()
_files: WeakKeyDictionary[nn.Module, tuple[bytes, list[Any]]] = WeakKeyDictionary()


def fingerprint(*models: nn.Module) -> str:
    """A hash of all weights: names, types, shapes and bytes.

    It is computed again when the weights change, see `mark`. That of networks for which
    `loaded_from` was called is kept in the user's cache until their files change.
    """
    state = mark(*models)
    kept = _hashes.get(models[0])
    if kept is None or kept[0] != state:
        value = _of_files(models)
        if value is None:
            digest = hashlib.blake2b(digest_size=12)
            for model in models:
                hash_weights(digest, model)
            value = digest.hexdigest()
            _keep(models, value)
        _hashes[models[0]] = kept = state, value
    return kept[1]


def hash_weights(digest: Any, model: nn.Module) -> None:
    """Update a digest of hashlib with all weights of a model."""
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def mark(*models: nn.Module) -> bytes:
    """What changes with the weights, in milliseconds; moving them to a device does not change it.

    It covers which tensors there are, torch's counts of the changes made to them, and 64 numbers of
    each, evenly spaced. So it sees every change that torch counts (training, `load_state_dict`,
    operations in place), and of those it does not count (through `.data` or numpy) those that reach
    one of these numbers.
    """
    tensors = [t for model in models for t in (*model.parameters(), *model.buffers())]
    counts = [0 if t.is_inference() else t._version for t in tensors]
    about = [(id(t), n, t.dtype, t.shape) for t, n in zip(tensors, counts, strict=True)]
    digest = hashlib.blake2b(repr(about).encode(), digest_size=20)
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        flat = tensor.detach().flatten()
        sample = flat[:: max(len(flat) // SAMPLES, 1)].float()
        by_device.setdefault(tensor.device, []).append(sample)
    for samples in by_device.values():
        digest.update(torch.cat(samples).cpu().numpy().tobytes())
    return digest.digest()


def loaded_from(model: nn.Module, folder: Path) -> None:
    """Note that a model holds the weights in `folder`, unchanged but for its type and device."""
    dtype = str(next(model.parameters()).dtype)
    _files[model] = mark(model), [type(model).__name__, dtype, *_stamps(folder)]


def _stamps(folder: Path) -> Iterable[Any]:
    """Path, size, time stamps and number of each file with weights or settings in a folder."""
    for path in sorted(folder.resolve().iterdir()):
        if path.suffix in (".safetensors", ".bin", ".json"):
            at = path.stat()
            yield [str(path), at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino]


def _kept_at(models: tuple[nn.Module, ...]) -> Path | None:
    """The file for the hash of models that hold their files' weights unchanged; else None."""
    parts = []
    for model in models:
        state, about = _files.get(model, (b"", []))
        if state != mark(model):
            return None
        parts.append(about)
    libraries = {}  # they name the tensors
    for name in ("torch", "transformers", "diffusers"):
        with suppress(PackageNotFoundError):
            libraries[name] = version(name)
    key = json.dumps([parts, libraries]).encode()
    name = hashlib.blake2b(key, digest_size=20).hexdigest()
    return default_cache_dir() / f"weights-{name}.txt"


def _of_files(models: tuple[nn.Module, ...]) -> str | None:
    path = _kept_at(models)
    with suppress(OSError, ValueError):
        if path is not None and len(bytes.fromhex(value := path.read_text("ascii"))) == 12:
            return value
    return None


def _keep(models: tuple[nn.Module, ...], value: str) -> None:
    path = _kept_at(models)
    if path is None:
        return
    times = [stamp for model in models for _, _, *stamp in _files[model][1][2:]]
    if max(max(changed[:2]) for changed in times) / 1e9 > time.time() - SETTLED:
        return  # a change in the same tick of the file system's clock would not show
    with suppress(OSError, WordmaskError):  # then it is computed again in the next process
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(value.encode()))
