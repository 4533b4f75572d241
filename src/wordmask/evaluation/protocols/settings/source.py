"""What the settings of one method are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Settings of one method.

    Attributes:
        where: what they were read from.
        base: what all data sets share.
        datasets: changes by data set.
        backbones: changes by backbone, then by data set.
        refiners: options of refiners by data set ("base": for all of them), used where
            an entry has them; "backbone:data set" comes before the data set. "variant" names a
            refiner's variant.
        notes: what else a reader must know.
    """

    where: str
    base: Settings
    datasets: Mapping[str, Settings] = field(default_factory=dict)
    backbones: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)
    refiners: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
