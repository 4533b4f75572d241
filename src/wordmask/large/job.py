"""Segment a picture of any size tile by tile into one map of labels."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from wordmask import drawing
from wordmask.batch import settings_of
from wordmask.errors import WordmaskError, unknown
from wordmask.files import alone, make_folder, remove_folder, shown, write_atomically
from wordmask.journal import Journal
from wordmask.large import raster, vector
from wordmask.large.tiles import Plan, Span, Tile, lines
from wordmask.metrics import Seams
from wordmask.progress import stage
from wordmask.vocabulary import Background, Vocabulary

if TYPE_CHECKING:
    from wordmask.scoring import Scored
    from wordmask.segmenter import Segmenter

JOINS = ("blend", "crop")
TILE, OVERLAP = 1024, 128
LONGEST = 1600  # pixels a side of the overview


@dataclass(frozen=True)
class LargeJob:
    """The work of `segment_large`, checked before a model is loaded; arguments as there."""

    path: Path
    out: Path
    words: Vocabulary
    background: Background
    tile: int = TILE
    overlap: int = OVERLAP
    join: str = JOINS[0]
    bands: str | Sequence[int] | None = None
    scale: str | None = None
    polygons: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.join not in JOINS:
            raise unknown("way to join tiles", self.join, JOINS)
        if self.out.suffix.lower() not in (".tif", ".tiff"):
            raise WordmaskError(
                f"labels are written as GeoTIFF, got {shown(self.out)}; give a name ending in .tif"
            )
        self.background.check(self.words)
        if self.polygons is not None:
            vector.check_polygons(self.polygons)
        with raster.gdal(), self._open() as source:
            self._plan(source)
        for file in self.results:
            if file.exists() and file.samefile(self.path):
                raise WordmaskError(f"{shown(file)} is the picture; choose another name for --out")
            if file.exists() and not self.overwrite and not self.parts.exists():
                raise WordmaskError(f"{shown(file)} exists; choose another name, or overwrite")

    @property
    def results(self) -> list[Path]:
        """The files that are written."""
        also = [] if self.polygons is None else [self.polygons]
        return [self.out, self.out.with_suffix(".json"), self.out.with_suffix(".jpg"), *also]

    @property
    def parts(self) -> Path:
        """The folder of what is finished, until the end."""
        return self.out.with_name(self.out.name + ".parts")

    def _open(self) -> raster.Source:
        bands = raster.parse_bands(self.bands)
        return raster.Source(self.path, bands, raster.parse_scale(self.scale))

    def _plan(self, source: raster.Source) -> Plan:
        return Plan(*source.size, self.tile, self.overlap, self.join == "blend")

    def run(
        self, segmenter: Segmenter, progress: Callable[[int, int], object] | None = None
    ) -> dict[str, Any]:
        """Segment what is left to do, and write the results. Raises as `segment_large` does."""
        lock = self.out.with_name(f".{self.out.name}.lock")
        with alone(lock, self.out, "wait for it, or choose another name"):
            return self._run(segmenter, progress or (lambda done, total: None))

    def _run(self, segmenter: Segmenter, progress: Callable[[int, int], object]) -> dict[str, Any]:
        began = time.monotonic()
        parts = self.parts
        with raster.gdal(), ExitStack() as files:
            source = files.enter_context(self._open())
            plan = self._plan(source)
            state = self.path.stat()
            journal = Journal(
                parts,
                {
                    "picture": {
                        "path": os.path.abspath(self.path),
                        "bytes": state.st_size,
                        "modified": state.st_mtime_ns,
                    },
                    "classes": self.words.classes,
                    "background": self.background.describe(),
                    **settings_of(segmenter),
                    "weights": segmenter.weights(),
                    "tile": self.tile,
                    "overlap": self.overlap,
                    "join": self.join,
                    "bands": list(source.bands),
                    "limits": source.limits,
                },
                overwrite=self.overwrite,
            )
            if parts.exists() and not journal.claimed and any(parts.iterdir()):
                raise WordmaskError(
                    f"{shown(parts)} is needed for what is not finished, and holds other files; "
                    "move it, or choose another name for --out"
                )
            if self.overwrite:
                remove_folder(parts)
            journal.begin()
            if source.whole_rows:
                with stage("copying the picture into blocks"):
                    source = files.enter_context(source.copied(parts))
            texts = segmenter.encode_text(self.words, self.background)
            segment_tiles(
                lambda rgb: segmenter.score(rgb, texts),
                source,
                plan,
                parts,
                self.words.names,
                progress,
            )
            summary = self._write(source, plan, parts)
        summary |= {"seconds": time.monotonic() - began, "provenance": segmenter.provenance()}
        text = json.dumps(summary, indent=2, ensure_ascii=False, default=str) + "\n"
        write_atomically(self.results[1], lambda file: file.write(text.encode()))
        remove_folder(parts)  # in one step: tiles that are left would be taken for all
        return summary

    def _write(self, source: raster.Source, plan: Plan, parts: Path) -> dict[str, Any]:
        """Put the tiles together, measure the seams, write the raster and the polygons."""
        import rasterio
        from rasterio.windows import Window

        names, whole, made = self.words.names, parts / "labels.tif", parts / "cog.tif"
        for half in (whole, made):  # of a run that was killed
            half.unlink(missing_ok=True)
        with stage("joining the tiles"), raster.label_file(whole, source, names) as file:
            for tile in plan:
                rows, columns = (tile.y.enter, tile.y.fade), (tile.x.enter, tile.x.fade)
                labels = np.load(_labels(parts, tile))
                file.write(labels, 1, window=Window.from_slices(rows, columns))
        with stage("writing the raster"):
            raster.optimise(whole, made)
        nodata = raster.nodata_of(len(names))[1]
        seams = Seams(lines(plan.rows), lines(plan.columns), nodata)
        counts = np.zeros(nodata + 1, np.int64)
        with rasterio.open(made) as file:
            with stage("counting"):
                for top, seen, labels in raster.strips(file, above=1):
                    seams.update(labels, top, seen)
                    counts += drawing.count_labels(labels[seen:], nodata)
            valid = int(counts[:nodata].sum())
            number = None
            if self.polygons is not None:
                target = parts / self.polygons.name
                target.unlink(missing_ok=True)
                with stage("writing polygons"):
                    driver = vector.check_polygons(self.polygons)
                    number = vector.write_polygons(target, driver, file, names, valid)
                make_folder(self.polygons.parent)
                shutil.move(target, self.polygons)
            with stage("drawing"):
                picture = overview(source, plan, file, names)
        write_atomically(self.results[2], lambda to: picture.save(to, "JPEG", quality=90))
        os.replace(made, self.out)

        def share(pixels: int) -> float:
            return pixels / valid if valid else 0.0

        return {
            "picture": shown(self.path),
            **source.describe(),
            "tiles": len(plan),
            "tile": self.tile,
            "overlap": self.overlap,
            "join": self.join,
            "classes": [
                {"label": i, "name": name, "pixels": int(counts[i]), "share": share(counts[i])}
                for i, name in enumerate(names, 1)
            ],
            "unlabelled": {"pixels": int(counts[0]), "share": share(counts[0])},
            "nodata": {"value": nodata, "pixels": int(counts[nodata])},
            "seams": seams.summary(),
            "polygons": number,
        }


def segment_large(
    segmenter: Segmenter,
    path: str | os.PathLike[str],
    words: Any,
    out: str | os.PathLike[str],
    *,
    background: Any = "auto",
    tile: int = TILE,
    overlap: int = OVERLAP,
    join: str = JOINS[0],
    bands: str | Sequence[int] | None = None,
    scale: str | None = None,
    polygons: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Segment a picture of any size, with memory that depends on the tile and not on the picture.

    Each tile is a photograph of its own to the method, which resizes it as it does others. What is
    finished is kept in the folder OUT.parts until the end; a second call goes on from there.

    Args:
        segmenter: with any method; `blend` needs one that decides pixel by pixel.
        path: any raster that GDAL reads: GeoTIFF, TIFF, PNG, JPEG, JPEG 2000 ...
        words: as for `Segmenter.__call__`.
        background: likewise.
        out: the label map, a cloud-optimised GeoTIFF with the CRS, the transform and the size of
            the picture: 0 is none of the words, i the i-th, 255 (65535 from 255 words on) no data.
            Its tag WORDMASK_CLASSES names the labels. Beside it, OUT.json holds the summary, and
            OUT.jpg shows it small, with ticks at its edges where tiles meet.
        tile: side of a tile in pixels.
        overlap: of neighbouring tiles, at most a third of a tile.
        join: "blend" mixes the scores of neighbouring tiles where they overlap, "crop" cuts them
            in the middle.
        bands: of red, green and blue, from 1, or one; None: as the file says.
        scale: the values that become black and white, "0,3000" or percentiles of each band,
            "2%,98%"; None leaves 8-bit values as they are and takes percentiles 2 and 98 of others.
        polygons: a GeoPackage (.gpkg) or GeoJSON (.geojson) of the connected parts of classes.
        overwrite: replace results, and what is left of a run with other settings.
        progress: called with the number of tiles that are finished, and of all, before each tile
            that is left to do and at the end.

    Returns:
        The summary: size, CRS and transform, pixels and share of each class (of the pixels that
        have data, 0 to 1), pixels without data, and how often neighbouring pixels differ at the
        seams and elsewhere (`Seams.summary`).

    Raises:
        WordmaskError: an argument cannot be used, results exist, the picture cannot be read, or
            the method does not decide pixel by pixel and `join` is "blend".
    """
    job = LargeJob(
        Path(path),
        Path(out),
        Vocabulary.of(words),
        Background.of(background),
        tile,
        overlap,
        join,
        bands,
        scale,
        None if polygons is None else Path(polygons),
        overwrite,
    )
    return job.run(segmenter, progress)


