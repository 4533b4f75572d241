"""The tables of the papers: the data files of this folder, read and checked.

A file holds tables, one after the other, each a header and rows; `#` starts a comment:

    [cliper-11]
    source: CLIPer, Table 11
    title: Short side of the picture, mIoU
    columns: voc21 context60
    metrics: miou pixel_accuracy
    note: ...

    224 | cliper:official-v1+diffusion short_side=224 | ViT-L/14 | 68.3 90.1 37.7 88.2
    TCL | - | - | 51.2 - 24.3 -

Columns are data sets, or some of `OTHER_COLUMNS`. With `metrics`, each data set has a column for
each metric; without, all are mIoU. Several notes are joined, and there may be none.

A row is `label | settings | backbone | values`, and `| words | supervision` where these are known:
the words that the method was given, and what its networks were trained with beyond pictures and
their texts (one of `SUPERVISION`, with details in brackets: `masks (SAM2)`). Settings are what
`wordmask evaluate` needs to reproduce the row: an entry and changes of its official protocol,
alternatives separated by ` or `.
The change `bg.KEY=VALUE` holds on data sets with a background, `DATASET.KEY=VALUE` on one, and
`size=HxW` is the size of the picture in the columns of costs. `KEY=A,B,C` is a row whose number is
the best of several runs. `shared: NAME changes` in the header lets rows write `@NAME` for them. A
`-` is a row that we cannot reproduce, or a value that the paper does not give.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wordmask.datasets import BENCHMARKS
from wordmask.errors import WordmaskError, unknown
from wordmask.evaluation.protocols import Entry, read_assignments
from wordmask.options import parse_assignment
from wordmask.refiners import REFINERS

PAPERS = ("cliper", "cliptrase", "proxyclip", "others", "newer")  # files, in the order of reports
METRICS = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy_all": "mean accuracy",
    "frequency_weighted_iou": "fwIoU",
    "image_map": "mAP",
    "image_f1": "F1",
    "image_f1_of_means": "F1 of mean P and R",
    "image_precision": "P",
    "image_recall": "R",
}
COSTS = {  # what `wordmask bench` measures
    "milliseconds": "ms",
    "parameters_million": "parameters, M",
    "network_million": "parameters of the auxiliary model, M",
    "images_per_second": "images / s",
    "memory_mib": "memory, MiB",
    "gflops": "GFLOPs (a multiply-add is one)",
    "flops_ratio": "FLOPs, times those of the first row",
}
MEANS = ("mean", "mean_of_8")  # over the other columns of the same metric; over `EIGHT`
OTHER_COLUMNS = (*MEANS, *COSTS)
EIGHT = (  # what a mean over eight data sets is over
    "voc21",
    "context60",
    "coco_object",
    "voc20",
    "context59",
    "coco_stuff",
    "cityscapes",
    "ade150",
)
MODELS = {  # weights of each backbone, as papers name it
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "OpenCLIP ViT-B/16": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "OpenCLIP ViT-L/14": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    "OpenCLIP ViT-H/14": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "MetaCLIP ViT-B/16": "facebook/metaclip-b16-fullcc2.5b",
    "MetaCLIP ViT-L/14": "facebook/metaclip-l14-fullcc2.5b",
    "BLIP ViT-B/16": "Salesforce/blip-itm-base-coco",
    "BLIP ViT-L/16": "Salesforce/blip-itm-large-coco",
}
SUPERVISION = ("none", "masks", "image labels")
NETWORKS = ("vfm", "diffusion", "sam")  # changes that are flags: --vfm SOURCE
HEADER = ("source", "title", "columns", "metrics", "note", "shared")
REPEATED = ("note", "shared")


@dataclass(frozen=True)
class Column:
    """One column: a metric (a key of METRICS) on a data set."""

    dataset: str
    metric: str = "miou"


@dataclass(frozen=True)
class Setting:
    """What to evaluate for a row: an entry and changes of its protocol."""

    entry: str
    changes: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str, shared: Mapping[str, str] | None = None) -> Setting:
        """Read `cliper+diffusion short_side=224 voc21.window=336`, with `@NAME` from `shared`."""
        words: list[str] = []
        for word in text.split():
            if word.startswith("@") and word[1:] not in (shared or {}):
                raise unknown("shared setting", word[1:], shared or {})
            words += (shared or {})[word[1:]].split() if word.startswith("@") else [word]
        entry, *changes = words or [""]
        pairs = (change.partition("=") for change in changes)
        return cls(entry, tuple((key, value) for key, _, value in pairs))

    @property
    def size(self) -> str:
        """Height and width of the picture whose cost the row gives, `336x468`, or ""."""
        return dict(self.changes).get("size", "")

    def on(self, dataset: str) -> dict[str, str]:
        """The changes on one data set, those of sweeps as `A,B,C`."""
        here: dict[str, str] = {}
        for key, value in self.changes:
            scope, name = _scope(key)
            bench = BENCHMARKS.get(dataset)
            background = scope == "bg" and bench is not None and bench.has_background
            if key != "size" and (scope in ("", dataset) or background):
                here[name] = value
        return here

    def runs(self, dataset: str) -> list[dict[str, str]]:
        """The changes of every run on one data set: one, or all of a sweep."""
        here = self.on(dataset)
        choices = ([(key, one) for one in value.split(",")] for key, value in here.items())
        return [dict(chosen) for chosen in itertools.product(*choices)]


@dataclass(frozen=True)
class Row:
    """One row: its label, the settings that reproduce it, its backbone, and the paper's values.

    Words and supervision are "" where nobody noted them, see this module.
    """

    label: str
    settings: tuple[Setting, ...]
    backbone: str
    values: tuple[float | None, ...]
    words: str = ""
    supervision: str = ""


@dataclass(frozen=True)
class Table:
    """One table of a paper; the folders of its runs are named after `id`."""

    id: str
    source: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""


def read_tables(paths: Iterable[Path]) -> tuple[Table, ...]:
    """Read the tables in data files, see this module.

    Raises:
        WordmaskError: any error, with file and line: unknown data sets, metrics, methods, variants,
            refiners, options or backbones, a wrong number of values, values out of range, a
            repeated id.
    """
    tables: dict[str, Table] = {}
    for path in paths:
        lines = [(n, line.strip()) for n, line in enumerate(path.read_text("utf-8").split("\n"), 1)]
        lines = [(n, line) for n, line in lines if line and not line.startswith("#")]
        starts = [i for i, (_, line) in enumerate(lines) if i == 0 or line.startswith("[")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            (number, head), *rest = lines[start:end]
            with _at(path, number):
                if not (head.startswith("[") and head.endswith("]")):
                    raise WordmaskError(f"got {head!r}; a table starts with [id]")
                if head[1:-1] in tables:
                    raise WordmaskError(f"there are two tables {head[1:-1]!r}; rename one")
                tables[head[1:-1]] = _read_table(path, head[1:-1], rest)
    return tuple(tables.values())


@contextmanager
def _at(path: Path, line: int) -> Iterator[None]:
    """Add file and line to errors without a line."""
    try:
        yield
    except WordmaskError as error:
        named = str(error).startswith(f"{path.name}:")
        raise (error if named else WordmaskError(f"{path.name}:{line}: {error}")) from None


def _read_table(path: Path, id: str, lines: Iterable[tuple[int, str]]) -> Table:
    header: dict[str, str] = {}
    shared: dict[str, str] = {}
    columns: tuple[Column, ...] = ()
    rows = []
    for number, line in lines:
        with _at(path, number):
            key, _, text = (part.strip() for part in line.partition(":"))
            if key not in HEADER:
                columns = columns or _read_columns(header)
                rows.append(_read_row(line, columns, shared))
                continue
            if rows or (key in header and key not in REPEATED):
                raise WordmaskError(f"got another {key!r}; give each once, above the rows")
            if key == "shared":
                name, _, shared_text = text.partition(" ")
                shared[name] = f"{shared.get(name, chr(32)).strip()} {shared_text}"
            header[key] = f"{header[key]} {text}" if key in header else text
            for name in text.split():
                if key == "columns" and name not in BENCHMARKS and name not in OTHER_COLUMNS:
                    raise unknown("data set", name, (*BENCHMARKS, *OTHER_COLUMNS))
                if key == "metrics" and name not in METRICS:
                    raise unknown("metric", name, METRICS)
    missing = [key for key in ("source", "title", "columns") if not header.get(key)]
    if missing or not rows:
        raise WordmaskError(f"the table {id!r} has no {', '.join(missing) or 'rows'}")
    return Table(
        id, header["source"], header["title"], columns, tuple(rows), header.get("note", "")
    )


def _read_columns(header: dict[str, str]) -> tuple[Column, ...]:
    if not header.get("columns"):
        raise WordmaskError("got a row and no columns; give the header above the rows")
    metrics = header.get("metrics", "miou").split()
    return tuple(Column(d, m) for d in header["columns"].split() for m in metrics)


def _read_row(line: str, columns: tuple[Column, ...], shared: Mapping[str, str]) -> Row:
    parts = [part.strip() for part in line.split("|")]
    if len(parts) not in (4, 6) or not all(parts):
        raise WordmaskError(
            f"got {line!r}; write label | settings | backbone | values, or these and "
            "| words | supervision"
        )
    label, text, backbone, numbers, *given = parts
    if given and given[1].partition(" (")[0] not in SUPERVISION:
        raise unknown("supervision", given[1], SUPERVISION)
    settings = () if text == "-" else tuple(Setting.parse(x, shared) for x in text.split(" or "))
    for setting in settings:
        _check_setting(setting)
    if backbone not in (MODELS if settings else (*MODELS, "ViT-S/16", "-")):
        raise unknown("backbone", backbone, MODELS)
    values = numbers.split()
    if len(values) != len(columns):
        raise WordmaskError(f"{label} has {len(values)} values for {len(columns)} columns")
    return Row(label, settings, backbone, tuple(map(_read_value, values, columns)), *given)


def _read_value(text: str, column: Column) -> float | None:
    if text == "-":
        return None
    cost = column.dataset in COSTS
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= (1e9 if cost else 100):
        wanted = "a number from 0 on" if cost else "percent, from 0 to 100"
        raise WordmaskError(f"got {text!r} for {column.dataset}; give {wanted}, or - for none")
    return value


@cache  # many rows have the same
def _check_setting(setting: Setting) -> None:
    """Check that the entry exists and has these options."""
    entry = Entry.parse(setting.entry)
    for key, value in setting.changes:
        _, name = _scope(key)
        refiner, dot, option = name.partition(".")
        if not value:
            raise WordmaskError(f"got {key!r} as a change; write option=value")
        if dot and refiner not in {text.partition(":")[0] for text in entry.refiners or ()}:
            raise unknown(f"data set or refiner of {setting.entry}", refiner, BENCHMARKS)
        for one in value.split(","):
            if dot:
                parse_assignment(REFINERS, refiner, f"{option}={one}")
            elif name not in (*NETWORKS, "size"):
                read_assignments(entry.method, [f"{name}={one}"])


def _scope(key: str) -> tuple[str, str]:
    """The scope of a change ("": all data sets) and the option that it changes."""
    scope, _, name = key.partition(".")
    return (scope, name) if scope == "bg" or scope in BENCHMARKS else ("", key)


TABLES = read_tables(Path(__file__).with_name(f"{paper}.txt") for paper in PAPERS)
