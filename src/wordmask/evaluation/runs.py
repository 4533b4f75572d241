"""The model of a plan, the runs on a data set, and the journal of their counts."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from wordmask.datasets import Benchmark, Sample, Samples
from wordmask.encoding import Encoding
from wordmask.errors import WordmaskError
from wordmask.evaluation.image_labels import ImageLabels, find_image_labels
from wordmask.evaluation.plan import CLEAN, Condition, Plan, vocabulary
from wordmask.evaluation.protocols import Protocol, make_protocol
from wordmask.evaluation.sharing import share_passes
from wordmask.evaluation.views import view_picture, view_regions
from wordmask.evaluation.words import chosen_classes
from wordmask.journal import Journal
from wordmask.methods import Method
from wordmask.metrics.collection import Counted, Metrics
from wordmask.segmenter import Segmenter
from wordmask.text_queries import TextQueries
from wordmask.user_code import is_file, source_digest
from wordmask.version import __version__


@dataclass(frozen=True)
class RunCounts:
    """The counts of one run on one picture, and the seconds to encode it and to label it."""

    counted: Counted
    encode: float
    decide: float


@dataclass(frozen=True)
class PictureCounts:
    """The counts of all runs on one picture, in the order of the runs."""

    picture: str
    runs: tuple[RunCounts, ...]

    def state(self) -> dict[str, Any]:
        """Plain values for JSON, without the picture's id."""
        return {"runs": [[run.counted.state(), run.encode, run.decide] for run in self.runs]}

    @classmethod
    def from_state(cls, picture: str, state: Mapping[str, Any]) -> PictureCounts:
        """Restore what `state` returned."""
        runs = (RunCounts(Counted.from_state(c), e, d) for c, e, d in state["runs"])
        return cls(picture, tuple(runs))


@dataclass(frozen=True)
class PictureWords:
    """The words of one picture, and `of_set`: the labels of the first of them in the data set."""

    texts: TextQueries
    of_set: np.ndarray

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """Labels of the data set, (H, W), from those of the words; 0 for an added word."""
        table = np.zeros(self.texts.classes + 1, np.uint16)
        table[1 : len(self.of_set) + 1] = self.of_set
        return table[labels]

    def scores(self, scores: np.ndarray, classes: int) -> np.ndarray:
        """(classes,) image-level scores from those of the words; the lowest for those left out."""
        found = np.full(classes, np.finfo(scores.dtype).min, scores.dtype)
        found[self.of_set - 1] = scores[: len(self.of_set)]
        return found


@dataclass(frozen=True)
class Run:
    """One method under one protocol on one data set; `swept` are its settings from sweeps."""

    label: str
    swept: tuple[str, ...]
    protocol: Protocol
    segmenter: Segmenter
    texts: TextQueries
    image_labels: ImageLabels

    def words(self, sample: Sample, target: np.ndarray, bench: Benchmark) -> PictureWords:
        """The words of a picture, and which of them are known to be in it, from its target."""
        chosen = chosen_classes(target, bench.classes, self.protocol.vocabulary, sample.id)
        if chosen is not None:
            return PictureWords(self.texts.keep(chosen.tolist()), chosen + 1)
        texts = self.texts.among(self.image_labels.of(sample, target))
        return PictureWords(texts, np.arange(1, bench.classes + 1))

    def word_counts(self, bench: Benchmark) -> dict[str, int]:
        """How many classes, names and background words each picture is compared with."""
        classes, names = self.texts.classes, len(self.texts.foreground)
        if self.protocol.vocabulary.isdigit() and int(self.protocol.vocabulary) < bench.classes:
            names = classes = int(self.protocol.vocabulary)
        return {"classes": classes, "names": names, "background": len(self.texts.background)}

    def metrics(self, bench: Benchmark, boundary: bool) -> Metrics:
        """New metrics without counts."""
        void: Any = self.protocol.void
        return Metrics(bench.classes, bench.has_background, void, boundary=boundary)


