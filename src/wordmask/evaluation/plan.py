"""The plan of an evaluation, and all checks that need no weights."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wordmask.datasets import Benchmark, Samples, benchmark
from wordmask.errors import WordmaskError, unknown
from wordmask.evaluation.image_labels import find_image_labels
from wordmask.evaluation.protocols import Entry, Protocol, make_protocol
from wordmask.evaluation.robustness import CORRUPTIONS, SEVERITIES
from wordmask.evaluation.words import added_words
from wordmask.methods import METHODS, Method
from wordmask.options import variant_of
from wordmask.vocabulary import Background, Vocabulary

Condition = tuple[str, int]  # a corruption and its severity
CLEAN: Condition = ("clean", 0)
RELEASED = "released"  # of `Plan.names`


@dataclass(frozen=True)
class Plan:
    """What to evaluate, as plain values that can be passed to workers.

    Attributes:
        methods: entries, `METHOD[:VARIANT][+REFINER]...`, see `protocols.Entry`; also classes, and
            methods with options, which override those of the protocol.
        datasets: names of benchmarks, or what else `benchmark` takes.
        root: the folder of their files; None if none is needed.
        model: a hub id, a folder, `wordmask/...`, `FILE.py:FUNCTION` (a Python file and a function
            in it that returns a model), or a model in memory.
        protocol: official, paper or untuned.
        settings: changes of the protocol, `option=value`.
        sweep: options to vary, `option=a,b,c`; all combinations are run.
        names: sources of class names to run with (see the data sets' `names`), and `released`:
            those of the protocol; no pass of the network is added. Empty: those of the protocol.
        corruptions: kinds of `robustness.CORRUPTIONS`; each at three severities, besides the clean
            pictures.
        seed: of the corruptions.
        limit: only the first pictures of a data set; None: all.
        networks: sources of auxiliary networks by kind, see `towers.auxiliary`.
        text_features: a safetensors file for a model without a text encoder. A tensor named after
            the data set, (C, E), stands for its classes, `DATASET.background` (K, E) for its
            background words.
        image_level, boundary: whether to count image-level scores and boundary IoU too.
        calibration: whether to count the calibration error, for methods that give probabilities.
        share: whether runs share encodings and passes of the network if possible.
        device, dtype, cache_dir, offline: as for `Segmenter.from_pretrained`.
    """

    methods: tuple[str | type[Method] | Method, ...]
    datasets: tuple[str | Benchmark | type[Benchmark], ...]
    root: str | os.PathLike[str] | None = None
    model: Any = "openai/clip-vit-base-patch16"
    protocol: str = "official"
    settings: tuple[str, ...] = ()
    sweep: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    corruptions: tuple[str, ...] = ()
    seed: int = 0
    limit: int | None = None
    networks: Mapping[str, Any] = field(default_factory=dict)
    text_features: str | os.PathLike[str] | None = None
    image_level: bool = False
    boundary: bool = False
    calibration: bool = False
    share: bool = True
    device: str | None = None
    dtype: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    offline: bool = False

    @property
    def conditions(self) -> list[Condition]:
        """The conditions of the pictures: clean, then every corruption at every severity."""
        return [CLEAN, *itertools.product(self.corruptions, SEVERITIES)]

    @property
    def entries(self) -> list[tuple[Entry, tuple[str, ...]]]:
        """Every method with every combination of the sweeps, as changes `option=value`."""
        names = [() if one == RELEASED else (f"names={one}",) for one in self.names or (RELEASED,)]
        sweeps = [(*n, *more) for n in names for more in sweep_settings(self.sweep)]
        methods = map(read_entry, self.methods)
        return [(entry, (*own, *more)) for entry, own in methods for more in sweeps]

    def describe(self) -> dict[str, Any]:
        """The plan as plain values for JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["methods"] = [
            one if isinstance(one, str) else one.name if isinstance(one, type) else repr(one)
            for one in self.methods
        ]
        values["datasets"] = [
            one if isinstance(one, str) else benchmark(one).name for one in self.datasets
        ]
        values["model"] = self.model if isinstance(self.model, str) else type(self.model).__name__
        values["networks"] = {kind: str(source) for kind, source in self.networks.items()}
        for name in ("root", "text_features", "cache_dir"):
            values[name] = None if values[name] is None else str(values[name])
        return values


def read_entry(given: str | type[Method] | Method) -> tuple[Entry, tuple[str, ...]]:
    """A method of a plan as an entry, and the options of an instance as changes `option=value`.

    Raises:
        WordmaskError: no method of this name, or not a method.
    """
    if isinstance(given, str):
        return Entry.parse(given), ()
    method = METHODS.resolve(given if isinstance(given, type) else type(given))
    if isinstance(given, type):
        return Entry(method.name), ()
    variant = variant_of(given)
    if variant in method.variants:
        return Entry(method.name, variant), ()
    variant = next(iter(method.variants))
    base = method(**method.variants[variant]).options()
    changed = {key: value for key, value in given.options().items() if value != base[key]}
    return Entry(method.name, variant), tuple(f"{k}={v}" for k, v in changed.items())


def sweep_settings(sweep: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """All combinations of `option=a,b,c`, each as changes `option=a`; one empty one for none."""
    choices = []
    for text in sweep:
        key, equals, values = text.partition("=")
        if not equals or not all(part.strip() for part in values.split(",")):
            raise WordmaskError(f"got --sweep {text!r}; write option=a,b,c")
        choices.append([f"{key.strip()}={value.strip()}" for value in values.split(",")])
    return itertools.product(*choices)


def check(plan: Plan) -> dict[str, Samples]:
    """Check all that needs no weights, and open the data sets.

    Returns:
        The pictures of each data set, by its name.

    Raises:
        WordmaskError: unknown names, settings that do not fit, missing data.
    """
    if not plan.methods or not plan.datasets:
        raise WordmaskError("got no method or no data set; name at least one of each")
    for name in plan.corruptions:
        if name not in CORRUPTIONS:
            raise unknown("corruption", name, CORRUPTIONS)
    if plan.limit is not None and plan.limit < 1:
        raise WordmaskError(f"got the limit {plan.limit}; give 1 picture or more")
    entries = plan.entries
    for entry, changes in entries:
        if entries.count((entry, changes)) > 1:
            raise WordmaskError(f"the method {entry.method!r} is given more than once; leave one")
    if plan.calibration and all(METHODS[entry.method].class_maps for entry, _ in entries):
        names = dict.fromkeys(entry.method for entry, _ in entries)
        raise WordmaskError(
            f"got calibration for {', '.join(names)}, which give no probabilities; leave it out, "
            "or add another method"
        )
    opened = {}
    for given in plan.datasets:
        bench = benchmark(given)
        if bench.name in opened:
            raise WordmaskError(f"the data set {bench.name!r} is given more than once; leave one")
        samples = bench.open(plan.root)
        if not len(samples):
            raise WordmaskError(f"{bench.name} has no picture below {plan.root}")
        for one, changes in entries:
            protocol = make_protocol(
                one, samples.benchmark, plan.protocol, assignments=(*plan.settings, *changes)
            )
            if plan.text_features is None:
                vocabulary(protocol, samples.benchmark)
            elif protocol.vocabulary != "all":
                raise WordmaskError(
                    f"got vocabulary={protocol.vocabulary} and text features, which have no words "
                    "to add or leave out; give a model with a text encoder"
                )
            find_image_labels(protocol.image_labels, samples[: plan.limit])
            if protocol.vocabulary != "all" and protocol.image_labels != "none":
                raise WordmaskError(
                    f"got vocabulary={protocol.vocabulary} and image_labels="
                    f"{protocol.image_labels}, which leave no other word to choose; give one"
                )
        opened[bench.name] = samples[: plan.limit]
    return opened


def vocabulary(protocol: Protocol, bench: Benchmark) -> tuple[Vocabulary, Background]:
    """The words and the background of a protocol.

    Raises:
        WordmaskError: the data set lacks background words, or there are too few words to add.
    """
    background = protocol.strategy(background_words(protocol, bench))
    added = added_words(bench, protocol.names, protocol.vocabulary, background.distractors)
    return Vocabulary([*bench.names[protocol.names], *added]), background


def background_words(protocol: Protocol, bench: Benchmark) -> tuple[str, ...]:
    """The data set's own background words under the names of a protocol.

    Where plain names are set in place of released ones, the word is "background".

    Raises:
        WordmaskError: the protocol's background needs such words, and there are none.
    """
    released = "**" in protocol.background
    table = bench.released_background_words if released else bench.background_words
    known = table.get(protocol.names, ())
    if not known and bench.has_background and protocol.changes.get("names") == "plain":
        known = ("background",)
    if "*" in protocol.background and bench.has_background and not known:
        raise WordmaskError(
            f"{bench.name} has no background words under names={protocol.names}, and "
            f"background={protocol.background} needs them; set names or background"
        )
    return known
