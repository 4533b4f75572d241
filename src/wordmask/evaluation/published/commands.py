"""The commands that reproduce a published table as our column."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from wordmask.datasets import BENCHMARKS
from wordmask.evaluation.published.tables import COSTS, EIGHT, MODELS, NETWORKS, Setting, Table

SIZE = "336x336"  # of the picture whose cost is measured, where a row gives none


def list_commands(table: Table) -> list[str]:
    """The commands for our column of a table, one for each setting and backbone; costs last."""
    lines = [*_evaluate(table), *_bench(table)]
    return [f"{line} --out runs/{table.id}-{i}" for i, line in enumerate(lines, 1)]


def _evaluate(table: Table) -> list[str]:
    """The commands of the rows' scores."""
    grouped: dict[tuple[str, tuple[str, ...], str], dict[str, None]] = {}
    for row in table.rows:
        if not row.settings:
            continue
        setting = row.settings[0]
        pairs = zip(table.columns, row.values, strict=True)
        names = dict.fromkeys(c.dataset for c, v in pairs if v is not None)
        if "mean_of_8" in names:
            names = dict.fromkeys(EIGHT)
        for group in _alike(setting, [name for name in names if name in BENCHMARKS]):
            changes = tuple(f"{k}={v}" for k, v in setting.on(group[0]).items())
            entries = grouped.setdefault((row.backbone, changes, ",".join(group)), {})
            entries[setting.entry] = None
    metrics = {column.metric for column in table.columns}
    lines: list[str] = []
    for (backbone, changes, datasets), entries in grouped.items():
        words = ["wordmask evaluate", ",".join(entries), datasets, "--root data"]
        words.append(f"--model {MODELS[backbone]}")
        for change in changes:
            key, _, value = change.partition("=")
            flag = "--sweep" if "," in value else "--set"
            by_hand = f"{flag} {shlex.quote(change)}"
            words.append(f"--{key} {value}" if key in NETWORKS else by_hand)
        words += ["--image-level"] if "image_map" in metrics else []
        lines.append(" ".join(words))
    return lines


def _alike(setting: Setting, datasets: Iterable[str]) -> list[list[str]]:
    """Data sets grouped by the changes of a setting on them."""
    groups: dict[str, list[str]] = {}
    for name in datasets:
        groups.setdefault(str(setting.on(name)), []).append(name)
    return list(groups.values())


def _bench(table: Table) -> list[str]:
    """The commands of the rows' costs."""
    if not any(column.dataset in COSTS for column in table.columns):
        return []
    grouped: dict[tuple[str, str, str, str], dict[str, None]] = {}
    for row in table.rows:
        for setting in row.settings[:1]:
            method, _, refine = setting.entry.partition("+")
            flags = [
                f" --{key} {value}" if key in NETWORKS else f" --set {key}={value}"
                for key, value in setting.changes
                if key != "size"
            ]
            key = (row.backbone, setting.size or SIZE, refine.replace("+", ","), "".join(flags))
            grouped.setdefault(key, {})[method] = None
    return [
        f"wordmask bench {','.join(methods)}{f' --refine {refine}' if refine else ''} "
        f"--size {size} --model {MODELS[backbone]}{flags}"
        for (backbone, size, refine, flags), methods in grouped.items()
    ]
