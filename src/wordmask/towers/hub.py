"""Loading models from a hub id, a local folder or a Python file, offline if possible.

Weights come from safetensors if there are any; a pickled checkpoint is read with `weights_only`,
and remote code is never trusted. Only code given as `FILE.py:FUNCTION` is run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from wordmask.errors import WordmaskError, unknown
from wordmask.towers.clip import CLIP_MEAN, CLIP_STD
from wordmask.user_code import describe_error, is_file, load_object

BUILT_IN = "wordmask"  # names wordmask/... are networks inside the package
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
FILES = ("config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json")
Loaded = TypeVar("Loaded")


def build_model(text: str) -> tuple[Any, Any]:
    """The model that a function in a Python file returns, and its tokenizer or None.

    Args:
        text: `FILE.py:FUNCTION`; the function takes no argument and returns a model, or a pair
            (model, tokenizer). A diffusion pipeline is a model here.

    Raises:
        WordmaskError: no such file or function, an error in it, or it returns something else.
    """
    function = load_object(text)
    if not callable(function):
        raise WordmaskError(f"{text} is not a function; give one without arguments")
    try:
        built = function()
    except Exception as error:
        raise WordmaskError(f"{text} failed: {describe_error(error)}") from error
    model, tokenizer = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if isinstance(model, nn.Module):
        model = model.eval()
    elif not hasattr(model, "unet"):
        raise WordmaskError(
            f"{text} returned {type(model).__name__}; return a model, or (model, tokenizer)"
        )
    return model, tokenizer


def read_source(source: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The model that `FILE.py:FUNCTION` returns, moved to `device`; any other source as it is."""
    if not isinstance(source, (str, os.PathLike)) or not is_file(os.fspath(source)):
        return source
    return build_model(os.fspath(source))[0].to(device, dtype)


def check_complete(missing: Iterable[str], source: str, what: str) -> None:
    """Refuse a checkpoint without all tensors of its model.

    Args:
        missing: names of missing tensors.
        source: the id or folder of the checkpoint.
        what: the model that it is a checkpoint of.

    Raises:
        WordmaskError: a tensor is missing.
    """
    names = sorted(missing)
    if names:
        raise WordmaskError(
            f"the weights of {source} lack {len(names)} tensors ({names[0]}, ...); the checkpoint "
            f"is not a complete {what}"
        )


