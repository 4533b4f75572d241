"""The settings of one method, with changes by data set and backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Settings of one method.

    Attributes:
        where: the code or paper that they are from.
        base: settings shared by all data sets.
        datasets: changes by data set.
        backbones: changes by backbone, then by data set.
        refiners: options of refiners by data set ("base": for all of them), used if an entry has
            them; "backbone:data set" overrides the data set. "variant" names a refiner's variant.
        notes: notes for readers of the numbers.
    """

    where: str
    base: Settings
    datasets: Mapping[str, Settings] = field(default_factory=dict)
    backbones: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)
    refiners: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
