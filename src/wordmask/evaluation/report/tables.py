"""Tables of a report: our runs, and the papers' tables with ours after each of their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from wordmask.evaluation.published import (
    COSTS,
    EIGHT,
    MEANS,
    METRICS,
    TABLES,
    Column,
    Row,
    Setting,
    Table,
    list_commands,
    match,
)
from wordmask.evaluation.report.costs import Costs, cost_value
from wordmask.evaluation.report.differences import difference_table
from wordmask.evaluation.report.grid import Grid
from wordmask.evaluation.report.runs import Result
from wordmask.evaluation.summary import (
    NAMES,
    complete,
    headline,
    outside,
    percent,
    shown,
    word_count,
)

NAME = "method, protocol, model"
SHORT = METRICS | {
    "miou_union": "mIoU union",
    "miou_present": "mIoU present",
    "mean_accuracy_present": "mean accuracy, present",
    "mean_accuracy_all": "mean accuracy, all",
    "image_f1": "F1, mean of classes",
    "image_precision_micro": "P, all pairs",
    "image_recall_micro": "R, all pairs",
    "image_f1_micro": "F1, all pairs",
    "boundary_miou_union": "boundary mIoU union",
    "boundary_miou_present": "boundary mIoU present",
    "calibration_error": "ECE",
    "changes_at_seams": "changes at window borders",
    "changes_elsewhere": "changes elsewhere",
    "seam_ratio": "seams, their ratio",
}
OUTSIDE = (
    "† the number lies outside its interval: resampled pictures lack some of the rarer classes, "
    "which moves their mean to one side."
)

# -- our own tables -----------------------------------------------------------------------------

# Columns of the table of all metrics between the name and the metrics: a head, and the text of a
# run.
RunColumn = tuple[str, Callable[[Result], str]]
RUN_COLUMNS: list[RunColumn] = [
    ("mIoU", lambda f: percent(f.entry["miou"]) + ("†" if outside(f.entry) else "")),
    ("95 % interval", lambda f: " to ".join(percent(x) for x in interval(f))),
    ("plain names", lambda f: percent(f.entry.get("plain"))),
    ("words", lambda f: word_count(f.entry)),
    ("published", lambda f: _published(f, lambda number, _: f"{number:g}")),
    ("difference", lambda f: _published(f, lambda number, ours: f"{ours - number:+.1f}")),
]
THEIRS: list[RunColumn] = [  # shown where they are known of a published number
    ("words of the published", lambda f: getattr(headline(f.entry), "words", "")),
    ("its supervision", lambda f: getattr(headline(f.entry), "supervision", "")),
]


def interval(found: Result) -> tuple[float | None, float | None]:
    """The interval of the headline."""
    definition = found.entry["protocol"]["settings"]["definition"]
    low, high = found.entry["intervals"][f"miou_{definition}"]
    return low, high


def _published(found: Result, show: Callable[[float, float], str]) -> str:
    number = headline(found.entry)
    ours = found.entry["miou"]
    return "-" if number is None or ours is None else show(number.value, 100 * ours)


def own_tables(runs: Sequence[Result], costs: Sequence[Costs] = ()) -> list[Grid]:
    """Our runs: mIoU on all sets, every metric set by set, corruptions, costs, and the classes."""
    clean = [found for found in runs if found.clean]
    sets = list(dict.fromkeys(found.pictures for found in clean))
    rows: dict[str, dict[str, str]] = {}
    for found in clean:
        mark = "" if complete(found.entry) or not found.entry["expected"] else "*"
        rows.setdefault(found.name, {})[found.pictures] = percent(found.entry["miou"]) + mark
    grids = [
        Grid(
            "Our runs, mIoU",
            [NAME, *sets],
            [[name, *(cells.get(one, "") for one in sets)] for name, cells in rows.items()],
            "In brackets: pictures. * not the complete set, so not comparable with a paper.",
        )
    ]
    by_set = {name: [f for f in clean if f.pictures == name] for name in sets}
    for name, here in by_set.items():
        differences = difference_table(name, best_of_sweeps(here))
        grids += [_metric_table(name, here), *([differences] if differences else [])]
    corrupted = [found for found in runs if not found.clean]
    if corrupted:
        grids.append(_corruption_table(runs, corrupted))
    grids += [one.grid() for one in costs]
    return grids + [_class_table(n, best_of_sweeps(h)) for n, h in by_set.items() if _classes(h)]


def _metric_table(name: str, runs: Sequence[Result]) -> Grid:
    """Every metric of every run on one set of pictures, in percent, and the times."""
    keys = list(dict.fromkeys(key for found in runs for key in found.entry["metrics"]))
    columns = [*RUN_COLUMNS, *(one for one in THEIRS if any(map(one[1], runs)))]
    rows = []
    for found in runs:
        metrics, seconds = found.entry["metrics"], found.entry["seconds"]
        cells = [found.name, *(text(found) or "-" for _, text in columns)]
        cells += [shown(key, metrics.get(key)) for key in keys]
        rows.append([*cells, *(f"{1000 * seconds[k]:.0f}" for k in ("encode", "decide"))])
    note = "In percent; times in milliseconds for a picture. P, R and F1: which classes are in a "
    note += f"picture, means over classes or over all pairs of picture and class. {NAMES}"
    note += f" {OUTSIDE}" if any("†" in row[1] for row in rows) else ""
    heads = [NAME, *(head for head, _ in columns), *(SHORT.get(k, k) for k in keys)]
    heads += ["encode, ms", "decide, ms"]
    words = ("95 % interval", "words", *(head for head, _ in THEIRS))
    return Grid(f"All metrics: {name}", heads, rows, note, words=words)


def _classes(runs: Sequence[Result]) -> bool:
    return any(found.entry["classes"] for found in runs)


def _class_table(name: str, runs: Sequence[Result]) -> Grid:
    """IoU and accuracy of every class, of the best run of each sweep."""
    known = [found for found in runs if found.entry["classes"]]
    first = known[0].entry["classes"]
    total = sum(one["target"] for one in first) or 1
    rows = []
    for i, one in enumerate(first):
        cells = [one["name"], percent(one["target"] / total)]
        for found in known:
            here = found.entry["classes"][i]
            cells += [percent(here["iou"]), percent(here["accuracy"])]
        rows.append(cells)
    heads = ["class", "pixels"]
    for found in known:
        heads += [f"{found.name}: IoU", "accuracy"]
    note = "Pixels: share of the target. A dash: the class is in no target (and no prediction)."
    if len({found.entry["protocol"]["settings"]["view"] for found in known}) > 1:
        note += " The views of the runs differ; shares are those of the first."
    if len({found.entry["protocol"]["settings"]["names"] for found in known}) > 1:
        note += " The runs were given other names; those of the first are shown."
    return Grid(f"Classes: {name}", heads, rows, note, folded=True)


def best_of_sweeps(runs: Sequence[Result]) -> list[Result]:
    """One run for each method, protocol and checkpoint: the plain one, or the best of a sweep.

    Runs with more or fewer words than the classes are left out beside one with all of them.
    """
    words = [f for f in runs if f.entry["protocol"]["settings"].get("vocabulary") == "all"]
    best: dict[tuple[Any, ...], Result] = {}
    for found in sorted(words or runs, key=lambda f: (not f.entry["swept"], f.entry["miou"] or 0)):
        plain = () if found.entry["swept"] else found.name
        best[found.method, found.protocol, found.checkpoint, plain] = found
    swept = {key[:3] for key in best if key[3]}
    return [found for key, found in best.items() if key[3] or key[:3] not in swept]


def _corruption_table(runs: Sequence[Result], corrupted: Sequence[Result]) -> Grid:
    kinds = list(dict.fromkeys(found.entry["condition"][0] for found in corrupted))
    by = {(f.name, f.pictures, *f.entry["condition"]): percent(f.entry["miou"]) for f in runs}
    rows = []
    for name, pictures in dict.fromkeys((f.name, f.pictures) for f in corrupted):
        cells = [by.get((name, pictures, "clean", 0), "-")]
        cells += [" / ".join(by.get((name, pictures, k, s), "-") for s in (1, 2, 3)) for k in kinds]
        rows.append([name, pictures, *cells])
    heads = [NAME, "data set", "clean", *kinds]
    title = "Corrupted pictures, mIoU at severities 1 / 2 / 3"
    return Grid(title, heads, rows, words=("data set",))


# -- the papers' tables -------------------------------------------------------------------------


def paper_tables(
    runs: Sequence[Result], partial: bool = False, costs: Sequence[Costs] = ()
) -> list[Grid]:
    """The papers' tables with at least one of our numbers; near misses; then commands."""
    clean = [found for found in runs if found.clean]
    usable = [found for found in clean if partial or complete(found.entry)]
    grids, missing = [], []
    for table in TABLES:
        grid = with_ours(table, usable, costs)
        if grid is not None:
            grids.append(grid)
        elif any(row.settings for row in table.rows):
            missing.append(table)
    near = [(found, found.entry["near"]) for found in clean if found.entry.get("near")]
    if near:
        rows = [
            [
                f.name,
                f.pictures,
                percent(f.entry["miou"]),
                f"{one['value']:g}",
                f"{one['source']}: {one['row']}",
                "; ".join(one["differences"]),
            ]
            for f, one in near
        ]
        heads = [NAME, "data set", "mIoU", "theirs", "row", "what differs"]
        note = "These numbers may not be compared: each run has other settings than the row."
        words = ("data set", "row", "what differs")
        grids.append(Grid("Near misses of the papers' rows", heads, rows, note, words))
    if missing:
        rows = [[f"{t.source}: {t.title}", list_commands(t)[0]] for t in missing]
        note = "The first of the commands that make our column; docs/reproducing.md has all."
        title = "Tables without a run of ours"
        grids.append(Grid(title, ["table", "command"], rows, note, ("command",)))
    return grids


