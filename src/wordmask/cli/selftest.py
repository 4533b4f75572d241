"""`wordmask selftest`: the quality of every method, measured here and now, offline."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmask.cli import common

if TYPE_CHECKING:
    from rich.table import Table

    from wordmask.selftest import Measurement

MODEL = "wordmask/tiny-clip"


def selftest(
    scenes: Annotated[int, typer.Option(help="How many scenes of each kind.")] = 100,
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Only these, as in cliper,gem.", show_default="all"),
    ] = None,
    variants: Annotated[
        bool, typer.Option("--variants", help="All variants, not only each method's first.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Which scenes.")] = 0,
    model: Annotated[
        str,
        typer.Option(metavar="ID_OR_FOLDER", help="A CLIP that knows the words of the toybox."),
    ] = MODEL,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure every method on rendered scenes, with the built-in tiny CLIP and no network.

    It shows that all stages work together here. How the methods differ on photographs it does not
    show: the tiny CLIP knows the toybox and not the world.
    """
    from wordmask import selftest as test

    named = None if methods is None else [name.strip() for name in methods.split(",")]
    chosen = test.candidates(named, variants)
    rows = _measure(chosen, scenes, seed, model)
    if as_json:
        print(json.dumps(_plain(rows, scenes, seed, model), indent=2, ensure_ascii=False))
        return
    console = common.console()
    console.print(tabulate(rows))
    options = ", ".join(f"{name}={value}" for name, value in test.TOYBOX_OPTIONS.items())
    console.print(
        f"{scenes} + {scenes} scenes of {test.SIZE} x {test.SIZE} pixels, seed {seed}, "
        f"{test.WORDS} words to choose from in each; model {model}. trained: looks (colour and "
        "surface) that the network was trained on. held out: looks it never saw. mIoU: one "
        "confusion matrix, mean over classes with union > 0. things: pixels of things that are "
        f"named right. ms: one scene, median, on this machine. Same for all: {options}.",
        style="dim",
    )


def _measure(
    chosen: list[tuple[str, str]], scenes: int, seed: int, model: str
) -> list[Measurement]:
    from rich.progress import Progress

    from wordmask.selftest import measure

    screen = common.console(stderr=True)
    with Progress(
        console=screen, transient=True, disable=not common.is_terminal(sys.stderr)
    ) as bar:
        task = bar.add_task("measuring", total=len(chosen))
        return measure(chosen, scenes, seed, model, report=lambda _: bar.advance(task))


def tabulate(rows: list[Measurement]) -> Table:
    """The measurements as a table, in percent, in the order they have."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", style="bold", no_wrap=True)
    table.add_column("variant", no_wrap=True)
    for name in ("mIoU", "pixels", "things", "held out\nmIoU", "held out\nthings", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        seen, unseen = row.trained, row.held_out
        shares = (seen.mean_iou, seen.pixels, seen.things, unseen.mean_iou, unseen.things)
        numbers = [f"{100 * share:.1f}" for share in shares]
        table.add_row(row.method, row.variant, *numbers, f"{row.milliseconds:.0f}")
    return table


def _plain(rows: list[Measurement], scenes: int, seed: int, model: str) -> dict[str, Any]:
    from wordmask import selftest as test

    return {
        "model": model,
        "scenes": scenes,
        "seed": seed,
        "size": test.SIZE,
        "words": test.WORDS,
        "options": test.TOYBOX_OPTIONS,
        "methods": [dataclasses.asdict(row) for row in rows],
    }
