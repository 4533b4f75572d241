"""The commands that reproduce a published table as our column."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from wordmask.evaluation.published.tables import EIGHT, MODELS, NETWORKS, Setting, Table


def list_commands(table: Table) -> list[str]:
    """The commands for our column of a table, one for each setting and backbone."""
    grouped: dict[tuple[str, tuple[str, ...], str], dict[str, None]] = {}
    for row in table.rows:
        if not row.settings:
            continue
        setting = row.settings[0]
        pairs = zip(table.columns, row.values, strict=True)
        names = dict.fromkeys(c.dataset for c, v in pairs if v is not None)
        names.pop("milliseconds", None)
        if "mean_of_8" in names:
            names = dict.fromkeys(EIGHT)
        for group in _alike(setting, names):
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
            set_by_hand = f"--set {shlex.quote(change)}"
            words.append(f"--{key} {value}" if key in NETWORKS else set_by_hand)
        words += ["--image-level"] if "image_map" in metrics else []
        lines.append(" ".join([*words, f"--out runs/{table.id}-{len(lines) + 1}"]))
    return lines


def _alike(setting: Setting, datasets: Iterable[str]) -> list[list[str]]:
    """Data sets grouped by the changes of a setting on them."""
    groups: dict[str, list[str]] = {}
    for name in datasets:
        groups.setdefault(str(setting.on(name)), []).append(name)
    return list(groups.values())
