"""The same pictures under several methods, side by side, with the target where there is one."""

from __future__ import annotations

import base64
import io
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wordmask import drawing
from wordmask.datasets import VOID
from wordmask.datasets.reading import IndexMask, match_picture, table
from wordmask.errors import WordmaskError
from wordmask.evaluation.plan import Plan, check
from wordmask.evaluation.protocols import Entry
from wordmask.evaluation.protocols.protocol import FIELDS, read_assignments
from wordmask.evaluation.runs import load, make_runs
from wordmask.evaluation.sharing import share_encoders
from wordmask.evaluation.views import view_picture, view_target
from wordmask.files import write_atomically
from wordmask.images import read_image
from wordmask.metrics import Confusion
from wordmask.options import parse_assignment
from wordmask.progress import stage, steps
from wordmask.refiners import REFINERS
from wordmask.registry import split_variant
from wordmask.segmenter import Segmenter
from wordmask.text_queries import TextQueries

FEW = 5  # columns up to which panels are large
LARGE, SMALL = 320, 220  # height of a panel in pixels
ALPHA = 0.65  # of the classes over the picture
SAME_FOR_ALL = {"vocabulary": "all", "image_labels": "none", "regions": "none"}  # of protocols
SUFFIXES = (".png", ".html")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1e; margin: 1.5rem; }
h1 { font-size: 1.3rem; } p { color: #606068; max-width: 60rem; }
.wide { overflow-x: auto; } td, th { padding: .25rem; text-align: center; font-size: 13px; }
th { position: sticky; top: 0; background: #fff; } td.name { text-align: right; color: #606068; }
.chip { display: inline-block; width: .9em; height: .9em; margin: 0 .35em 0 1em; }
"""


@dataclass(frozen=True, eq=False)
class Contender:
    """One column: a method on loaded networks, and its words.

    Attributes:
        label: its title.
        view: the part of a picture that is segmented, see `Protocol.view`.
    """

    label: str
    segmenter: Segmenter
    texts: TextQueries
    view: str = "original"


@dataclass(frozen=True, eq=False)
class Row:
    """One picture: its name, (H, W, 3) uint8, target (H, W) or None, and labels (H, W) by method.

    The target and the labels of classes count from 1; 0 is none of them, VOID is left out.
    """

    name: str
    image: np.ndarray
    target: np.ndarray | None
    labels: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Sheet:
    """Pictures as rows, methods as columns.

    Attributes:
        methods: titles of the columns.
        names: of the classes.
        rows: the pictures.
        has_background: whether label 0 is scored as a class.
        note: what the sheet shows, in a sentence.
    """

    methods: tuple[str, ...]
    names: tuple[str, ...]
    rows: tuple[Row, ...]
    has_background: bool = False
    note: str = ""

    @property
    def title(self) -> str:
        """How much is on the sheet."""
        counts = (len(self.rows), "picture"), (len(self.methods), "method")
        return ", ".join(f"{n} {word}{'s' if n != 1 else ''}" for n, word in counts)

    @property
    def has_targets(self) -> bool:
        """Whether any picture has a target."""
        return any(row.target is not None for row in self.rows)

    def miou(self, row: Row, column: int) -> float | None:
        """The mIoU of a method on one picture, 0 to 1, over classes in target or prediction."""
        if row.target is None or not (row.target != VOID).any():
            return None
        counts = Confusion(len(self.names), background=self.has_background)
        counts.update(row.target, row.labels[column])
        mean = counts.mean_iou()
        return None if np.isnan(mean) else float(mean)

    @cached_property
    def found(self) -> list[int]:
        """Labels that occur anywhere on the sheet, in their order."""
        found: set[int] = set()
        for row in self.rows:
            for labels in (*row.labels, *([] if row.target is None else [row.target])):
                found |= set(np.unique(labels).tolist())
        return sorted(found)

    @property
    def numbers(self) -> list[int]:
        """The label of each entry of the legend where colours alone may not do, else nothing."""
        if not drawing.need_numbers([one for one in self.found if one != VOID]):
            return []
        return [one for one in self.found if one not in (0, VOID)] + [0]

    @property
    def legend(self) -> list[tuple[str, tuple[int, ...] | None]]:
        """Names and colours of the classes that occur anywhere on the sheet, and unlabelled."""
        colours = drawing.palette(len(self.names)).tolist()
        entries: list[tuple[str, tuple[int, ...] | None]] = [
            (self.names[i - 1], tuple(colours[i])) for i in self.found if i not in (0, VOID)
        ]
        unlabelled = [(drawing.UNLABELLED, None)] if {0, VOID} & {*self.found} else []
        return [*entries, *unlabelled]

    def image(self) -> Image.Image:
        """The sheet as one picture, with the legend below."""
        height = LARGE if len(self.methods) <= FEW else SMALL
        panels, titles = [], []
        for number, row in enumerate(self.rows):
            for column, (panel, title) in enumerate(self._panels(row, height)):
                panels.append(panel)
                titles.append(title if not (number and column) or self.has_targets else "")
        columns = len(panels) // len(self.rows)
        strip = drawing.strip(panels, titles, columns=columns, height=height)
        head = drawing.headline(self.title, self.note, strip.width)
        foot = drawing.legend(self.legend, strip.width, numbers=self.numbers)
        return drawing.stack([head, strip, foot])

    def html(self) -> str:
        """The sheet as one self-contained page."""
        lines = []
        for row in self.rows:
            cells = "".join(
                f'<td><img alt="" src="data:image/jpeg;base64,{_jpeg(panel)}"><br>'
                f"{escape(title)}</td>"
                for panel, title in self._panels(row, LARGE)
            )
            lines.append(f'<tr><td class="name">{escape(row.name)}</td>{cells}</tr>')
        numbers = [f"{i} " if i else "" for i in self.numbers] or [""] * len(self.legend)
        chips = "".join(
            f'<span class="chip" style="background:{_css(colour)}"></span>{number}{escape(name)}'
            for number, (name, colour) in zip(numbers, self.legend, strict=False)
        )
        wide = f"calc((100vw - 13rem) / {1 + self.has_targets + len(self.methods)})"
        style = f"{STYLE}td img {{ max-width: max(11rem, {wide}); }}"
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>wordmask compare</title><style>{style}</style></head>\n<body>"
            f"<h1>{escape(self.title)}</h1>\n<p>{escape(self.note)}</p>\n<p>{chips}</p>\n"
            f'<div class="wide"><table>\n{chr(10).join(lines)}\n</table></div></body></html>\n'
        )

    def save(self, path: str | Path) -> None:
        """Write the sheet, as a PNG or as HTML by the suffix.

        Raises:
            WordmaskError: another suffix.
        """
        path = check_suffix(Path(path))
        if path.suffix.lower() == ".html":
            text = self.html().encode()
            write_atomically(path, lambda file: file.write(text))
        else:
            picture = self.image()
            write_atomically(path, partial(picture.save, format="PNG"))

    def _panels(self, row: Row, height: int) -> Iterator[tuple[Image.Image, str]]:
        """Picture, target and labels of one row with their titles."""
        width = max(round(row.image.shape[1] * height / row.image.shape[0]), 1)
        size = (
            (width, height)
            if width <= 4 * height
            else (4 * height, max(4 * height * height // width, 1))
        )
        small = Image.fromarray(row.image).resize(size, Image.Resampling.LANCZOS)
        yield small, row.name
        if row.target is not None:
            target = np.where(row.target == VOID, np.uint16(0), row.target)
            yield self._painted(small, target), "target"
        elif self.has_targets:
            yield Image.new("RGB", size, drawing.WHITE), "no target"
        for column, (method, labels) in enumerate(zip(self.methods, row.labels, strict=True)):
            quality = self.miou(row, column)
            share = "" if quality is None else f": {100 * quality:.0f}"
            yield self._painted(small, labels), method + share

    def _painted(self, image: Image.Image, labels: np.ndarray) -> Image.Image:
        index = [np.arange(n) * m // n for n, m in zip(image.size[::-1], labels.shape, strict=True)]
        shown = labels[index[0][:, None], index[1]]
        return drawing.overlay(
            image, shown, self.names, ALPHA, legend=False, numbers=bool(self.numbers)
        )


def compare(
    segmenter: Segmenter,
    pictures: Sequence[Any],
    words: Any,
    methods: Sequence[str],
    background: Any = None,
    targets: Sequence[Any] | str | Path | None = None,
    settings: Iterable[str] = (),
) -> Sheet:
    """Segment pictures by several methods, each with its own defaults, as `segment` does.

    Methods that read the same pixels share the pass of the network.

    Args:
        segmenter: the networks; its method is not used.
        pictures: paths, PIL images or uint8 arrays (H, W, 3).
        words: as for `Segmenter.encode_text`.
        background: as for `Segmenter.encode_text`.
        methods: `METHOD[:VARIANT][+REFINER[:VARIANT]]...`, as for `evaluate`.
        targets: for each picture None or labels (H, W): i is the i-th class, 0 none of them, 255 in
            8 bits and 65535 left out; or a folder with a PNG of the name of each picture.
        settings: `METHOD.OPTION=VALUE`, `OPTION=VALUE` of all methods, `REFINER.OPTION=VALUE`.

    Raises:
        WordmaskError: a picture, a target, a method or a setting that cannot be used.
    """
    if not pictures or not methods:
        raise WordmaskError("got no picture or no method to compare; name at least one of each")
    if (
        targets is not None
        and not isinstance(targets, (str, Path))
        and len(targets) != len(pictures)
    ):
        raise WordmaskError(f"got {len(targets)} targets for {len(pictures)} pictures")
    changes = tuple(settings)
    contenders = [_contender(segmenter, text, words, background, changes) for text in methods]
    texts = contenders[0].texts
    label = _Labeller(contenders)
    rows = []
    for i, given in enumerate(steps("pictures", pictures)):
        image = read_image(given, max_pixels=segmenter.max_pixels)
        name = Path(given).name if isinstance(given, (str, Path)) else f"picture {i + 1}"
        if targets is None:
            target = None
        elif isinstance(targets, (str, Path)):
            target = _read_target(Path(targets), given, texts.classes)
        else:
            target = _check_target(targets[i], image, texts.classes)
        rows.append(Row(name, image, target, label(image, name)))
    note = f"{segmenter.source}. Each method with its own defaults{_but(changes)}."
    has_background = texts.strategy.kind != "none" and any(
        row.target is not None and (row.target == 0).any() for row in rows
    )
    return _finish(contenders, rows, has_background, note)


def compare_benchmark(
    plan: Plan, count: int = 4, ids: Sequence[str] = (), base: Segmenter | None = None
) -> Sheet:
    """Segment pictures of a benchmark by several methods under their protocols.

    Args:
        plan: the methods, one data set, the protocol and the networks, as for `evaluate`.
        count: number of pictures, evenly spaced over the data set.
        ids: these pictures in place of `count`.
        base: the networks; None loads those of the plan.

    Raises:
        WordmaskError: more than one data set, an id that is not in it, and all of `evaluate`'s.
    """
    opened = check(plan)
    if len(opened) != 1:
        raise WordmaskError(f"got {len(opened)} data sets to compare on; name one")
    ((name, samples),) = opened.items()
    bench = samples.benchmark
    by_id = {sample.id: sample for sample in samples}
    for one in ids:
        if one not in by_id:
            raise WordmaskError(
                f"{name} has no picture {one!r}; its first is {next(iter(by_id))!r}"
            )
    if count < 1:
        raise WordmaskError(f"got {count} pictures to compare; give 1 or more")
    step = max(len(samples) / count, 1)
    every = [samples[int((i + 0.5) * step)] for i in range(min(count, len(samples)))]
    chosen = [by_id[one] for one in ids] or every
    runs = make_runs(plan, base or load(plan), samples)
    for run in runs:
        known = {key: run.protocol.settings()[key] for key in SAME_FOR_ALL}
        for key in (key for key, value in known.items() if value != SAME_FOR_ALL[key]):
            raise WordmaskError(
                f"{run.label} has {key}={known[key]} here, but methods are compared with the same "
                f"words and nothing known of a picture; add --set {key}={SAME_FOR_ALL[key]}"
            )
    views = {run.protocol.view for run in runs}
    if len(views) > 1:
        raise WordmaskError(
            f"the methods look at different parts of the pictures ({', '.join(sorted(views))}); "
            "add --set view=original"
        )
    contenders = [Contender(r.label, r.segmenter, r.texts, r.protocol.view) for r in runs]
    label, view = _Labeller(contenders), views.pop()
    rows = []
    for sample in steps("pictures", chosen):
        image = read_image(sample.image)
        shown = np.concatenate(view_picture(image, view), axis=1)
        rows.append(
            Row(sample.id, shown, view_target(sample.target(), view), label(image, sample.id))
        )
    note = f"{bench.title} ({name}), {contenders[0].segmenter.source}, protocol {plan.protocol}"
    note += f"{_but(plan.settings)}."
    return _finish(contenders, rows, bench.has_background, note)


class _Labeller:
    """Labels one picture by every contender; encodings and passes of the network are shared."""

    def __init__(self, contenders: Sequence[Contender]):
        self.contenders = contenders
        self.keys = [(c.view, c.segmenter.method.encoding_key()) for c in contenders]
        users = zip(self.keys, [one.segmenter for one in contenders], strict=True)
        self.encoders, self.towers = share_encoders(users)

    def __call__(self, image: np.ndarray, name: str) -> tuple[np.ndarray, ...]:
        encoded: dict[Hashable, list[Any]] = {}
        found = []
        for key, one in zip(self.keys, self.contenders, strict=True):
            if key not in encoded:
                pieces = view_picture(image, one.view)
                encoder = self.encoders[key]
                encoded[key] = [encoder.encode(piece, name=name) for piece in pieces]
            with stage(one.label):
                parts = [one.segmenter.score(piece, one.texts).labels() for piece in encoded[key]]
            found.append(np.concatenate(parts, axis=1))
        for tower in self.towers:
            tower.forget()
        return tuple(found)


def _contender(
    base: Segmenter, text: str, words: Any, background: Any, settings: Iterable[str]
) -> Contender:
    """A method with its own defaults and what `settings` change."""
    entry = Entry.parse(text)
    given = read_assignments(entry.method, settings)
    for field in FIELDS:
        if field in given:
            raise WordmaskError(f"got --set {field}=..., which is for benchmarks; leave it out")
    own = {key: value for key, value in given.items() if "." not in key}
    refiners = []
    for name in entry.refiners or ():
        short = split_variant(name)[0]
        options = [
            parse_assignment(REFINERS, short, f"{key.partition('.')[2]}={value}")
            for key, value in given.items()
            if key.partition(".")[0] == short and "." in key
        ]
        refiners.append((name, dict(options)))
    segmenter = base.with_method(entry.method, entry.variant, own, refiners)
    return Contender(text, segmenter, segmenter.encode_text(words, background))


def _but(settings: Sequence[str]) -> str:
    return f", but {', '.join(settings)}" if settings else ""


def _finish(
    contenders: Sequence[Contender], rows: Sequence[Row], has_background: bool, note: str
) -> Sheet:
    labels = tuple(one.label for one in contenders)
    sheet = Sheet(labels, contenders[0].texts.names, tuple(rows), has_background, note)
    if not sheet.has_targets:
        return sheet
    more = " Numbers: the mIoU of the picture alone, %."
    return Sheet(labels, sheet.names, sheet.rows, has_background, note + more)


def check_suffix(path: Path) -> Path:
    """The path of a sheet.

    Raises:
        WordmaskError: it is neither a PNG nor an HTML file.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise WordmaskError(f"got {path} for the sheet; give a name that ends in .png or .html")
    return path


def _read_target(folder: Path, given: Any, classes: int) -> np.ndarray | None:
    """The target of a picture in a folder, None if it has none."""
    if not folder.is_dir():
        raise WordmaskError(f"got {folder} for the targets; it is not a folder")
    if not isinstance(given, (str, Path)):
        raise WordmaskError("got targets as a folder and a picture in memory; give its path")
    picture = Path(given)
    path = folder / f"{picture.stem}.png"
    if not path.is_file():
        return None
    known = {i: i for i in range(classes + 1)}
    mask = IndexMask(path, table(known, {255, VOID} - set(known), 65536))
    return match_picture(mask(), picture, path.name)


def _check_target(target: Any, image: np.ndarray, classes: int) -> np.ndarray | None:
    if target is None:
        return None
    target = np.asarray(target)
    void = target == VOID
    if target.dtype == np.uint8 and classes < 255:
        void |= target == 255
    target = np.where(void, VOID, target.astype(np.uint16))
    if target.shape != image.shape[:2] or target[~void].max(initial=0) > classes:
        raise WordmaskError(
            f"got a target of shape {target.shape} with labels up to "
            f"{target[~void].max(initial=0)}; give {image.shape[:2]} and 0 to {classes}"
        )
    return target


def _jpeg(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return base64.b64encode(file.getvalue()).decode()


def _css(colour: tuple[int, ...] | None) -> str:
    return f"#{bytes(colour).hex()}" if colour else "#fff;border:1px solid #606068"
