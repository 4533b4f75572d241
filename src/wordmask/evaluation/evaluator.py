"""Runs methods over data sets and counts what they answer.

Everything a number depends on is settled before the first picture: the protocols, the pictures and
the weights. A run that was stopped goes on where it was when it is started again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import runpy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wordmask.datasets import Benchmark, Sample, Samples, benchmark
from wordmask.errors import WordmaskError, unknown
from wordmask.evaluation.journal import SHARD, Answered, Record, Shard, claim, discard, shards
from wordmask.evaluation.protocols import Entry, Protocol, make_protocol
from wordmask.evaluation.results import collect
from wordmask.evaluation.robustness import CORRUPTIONS, SEVERITIES, corrupt
from wordmask.evaluation.sharing import (
    SharedTower,
    share_passes,
    synchronise,
)
from wordmask.evaluation.views import view_picture, view_truth
from wordmask.evaluation.workers import Team, gather_files, make_team
from wordmask.images import read_image
from wordmask.methods import METHODS
from wordmask.metrics.collection import Metrics
from wordmask.segmenter import Segmenter
from wordmask.text_queries import TextQueries
from wordmask.version import __version__
from wordmask.vocabulary import Vocabulary

REPORT_EVERY = 0.25  # seconds
CLEAN = ("clean", 0)


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
        corruptions: kinds of `robustness.CORRUPTIONS`; each at three severities, beside the
            pictures as they are.
        seed: of the corruptions.
        limit: only the first pictures of a data set; None: all.
        networks: sources of networks beside CLIP by kind, see `towers.networks.Networks`.
        text_features: a safetensors file for a model without a text half. A tensor named after
            the data set, (C, E), stands for its classes, `DATASET.background` (K, E) for its
            background words.
        presence, boundary: whether image-level scores and boundary IoU are counted too.
        calibration: whether the calibration error is, of the methods that give probabilities.
        share: whether runs share encodings and passes of the network where they can.
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
    presence: bool = False
    boundary: bool = False
    calibration: bool = False
    share: bool = True
    device: str | None = None
    dtype: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    offline: bool = False

    @property
    def conditions(self) -> list[tuple[str, int]]:
        """What is done to the pictures: nothing, then every corruption at every severity."""
        return [CLEAN, *itertools.product(self.corruptions, SEVERITIES)]


@dataclass(frozen=True)
class Progress:
    """How far the run of a data set is.

    `mean_iou` is the headline of every run so far, by its label, over the pictures counted.
    """

    dataset: str
    condition: tuple[str, int]
    done: int
    total: int
    mean_iou: Mapping[str, float]


@dataclass
class Run:
    """One method under one protocol on one data set; `swept` are its settings from sweeps."""

    label: str
    swept: tuple[str, ...]
    protocol: Protocol
    segmenter: Segmenter
    texts: TextQueries

    def metrics(self, bench: Benchmark, boundary: bool) -> Metrics:
        """Empty counts."""
        void: Any = self.protocol.void
        return Metrics(bench.classes, bench.has_background, void, boundary=boundary)


def evaluate(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[Progress], object] = lambda _: None,
) -> dict[str, Any] | None:
    """Evaluate methods on data sets and return the results, as `results.json` holds them.

    The state of the run is kept under `out/state`; where it was stopped, at any moment and by
    whatever, another call goes on, and its numbers are those of a run that was never stopped.
    Started by torchrun, every process takes its share of the pictures, and the first returns the
    results, all others None.

    Args:
        plan: what to evaluate.
        out: a folder for the state.
        workers: processes on this machine that share the pictures (without torchrun).
        overwrite: drop the state of an earlier run of other settings.
        report: called with the progress, a few times a second.

    Raises:
        WordmaskError: anything that cannot be used: names, settings, data, weights; or `out` holds
            the state of another run.
    """
    if workers < 1:
        raise WordmaskError(f"got {workers} workers; give 1 or more")
    if workers > 1 and isinstance(plan.model, nn.Module):
        raise WordmaskError(
            f"got {workers} workers and a model in memory; give the model as a folder or as "
            "FILE.py:FUNCTION"
        )
    opened = check(plan)
    state = Path(out) / "state"
    if overwrite:
        discard(state)
    with make_team(workers, help_out, (plan, state)) as team:
        if team.distributed:
            torch.distributed.barrier()
        tasks = work(plan, opened, state, team, report)
        if team.distributed:
            gather_files(state, "shard-*.json")
    return None if team.rank else collect(plan, tasks)


def help_out(team: Team, plan: Plan, state: Path) -> None:
    """A helper's share of `evaluate`."""
    work(plan, check(plan), state, team, lambda _: None)


