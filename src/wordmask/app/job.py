"""What a visitor of the page asks for: plain values that can be compared, kept and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wordmask.errors import WordmaskError
from wordmask.methods import METHODS, Method, parse_option, read_method
from wordmask.options import parse_assignment
from wordmask.refiners import REFINERS, Refiner, read_refiners
from wordmask.registry import split_variant
from wordmask.towers.built_in import own_options
from wordmask.vocabulary import NEGATIVES, TEMPLATE_LISTS, Background, Vocabulary

RULES = {  # for pixels that show none of the words
    "auto": "automatic",
    "negatives": "chosen negatives",
    "none": "every pixel gets a word",
    "names": "my own words",
    "threshold": "unsure pixels",
    "complement": "complement",
}


@dataclass(frozen=True)
class Settings:
    """A network and a method with its refiners, as names.

    Attributes:
        model: the CLIP.
        method, variant: variant None is the method's first.
        refine: refiners in order, each "name" or "name:variant".
        options: (option, text) pairs; an option of a refiner as "refiner.option".
        networks: (kind, source) pairs of auxiliary models; others have their default.
    """

    model: str
    method: str = "cliper"
    variant: str | None = None
    refine: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    networks: tuple[tuple[str, str], ...] = ()

    def read_method(self) -> tuple[Method, str]:
        """The method with its options, and the variant's name.

        Raises:
            WordmaskError: an unknown method, variant or option, or a value that does not fit.
        """
        own = [f"{name}={text}" for name, text in self.options if "." not in name]
        given = dict(parse_option(METHODS.resolve(self.method), one) for one in own)
        return read_method(self.method, self.variant, own_options(self.model, given))

    def read_refiners(self) -> tuple[Refiner, ...]:
        """The refiners with their options; options of others are left out."""
        pairs = []
        for text in self.refine:
            name = split_variant(text)[0]
            own = [(k.partition(".")[2], v) for k, v in self.options if k.startswith(f"{name}.")]
            given = dict(parse_assignment(REFINERS, name, f"{k}={v}") for k, v in own)
            pairs.append((text, given))
        return read_refiners(pairs)

    def check_public(self, models: Sequence[str]) -> None:
        """Refuse what only the machine's owner may choose: files of it, networks to load.

        Raises:
            WordmaskError: another model than these, an auxiliary network, or a file as a method,
                refiner or list of templates.
        """
        if self.model not in models or self.networks:
            raise WordmaskError("networks are chosen by the owner of this machine")
        if any(".py:" in one for one in (self.method, *self.refine)):
            raise WordmaskError("methods from files are for the owner of this machine")
        for name, text in self.options:
            if name == "templates" and text not in TEMPLATE_LISTS:
                raise WordmaskError(f"templates are {', '.join(TEMPLATE_LISTS)} here, got {text!r}")


@dataclass(frozen=True)
class Job:
    """A picture, words, a background and settings: all that a result depends on."""

    picture: str = field(repr=False)
    words: Vocabulary
    background: Background
    settings: Settings


def read_words(tags: Sequence[str]) -> Vocabulary:
    """The classes: each tag is one, with synonyms after commas; `;` inside a tag splits it too.

    Raises:
        WordmaskError: no words, or one given twice.
    """
    text = ";".join(tag for tag in tags if tag.strip(" ;,"))
    if not text:
        raise WordmaskError("there are no words yet; type what to look for, one word at a time")
    return Vocabulary.parse(text)


def read_background(
    rule: str, names: Sequence[str], number: float | None, words: Vocabulary
) -> Background:
    """The background of a rule of `RULES`, checked against the words.

    names: what is background; used but by "auto", "negatives" and "none".
    number: of "threshold" the probability, of "complement" the power, of "negatives" how many; 0
        or None: 0.3, 2 and 64.
    """
    listed = [part.strip() for name in names for part in name.replace(";", ",").split(",")]
    listed = [name for name in listed if name]
    if rule == "names":
        if not listed:
            raise WordmaskError("there are no background words; type some, or choose automatic")
        found = Background.names(listed)
    elif rule == "threshold":
        found = Background.threshold(number or 0.3, listed)
    elif rule == "complement":
        found = Background.complement(number or 2.0, listed)
    elif rule == "negatives":
        found = Background.negatives(int(number or NEGATIVES))
    else:
        found = Background.of(rule)
    found.check(words)
    return found


def understood(words: Vocabulary, background: Background) -> str:
    """`2 classes: cup; table (also: table top). Background: found by general scene words.`"""
    listed = "; ".join(
        names[0] + (f" (also: {', '.join(names[1:])})" if len(names) > 1 else "") for names in words
    )
    names = ", ".join(background.distractors)
    also = f", or most like {names}" if names else ""
    rule = {
        "auto": "what general scene words fit better",
        "negatives": f"what fits better one of {background.count} names far from yours",
        "none": "none, every pixel gets one of the words",
        "names": f"what is most like {names}",
        "threshold": f"where no word is {background.probability} probable{also}",
        "complement": f"(1 - best word) to the power {background.power}{also}",
    }[background.kind]
    count = f"{len(words)} class{'es' if len(words) > 1 else ''}"
    return f"{count}: {listed}. Background: {rule}."
