"""The runs of a report, read from results.json files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordmask.errors import WordmaskError
from wordmask.evaluation import results


@dataclass(frozen=True)
class Result:
    """One run on one data set under one condition, with its model and networks."""

    entry: Mapping[str, Any]
    model: Mapping[str, str]
    networks: Mapping[str, str]
    folder: Path

    @property
    def clean(self) -> bool:
        """Whether the pictures were not corrupted."""
        return bool(self.entry["condition"][0] == "clean")

    @property
    def name(self) -> str:
        """Method, protocol and model, as shown in tables."""
        backbone = self.model["backbone"]
        short = backbone if backbone.startswith("ViT-") else Path(self.model["source"]).name
        return f"{self.entry['label']}, {self.entry['protocol']['protocol']}, {short}"


def read_runs(folder: Path) -> list[Result]:
    """All runs below a folder; of repeated runs, the last one.

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
        networks = {kind: one["source"] for kind, one in made["networks"].items()}
        for entry in made["runs"]:
            protocol = entry["protocol"]
            settings = json.dumps(protocol["settings"], sort_keys=True)
            key = (made["model"]["weights"], entry["dataset"], *entry["condition"])
            key += (entry["images"], entry["label"], protocol["protocol"], settings)
            latest.pop(key, None)
            latest[key] = Result(entry, made["model"], networks, path.parent)
    return list(latest.values())
