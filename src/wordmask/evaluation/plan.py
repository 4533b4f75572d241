"""What is to be evaluated, and every check that needs no weights."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wordmask.datasets import Benchmark, Samples, benchmark
from wordmask.errors import WordmaskError, unknown
from wordmask.evaluation.protocols import Entry, Protocol, make_protocol
from wordmask.evaluation.robustness import CORRUPTIONS, SEVERITIES
from wordmask.methods import METHODS

Condition = tuple[str, int]  # a corruption and its severity
CLEAN: Condition = ("clean", 0)


@dataclass(frozen=True)
class Plan:
    """What is to be evaluated, as plain values that workers can be handed.

    Attributes:
        methods: entries, `METHOD[:VARIANT][+REFINER]...`, see `protocols.Entry`.
        datasets: names of benchmarks.
        root: the folder of their files; None where none is needed.
        model: a hub id, a folder, `wordmask/...`, `FILE.py:FUNCTION` (a Python file and a function
            in it that returns a model), or a model in memory.
        protocol: official, paper or untuned.
        settings: changes of the protocol, `option=value`.
        sweep: options to vary, `option=a,b,c`; all combinations are run.
        corruptions: kinds of `robustness.CORRUPTIONS`; each at three severities, besides the clean
            pictures.
        seed: of the corruptions.
        limit: only the first pictures of a data set; None: all.
        networks: sources of auxiliary networks by kind, see `towers.auxiliary`.
        text_features: a safetensors file for a model without a text half. A tensor named after
            the data set, (C, E), stands for its classes, `DATASET.background` (K, E) for its
            background words.
        image_level, boundary: whether image-level scores and boundary IoU are counted too.
        calibration: whether the calibration error is, of the methods that give probabilities.
        share: whether runs share encodings and passes of the network where they can.
        device, dtype, cache_dir, offline: as for `Segmenter.from_pretrained`.
    """

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    root: str | os.PathLike[str] | None = None
    model: Any = "openai/clip-vit-base-patch16"
    protocol: str = "official"
    settings: tuple[str, ...] = ()
    sweep: tuple[str, ...] = ()
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
        """How pictures are shown: clean, then with every corruption at every severity."""
        return [CLEAN, *itertools.product(self.corruptions, SEVERITIES)]

    @property
    def entries(self) -> list[tuple[str, tuple[str, ...]]]:
        """Every method with every combination of the sweeps, as changes `option=value`."""
        return list(itertools.product(self.methods, sweep_settings(self.sweep)))


def sweep_settings(sweep: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """All combinations of `option=a,b,c`, each as changes `option=a`; one empty without any."""
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
        WordmaskError: unknown names, settings that do not fit, data that are not there.
    """
    if not plan.methods or not plan.datasets:
        raise WordmaskError("got no method or no data set; name at least one of each")
    for name in plan.corruptions:
        if name not in CORRUPTIONS:
            raise unknown("corruption", name, CORRUPTIONS)
    if plan.limit is not None and plan.limit < 1:
        raise WordmaskError(f"got the limit {plan.limit}; give 1 picture or more")
    combinations = plan.entries
    methods = [Entry.parse(method) for method in plan.methods]
    for text, entry in zip(plan.methods, methods, strict=True):
        if methods.count(entry) > 1:
            raise WordmaskError(f"the method {text!r} is given more than once; leave one")
    if plan.calibration and not any(map(gives_probabilities, plan.methods)):
        raise WordmaskError(
            f"got calibration for {', '.join(plan.methods)}, whose class maps are no "
            "probabilities; leave it out, or add another method"
        )
    opened = {}
    for name in plan.datasets:
        bench = benchmark(name)
        if bench.name in opened:
            raise WordmaskError(f"the data set {name!r} is given more than once; leave one")
        samples = bench.open(plan.root)
        if not len(samples):
            raise WordmaskError(f"{bench.name} has no picture below {plan.root}")
        for method, changes in combinations:
            protocol = make_protocol(
                method, samples.benchmark, plan.protocol, assignments=(*plan.settings, *changes)
            )
            if plan.text_features is None:
                background_words(protocol, samples.benchmark)
        opened[bench.name] = samples[: plan.limit]
    return opened


def gives_probabilities(method: str) -> bool:
    """Whether the labels of a method, as a plan names it, have a probability."""
    return not METHODS[Entry.parse(method).method].class_maps


def background_words(protocol: Protocol, bench: Benchmark) -> tuple[str, ...]:
    """The data set's own background words under the names of a protocol.

    Raises:
        WordmaskError: the protocol's background needs such words, and there are none.
    """
    known = bench.background_words.get(protocol.names, ())
    if "*" in protocol.background and bench.has_background and not known:
        raise WordmaskError(
            f"{bench.name} has no background words under names={protocol.names}, and "
            f"background={protocol.background} wants them; set names or background"
        )
    return known
