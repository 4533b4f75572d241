"""`Segmenter`, the main entry point: pictures and words in, labels out."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from wordmask.encoding import Encoding
from wordmask.errors import WordmaskError
from wordmask.images import DEFAULT_MAX_PIXELS, decode_reduced, read_image
from wordmask.methods import Method, read_method
from wordmask.methods.base import Towers
from wordmask.pipeline import Pipeline
from wordmask.refiners import Refiner, WordStep, check_words, read_refiners
from wordmask.region_maps import numbered
from wordmask.scoring import Scored
from wordmask.segmentation import Segmentation, Segmentations
from wordmask.text_queries import TextEncoder, TextQueries, are_features
from wordmask.towers.auxiliary import AuxiliaryModels
from wordmask.towers.built_in import note, own_networks, own_options
from wordmask.towers.clip import ClipTower
from wordmask.towers.families import load_clip
from wordmask.towers.text import TextTower
from wordmask.towers.weights import fingerprint
from wordmask.version import versions
from wordmask.vocabulary import Background, Vocabulary

Picture = str | os.PathLike[str] | PIL.Image.Image | np.ndarray
Pictures = list[Any] | tuple[Any, ...] | Tensor
Words = (
    Vocabulary
    | Sequence[str | Sequence[str]]
    | Mapping[str, str | Sequence[str]]
    | Mapping[str, Tensor]
    | Tensor
    | TextQueries
)
Ground = Background | str | Sequence[str] | Tensor | None

_told: set[str] = set()  # notes that were told already


class Prepared(NamedTuple):
    """A picture as it was read, its pixels for the network, and the size that its labels get.

    Attributes:
        image: uint8 (H, W, 3); smaller if it was decoded at a reduced size.
        pixels: (3, H', W').
        size: (H, W).
        name: its file or id, "" if it has none.
    """

    image: np.ndarray
    pixels: Tensor
    size: tuple[int, int]
    name: str = ""


class Segmenter:
    """Segments pictures by words with one CLIP and one method; its weights are never changed.

    Encode once, score many times: `encode` runs the network on a picture, `score` and
    `segmenter(encoding, words)` only compare its features with text.

    Examples:
        >>> segmenter = Segmenter.from_pretrained("openai/clip-vit-base-patch16")  # doctest: +SKIP
        >>> result = segmenter("street.jpg", ["car", "tree", "road"])  # doctest: +SKIP
        >>> result.overlay().save("overlay.png")  # doctest: +SKIP
    """

    def __init__(
        self,
        tower: ClipTower,
        text: TextTower | None,
        method: Method,
        variant: str,
        *,
        refiners: Sequence[Refiner] = (),
        networks: AuxiliaryModels | None = None,
        source: str = "in memory",
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        low_memory: bool = False,
    ):
        """Made by `from_pretrained`; the arguments are networks that are loaded already."""
        self.tower = tower
        self.text = text
        self.method = method
        self.variant = variant
        self.refiners = tuple(refiners)
        self.networks = networks or AuxiliaryModels(device=tower.device, dtype=tower.dtype)
        self.source = source
        self.max_pixels = max_pixels
        self.low_memory = low_memory
        self.note = note(source)  # told with the first picture; "" for nothing

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | nn.Module,
        method: str | type[Method] | Method = "cliper",
        variant: str | None = None,
        options: Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        tokenizer: Any = None,
        refine: str | Refiner | Iterable[Any] | None = None,
        networks: Mapping[str, str | os.PathLike[str] | nn.Module] | None = None,
        low_memory: bool = False,
        revision: str | None = None,
    ) -> Segmenter:
        """Load a CLIP and set up a method.

        Args:
            model: a hub id (`owner/name`, or `owner/name@revision`), a local folder,
                `FILE.py:FUNCTION` (a function that returns a model, or a model and its tokenizer),
                or a transformers model in memory: a `CLIPModel`, a `MetaClip2Model`, a
                `BlipForImageTextRetrieval`, a `SiglipModel`, a `Tipsv2Model`, or a
                `CLIPVisionModelWithProjection` if words are given as tensors. A model in memory is
                used as it is, through its own modules.
            method: a name, see `list_methods()`, `FILE.py:NAME`, a class, or a `Method` with its
                options.
            variant: see `wordmask methods`; None takes the method's first.
            options: options of the method by name, which override those of the variant, and what
                the model wants (`wordmask.towers.built_in`: the picture size of the built-in
                networks and of TIPSv2, say).
            device: None takes a GPU if there is one: CUDA's, else Apple's. A model in memory stays
                where it is.
            dtype: None is float16 with CUDA and float32 elsewhere. Features are always float32.
            cache_dir: where downloaded weights and text embeddings are cached; None: the hub's own
                cache, and `~/.cache/wordmask` (or $WORDMASK_CACHE) for text.
            local_files_only: never use the network.
            tokenizer: for a model in memory; else the checkpoint's own.
            refine: steps on words and refiners of maps, in order: "freecp,pamr" or a list of
                names, classes, pairs (name, options) and `Refiner`s; see `list_refiners()`.
            networks: auxiliary models of methods and refiners, loaded when first needed: by kind
                (`wordmask.towers.auxiliary.KINDS`), each given like `model`.
            low_memory: free auxiliary models as soon as they are no longer needed, and move CLIP
                off the GPU meanwhile. Give pictures as a list then: each model is loaded once.
            revision: a branch, tag or commit of `model`, as after the @ of its id.

        Raises:
            WordmaskError: unknown method, refiner, variant or option; weights that cannot be
                found or loaded.
        """
        chosen, variant = _read_method(model, method, variant, options)
        refiners = read_refiners(refine)
        check_words(chosen.name, chosen.class_maps, refiners)
        loaded = load_clip(
            model,
            device=device,
            dtype=dtype,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            tokenizer=tokenizer,
            revision=revision,
        )
        tower = loaded.tower(activation=chosen.activation, norm_eps=chosen.norm_eps)
        auxiliary = AuxiliaryModels(
            own_networks(model) | dict(networks or {}),
            device=tower.device,
            dtype=tower.dtype,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return cls(
            tower,
            loaded.text(cache_dir),
            chosen,
            variant,
            refiners=refiners,
            networks=auxiliary,
            source=loaded.source,
            low_memory=low_memory,
        )

    def with_method(
        self,
        method: str | type[Method] | Method,
        variant: str | None = None,
        options: Mapping[str, Any] | None = None,
        refine: str | Refiner | Iterable[Any] | None = None,
    ) -> Segmenter:
        """Another method and other refiners on the same networks; nothing is loaded again."""
        other = copy.copy(self)
        other.method, other.variant = _read_method(self.source, method, variant, options)
        other.refiners = read_refiners(refine)
        check_words(other.method.name, other.method.class_maps, other.refiners)
        other.tower = self.tower.with_settings(other.method.activation, other.method.norm_eps)
        return other

    def __repr__(self) -> str:
        how = " + ".join([f"{self.method.name}:{self.variant}", *(r.name for r in self.refiners)])
        dtype = str(self.tower.dtype).removeprefix("torch.")
        return f"Segmenter({self.source}, {how}, {dtype} on {self.tower.device})"

    @property
    def towers(self) -> Towers:
        """The networks as methods take them."""
        return Towers(self.tower, self.text, self.networks)

    @property
    def class_maps(self) -> bool:
        """Whether labels are made of maps of classes, and not of scores of names."""
        steps = [one for one in self.refiners if isinstance(one, WordStep)]
        return self.method.class_maps or any(one.gives_class_maps for one in steps)

    @property
    def pipeline(self) -> Pipeline:
        """Method, refiners and networks combined."""
        return Pipeline(self.method, self.towers, self.refiners, self.low_memory)

    @property
    def at_once(self) -> int:
        """How many pictures go through the network together."""
        return self.pipeline.at_once

    @property
    def device(self) -> str:
        """The kind of device of CLIP: "cpu", "cuda", "mps"."""
        return self.tower.device.type

    def load_networks(self) -> None:
        """Load the auxiliary models of method and refiners, which are else loaded when needed."""
        kinds = {kind for one in (self.method, *self.refiners) for kind in one.networks}
        self.networks.load(sorted(kinds))

    def segment_prepared(
        self,
        prepared: Sequence[Prepared],
        texts: TextQueries,
        image_labels: Sequence[Sequence[str | int] | None],
    ) -> Iterator[Segmentation]:
        """Segment what `prepare` read, pictures of one size together; labels as for `score_all`."""
        given = [image_labels] if any(one is not None for one in image_labels) else []
        for scored in self.score_all(self.encode_each(prepared), texts, *given):
            yield scored.segmentation()

    def encode(
        self,
        image: Picture | Pictures,
        regions: np.ndarray | Tensor | None = None,
        name: str | None = None,
    ) -> Encoding:
        """Encode a picture, or several that have the same size once resized, with the method.

        Args:
            image: a path, a PIL image, a uint8 array (H, W, 3), a list of these, or a float tensor
                (B, 3, H, W) already normalised, which is not resized.
            regions: integers (H, W), the region of each pixel of one picture, for a method with
                `takes_regions`: in place of the map that it makes itself, where 0 or less is no
                region, or, as true regions, for an upper bound, within which alone patches attend.
            name: the picture's file or id, by which a folder of region maps knows it; None: that
                of the file that it is read from.

        Returns:
            An `Encoding`; `features` are (B, E, h, w) before L2 normalisation.

        Raises:
            WordmaskError: a picture that cannot be read, a wrong shape, NaN, mixed sizes in a list;
                regions for several pictures, or for a method that takes none.
        """
        self._tell()
        if regions is not None:
            regions = self._regions(image, regions)
        if isinstance(image, Tensor):
            self.method.check(image, self.tower)
            return self.pipeline.encode(image, [(image.shape[2], image.shape[3])] * len(image))
        single = not isinstance(image, (list, tuple))
        sources: list[Any] = list(image) if isinstance(image, (list, tuple)) else [image]
        if not sources:
            raise WordmaskError("got an empty list of pictures; give at least one")
        prepared = [self.prepare(source, name) for source in sources]
        if regions is not None and tuple(regions.shape[1:]) != prepared[0].size:
            (height, width), (h, w) = prepared[0].size, regions.shape[1:]
            raise WordmaskError(
                f"got regions of {w} x {h} pixels for a picture of {width} x {height}; give one "
                "for each of its pixels"
            )
        shapes = sorted({tuple(one.pixels.shape[1:]) for one in prepared})
        if len(shapes) > 1:
            raise WordmaskError(
                f"got pictures that resize to different shapes ({shapes[0]} and {shapes[-1]}); "
                "encode them one by one, or call segmenter(images, words)"
            )
        return self.encode_prepared(prepared, single, regions)

    def prepare(self, image: Any, name: str | None = None) -> Prepared:
        """Read a picture and make pixels of it: what `encode` does before the network.

        It takes no lock and may run in a thread of its own, ahead of the network.

        image: a path, a PIL image or a uint8 array (H, W, 3); name: as for `encode`.
        """
        picture = read_image(image, max_pixels=self.max_pixels)
        size = picture.shape[0], picture.shape[1]
        if name is None:  # PIL's pictures know their file
            path = image if isinstance(image, (str, os.PathLike)) else None
            name = os.fspath(path) if path else str(getattr(image, "filename", ""))
        return Prepared(picture, self._pixels(picture), size, name)

    def _pixels(self, picture: np.ndarray) -> Tensor:
        """What the network sees of a picture (H, W, 3), if that fits into memory."""
        if maps := sum(step.maps_held(self.tower) for step in self.pipeline.word_steps):
            self.method.check_size(picture.shape[0], picture.shape[1], self.tower, maps)
        return self.method.prepare(picture, self.tower)

    def prepare_reduced(self, content: bytes, name: str) -> Prepared:
        """As `prepare`, from the content of a file; a large JPEG is decoded at a reduced size.

        It keeps twice the size that the network takes at least. The result holds no picture, so
        refiners and overlays cannot use it.
        """

        def twice(height: int, width: int) -> tuple[int, int]:
            height, width = self.method.resized(height, width, self.tower)
            return 2 * height, 2 * width

        picture, size = decode_reduced(content, name, twice, max_pixels=self.max_pixels)
        return Prepared(picture, self._pixels(picture), size, name)

    def encode_prepared(
        self, prepared: Sequence[Prepared], single: bool = False, regions: Tensor | None = None
    ) -> Encoding:
        """Encode prepared pictures of one size; regions (1, H, W), of a single picture."""
        sizes = [one.size for one in prepared]
        whole = all(one.image.shape[:2] == one.size for one in prepared)
        images = [one.image for one in prepared] if whole else []
        pixels = torch.stack([one.pixels for one in prepared])
        names = [one.name for one in prepared]
        return self.pipeline.encode(pixels, sizes, images, single, regions, names)

    def encode_each(self, prepared: Sequence[Prepared]) -> list[Encoding]:
        """Encode prepared pictures of any size, those of one size together: an encoding each."""
        groups: dict[Any, list[int]] = {}
        for i, one in enumerate(prepared):
            groups.setdefault(tuple(one.pixels.shape), []).append(i)
        encodings: dict[int, Encoding] = {}
        for indices in groups.values():
            joined = self.encode_prepared([prepared[i] for i in indices], len(indices) == 1)
            encodings |= zip(indices, joined.split(), strict=True)
        return [encodings[i] for i in range(len(prepared))]

    def _tell(self) -> None:
        """Say once what to know about the network."""
        if not self.note or self.note in _told:
            return
        _told.add(self.note)
        frame, level = sys._getframe(), 1  # the line of the caller's own code is shown
        while frame.f_back and frame.f_globals["__name__"].startswith("wordmask."):
            frame, level = frame.f_back, level + 1
        warnings.warn(self.note, stacklevel=level)

    def _regions(self, image: Any, regions: Any) -> Tensor:
        """Regions of one picture as (1, H, W)."""
        if not self.method.takes_regions:
            raise WordmaskError(f"got regions for {self.method.name}; it takes none")
        given = np.asarray(regions)
        if given.dtype.kind not in "iub":
            raise WordmaskError(f"got regions of type {given.dtype}; give integers (H, W)")
        regions = torch.from_numpy(given.astype(np.int64))
        if isinstance(image, (Tensor, list, tuple)) or regions.ndim != 2:
            shape = tuple(regions.shape)
            raise WordmaskError(
                f"got regions of shape {shape}; give (H, W) with one picture, not a list or tensor"
            )
        if self.method.region_source is not None:  # 0 or less is no region
            regions = numbered(regions.numpy())
        return regions[None].to(self.tower.device)

    def encode_text(self, words: Words, background: Ground = None) -> TextQueries:
        """Encode words and background once, to pass in place of the words for many pictures.

        Args:
            words: a Vocabulary, a list of names (or of lists of synonyms), or a dict of names and
                synonyms. Text features of your own: a dict of names and float tensors, (E,) or
                (N, E) for N synonyms, or one tensor (C, E), whose classes are then called
                "class 1" to "class C".
            background: a `Background`, "none", "auto", "negatives", a list of names, a tensor
                (K, E), or None: "auto" if words are names, and none if they are text features.

        Raises:
            WordmaskError: no words, a word given twice or also as background, text features of
                another width, names for a model without a text encoder.
        """
        if isinstance(words, TextQueries):
            if background is not None:
                raise WordmaskError("got encoded words and a background; give it to encode_text")
            return words
        if background is None and not are_features(words):
            background = Background.auto()
        self._tell()
        method, tower = self.method, self.tower
        encoder = TextEncoder(
            self.text, method.templates, method.pooling, tower.width, tower.device, self.source
        )
        return encoder.encode(words, background)

    @overload
    def score(self, image: Pictures, words: Words, background: Ground = None) -> list[Scored]: ...

    @overload
    def score(self, image: Picture, words: Words, background: Ground = None) -> Scored: ...

    @overload
    def score(self, image: Encoding, words: Words, background: Ground = None) -> Any: ...

    def score(
        self, image: Picture | Pictures | Encoding, words: Words, background: Ground = None
    ) -> Scored | list[Scored]:
        """Score a picture by words and apply the refiners.

        Args:
            image: as for `__call__`.
            words: as for `encode_text`, or what it returned.
            background: as for `encode_text`.

        Returns:
            A `Scored`, from which labels, image-level scores, confidence and class maps are read;
            a list of them for several pictures.
        """
        many, scored = self._score(image, words, background)
        results = list(scored)
        return results if many else results[0]

    def score_all(
        self,
        encodings: Sequence[Encoding],
        words: Words,
        image_labels: Sequence[Sequence[str | int] | None] | None = None,
    ) -> Iterator[Scored]:
        """Score the pictures of several encodings one by one; words as for `score`.

        image_labels: for each encoding, what is known to be in its pictures; None: nothing.

        With `low_memory`, each auxiliary model goes over all pictures and is then freed.
        """
        texts = self.encode_text(words)
        if self.low_memory:
            self.weights()  # hashed before CLIP is moved off the GPU
        given = [texts.among(known) for known in image_labels or [None] * len(encodings)]
        queries = {id(e): one for e, one in zip(encodings, given, strict=True)}
        for encoding, i, coarse, fine in self.pipeline.score(encodings, given):
            yield Scored(
                maps=fine,
                texts=queries[id(encoding)],
                rule=self.pipeline.rule(encoding, i),
                size=encoding.sizes[i],
                patches=encoding.patches(self.tower.patch),
                coarse=None if fine is coarse else coarse,
                image=encoding.images[i] if encoding.images else None,
                provenance=self.provenance() | {"background": texts.strategy.describe()},
            )

    def _score(
        self, image: Any, words: Any, background: Any, known: Any = None
    ) -> tuple[bool, Iterator[Scored]]:
        """Return whether several pictures were given, and their scores one by one.

        known: image-level labels, as for `__call__`.
        """
        texts = self.encode_text(words, background)
        if not isinstance(image, (list, tuple)):
            encoding = image if isinstance(image, Encoding) else self.encode(image)
            own = [known] if encoding.single else None
            return not encoding.single, self.score_all([encoding], texts, own)
        known = [None] * len(image) if known is None else known
        if self.low_memory:
            return True, self.score_all([self.encode(one) for one in image], texts, known)
        at_once = self.pipeline.at_once

        def scored() -> Iterator[Scored]:
            for i in range(0, len(image), at_once):
                encodings = self.encode_each([self.prepare(x) for x in image[i : i + at_once]])
                yield from self.score_all(encodings, texts, known[i : i + at_once])

        return True, scored()

    @overload
    def __call__(
        self, image: Pictures, words: Words, background: Ground = None, image_labels: Any = None
    ) -> Segmentations: ...

    @overload
    def __call__(
        self, image: Picture, words: Words, background: Ground = None, image_labels: Any = None
    ) -> Segmentation: ...

    @overload
    def __call__(
        self, image: Encoding, words: Words, background: Ground = None, image_labels: Any = None
    ) -> Any: ...

    def __call__(
        self,
        image: Picture | Pictures | Encoding,
        words: Words,
        background: Ground = None,
        image_labels: Sequence[Any] | None = None,
    ) -> Segmentation | Segmentations:
        """Segment pictures by words.

        Args:
            image: as for `encode`, but a list may mix sizes; or an `Encoding`.
            words: as for `encode_text`, or what it returned.
            background: how pixels that show none of the words are found, as for `encode_text`.
            image_labels: the names (or class numbers from 0) that are known to be in the picture, a
                list of such lists for several pictures. The other words get no pixel, and still
                compete for scores (but with `clip_es`): pseudo-masks for weak supervision (CLIPer,
                Table 3). None: nothing is known.

        Returns:
            A `Segmentation`, or a list of them for a list or a tensor of pictures, which a notebook
            shows as a grid; for an `Encoding`, as for the pictures that it was made from.
        """
        if isinstance(image, (list, tuple)):
            _check_image_labels(image_labels, len(image))
        many, scored = self._score(image, words, background, image_labels)
        if not many:
            return next(scored).segmentation()
        if isinstance(image, (Tensor, Encoding)):
            _check_image_labels(image_labels, len(image))
        return Segmentations(
            one.segmentation(None if image_labels is None else image_labels[i])
            for i, one in enumerate(scored)
        )

    def weights(self) -> str:
        """A hash of CLIP's weights, see `wordmask.towers.weights.fingerprint`."""
        return fingerprint(self.tower.model)

    def provenance(self) -> dict[str, Any]:
        """Everything that a result depends on, as plain values."""
        return {
            "method": self.method.name,
            "variant": self.variant,
            "options": self.method.options(),
            "refiners": [{"name": r.name} | r.options() for r in self.refiners],
            "networks": self.networks.describe(),
            "model": self.source,
            "weights": self.weights(),
            "dtype": str(self.tower.dtype).removeprefix("torch."),
            "device": self.tower.device.type,
            "versions": versions("wordmask", "torch", "transformers"),
        }


def _read_method(
    model: Any,
    method: str | type[Method] | Method,
    variant: str | None,
    options: Mapping[str, Any] | None,
) -> tuple[Method, str]:
    """The method with what the model wants where no option says otherwise; an instance as it is."""
    if not isinstance(method, Method):
        options = own_options(model, options or {})
    return read_method(method, variant, options)


def _check_image_labels(image_labels: Any, count: int) -> None:
    if image_labels is not None and (isinstance(image_labels, str) or len(image_labels) != count):
        raise WordmaskError(
            f"got image-level labels {image_labels!r:.80} for {count} pictures; give a list of "
            "names for each picture"
        )
