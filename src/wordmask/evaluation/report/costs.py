"""What `wordmask bench` measured, in a report and in the papers' columns of costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordmask.errors import WordmaskError
from wordmask.evaluation.protocols import Entry
from wordmask.evaluation.published import NETWORKS, Row, Setting, Table, same_source
from wordmask.evaluation.published.commands import SIZE
from wordmask.evaluation.published.tables import MODELS
from wordmask.evaluation.report.grid import Grid
from wordmask.methods import METHODS
from wordmask.towers.auxiliary import KINDS

FILE = "bench.json"
RANDOM = " (random weights)"  # which cost the same


@dataclass(frozen=True)
class Costs:
    """One bench.json: its settings and a row for each method, see `evaluation.cost.Cost`."""

    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def grid(self) -> Grid:
        """As a table of our own."""
        heads = [
            "method",
            "with",
            "parameters, M",
            "images / s",
            "ms",
            "encode, ms",
            "MiB",
            "GFLOPs",
        ]
        rows = [
            [
                f"{one['method']} ({one['variant']})",
                ", ".join([*filter(None, [one["refine"]]), *one["networks"].values()]) or "-",
                f"{one['parameters'] / 1e6:.1f}",
                f"{one['images_per_second']:.2f}",
                f"{one['milliseconds']:.1f}",
                f"{one['encoding']:.1f}",
                "-" if one["memory"] is None else f"{one['memory']:.0f}",
                f"{one['flops'] / 1e9:.1f}",
            ]
            for one in self.rows
        ]
        note = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        title = f"Costs: {self.settings['model']}, {self.settings['size']}"
        return Grid(title, heads, rows, f"{note}. A multiply-add is two FLOPs.", ("with",))


def read_costs(folder: Path) -> list[Costs]:
    """All bench.json below a folder.

    Raises:
        WordmaskError: a file that is not one.
    """
    found = []
    for path in sorted(folder.rglob(FILE)):
        try:
            made = json.loads(path.read_bytes())
            found.append(Costs(made["settings"], made["costs"]))
        except (OSError, ValueError, KeyError, TypeError):
            raise WordmaskError(f"cannot read {path}; wordmask bench --out writes it") from None
    return found


def cost_value(row: Row, column: str, table: Table, costs: Sequence[Costs]) -> str | None:
    """Our cost for a cell, from the first measurement of the row's method, networks and size."""
    value = _cost(row, column, costs)
    if column == "flops_ratio" and value is not None:
        base = _cost(table.rows[0], column, costs)
        return f"x{value / base:.1f}" if base else None
    return None if value is None else f"{value:.4g}"


def _cost(row: Row, column: str, costs: Sequence[Costs]) -> float | None:
    for setting in row.settings:
        for one in costs:
            for cost in one.rows:
                if _same(setting, row, one.settings, cost):
                    value = _read(column, cost)
                    if value is not None:
                        return value
    return None


def _read(column: str, cost: Mapping[str, Any]) -> float | None:
    if column in ("gflops", "flops_ratio"):
        return float(cost["flops"]) / 2e9
    key = {"parameters_million": "parameters", "network_million": "network_parameters",
           "memory_mib": "memory"}.get(column, column)  # fmt: skip
    value = cost.get(key)
    return None if value is None else value / 1e6 if column.endswith("_million") else value


def _same(setting: Setting, row: Row, settings: Mapping[str, Any], cost: Mapping[str, Any]) -> bool:
    """Whether a measurement has a row's method, variant, refiners, options, networks and size."""
    entry = Entry.split(setting.entry)
    variant = entry.variant or next(iter(METHODS[entry.method].variants))
    wanted = (entry.method, variant, ",".join(entry.refiners or ()))
    if (cost["method"], cost["variant"], cost["refine"]) != wanted:
        return False
    if str(settings["size"]).replace(" ", "") != (setting.size or SIZE):
        return False
    changes = dict(setting.changes)
    options = {k: v for k, v in changes.items() if k not in (*NETWORKS, "size") and "." not in k}
    if options != {k: v for k, _, v in (x.partition("=") for x in settings.get("set", ()))}:
        return False
    sources = {"clip": (MODELS[row.backbone], settings["model"])}
    for kind, source in cost["networks"].items():
        given = settings.get(kind, source)
        sources[kind] = (changes.get(kind, KINDS[kind].source), given)
    return all(same_source(a, str(b).removesuffix(RANDOM)) for a, b in sources.values())
