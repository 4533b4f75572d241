"""Loading models from a hub id, a local folder or a Python file, offline if possible.

Weights come from safetensors if there are any; a pickled checkpoint is read with `weights_only`,
and remote code is never trusted. Only code given as `FILE.py:FUNCTION` is run.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from wordmask.errors import WordmaskError, unknown
from wordmask.progress import steps
from wordmask.towers.built_in import PREFIX as BUILT_IN
from wordmask.towers.clip import CLIP_MEAN, CLIP_STD
from wordmask.towers.contents import (
    ContentError,
    check_contents,
    first_line,
    read_settings,
    read_triple,
)
from wordmask.towers.fetch import (
    PREPROCESSOR,
    TRANSFORMERS,
    Files,
    Repository,
    lacking,
    weight_settings,
)
from wordmask.towers.weights import loaded_from
from wordmask.user_code import describe_error, is_file, load_object

SINCE = {"tipsv2": "5.14", "radio": "5.13"}  # model types, and transformers' first version of them

Loaded = TypeVar("Loaded")
Result = TypeVar("Result")


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
        with _no_conversion():
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


def at_revision(source: Any, revision: str | None) -> Any:
    """The source with its revision, `owner/name@revision`.

    Raises:
        WordmaskError: a revision with something that has none.
    """
    if revision is None:
        return source
    text = os.fspath(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
    on_hub = isinstance(source, str) and "@" not in text and not text.startswith(BUILT_IN)
    if not revision or not on_hub or is_file(text) or Path(text).expanduser().exists():
        raise WordmaskError(
            f"got revision={revision!r} with {text!r}; give a branch, a tag or a commit, with a "
            "hub id that names none"
        )
    return f"{text}@{revision}"


def read_model(
    kind: str, folder: Path, source: str, what: str, *, device: torch.device, dtype: torch.dtype
) -> Any:
    """A network of transformers from a folder, ready for inference.

    Args:
        kind: its class in transformers.
        source, what: the id or folder, and the network, as messages name them.

    Raises:
        WordmaskError: a tensor is missing.
    """
    import transformers

    model, report = getattr(transformers, kind).from_pretrained(
        folder,
        dtype=dtype,
        trust_remote_code=False,
        output_loading_info=True,
        **weight_settings(folder, TRANSFORMERS, dtype),
    )
    check_complete(report["missing_keys"], source, what)
    model = model.eval().to(device)
    loaded_from(model, folder)
    return model


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
    load: Callable[[Path], Loaded],
    files: Files,
    *,
    kind: str = "the model",
    index: Sequence[str] = ("config.json",),
    check: Callable[[Path], Files | None] = lambda folder: None,
    half: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Loaded:
    """Load from a hub id (its cache first), a local folder or a name `wordmask/...`.

    Args:
        source: a hub id may have a branch, tag or commit: `owner/name@revision`.
        load: reads the network from a local folder that has all files; its `WordmaskError`s reach
            the caller, any other error means that files are broken.
        files: that the network needs.
        kind: the name of the model in messages.
        index: names of the file that tells the kind of a network; one must be there.
        check: called with a folder that has an index file, before anything else is fetched or read;
            refuses the network, or returns its files where they are other than `files`.
        half: take weights in half precision where there is a choice.
        cache_dir, local_files_only: as for `load_clip`.

    Raises:
        WordmaskError: no such folder or files, the hub cannot be reached.
    """
    folder = Path(source).expanduser()
    if source.startswith(BUILT_IN):
        folder = _built_in(source)
    local = folder.is_dir()
    repository = None if local else _repository(source, kind, cache_dir)
    known = {"files": files}

    def reading(at: Path, read: Callable[[], Result]) -> Result:
        try:
            return read()
        except WordmaskError:
            raise
        except Exception as error:  # broken files raise many kinds of errors
            where, again = str(at), "; fetch it again" if isinstance(error, ContentError) else ""
            if repository is not None:
                where = f"{source} ({at})"
                again = f"; `{repository.command((), '--force-download')}` fetches it again"
            raise WordmaskError(
                f"cannot load {kind} in {where}: {first_line(error)}{again}"
            ) from None

    def checked(at: Path) -> Files:
        for name in index:
            if (at / name).is_file():
                reading(at, lambda: read_settings(at / name))  # noqa: B023
        known["files"] = reading(at, lambda: check(at)) or files
        return known["files"]

    with _quiet():
        if repository is None:
            _check_folder(folder, files, index, checked)
        else:
            folder = repository.fetch(files, index, checked, half=half, offline=local_files_only)
        reading(folder, lambda: check_contents(folder, known["files"], index, half))
        return reading(folder, lambda: load(folder))


def _check_folder(
    folder: Path, files: Files, index: Sequence[str], check: Callable[[Path], Files | None]
) -> None:
    """Refuse a local folder without the files of a network."""
    if not any((folder / name).is_file() for name in index):
        raise WordmaskError(f"the folder {folder} has no {index[0]}; give a model folder")
    gaps = lacking(folder, replace(check(folder) or files, expected=()))
    if gaps:
        raise WordmaskError(
            f"the folder {folder} lacks {', '.join(gaps)}; it is not completely downloaded"
        )


def _repository(source: str, kind: str, cache_dir: str | os.PathLike[str] | None) -> Repository:
    """The repository of a hub id."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import are_progress_bars_disabled, validate_repo_id

    name, at, revision = source.partition("@")
    try:
        validate_repo_id(name)
    except HFValidationError:
        name = ""
    if Path(source).expanduser().exists() or not name or (at and not revision):
        raise WordmaskError(f"got {source!r} as {kind}; give a hub id or an existing folder")
    return Repository(name, revision or None, cache_dir, kind, not are_progress_bars_disabled())


