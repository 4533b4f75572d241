"""`wordmask segment`: label photographs by words."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmask.cli import common, complete
from wordmask.cli.groups import (
    BackendName,
    FullMethodOptions,
    LowMemory,
    MaxPixels,
    ModelOptions,
    WordOptions,
    expand,
    read_exported,
)
from wordmask.errors import WordmaskError

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from wordmask.batch import FolderJob, Processed, Summary

MOST_ROWS = 25
MOST_LINES = 10_000  # pictures of which each gets a line where no bar can be drawn
JOB = "Large jobs"


@expand
def segment(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUTS",
            help="Pictures: files, folders (with those below), patterns such as 'photos/*.jpg', "
            "lists (LIST.txt, @FILE, or - for stdin), manifests (.csv, .parquet), tar shards "
            "('a-{000..010}.tar').",
            show_default=False,
        ),
    ],
    words: WordOptions,
    method: FullMethodOptions,
    model: ModelOptions,
    low_memory: LowMemory = False,
    backend: BackendName = None,
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
            help="Among labels, overlay, json, scores, masks, cutouts, polygons and more for each "
            "picture; coco, yolo-seg, voc, cvat, label-studio and more for the whole folder. "
            "`wordmask formats` lists all.",
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
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Processes that share the pictures.",
            show_default="1; with Ray as many as there is room for",
            rich_help_panel=JOB,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="local|ray",
            help="What runs the job: this program, or Ray Data, here or on a cluster.",
            rich_help_panel=JOB,
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The Ray cluster: HOST:PORT, or auto for the one that this machine is in.",
            show_default="this machine alone",
            rich_help_panel=JOB,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Do the I-th of N parts, here or on another machine: 1/8 to 8/8. They may share "
            "the folder of results.",
            rich_help_panel=JOB,
        ),
    ] = None,
    keep_encodings: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep passes of the network here (float16), so that other words, formats, or "
            "methods that share the pass, need none.",
            rich_help_panel=JOB,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a Parquet file that says of every picture what was done, and what failed.",
            rich_help_panel=JOB,
        ),
    ] = None,
    draft: Annotated[
        bool,
        typer.Option(
            "--draft",
            help="Decode large JPEGs at a reduced size, still twice the network's: faster, for "
            "formats without the picture, as in --format labels. Labels differ a little.",
            rich_help_panel=JOB,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what would be done, and do nothing.",
            rich_help_panel=JOB,
        ),
    ] = False,
) -> None:
    """Label every pixel of pictures with the word that fits best.

    wordmask segment photo.jpg --classes "cat; sofa, couch; window"

    wordmask segment photos --classes-file words.txt --out masks --on-error skip

    Results are named after the pictures and keep the subfolders of a folder that was given. A
    second run resumes the first: pictures with results made from the same file with the same
    settings are skipped.

    Exit codes: 0 success, 1 pictures were left out (--on-error skip), 2 wrong usage, bad input or
    results that cannot be written, 130 interrupted.
    """
    from wordmask.batch import FolderJob, check_engine, run_job
    from wordmask.formats import DEFAULT, check_formats

    check_engine(engine, address)
    given = ",".join(formats or DEFAULT).split(",")
    chosen = check_formats(name.strip() for name in given)
    vocabulary, background = words.read()

    from wordmask.batch.manifest import write_manifest
    from wordmask.images import DEFAULT_MAX_PIXELS

    settings, load = _network(backend, method, model, low_memory)
    job = FolderJob(
        inputs,
        vocabulary,
        out,
        settings,
        background=background,
        formats=chosen,
        overwrite=overwrite,
        on_error=on_error,
        image_labels=image_labels,
        shard=shard,
        keep_encodings=keep_encodings,
        manifest=manifest,
        draft=draft,
    )
    if not dry_run:
        job.check_first(DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels or None)
    words.echo(vocabulary, background)
    if dry_run:
        _print_plan(job)
        return
    if not job.todo:
        job.finish()
        job.release()
        if manifest is not None:
            write_manifest(job.journal, manifest)
        _print_end(job)
        return
    segmenter = load()
    if max_pixels is not None:
        segmenter.max_pixels = max_pixels or None
    total = len(job.todo)
    with common.progress_bar() as bar:
        task = bar.add_task("segmenting", total=total, unit="pictures")

        def report(one: Processed) -> None:
            failed = f"{len(job.summary.failed)} failed, " if job.summary.failed else ""
            bar.update(task, advance=1, detail=failed + common.shown(one.picture.path.name))
            if one.pixels is None:
                print(f"wordmask: skipped: {common.one_line(one.reason)}", file=sys.stderr)
            elif bar.disable and total <= MOST_LINES:  # else now and then a line of the bar's
                shares = _line(job.summary.names, one.pixels)
                common.say(f"[{one.number}/{total}] {common.shown(one.picture.path)}: {shares}")

        run_job(job, segmenter, report, workers, engine, address)
    _print_end(job)
    if job.summary.failed:
        raise typer.Exit(1)


def _network(
    backend: str | None, method: FullMethodOptions, model: ModelOptions, low_memory: bool
) -> tuple[dict[str, Any], Callable[[], Any]]:
    """The settings that results depend on, and what loads the network with its method."""
    from wordmask.batch import run_settings

    options = read_exported(backend, method, model)
    if options is not None:
        from wordmask.onnx.runtime import OnnxSegmenter

        if low_memory:
            raise WordmaskError("an exported network takes no --low-memory")
        onnx = OnnxSegmenter.from_folder(model.model, options=options)
        about = onnx.about
        common.note(f"{about['method']}:{about['variant']} of {about['model']} in ONNX Runtime")
        return onnx.settings(), lambda: onnx

    from wordmask.devices import pick_device, pick_dtype
    from wordmask.towers.auxiliary import KINDS
    from wordmask.towers.built_in import own_networks

    built, variant = method.read(model.model)
    refiners = method.read_refiners()
    sources = {kind.name: kind.source for kind in KINDS.values()} | own_networks(model.model)
    sources |= model.check(built, refiners)
    dtype = pick_dtype(model.dtype, pick_device(model.device))
    settings = run_settings(built, variant, refiners, sources, model.model, dtype)
    return settings, lambda: model.load(built, variant, refiners, low_memory=low_memory)


# -- output -------------------------------------------------------------------------------------


def _print_plan(job: FolderJob) -> None:
    """Print what would be done."""
    from wordmask.files import size_text

    pictures, left = len(job.pictures or ()), len(job.todo or ())
    rows = [("pictures", f"{pictures:,}" + (" in this shard" if job.shard[1] > 1 else ""))]
    rows += [("done already", f"{job.summary.skipped:,}"), ("to do", f"{left:,}")]
    if job.failed_before:
        rows += [("of these failed before", f"{job.failed_before:,}")]
    rows += [("formats", ", ".join(job.formats)), ("results in", common.shown(job.out))]
    if left:
        size = job.estimate()
        folder = job.out.absolute()
        while not folder.exists():
            folder = folder.parent
        free = size_text(shutil.disk_usage(folder).free)
        about = "unknown" if size is None else f"about {size_text(size)}"
        rows += [("disk", f"{about} needed, {free} free")]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")


def _line(names: Sequence[str], pixels: np.ndarray) -> str:
    """`cat 41 %, sofa 20 %, unlabelled 39 %`."""
    from wordmask.drawing import UNLABELLED, percent

    total = int(pixels.sum())
    counts = dict(zip((UNLABELLED, *names), (pixels / total).tolist(), strict=True))
    if UNLABELLED in names:  # a class of that name is counted there
        counts[UNLABELLED] += float(pixels[0]) / total
    rest = counts.pop(UNLABELLED)
    found = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
    parts = [
        f"{common.one_line(name, common.LONGEST_NAME)} {percent(counts[name])}"
        for name in found[:5]
    ]
    parts += [f"{len(found) - 5} more"] if len(found) > 5 else []
    parts += [f"{UNLABELLED} {percent(rest)}"] if rest else []
    return ", ".join(parts)


def _print_end(job: FolderJob) -> None:
    """Print the classes found and the number of pictures segmented, skipped and failed."""
    from wordmask.formats import split_formats

    summary, count = job.summary, job.summary.segmented
    if count:
        common.console().print(_table(summary))
    parts = [f"{count} {'picture' if count == 1 else 'pictures'} segmented"]
    if summary.skipped:
        parts += [f"{summary.skipped} skipped as done before (--overwrite makes them again)"]
    parts += [f"{len(summary.failed)} failed"] if summary.failed else []
    print(", ".join(parts))
    if count > 1:
        from wordmask.bars import duration_text

        rate = count / max(summary.seconds, 1e-9)
        print(f"in {duration_text(summary.seconds)}, {rate:.2g} pictures/s")
    pictures = job.pictures or []
    if len(pictures) == 1 and not summary.failed:
        print("\n".join(common.shown(file) for file in pictures[0].files(job.out, job.formats)))
    elif count or summary.skipped:
        print(f"results in {common.shown(job.out)}")
    if job.manifest is not None:
        print(f"manifest in {common.shown(job.manifest)}")
    for one in split_formats(job.formats)[1]:
        if job.shard[1] == 1:
            print(common.shown(one.path(job.out)))
        else:
            print(f"{one.name} is of all pictures: run the same without --shard when all are done")


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
