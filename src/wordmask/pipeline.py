"""From pixels to scores: windows, the method's forward pass, refiners, and memory use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wordmask.devices import check_finite
from wordmask.encoding import DenseFeatures, Encoding
from wordmask.methods.base import Method, Towers
from wordmask.progress import stage, steps
from wordmask.refiners.base import Refiner, RefinerInput
from wordmask.text_queries import TextQueries
from wordmask.windows import ScoreMap

BATCH = 8  # pictures or windows in one forward pass on a GPU
CPU_BATCH = 1  # on a CPU one at a time: as fast, with a fraction of the memory


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

    @torch.inference_mode()
    def encode(
        self,
        pixels: Tensor,
        sizes: Sequence[tuple[int, int]],
        images: Sequence[np.ndarray] = (),
        single: bool = False,
        regions: Tensor | None = None,
    ) -> Encoding:
        """Encode normalised pixels (B, 3, H', W'), whole or in windows.

        sizes, images, single: as in `Encoding`; regions: (1, H, W), of one picture, see
        `Segmenter.encode`.
        """
        windows = self.method.place_windows(pixels.shape[2], pixels.shape[3])
        batch = pixels
        if windows:
            crops = [pixels[..., y : y + h, x : x + w] for y, x, h, w in windows]
            batch = torch.stack(crops, dim=1).flatten(0, 1)  # windows of a picture side by side
        batch, pad = self.method.pad(batch, self.towers.clip.patch)
        given = {} if regions is None else {"regions": regions}
        with stage(self.method.name):
            batches = steps(
                "windows" if windows else "pictures", batch.split(self.at_once), len(batch), len
            )
            parts = [self.method.encode(self.towers, x, **given) for x in batches]
        dense = DenseFeatures.join(parts)
        check_finite(dense.features, "the image features", self.towers.clip.dtype)
        encoding = Encoding(
            dense.features, dense.state, pixels, tuple(sizes), pad, windows, tuple(images), single
        )
        if self.low_memory:  # refiners are prepared one after the other in `score`
            self.towers.networks.release()
        else:
            for i in range(len(encoding)):
                for refiner in self.refiners:
                    if refiner.active:
                        self.prepare_refiner(encoding, i, refiner)
        return encoding

    @torch.inference_mode()
    def prepare_refiner(self, encoding: Encoding, i: int, refiner: Refiner) -> Any:
        """What a refiner needs of picture i, computed once and cached in the encoding.

        With `low_memory` nothing is cached.
        """
        prepared = encoding.prepared.get((i, refiner))
        if prepared is None:
            networks = self.towers.networks
            pixels = encoding.pixels[i].to(networks.device)
            if encoding.images:
                image = torch.from_numpy(encoding.images[i]).to(pixels).permute(2, 0, 1) / 255
            else:
                image = self.method.unnormalise(pixels, self.towers.clip)
            with stage(refiner.name):
                prepared = refiner.prepare(RefinerInput(image, pixels), networks)
            if not self.low_memory:
                encoding.prepared[i, refiner] = prepared
        return prepared

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
                for maps in self.method.whole_maps(
                    e, e.score_maps(self._scores(e, queries)), queries
                )
            ]
        if not self.low_memory:
            for (encoding, i), before in zip(pictures, coarse, strict=True):
                yield encoding, i, before, self._refine(encoding, i, before, self.refiners)
            return
        self.towers.networks.release()  # what the method's scores used
        fine = coarse
        with self._parked():
            for refiner in self.refiners:
                fine = [
                    self._refine(encoding, i, maps, [refiner])
                    for (encoding, i), maps in steps(
                        "pictures", list(zip(pictures, fine, strict=True))
                    )
                ]
                self.towers.networks.release(refiner.network)
        for (encoding, i), before, after in zip(pictures, coarse, fine, strict=True):
            yield encoding, i, before, after

    def _scores(self, encoding: Encoding, texts: TextQueries) -> Tensor:
        """The method's scores of all pictures of an encoding."""
        scores = self.method.scores(self.towers, encoding, texts)
        check_finite(scores, f"the scores of {self.method.name}", self.towers.clip.dtype)
        return scores

    @torch.inference_mode()
    def _refine(
        self, encoding: Encoding, i: int, scores: ScoreMap, refiners: Sequence[Refiner]
    ) -> ScoreMap:
        """The score map of picture i after refiners."""
        size = encoding.pixel_size
        for refiner in refiners:
            if not refiner.active:
                continue
            prepared = self.prepare_refiner(encoding, i, refiner)
            grid = refiner.grid(prepared)
            if grid is None and not scores.direct:  # from windows and pad to patches alone
                grid = encoding.patches(self.towers.clip.patch)
            maps = scores.tiles[0].scores if grid is None else scores.rows(0, grid[0], grid)
            with stage(refiner.name):
                maps = refiner.refine(prepared, maps)
            check_finite(maps, f"the maps refined by {refiner.name}", self.towers.networks.dtype)
            scores = ScoreMap.whole(maps, size)
        return scores

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
