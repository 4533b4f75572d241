"""What every refiner is: it prepares a picture once, then sharpens any score maps of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.options import Options, create
from wordmask.towers.auxiliary import Networks

REFINERS: dict[str, type[Refiner]] = {}


@dataclass(frozen=True)
class RefinerInput:
    """One picture as refiners get it.

    Attributes:
        image: (3, H, W) float32 in [0, 1], the picture as it was given.
        pixels: (3, H', W') float32, normalised, as CLIP saw it.
    """

    image: Tensor
    pixels: Tensor


@dataclass(frozen=True)
class Refiner(Options):
    """Sharpens score maps. It knows the picture and the maps, and not the method behind them."""

    def prepare(self, picture: RefinerInput, networks: Networks) -> Any:
        """The costly half, once a picture: whatever `refine` needs that no words change."""
        raise TypeError(f"{type(self).__name__} prepares nothing")

    def refine(self, prepared: Any, scores: Tensor) -> Tensor:
        """Sharpen score maps of one picture.

        Args:
            prepared: what `prepare` returned.
            scores: (R, h, w) float32 over the whole picture on any grid: cosines, or class maps of
                at least 0, as the method makes them.

        Returns:
            (R, h', w') float32 over the whole picture, on the refiner's own grid.
        """
        raise TypeError(f"{type(self).__name__} refines nothing")


def register_refiner(refiner: type[Refiner]) -> type[Refiner]:
    """Make a refiner known by its name."""
    REFINERS[refiner.name] = refiner
    return refiner


def create_refiner(
    name: str, variant: str | None = None, options: Mapping[str, Any] | None = None
) -> tuple[Refiner, str]:
    """Build a refiner from its name, a variant and options; returns it with the variant's name.

    Raises:
        WordmaskError: unknown refiner, variant or option, or a value of the wrong type.
    """
    return create("refiner", REFINERS, name, variant, options)


def read_refiners(given: str | Refiner | Iterable[Any] | None) -> tuple[Refiner, ...]:
    """Refiners in the order in which they are applied.

    Args:
        given: "diffusion,pamr" (a variant after a colon: "diffusion:paper"), a `Refiner`, or a list
            of names, refiners and pairs (name, options).

    Raises:
        WordmaskError: an unknown name, variant or option.
    """
    if given is None:
        return ()
    if isinstance(given, Refiner):
        return (given,)
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",") if part.strip()]
    refiners = []
    for item in given:
        if isinstance(item, Refiner):
            refiners.append(item)
            continue
        name, options = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
        if not isinstance(name, str):
            raise WordmaskError(
                f'got {item!r} as a refiner; give a name such as "pamr", a pair (name, options) or '
                "a Refiner"
            )
        name, colon, variant = name.partition(":")
        refiners.append(create_refiner(name, variant if colon else None, options)[0])
    return tuple(refiners)
