"""The runs of a report, read from results.json files, each with a name that no other has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wordmask.errors import WordmaskError
from wordmask.evaluation import results
from wordmask.evaluation.protocols import write
from wordmask.evaluation.published import RunState


@dataclass(frozen=True)
class Result:
    """One run on one data set under one condition.

    Attributes:
        entry: the run as results.json holds it.
        model: CLIP, as results.json holds it.
        networks: sources of the auxiliary models, by kind.
        folder: of its results.json; None for a run in memory.
        place: where its pictures are.
        text_features: the file of `--text-features`.
        label: its name, if that of `name` alone would not be its own.
        pictures: its pictures, by a name that other pictures do not have.
    """

    entry: Mapping[str, Any]
    model: Mapping[str, str]
    networks: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    place: str = ""
    text_features: str | None = None
    label: str = ""
    pictures: str = ""

    @property
    def clean(self) -> bool:
        """Whether the pictures were not corrupted."""
        return bool(self.entry["condition"][0] == "clean")

    @property
    def name(self) -> str:
        """Method, protocol and model, and what else tells it from other runs of the report."""
        return self.label or ", ".join([self.entry["label"], self.protocol, self.backbone])

    @property
    def method(self) -> str:
        """The entry: method, variant and refiners."""
        return str(self.entry["protocol"]["entry"])

    @property
    def protocol(self) -> str:
        """The protocol's name."""
        return str(self.entry["protocol"]["protocol"])

    @property
    def backbone(self) -> str:
        """ViT-B/16, or the name of the model's source if it has another shape."""
        backbone = self.model["backbone"]
        return backbone if backbone.startswith("ViT-") else Path(self.model["source"]).name

    @property
    def by_hand(self) -> str:
        """What `--set` changed, sweeps left out: `short_side=448 window=0`."""
        protocol = self.entry["protocol"]
        return " ".join(
            f"{key}={write(protocol['settings'].get(key))}"
            for key, origin in protocol.get("origins", {}).items()
            if origin == "--set" and key not in self.entry["swept"]
        )

    @property
    def setting(self) -> str:
        """Method, protocol and what was set by hand: a run without its checkpoint."""
        return f"{self.method}, {self.protocol}, {self.by_hand}"

    @property
    def clip(self) -> str:
        """CLIP, by its source and weights."""
        return json.dumps([self.model["source"], self.model["weights"]])

    @property
    def checkpoint(self) -> str:
        """CLIP and the auxiliary models of the run, by their sources and weights."""
        return self.clip + json.dumps(dict(self.networks))

    @property
    def state(self) -> RunState:
        """What published numbers are compared with."""
        return RunState(self.entry, self.model, self.networks, self.text_features)


def read_runs(folder: Path) -> list[Result]:
    """All runs below a folder; of repeated runs, the last one.

    Numbers of papers are looked up again, whatever the file says.

    Raises:
        WordmaskError: no results below it, or a file that is not a results.json.
    """
    if not folder.is_dir():
        raise WordmaskError(f"got {folder} for the runs to report; it is not a folder")
    paths = sorted(folder.rglob(results.RESULTS))
    if not paths:
        raise WordmaskError(
            f"no {results.RESULTS} below {folder}; make one with wordmask evaluate --out {folder}"
        )
    latest: dict[tuple[Any, ...], Result] = {}
    read = sorted(((path, results.read(path)) for path in paths), key=lambda one: one[1]["made"])
    for path, made in read:
        for entry in made["runs"]:
            found = _result(path, made, entry)
            settings = json.dumps(entry["protocol"]["settings"], sort_keys=True)
            key = (found.checkpoint, found.text_features, _content(found), *entry["condition"])
            key += (entry["label"], found.protocol, settings)
            latest.pop(key, None)
            latest[key] = found
    return [_with_plain(found, latest.values()) for found in named(latest.values())]


def _with_plain(found: Result, runs: Iterable[Result]) -> Result:
    """The run with the mIoU of its plain names, from another results.json if need be."""
    if found.entry.get("plain") is not None:
        return found
    alike = [
        other.entry
        for other in runs
        if _content(other) == _content(found)
        and other.checkpoint == found.checkpoint
        and other.entry["condition"] == found.entry["condition"]
    ]
    return replace(found, entry={**found.entry, "plain": results.plain_names(found.entry, alike)})


def _result(path: Path, made: Mapping[str, Any], entry: Mapping[str, Any]) -> Result:
    plan = made.get("plan", {})
    used = entry.get("networks", made["networks"])
    networks = {kind: one["source"] for kind, one in used.items()}
    given = (text.partition("=") for text in plan.get("datasets", []))
    place = next((at for name, _, at in given if name == entry["dataset"] and at), None)
    place = place or str(plan.get("root") or "")
    found = Result(entry, made["model"], networks, path.parent, place, plan.get("text_features"))
    if not found.clean:
        return found
    return replace(found, entry={**entry, **results.published(found.state)})


def _content(found: Result) -> tuple[Any, ...]:
    """What pictures a run is of: the data set, and for folders of one's own what is in them."""
    entry = found.entry
    key = (entry["dataset"], entry["images"])
    if entry["expected"]:
        return key
    names = [*(one["id"] for one in entry["pictures"]), *(c["name"] for c in entry["classes"])]
    return (*key, found.place, hashlib.blake2b("\n".join(names).encode()).hexdigest())


def _name_pictures(runs: Sequence[Result]) -> dict[tuple[Any, ...], str]:
    """A name of its own for every set of pictures, by its content."""
    names: dict[tuple[Any, ...], str] = {}
    places = dict.fromkeys((_content(found), found.place) for found in runs)
    for key, place in places:
        name = f"{key[0]} ({key[1]})"
        if any(other != key and other[:2] == key[:2] for other, _ in places):
            name = f"{key[0]} ({key[1]}, {place or 'no folder'})"
        if key not in names and name in names.values():
            name = f"{name} {len(names) + 1}"
        names.setdefault(key, name)
    return names


def named(runs: Iterable[Result]) -> list[Result]:
    """The runs, their pictures and themselves named so that no two share a name."""
    known = list(runs)
    pictures = _name_pictures(known)
    known = [replace(found, pictures=pictures[_content(found)], label="") for found in known]
    more: Sequence[Callable[[Result], str]] = (  # what may tell runs apart, the plainest first
        lambda f: Path(f.model["source"]).name,
        lambda f: ", ".join(f"{k} {Path(v).name}" for k, v in f.networks.items()),
        lambda f: f.by_hand,
        lambda f: f.text_features or "",
    )
    for tells in (more, [lambda f: f.model["weights"][:6]], [lambda f: str(f.folder)]):
        groups: dict[tuple[Any, ...], list[Result]] = {}
        for found in known:
            key = (found.name, found.pictures, *found.entry["condition"])
            groups.setdefault(key, []).append(found)
        told: dict[str, list[Callable[[Result], str]]] = {}  # by name, what differs
        for key, here in groups.items():
            for tell in tells:
                others = told.setdefault(key[0], [])
                if len({tell(found) for found in here}) > 1 and tell not in others:
                    others.append(tell)
        known = [
            replace(f, label=", ".join(filter(None, (f.name, *(tell(f) for tell in told[f.name])))))
            for f in known
        ]
    return known
