"""The refiners, one per file. Importing this package registers them all."""

from wordmask.refiners import diffusion, freecp, lposs, pamr, ptc, sam, vfm, vip, vote
from wordmask.refiners.base import (
    REFINERS,
    Refiner,
    RefinerInput,
    WordScores,
    WordStep,
    check_words,
    create_refiner,
    list_refiners,
    read_refiners,
    register_refiner,
)

__all__ = [
    "REFINERS",
    "Refiner",
    "RefinerInput",
    "WordScores",
    "WordStep",
    "check_words",
    "create_refiner",
    "diffusion",
    "freecp",
    "list_refiners",
    "lposs",
    "pamr",
    "ptc",
    "read_refiners",
    "register_refiner",
    "sam",
    "vfm",
    "vip",
    "vote",
]