def check(plan: Plan) -> dict[str, Samples]:
    """Settle all that needs no weights, and open the data sets.

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
    sweeps = list(sweep_settings(plan.sweep))
    for label, count in _counts(plan.methods).items():
        if count > 1:
            raise WordmaskError(f"the method {label!r} is given more than once; leave one")
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
        for method, changes in itertools.product(plan.methods, sweeps):
            protocol = make_protocol(
                method, samples.benchmark, plan.protocol, assignments=(*plan.settings, *changes)
            )
            if plan.text_features is None:
                _background_words(protocol, samples.benchmark)
        opened[bench.name] = samples[: plan.limit]
    return opened


def gives_probabilities(method: str) -> bool:
    """Whether the labels of a method, as a plan names it, have a probability."""
    return not METHODS[Entry.parse(method).method].class_maps


def sweep_settings(sweep: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """All combinations of `option=a,b,c`, each as changes `option=a`; one empty without any."""
    choices = []
    for text in sweep:
        key, equals, values = text.partition("=")
        if not equals or not all(part.strip() for part in values.split(",")):
            raise WordmaskError(f"got --sweep {text!r}; write option=a,b,c")
        choices.append([f"{key.strip()}={value.strip()}" for value in values.split(",")])
    return itertools.product(*choices)


def _counts(values: Sequence[str]) -> dict[Entry, int]:
    entries = [Entry.parse(value) for value in values]
    return {entry: entries.count(entry) for entry in entries}


# -- one process --------------------------------------------------------------------------------


@dataclass
class Task:
    """A data set ready to be worked through: its runs, and where its state is."""

    samples: Samples
    runs: list[Run]
    folder: Path
    model: dict[str, Any]
    shared: list[list[str]] = field(default_factory=list)  # labels whose pass is one

    @property
    def bench(self) -> Benchmark:
        """The benchmark as its files make it."""
        return self.samples.benchmark

    @property
    def ids(self) -> list[str]:
        """Ids of all pictures, in order."""
        return [sample.id for sample in self.samples]

    def shards(self, condition: tuple[str, int]) -> list[tuple[int, Path, Sequence[str]]]:
        """The shards of one condition."""
        kind, severity = condition
        name = kind if condition == CLEAN else f"{kind}-{severity}"
        return list(shards(self.folder / name, self.ids))


def work(
    plan: Plan,
    opened: Mapping[str, Samples],
    state: Path,
    team: Team,
    report: Callable[[Progress], object],
) -> list[Task]:
    """Work through this process's share of all pictures; returns the tasks for the results."""
    base = load(plan, team)
    tasks = [prepare(plan, base, samples, state) for samples in opened.values()]
    for task in tasks:
        for condition in plan.conditions:
            _work_through(plan, task, condition, team, report)
    return tasks


def _work_through(
    plan: Plan,
    task: Task,
    condition: tuple[str, int],
    team: Team,
    report: Callable[[Progress], object],
) -> None:
    """This process's shards of one data set under one condition."""
    mine = [shard for shard in task.shards(condition) if shard[0] % team.size == team.rank]
    first = team.rank == 0
    watch = Watch(plan, task, condition, team, report) if first else None
    eye = Eye(plan, task)
    for index, path, pictures in mine:
        shard = Shard(path, pictures)
        if watch is not None:
            for record in shard.records:
                watch.add(record)
        try:
            start = index * SHARD
            for position in range(start + len(shard.records), start + len(pictures)):
                team.check()
                record = eye.look(task.samples[position], condition)
                shard.add(record)
                if watch is None:
                    team.tell(task.bench.name, condition, record)
                else:
                    watch.add(record)
        finally:  # an interruption loses nothing
            if shard.records:
                shard.write()
    if watch is not None:
        watch.wait()


