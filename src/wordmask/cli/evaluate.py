"""`wordmask evaluate`: measure methods on data sets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmask.cli import common, complete
from wordmask.cli.groups import ModelOptions, expand
from wordmask.cli.protocol import ProtocolName
from wordmask.errors import WordmaskError

if TYPE_CHECKING:
    from rich.table import Table

    from wordmask.bars import Bar
    from wordmask.evaluation.progress import Progress

RUN = "What to run"
WHERE = "Where"


@expand
def evaluate(
    methods: Annotated[
        str,
        typer.Argument(
            metavar="METHOD[,METHOD...]",
            help="METHOD[:VARIANT][+REFINER]..., as in clip,cliper,cliper:official-v1+diffusion.",
            autocompletion=complete.entries,
        ),
    ],
    datasets: Annotated[
        str,
        typer.Argument(
            metavar="DATASET[,DATASET...]",
            help="See `wordmask datasets list`.",
            autocompletion=complete.datasets,
        ),
    ],
    *,
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of the data sets.", rich_help_panel=WHERE),
    ] = None,
    model: ModelOptions,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for results.json, results.md, pictures and the state of the run.",
            rich_help_panel=WHERE,
        ),
    ] = Path("evaluation"),
    protocol: ProtocolName = "official",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="Change a setting of every protocol, or METHOD.OPTION=VALUE of one, or "
            "REFINER.OPTION=VALUE; see `wordmask protocol`. May be repeated.",
            rich_help_panel=RUN,
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION=A,B,C",
            help="Run with each of these values; several sweeps run all combinations. Options of "
            "scores alone, such as thresholds and backgrounds, need no new encoding.",
            rich_help_panel=RUN,
        ),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE[,SOURCE...]",
            help="Run with each of these lists of class names: released (those of the method's "
            "code), plain (the benchmark's own), or another of `wordmask datasets list`. Names "
            "weigh more than many methods; no new encoding is needed.",
            rich_help_panel=RUN,
        ),
    ] = None,
    corrupt: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS",
            help="Also with corrupted pictures, each kind at three severities: noise, blur, jpeg, "
            "fog, contrast, or all.",
            rich_help_panel=RUN,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="NUMBER", help="Of the corruptions.", rich_help_panel=RUN)
    ] = 0,
    image_labels: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="The classes that are known to be in each picture, no other gets a pixel: "
            "`target`, those of its mask, or a CSV file with a row for each picture, its id and "
            "class names. For pseudo-masks. The same as --set image_labels=SOURCE.",
            rich_help_panel=RUN,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT", help="Only the first pictures of a data set.", rich_help_panel=RUN
        ),
    ] = None,
    image_level: Annotated[
        bool,
        typer.Option(
            "--image-level",
            help="Also image-level scores of the classes, and the mAP from them.",
            rich_help_panel=RUN,
        ),
    ] = False,
    boundary: Annotated[
        bool, typer.Option("--boundary", help="Also the boundary IoU.", rich_help_panel=RUN)
    ] = False,
    calibration: Annotated[
        bool,
        typer.Option(
            "--calibration",
            help="Also the calibration error, for methods that give probabilities.",
            rich_help_panel=RUN,
        ),
    ] = False,
    pictures: Annotated[
        int,
        typer.Option(
            metavar="COUNT",
            help="Number of the best, median and worst pictures to draw.",
            rich_help_panel=RUN,
        ),
    ] = 3,
    examples: Annotated[
        str,
        typer.Option(
            metavar="each|same",
            help="each: every method's own best, median and worst pictures; same: one choice for "
            "all methods, by the mean of their mIoUs.",
            rich_help_panel=RUN,
        ),
    ] = "each",
    apart: Annotated[
        bool,
        typer.Option(
            "--apart",
            help="Encode for each run separately, even if several could share an encoding: for "
            "times, and for results that do not depend, by rounding, on the other runs.",
            rich_help_panel=RUN,
        ),
    ] = False,
    text_features: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For a model without a text encoder: a safetensors file with a tensor (classes, "
            "width) named after each data set, and DATASET.background.",
            rich_help_panel="Model",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            metavar="COUNT",
            help="Processes that share the pictures. For several GPUs: torchrun "
            "--nproc-per-node=4 -m wordmask evaluate ...",
            rich_help_panel=WHERE,
        ),
    ] = 1,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the state of an earlier run of other settings in DIR.",
            rich_help_panel=WHERE,
        ),
    ] = False,
) -> None:
    """Measure methods on data sets under one protocol.

    wordmask evaluate clip,sclip,cliper voc21,voc20 --root data

    A run that was stopped is resumed when it is started again. A method, a refiner or a data set
    may be FILE.py:NAME, a data set also NAME=DIR: a folder of your own.

    Exit codes: 0 success, 2 wrong usage or data that cannot be used, 130 interrupted.
    """
    from wordmask.evaluation import results
    from wordmask.evaluation.evaluator import evaluate as run
    from wordmask.evaluation.examples import draw_examples
    from wordmask.evaluation.plan import Plan
    from wordmask.evaluation.protocols import Entry
    from wordmask.evaluation.robustness import CORRUPTIONS

    kinds = list(CORRUPTIONS) if corrupt == "all" else common.split_list(corrupt or "")
    if pictures < 0:
        raise WordmaskError(f"got --pictures {pictures}; give 0 or more")
    if examples not in ("each", "same"):
        raise WordmaskError(f"got --examples {examples}; give each or same")
    for text in common.split_list(methods):
        Entry.parse(text)  # a file may register a kind of auxiliary model
    known = [] if image_labels is None else [f"image_labels={image_labels}"]
    plan = Plan(
        methods=common.split_list(methods),
        datasets=common.split_list(datasets),
        root=root,
        model=model.model,
        protocol=protocol,
        settings=(*(assignments or ()), *known),
        sweep=tuple(sweep or ()),
        names=common.split_list(names or ""),
        corruptions=tuple(kinds),
        seed=seed,
        limit=limit,
        networks=model.sources,
        text_features=text_features,
        image_level=image_level,
        boundary=boundary,
        calibration=calibration,
        share=not apart,
        device=model.device,
        dtype=model.dtype,
        offline=model.offline,
    )
    common.make_folder(out)
    if int(os.environ.get("RANK", 0)):  # of torchrun: only the first process prints
        run(plan, out, workers=workers, overwrite=overwrite)
        return
    with common.progress_bar(transient=False) as bar:
        report = _Display(bar).show
        found = run(plan, out, workers=workers, overwrite=overwrite, report=report)
    if found is None:
        return
    results.write(found, out)
    if pictures:
        with common.busy("drawing"):
            draw_examples(plan, found, out / "pictures", pictures, examples == "same")
    console = common.console()
    for table in tabulate(found):
        console.print(table)
    console.print(f"everything: {common.shown(out / results.RESULTS)}, results.md", style="dim")


def tabulate(found: dict[str, Any]) -> list[Table]:
    """A table for each data set."""
    from rich import box
    from rich.table import Table

    from wordmask.evaluation.summary import complete, headline, percent, shown

    tables = []
    for name in dict.fromkeys(entry["dataset"] for entry in found["runs"]):
        entries = [
            entry
            for entry in found["runs"]
            if entry["dataset"] == name and entry["condition"][0] == "clean"
        ]
        first = entries[0]
        title = f"{first['title']} ({name}), {first['images']} pictures"
        if first["expected"] and not complete(first):
            title += f" of {first['expected']}"
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        table.add_column("method", style="bold", overflow="fold")
        seams = any("seam_ratio" in entry["metrics"] for entry in entries)
        extra = ["seams"] if seams else []
        for head in ("mIoU", "95 %", "plain", "published", "pixels", *extra, "ms"):
            table.add_column(head, justify="right", no_wrap=True)
        for entry in entries:
            means, seconds = entry["metrics"], entry["seconds"]
            low, high = entry["intervals"][f"miou_{entry['protocol']['settings']['definition']}"]
            number = headline(entry)
            table.add_row(
                entry["label"],
                percent(entry["miou"]),
                f"{percent(low)} to {percent(high)}",
                percent(entry.get("plain")),
                "-" if number is None else f"{number.value:g}",
                percent(means["pixel_accuracy"]),
                *([shown("seam_ratio", means.get("seam_ratio"))] if seams else []),
                f"{1000 * (seconds['encode'] + seconds['decide']):.0f}",
            )
        tables.append(table)
    return tables


class _Display:
    """Shows each data set with the mIoU so far on a progress bar."""

    def __init__(self, bar: Bar):
        self.bar = bar
        self.task = bar.add_task("loading", total=None)
        self.key: Any = None
        self.finished: Any = None

    def show(self, progress: Progress) -> None:
        """Show the progress."""
        kind, severity = progress.condition
        name = progress.dataset if not severity else f"{progress.dataset}, {kind} {severity}"
        scores = ""
        if progress.done:
            means = progress.mean_iou.items()
            scores = "mIoU " + " ".join(f"{label} {100 * mean:.1f}" for label, mean in means)
        if self.key is None:
            self.bar.remove_task(self.task)
        if self.key != (name, progress.total):
            self.key = (name, progress.total)
            self.task = self.bar.add_task(
                name, total=progress.total, unit="pictures", already=progress.done
            )
        self.bar.update(self.task, completed=progress.done, detail=scores)
        if progress.done == progress.total and self.finished != self.key:
            self.finished = self.key
            self.bar.say(always=True)