def _built_in(name: str) -> Path:
    """The folder of a network that ships with the package, by its name `wordmask/...`."""
    home = Path(__file__).parents[1] / "networks"
    indices = [*home.glob("*/config.json"), *home.glob("*/model_index.json")]
    known = {f"{BUILT_IN}{p.parent.name}": p.parent for p in indices}
    if name not in known:
        raise unknown("built-in network", name, known)
    return known[name]


def model_type(folder: Path, source: str) -> str:
    """The kind of model in a folder, by its configuration.

    Raises:
        WordmaskError: a configuration that says nothing, a model that needs code of its own, or a
            newer transformers.
        ContentError: no configuration.
    """
    from transformers import __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    config = read_settings(folder / "config.json")
    kind = config.get("model_type")
    if kind in SINCE and kind not in CONFIG_MAPPING_NAMES:
        raise WordmaskError(
            f"the {kind!r} model of {source} needs transformers {SINCE[kind]} or newer, and "
            f'{__version__} is installed; run: pip install -U "transformers>={SINCE[kind]}"'
        )
    if "auto_map" in config and kind not in CONFIG_MAPPING_NAMES:
        raise WordmaskError(
            f"got a {kind!r} model from {source}, which needs code of its own (auto_map); wordmask "
            "runs no code of a repository, give a model that transformers has itself"
        )
    if not isinstance(kind, str) or not kind:
        raise WordmaskError(
            f"the config.json of {source} names no model_type; give a model in transformers format"
        )
    return kind


def read_normalisation(
    folder: Path,
    default: tuple[tuple[float, ...], tuple[float, ...]] = (CLIP_MEAN, CLIP_STD),
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the checkpoint's own preprocessor (0 and 1 if it has none), else `default`.

    Raises:
        ContentError: values that cannot be a mean or a std.
    """
    for filename in PREPROCESSOR:
        path = folder / filename
        if not path.is_file():
            continue
        settings = read_settings(path)
        settings = settings.get("image_processor", settings)
        if isinstance(settings, dict) and settings.get("do_normalize") is False:
            return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if isinstance(settings, dict) and {"image_mean", "image_std"} <= settings.keys():
            mean, std = (read_triple(path, settings, f"image_{x}") for x in ("mean", "std"))
            return mean, std
    return default


@contextmanager
def _no_conversion() -> Iterator[None]:
    """Keep transformers from asking the hub for a conversion, in a thread that outlives a run."""
    name = "DISABLE_SAFETENSORS_CONVERSION"
    before = os.environ.get(name)
    os.environ[name] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _count_tensors(factory: Callable[..., Any], given: tuple[Any, ...], names: Any) -> Any:
    """What transformers takes in place of its own progress bar."""
    if given and names.get("desc") == "Loading weights":
        return steps("tensors", given[0])
    return factory(*given, **names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide messages of the libraries while loading, and count the tensors that they load."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    shown, off = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    levels = logging.get_verbosity(), hub.get_verbosity()
    logging.disable_progress_bar()
    before = logging.set_tqdm_hook(_count_tensors) if hasattr(logging, "set_tqdm_hook") else None
    logging.set_verbosity_error()
    hub.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        if hasattr(logging, "set_tqdm_hook"):
            logging.set_tqdm_hook(before)
        logging.set_verbosity(levels[0])
        hub.set_verbosity(levels[1])
        if shown:
            logging.enable_progress_bar()
        if off:
            disable_progress_bars()