class Eye:
    """Looks at pictures with every run of a task, sharing what can be shared."""

    def __init__(self, plan: Plan, task: Task):
        self.plan = plan
        self.task = task
        self.towers: list[SharedTower] = []
        self.encoders: dict[tuple[Any, ...], Segmenter] = {}  # by view and what encodings depend on
        self.users: dict[int, tuple[Any, ...]] = {}
        self.looks: dict[tuple[int, Any], float] = {}  # seconds, by encoding and refiner
        self.counters = [run.metrics(task.bench, plan.boundary) for run in task.runs]
        methods = [run.segmenter.method for run in task.runs]
        by_key: dict[tuple[Any, ...], Run] = {}
        for index, (run, method) in enumerate(zip(task.runs, methods, strict=True)):
            key = (run.protocol.view, method.encoding_key(), *(() if plan.share else (index,)))
            self.users[index] = key
            by_key.setdefault(key, run)
        groups = share_passes([run.segmenter.method for run in by_key.values()], self._depth)
        for members, need in groups:
            users = [run for run in by_key.values() if run.segmenter.method in members]
            alone = len(members) < 2 or not plan.share
            tower = users[0].segmenter.tower
            shared = tower if alone else SharedTower(tower, need)
            if isinstance(shared, SharedTower):
                self.towers.append(shared)
            for key, run in by_key.items():
                if run in users:
                    self.encoders[key] = _encoder(run.segmenter, shared if not alone else None)

    @property
    def _depth(self) -> int:
        return self.task.runs[0].segmenter.tower.depth

    def look(self, sample: Sample, condition: tuple[str, int]) -> Record:
        """Count one picture with every run."""
        image = read_image(sample.image)
        truth = sample.target()
        if condition != CLEAN:
            kind, severity = condition
            image = corrupt(image, kind, severity, seed=self.plan.seed, picture=sample.id)
        answered = []
        seen: dict[tuple[Any, ...], tuple[list[Any], float]] = {}
        self.looks.clear()
        for tower in self.towers:
            tower.forget()
        for index, run in enumerate(self.task.runs):
            key = self.users[index]
            if key not in seen:
                shared = getattr(self.encoders[key].tower, "seconds", 0.0)
                start = time.perf_counter()
                pieces = view_picture(image, run.protocol.view)
                encodings = [self.encoders[key].encode(piece) for piece in pieces]
                synchronise(run.segmenter.tower.device)
                # what a method would take by itself, as far as it can be told: the whole pass
                seconds = time.perf_counter() - start + shared
                seen[key] = encodings, seconds
            encodings, encode = seen[key]
            answered.append(self._answer(index, sample.id, encodings, truth, encode))
        for tower in self.towers:
            tower.forget()
        return Record(sample.id, tuple(answered))

    def _answer(
        self, index: int, picture: str, encodings: list[Any], truth: np.ndarray, encode: float
    ) -> Answered:
        run = self.task.runs[index]
        looks = self._look(run.segmenter, encodings)
        start = time.perf_counter()
        scored = [run.segmenter.score(encoding, run.texts) for encoding in encodings]
        parts = [one.labels() for one in scored]
        answer = np.concatenate(parts, axis=1)
        seconds = time.perf_counter() - start + looks
        scores = sure = None
        if self.plan.presence:
            scores = torch.stack([one.image_scores() for one in scored]).amax(0).numpy()
        if self.plan.calibration and not run.segmenter.method.class_maps:
            pairs = zip(scored, parts, strict=True)
            sure = np.concatenate([one.confidence(part) for one, part in pairs], axis=1)
        counted = self.counters[index].count(
            picture, view_truth(truth, run.protocol.view), answer, scores=scores, confidence=sure
        )
        return Answered(counted, round(encode, 5), round(seconds, 5))

    @torch.inference_mode()
    def _look(self, segmenter: Segmenter, encodings: list[Any]) -> float:
        """Let refiners look, once for all runs of an encoding; returns what their looks took."""
        total = 0.0
        for encoding in encodings:
            for refiner in segmenter.refiners:
                if (0, refiner) not in encoding.prepared:
                    start = time.perf_counter()
                    segmenter.prepare_refiner(encoding, 0, refiner)
                    synchronise(segmenter.tower.device)
                    self.looks[id(encoding), refiner] = time.perf_counter() - start
                total += self.looks.get((id(encoding), refiner), 0.0)
        return total


def label(run: Run, encodings: Sequence[Any]) -> np.ndarray:
    """The answer (H, W) to the pieces of one picture, side by side."""
    parts = [run.segmenter.score(e, run.texts).labels() for e in encodings]
    return np.concatenate(parts, axis=1)


def _encoder(segmenter: Segmenter, tower: Any) -> Segmenter:
    """The segmenter as it encodes: refiners look when their run decides, a tower may be shared."""
    encoder = segmenter.with_method(
        segmenter.method.name, segmenter.variant, segmenter.method.options()
    )
    if tower is not None:
        encoder.tower = tower
    return encoder


