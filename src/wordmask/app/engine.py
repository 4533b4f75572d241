"""Networks, and what is kept between runs: pictures, encodings and results, in bounded memory."""

from __future__ import annotations

import copy
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image

from wordmask import explain
from wordmask.app.job import Job, Settings
from wordmask.doctor import cached_clips
from wordmask.errors import ImageError
from wordmask.explain import Point
from wordmask.images import read_image
from wordmask.progress import stage
from wordmask.scoring import Scored
from wordmask.segmentation import Segmentation
from wordmask.segmenter import Segmenter
from wordmask.towers.auxiliary import AuxiliaryModels
from wordmask.towers.built_in import CLIP as BUILT_IN
from wordmask.towers.built_in import own_networks

Value = TypeVar("Value")

MAX_PIXELS = 50_000_000  # of a picture on the page
KEPT_BYTES = 2**30  # of pictures, encodings and results, over all visitors
MOST_MODELS = 2  # CLIPs held at once


class Kept:
    """Values by key in bounded memory: those that were used longest ago go first.

    Args:
        limit: bytes of the arrays and tensors in the values; the newest value stays in any case.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made if it is not here."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return cast(Value, self._values[key])
        value = make()
        with self._lock:
            self._values[key] = value
            while self.bytes > self.limit and len(self._values) > 1:
                self._values.popitem(last=False)
        return value

    @property
    def bytes(self) -> int:
        """Bytes of all arrays and tensors, each counted once."""
        return _bytes(list(self._values.values()), set())


def _bytes(value: Any, seen: set[int]) -> int:
    if isinstance(value, torch.nn.Module) or id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return storage.nbytes()
    if isinstance(value, np.ndarray):
        return value.nbytes if value.base is None else _bytes(value.base, seen)
    if isinstance(value, Mapping):
        value = list(value.values())
    elif hasattr(value, "__dict__"):
        value = list(vars(value).values())
    if isinstance(value, (list, tuple)):
        return sum(_bytes(one, seen) for one in value)
    return 0


class Engine:
    """Runs the jobs of all visitors, one at a time, and keeps what the next one can use again.

    Args:
        model: the CLIP that the page begins with; None: one in the hub's cache, else the built-in.
        networks: sources of auxiliary models by kind.
        device, dtype, offline: as for `Segmenter.from_pretrained` (offline: `local_files_only`).
        local: whether every visitor is the owner of this machine, and may name files of it and
            networks to load.
        kept: bytes of pictures, encodings and results that are kept.
    """

    def __init__(
        self,
        model: str | None = None,
        networks: Mapping[str, str] | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        offline: bool = False,
        local: bool = True,
        kept: int = KEPT_BYTES,
    ):
        self.cached = cached_clips()
        self.model = model or next(iter(self.cached), BUILT_IN)
        self.sources = dict(networks or {})
        self.device, self.dtype, self.offline, self.local = device, dtype, offline, local
        self._kept = Kept(kept)
        self._models: OrderedDict[str, Segmenter] = OrderedDict()
        self._networks: OrderedDict[Hashable, AuxiliaryModels] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def models(self) -> list[str]:
        """The CLIPs to choose from: the page's own, those in the hub's cache, the built-in."""
        return list(dict.fromkeys([self.model, *self.cached, BUILT_IN]))

    def load(self, model: str) -> Segmenter:
        """The segmenter of a CLIP, loaded if it is not yet.

        Raises:
            WordmaskError: it cannot be found, downloaded or loaded.
        """
        with self._lock:
            if model not in self._models:
                with stage(f"loading {model}"):
                    one = Segmenter.from_pretrained(
                        model,
                        device=self.device,
                        dtype=self.dtype,
                        local_files_only=self.offline,
                    )
                one.note = ""  # the page says it all the time
                self._models[model] = one
            self._models.move_to_end(model)
            while len(self._models) > MOST_MODELS:
                self._models.popitem(last=False)
            return self._models[model]

    def segmenter(self, settings: Settings) -> Segmenter:
        """The segmenter of settings, on networks that may be loaded already.

        Raises:
            WordmaskError: settings that do not fit, or that only the owner may choose.
        """
        if not self.local:
            settings.check_public(self.models)
        method, variant = settings.read_method()
        refiners = settings.read_refiners()
        one = copy.copy(self.load(settings.model))
        one.networks = self._auxiliary(one, settings)
        one.max_pixels = MAX_PIXELS
        return one.with_method(type(method), variant, method.options(), refiners)

    def _auxiliary(self, one: Segmenter, settings: Settings) -> AuxiliaryModels:
        """The auxiliary models of settings; those used last stay loaded."""
        sources = {**own_networks(settings.model), **self.sources, **dict(settings.networks)}
        key = tuple(sorted(sources.items()))
        with self._lock:
            if key not in self._networks:
                self._networks[key] = AuxiliaryModels(
                    sources,
                    device=one.tower.device,
                    dtype=one.tower.dtype,
                    local_files_only=self.offline,
                )
            self._networks.move_to_end(key)
            while len(self._networks) > MOST_MODELS:
                self._networks.popitem(last=False)
            return self._networks[key]

    # -- jobs -----------------------------------------------------------------------------------

    def picture(self, path: str) -> Picture:
        """A picture, read once.

        Raises:
            ImageError: it cannot be read, or is too large.
        """
        if not path:
            raise ImageError("there is no picture yet; choose, paste or take one")
        try:
            status = os.stat(path)
        except OSError:
            raise ImageError("the picture is no longer here; choose it again") from None
        key = ("picture", path, status.st_size, status.st_mtime_ns)
        try:
            return self._kept.get(key, lambda: Picture.of(read_image(path, max_pixels=MAX_PIXELS)))
        except ImageError as error:  # without the folder of uploads, and what pages cannot change
            text = str(error).replace(path, os.path.basename(path))
            raise ImageError(text.split(", or raise max_pixels")[0]) from None

    def draw(self, job: Job, view: str, point: Point) -> Image.Image:
        """A view of `wordmask.explain` of a job's picture at a point (x, y) in its pixels."""
        with self._lock:
            pixels, segmenter = self.picture(job.picture).pixels, self.segmenter(job.settings)
            return explain.draw(segmenter, pixels, view, job.words, job.background, [point])

    def is_encoded(self, job: Job) -> bool:
        """Whether the picture of a job is encoded under its settings already."""
        segmenter = self.segmenter(job.settings)
        return _encoding_key(self.picture(job.picture), job, segmenter) in self._kept

    def run(self, job: Job) -> Outcome:
        """The outcome of a job: kept, or from a kept encoding, or from the picture.

        Raises:
            WordmaskError: a picture, words or settings that cannot be used.
        """
        with self._lock:
            picture = self.picture(job.picture)
            key = ("outcome", picture.digest, job.words, job.background, job.settings)
            return self._kept.get(key, lambda: self._run(picture, job))

    def _run(self, picture: Picture, job: Job) -> Outcome:
        segmenter = self.segmenter(job.settings)
        texts = segmenter.encode_text(job.words, job.background)  # bad words fail before the work
        key = _encoding_key(picture, job, segmenter)
        encoding = self._kept.get(key, lambda: segmenter.encode(picture.pixels))
        scored = cast(Scored, segmenter.score(encoding, texts))
        return Outcome(scored, scored.segmentation())


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels (H, W, 3) uint8, and a hash of them."""

    pixels: np.ndarray
    digest: str

    @classmethod
    def of(cls, pixels: np.ndarray) -> Picture:
        """A picture of these pixels."""
        shape = repr(pixels.shape).encode()
        return cls(pixels, hashlib.blake2b(pixels.data, key=shape, digest_size=20).hexdigest())


@dataclass(frozen=True, eq=False)
class Outcome:
    """The scores of a job and the labels made of them."""

    scored: Scored
    result: Segmentation


def _encoding_key(picture: Picture, job: Job, segmenter: Segmenter) -> Hashable:
    networks = tuple(sorted(segmenter.networks.sources.items()))
    key = segmenter.method.encoding_key()
    return "encoding", picture.digest, job.settings.model, networks, key
