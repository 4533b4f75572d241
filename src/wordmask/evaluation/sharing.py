"""Shared encodings and forward passes of a picture.

Runs that differ only in options of scores and labels (templates, scales, thresholds, background,
refiners) share one encoding. Methods that read the same pixels share one pass of the tower: their
needs are joined.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Hashable, Iterable
from typing import Any

from torch import Tensor

from wordmask.devices import synchronise
from wordmask.errors import WordmaskError
from wordmask.methods import Method
from wordmask.refiners import WordStep
from wordmask.segmenter import Segmenter
from wordmask.towers.clip import Need, Trace


def share_passes(methods: Iterable[Method], depth: int) -> list[tuple[list[Method], Need]]:
    """Group methods with the same pass, each group with its joined need.

    Methods that sum attention over different blocks are in different groups.
    """
    groups: list[tuple[Hashable, list[Method], Need]] = []
    for method in methods:
        need = _need(method, depth)
        for index, (key, members, joined) in enumerate(groups):
            if need is None or key != method.pass_key():
                continue
            try:
                groups[index] = (key, [*members, method], joined | need)
            except WordmaskError:
                continue
            break
        else:
            groups.append((method.pass_key(), [method], need or Need()))
    return [(members, need) for _, members, need in groups]


def _need(method: Method, depth: int) -> Need | None:
    """What a method needs; None for a method that does not implement `need`."""
    try:
        return method.need(depth)
    except TypeError:
        return None


class SharedTower:
    """A tower that caches the record of a pass for other methods; else the same as the tower.

    Batches are identified by their pixels, so windows are shared too.

    Args:
        tower: a CLIP tower.
        need: the joined need of all methods.

    Attributes:
        seconds: time of the passes of this picture.
    """

    def __init__(self, tower: Any, need: Need):
        self._tower = tower
        self._need = need
        self._traces: dict[tuple[Any, ...], Trace] = {}
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tower, name)

    def trace(self, pixels: Tensor, need: Need, position: str = "bicubic_offset") -> Trace:
        """See `ClipTower.trace`; records the need of all methods at once."""
        digest = hashlib.blake2b(pixels.contiguous().cpu().numpy().data, digest_size=16).digest()
        key = (position, pixels.dtype, tuple(pixels.shape), digest)
        if key not in self._traces:
            start = time.perf_counter()
            self._traces[key] = self._tower.trace(pixels, self._need | need, position)
            synchronise(self._tower.device)
            self.seconds += time.perf_counter() - start
        return self._traces[key]

    def forget(self) -> None:
        """Clear the cache, before the next picture."""
        self._traces.clear()
        self.seconds = 0.0


def share_encoders(
    users: Iterable[tuple[Hashable, Segmenter]], share: bool = True
) -> tuple[dict[Hashable, Segmenter], list[SharedTower]]:
    """Segmenters that only encode, with one pass of the network for methods of the same pixels.

    Args:
        users: those of one key share an encoding. One whose steps on words keep a part of the pass
            has a pass of its own.
        share: False: every one has a pass of its own.

    Returns:
        The encoders by key, without refiners of maps; and the towers to `forget` after each
        picture.
    """
    segmenters: dict[Hashable, Segmenter] = {}
    keeping: dict[Hashable, dict[WordStep, None]] = {}
    for key, one in users:
        segmenters.setdefault(key, one)
        steps = {step: None for step in one.pipeline.word_steps if step.keeps}
        keeping.setdefault(key, {}).update(steps)
    encoders: dict[Hashable, Segmenter] = {}
    towers: list[SharedTower] = []
    depth = next(iter(segmenters.values())).tower.depth
    for key, segmenter in segmenters.items():
        if keeping[key]:
            encoders[key] = segmenter.with_method(segmenter.method)
            encoders[key].refiners = tuple(keeping[key])
    others = {key: one for key, one in segmenters.items() if key not in encoders}
    for members, need in share_passes([one.method for one in others.values()], depth):
        sharing = {key: one for key, one in others.items() if one.method in members}
        tower = None
        if share and len(members) > 1:
            tower = SharedTower(next(iter(sharing.values())).tower, need)
            towers.append(tower)
        for key, segmenter in sharing.items():
            encoders[key] = segmenter.with_method(segmenter.method)
            if tower is not None:
                encoders[key].tower = tower  # type: ignore[assignment]
    return encoders, towers
