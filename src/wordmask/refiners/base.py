"""The base of all refiners: each prepares a picture once, then refines any score maps of it.

Steps on words (`WordStep`) come first: they change what the method's words score in one picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.options import Options, check_class, create
from wordmask.registry import Registry, split_variant
from wordmask.scoring import Rule
from wordmask.text_queries import TextQueries
from wordmask.towers.auxiliary import AuxiliaryModels
from wordmask.towers.clip import ClipTower, Need, Trace


@dataclass(frozen=True)
class RefinerInput:
    """One picture, the input of `Refiner.prepare`.

    Attributes:
        image: (3, H, W) float32 in [0, 1], the picture as it was given.
        pixels: (3, H', W') float32, normalised, the input of CLIP.
        name: its file or id, "" if it has none.
        size: its (H, W) as it was given; None: that of `image`.
    """

    image: Tensor
    pixels: Tensor
    name: str = ""
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Refiner(Options):
    """Refines score maps, from the picture and the maps alone, whatever the method."""

    # `refine` gets the probabilities of the names, softmax over all of them, in place of cosines
    of_probabilities: ClassVar[bool] = False

    @property
    def active(self) -> bool:
        """False if these options change nothing: maps then stay as they are."""
        return True

    def prepare(self, picture: RefinerInput, networks: AuxiliaryModels) -> Any:
        """Compute once per picture what `refine` needs and what does not depend on the words."""
        raise TypeError(f"{type(self).__name__} does not implement prepare")

    def grid(self, prepared: Any) -> tuple[int, int] | None:
        """The size (h, w) at which `refine` wants the maps; None: that of CLIP's patches."""
        return None

    @property
    def decides(self) -> bool:
        """True if these options change labels, by `rule`, and not maps."""
        return False

    def rule(self, prepared: Any, rule: Rule) -> Rule:
        """The rule by which scores become labels, from that of the method; see `decides`."""
        return rule

    def refine(self, prepared: Any, scores: Tensor) -> Tensor:
        """Refine score maps of one picture.

        Args:
            prepared: what `prepare` returned.
            scores: (R, h, w) float32 over the whole picture on any grid: cosines (probabilities,
                if the class says `of_probabilities`), or non-negative class maps, depending on the
                method.

        Returns:
            (R, h', w') float32 over the whole picture, on the refiner's own grid.
        """
        raise TypeError(f"{type(self).__name__} does not implement refine")


@dataclass(frozen=True, eq=False)
class WordScores:
    """The scores of one picture's words, the input of `WordStep.rescore`. W windows, or one.

    Attributes:
        scores: (W, Q, h, w) of a method that compares cosines, after the steps before.
        texts: the Q names.
        features: (W, E, h', w') of the method, before L2 normalisation.
        pixels: (W, 3, H, W) normalised, as CLIP got them.
        kept: what `WordStep.keep` returned, (W, ...), or None.
        tower: CLIP.
        again: the scores by other texts of as many rows.
    """

    scores: Tensor
    texts: TextQueries
    features: Tensor
    pixels: Tensor
    kept: Tensor | None
    tower: ClipTower
    again: Callable[[TextQueries], Tensor]


@dataclass(frozen=True)
class WordStep(Refiner):
    """Changes the scores of words before any refiner of maps, whatever method compares cosines."""

    @property
    def gives_class_maps(self) -> bool:
        """Whether maps of classes at least 0 come out, and not scores of names."""
        return False

    @property
    def keeps(self) -> bool:
        """Whether it needs a part of CLIP's pass; then it has `need` and `keep`."""
        return False

    def need(self, depth: int) -> Need:
        """What it needs of CLIP's pass; recorded in that of the method where this is possible."""
        return Need()

    def maps_held(self, tower: ClipTower) -> int:
        """How many maps from patches to patches a pass holds for it."""
        return self.need(tower.depth).maps_held(tower.heads)

    def keep(self, trace: Trace) -> Tensor:
        """What `rescore` needs of a pass, (B, ...): kept, so that other words cost no pass."""
        raise TypeError(f"{type(self).__name__} does not implement keep")

    def rescore(self, words: WordScores) -> Tensor:
        """New scores (W, Q, h, w) of the same names, or maps (W, C, h, w) of the classes."""
        raise TypeError(f"{type(self).__name__} does not implement rescore")

    def rule(self, prepared: Any, rule: Rule) -> Rule:
        """The rule that turns the new scores into labels, given that of the method."""
        return rule


REFINERS: Registry[type[Refiner]] = Registry(
    "refiner", "wordmask.refiners", partial(check_class, Refiner)
)
register_refiner = REFINERS.register


def list_refiners() -> list[str]:
    """Names of the registered refiners, sorted."""
    return sorted(REFINERS)


def create_refiner(
    given: str | type[Refiner],
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Refiner, str]:
    """Build a refiner from its name, `FILE.py:NAME` or class, a variant and options.

    Returns it with the variant's name.

    Raises:
        WordmaskError: unknown refiner, variant or option, or a value of the wrong type.
    """
    return create(REFINERS, given, variant, options)


def read_refiners(
    given: str | Refiner | type[Refiner] | Iterable[Any] | None,
) -> tuple[Refiner, ...]:
    """Refiners in the order in which they are applied.

    Args:
        given: "diffusion,pamr" (a variant after a colon: "diffusion:paper"; `FILE.py:NAME` for a
            name), a `Refiner`, a subclass of it, or a list of names, refiners, classes and pairs
            (name or class, options).

    Raises:
        WordmaskError: an unknown name, variant or option; a step on words after something else.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",") if part.strip()]
    elif isinstance(given, (Refiner, type)):
        given = [given]
    refiners: list[Refiner] = []
    item: Any
    for item in given:
        if isinstance(item, Refiner):
            REFINERS.check(type(item))
            refiners.append(item)
            continue
        pair = isinstance(item, (tuple, list)) and len(item) == 2
        chosen, options = item if pair else (item, None)
        variant = None
        if isinstance(chosen, str):
            chosen, variant = split_variant(chosen)
        elif not isinstance(chosen, type):
            raise WordmaskError(
                f'got {item!r} as a refiner; give a name such as "pamr", a Refiner or its class, '
                "or a pair (name, options)"
            )
        refiners.append(create_refiner(chosen, variant, options)[0])
    for before, one in itertools.pairwise(refiners):
        words = isinstance(before, WordStep) and not before.gives_class_maps
        if isinstance(one, WordStep) and one.name == before.name:
            raise WordmaskError(f"got {one.name} twice; give it once")
        if isinstance(one, WordStep) and not words:
            raise WordmaskError(
                f"got {before.name} before {one.name}, which changes the scores of words; put "
                f"{one.name} first, as in {one.name},{before.name}"
            )
    return tuple(refiners)


def check_words(method: str, class_maps: bool, refiners: Iterable[Refiner]) -> None:
    """Refuse steps on words for a method of class maps.

    Raises:
        WordmaskError: which step, and what it needs.
    """
    for one in refiners:
        if class_maps and isinstance(one, WordStep):
            raise WordmaskError(
                f"got {one.name} with {method}, which makes class maps of its own; {one.name} "
                "changes the scores of words: take a method that compares cosines, as clearclip"
            )
