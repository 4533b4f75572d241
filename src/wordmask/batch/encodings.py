"""Passes of the network that are kept on disk, for other words, formats and methods later."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.files import make_folder, shown, write_atomically
from wordmask.segmenter import Segmenter
from wordmask.towers.clip import Need, Trace


class KeptTower:
    """A tower that keeps the token states of its passes in a folder; else the same as the tower.

    A file holds the states of one picture (or window), (T, D) float16 each. Its name is a hash of
    the pixels, the weights and all settings of the pass, so that a pass of others is never taken.
    States are rounded before they are used for the first time too: results do not depend on what
    was kept already. Methods that read the same states share them, whatever they do in the last
    block.

    Attributes:
        passes, kept: pictures (or windows) that went through the network, and that were read.
    """

    def __init__(self, tower: Any, folder: Path, weights: str):
        self._tower = tower
        self._folder = folder
        about = [weights, str(tower.dtype), tower.activation, tower.norm_eps]
        self._about = json.dumps(about)
        self.passes = self.kept = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tower, name)

    def trace(self, pixels: Tensor, need: Need, position: str = "bicubic_offset") -> Trace:
        """See `ClipTower.trace`."""
        wanted = need.sources(self._tower.depth)
        files = [self._file(one, position) for one in pixels]
        states = [_load(file) for file in files]
        missing = [i for i, one in enumerate(states) if not wanted <= one.keys()]
        if missing:
            trace = self._tower.trace(pixels[missing], Need.of(wanted), position)
            for j, i in enumerate(missing):
                states[i] |= {n: _half(trace.states[n][j]) for n in wanted}
                _save(files[i], states[i])
        self.passes += len(missing)
        self.kept += len(files) - len(missing)
        device, dtype, patch = self._tower.device, self._tower.dtype, self._tower.patch
        joined = {n: torch.stack([one[n].to(device, dtype) for one in states]) for n in wanted}
        grid = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        return self._tower.retrace(joined, grid, need)

    def _file(self, pixels: Tensor, position: str) -> Path:
        digest = hashlib.blake2b(
            f"{self._about} {position} {pixels.shape}".encode(), digest_size=16
        )
        digest.update(pixels.float().contiguous().cpu().numpy().data)
        name = digest.hexdigest()
        return self._folder / name[:2] / f"{name}.safetensors"


def keep_passes(segmenter: Segmenter, folder: Path) -> Segmenter:
    """A segmenter that keeps the passes of its CLIP in a folder, see `KeptTower`.

    Raises:
        WordmaskError: its method changes the pass itself, so that no other could share it.
    """
    try:
        wanted = segmenter.method.need(segmenter.tower.depth).sources(segmenter.tower.depth)
    except TypeError:
        wanted = frozenset()
    if not wanted:
        raise WordmaskError(
            f"{segmenter.method.name} changes the pass itself, so none can be kept; leave "
            "keep_encodings out, or choose another method"
        )
    make_folder(folder)
    kept = copy.copy(segmenter)
    kept.tower = KeptTower(kept.tower, folder, segmenter.weights())  # type: ignore[assignment]
    return kept


def _half(x: Tensor) -> Tensor:
    half = x.half().cpu()
    return half if torch.isfinite(half).all() else x.float().cpu()


def _load(file: Path) -> dict[int, Tensor]:
    if not file.is_file():
        return {}
    try:
        return {int(name): state for name, state in load_file(file).items()}
    except (SafetensorError, OSError, ValueError):
        return {}  # made again


def _save(file: Path, states: dict[int, Tensor]) -> None:
    content = save({str(n): state.contiguous() for n, state in states.items()})
    try:
        make_folder(file.parent)
        write_atomically(file, lambda stream: stream.write(content))
    except WordmaskError as error:
        raise WordmaskError(f"cannot keep encodings in {shown(file.parent)}: {error}") from error
