"""Joins runs: our tables, the papers' tables with our column beside theirs, plots and a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordmask.errors import WordmaskError
from wordmask.evaluation import results
from wordmask.evaluation.published import (
    EIGHT,
    METRICS,
    TABLES,
    Column,
    Row,
    Table,
    commands,
    same_setting,
    same_weights,
)
from wordmask.evaluation.report import page, plots
from wordmask.evaluation.results import complete, percent
from wordmask.files import write_atomically


@dataclass(frozen=True)
class Found:
    """One run of ours on one data set, and what it was made with."""

    entry: Mapping[str, Any]
    model: Mapping[str, str]
    networks: Mapping[str, str]
    folder: Path

    @property
    def clean(self) -> bool:
        """Whether the pictures were as they are."""
        return bool(self.entry["condition"][0] == "clean")

    @property
    def name(self) -> str:
        """Method, protocol and model, as a table names it."""
        backbone = self.model["backbone"]
        short = backbone if backbone.startswith("ViT-") else Path(self.model["source"]).name
        return f"{self.entry['label']}, {self.entry['protocol']['protocol']}, {short}"


def read_runs(folder: Path) -> list[Found]:
    """All runs below a folder, the last one where a run was made twice.

    Raises:
        WordmaskError: no results below it, or a file that is something else.
    """
    if not folder.is_dir():
        raise WordmaskError(f"got {folder} for the runs to report; it is not a folder")
    paths = sorted(folder.rglob(results.RESULTS))
    if not paths:
        raise WordmaskError(
            f"no {results.RESULTS} below {folder}; make one with wordmask evaluate --out {folder}"
        )
    latest: dict[tuple[Any, ...], Found] = {}
    read = sorted(((path, results.read(path)) for path in paths), key=lambda one: one[1]["made"])
    for path, made in read:
        networks = {kind: one["source"] for kind, one in made["networks"].items()}
        for entry in made["runs"]:
            protocol = entry["protocol"]
            settings = json.dumps(protocol["settings"], sort_keys=True)
            key = (made["model"]["weights"], entry["dataset"], *entry["condition"])
            key += (entry["images"], entry["label"], protocol["protocol"], settings)
            latest.pop(key, None)
            latest[key] = Found(entry, made["model"], networks, path.parent)
    return list(latest.values())


def report(folder: Path, partial: bool = False) -> dict[str, Path]:
    """Write report.md, report.html and plots/ into a folder, from all runs below it.

    Args:
        folder: holds runs; the report is written there too.
        partial: take incomplete data sets into the papers' tables, marked.

    Returns:
        The files by name.

    Raises:
        WordmaskError: no runs, or no matplotlib for the plots.
    """
    runs = read_runs(folder)
    drawn = plots.draw(runs, folder / "plots")
    parts = [*own_tables(runs), *paper_tables(runs, partial)]
    text = "# Report\n\n" + "\n\n".join(part.markdown() for part in parts) + "\n"
    if drawn:
        text += "\n## Plots\n\n"
        text += "\n".join(f"![{title}](plots/{path.name})\n" for title, path in drawn)
    files = {"report.md": folder / "report.md", "report.html": folder / "report.html"}
    write_atomically(files["report.md"], lambda file: file.write(text.encode()))
    html = page.render(parts, drawn, page.read_pictures(found.folder for found in runs))
    write_atomically(files["report.html"], lambda file: file.write(html.encode()))
    return files | {path.name: path for _, path in drawn}


# -- our own tables -----------------------------------------------------------------------------


def own_tables(runs: Sequence[Found]) -> list[page.Grid]:
    """mIoU of every run on every data set, and under corruption where it was measured."""
    clean = [found for found in runs if found.clean]
    sets = list(dict.fromkeys(_pictures(found) for found in clean))
    rows: dict[str, dict[tuple[str, int], str]] = {}
    for found in clean:
        entry = found.entry
        mark = "" if complete(entry) or not entry["expected"] else "*"
        rows.setdefault(found.name, {})[_pictures(found)] = percent(entry["miou"]) + mark
    grids = [
        page.Grid(
            "Our runs, mIoU",
            ["method, protocol, model", *(f"{name} ({images})" for name, images in sets)],
            [[name, *(cells.get(one, "") for one in sets)] for name, cells in rows.items()],
            "In brackets: pictures. * not the complete set, so no number to hold against a paper.",
        )
    ]
    corrupted = [found for found in runs if not found.clean]
    if corrupted:
        grids.append(_corruption_table(runs, corrupted))
    return grids


def _pictures(found: Found) -> tuple[str, int]:
    """Data set and number of pictures: numbers compare on the same pictures alone."""
    return found.entry["dataset"], found.entry["images"]


def _corruption_table(runs: Sequence[Found], corrupted: Sequence[Found]) -> page.Grid:
    kinds = list(dict.fromkeys(found.entry["condition"][0] for found in corrupted))
    by = {(f.name, _pictures(f), *f.entry["condition"]): percent(f.entry["miou"]) for f in runs}
    rows = []
    for name, pictures in dict.fromkeys((f.name, _pictures(f)) for f in corrupted):
        cells = [by.get((name, pictures, "clean", 0), "-")]
        cells += [" / ".join(by.get((name, pictures, k, s), "-") for s in (1, 2, 3)) for k in kinds]
        rows.append([name, f"{pictures[0]} ({pictures[1]})", *cells])
    heads = ["method, protocol, model", "data set", "clean", *kinds]
    return page.Grid("Corrupted pictures, mIoU at severities 1 / 2 / 3", heads, rows)


# -- the papers' tables -------------------------------------------------------------------------


def paper_tables(runs: Sequence[Found], partial: bool = False) -> list[page.Grid]:
    """Every table of the papers that a run of ours has a number for; then what is missing."""
    usable = [f for f in runs if f.clean and (partial or complete(f.entry))]
    grids, missing = [], []
    for table in TABLES:
        grid = beside(table, usable)
        if grid is not None:
            grids.append(grid)
        elif any(row.settings for row in table.rows):
            missing.append(table)
    if missing:
        rows = [[f"{t.source}: {t.title}", commands(t)[0]] for t in missing]
        note = "The first of the commands that make our column; docs/reproducing.md has all."
        heads = ["table", "command"]
        grids.append(page.Grid("Tables without a run of ours", heads, rows, note))
    return grids


def beside(table: Table, runs: Iterable[Found]) -> page.Grid | None:
    """A table of a paper, our number after theirs in every cell; None where we have none."""
    rows, ours = [], 0
    known = list(runs)
    for row in table.rows:
        cells = [row.label, row.backbone]
        for column, value in zip(table.columns, row.values, strict=True):
            mine = our_number(row, column, known)
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
    return page.Grid(f"{table.source}: {table.title}", heads, rows, table.note)


def our_number(row: Row, column: Column, runs: Sequence[Found]) -> str | None:
    """Our number for a cell in percent, of the first of the row's runs that there is."""
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


def _match(row: Row, column: Column, runs: Sequence[Found]) -> tuple[float | None, Found | None]:
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