@dataclass(frozen=True)
class Task:
    """A data set ready to be evaluated: its runs, and the journal of its pictures.

    Attributes:
        model: what identifies the model, as plain values.
        shared: groups of labels of runs that share a pass of the network.
    """

    samples: Samples
    runs: tuple[Run, ...]
    journal: Journal
    model: Mapping[str, Any]
    shared: tuple[tuple[str, ...], ...]

    @property
    def bench(self) -> Benchmark:
        """The benchmark, completed by its files."""
        return self.samples.benchmark

    def has(self, condition: Condition, picture: str) -> bool:
        """Whether a picture is counted."""
        return key(condition, picture) in self.journal

    def add(self, condition: Condition, counts: PictureCounts) -> None:
        """Write the counts of a picture to disk."""
        self.journal.append(key(condition, counts.picture), counts.state())

    def read(self, condition: Condition, picture: str) -> PictureCounts:
        """Read the counts of a picture, written by any worker."""
        return PictureCounts.from_state(picture, self.journal.read(key(condition, picture)))

    def counts(self, condition: Condition) -> Iterator[PictureCounts]:
        """The counts of all pictures in the order of the data set, one at a time in memory.

        Raises:
            WordmaskError: a picture was not counted.
        """
        for sample in self.samples:
            if not self.has(condition, sample.id):
                raise WordmaskError(
                    f"the picture {sample.id!r} is not counted; start again to resume"
                )
            yield self.read(condition, sample.id)


def key(condition: Condition, picture: str) -> str:
    """The key of a picture in a journal: `clean/000`, `noise-1/000`."""
    kind, severity = condition
    return f"{kind if condition == CLEAN else f'{kind}-{severity}'}/{picture}"


def load(plan: Plan, device: str | None = None) -> Segmenter:
    """Load the model of a plan with its first method; all runs are derived from it.

    device: used if the plan names none.
    """
    (entry, _), *_ = plan.entries
    in_memory = isinstance(plan.model, nn.Module)
    segmenter = Segmenter.from_pretrained(
        plan.model,
        entry.method,
        entry.variant,
        device=None if in_memory else plan.device or device,
        dtype=None if in_memory else plan.dtype,
        cache_dir=plan.cache_dir,
        local_files_only=plan.offline,
        networks=plan.networks,
    )
    segmenter.note = ""  # whoever measures a network knows which
    return segmenter


def backbone(segmenter: Segmenter) -> str:
    """The architecture as papers write it, ViT-B/16, or its depth, width and patch."""
    tower = segmenter.tower
    width = tower.vision.config.hidden_size
    known = {(12, 768): "ViT-B", (24, 1024): "ViT-L", (32, 1280): "ViT-H"}
    if (tower.depth, width) in known:
        return f"{known[tower.depth, width]}/{tower.patch}"
    return f"ViT of {tower.depth} blocks, width {width}, patch {tower.patch}"


def family(source: str) -> str:
    """Who trained the weights, guessed from the name of their source: OpenAI, OpenCLIP ..."""
    name = source.lower()
    signs = {"metaclip": "MetaCLIP", "laion": "OpenCLIP", "blip": "BLIP", "openai": "OpenAI"}
    found = (family for sign, family in signs.items() if sign in name)
    return next(found, "OpenAI" if "clip-vit-" in name else "")


def make_runs(plan: Plan, base: Segmenter, samples: Samples) -> tuple[Run, ...]:
    """All runs on one data set, each with its words encoded."""
    bench = samples.benchmark
    base.provenance()  # weights are hashed once, for all runs
    runs: list[Run] = []
    for entry, changes in plan.entries:
        protocol = make_protocol(
            entry, bench, plan.protocol, backbone(base), (*plan.settings, *changes)
        )
        same = (run.protocol for run in runs if run.protocol.entry == protocol.entry)
        if plan.names and any(one.settings() == protocol.settings() for one in same):
            continue  # the released names are these
        segmenter = base.with_method(
            protocol.method, protocol.variant, protocol.options, list(protocol.refine)
        )
        words, background = _words(plan, protocol, bench)
        texts = segmenter.encode_text(words, background)
        if isinstance(background, Tensor):
            names = [f"word {i + 1}" for i in range(len(background))]
            texts = dataclasses.replace(texts, strategy=protocol.strategy(names))
        name = " ".join([protocol.entry, *changes])
        known = find_image_labels(protocol.image_labels, samples)
        runs.append(Run(name, changes, protocol, segmenter, texts, known))
    return tuple(runs)