def overview(source: raster.Source, plan: Plan, file: Any, names: Sequence[str]) -> Image.Image:
    """The labels over a small picture with a legend; ticks at its edges say where tiles meet."""
    step = max(1.0, max(source.size) / LONGEST)
    height, width = (max(1, round(side / step)) for side in source.size)
    labels = file.read(1, out_shape=(height, width))
    labels[labels == file.nodata] = 0
    image = drawing.overlay(source.thumbnail((height, width)), labels, names)
    draw, tick = ImageDraw.Draw(image), max(6, min(height, width) // 50)
    ys = [(row.enter + row.full) / 2 / step for row in plan.rows[1:]]
    xs = [(column.enter + column.full) / 2 / step for column in plan.columns[1:]]
    for colour, thick in ((drawing.INK, 5), (drawing.WHITE, 3)):
        for y, left in itertools.product(ys, (0, width - tick)):
            draw.line((left, y, left + tick, y), colour, thick)
        for x, top in itertools.product(xs, (0, height - tick)):
            draw.line((x, top, x, top + tick), colour, thick)
    return image


def segment_tiles(
    score: Callable[[np.ndarray], Scored],
    source: raster.Source,
    plan: Plan,
    parts: Path,
    names: Sequence[str],
    progress: Callable[[int, int], object],
) -> None:
    """Write the labels of every tile that has none yet into `parts`, for the pixels it decides.

    Where tiles overlap, each weights its values by its fades, and leaves the sums to the tile on
    its right and the one below it, in files. In memory are one tile's pixels, the values of a
    block of its rows, and those of its four borders: 4 (C + 1) T (overlap) floats.
    """
    dtype, nodata = raster.nodata_of(len(names))
    for done, tile in enumerate(plan):
        if _labels(parts, tile).exists():
            continue
        progress(done, len(plan))
        rgb, valid = source.read(tile)
        rows = slice(tile.y.enter - tile.y.start, tile.y.fade - tile.y.start)
        columns = slice(tile.x.enter - tile.x.start, tile.x.fade - tile.x.start)
        if not valid.any():  # its neighbours decide alone
            labels: np.ndarray = np.full(
                (rows.stop - rows.start, columns.stop - columns.start), nodata, dtype
            )
        else:
            scored = score(rgb)
            ramps = any(span.enter < span.full or span.fade < span.leave for span in tile[2:])
            labels = blended(scored, tile, parts) if ramps else scored.labels()[rows, columns]
            labels = np.where(valid[rows, columns], labels, nodata).astype(dtype)
        _save(_labels(parts, tile), labels)
        for file in (
            _right(parts, tile.row, tile.column - 1),
            _below(parts, tile.row - 1, tile.column),
        ):
            file.unlink(missing_ok=True)
    progress(len(plan), len(plan))


def blended(scored: Scored, tile: Tile, parts: Path) -> np.ndarray:
    """The labels of the pixels that a tile decides, with what its neighbours left to it."""
    import torch

    (y, y_weight), (x, x_weight) = _inside(tile.y), _inside(tile.x)
    left = _load(_right(parts, tile.row, tile.column - 1))
    above = _load(_below(parts, tile.row - 1, tile.column))
    right = below = None
    labels = np.empty((y.fade - y.enter, x.fade - x.enter), np.int64)
    for start, stop, values in scored.values():
        values = values * (y_weight[start:stop, None] * x_weight)
        if left is not None:
            values[:, :, x.enter : x.full] += left[:, start:stop]

        def among(
            first: int, end: int, start: int = start, stop: int = stop
        ) -> tuple[slice, slice]:
            """The rows of this block in first..end, counted from the block and from `first`."""
            a, b = max(start, first), max(start, first, min(stop, end))
            return slice(a - start, b - start), slice(a - first, b - first)

        here, there = among(y.enter, y.full)
        if above is not None:
            values[:, here, : x.fade] += above[:, there]
        if x.fade < x.leave:
            if right is None:
                right = torch.empty(len(values), y.stop, x.leave - x.fade)
            right[:, start:stop] = values[:, :, x.fade : x.leave]
        if y.fade < y.leave:
            if below is None:
                below = torch.empty(len(values), y.leave - y.fade, x.fade)
            here, there = among(y.fade, y.leave)
            below[:, there] = values[:, here, : x.fade]
        here, there = among(y.enter, y.fade)
        labels[there] = values[:, here, x.enter : x.fade].argmax(0).numpy()
    for file, rest in (
        (_right(parts, tile.row, tile.column), right),
        (_below(parts, tile.row, tile.column), below),
    ):
        if rest is not None:
            _save(file, rest.numpy())
    return labels


def _inside(span: Span) -> tuple[Span, Any]:
    """A span counted from its tile's first pixel, and the weights of its pixels (T,)."""
    import torch

    own = Span(*(at - span.start for at in span))
    at = torch.arange(own.stop) + 0.5
    ramp = max(own.full - own.enter, own.leave - own.fade, 1)  # pixels
    rising = ((at - own.enter) / ramp).clamp(0, 1) if own.full > own.enter else torch.ones(own.stop)
    falling = (
        ((own.leave - at) / ramp).clamp(0, 1) if own.leave > own.fade else torch.ones(own.stop)
    )
    return own, rising * falling


def _labels(parts: Path, tile: Tile) -> Path:
    return parts / f"{tile.row}-{tile.column}.npy"


def _right(parts: Path, row: int, column: int) -> Path:
    return parts / f"{row}-{column}-right.npy"


def _below(parts: Path, row: int, column: int) -> Path:
    return parts / f"{row}-{column}-below.npy"


def _save(path: Path, array: np.ndarray) -> None:
    write_atomically(path, lambda file: np.save(file, array))


def _load(path: Path) -> Any:
    """A tensor that was saved; None if there is none: the neighbour has no data, or no ramp."""
    import torch

    return torch.from_numpy(np.load(path)) if path.exists() else None
