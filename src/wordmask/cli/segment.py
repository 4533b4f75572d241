"""`wordmask segment`: label photographs by words."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmask.cli import common, outputs
from wordmask.cli.outputs import Picture, Record
from wordmask.errors import WordmaskError, unknown

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress
    from rich.table import Table

    from wordmask.encoding import Encoding
    from wordmask.scoring import Scored
    from wordmask.segmentation import Segmentation
    from wordmask.vocabulary import Background, Vocabulary

LOW_MEMORY_GROUP = 16  # pictures for which each network is loaded once with --low-memory
MOST_ROWS = 25
LONGEST_NAME = 48


def segment(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUTS",
            help="Pictures: files, folders (with those below), patterns such as 'photos/*.jpg'.",
            show_default=False,
        ),
    ],
    classes: common.Classes = None,
    classes_file: common.ClassesFile = None,
    background: common.BackgroundText = "auto",
    method: common.MethodName = "cliper",
    variant: common.Variant = None,
    assignments: common.Assignments = None,
    refine: common.Refine = None,
    short_side: common.ShortSide = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="N[,STRIDE]",
            help="Slide windows of N pixels over the resized picture, by half a window unless "
            "STRIDE is given; 0: take it whole.",
            show_default="the method's",
            rich_help_panel="Method",
        ),
    ] = None,
    model: common.Model = common.DEFAULT_MODEL,
    device: common.Device = None,
    dtype: common.Dtype = None,
    offline: common.Offline = False,
    vfm: common.Vfm = None,
    diffusion: common.Diffusion = None,
    sam: common.Sam = None,
    classifier: common.Classifier = None,
    low_memory: common.LowMemory = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Image-level labels: only these words get pixels (pseudo-masks for weak "
            "supervision). A CSV file, a row a picture: its name, then its words.",
            rich_help_panel="Words",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder for the results.", rich_help_panel="Results"
        ),
    ] = Path("masks"),
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            metavar="LIST",
            help="Among labels (NAME_labels.png, pixel values are labels), overlay "
            "(NAME_overlay.jpg, colours over the photo and a legend), scores (NAME_scores.npz, "
            "class scores on the patch grid), json (NAME.json, pixel shares and how they came "
            "about).",
            show_default="labels,overlay,json",
            rich_help_panel="Results",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Make results again that are there, and replace those of other settings.",
            rich_help_panel="Results",
        ),
    ] = False,
    on_error: Annotated[
        str,
        typer.Option(
            metavar="stop|skip",
            help="At a picture that cannot be used: stop with exit code 2, or go on, leave it out "
            "and end with exit code 1.",
            rich_help_panel="Pictures",
        ),
    ] = "stop",
    max_pixels: common.MaxPixels = None,
) -> None:
    """Label every pixel of photographs with the one of your words that it fits best.

    wordmask segment photo.jpg --classes "cat; sofa, couch; window"

    Results are named after the pictures and keep the folders below a folder that was given. A
    second run goes on where the first one stopped: pictures whose results are there, made from the
    same file with the same settings, are skipped.

    Exit codes: 0 all went well, 1 pictures were left out (--on-error skip), 2 wrong usage, bad
    input or results that cannot be written, 130 interrupted.
    """
    chosen = read_formats(formats)
    if on_error not in ("stop", "skip"):
        raise unknown("--on-error", on_error, ("stop", "skip"))
    words = common.read_words(classes, classes_file)

    from wordmask.images import read_image
    from wordmask.methods import create_method
    from wordmask.towers.auxiliary import KINDS
    from wordmask.vocabulary import Background

    strategy = Background.parse(background)
    strategy.check(words)
    options = common.read_options(method, assignments, short_side, window)
    built, variant = create_method(method, variant, options)
    refiners = common.read_refiners(refine, assignments)
    networks = common.read_networks(vfm=vfm, diffusion=diffusion, sam=sam, classifier=classifier)
    common.check_networks(networks, built, refiners)
    pictures = outputs.name_pictures(inputs, out)
    if labels is not None:
        pictures = read_labels(labels, pictures, words)
    settings = _settings(words, strategy, method, variant, built.options(), model, dtype)
    used = {built.network, *(refiner.network for refiner in refiners)} - {"none"}
    settings |= {
        "refiners": [{"name": r.name} | r.options() for r in refiners],
        "networks": {
            kind: _resolved(networks.get(kind, KINDS[kind].source)) for kind in sorted(used)
        },
        "labels": labels is not None,
    }
    record = Record(out, settings, overwrite)
    todo = [picture for picture in pictures if not record.is_done(picture, chosen)]
    if not todo:
        _print_end(_Tally(words.names), pictures, todo, out, chosen)
        return
    if on_error == "stop":  # a single bad picture is told before a model is loaded
        limit = {} if max_pixels is None else {"max_pixels": max_pixels or None}
        read_image(todo[0].path, **limit)
    segmenter = common.load_segmenter(
        model,
        method,
        variant,
        options,
        device=device,
        dtype=dtype,
        offline=offline,
        max_pixels=max_pixels,
        refiners=refiners,
        networks=networks,
        low_memory=low_memory,
    )
    if not low_memory:
        with common.busy("loading the networks beside CLIP"):
            segmenter.networks.load(sorted(used))
    with common.busy("encoding the words"):
        texts = segmenter.encode_text(words, strategy)
    tally = _Tally(words.names)
    at_once = LOW_MEMORY_GROUP if low_memory else 1
    with _progress() as bar:
        task = bar.add_task("", total=len(todo))
        for first in range(0, len(todo), at_once):
            group = todo[first : first + at_once]
            bar.update(task, description=common.shown(group[0].path.name))
            encoded: list[tuple[Picture, Encoding]] = []
            for picture in group:
                with _left_out(picture, on_error, tally):
                    encoded.append((picture, segmenter.encode(picture.path)))
            scored: list[Scored] = []
            if low_memory:
                scored = list(segmenter.score_all([encoding for _, encoding in encoded], texts))
            for number, (picture, encoding) in enumerate(encoded):
                with _left_out(picture, on_error, tally):
                    one = scored[number] if low_memory else segmenter.score(encoding, texts)
                    result = one.segmentation(picture.labels)
                    if not tally.pictures:
                        record.begin(todo)
                    outputs.write_results(result, picture, words, out, chosen)
                    record.finish(picture)
                    tally.add(result)
                    if bar.disable:
                        at = first + 1 + group.index(picture)
                        path = common.shown(picture.path)
                        print(f"[{at}/{len(todo)}] {path}: {_line(result)}", file=sys.stderr)
            bar.advance(task, len(group))
    _print_end(tally, pictures, todo, out, chosen)
    if tally.failed:
        raise typer.Exit(1)


def read_formats(texts: Sequence[str] | None) -> list[str]:
    """Formats from `labels,overlay` or repeated options, each once, in the order of the table."""
    given = ["labels", "overlay", "json"]
    if texts:
        given = [name.strip() for text in texts for name in text.split(",")]
    for name in given:
        if name not in outputs.SUFFIXES:
            raise unknown("--format", name, outputs.SUFFIXES)
    return [name for name in outputs.SUFFIXES if name in given]


def _settings(
    words: Vocabulary,
    background: Background,
    method: str,
    variant: str,
    options: dict[str, Any],
    model: str,
    dtype: str | None,
) -> dict[str, Any]:
    """All that labels depend on."""
    from wordmask.vocabulary import TEMPLATE_LISTS, templates

    if options["templates"] not in TEMPLATE_LISTS:  # a file may change
        options = {**options, "templates": templates(options["templates"])}
    return {
        "classes": words.classes,
        "background": background.describe(),
        "method": method,
        "variant": variant,
        "options": options,
        "model": _resolved(model),
        "dtype": dtype,
    }


def _resolved(source: str) -> str:
    return os.path.abspath(source) if os.path.isdir(source) else source


def read_labels(file: Path, pictures: Sequence[Picture], words: Vocabulary) -> list[Picture]:
    """The pictures with their image-level labels from a CSV file: a picture's name, then its words.

    A picture is found by its path, its file name or its name without suffix. Rows of other pictures
    are passed over, so that one file serves for parts of a data set; so are empty cells.

    Raises:
        WordmaskError: a file that cannot be read, a picture without a row or with two, a word that
            is no class.
    """
    import csv

    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WordmaskError(f"cannot read the labels in {common.shown(file)}: {error}") from None
    table: dict[str, tuple[str, ...]] = {}
    for name, *labels in rows:
        if name in table:
            raise WordmaskError(f"{common.shown(file)} has two rows for {name!r}; leave one")
        table[name] = tuple(dict.fromkeys(label for label in labels if label))
    labelled = []
    for picture in pictures:
        path = picture.path
        key = next((x for x in (str(path), path.name, path.stem) if x in table), None)
        if key is None:
            raise WordmaskError(
                f"{common.shown(file)} has no row for {common.shown(path)}; its first column holds "
                "file names"
            )
        for label in table[key]:
            if label not in words.names:
                raise unknown(f"label of {key}", label, words.names)
        labelled.append(replace(picture, labels=table[key]))
    return labelled


@contextmanager
def _left_out(picture: Picture, on_error: str, tally: _Tally) -> Iterator[None]:
    """What happens at a picture that cannot be used: stop, or say so, count it and go on."""
    try:
        yield
    except (WordmaskError, MemoryError, RuntimeError) as error:
        reason = _reason(error, picture.path)
        if on_error == "stop":
            raise WordmaskError(reason) from error
        print(f"wordmask: skipped: {common.one_line(reason)}", file=sys.stderr)
        tally.failed += 1


def _reason(error: Exception, path: Path) -> str:
    """Why a picture cannot be segmented, with its path; errors of the program itself pass."""
    text = str(error)
    if not isinstance(error, WordmaskError):
        if not isinstance(error, MemoryError) and "memory" not in text.lower():
            raise error
        text = "there is not enough memory for it; try a smaller --short-side"
    return text if common.shown(path) in text else f"cannot segment {common.shown(path)}: {text}"


def _progress() -> Progress:
    """A bar on a terminal; elsewhere it is silent and plain lines are printed."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    return Progress(
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Remaining(elapsed_when_finished=True),
        TextColumn("{task.description}", markup=False),
        console=common.console(stderr=True),
        transient=True,
        disable=not common.is_terminal(sys.stderr),
    )


