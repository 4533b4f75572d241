"""Protocols: every setting that a number depends on, as data that can be printed and changed.

- `official`: the settings of a method's released code, data set by data set.
- `paper`: the settings that its paper states; for all others, the method's defaults.
- `untuned`: one fixed setting for all methods and all data sets; also used for methods without
  official and paper settings.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wordmask.datasets import Benchmark, benchmark
from wordmask.errors import WordmaskError, unknown
from wordmask.evaluation.protocols.settings import RELEASED, STATED, UNTUNED, Source
from wordmask.methods import METHODS, create_method, parse_option
from wordmask.options import parse_assignment
from wordmask.refiners import REFINERS, check_words, read_refiners
from wordmask.registry import split_variant
from wordmask.vocabulary import Background

PROTOCOLS = ("official", "paper", "untuned")
BACKBONES = ("ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-H/14")
VIEWS = ("original", "halves")  # and crop:N
STANDARD = (  # data sets on which the shared settings hold unless a source changes them
    "voc21",
    "voc20",
    "context60",
    "context59",
    "coco_object",
    "coco_stuff",
    "cityscapes",
    "ade150",
)
FIELDS = (  # besides the options
    "names", "vocabulary", "background", "view", "void", "definition", "image_labels", "refine",
    "regions",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """What to evaluate: a method, its variant and refiners.

    Written `METHOD[:VARIANT][+REFINER[:VARIANT]]...`, as in `cliper:official-v1+diffusion`;
    `+none` drops the refiners of a protocol. METHOD and REFINER may be `FILE.py:NAME`.

    Attributes:
        method: its registered name.
        variant: None takes the protocol's, or else the method's first.
        refiners: registered names, with variants; None takes the protocol's.
    """

    method: str
    variant: str | None = None
    refiners: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> Entry:
        """Read the written form.

        Raises:
            WordmaskError: an unknown method, variant or refiner.
        """
        entry = cls.split(text)
        if not all((entry.method, *(entry.refiners or ()))):
            raise WordmaskError(f"got {text!r} as a method; write METHOD[:VARIANT][+REFINER]...")
        method = METHODS.resolve(entry.method).name
        refiners = entry.refiners and tuple(map(_resolve_refiner, entry.refiners))
        create_method(method, entry.variant)
        check_words(method, METHODS[method].class_maps, read_refiners(refiners))
        return cls(method, entry.variant, refiners)

    @classmethod
    def split(cls, text: str) -> Entry:
        """Read the written form without checking that the method exists."""
        first, *rest = (part.strip() for part in text.split("+"))
        method, variant = split_variant(first)
        refiners = None if not rest else () if rest == ["none"] else tuple(rest)
        return cls(method, variant, refiners)


def _resolve_refiner(text: str) -> str:
    """The name under which a refiner is registered, with its variant."""
    name, variant = split_variant(text)
    name = REFINERS.resolve(name).name
    return name if variant is None else f"{name}:{variant}"


@dataclass(frozen=True)
class Protocol:
    """Every setting of one method on one data set.

    Attributes:
        name: official, paper or untuned.
        method, variant, dataset, backbone: what the settings are for.
        options: all options of the method.
        names: the source of the class names, see the data set's `names`.
        vocabulary: the words to choose from: "all" (the classes of the data set), a number N (fewer
            classes, those of the picture among them; or all and words of other data sets, whose
            pixels count as labelled with none of the classes), or "+K" (all, and K other words).
        background: the rule, as on the command line; `*` stands for the data set's own background
            words under `names`, `**` for all that the released code lists, those included that are
            a class too: the background then takes its pixels.
        refine: refiners in order, each (name with its variant, all its options).
        view: the part that is segmented and scored: "original" (the picture at its own size),
            "halves" (left and right half as separate pictures), "crop:N" (short side N, then the
            N x N centre, pictures by PIL's bicubic and labels by the nearest).
        void: unlabelled pixels: "ignore" or "background".
        definition: of the mean IoU: over classes with union > 0 ("union") or those in the target
            ("present"). Both are always reported; this one is the headline.
        image_labels: the classes that are known to be in each picture, so that no other gets a
            pixel: "none" are known, those in its "target", or those in a CSV file.
        regions: "target" tells the method the true regions of the target, for an upper bound, if
            it `takes_regions`; "none" otherwise.
        origins: where each setting comes from: "released", "stated", "fixed", "given" (refiners in
            the entry), "--set"; those left out are defaults of the method.
        source: the code or paper of released or stated settings.
        notes: notes for readers of the numbers.
    """

    name: str
    method: str
    variant: str
    dataset: str
    backbone: str
    options: Mapping[str, Any]
    names: str
    background: str
    vocabulary: str = "all"
    refine: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    view: str = "original"
    void: str = "ignore"
    definition: str = "union"
    image_labels: str = "none"
    regions: str = "none"
    origins: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def entry(self) -> str:
        """The method as written on the command line: `cliper:official-v1+diffusion`."""
        shown = self.method
        if self.variant != next(iter(METHODS[self.method].variants)):
            shown += f":{self.variant}"
        return "+".join([shown, *(name for name, _ in self.refine)])

    @property
    def changes(self) -> dict[str, Any]:
        """The settings from `--set`."""
        known = self.settings()
        return {key: known[key] for key, origin in self.origins.items() if origin == "--set"}

    def settings(self) -> dict[str, Any]:
        """All settings by name, flat; those of refiners as `refiner.option`."""
        refine = ",".join(name for name, _ in self.refine) or "none"
        flat = {
            **self.options,
            "names": self.names,
            "vocabulary": self.vocabulary,
            "background": self.background,
            "view": self.view,
            "void": self.void,
            "definition": self.definition,
            "image_labels": self.image_labels,
            "refine": refine,
            "regions": self.regions,
        }
        for name, options in self.refine:
            flat |= {f"{split_variant(name)[0]}.{key}": value for key, value in options.items()}
        return flat

    def strategy(self, words: Sequence[str]) -> Background:
        """The background strategy; `words` are the data set's own background words."""
        return read_background(self.background, words)

    def describe(self) -> dict[str, Any]:
        """The protocol as plain values for JSON."""
        return {
            "protocol": self.name,
            "entry": self.entry,
            "method": self.method,
            "variant": self.variant,
            "dataset": self.dataset,
            "backbone": self.backbone,
            "settings": self.settings(),
            "origins": dict(self.origins),
            "source": self.source,
            "notes": list(self.notes),
        }


def make_protocol(
    entry: str | Entry,
    dataset: str | Benchmark,
    name: str = "official",
    backbone: str = "ViT-B/16",
    assignments: Iterable[str] = (),
) -> Protocol:
    """The protocol of a method on a data set.

    Args:
        entry: `METHOD[:VARIANT][+REFINER]...`, see `Entry`.
        dataset: a benchmark or its name.
        name: official, paper or untuned.
        backbone: released settings may differ by it: ViT-B/16, ViT-L/14 ...
        assignments: changes, `option=value`: an option of the method, a field of the protocol
            (one of `FIELDS`), or `refiner.option=value`.

    Raises:
        WordmaskError: an unknown name of any kind, a wrong value, or a method without known
            released or stated settings.
    """
    bench = benchmark(dataset) if isinstance(dataset, str) else dataset
    entry = Entry.parse(entry) if isinstance(entry, str) else entry
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    name, source = _source(entry, name)
    settings, notes = _collect(source, bench.name, backbone)
    word = {"official": "released", "paper": "stated", "untuned": "fixed"}[name]
    origins = dict.fromkeys(settings, word)
    variant = entry.variant or settings.pop("variant", None)
    origins.pop("variant", None)
    refine = settings.pop("refine", "")
    if entry.refiners is not None:
        refine = ",".join(entry.refiners)
        origins["refine"] = "given"
    given = read_assignments(entry.method, assignments)
    origins |= dict.fromkeys(given, "--set")
    by_refiner: dict[str, dict[str, str]] = {}
    for key in [key for key in given if "." in key]:
        refiner, _, option = key.partition(".")
        by_refiner.setdefault(refiner, {})[option] = given.pop(key)
    settings |= given
    if "refine" in settings:
        refine = settings.pop("refine")
    fields = {key: settings.pop(key) for key in FIELDS if key in settings}
    own = {f.name for f in dataclasses.fields(METHODS[entry.method])}
    settings = {k: v for k, v in settings.items() if k in own}  # variants may lack an option
    method, variant = create_method(entry.method, variant, settings)
    origins = {k: v for k, v in origins.items() if k in own or k not in settings}
    names = _names_source(bench, fields.get("names", "plain"), "names" in given)
    fallback = "none"
    if bench.has_background:
        listed = name != "untuned" and ("names" in given or bench.background_words.get(names))
        fallback = "names:*" if listed else "auto"
    protocol = Protocol(
        name=name,
        method=entry.method,
        variant=variant,
        dataset=bench.name,
        backbone=backbone,
        options=method.options(),
        names=names,
        background=fields.get("background", fallback),
        vocabulary=_vocabulary(fields.get("vocabulary", "all")),
        refine=_refiners(refine, source.refiners, bench.name, backbone, by_refiner),
        view=_view(fields.get("view", "original")),
        void=_choice("void", fields.get("void", "ignore"), ("ignore", "background")),
        definition=_choice("definition", fields.get("definition", "union"), ("union", "present")),
        image_labels=fields.get("image_labels", "none"),
        regions=_choice("regions", fields.get("regions", "none"), ("none", "target")),
        origins=origins,
        source=source.where,
        notes=notes,
    )
    if protocol.void == "background" and not bench.has_background:
        raise WordmaskError(
            f"got void=background, but {bench.name} has no background; leave it at ignore"
        )
    if protocol.regions != "none" and not METHODS[entry.method].takes_regions:
        raise WordmaskError(
            f"got regions=target, but {entry.method} takes no regions; leave it out"
        )
    read_background(protocol.background, ())
    return protocol


def _source(entry: Entry, name: str) -> tuple[str, Source]:
    """The protocol's name and the settings of a method: those of `name`, or untuned ones."""
    table = {"official": RELEASED, "paper": STATED, "untuned": {}}[name]
    for key in (f"{entry.method}:{entry.variant}", entry.method):
        if key in table:
            return name, table[key]
    if name == "untuned":
        return name, UNTUNED
    if not any(key.partition(":")[0] == entry.method for key in (*RELEASED, *STATED)):
        note = f"No released settings of {entry.method} are known; the untuned protocol is used."
        return "untuned", dataclasses.replace(UNTUNED, notes=(note,))
    known = sorted({key.partition(":")[0] for key in table})
    what = "released" if name == "official" else "stated"
    raise WordmaskError(
        f"no {what} settings of {entry.method} are known (they are for {', '.join(known)}); "
        "use --protocol untuned and --set"
    )


def _collect(source: Source, dataset: str, backbone: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings of a source for one data set and backbone, and notes on what is missing."""
    by_set = dict(source.datasets)
    extra = []
    if backbone in source.backbones:
        by_set = {**by_set, **source.backbones[backbone]}
    elif source.backbones and backbone != "ViT-B/16":
        extra.append(f"No settings are known for {backbone}; these are for ViT-B/16.")
    if source.datasets and dataset not in (*source.datasets, *STANDARD):
        extra.append(f"No settings are known for {dataset}; these are what the others share.")
    base = {**source.base, **by_set.get("base", {})}
    return {**base, **by_set.get(dataset, {})}, (*source.notes, *extra)


def read_assignments(method: str, assignments: Iterable[str]) -> dict[str, Any]:
    """Changes of a protocol by name, those of other methods left out.

    Options of the method have the option's type; fields of the protocol and `refiner.option` stay
    text.

    Raises:
        WordmaskError: an unknown option or refiner, a wrong value, an option given twice.
    """
    given: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise WordmaskError(f"got --set {text!r}; write option=value")
        owner, dot, option = key.partition(".")
        if dot and owner in METHODS:
            if owner != method:
                continue  # meant for another method of the same run
            key, dot, text = option, "", f"{option}={value}"
        if key in given:
            raise WordmaskError(f"the option {key!r} is given more than once; leave one")
        if dot:
            if owner not in REFINERS:
                raise unknown("refiner", owner, REFINERS)
            given[key] = value
        elif key in FIELDS:
            given[key] = value
        else:
            known = [f.name for f in dataclasses.fields(METHODS[method])]
            if key not in known:
                raise unknown(f"option of {method}", key, [*known, *FIELDS])
            given[key] = parse_option(method, text)[1]
    return given


def _names_source(bench: Benchmark, wanted: str, by_hand: bool) -> str:
    """The source of class names: `wanted` if it exists, else plain; an error if set by hand."""
    if wanted in bench.names:
        return wanted
    if by_hand:
        raise unknown(f"source of names of {bench.name}", wanted, bench.names)
    return "plain" if "plain" in bench.names else next(iter(bench.names))


def _refiners(
    given: str,
    released: Mapping[str, Mapping[str, Mapping[str, Any]]],
    dataset: str,
    backbone: str,
    by_hand: Mapping[str, Mapping[str, str]],
) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    texts = [part.strip() for part in given.split(",") if part.strip() not in ("", "none")]
    refiners = []
    for text in map(_resolve_refiner, texts):
        name, variant = split_variant(text)
        table = released.get(name, {})
        options: dict[str, Any] = {}
        for key in ("base", dataset, f"{backbone}:{dataset}"):
            options |= table.get(key, {})
        known = options.pop("variant", None)
        for option, value in by_hand.get(name, {}).items():
            key, parsed = parse_assignment(REFINERS, name, f"{option}={value}")
            options[key] = parsed
        full = text if known is None or variant is not None else f"{text}:{known}"
        (refiner,) = read_refiners([(full, options)])
        refiners.append((text, refiner.options()))
    for name in by_hand:
        if name not in {split_variant(text)[0] for text, _ in refiners}:
            raise WordmaskError(
                f"got --set {name}.{next(iter(by_hand[name]))}, but {name} is not among the "
                "refiners of this run"
            )
    return tuple(refiners)


def _view(text: str) -> str:
    if text in VIEWS or re.fullmatch(r"crop:[1-9]\d{0,4}", text):
        return text
    raise WordmaskError(f"got view={text}; give original, halves or crop:N, as in crop:336")


def _vocabulary(text: str) -> str:
    if text == "all" or re.fullmatch(r"\+?[1-9]\d{0,4}", text):
        return text
    raise WordmaskError(f"got vocabulary={text}; give all, a number of words, or +K for K others")


def crop_size(view: str) -> int:
    """N of `crop:N`, 0 for another view."""
    return int(view.removeprefix("crop:")) if view.startswith("crop:") else 0


def _choice(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise unknown(name, value, known)
    return value


def read_background(text: str, words: Sequence[str]) -> Background:
    """Read a background as on the command line; `*` and `**` stand for `words`.

    >>> read_background("threshold:0.5:*", ["sky", "wall"]).distractors
    ('sky', 'wall')
    """
    rule, star, rest = text.partition("*")
    if not star:
        return Background.parse(text)
    if rest not in ("", "*") or not rule.endswith(":"):
        raise WordmaskError(
            f"got background={text!r}; * or ** stands alone for the data set's own words, as in "
            "names:* or threshold:0.5:*"
        )
    plain = Background("names") if rule == "names:" else Background.parse(rule.removesuffix(":"))
    return dataclasses.replace(plain, distractors=tuple(words), overlap=bool(rest))


def write(value: Any) -> str:
    """Format a setting as for `--set`."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
