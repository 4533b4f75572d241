"""Tables of a report: our runs, and the papers' tables with ours after each of their columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wordmask.evaluation.markdown import markdown_table
from wordmask.evaluation.published import (
    EIGHT,
    METRICS,
    TABLES,
    Column,
    Row,
    Table,
    list_commands,
    same_setting,
    same_weights,
)
from wordmask.evaluation.report.runs import Result
from wordmask.evaluation.summary import complete, percent

TEXTS = ("backbone", "command", "data set")  # columns of words


@dataclass(frozen=True)
class Grid:
    """A table: a title, heads, rows of texts, and a note; heads `ours` mark our columns."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """As Markdown, with its title and note."""
        lines = markdown_table(self.heads, self.rows, (self.heads[0], *TEXTS))
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else [])])


# -- our own tables -----------------------------------------------------------------------------


def own_tables(runs: Sequence[Result]) -> list[Grid]:
    """mIoU of every run on every data set, and under corruption if measured."""
    clean = [found for found in runs if found.clean]
    sets = list(dict.fromkeys(_pictures(found) for found in clean))
    rows: dict[str, dict[tuple[str, int], str]] = {}
    for found in clean:
        entry = found.entry
        mark = "" if complete(entry) or not entry["expected"] else "*"
        rows.setdefault(found.name, {})[_pictures(found)] = percent(entry["miou"]) + mark
    grids = [
        Grid(
            "Our runs, mIoU",
            ["method, protocol, model", *(f"{name} ({images})" for name, images in sets)],
            [[name, *(cells.get(one, "") for one in sets)] for name, cells in rows.items()],
            "In brackets: pictures. * not the complete set, so not comparable with a paper.",
        )
    ]
    corrupted = [found for found in runs if not found.clean]
    if corrupted:
        grids.append(_corruption_table(runs, corrupted))
    return grids


def _pictures(found: Result) -> tuple[str, int]:
    """Data set and number of pictures; only numbers on the same pictures are comparable."""
    return found.entry["dataset"], found.entry["images"]


def _corruption_table(runs: Sequence[Result], corrupted: Sequence[Result]) -> Grid:
    kinds = list(dict.fromkeys(found.entry["condition"][0] for found in corrupted))
    by = {(f.name, _pictures(f), *f.entry["condition"]): percent(f.entry["miou"]) for f in runs}
    rows = []
    for name, pictures in dict.fromkeys((f.name, _pictures(f)) for f in corrupted):
        cells = [by.get((name, pictures, "clean", 0), "-")]
        cells += [" / ".join(by.get((name, pictures, k, s), "-") for s in (1, 2, 3)) for k in kinds]
        rows.append([name, f"{pictures[0]} ({pictures[1]})", *cells])
    heads = ["method, protocol, model", "data set", "clean", *kinds]
    return Grid("Corrupted pictures, mIoU at severities 1 / 2 / 3", heads, rows)


# -- the papers' tables -------------------------------------------------------------------------


def paper_tables(runs: Sequence[Result], partial: bool = False) -> list[Grid]:
    """The papers' tables with at least one of our numbers; then a list of those without."""
    usable = [f for f in runs if f.clean and (partial or complete(f.entry))]
    grids, missing = [], []
    for table in TABLES:
        grid = with_ours(table, usable)
        if grid is not None:
            grids.append(grid)
        elif any(row.settings for row in table.rows):
            missing.append(table)
    if missing:
        rows = [[f"{t.source}: {t.title}", list_commands(t)[0]] for t in missing]
        note = "The first of the commands that make our column; docs/reproducing.md has all."
        heads = ["table", "command"]
        grids.append(Grid("Tables without a run of ours", heads, rows, note))
    return grids


def with_ours(table: Table, runs: Iterable[Result]) -> Grid | None:
    """A table of a paper, our number after theirs in every cell; None if we have none."""
    rows, ours = [], 0
    known = list(runs)
    for row in table.rows:
        cells = [row.label, row.backbone]
        for column, value in zip(table.columns, row.values, strict=True):
            mine = our_value(row, column, known)
            ours += mine is not None
            cells.append("-" if value is None else f"{value:g}")
            cells.append(mine or "")
        rows.append(cells)
    if not ours:
        return None
    heads = ["method", "backbone"]
    for column in table.columns:
        name = column.dataset
        name += "" if column.metric == "miou" else f" {METRICS[column.metric]}"
        heads += [name, "ours"]
    return Grid(f"{table.source}: {table.title}", heads, rows, table.note)


def our_value(row: Row, column: Column, runs: Sequence[Result]) -> str | None:
    """Our number for a cell in percent, from the first matching run of the row."""
    if column.dataset == "mean_of_8":
        values = [_match(row, Column(name), runs) for name in EIGHT]
        known = [value for value, _ in values if value is not None]
        return f"{100 * sum(known) / 8:.1f}" if len(known) == len(values) else None
    value, found = _match(row, column, runs)
    if value is None or found is None:
        return None
    entry = found.entry
    mark = "" if complete(entry) else f" ({entry['images']} of {entry['expected']})"
    return f"{100 * value:.1f}{mark}"


def _match(row: Row, column: Column, runs: Sequence[Result]) -> tuple[float | None, Result | None]:
    for setting in row.settings:
        for found in runs:
            entry = found.entry
            if entry["dataset"] != column.dataset or not same_weights(row.backbone, found.model):
                continue
            if same_setting(setting, entry, found.networks):
                key = column.metric
                value = entry["miou"] if key == "miou" else entry["metrics"].get(key)
                return value, found
    return None, None
