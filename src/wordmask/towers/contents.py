"""Whether the files of a network hold what their names say, before a library reads them."""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordmask.towers.fetch import Files, find_weights

POINTER = b"version https://git-lfs"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a checkpoint of torch before 1.6
LARGE = ("tokenizer.json", "vocab.json")  # left to the tokenizer's own reader


class ContentError(Exception):
    """A file that holds something else than its name says."""


def check_contents(folder: Path, files: Files, index: Sequence[str], half: bool) -> None:
    """Refuse files that are pointers, cut short or of another kind; takes milliseconds.

    Args:
        folder: of the network, with all required files.
        files, index: that it needs, see `Files` and `load_from`.
        half: weights in half precision are preferred.

    Raises:
        ContentError: names the file and says what it holds.
    """
    groups = files.required + files.expected
    small = {name for group in groups for option in group for name in option}
    for name in sorted(small | set(files.extra) | set(index)):
        path = folder / name
        if path.is_file():
            _refuse_pointer(path, name)
            if path.suffix == ".json" and path.name not in LARGE:
                read_settings(path, name)
    for names in files.weights:
        form = find_weights(folder, names, half)
        for name in form.parts(folder) if form else ():
            _check_weights(folder / name, name)


def read_settings(path: Path, name: str = "") -> dict[str, Any]:
    """The JSON object in a file, called `name` in messages.

    Raises:
        ContentError: it holds anything else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if text.strip() else "nothing"
    except (OSError, ValueError) as error:
        raise ContentError(f"{name or path.name} is no JSON: {first_line(error)}") from None
    if not isinstance(settings, dict):
        held = settings if settings == "nothing" else json.dumps(settings)[:60]
        raise ContentError(f"{name or path.name} holds {held}; it must hold a JSON object")
    return settings


def read_triple(path: Path, settings: dict[str, Any], key: str) -> tuple[float, ...]:
    """Three finite numbers of a file's settings; those of a standard deviation are positive.

    Raises:
        ContentError: another value.
    """
    value = settings[key]
    numbers = isinstance(value, list) and all(type(x) in (int, float) for x in value)
    low = 0 if key.endswith("std") else -math.inf
    if not numbers or len(value) != 3 or not all(low < x < math.inf for x in value):
        kind = "positive numbers" if key.endswith("std") else "numbers"
        raise ContentError(
            f"{path.name} has {key}={json.dumps(value)[:60]}; it must be three finite {kind}"
        )
    return tuple(value)


def _check_weights(path: Path, name: str) -> None:
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".json":
        read_settings(path, name)
        return
    _refuse_pointer(path, name)
    why = f"it has {path.stat().st_size} bytes"
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):  # compares the header with the size
                return
        except (SafetensorError, OSError) as error:
            why += f" ({first_line(error)})"
    elif zipfile.is_zipfile(path) or _start(path).startswith(LEGACY):
        return
    raise ContentError(f"{name} is cut short or damaged, {why}")


def _refuse_pointer(path: Path, name: str) -> None:
    if _start(path).startswith(POINTER):
        raise ContentError(
            f"{name} is a git-LFS pointer and not the file itself (`git lfs pull` gets it)"
        )


def _start(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(32)


def first_line(error: Exception) -> str:
    """What a library says of a file, in one line."""
    if isinstance(error, pickle.UnpicklingError):  # torch would advise to run what is in it
        return "the checkpoint is damaged, or holds code, which is not run; give safetensors"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