def load_from(
    source: str,
    load: Callable[[str, dict[str, Any]], Loaded],
    *,
    kind: str = "the model",
    index: str = "config.json",
    files: Sequence[str] = FILES,
    weights: Sequence[str] = WEIGHTS,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Loaded:
    """Load from a hub id (its cache first), a local folder or a name `wordmask/...`.

    Args:
        source: a hub id may have a branch, tag or commit: `owner/name@revision`.
        load: takes a folder or hub id, and `cache_dir`, `local_files_only` and (for a hub id)
            `revision` for the readers of transformers and the hub; its `WordmaskError`s reach the
            caller, any other error means that files are missing or broken.
        kind: the name of the model in messages.
        index: the file that every folder must have.
        files: the files of a hub repository, listed in messages if missing.
        weights: a folder must have one of these; empty if `load` checks that itself.
        cache_dir, local_files_only: as for `load_clip`.

    Raises:
        WordmaskError: no such folder or files, the hub cannot be reached.
    """
    name, folder = source, Path(source).expanduser()
    where: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": False}
    if name.startswith(BUILT_IN + "/"):
        folder = _built_in(name)
    if folder.is_dir():
        name = str(folder)
        if not (folder / index).is_file():
            raise WordmaskError(f"the folder {name} has no {index}; give a model folder")
        if weights and not any((folder / w).is_file() for w in weights):
            raise WordmaskError(f"the folder {name} has no weights; expected {weights[0]}")
    else:
        name, at, revision = source.partition("@")
        if (at and not revision) or name.count("/") > 1:
            name = ""
        if folder.exists() or not name or name.startswith((".", "/", "~")):
            raise WordmaskError(f"got {source!r} as {kind}; give a hub id or an existing folder")
        where["revision"] = revision or None
    with _quiet():
        try:
            return load(name, where | {"local_files_only": True})
        except WordmaskError:
            raise
        except Exception as error:  # broken checkpoints raise many kinds of errors
            if folder.is_dir():
                first = (str(error).splitlines() or [type(error).__name__])[0]
                raise WordmaskError(f"cannot load {kind} in {name}: {first}") from None
            if local_files_only:
                raise _not_cached(name, files, where, "downloads are off", kind) from None
            return _download(name, load, kind, files, where)


def _built_in(name: str) -> Path:
    """The folder of a network that ships with the package, by its name `wordmask/...`."""
    home = Path(__file__).parents[1] / "networks"
    indices = [*home.glob("*/config.json"), *home.glob("*/model_index.json")]
    known = {f"{BUILT_IN}/{p.parent.name}": p.parent for p in indices}
    if name not in known:
        raise unknown("built-in network", name, known)
    return known[name]


def _download(
    name: str,
    load: Callable[[str, dict[str, Any]], Loaded],
    kind: str,
    files: Sequence[str],
    where: dict[str, Any],
) -> Loaded:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    revision = where["revision"]
    try:
        # fails at once if there is no network, while downloads would retry for long
        HfApi().model_info(name, revision=revision, timeout=10)
        return load(name, where)
    except WordmaskError:
        raise
    except HFValidationError:
        raise WordmaskError(f"got {name!r} as {kind}; a hub id has the form owner/name") from None
    except RepositoryNotFoundError:
        raise WordmaskError(
            f"the hub has no model {name!r}, or it is private; check the id, or log in with "
            "`hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise WordmaskError(
            f"the hub's model {name!r} has no revision {revision!r}; give a branch, a tag or a "
            "commit after the @"
        ) from None
    except Exception as error:
        why = f"the download failed with {type(error).__name__}"
        raise _not_cached(name, files, where, why, kind) from None


def named(name: str, where: Mapping[str, Any]) -> str:
    """A hub id or folder with its revision, if it has one: `owner/name@revision`."""
    return f"{name}@{where['revision']}" if where.get("revision") else name


def read_normalisation(
    name: str,
    where: dict[str, Any],
    default: tuple[tuple[float, ...], tuple[float, ...]] = (CLIP_MEAN, CLIP_STD),
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the checkpoint's own preprocessor, else `default`.

    where: as passed to `load` of `load_from`.
    """
    from transformers.utils import cached_file

    for filename in ("preprocessor_config.json", "processor_config.json"):
        try:
            path = cached_file(
                name,
                filename,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **where,
            )
            if path is None:
                continue
            settings = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        settings = settings.get("image_processor", settings)
        if "image_mean" in settings and "image_std" in settings:
            return tuple(settings["image_mean"]), tuple(settings["image_std"])
    return default


def _not_cached(
    name: str, files: Sequence[str], where: dict[str, Any], why: str, kind: str
) -> WordmaskError:
    from huggingface_hub import try_to_load_from_cache

    cache, revision = where["cache_dir"], where["revision"]
    found = [try_to_load_from_cache(name, f, cache_dir=cache, revision=revision) for f in files]
    missing = [f for f, path in zip(files, found, strict=True) if not isinstance(path, str)]
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    return WordmaskError(
        f"cannot load {named(name, where)!r}: {', '.join(missing) or 'a file'} not in the cache, "
        f"and {why}; run `{command}` with a network, or give a local folder with these files as "
        f"{kind}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide messages and progress bars of transformers while loading."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device by name; None takes a GPU if there is one.

    Raises:
        WordmaskError: a device that does not exist here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen).cpu()  # "meta" has no values to copy
    # torch raises each of these, by the kind of device that is missing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise WordmaskError(f"got device {device!r}, which is not usable here: {first}") from None
    return chosen


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype by name; None is float32 on a CPU and float16 on a GPU.

    Raises:
        WordmaskError: anything but float32, float16 and bfloat16.
    """
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    found = known.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if found not in known.values():
        raise WordmaskError(f"got dtype {dtype!r}; choose from: {', '.join(known)}")
    assert isinstance(found, torch.dtype)
    return found
