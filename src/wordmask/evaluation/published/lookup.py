"""Match our runs with published numbers of the same setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wordmask.evaluation.protocols import Entry, write
from wordmask.evaluation.published.tables import TABLES, Setting
from wordmask.methods import METHODS

# The paper with preferred numbers for a method: its own, or the one that ran it as a baseline.
OWN_PAPER = {
    "clip": "ClearCLIP",
    "maskclip": "ClearCLIP",
    "sclip": "CLIPer, Table 1",
    "clearclip": "ClearCLIP",
    "gem": "ClearCLIP",
    "proxyclip": "ProxyCLIP",
    "cliptrase": "CLIPtrase",
    "cliper": "CLIPer",
    "naclip": "NACLIP",
}


@dataclass(frozen=True)
class Reported:
    """A number reported in a paper: its table, metric (a key of METRICS), and value in percent."""

    source: str
    metric: str
    value: float


def find_reported(
    entry: Mapping[str, Any], model: Mapping[str, str], networks: Mapping[str, str]
) -> list[Reported]:
    """The numbers reported for the setting of a run, those of the method's own paper first.

    Args:
        entry: a run in the form of results.json.
        model: backbone and family of the weights.
        networks: sources of the auxiliary networks, by kind.
    """
    found: list[Reported] = []
    for table in TABLES:
        for row in table.rows:
            if not same_weights(row.backbone, model):
                continue
            for column, value in zip(table.columns, row.values, strict=True):
                if column.dataset != entry["dataset"] or value is None:
                    continue
                if any(same_setting(setting, entry, networks) for setting in row.settings):
                    found.append(Reported(table.source, column.metric, value))
    own = OWN_PAPER.get(entry["protocol"]["method"], "")
    return sorted(dict.fromkeys(found), key=lambda one: not one.source.startswith(own))


def same_weights(backbone: str, model: Mapping[str, str]) -> bool:
    """Whether a row's backbone, `ViT-B/16` or `OpenCLIP ViT-B/16`, is that of the model."""
    *family, architecture = backbone.split()
    return [architecture, *(family or ["OpenAI"])] == [model["backbone"], model["family"]]


def same_setting(setting: Setting, entry: Mapping[str, Any], networks: Mapping[str, str]) -> bool:
    """Whether a run has the setting of a row: its entry, its changes, and no other change."""
    protocol = entry["protocol"]
    if protocol["protocol"] == "untuned":
        return False
    wanted = Entry.split(setting.entry)
    if wanted.method != protocol["method"]:
        return False
    variant = wanted.variant or next(iter(METHODS[wanted.method].variants))
    settings = protocol["settings"]
    refiners = ",".join(wanted.refiners or ()) or "none"
    if (protocol["variant"], settings["refine"]) != (variant, refiners):
        return False
    changes = setting.on(entry["dataset"])
    by_hand = {key for key, origin in protocol["origins"].items() if origin == "--set"}
    return by_hand <= set(changes) and all(
        _same(value, networks.get(key, settings.get(key))) for key, value in changes.items()
    )


def _same(written: str, value: Any) -> bool:
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        try:
            return float(written) == float(value)
        except ValueError:
            return False
    return written == write(value)
