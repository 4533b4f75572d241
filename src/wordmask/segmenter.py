"""The one thing most people need: pictures and words in, labels out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordmask import __version__
from wordmask.encoding import Encoding, Queries
from wordmask.errors import WordmaskError
from wordmask.images import DEFAULT_MAX_PIXELS, prepare, read_image
from wordmask.methods import METHODS, Method, create_method
from wordmask.refiners import REFINERS, Refiner, View, read_refiners
from wordmask.scoring import Decision
from wordmask.segmentation import Segmentation
from wordmask.text_queries import Asker
from wordmask.towers.auxiliary import Networks, fingerprint
from wordmask.towers.clip import ClipTower
from wordmask.towers.hub import (
    LoadedClip,
    load_clip,
    pick_device,
    pick_dtype,
    text_of,
    tower_of,
)
from wordmask.towers.text import TextTower, default_cache_dir
from wordmask.vocabulary import Background
from wordmask.windows import ScoreMap, Tile, Window, place_windows

BATCH = 8  # pictures or windows that go through the network at once on a GPU
CPU_BATCH = 1  # on a CPU one at a time: as fast, and it takes a fraction of the memory


def list_methods() -> list[str]:
    """Names of the registered methods, sorted."""
    return sorted(METHODS)


def list_refiners() -> list[str]:
    """Names of the registered refiners, sorted."""
    return sorted(REFINERS)


class Segmenter:
    """Segments pictures by words with one CLIP and one method. Nothing is trained or changed.

    Encode once, ask many times: `encode` runs the network, `score` and `segmenter(encoding, words)`
    only compare with text.

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
        networks: Networks | None = None,
        source: str = "in memory",
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        low_memory: bool = False,
    ):
        self.tower = tower
        self.text = text
        self.method = method
        self.variant = variant
        self.refiners = tuple(refiners)
        self.networks = networks or Networks(device=tower.device, dtype=tower.dtype)
        self.source = source
        self.max_pixels = max_pixels
        self.low_memory = low_memory
        self._weights: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | nn.Module,
        method: str = "cliper",
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
    ) -> Segmenter:
        """Load a CLIP and set up a method.

        Args:
            model: a hub id, a local folder, or a transformers model in memory: a `CLIPModel`, a
                `BlipForImageTextRetrieval`, a `SiglipModel`, or a `CLIPVisionModelWithProjection`
                where words are given as tensors. A model in memory is used as it is, through its
                own modules.
            method: see `list_methods()`.
            variant: see `wordmask methods`; None takes the method's first.
            options: options of the method by name, over those of the variant.
            device: None takes a GPU where there is one. A model in memory stays where it is.
            dtype: None is float32 on a CPU and float16 on a GPU. Features are float32 always.
            cache_dir: where downloaded weights and text embeddings are kept; None: the hub's own
                cache, and `~/.cache/wordmask` (or $WORDMASK_CACHE) for text.
            local_files_only: never ask the network.
            tokenizer: for a model in memory; else the checkpoint's own.
            refine: what sharpens the method's maps, in order: "diffusion,pamr" or a list of names,
                pairs (name, options) and `Refiner`s; see `list_refiners()`.
            networks: what is used beside CLIP by methods and refiners, loaded when it is first
                needed: a hub id, a folder or a module for "vfm", "diffusion", "sam" or
                "classifier"; see `wordmask.towers.auxiliary.DEFAULTS`.
            low_memory: free the networks beside CLIP as soon as their part is done, and take CLIP
                off the GPU meanwhile. Give pictures as a list then: each network is loaded once for
                all of them.

        Raises:
            WordmaskError: unknown method, refiner, variant or option; weights that are not to be
                had.
        """
        chosen, variant = create_method(method, variant, dict(options or {}))
        refiners = read_refiners(refine)
        text_cache = Path(cache_dir) / "wordmask" if cache_dir else default_cache_dir()
        if isinstance(model, nn.Module):
            if device is not None or dtype is not None:
                raise WordmaskError(
                    "got device or dtype with a model in memory, which is used as it is; move it "
                    "with model.to(...) before"
                )
            loaded = LoadedClip(model, tokenizer, None, None, type(model).__name__)
        else:
            place = pick_device(device)
            loaded = load_clip(
                model,
                device=place,
                dtype=pick_dtype(dtype, place),
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        tower = tower_of(
            loaded.model,
            activation=chosen.activation,
            norm_eps=chosen.norm_eps,
            mean=loaded.mean,
            std=loaded.std,
        )
        text = text_of(loaded.model, tokenizer or loaded.tokenizer, text_cache)
        beside = Networks(
            networks,
            device=tower.device,
            dtype=tower.dtype,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return cls(
            tower,
            text,
            chosen,
            variant,
            refiners=refiners,
            networks=beside,
            source=loaded.source,
            low_memory=low_memory,
        )

    def with_method(
        self,
        method: str,
        variant: str | None = None,
        options: Mapping[str, Any] | None = None,
        refine: str | Refiner | Iterable[Any] | None = None,
    ) -> Segmenter:
        """Another method and other refiners on the same networks; nothing is loaded again."""
        chosen, variant = create_method(method, variant, dict(options or {}))
        other = Segmenter(
            self.tower.with_settings(chosen.activation, chosen.norm_eps),
            self.text,
            chosen,
            variant,
            refiners=read_refiners(refine),
            networks=self.networks,
            source=self.source,
            max_pixels=self.max_pixels,
            low_memory=self.low_memory,
        )
        other._weights = self._weights
        return other

    # -- pictures -------------------------------------------------------------------------------

    def encode(self, image: Any) -> Encoding:
        """Encode a picture, or several that come to the same size, with the method.

        Args:
            image: a path, a PIL image, a uint8 array (H, W, 3), a list of these, or a float tensor
                (B, 3, H, W) already normalised, which is taken at its size.

        Returns:
            An `Encoding`; `features` are (B, E, h, w) before L2 normalisation.

        Raises:
            WordmaskError: a picture that cannot be read, a wrong shape, NaN, mixed sizes in a list.
        """
        if isinstance(image, Tensor):
            self._check_tensor(image)
            size = (image.shape[2], image.shape[3])
            encoding = self._encode(image)
            encoding.sizes = (size,) * len(image)
            self._look_at_all(encoding)
            return encoding
        single = not isinstance(image, (list, tuple))
        sources = [image] if single else list(image)
        if not sources:
            raise WordmaskError("got an empty list of pictures; give at least one")
        pictures = [read_image(source, max_pixels=self.max_pixels) for source in sources]
        prepared = [self.prepare(picture) for picture in pictures]
        shapes = sorted({tuple(x.shape[1:]) for x in prepared})
        if len(shapes) > 1:
            raise WordmaskError(
                f"got pictures that come to different sizes ({shapes[0]} and {shapes[-1]}); encode "
                "them one by one, or call segmenter(images, words)"
            )
        encoding = self._encode(torch.stack(prepared))
        encoding.sizes = tuple((p.shape[0], p.shape[1]) for p in pictures)
        encoding.images = tuple(pictures)
        encoding.single = single
        self._look_at_all(encoding)
        return encoding

    def prepare(self, picture: np.ndarray) -> Tensor:
        """Resize and normalise an upright uint8 picture (H, W, 3) as the method does.

        Returns (3, H', W') float32, at least one patch on each side, not yet padded.
        """
        method = self.method
        return prepare(
            picture,
            short_side=method.short_side,
            long_side=method.long_side,
            resample=method.resample,
            multiple=self.tower.patch if method.whole_patches else 1,
            mean=method.mean or self.tower.mean,
            std=method.std or self.tower.std,
            minimum_side=self.tower.patch,
        )

    def _check_tensor(self, image: Tensor) -> None:
        if (
            image.ndim != 4
            or image.shape[1] != 3
            or not image.is_floating_point()
            or not len(image)
        ):
            raise WordmaskError(
                f"got a {str(image.dtype).removeprefix('torch.')} tensor of shape "
                f"{tuple(image.shape)}; give float (B, 3, H, W), normalised"
            )
        if not torch.isfinite(image).all():
            raise WordmaskError("got pixels that are NaN or infinite; the tensor must be finite")
        if min(image.shape[2:]) < self.tower.patch and self.method.remainder == "drop":
            raise WordmaskError(
                f"got a tensor of shape {tuple(image.shape)}; both sides need at least one patch, "
                f"{self.tower.patch} pixels"
            )

    @torch.inference_mode()
    def _encode(self, pixels: Tensor) -> Encoding:
        """Encode (B, 3, H', W') whole or in windows."""
        height, width = pixels.shape[2:]
        method = self.method
        windows: tuple[Window, ...] = ()
        if method.window and not method.own_windows:
            windows = place_windows(height, width, method.window, method.stride)
        if len(windows) > 1:
            crops = [pixels[..., y : y + h, x : x + w] for y, x, h, w in windows]
            batch = torch.stack(crops, dim=1).flatten(0, 1)  # windows of a picture side by side
        else:
            batch, windows = pixels, ()
        pad = (0, 0, 0, 0)
        if method.remainder == "pad":
            batch, pad = pad_to_patches(batch, self.tower.patch)
        at_once = CPU_BATCH if self.tower.device.type == "cpu" else BATCH
        parts = [method.encode(self.tower, x, self.networks) for x in batch.split(at_once)]
        encoding = Encoding.join(parts)
        encoding.pixels = pixels
        encoding.pixel_size, encoding.pad, encoding.windows = (height, width), pad, windows
        return encoding

    @torch.inference_mode()
    def _look_at_all(self, encoding: Encoding) -> None:
        """Let every refiner look at every picture, once."""
        if self.low_memory:  # refiners look when it is their turn, see `decide_all`
            self.networks.release()
            return
        for i in range(len(encoding)):
            for refiner in self.refiners:
                self.look(encoding, i, refiner)

    @torch.inference_mode()
    def look(self, encoding: Encoding, i: int, refiner: Refiner) -> Any:
        """What a refiner sees in picture i of an encoding, kept with it: it looks once.

        With `low_memory` nothing is kept.
        """
        seen = encoding.seen.get((i, refiner))
        if seen is None:
            assert encoding.pixels is not None
            pixels = encoding.pixels[i].to(self.networks.device)
            if encoding.images:
                image = torch.from_numpy(encoding.images[i]).to(pixels).permute(2, 0, 1) / 255
            else:
                mean, std = self.method.mean or self.tower.mean, self.method.std or self.tower.std
                image = unnormalise(pixels, mean, std)
            seen = refiner.look(View(image, pixels), self.networks)
            if not self.low_memory:
                encoding.seen[i, refiner] = seen
        return seen

    # -- words ----------------------------------------------------------------------------------

    def queries(self, words: Any, background: Any = None) -> tuple[Queries, Background]:
        """Text embeddings of words and background, and the background strategy that they serve.

        words: a Vocabulary, a list of names (or of lists of synonyms), a dict, or a float tensor
        (C, E), one row a class. background: a Background, "none", "auto", a list of names, a tensor
        (K, E), or None: none.

        Raises:
            WordmaskError: no words, a word twice or as background too, text features of another
                width, names for a model without a text half.
        """
        asker = Asker(self.method, self.text, self.tower, self.networks, self.source)
        return asker.ask(words, background)

    # -- scores and labels ----------------------------------------------------------------------

    @torch.inference_mode()
    def score(self, encoding: Encoding, words: Any, background: Any = None) -> Tensor:
        """The method's class scores on the patch grid.

        Args:
            encoding: what `encode` returned.
            words: Vocabulary, list of names, or a (C, E) tensor of text features.
            background: names, a (K, E) tensor or a strategy whose words are distractors where the
                method compares classes (CLIPer, feature surgery); None: no distractors.

        Returns:
            (B, C, h, w) float32: cosines, the maximum over the names of a class; for `cliper` its
            coarse map. With windows, their mean read at the patches of the whole picture. Refiners
            are not applied.
        """
        queries, _ = self.queries(words, background)
        maps = encoding.maps(self.method.scores(encoding, queries))
        return torch.stack([self._class_scores(encoding, m, queries) for m in maps])

    def _class_scores(self, encoding: Encoding, scores: ScoreMap, queries: Queries) -> Tensor:
        """(C, h, w) of one picture, on its patches."""
        rows = scores.tiles[0].scores
        if len(scores.tiles) > 1:
            h, w = encoding.patches(self.tower.patch)
            rows = scores.rows(0, h, (h, w))
        elif self.refiners:
            rows = F.adaptive_avg_pool2d(rows, encoding.patches(self.tower.patch))
        return (
            queries.pool(rows, 0)[: queries.classes] if self.method.decision == "softmax" else rows
        )

    def _refine(
        self,
        encoding: Encoding,
        i: int,
        scores: ScoreMap,
        refiners: Sequence[Refiner] | None = None,
    ) -> ScoreMap:
        """The score map of picture i after refiners, by default all."""
        refiners = self.refiners if refiners is None else refiners
        if not refiners:
            return scores
        maps = scores.tiles[0].scores
        if not scores.direct:  # from windows and pad to the patches of the picture alone
            h, w = encoding.patches(self.tower.patch)
            maps = scores.rows(0, h, (h, w))
        for refiner in refiners:
            maps = refiner.refine(self.look(encoding, i, refiner), maps)
        size = encoding.pixel_size
        return ScoreMap([Tile(maps, Window(0, 0, *size), size, (0, 0))], size)

    @overload
    def __call__(
        self,
        image: list[Any] | tuple[Any, ...] | Tensor,
        words: Any,
        background: Any = None,
        present: Any = None,
    ) -> list[Segmentation]: ...

    @overload
    def __call__(
        self,
        image: str | os.PathLike[str] | PIL.Image.Image | np.ndarray,
        words: Any,
        background: Any = None,
        present: Any = None,
    ) -> Segmentation: ...

    @overload
    def __call__(
        self, image: Encoding, words: Any, background: Any = None, present: Any = None
    ) -> Any: ...

    @torch.inference_mode()
    def __call__(self, image: Any, words: Any, background: Any = None, present: Any = None) -> Any:
        """Segment pictures by words.

        Args:
            image: as for `encode`, where a list may mix sizes; or an `Encoding`.
            words: as for `score`.
            background: what becomes of pixels that show none of the words: a `Background`, "none",
                "auto", a list of names or a (K, E) tensor. None is "auto" where words are names,
                and none where they are a tensor.
            present: image-level labels: the names (or class numbers from 0) that are known to be in
                the picture, a list of such lists for several pictures. The other words still
                compete for scores and get no pixel: pseudo-masks for weak supervision (CLIPer,
                Table 3). None: nothing is known.

        Returns:
            A `Segmentation`, or a list of them for a list or a tensor of pictures; for an
            `Encoding`, what the pictures that it was made of would have given.
        """
        queries, strategy = self._ask(words, background)
        if not isinstance(image, (list, tuple)):
            encoding = image if isinstance(image, Encoding) else self.encode(image)
            known = [present] if encoding.single else present
            results = self.decide(encoding, queries, strategy, known)
            return results[0] if encoding.single else results
        known = self._known(present, len(image))
        if self.low_memory:
            encodings = [self.encode(one) for one in image]
            return self.decide_all(encodings, queries, strategy, known)
        return [
            self.decide(self.encode(one), queries, strategy, [names])[0]
            for one, names in zip(image, known, strict=True)
        ]

    @torch.inference_mode()
    def presence(self, image: Any, words: Any, background: Any = None) -> Tensor:
        """How much each class seems to be in a picture, by max pooling of its map.

        Image-level recognition without another network (CLIPer, section 4.3 and Table 2). For
        methods that compare cosines it is the largest probability of the class over the patches,
        softmax over all words; for `cliper` the largest value of its class map, which can be above
        1. With refiners, the mean of the maxima before and after them (released code of CLIPer).

        Args:
            image: as for `__call__`.
            words, background: as for `__call__`.

        Returns:
            (C,) float32 for one picture, (B, C) for several.
        """
        queries, _ = self._ask(words, background)
        many = isinstance(image, (list, tuple))
        rows: list[Tensor] = []
        for one in image if many else [image]:
            encoding = one if isinstance(one, Encoding) else self.encode(one)
            many = many or not encoding.single
            for i, coarse in enumerate(encoding.maps(self.method.scores(encoding, queries))):
                scores = self._refine(encoding, i, coarse)
                decision = Decision(
                    self.method,
                    queries,
                    Background.none(),
                    coarse=coarse if self.refiners else None,
                )
                rows.append(decision.presence(scores).float().cpu())
        return torch.stack(rows) if many else rows[0]

    def _ask(self, words: Any, background: Any) -> tuple[Queries, Background]:
        if background is None and not isinstance(words, Tensor):
            background = Background.auto()
        return self.queries(words, background)

    @torch.inference_mode()
    def decide(
        self,
        encoding: Encoding,
        queries: Queries,
        background: Background,
        present: Sequence[Any] | None = None,
    ) -> list[Segmentation]:
        """Label the pictures of an encoding by what `queries` made once for many pictures.

        present: for each picture the classes known to be in it, or None; see `__call__`.
        """
        return self.decide_all([encoding], queries, background, present)

    @torch.inference_mode()
    def decide_all(
        self,
        encodings: Sequence[Encoding],
        queries: Queries,
        background: Background,
        present: Sequence[Any] | None = None,
    ) -> list[Segmentation]:
        """Label the pictures of several encodings.

        With `low_memory` one network is held at a time: every refiner goes over all pictures, then
        its network is freed.
        """
        pictures = [(e, i) for e in encodings for i in range(len(e))]
        known = self._known(present, len(pictures))
        coarse = [m for e in encodings for m in e.maps(self.method.scores(e, queries))]
        with self._parked():
            fine = coarse
            if self.low_memory:
                self.networks.release()  # what the method's scores used
                for refiner in self.refiners:
                    fine = [
                        self._refine(*picture, scores, [refiner])
                        for picture, scores in zip(pictures, fine, strict=True)
                    ]
                    self.networks.release(refiner.network)
            results = []
            for (encoding, i), before, after, names in zip(
                pictures, coarse, fine, known, strict=True
            ):
                scores = after if self.low_memory else self._refine(encoding, i, before)
                allowed = None if names is None else queries.select(names)
                decision = Decision(
                    self.method,
                    queries,
                    background,
                    coarse=before if self.refiners else None,
                    present=allowed,
                )
                size = encoding.sizes[i]
                results.append(
                    Segmentation(
                        labels=decision.labels(scores, size, encoding.region_map(i)),
                        names=queries.names,
                        scores=self._class_scores(encoding, scores, queries).float().cpu().numpy(),
                        provenance=self.provenance() | {"background": background.describe()},
                        image=encoding.images[i] if encoding.images else None,
                    )
                )
        return results

    @torch.inference_mode()
    def confidence(
        self,
        encoding: Encoding,
        queries: Queries,
        background: Background,
        labels: Sequence[np.ndarray],
    ) -> list[np.ndarray]:
        """How sure the labels are that `decide` made of the same encoding, queries and background.

        Returns a map (H, W) float32, 0 to 1, for each picture, see `Decision.confidence`.
        """
        decision = Decision(self.method, queries, background)
        maps = encoding.maps(self.method.scores(encoding, queries))
        return [
            decision.confidence(answer, self._refine(encoding, i, coarse), encoding.region_map(i))
            for i, (coarse, answer) in enumerate(zip(maps, labels, strict=True))
        ]

    @contextmanager
    def _parked(self) -> Iterator[None]:
        """With `low_memory`, CLIP leaves the GPU while refiners are at work."""
        place = self.tower.device
        if not (self.low_memory and self.refiners and place.type != "cpu"):
            yield
            return
        self.provenance()  # the weights are hashed where they are
        self.tower.model.to("cpu")
        try:
            yield
        finally:
            self.tower.model.to(place)

    @staticmethod
    def _known(present: Any, count: int) -> list[Any]:
        """Image-level labels for each of `count` pictures."""
        if present is None:
            return [None] * count
        if isinstance(present, str) or len(present) != count:
            raise WordmaskError(
                f"got image-level labels {present!r:.80} for {count} pictures; give a list of "
                "names for each picture"
            )
        return list(present)

    def provenance(self) -> dict[str, Any]:
        """Everything that a result depends on, as plain values."""
        import transformers

        if self._weights is None:
            self._weights = fingerprint(self.tower.model)
        return {
            "method": self.method.name,
            "variant": self.variant,
            "options": self.method.options(),
            "refiners": [{"name": r.name} | r.options() for r in self.refiners],
            "networks": self.networks.describe(),
            "model": self.source,
            "weights": self._weights,
            "dtype": str(self.tower.dtype).removeprefix("torch."),
            "device": self.tower.device.type,
            "versions": {
                "wordmask": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }


def unnormalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo the normalisation of (..., 3, H, W); about 0 to 1."""
    scale, shift = pixels.new_tensor([std, mean])[..., None, None]
    return pixels * scale + shift


def pad_to_patches(pixels: Tensor, patch: int) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Zeros around (B, 3, H, W) up to whole patches, centred; and what was added on each side."""
    tall, wide = (-pixels.shape[2]) % patch, (-pixels.shape[3]) % patch
    top, left = tall // 2, wide // 2
    pad = (top, left, tall - top, wide - left)
    return F.pad(pixels, (pad[1], pad[3], pad[0], pad[2])), pad