# -- weights and words --------------------------------------------------------------------------


def load(plan: Plan, team: Team | None = None) -> Segmenter:
    """The model of a plan with its first method; all runs come from it."""
    entry = Entry.parse(plan.methods[0])
    model, device, dtype = plan.model, plan.device, plan.dtype
    source = None
    if isinstance(model, str) and ".py:" in model:
        source, model = model, _build(model)
    if device is None and team is not None and team.distributed and torch.cuda.is_available():
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    if isinstance(model, nn.Module):
        if source is not None and device is not None:
            model = model.to(device)
        device = dtype = None
    segmenter = Segmenter.from_pretrained(
        model,
        entry.method,
        entry.variant,
        device=device,
        dtype=dtype,
        cache_dir=plan.cache_dir,
        local_files_only=plan.offline,
        networks=plan.networks,
    )
    segmenter.source = source or segmenter.source
    return segmenter


def _build(text: str) -> nn.Module:
    """The model that a function in a Python file returns: `FILE.py:FUNCTION`."""
    path, _, name = text.rpartition(":")
    if not os.path.isfile(path):
        raise WordmaskError(f"no file {path} for --model {text}; give FILE.py:FUNCTION")
    functions = runpy.run_path(path)
    if not callable(functions.get(name)):
        raise WordmaskError(f"{path} has no function {name!r}; give FILE.py:FUNCTION")
    model = functions[name]()
    if not isinstance(model, nn.Module):
        raise WordmaskError(f"{text} returned {type(model).__name__}; it must return a model")
    return model.eval()


def backbone(segmenter: Segmenter) -> str:
    """The architecture as papers write it, ViT-B/16, or what it is made of."""
    tower = segmenter.tower
    width = tower.vision.config.hidden_size
    known = {(12, 768): "ViT-B", (24, 1024): "ViT-L", (32, 1280): "ViT-H"}
    if (tower.depth, width) in known:
        return f"{known[tower.depth, width]}/{tower.patch}"
    return f"ViT of {tower.depth} blocks, width {width}, patch {tower.patch}"


def family(source: str) -> str:
    """Who trained the weights, as far as the name of their source tells: OpenAI, OpenCLIP ..."""
    name = source.lower()
    signs = {"metaclip": "MetaCLIP", "laion": "OpenCLIP", "blip": "BLIP", "openai": "OpenAI"}
    found = (family for sign, family in signs.items() if sign in name)
    return next(found, "OpenAI" if "clip-vit-" in name else "")


def make_runs(plan: Plan, base: Segmenter, bench: Benchmark) -> list[Run]:
    """All runs of one data set, each with its words encoded."""
    base.provenance()  # hashed once, for all that come from it
    runs = []
    for method, changes in itertools.product(plan.methods, sweep_settings(plan.sweep)):
        protocol = make_protocol(
            method, bench, plan.protocol, backbone(base), (*plan.settings, *changes)
        )
        segmenter = base.with_method(
            protocol.method, protocol.variant, protocol.options, list(protocol.refine)
        )
        words, background = _words(plan, protocol, bench)
        texts = segmenter.encode_text(words, background)
        if isinstance(background, Tensor):
            names = [f"word {i + 1}" for i in range(len(background))]
            texts = dataclasses.replace(texts, strategy=protocol.strategy(names))
        name = " ".join([protocol.entry, *changes])
        runs.append(Run(name, changes, protocol, segmenter, texts))
    return runs


def prepare(plan: Plan, base: Segmenter, samples: Samples, state: Path) -> Task:
    """The runs of one data set, and their claim on the folder of their state."""
    bench = samples.benchmark
    runs = make_runs(plan, base, bench)
    provenance = base.provenance()
    model = {
        "source": str(provenance["model"]),
        "weights": provenance["weights"],
        "backbone": backbone(base),
        "family": family(str(provenance["model"])),
        "dtype": provenance["dtype"],
        "device": provenance["device"],
    }
    ids = hashlib.blake2b("\n".join(s.id for s in samples).encode(), digest_size=12).hexdigest()
    task = Task(samples, runs, state / bench.name, model)
    groups = share_passes([run.segmenter.method for run in runs], base.tower.depth)
    task.shared = [
        [run.label for run in runs if run.segmenter.method in members] for members, _ in groups
    ]
    claim(
        task.folder,
        {
            "version": __version__,
            "dataset": bench.name,
            "pictures": len(samples),
            "ids": ids,
            "shard": SHARD,
            "model": model,
            "networks": {kind: str(source) for kind, source in plan.networks.items()},
            "text_features": _digest(plan.text_features),
            "runs": {run.label: run.protocol.describe() for run in runs},
            "corruptions": list(plan.corruptions),
            "seed": plan.seed,
            "presence": plan.presence,
            "boundary": plan.boundary,
            "calibration": plan.calibration,
            "share": plan.share,
        },
    )
    return task


