"""The refiners, one per file. Importing this package registers them all."""

from wordmask.refiners import dendro, diffusion, lposs, pamr, sam, vfm
from wordmask.refiners.base import (
    REFINERS,
    Refiner,
    RefinerInput,
    create_refiner,
    list_refiners,
    read_refiners,
    register_refiner,
)

__all__ = [
    "REFINERS",
    "Refiner",
    "RefinerInput",
    "create_refiner",
    "dendro",
    "diffusion",
    "list_refiners",
    "lposs",
    "pamr",
    "read_refiners",
    "register_refiner",
    "sam",
    "vfm",
]
