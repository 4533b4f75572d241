"""From pixels to scores: windows, the method's forward pass, refiners, and memory use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.devices import check_finite
from wordmask.encoding import DenseFeatures, Encoding
from wordmask.errors import WordmaskError
from wordmask.methods.base import Method, Towers
from wordmask.progress import stage, steps
from wordmask.refiners.base import Refiner, RefinerInput, WordScores, WordStep
from wordmask.region_maps import nearest, region_map
from wordmask.scoring import Rule
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import Need, Trace
from wordmask.towers.stitched import StitchedTower
from wordmask.windows import ScoreMap, Window

BATCH = 8  # pictures or windows in one forward pass on a GPU
CPU_BATCH = 1  # on a CPU one at a time: as fast, with a fraction of the memory


class Recorder:
    """A tower that records what a step on words needs in the method's own pass; else the same.

    Methods that never pass their pixels on as they are, or that sum the attention of other blocks,
    record nothing.
    """

    def __init__(self, tower: Any, need: Need):
        self._tower = tower
        self._need = need
        self._seen: tuple[Tensor, Trace] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tower, name)

    def trace(self, pixels: Tensor, need: Need, position: str = "bicubic_offset") -> Trace:
        """See `ClipTower.trace`."""
        try:
            joined = need | self._need
        except WordmaskError:  # the method sums the attention of other blocks
            return self._tower.trace(pixels, need, position)
        trace: Trace = self._tower.trace(pixels, joined, position)
        self._seen = pixels, trace
        return trace

    def trace_of(self, pixels: Tensor) -> Trace | None:
        """The trace of these pixels, if there was one; forgets it."""
        seen, self._seen = self._seen, None
        return seen[1] if seen is not None and seen[0] is pixels else None


@dataclass(frozen=True)
class Pipeline:
    """One method and its refiners on loaded networks.

    Args:
        method, refiners: in the order in which refiners are applied.
        towers: the networks.
        low_memory: hold one auxiliary network at a time, and move CLIP off the GPU meanwhile.
    """

    method: Method
    towers: Towers
    refiners: tuple[Refiner, ...] = ()
    low_memory: bool = False

    @property
    def at_once(self) -> int:
        """How many pictures or windows go through the network together."""
        return CPU_BATCH if self.towers.clip.device.type == "cpu" else BATCH

    @property
    def word_steps(self) -> tuple[WordStep, ...]:
        """The refiners that change the scores of words, in their order."""
        return tuple(one for one in self.refiners if isinstance(one, WordStep) and one.active)

    @property
    def class_maps(self) -> bool:
        """Whether refiners of maps get maps of classes, of the method or of a step on words."""
        return self.method.class_maps or any(step.gives_class_maps for step in self.word_steps)

    @torch.inference_mode()
    def encode(
        self,
        pixels: Tensor,
        sizes: Sequence[tuple[int, int]],
        images: Sequence[np.ndarray] = (),
        single: bool = False,
        regions: Tensor | None = None,
        names: Sequence[str] = (),
    ) -> Encoding:
        """Encode normalised pixels (B, 3, H', W'), whole or in windows.

        sizes, images, single, names: as in `Encoding`; regions: (1, H, W), of one picture, see
        `Segmenter.encode`.
        """
        method, clip = self.method, self.towers.clip
        windows: tuple[Window, ...] = ()
        if method.windows_apart:
            windows = method.place_windows(pixels.shape[2], pixels.shape[3], clip.patch)
        batch, pad = method.pad(cut(pixels, windows), clip.patch)
        maps: tuple[Tensor, ...] = () if regions is None else tuple(regions)
        encoding = Encoding(
            batch, None, pixels, tuple(sizes), pad, windows, tuple(images), single, tuple(names)
        )
        source = method.region_source
        if source is not None:
            if regions is None:
                maps = tuple(self._region_map(source, encoding, i) for i in range(len(encoding)))
            inside = torch.stack([nearest(one, encoding.pixel_size) for one in maps])
            regions = pad_regions(cut(inside, windows), pad).to(clip.device)
        dense, kept = self._encode(batch, len(windows), regions)
        check_finite(dense.features, "the image features", clip.dtype)
        encoding = replace(encoding, features=dense.features, state=dense.state, regions=maps)
        for step, found in kept.items():
            for i, own in enumerate(found.split(len(windows) or 1)):
                encoding.prepared[i, step] = own
        if self.low_memory:  # refiners are prepared one after the other in `score`
            self.towers.networks.release()
        else:
            for i in range(len(encoding)):
                for refiner in self.refiners:
                    if refiner.active or refiner.decides:
                        self.prepare_refiner(encoding, i, refiner)
        return encoding

    @torch.inference_mode()
    def prepare_refiner(self, encoding: Encoding, i: int, refiner: Refiner) -> Any:
        """What a refiner needs of picture i, computed once and cached in the encoding.

        With `low_memory` nothing is cached but for steps on words and what labels are decided by.
        """
        if isinstance(refiner, WordStep):
            return self._keep(encoding, i, refiner)
        prepared = encoding.prepared.get((i, refiner))
        if prepared is None:
            with stage(refiner.name):
                prepared = refiner.prepare(self._picture(encoding, i), self.towers.networks)
            if not self.low_memory or refiner.decides:
                encoding.prepared[i, refiner] = prepared
        return prepared

    def _encode(
        self, batch: Tensor, windows: int, regions: Tensor | None
    ) -> tuple[DenseFeatures, dict[WordStep, Tensor]]:
        """The method's passes over pictures or their windows, and what steps on words keep of them.

        windows: of each picture, 0 if it is taken whole; regions: for each row of the batch.
        """
        method, towers, at_once = self.method, self.towers, self.at_once
        if method.stitch:
            stitched: Any = StitchedTower(towers.clip, method.window, method.stride, at_once)
            towers = replace(towers, clip=stitched)
        recorders: dict[WordStep, Recorder] = {}
        for step in self.word_steps:
            if step.keeps:
                recorders[step] = Recorder(towers.clip, step.need(towers.clip.depth))
                towers = replace(towers, clip=recorders[step])  # type: ignore[arg-type]
        batches = batch.split(windows or 1 if method.joint_windows else at_once)
        own = [None] * len(batches) if regions is None else regions.split(len(batches[0]))
        parts: list[DenseFeatures] = []
        kept: dict[WordStep, list[Tensor]] = {step: [] for step in recorders}
        pairs = list(zip(batches, own, strict=True))
        with stage(method.name):
            for x, inside in steps(
                "windows" if windows else "pictures", pairs, len(batch), lambda pair: len(pair[0])
            ):
                given: dict[str, Any] = {} if inside is None else {"regions": inside}
                parts.append(method.encode(towers, x, **given))
                for step, recorder in recorders.items():
                    trace = recorder.trace_of(x)
                    kept[step] += [] if trace is None else [step.keep(trace)]
        whole = {k: torch.cat(v) for k, v in kept.items() if len(v) == len(batches)}
        return DenseFeatures.join(parts), whole

    def _passes(self, encoding: Encoding) -> Tensor:
        """Pixels of an encoding as passes see them, the windows of a picture side by side."""
        return self.method.pad(cut(encoding.pixels, encoding.windows), self.towers.clip.patch)[0]

    def _keep(self, encoding: Encoding, i: int, step: WordStep) -> Tensor | None:
        """What a step on words needs of a pass over picture i, which it may get of its own."""
        if not step.keeps:
            return None
        need = step.need(self.towers.clip.depth)
        if (i, step) not in encoding.prepared:
            batch = self._passes(replace(encoding, pixels=encoding.pixels[i : i + 1]))
            with stage(step.name):
                found = [
                    step.keep(self.towers.clip.trace(x, need, self.method.position))
                    for x in batch.split(self.at_once)
                ]
            encoding.prepared[i, step] = torch.cat(found)
        kept: Tensor = encoding.prepared[i, step]
        return kept

    def _picture(self, encoding: Encoding, i: int) -> RefinerInput:
        """Picture i of an encoding as refiners take it."""
        pixels = encoding.pixels[i].to(self.towers.networks.device)
        if encoding.images:
            image = torch.from_numpy(encoding.images[i]).to(pixels).permute(2, 0, 1) / 255
        else:
            image = self.method.unnormalise(pixels, self.towers.clip)
        name = encoding.names[i] if encoding.names else ""
        return RefinerInput(image, pixels, name, encoding.sizes[i])

    def _region_map(self, source: str, encoding: Encoding, i: int) -> Tensor:
        """The region map of picture i."""
        picture = self._picture(encoding, i)
        return region_map(
            source, picture.image, self.towers.networks, name=picture.name, size=picture.size
        )

    def rule(self, encoding: Encoding, i: int) -> Rule:
        """How scores of picture i of an encoding become labels."""
        rule = self.method.rule(encoding, i)
        for refiner in self.refiners:
            if isinstance(refiner, WordStep):
                rule = refiner.rule(None, rule) if refiner.active else rule
            elif refiner.decides:
                rule = refiner.rule(self.prepare_refiner(encoding, i, refiner), rule)
        return rule

    def score(
        self, encodings: Sequence[Encoding], texts: Sequence[TextQueries]
    ) -> Iterator[tuple[Encoding, int, ScoreMap, ScoreMap]]:
        """Score the pictures of several encodings, each with its texts, one after the other.

        With `low_memory` one network is held at a time: every refiner processes all pictures, then
        its network is freed.

        Yields:
            The encoding, the index of the picture in it, and its maps before and after refiners.
        """
        pictures = [(e, i) for e in encodings for i in range(len(e))]
        with torch.inference_mode(), stage(self.method.name):
            coarse = [
                maps
                for e, queries in zip(encodings, texts, strict=True)
                for maps in self._maps(e, queries)
            ]
        if not self.low_memory:
            for (encoding, i), before in zip(pictures, coarse, strict=True):
                yield encoding, i, before, self._refine(encoding, i, before, self.refiners)
            return
        self.towers.networks.release()  # what the method's scores used
        fine = coarse
        with self._parked():
            for refiner in self.refiners:
                if refiner.decides:
                    for encoding, i in pictures:
                        self.prepare_refiner(encoding, i, refiner)
                fine = [
                    self._refine(encoding, i, maps, [refiner])
                    for (encoding, i), maps in steps(
                        "pictures", list(zip(pictures, fine, strict=True))
                    )
                ]
                self.towers.networks.release(refiner.network)
        for (encoding, i), before, after in zip(pictures, coarse, fine, strict=True):
            yield encoding, i, before, after

    def _maps(self, encoding: Encoding, texts: TextQueries) -> list[ScoreMap]:
        """The score map of each picture of an encoding, before refiners of maps."""
        maps = encoding.score_maps(self._scores(encoding, texts))
        if self.class_maps and not self.method.class_maps:
            return maps  # no longer the method's
        return self.method.whole_maps(encoding, maps, texts)

    def _scores(self, encoding: Encoding, texts: TextQueries) -> Tensor:
        """The method's scores of all pictures of an encoding, after the steps on words."""
        each = encoding.split() if self.word_steps else [encoding]
        return torch.cat([self._rescore(one, texts, self.word_steps) for one in each])

    def _rescore(
        self, encoding: Encoding, texts: TextQueries, word_steps: Sequence[WordStep]
    ) -> Tensor:
        """The method's scores after these steps on words, which take one picture."""
        if not word_steps:
            scores = self.method.scores(self.towers, encoding, texts)
            check_finite(scores, f"the scores of {self.method.name}", self.towers.clip.dtype)
            return scores
        *before, step = word_steps
        given = WordScores(
            self._rescore(encoding, texts, before),
            texts,
            encoding.features,
            self._passes(encoding),
            self._keep(encoding, 0, step),
            self.towers.clip,
            lambda others: self._rescore(encoding, others, before),
        )
        with stage(step.name):
            scores = step.rescore(given)
        check_finite(scores, f"the scores after {step.name}", self.towers.clip.dtype)
        return scores

    @torch.inference_mode()
    def _refine(
        self, encoding: Encoding, i: int, scores: ScoreMap, refiners: Sequence[Refiner]
    ) -> ScoreMap:
        """The score map of picture i after refiners."""
        size = encoding.pixel_size
        for refiner in refiners:
            if isinstance(refiner, WordStep) or not refiner.active:
                continue
            prepared = self.prepare_refiner(encoding, i, refiner)
            grid = refiner.grid(prepared)
            if grid is None and not scores.direct:  # from windows and pad to patches alone
                grid = encoding.patches(self.towers.clip.patch)
            maps = scores.tiles[0].scores if grid is None else scores.rows(0, grid[0], grid)
            with stage(refiner.name):
                maps = self._refined(refiner, prepared, maps)
            check_finite(maps, f"the maps refined by {refiner.name}", self.towers.networks.dtype)
            scores = ScoreMap.whole(maps, size)
        return scores

    def _refined(self, refiner: Refiner, prepared: Any, maps: Tensor) -> Tensor:
        """Maps (R, h, w) after a refiner; one that takes probabilities gets and gives them.

        Of the probabilities p that it gives, the scores are log(p) / scale, of which they are the
        softmax again, so that every rule and later refiner takes them as it takes cosines.
        """
        if self.class_maps or not refiner.of_probabilities:
            return refiner.refine(prepared, maps)
        scale = self.method.logit_scale
        refined = refiner.refine(prepared, torch.softmax(scale * maps, dim=0))
        return refined.clamp_min(torch.finfo(refined.dtype).tiny).log() / scale

    @contextmanager
    def _parked(self) -> Iterator[None]:
        """Move CLIP to the CPU while refiners run."""
        clip = self.towers.clip
        place = clip.device
        if not self.refiners or place.type == "cpu":
            yield
            return
        clip.model.to("cpu")
        try:
            yield
        finally:
            clip.model.to(place)


def cut(x: Tensor, windows: Sequence[Window]) -> Tensor:
    """The windows of pictures (B, ..., H, W), side by side: (B * windows, ..., h, w)."""
    if not windows:
        return x
    crops = [x[..., y : y + h, left : left + w] for y, left, h, w in windows]
    return torch.stack(crops, dim=1).flatten(0, 1)


def pad_regions(regions: Tensor, pad: tuple[int, int, int, int]) -> Tensor:
    """Region maps (B, H, W) with the pad at (top, left, bottom, right) as a region of its own."""
    top, left, bottom, right = pad
    if not any(pad):
        return regions
    return F.pad(regions, (left, right, top, bottom), value=int(regions.max()) + 1)