def _words(plan: Plan, protocol: Protocol, bench: Benchmark) -> tuple[Any, Any]:
    """Words and background as `Segmenter.queries` takes them."""
    if plan.text_features is None:
        known = _background_words(protocol, bench)
        names = [list(names) for names in bench.names[protocol.names]]
        return Vocabulary(names), protocol.strategy(known)
    rows = _read_rows(plan.text_features, bench.name, bench.classes)
    if "*" not in protocol.background:
        return rows, protocol.strategy(())
    background = _read_rows(plan.text_features, f"{bench.name}.background", None)
    return rows, background


def _background_words(protocol: Protocol, bench: Benchmark) -> tuple[str, ...]:
    """The data set's own background words under the names of a protocol."""
    known = bench.background_words.get(protocol.names, ())
    if "*" in protocol.background and bench.has_background and not known:
        raise WordmaskError(
            f"{bench.name} has no background words under names={protocol.names}, and "
            f"background={protocol.background} wants them; set names or background"
        )
    return known


def _read_rows(path: str | os.PathLike[str], name: str, count: int | None) -> Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            keys = list(file.keys())
            rows = file.get_tensor(name) if name in keys else None
    except (OSError, SafetensorError) as error:
        raise WordmaskError(f"cannot read the text features in {path}: {error}") from None
    if rows is None:
        hint = "" if count else "; or set a background without *, as --set background=none"
        raise WordmaskError(
            f"{path} has no tensor {name!r} (it has {', '.join(sorted(keys)[:6])}){hint}"
        )
    if count and rows.shape[:1] != (count,):
        raise WordmaskError(
            f"{name!r} in {path} has shape {tuple(rows.shape)}; {name} has {count} classes, a row "
            "for each"
        )
    return rows.float()


def _digest(path: str | os.PathLike[str] | None) -> str | None:
    if path is None:
        return None
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=12).hexdigest()
    except OSError as error:
        raise WordmaskError(f"cannot read the text features {path}: {error.strerror}") from None


# -- progress -----------------------------------------------------------------------------------


class Watch:
    """Counts along to say how far a data set is, and what came out so far."""

    def __init__(
        self,
        plan: Plan,
        task: Task,
        condition: tuple[str, int],
        team: Team,
        report: Callable[[Progress], object],
    ):
        self.task, self.condition, self.team, self.report = task, condition, team, report
        self.counts = [run.metrics(task.bench, False).confusion for run in task.runs]
        self.counted: set[str] = set()
        dealt = task.shards(condition)
        if team.distributed:  # nothing is heard of the others until the end
            dealt = [shard for shard in dealt if shard[0] % team.size == team.rank]
        self.total = sum(len(pictures) for _, _, pictures in dealt)
        self.shown = 0.0
        for index, path, pictures in task.shards(condition):
            if index % team.size != team.rank and not team.distributed:
                for record in Shard(path, pictures).records:
                    self.add(record)

    def add(self, record: Record) -> None:
        """Count one picture along."""
        self._count(record)
        self.show()

    def _count(self, record: Record) -> None:
        if record.picture in self.counted:  # told, and read from the disk
            return
        self.counted.add(record.picture)
        for counts, answer in zip(self.counts, record.answers, strict=True):
            counts.add(answer.counted.pairs)

    def show(self, force: bool = False) -> None:
        """Report, unless it was done a moment ago."""
        for dataset, condition, record in self.team.heard():
            if (dataset, condition) == (self.task.bench.name, self.condition):
                self._count(record)
        if not force and time.perf_counter() - self.shown < REPORT_EVERY:
            return
        means = {
            run.label: counts.mean_iou(run.protocol.definition)  # type: ignore[arg-type]
            for run, counts in zip(self.task.runs, self.counts, strict=True)
        }
        total = self.total
        self.report(Progress(self.task.bench.name, self.condition, len(self.counted), total, means))
        self.shown = time.perf_counter()

    def wait(self) -> None:
        """Go on reporting until the helpers have done their share."""
        while self.team.busy() and len(self.counted) < self.total:
            time.sleep(0.05)
            self.show()
        self.show(force=True)
