"""`Segmentation`, the result: the class of each pixel, with masks, overlays and files."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wordmask import drawing
from wordmask.drawing import UNLABELLED
from wordmask.errors import WordmaskError, unknown
from wordmask.extras import need
from wordmask.files import write_atomically
from wordmask.images import read_image
from wordmask.regions import Polygon, Region, regions, run_lengths
from wordmask.regions import polygons as outlines

MOST_CLASSES = 65_535  # labels above 0 that uint16 can hold
SCHEMA = "wordmask.segmentation/1"  # of the JSON, formats/segmentation.schema.json
MOST_DRAWN, GRID_HEIGHT = 24, 256  # results in a grid, and the pixels of each


@dataclass(eq=False)
class Segmentation:
    """The labels of one picture.

    Attributes:
        labels: (H, W) uint8, or uint16 for more than 255 classes. 0 = none of the words,
            i = ``names[i - 1]``.
        names: the classes, each by its first name.
        scores: (C, h, w) class scores on the patch grid, or None if they were not kept.
        provenance: how the labels were made (method, variant, options, model, weights, versions).
        image: (H, W, 3) uint8 RGB, the picture as it was segmented (upright), or None.

    Raises:
        WordmaskError: the shapes do not agree, a label has no name, or a name comes twice.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    scores: np.ndarray | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    image: np.ndarray | None = None

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise WordmaskError(f"names must be a list of names, got the string {self.names!r}")
        self.names = tuple(self.names)
        if not 1 <= len(self.names) <= MOST_CLASSES:
            raise WordmaskError(f"names must be 1 to {MOST_CLASSES} names, got {len(self.names)}")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise WordmaskError(f"names must differ, got {twice!r} more than once")
        drawing.check_labels(self.labels, self.names)
        dtype = np.uint8 if len(self.names) <= 255 else np.uint16
        self.labels = self.labels.astype(dtype, copy=False)
        if self.scores is not None:
            self._check_scores(self.scores)
        if self.image is not None:
            self._check_image(self.image)

    def mask(self, name: str | int) -> np.ndarray:
        """Return the pixels of one class, (H, W) bool.

        Args:
            name: a name, "unlabelled" for the pixels of no class, or a label: i = ``names[i - 1]``
                and 0 = no class.

        Raises:
            WordmaskError: there is no such class.
        """
        return self.labels == self._label(name)

    def masks(self) -> np.ndarray:
        """Return the masks of all classes in order, (C, H, W) bool; see `__array__` for labels."""
        return self.labels == np.arange(1, len(self.names) + 1)[:, None, None]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The labels, so that `np.asarray(result)` and whatever takes arrays take a result."""
        return np.array(self.labels, dtype=dtype, copy=copy)

    def shares(self) -> dict[str, float]:
        """Return the share of pixels of each class, 0 to 1.

        All classes in order, then "unlabelled"; they sum to 1. (A class that is itself called
        "unlabelled" is counted there.)
        """
        counts = self._counts()
        shares = {
            name: int(count) / self.labels.size
            for name, count in zip(self.names, counts[1:], strict=True)
        }
        rest = int(counts[0]) / self.labels.size
        return {**shares, UNLABELLED: shares.pop(UNLABELLED, 0.0) + rest}

    @property
    def found(self) -> tuple[str, ...]:
        """The names that occur, the one with most pixels first."""
        counts = self._counts()[1:]
        order = np.argsort(-counts, kind="stable")
        return tuple(self.names[i] for i in order if counts[i])

    def regions(self, components: bool = False, min_area: int = 1) -> list[Region]:
        """Return the regions of the classes that occur: label, name, box, area, score and pixels.

        Args:
            components: one region for each connected component and not for each class. A component
                is no object: two cats that touch are one, a cat behind a post is two.
            min_area: leave out regions with fewer pixels.
        """
        return regions(
            self.labels, self.names, self.scores, components=components, min_area=min_area
        )

    def polygons(self, name: str | int) -> list[Polygon]:
        """Return the exact outlines of a class, with holes, along the edges of its pixels."""
        return outlines(self.mask(name))

    def to_coco(
        self,
        file_name: str = "",
        polygons: bool = False,
        components: bool = False,
    ) -> dict[str, Any]:
        """Return the result as a COCO data set of one picture: images, annotations, categories.

        Args:
            file_name: of the picture.
            polygons: outlines along the edges of the pixels instead of run lengths. COCO's polygons
                have no holes, so that a cut joins each to the outline; decoded by pycocotools, they
                are the mask.
            components: one annotation for each connected component, see `regions`.
        """
        height, width = self.labels.shape
        annotations = []
        for number, one in enumerate(self.regions(components), start=1):
            outline: Any = (
                [(part.ring() + one.box[:2]).ravel().tolist() for part in outlines(one.pixels)]
                if polygons
                else run_lengths(one.mask((height, width)))
            )
            score = {} if one.score is None else {"score": one.score}
            annotations.append(
                {
                    "id": number,
                    "image_id": 1,
                    "category_id": one.label,
                    "bbox": list(one.xywh),
                    "area": one.area,
                    "iscrowd": 0,
                    "segmentation": outline,
                    **score,
                }
            )
        return {
            "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.names, start=1)],
        }

    def detections(self, components: bool = False) -> Any:
        """Return `supervision.Detections`: boxes, masks, class ids from 0, mean scores, names.

        Args:
            components: one detection for each connected component, see `regions`.

        Raises:
            WordmaskError: supervision is not installed.
        """
        supervision = need("supervision", "supervision", "detections()")
        found = self.regions(components)
        size = self.labels.shape
        scores = None if self.scores is None else np.array([one.score for one in found], np.float32)
        return supervision.Detections(
            xyxy=np.array([one.box for one in found], np.float32).reshape(-1, 4),
            mask=np.array([one.mask(size) for one in found], bool).reshape(-1, *size),
            confidence=scores,
            class_id=np.array([one.label - 1 for one in found], int),
            data={"class_name": np.array([one.name for one in found], str)},
        )

    def cutout(
        self, name: str | int, image: str | Path | Image.Image | np.ndarray | None = None
    ) -> Image.Image:
        """Return the picture of one class, RGBA, with all other pixels transparent.

        Args:
            name: as for `mask`.
            image: the picture, as for `overlay`.
        """
        alpha = Image.fromarray(self.mask(name).astype(np.uint8) * 255)
        picture = Image.fromarray(self._picture(image, "cutout(name, image)"))
        picture.putalpha(alpha)
        return picture

    def overlay(
        self,
        image: str | Path | Image.Image | np.ndarray | None = None,
        alpha: float = 0.55,
        legend: bool = True,
        numbers: bool | None = None,
    ) -> Image.Image:
        """Draw the colours of the classes over the picture, with a legend beside or below it.

        Args:
            image: the picture, if it was not kept or another of the same size is wanted: a path,
                a PIL image or a uint8 array (H, W, 3).
            alpha: opacity of the colours, 0 to 1.
            legend: list the classes that occur, with their shares.
            numbers: write the labels of the classes into their regions and the legend; by default
                where there are more than ten, or two with similar colours.

        Raises:
            WordmaskError: there is no picture, it cannot be read, or it has another size.
        """
        picture = self._picture(image, "overlay(image)")
        return drawing.overlay(picture, self.labels, self.names, alpha, legend, numbers)

    def label_image(self) -> Image.Image:
        """Return a picture with the labels as its pixel values.

        Up to 255 classes: mode "P" with the colours of the classes. More: mode "I;16".
        """
        image = Image.fromarray(self.labels)
        if self.labels.dtype == np.uint8:
            image.putpalette(drawing.palette(len(self.names)).tobytes())
        return image

    def save(self, path: str | Path) -> None:
        """Write a PNG with the labels as its pixel values; the file is written whole or not at all.

        Raises:
            WordmaskError: the name does not end in .png, or the file cannot be written.
        """
        if Path(path).suffix.lower() != ".png":
            raise WordmaskError(f"labels are saved as PNG, got {path}; give a name ending in .png")
        image = self.label_image()
        write_atomically(path, lambda file: image.save(file, format="PNG"))

    def heat_map(
        self,
        name: str | int,
        low: float | None = None,
        high: float | None = None,
        bar: bool = False,
    ) -> Image.Image:
        """Draw the scores of one class as a heat map, over the picture if it was kept.

        Args:
            name: a name, or its label.
            low: the score of the darkest colour; by default the lowest score of all classes, so
                that the maps of two words can be compared.
            high: the score of the brightest colour; by default the highest of all classes.
            bar: add a colour bar with both numbers below the map.

        Raises:
            WordmaskError: there is no such class, or the scores were not kept.
        """
        label = self._label(name)
        if label == 0:
            raise WordmaskError("unlabelled pixels have no scores; give the name of a class")
        if self.scores is None:
            raise WordmaskError("the scores were not kept; segment again and keep them")
        low = float(self.scores.min()) if low is None else low
        high = float(self.scores.max()) if high is None else high
        height, width = self.labels.shape
        return drawing.heat_map(
            self.scores[label - 1], (height, width), low, high, self.image, bar=bar
        )

    def summary(self) -> dict[str, Any]:
        """Return size, pixels and share of each class, and provenance, as plain values."""
        height, width = self.labels.shape
        counts = self._counts().tolist()
        shares = [count / self.labels.size for count in counts]
        return {
            "schema": SCHEMA,
            "height": height,
            "width": width,
            "classes": [
                {"label": i, "name": name, "pixels": counts[i], "share": shares[i]}
                for i, name in enumerate(self.names, start=1)
            ],
            "unlabelled": {"pixels": counts[0], "share": shares[0]},
            "provenance": self.provenance,
        }

    def to_json(self) -> str:
        """Return the summary as JSON text, indented, in Unicode."""
        try:
            return json.dumps(
                self.summary(), indent=2, ensure_ascii=False, allow_nan=False, default=_plain
            )
        except (TypeError, ValueError) as error:
            raise WordmaskError(f"the provenance cannot be written as JSON: {error}") from error

    def _repr_png_(self) -> bytes:
        """Show the result in a notebook."""
        picture = drawing.overlay(self.image, self.labels, self.names)
        picture.thumbnail((1600, 1600))
        return _png(picture)

    def __repr__(self) -> str:
        height, width = self.labels.shape
        shares, found = self.shares(), self.found
        parts = [f"{name} {drawing.percent(shares[name])}" for name in found[:5]]
        parts += [f"{len(found) - 5} more"] if len(found) > 5 else []
        parts += [f"{UNLABELLED} {drawing.percent(shares[UNLABELLED])}"]
        return (
            f"Segmentation({width}x{height}, {len(found)} of {len(self.names)} words found: "
            f"{', '.join(parts)})"
        )

    def _picture(self, image: Any, call: str) -> np.ndarray:
        """The picture that was kept, or the one that is given, of the same size."""
        picture = self.image
        if image is not None:
            picture = np.asarray(read_image(image))
        if picture is None:
            raise WordmaskError(f"the picture was not kept; give it as {call}")
        if picture.shape[:2] != self.labels.shape:
            self._check_image(picture)
        return picture

    def _check_scores(self, scores: np.ndarray) -> None:
        if isinstance(scores, np.ndarray) and scores.ndim == 3 and len(scores) == len(self.names):
            return
        raise WordmaskError(
            f"scores must be an array ({len(self.names)}, h, w), a map for each name, "
            f"got {_described(scores)}"
        )

    def _check_image(self, image: np.ndarray) -> None:
        shape = (*self.labels.shape, 3)
        if isinstance(image, np.ndarray) and image.shape == shape and image.dtype == np.uint8:
            return
        raise WordmaskError(
            f"image must be a uint8 array {shape}, as large as the labels, got {_described(image)}"
        )

    def _painted(self, height: int, numbers: bool) -> Image.Image:
        """The labels over the picture, `height` pixels high, without a legend."""
        width = max(round(self.labels.shape[1] * height / self.labels.shape[0]), 1)
        y, x = (
            np.arange(n) * m // n for n, m in zip((height, width), self.labels.shape, strict=True)
        )
        labels, image = self.labels[y[:, None], x], self.image
        if image is not None:
            image = np.asarray(Image.fromarray(image).resize((width, height)))
        return drawing.overlay(image, labels, self.names, legend=False, numbers=numbers)

    def _labels_found(self) -> list[int]:
        return np.flatnonzero(self._counts()).tolist()

    def _counts(self) -> np.ndarray:
        """Pixels of each label, (C + 1,) integers."""
        return drawing.count_labels(self.labels, len(self.names))

    def _label(self, name: str | int) -> int:
        if isinstance(name, str):
            if name in self.names:
                return self.names.index(name) + 1
            if name == UNLABELLED:
                return 0
            raise unknown("class", name, self.names)
        if not isinstance(name, (int, np.integer)) or not 0 <= name <= len(self.names):
            raise WordmaskError(
                f"a class is a name or a label from 0 to {len(self.names)}, got {name!r}"
            )
        return int(name)


class Segmentations(list[Segmentation]):
    """Results of several pictures: a list, which a notebook shows as a grid of pictures."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Segmentations(found) if isinstance(index, slice) else found

    def grid(self, columns: int | None = None) -> Image.Image:
        """Draw the results side by side, each under its index, with one legend below.

        At most the first 24 are drawn. Results with other names than the first have no legend.

        Args:
            columns: pictures in a row; at most four by default.

        Raises:
            WordmaskError: there is no result, or no column.
        """
        shown, names = self[:MOST_DRAWN], self[0].names if self else ()
        known = [one for one in shown if one.names == names]
        found = sorted({label for one in known for label in one._labels_found()})
        numbered = drawing.need_numbers(found)
        page = drawing.strip(
            [one._painted(GRID_HEIGHT, numbered and one.names == names) for one in shown],
            [f"[{i}]" for i in range(len(shown))],
            columns,
            GRID_HEIGHT,
        )
        colours = drawing.palette(len(names)).tolist()
        entries: list[tuple[str, tuple[int, ...] | None]]
        entries = [(names[i - 1], tuple(colours[i])) for i in found if i]
        entries += [(UNLABELLED, None)] if 0 in found else []
        numbers = [*(i for i in found if i), 0] if numbered else []
        rest = f"The first {len(shown)} of {len(self)} results"
        parts = [drawing.headline(rest, "", page.width)] if len(self) > len(shown) else []
        return drawing.stack([*parts, page, drawing.legend(entries, page.width, numbers=numbers)])

    def _repr_png_(self) -> bytes | None:
        """Show the results in a notebook."""
        return _png(self.grid()) if self else None


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def _plain(value: object) -> object:
    """Convert a value for JSON: numpy numbers to Python's, all else to its text."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _described(value: object) -> str:
    """Describe what was received: the type and shape of an array, the class of anything else."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
