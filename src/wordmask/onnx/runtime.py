"""`OnnxSegmenter`: an exported folder in ONNX Runtime. Importing this module loads no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wordmask.errors import WordmaskError, unknown
from wordmask.extras import need
from wordmask.files import shown
from wordmask.images import DEFAULT_MAX_PIXELS, decode_reduced, prepare, read_image, target_size
from wordmask.onnx.decision import Maps, Texts, Tile, confidence, labels, make_rule
from wordmask.progress import steps
from wordmask.segmentation import Segmentation, Segmentations
from wordmask.sliding import Window, place_windows
from wordmask.version import versions
from wordmask.vocabulary import (
    NEGATIVES,
    Background,
    Vocabulary,
    negative_candidates,
    pick_distractors,
    pick_negatives,
    scene_words,
)

ABOUT = "wordmask.json"
SCHEMA = "wordmask.export/1"
IMAGE, TEXT, SCORES = "image.onnx", "text.onnx", "scores.onnx"
TOKENIZER = "tokenizer.json"
SCENE_WORDS = "scene_words.npy"  # embeddings of `vocabulary.scene_words`, with these templates
TEXT_BATCH = 64  # prompts
MOST_ROWS = 10_000  # names whose embeddings are kept


class Prepared(NamedTuple):
    """A picture as it was read, its pixels for the network, and the size that its labels get.

    Attributes:
        image: uint8 (H, W, 3); smaller if it was decoded at a reduced size.
        pixels: (3, H', W') float32, normalised.
        size: (H, W).
    """

    image: np.ndarray
    pixels: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class OnnxEncoding:
    """A picture encoded once, ready to be compared with any words.

    Attributes:
        outputs: of the image graph by name: "features" (windows or 1, E, h, w), and the method's
            own state.
        windows: the windows; empty for a whole picture.
        pad: pixels added at (top, left, bottom, right).
        pixel_size: (H', W') of the network's input before padding.
        size: (H, W) that its labels get.
        image: the upright uint8 picture (H, W, 3), or None.
    """

    outputs: dict[str, np.ndarray]
    windows: tuple[Window, ...]
    pad: tuple[int, int, int, int]
    pixel_size: tuple[int, int]
    size: tuple[int, int]
    image: np.ndarray | None = None


def is_exported(folder: Any) -> bool:
    """Whether a folder was written by `wordmask export`."""
    return isinstance(folder, (str, os.PathLike)) and Path(folder, IMAGE).is_file()


class OnnxSegmenter:
    """Segments pictures by words with a network that `wordmask export` wrote; needs no torch.

    It gives the labels that `Segmenter` gives with the same network and method, but where two
    words are as likely as float32 rounds.

    Examples:
        >>> segmenter = OnnxSegmenter.from_folder("exported")  # doctest: +SKIP
        >>> result = segmenter("street.jpg", ["car", "tree", "road"])  # doctest: +SKIP
    """

    low_memory = False
    at_once = 1  # pictures in one pass: on a CPU as fast as several
    device = "cpu"

    def __init__(self, folder: Path, about: Mapping[str, Any], sessions: Mapping[str, Any]):
        """Made by `from_folder`."""
        self.folder = folder
        self.source = os.fspath(folder)
        self.about = about
        self.options: dict[str, Any] = dict(about["options"])
        self.rule = make_rule(about["rule"])
        self.max_pixels: int | None = DEFAULT_MAX_PIXELS
        self._sessions = sessions
        self._rows: dict[str, np.ndarray] = {}  # text embeddings by name

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        options: Mapping[str, Any] | None = None,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> OnnxSegmenter:
        """Load an exported folder.

        Args:
            folder: what `wordmask export` wrote.
            options: of preprocessing, over those that were exported: short_side, long_side, window
                and stride, in pixels.
            providers: ONNX Runtime's, in order; None: its CPU's.
            threads: of one pass; None: $OMP_NUM_THREADS, or all cores.

        Raises:
            WordmaskError: no such folder, ONNX Runtime is not installed, another option, a graph
                that cannot be loaded.
        """
        folder = Path(folder)
        about = read_about(folder)
        onnxruntime = need("onnxruntime", "onnx-runtime", "an exported network")
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3  # errors alone
        settings.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS") or 0)
        sessions = {}
        for name in (IMAGE, TEXT, SCORES):
            if not (folder / name).is_file():
                continue
            try:
                sessions[name] = onnxruntime.InferenceSession(
                    folder / name, settings, providers=providers or ["CPUExecutionProvider"]
                )
            except Exception as error:  # of ONNX Runtime, of no common kind
                raise WordmaskError(
                    f"cannot load {shown(folder / name)}: {_first_line(error)}; export it again"
                ) from None
        made = cls(folder, about, sessions)
        made.options |= check_options(options or {})
        return made

    def __repr__(self) -> str:
        about = self.about
        how = f"{about['method']}:{about['variant']}, {about['precision']}"
        return f"OnnxSegmenter({self.source}, {how} in ONNX Runtime)"

    # -- words --------------------------------------------------------------------------------

    def encode_text(self, words: Any, background: Any = None) -> Texts:
        """Encode words and background once, to pass in place of the words for many pictures.

        Args:
            words: a Vocabulary, a list of names (or of lists of synonyms), a dict of names and
                synonyms, or text features: an array (C, E), or a dict of names and arrays (E,) or
                (N, E).
            background: a `Background`, "none", "auto", a list of names, an array (K, E), or None:
                "auto" if words are names, and none if they are text features.

        Raises:
            WordmaskError: as `Segmenter.encode_text`.
        """
        if isinstance(words, Texts):
            if background is not None:
                raise WordmaskError("got a background with encoded words, which have their own")
            return words
        given = self._features(words)
        rows = None
        strategy = Background.none() if given else Background.auto()
        if isinstance(background, np.ndarray):
            rows, strategy = self._check(background), Background("names")
        elif background is not None:
            strategy = Background.of(background)
        if given:
            names, classes = given
            if strategy.kind == "auto":
                raise WordmaskError(
                    'got words as features and background "auto", which compares names; give '
                    "another background"
                )
        else:
            vocabulary = Vocabulary.of(words)
            strategy.check(vocabulary)
            names = vocabulary.names
            embedded = self._embed(vocabulary.queries)
            starts = np.cumsum([len(one) for one in vocabulary])[:-1]
            classes = np.split(embedded, starts)
            if strategy.kind == "auto":
                stock = scene_words()
                known = self._scene_rows()
                rows = known[pick_distractors(embedded, known, vocabulary.queries, stock)]
        if strategy.kind == "negatives":
            candidates = negative_candidates()
            known, count = self._embed(candidates), strategy.count or NEGATIVES
            chosen = pick_negatives(np.concatenate(classes), known, count)
            strategy = replace(strategy, distractors=tuple(candidates[i] for i in chosen))
        if self.about["pooling"] == "mean":
            classes = [one.mean(0, keepdims=True) for one in classes]
        if strategy.distractors:
            rows = self._embed(strategy.distractors)
        parts = [*classes] + ([] if rows is None else [rows])
        owner = np.repeat(np.arange(len(parts)), [len(one) for one in parts])
        embeddings = unit(np.concatenate(parts), axis=1).astype(np.float32)
        return Texts(embeddings, owner, names, strategy)

    def _features(self, words: Any) -> tuple[tuple[str, ...], list[np.ndarray]] | None:
        """Names and rows (N, E) of classes that are given as features; None for words."""
        if isinstance(words, np.ndarray):
            rows = self._check(words)
            return tuple(f"class {i + 1}" for i in range(len(rows))), list(rows[:, None])
        if not (
            isinstance(words, Mapping)
            and any(isinstance(one, np.ndarray) for one in words.values())
        ):
            return None
        for name, rows in words.items():
            if not isinstance(rows, np.ndarray):
                raise WordmaskError(
                    f"got text features of some classes, but {rows!r:.40} for {name!r}; give an "
                    "array for each"
                )
        names = Vocabulary(list(words)).names
        return names, [unit(self._check(np.atleast_2d(x)), axis=1) for x in words.values()]

    def _check(self, rows: np.ndarray) -> np.ndarray:
        width = self.about["width"]
        if rows.ndim != 2 or rows.shape[1] != width or not len(rows) or rows.dtype.kind != "f":
            raise WordmaskError(
                f"got text features of shape {rows.shape}, {rows.dtype}; this model needs float "
                f"(C, {width})"
            )
        if not np.isfinite(rows).all():
            raise WordmaskError("got text features that are NaN or infinite")
        return rows.astype(np.float32)

    def _scene_rows(self) -> np.ndarray:
        path = self.folder / SCENE_WORDS
        if path.is_file():
            return np.load(path)
        return self._embed(scene_words())

    def _embed(self, names: Sequence[str]) -> np.ndarray:
        """Embeddings (N, E) of names: the mean over templates, unit rows, each name once."""
        if TEXT not in self._sessions:
            raise WordmaskError(
                f"got names, but {shown(self.folder)} has no text encoder; give text features as "
                "an array (C, E)"
            )
        if len(self._rows) + len(names) > MOST_ROWS:
            self._rows.clear()  # a service would gather the words of all requests
        missing = [name for name in dict.fromkeys(names) if name not in self._rows]
        templates = self.about["templates"]
        prompts = [template.replace("{}", name) for name in missing for template in templates]
        if prompts:
            rows = self._encode_prompts(prompts).reshape(len(missing), len(templates), -1)
            self._rows |= zip(missing, unit(rows.sum(1), axis=1).astype(np.float32), strict=True)
        return np.stack([self._rows[name] for name in names])

    def _encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """Unit rows (P, E) float64."""
        text = self.about["text"]
        start, end, room = text["start"], text["end"], text["context"] - 2
        tokens = []
        for one in self._tokenizer.encode_batch(list(prompts), add_special_tokens=False):
            if end in one.ids:
                raise WordmaskError("the tokenizer finds its end token inside a name")
            tokens.append([start, *one.ids[:room], end])
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))  # little padding
        rows: dict[int, np.ndarray] = {}
        batches = [order[i : i + TEXT_BATCH] for i in range(0, len(order), TEXT_BATCH)]
        for batch in steps("encoding words, prompts", batches, len(order), len):
            length = len(tokens[batch[-1]])
            ids = [tokens[i] + [end] * (length - len(tokens[i])) for i in batch]
            (features,) = self._run(TEXT, {"input_ids": np.array(ids, np.int64)})
            rows |= zip(batch, unit(features.astype(np.float64), axis=1), strict=True)
        return np.stack([rows[i] for i in range(len(tokens))])

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        made = Tokenizer.from_file(str(self.folder / TOKENIZER))
        made.no_padding()
        made.no_truncation()
        return made

    # -- pictures -----------------------------------------------------------------------------

    def prepare(self, image: Any, name: str | None = None) -> Prepared:
        """Read a picture and make pixels of it: what `encode` does before the network.

        name: not needed; as for `Segmenter.prepare`, whose refiners may read files by it.
        """
        picture = read_image(image, max_pixels=self.max_pixels)
        return Prepared(picture, self._pixels(picture), (picture.shape[0], picture.shape[1]))

    def prepare_reduced(self, content: bytes, name: str) -> Prepared:
        """As `prepare`, from the content of a file; a large JPEG is decoded at a reduced size."""

        def twice(height: int, width: int) -> tuple[int, int]:
            height, width = target_size(height, width, **self.sizes())
            return 2 * height, 2 * width

        picture, size = decode_reduced(content, name, twice, max_pixels=self.max_pixels)
        return Prepared(picture, self._pixels(picture), size)

    def sizes(self) -> dict[str, Any]:
        """How pictures are resized, for `wordmask.images.target_size`."""
        patch = self.about["patch"]
        return {
            "short_side": self.options["short_side"],
            "long_side": self.options["long_side"],
            "multiple": patch if self.options["whole_patches"] else 1,
            "minimum_side": patch,
        }

    def _pixels(self, picture: np.ndarray) -> np.ndarray:
        return prepare(
            picture,
            **self.sizes(),
            resample=self.options["resample"],
            mean=self.about["mean"],
            std=self.about["std"],
        )

    def encode(self, image: Any) -> OnnxEncoding:
        """Encode a picture: a path, a PIL image, a uint8 array (H, W, 3), or what `prepare` gave.

        Raises:
            WordmaskError: it cannot be read, or the network fails on it.
        """
        one = image if isinstance(image, Prepared) else self.prepare(image)
        pixels, (height, width) = one.pixels[None], one.pixels.shape[1:]
        window, patch = self.options["window"], self.about["patch"]
        windows = place_windows(height, width, window, self.options["stride"]) if window else ()
        windows = windows if len(windows) > 1 else ()
        crops = [pixels[..., y : y + h, x : x + w] for y, x, h, w in windows] or [pixels]
        pad = (0, 0, 0, 0)
        if self.options["remainder"] == "pad":
            tall, wide = (-crops[0].shape[2]) % patch, (-crops[0].shape[3]) % patch
            pad = (tall // 2, wide // 2, tall - tall // 2, wide - wide // 2)
            around = ((0, 0), (0, 0), (pad[0], pad[2]), (pad[1], pad[3]))
            crops = [np.pad(crop, around) for crop in crops]
        names = [one.name for one in self._sessions[IMAGE].get_outputs()]
        parts = [self._run(IMAGE, {"pixels": crop}) for crop in crops]
        outputs = {
            name: np.concatenate(part)
            for name, part in zip(names, zip(*parts, strict=True), strict=True)
        }
        if not np.isfinite(outputs["features"]).all():
            raise WordmaskError("the image features are NaN or infinite; check the picture")
        whole = one.image.shape[:2] == one.size
        return OnnxEncoding(
            outputs, windows, pad, (height, width), one.size, one.image if whole else None
        )

    def maps(self, encoding: OnnxEncoding, texts: Texts) -> Maps:
        """Score maps of a picture: cosines of all texts, or the method's own scores."""
        if SCORES in self._sessions:
            named = texts.owner < texts.classes
            inputs = {
                "foreground": texts.embeddings[named],
                "background": texts.embeddings[~named],
                "owner": texts.owner.astype(np.int64),
                "classes": np.zeros(texts.classes, np.float32),
                **encoding.outputs,
            }
            wanted = [one.name for one in self._sessions[SCORES].get_inputs()]
            (scores,) = self._run(SCORES, {name: inputs[name] for name in wanted})
        else:
            features = encoding.outputs["features"]
            flat = unit(features.reshape(*features.shape[:2], -1), axis=1)
            scores = (texts.embeddings @ flat).reshape(len(flat), -1, *features.shape[2:])
        top, left, bottom, right = encoding.pad
        windows = encoding.windows or (Window(0, 0, *encoding.pixel_size),)
        tiles = [
            Tile(one, w, (w.height + top + bottom, w.width + left + right), (top, left))
            for one, w in zip(scores, windows, strict=True)
        ]
        return Maps(tiles, encoding.pixel_size, encoding.size)

    def confidence(
        self, encoding: OnnxEncoding, texts: Texts, labels: np.ndarray
    ) -> np.ndarray | None:
        """The probability (H, W) of the word of each label; None: the method gives class maps."""
        return confidence(self.maps(encoding, texts), self.rule, texts, labels)

    def _segment(self, encoding: OnnxEncoding, texts: Texts) -> Segmentation:
        maps = self.maps(encoding, texts)
        patch = self.about["patch"]
        height, width = (max(side // patch, 1) for side in encoding.pixel_size)
        return Segmentation(
            labels=labels(maps, self.rule, texts),
            names=texts.names,
            scores=self.rule.pool(maps.on_patches((height, width)), texts)[: texts.classes],
            provenance=self.provenance() | {"background": texts.strategy.describe()},
            image=encoding.image,
        )

    def __call__(
        self, image: Any, words: Any, background: Any = None, image_labels: Any = None
    ) -> Any:
        """Segment pictures by words.

        Args:
            image: a path, a PIL image, a uint8 array (H, W, 3), an `OnnxEncoding`, or a list of
                these.
            words: as for `encode_text`, or what it returned.
            background: as for `encode_text`.
            image_labels: as for `Segmenter`.

        Returns:
            A `Segmentation`, or a list of them for a list of pictures.
        """
        texts = self.encode_text(words, background)
        many = isinstance(image, list)
        images = image if many else [image]
        given = image_labels if many and image_labels is not None else [image_labels] * len(images)
        if len(given) != len(images) or isinstance(given, str):
            raise WordmaskError(
                f"got image-level labels {image_labels!r:.80} for {len(images)} pictures; give a "
                "list of names for each picture"
            )
        results = Segmentations(
            self._segment(
                one if isinstance(one, OnnxEncoding) else self.encode(one), texts.among(known)
            )
            for one, known in zip(images, given, strict=True)
        )
        return results if many else results[0]

    # -- folders ------------------------------------------------------------------------------

    def load_networks(self) -> None:
        """Nothing: all graphs are loaded."""

    def segment_prepared(
        self,
        prepared: Sequence[Prepared],
        texts: Texts,
        image_labels: Sequence[Sequence[str | int] | None],
    ) -> Iterator[Segmentation]:
        """Segment pictures that `prepare` read, one after the other."""
        for one, known in zip(prepared, image_labels, strict=True):
            yield self._segment(self.encode(one), texts.among(known))

    def weights(self) -> str:
        """The hash of CLIP's weights that the graphs were made from, and their precision."""
        precision = self.about["precision"]
        return self.about["weights"] + ("" if precision == "float32" else f" in {precision}")

    def settings(self) -> dict[str, Any]:
        """The settings that results of a folder depend on, see `wordmask.batch.settings`."""
        kept = ("method", "variant", "templates", "pooling", "rule", "precision")
        return {
            **{key: self.about[key] for key in kept},
            "options": self.options,
            "refiners": [],
            "model": self.about["model"],
            "backend": "onnxruntime",
        }

    def provenance(self) -> dict[str, Any]:
        """Everything that a result depends on, as plain values."""
        return {
            "method": self.about["method"],
            "variant": self.about["variant"],
            "options": self.options,
            "refiners": [],
            "networks": {},
            "model": self.about["model"],
            "weights": self.about["weights"],
            "dtype": self.about["precision"],
            "device": self.device,
            "backend": "onnxruntime",
            "exported": self.about["versions"],
            "versions": versions("wordmask", "onnxruntime"),
        }

    def _run(self, name: str, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self._sessions[name].run(None, dict(inputs))
        except Exception as error:  # of ONNX Runtime, of no common kind
            shapes = ", ".join(f"{key} {value.shape}" for key, value in inputs.items())
            raise WordmaskError(
                f"{name} of {shown(self.folder)} failed on {shapes}: {_first_line(error)}"
            ) from None


def read_about(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What an exported folder says of itself.

    Raises:
        WordmaskError: it was not written by `wordmask export`, or by a later version of it.
    """
    path = Path(folder, ABOUT)
    try:
        about = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise WordmaskError(
            f"{shown(folder)} holds no exported network; write one with: wordmask export MODEL OUT"
        ) from None
    if about.get("schema") != SCHEMA:
        raise WordmaskError(
            f"{shown(path)} has the schema {about.get('schema')!r}, and this wordmask reads "
            f"{SCHEMA}; export it again"
        )
    return about


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that an exported network leaves free.

    Raises:
        WordmaskError: another one.
    """
    free: Iterable[str] = ("short_side", "long_side", "window", "stride")
    for name in options:
        if name not in free:
            raise unknown("option of an exported network", name, free)
    return dict(options)


def unit(x: np.ndarray, axis: int) -> np.ndarray:
    """x with unit norm along an axis."""
    return x / np.linalg.norm(x, axis=axis, keepdims=True).clip(1e-12)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