def with_ours(table: Table, runs: Iterable[Result], costs: Sequence[Costs] = ()) -> Grid | None:
    """A table of a paper, our number after theirs in every cell; None if we have none."""
    rows, ours = [], 0
    known, noted = list(runs), any(row.supervision for row in table.rows)
    for row in table.rows:
        cells = [row.label, row.backbone]
        cells += [row.words or "-", row.supervision or "-"] if noted else []
        for column, value in zip(table.columns, row.values, strict=True):
            if column.dataset in COSTS:
                mine = cost_value(row, column.dataset, table, costs)
            else:
                mine = our_value(row, column, known, table)
            ours += mine is not None
            cells.append("-" if value is None else f"{value:g}")
            cells.append(mine or "")
        rows.append(cells)
    if not ours:
        return None
    words = ["backbone", *(["words used", "supervision"] if noted else [])]
    heads = ["method", *words]
    for column in table.columns:
        name = COSTS.get(column.dataset, column.dataset)
        name += "" if column.metric == "miou" else f" {METRICS[column.metric]}"
        heads += [name, "ours"]
    note = table.note
    if costs and any(column.dataset in COSTS for column in table.columns):
        where = dict.fromkeys(f"{one.settings['device']}, {one.settings['dtype']}" for one in costs)
        note = f"{note} Ours: {'; '.join(where)}.".strip()
    return Grid(f"{table.source}: {table.title}", heads, rows, note, tuple(words))


