"""`wordmask selftest`: measure the quality of every method offline."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmask.cli import common, complete
from wordmask.cli.groups import SOURCE, NetworkOptions, expand

if TYPE_CHECKING:
    from rich.table import Table

    from wordmask.toybox.selftest import Candidate, Measurement

MODEL = "wordmask/tiny-clip"


class OtherNetworks(NetworkOptions):
    """Auxiliary models in place of the built-in ones."""

    default = "the built-in one, if there is one"


@expand
def selftest(
    *,
    scenes: Annotated[
        int, typer.Option(metavar="COUNT", help="Number of scenes of each kind.")
    ] = 100,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Only these, as in cliper,gem, or FILE.py:NAME.",
            show_default="all",
            autocompletion=complete.entries,
        ),
    ] = None,
    refiners: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Refiners of CLIPer's maps to measure, as in vfm,pamr, or FILE.py:NAME.",
            show_default="all, or none with --methods",
            autocompletion=complete.refiners,
        ),
    ] = None,
    variants: Annotated[
        bool, typer.Option("--variants", help="All variants, not only the first of each.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Of the scenes.")] = 0,
    model: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help=f"A CLIP trained on the words of the toybox: {SOURCE}."
        ),
    ] = MODEL,
    networks: OtherNetworks,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure methods and refiners on rendered scenes; no download.

    It shows that all stages work together on this machine. It does not show how the methods differ
    on photographs: the tiny CLIP was trained on the toybox alone.
    """
    from wordmask.toybox import SIZE
    from wordmask.toybox import selftest as test

    chosen = test.candidates(_names(methods), variants, _names(refiners), networks.kinds)
    rows = _measure(chosen, scenes, seed, model, networks.sources)
    if as_json:
        print(json.dumps(_plain(rows, scenes, seed, model), indent=2, ensure_ascii=False))
        return
    console = common.console()
    console.print(tabulate(rows, variants))
    options = ", ".join(f"{name}={value}" for name, value in test.TOYBOX_OPTIONS.items())
    console.print(
        f"{scenes} + {scenes} scenes of {SIZE} x {SIZE} pixels, seed {seed}, "
        f"{test.WORDS} words to choose from in each; model {model}. mIoU: one confusion matrix, "
        "mean over classes with union > 0. outline: the same of the outlines of masks (boundary "
        "IoU). pixels: named right, and things: those of things. held out: those of things whose "
        "colour and surface training never showed together. ms: one scene, median, on this "
        f"machine. Same for all: {options}. Left out: what needs a network that does not ship with "
        "wordmask (sam) or a part that is not installed.",
        style="dim",
    )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _measure(
    chosen: list[Candidate], scenes: int, seed: int, model: str, networks: dict[str, str]
) -> list[Measurement]:
    from wordmask.toybox.selftest import measure

    with common.progress_bar() as bar:
        task = bar.add_task("measuring", total=len(chosen), unit="methods")
        return measure(chosen, scenes, seed, model, lambda _: bar.advance(task), networks)


def tabulate(rows: list[Measurement], variants: bool) -> Table:
    """The measurements as a table, in percent, in their order; `variants` adds their names."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", style="bold", no_wrap=True)
    for name in ("mIoU", "outline", "pixels", "things", "held out", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        known = row.trained
        shares = [known.mean_iou, known.boundary_iou, known.pixels, known.things]
        shares.append(row.held_out.things)
        numbers = [f"{100 * share:.1f}" for share in shares]
        title = Text(row.label) + Text(f" {row.variant}" if variants else "", "dim")
        table.add_row(title, *numbers, f"{row.milliseconds:.0f}")
    return table


def _plain(rows: list[Measurement], scenes: int, seed: int, model: str) -> dict[str, Any]:
    from wordmask.toybox import SIZE
    from wordmask.toybox import selftest as test

    return {
        "model": model,
        "scenes": scenes,
        "seed": seed,
        "size": SIZE,
        "words": test.WORDS,
        "options": test.TOYBOX_OPTIONS,
        "networks": test.NETWORKS,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