def prepare(
    plan: Plan,
    base: Segmenter,
    samples: Samples,
    state: Path,
    overwrite: bool = False,
    part: str = "0",
) -> Task:
    """The runs on one data set, and a journal of their counts below `state`.

    overwrite, part: as for `Journal`.

    Raises:
        WordmaskError: `state` holds the counts of other settings, pictures, weights or code.
    """
    bench = samples.benchmark
    runs = make_runs(plan, base, samples)
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
    groups = share_passes([run.segmenter.method for run in runs], base.tower.depth)
    shared = tuple(
        tuple(run.label for run in runs if run.segmenter.method in members) for members, _ in groups
    )
    parts = [part for run in runs for part in (run.segmenter.method, *run.segmenter.refiners)]
    kinds = sorted({kind for part in parts for kind in part.networks})
    base.networks.load(kinds)  # here, since counts depend on their weights
    settings = {
        "version": __version__,
        "dataset": bench.name,
        "pictures": len(samples),
        "ids": ids,
        "model": model,
        "networks": {kind: base.networks.describe()[kind] for kind in kinds},
        "text_features": _digest(plan.text_features),
        "image_labels": {
            run.image_labels.source: _digest(run.image_labels.source)
            for run in runs
            if run.image_labels.rows
        },
        "runs": {run.label: run.protocol.describe() for run in runs},
        "corruptions": list(plan.corruptions),
        "seed": plan.seed,
        "image_level": plan.image_level,
        "boundary": plan.boundary,
        "calibration": plan.calibration,
        "share": plan.share,
        **code_digests(plan, runs, bench),
    }
    journal = Journal(state / bench.name, settings, overwrite=overwrite, part=part)
    journal.begin()
    return Task(samples, runs, journal, model, shared)


def encode_view(
    segmenter: Segmenter,
    image: np.ndarray,
    target: np.ndarray,
    protocol: Protocol,
    name: str | None = None,
) -> list[Encoding]:
    """The encodings of the pieces of a picture, told the true regions if the protocol says so."""
    pieces = view_picture(image, protocol.view)
    if protocol.regions == "none":
        return [segmenter.encode(piece, name=name) for piece in pieces]
    known = view_regions(target, protocol.view)
    return [segmenter.encode(*one) for one in zip(pieces, known, strict=True)]


def label(run: Run, words: PictureWords, encodings: Sequence[Any]) -> np.ndarray:
    """The labels (H, W) of the pieces of one picture, side by side."""
    parts = [run.segmenter.score(encoding, words.texts).labels() for encoding in encodings]
    return words.labels(np.concatenate(parts, axis=1))


def code_digests(plan: Plan, runs: Sequence[Run], bench: Benchmark) -> dict[str, str]:
    """A hash of every part that is not wordmask's own, so that edited code is not resumed."""
    parts: dict[str, Any] = {f"the data set {bench.name}": bench}
    for run in runs:
        for part in (run.segmenter.method, *run.segmenter.refiners):
            kind = "method" if isinstance(part, Method) else "refiner"
            parts[f"the {kind} {part.name}"] = part
    digests = {name: source_digest(part) for name, part in parts.items()}
    for source in (plan.model, *plan.networks.values()):
        if isinstance(source, (str, os.PathLike)) and is_file(os.fspath(source)):
            digests[f"the model {source}"] = _digest(os.fspath(source).rpartition(":")[0])
    return {f"code of {name}": digest for name, digest in digests.items() if digest}


def _words(plan: Plan, protocol: Protocol, bench: Benchmark) -> tuple[Any, Any]:
    """Words and background as `Segmenter.encode_text` takes them."""
    if plan.text_features is None:
        return vocabulary(protocol, bench)
    rows = _read_rows(plan.text_features, bench.name, bench.classes)
    if "*" not in protocol.background:
        return rows, protocol.strategy(())
    background = _read_rows(plan.text_features, f"{bench.name}.background", None)
    return rows, background


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
        raise WordmaskError(f"cannot read {path}: {error.strerror}") from None
