"""`wordmask segment`: label photographs by words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordmask.cli import common, complete
from wordmask.cli.groups import (
    FullMethodOptions,
    LowMemory,
    MaxPixels,
    ModelOptions,
    WordOptions,
    expand,
)

if TYPE_CHECKING:
    from rich.table import Table

    from wordmask.batch import FolderJob, Processed, Summary
    from wordmask.segmentation import Segmentation

MOST_ROWS = 25


@expand
def segment(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUTS",
            help="Pictures: files, folders (with those below), patterns such as 'photos/*.jpg'.",
            show_default=False,
        ),
    ],
    words: WordOptions,
    method: FullMethodOptions,
    model: ModelOptions,
    low_memory: LowMemory = False,
    image_labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Image-level labels: only these words get pixels (pseudo-masks for weak "
            "supervision). A CSV file, one row per picture: its name, then its words.",
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
            "class scores on the patch grid), json (NAME.json, pixel shares and provenance).",
            show_default="labels,overlay,json",
            autocompletion=complete.formats,
            rich_help_panel="Results",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Make existing results again, and replace those of other settings.",
            rich_help_panel="Results",
        ),
    ] = False,
    on_error: Annotated[
        str,
        typer.Option(
            metavar="stop|skip",
            help="At a picture that cannot be used: stop with exit code 2, or skip it and end with "
            "exit code 1.",
            rich_help_panel="Pictures",
        ),
    ] = "stop",
    max_pixels: MaxPixels = None,
) -> None:
    """Label every pixel of photographs with the best matching of your words.

    wordmask segment photo.jpg --classes "cat; sofa, couch; window"

    Results are named after the pictures and keep the subfolders of a folder that was given. A
    second run resumes the first: pictures with results made from the same file with the same
    settings are skipped.

    Exit codes: 0 success, 1 pictures were left out (--on-error skip), 2 wrong usage, bad input or
    results that cannot be written, 130 interrupted.
    """
    from wordmask.batch import FORMATS, FolderJob, check_formats, run_settings

    given = ",".join(formats or FORMATS).split(",")
    chosen = check_formats(name.strip() for name in given)
    vocabulary, background = words.read()

    from wordmask.devices import pick_device, pick_dtype
    from wordmask.images import DEFAULT_MAX_PIXELS
    from wordmask.towers.auxiliary import KINDS
    from wordmask.towers.built_in import own_networks

    built, variant = method.read(model.model)
    refiners = method.read_refiners()
    sources = {kind.name: kind.source for kind in KINDS.values()} | own_networks(model.model)
    sources |= model.check(built, refiners)
    dtype = pick_dtype(model.dtype, pick_device(model.device))
    job = FolderJob(
        inputs,
        vocabulary,
        out,
        run_settings(built, variant, refiners, sources, model.model, dtype),
        background=background,
        formats=chosen,
        overwrite=overwrite,
        on_error=on_error,
        image_labels=image_labels,
    )
    job.check_first(DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels or None)
    words.echo(vocabulary, background)
    if not job.todo:
        _print_end(job)
        return
    segmenter = model.load(built, variant, refiners, max_pixels=max_pixels, low_memory=low_memory)
    with common.progress_bar() as bar:
        task = bar.add_task("segmenting", total=len(job.todo), unit="pictures")

        def report(one: Processed) -> None:
            path = common.shown(one.picture.path)
            bar.update(task, advance=1, detail=common.shown(one.picture.path.name))
            if one.result is None:
                print(f"wordmask: skipped: {common.one_line(one.reason)}", file=sys.stderr)
            elif bar.disable:
                common.say(f"[{one.number}/{one.total}] {path}: {_line(one.result)}")

        job.run(segmenter, report)
    _print_end(job)
    if job.summary.failed:
        raise typer.Exit(1)


# -- output -------------------------------------------------------------------------------------


def _line(result: Segmentation) -> str:
    """`cat 41 %, sofa 20 %, unlabelled 39 %`."""
    from wordmask.drawing import UNLABELLED, percent

    shares = result.shares()
    names = list(result.found[:5])
    more = len(result.found) - len(names)
    parts = [
        f"{common.one_line(name, common.LONGEST_NAME)} {percent(shares[name])}" for name in names
    ]
    parts += [f"{more} more"] if more > 0 else []
    parts += [f"{UNLABELLED} {percent(shares[UNLABELLED])}"] if shares[UNLABELLED] else []
    return ", ".join(parts)


def _print_end(job: FolderJob) -> None:
    """Print the classes found and the number of pictures segmented, skipped and failed."""
    summary, count = job.summary, job.summary.segmented
    if count:
        common.console().print(_table(summary))
    parts = [f"{count} {'picture' if count == 1 else 'pictures'} segmented"]
    if summary.skipped:
        parts += [f"{summary.skipped} skipped as done before (--overwrite makes them again)"]
    parts += [f"{len(summary.failed)} failed"] if summary.failed else []
    print(", ".join(parts))
    if len(job.pictures) == 1 and not summary.failed:
        print("\n".join(common.shown(file) for file in job.pictures[0].files(job.out, job.formats)))
    elif count or summary.skipped:
        print(f"results in {common.shown(job.out)}")


def _table(summary: Summary) -> Table:
    """Classes found, most pixels first; for several pictures with the number that show each."""
    from rich import box
    from rich.style import Style
    from rich.table import Table
    from rich.text import Text

    from wordmask.drawing import UNLABELLED, palette, percent

    many = summary.segmented > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", width=2)
    table.add_column("class", overflow="fold")
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("pictures" if many else "pixels", justify="right", no_wrap=True)
    colours = palette(len(summary.names)).tolist()
    total = int(summary.pixels.sum())
    order = sorted(range(1, len(colours)), key=lambda i: -summary.pixels[i])
    order = [i for i in order if summary.pixels[i]]
    rest = order[MOST_ROWS:]

    def row(chip: Text, name: str, pixels: int, pictures: int | None, style: str = "") -> None:
        last = f"{pixels:,}" if not many else "" if pictures is None else str(pictures)
        table.add_row(chip, Text(name), percent(pixels / total), last, style=style)

    for i in order[:MOST_ROWS]:
        red, green, blue = colours[i]
        chip = Text("  ", Style(bgcolor=f"rgb({red},{green},{blue})"))
        name = common.one_line(summary.names[i - 1], common.LONGEST_NAME)
        row(chip, name, int(summary.pixels[i]), int(summary.occurrences[i]))
    if rest:
        row(Text(""), f"{len(rest)} more classes", int(sum(summary.pixels[i] for i in rest)), None)
    if summary.pixels[0]:
        row(Text(""), UNLABELLED, int(summary.pixels[0]), int(summary.occurrences[0]), style="dim")
    missing = len(summary.names) - len(order)
    if missing:
        table.caption = f"{missing} of {len(summary.names)} classes not found"
    return table
