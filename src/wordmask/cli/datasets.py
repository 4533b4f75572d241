"""`wordmask datasets`: list the data sets, show one, or check a copy of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmask.cli import common, complete
from wordmask.cli.groups import expand
from wordmask.cli.help import Command, Group

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from wordmask.datasets import Benchmark, Report

SHOWN = 20  # problems that are printed; --all prints the others

app = typer.Typer(cls=Group, help="List the data sets, show one, or check a copy of its files.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A data set, see `wordmask datasets list`; or FILE.py:NAME, or NAME=DIR.",
        autocompletion=complete.datasets,
    ),
]


@app.callback(invoke_without_command=True)
def datasets(context: typer.Context, as_json: AsJson = False) -> None:
    """List the data sets, show one, or check a copy of its files."""
    if context.invoked_subcommand is None:
        list_all(as_json)


@app.command("list", cls=Command)
def list_all(as_json: AsJson = False) -> None:
    """List the data sets."""
    from wordmask.datasets import BENCHMARKS

    described = [
        describe(BENCHMARKS[name]) | {"from": BENCHMARKS.origin(name)}
        for name in sorted(BENCHMARKS)
    ]
    if as_json:
        print(json.dumps(described, indent=2, ensure_ascii=False))
        return
    console = common.console()
    console.print(_overview(described))
    console.print(
        "+ 1: the background is scored as a class too. Files that one needs, and its words: "
        "wordmask datasets show NAME. To check a copy: wordmask datasets check NAME --root DIR",
        style="dim",
    )


@app.command(cls=Command)
def show(
    name: Name,
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of its files; only `folder` needs it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one: the files that it needs, class names and background words."""
    from wordmask.datasets import benchmark

    bench = benchmark(name)
    if root is not None or getattr(bench, "place", None):
        bench = bench.at(bench.check_root(root))
    described = describe(bench) | {
        "class_names": {source: [*map(list, names)] for source, names in bench.names.items()},
        "background_words": {s: [*words] for s, words in bench.released_background_words.items()},
    }
    if as_json:
        print(json.dumps(described, indent=2, ensure_ascii=False))
    else:
        _print_benchmark(described, bench, common.console())


@app.command(cls=Command)
@expand
def check(
    name: Name,
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of its files, or one above or below it."),
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Treat fewer images than the split as a problem.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help=f"Print all problems, not only the first {SHOWN}.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a copy: counts, sizes, values, pairs, damaged files.

    Exit code 2: problems.
    """
    from wordmask.datasets import benchmark, verify

    bench = benchmark(name)
    with common.progress_bar() as bar:
        task = bar.add_task(f"checking {bench.name}", total=None, unit="pictures")
        report = verify(
            bench, root, complete, lambda done, of: bar.update(task, completed=done, total=of)
        )
    if as_json:
        print(json.dumps(_plain(report), indent=2, ensure_ascii=False))
    else:
        _print_report(report, every)
    if report.problems:
        raise typer.Exit(2)


def describe(bench: Benchmark) -> dict[str, Any]:
    """Describe a benchmark, without its class names, as plain values."""
    return {
        "name": bench.name,
        "title": bench.title,
        "images": bench.expected,
        "classes": bench.classes,
        "background": bench.has_background,
        "ignore": bench.ignore,
        "reduce_zero": bench.reduce_zero,
        "names": list(bench.names),
        "layout": bench.layout,
        "note": bench.note,
    }


def _overview(described: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("data set", style="bold", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for name in ("pictures", "classes"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in described:
        text = Text(one["title"])
        if one["from"] != "wordmask":
            text.append(f"\nfrom {one['from']}", "dim")
        classes = _count(one["classes"]) + (" + 1" if one["background"] else "")
        table.add_row(one["name"], text, _count(one["images"]), classes)
    return table


def _count(number: int) -> str:
    return f"{number:,}" if number else "any"


def _print_benchmark(one: dict[str, Any], bench: Benchmark, console: Console) -> None:
    from rich import box
    from rich.table import Table

    console.print(f"{one['name']}: {one['title']}", style="bold")
    void = "none" if one["ignore"] is None else one["ignore"]
    facts = {
        "images": _count(one["images"]),
        "classes": _count(one["classes"]) + (" and the background" if one["background"] else ""),
        "left out": f"value {void} of the masks"
        + (", zero is reduced" if one["reduce_zero"] else ""),
        "below --root": one["layout"],
        "note": one["note"],
    }
    grid = Table.grid(padding=(0, 2))
    for name, text in facts.items():
        if text:
            grid.add_row(name, text)
    console.print(grid)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("source", style="bold", no_wrap=True)
    table.add_column("class names in the order of the labels ('; ' between classes)")
    for source, names in one["class_names"].items():
        classes = "; ".join(" | ".join(synonyms) for synonyms in names)
        if source in one["background_words"]:
            classes += f"\nbackground: {'; '.join(one['background_words'][source])}"
            released, used = one["background_words"][source], bench.background_words[source]
            if len(used) < len(released):
                dropped = sorted({w for w in released if w not in used or released.count(w) > 1})
                classes += f"\n(without repeats and words that are a class: {', '.join(dropped)})"
        table.add_row(source, classes)
    console.print(table)


def _print_report(report: Report, every: bool) -> None:
    name, images = report.benchmark.name, report.images
    shown = report.problems if every else report.problems[:SHOWN]
    for problem in shown:
        print(f"problem: {common.one_line(problem)}")
    if len(shown) < len(report.problems):
        print(f"... and {len(report.problems) - len(shown):,} more; --all prints them")
    for note in report.notes:
        print(f"note: {common.one_line(note)}")
    count = len(report.problems)
    found = f"{count:,} problem{'s' if count > 1 else ''}" if count else "no problem"
    print(f"{name}: {images:,} images, {found}")


def _plain(report: Report) -> dict[str, Any]:
    return {
        "benchmark": report.benchmark.name,
        "images": report.images,
        "problems": list(report.problems),
        "notes": list(report.notes),
    }