def our_value(
    row: Row, column: Column, runs: Sequence[Result], table: Table | None = None
) -> str | None:
    """Our number for a cell in percent, from the first matching run of the row.

    Where a row is the best of several runs, all of them are needed; where a column is a mean, all
    that it is a mean of.
    """
    if column.dataset in MEANS:
        names: Iterable[str] = EIGHT
        if column.dataset == "mean":
            same = table.columns if table else ()
            names = [c.dataset for c in same if c.metric == column.metric and c != column]
        values = [_match(row, Column(name, column.metric), runs)[0] for name in names]
        known = [value for value in values if value is not None]
        return f"{100 * sum(known) / len(known):.1f}" if known and None not in values else None
    value, found = _match(row, column, runs)
    if value is None or found is None:
        return None
    entry = found.entry
    mark = "" if complete(entry) else f" ({entry['images']} of {entry['expected']})"
    return f"{100 * value:.1f}{mark}"


def _match(row: Row, column: Column, runs: Sequence[Result]) -> tuple[float | None, Result | None]:
    """Our number for a row and a data set, and its run; the best of several if the row is."""
    here = [found for found in runs if found.entry["dataset"] == column.dataset]
    for setting in row.settings:
        each = [_first(changes, setting, row, here) for changes in setting.runs(column.dataset)]
        values = [None if found is None else _value(found, column) for found in each]
        if values and None not in values:
            return max(zip(values, each, strict=True), key=lambda one: one[0] or 0)
    return None, None


def _first(
    changes: dict[str, str], setting: Setting, row: Row, runs: Sequence[Result]
) -> Result | None:
    return next((found for found in runs if not match(changes, setting, row, found.state)), None)


def _value(found: Result, column: Column) -> float | None:
    entry = found.entry
    return entry["miou"] if column.metric == "miou" else entry["metrics"].get(column.metric)