# -- what is said at the end --------------------------------------------------------------------


class _Tally:
    """Pixels of every class over all pictures of a run, and how many pictures there were."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self.pictures = 0
        self.failed = 0
        self.pixels: np.ndarray | Any = 0  # (C + 1,), label 0 first
        self.seen: np.ndarray | Any = 0  # pictures in which a label occurs

    def add(self, result: Segmentation) -> None:
        """Count a result."""
        import numpy as np

        counts = np.bincount(result.labels.ravel(), minlength=len(self.names) + 1)
        self.pixels = self.pixels + counts
        self.seen = self.seen + (counts > 0)
        self.pictures += 1


def _line(result: Segmentation) -> str:
    """`cat 41 %, sofa 20 %, unlabelled 39 %`."""
    from wordmask.drawing import UNLABELLED, percent

    shares = result.shares()
    names = list(result.found[:5])
    more = len(result.found) - len(names)
    parts = [f"{common.one_line(name, LONGEST_NAME)} {percent(shares[name])}" for name in names]
    parts += [f"{more} more"] if more > 0 else []
    parts += [f"{UNLABELLED} {percent(shares[UNLABELLED])}"] if shares[UNLABELLED] else []
    return ", ".join(parts)


def _print_end(
    tally: _Tally,
    pictures: Sequence[Picture],
    todo: Sequence[Picture],
    out: Path,
    formats: Sequence[str],
) -> None:
    """The classes found and what became of the pictures."""
    if tally.pictures:
        common.console().print(_table(tally))
    skipped = len(pictures) - len(todo)
    parts = [f"{tally.pictures} {'picture' if tally.pictures == 1 else 'pictures'} segmented"]
    parts += [f"{skipped} skipped as done before (--overwrite makes them again)"] if skipped else []
    parts += [f"{tally.failed} failed"] if tally.failed else []
    print(", ".join(parts))
    if len(pictures) == 1 and not tally.failed:
        print("\n".join(common.shown(file) for file in pictures[0].files(out, formats)))
    elif tally.pictures or skipped:
        print(f"results in {common.shown(out)}")


def _table(tally: _Tally) -> Table:
    """Classes found, most pixels first; for several pictures with the number that show each."""
    from rich import box
    from rich.style import Style
    from rich.table import Table
    from rich.text import Text

    from wordmask.drawing import UNLABELLED, palette, percent

    many = tally.pictures > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", width=2)
    table.add_column("class", overflow="fold")
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("pictures" if many else "pixels", justify="right", no_wrap=True)
    colours = palette(len(tally.names)).tolist()
    total = int(tally.pixels.sum())
    order = sorted(range(1, len(colours)), key=lambda i: -tally.pixels[i])
    order = [i for i in order if tally.pixels[i]]
    rest = order[MOST_ROWS:]

    def row(chip: Text, name: str, pixels: int, pictures: int | None, style: str = "") -> None:
        last = f"{pixels:,}" if not many else "" if pictures is None else str(pictures)
        table.add_row(chip, Text(name), percent(pixels / total), last, style=style)

    for i in order[:MOST_ROWS]:
        red, green, blue = colours[i]
        chip = Text("  ", Style(bgcolor=f"rgb({red},{green},{blue})"))
        name = common.one_line(tally.names[i - 1], LONGEST_NAME)
        row(chip, name, int(tally.pixels[i]), int(tally.seen[i]))
    if rest:
        row(Text(""), f"{len(rest)} more classes", int(sum(tally.pixels[i] for i in rest)), None)
    if tally.pixels[0]:
        row(Text(""), UNLABELLED, int(tally.pixels[0]), int(tally.seen[0]), style="dim")
    missing = len(tally.names) - len(order)
    if missing:
        table.caption = f"{missing} of {len(tally.names)} classes not found"
    return table
