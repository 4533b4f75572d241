"""Evaluate methods on data sets.

Everything that a number depends on is fixed before the first picture: the protocols, the pictures
and the weights. A run that was stopped is resumed when it is started again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wordmask.datasets import Sample, Samples
from wordmask.devices import synchronise
from wordmask.encoding import Encoding
from wordmask.errors import WordmaskError
from wordmask.evaluation.plan import CLEAN, Condition, Plan, check
from wordmask.evaluation.progress import Progress, ProgressReporter
from wordmask.evaluation.protocols import Protocol
from wordmask.evaluation.results import collect
from wordmask.evaluation.robustness import corrupt
from wordmask.evaluation.runs import PictureCounts, RunCounts, Task, encode_view, load, prepare
from wordmask.evaluation.sharing import share_encoders
from wordmask.evaluation.views import view_target
from wordmask.evaluation.workers import Workers, gather, start_workers
from wordmask.images import read_image
from wordmask.metrics.seams import Seams
from wordmask.segmenter import Segmenter
from wordmask.user_code import is_ours


def evaluate(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[Progress], object] = lambda _: None,
) -> dict[str, Any] | None:
    """Evaluate methods on data sets and return the results, in the form of `results.json`.

    The counts of every picture are kept under `out/state`. If the run is stopped, at any moment,
    another call resumes it, and its numbers are those of an uninterrupted run. Under torchrun,
    every process counts its share of the pictures; the first returns the results, all others None.

    Args:
        plan: what to evaluate.
        out: a folder for the state.
        workers: processes on this machine that share the pictures (without torchrun).
        overwrite: drop the state of an earlier run of other settings.
        report: called with the progress, a few times a second.

    Raises:
        WordmaskError: names, settings, data or weights that cannot be used; or `out` holds the
            state of another run.
    """
    if workers < 1:
        raise WordmaskError(f"got {workers} workers; give 1 or more")
    if workers > 1 and isinstance(plan.model, nn.Module):
        raise WordmaskError(
            f"got {workers} workers and a model in memory; give the model as a folder or as "
            "FILE.py:FUNCTION"
        )
    opened = check(plan)
    for part in (*plan.methods, *plan.datasets):
        if workers > 1 and not isinstance(part, str) and not is_ours(part):
            raise WordmaskError(
                f"got {workers} workers and {part!r}, which only this process has; give it as "
                "FILE.py:NAME"
            )
    state = Path(out) / "state"
    with start_workers(workers, check_and_count, (plan, state, overwrite)) as group:
        tasks = count_share(group, plan, opened, state, overwrite, report)
        if group.distributed:
            for task in tasks:
                gather(task.journal)
    if group.rank:
        return None
    for task in tasks:
        task.journal.refresh()
    return collect(plan, tasks)


def check_and_count(workers: Workers, plan: Plan, state: Path, overwrite: bool) -> None:
    """Count the share of a worker that `evaluate` started."""
    count_share(workers, plan, check(plan), state, overwrite)


def count_share(
    workers: Workers,
    plan: Plan,
    opened: Mapping[str, Samples],
    state: Path,
    overwrite: bool = False,
    report: Callable[[Progress], object] = lambda _: None,
) -> list[Task]:
    """Count this process's share of all pictures; returns the tasks for the results."""
    device = None
    if workers.distributed and torch.cuda.is_available():
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    base = load(plan, device)
    part = str(workers.rank)
    tasks = [prepare(plan, base, s, state, overwrite, part) for s in opened.values()]
    for task in tasks:
        evaluator = PictureEvaluator(plan, task)
        for condition in plan.conditions:
            reporter = None
            if workers.rank == 0:
                reporter = ProgressReporter(task, condition, workers, report)
            for sample in workers.share(task.samples):
                if task.has(condition, sample.id):
                    continue
                workers.check()
                counts = evaluator.count(sample, condition)
                task.add(condition, counts)
                if reporter is not None:
                    reporter.add(counts)
            if reporter is not None:
                reporter.wait()
    return tasks


class PictureEvaluator:
    """Counts pictures with every run of a task; encodings and forward passes are shared.

    Runs with the same encoding share it; methods that read the same pixels share the pass of the
    network.
    """

    def __init__(self, plan: Plan, task: Task):
        self.plan = plan
        self.bench = task.bench
        self.runs = task.runs
        self.metrics = [run.metrics(task.bench, plan.boundary) for run in task.runs]
        self.keys = [  # runs of one key share an encoding
            (
                run.protocol.view,
                run.protocol.regions,
                run.segmenter.method.encoding_key(),
                None if plan.share else i,
            )
            for i, run in enumerate(task.runs)
        ]
        self.preparing: dict[tuple[int, Any], float] = {}  # seconds, by encoding and refiner
        users = zip(self.keys, [run.segmenter for run in self.runs], strict=True)
        self.encoders, self.towers = share_encoders(users, plan.share)

    def count(self, sample: Sample, condition: Condition) -> PictureCounts:
        """Count one picture with every run."""
        image = read_image(sample.image)
        target = sample.target()
        if condition != CLEAN:
            kind, severity = condition
            image = corrupt(image, kind, severity, seed=self.plan.seed, picture=sample.id)
        encoded: dict[tuple[Any, ...], tuple[list[Any], float]] = {}
        counts = []
        for run, key, metrics in zip(self.runs, self.keys, self.metrics, strict=True):
            if key not in encoded:
                encoded[key] = self._encode(key, image, target, run.protocol, sample.id)
            encodings, encode = encoded[key]
            decide = self._prepare_refiners(run.segmenter, encodings)
            start = time.perf_counter()
            words = run.words(sample, target, self.bench)
            scored = [run.segmenter.score(encoding, words.texts) for encoding in encodings]
            labels = [one.labels() for one in scored]
            decide += time.perf_counter() - start
            scores = confidence = None
            if self.plan.image_level:  # the maximum over the pieces of the picture
                scores = torch.stack([one.image_scores() for one in scored]).amax(0).numpy()
                scores = words.scores(scores, self.bench.classes)
            if self.plan.calibration and not run.segmenter.class_maps:
                confidence = np.concatenate(
                    [one.confidence(part) for one, part in zip(scored, labels, strict=True)], axis=1
                )
            counted = metrics.count(
                sample.id,
                view_target(target, run.protocol.view),
                words.labels(np.concatenate(labels, axis=1)),
                scores=scores,
                confidence=confidence,
                seams=window_seams(run.segmenter, encodings, labels),
            )
            counts.append(RunCounts(counted, round(encode, 5), round(decide, 5)))
        self.preparing.clear()
        for tower in self.towers:
            tower.forget()
        return PictureCounts(sample.id, tuple(counts))

    def _encode(
        self,
        key: tuple[Any, ...],
        image: np.ndarray,
        target: np.ndarray,
        protocol: Protocol,
        name: str,
    ) -> tuple[list[Any], float]:
        """Encodings of the pieces of a picture, and the seconds that the method alone would take.

        The full time of a shared pass counts.
        """
        encoder = self.encoders[key]
        shared = getattr(encoder.tower, "seconds", 0.0)
        start = time.perf_counter()
        encodings = encode_view(encoder, image, target, protocol, name)
        synchronise(encoder.tower.device)
        return encodings, time.perf_counter() - start + shared

    def _prepare_refiners(self, segmenter: Segmenter, encodings: list[Any]) -> float:
        """Prepare refiners, once for all runs of an encoding; returns the seconds that it takes."""
        total = 0.0
        for encoding in encodings:
            for refiner in segmenter.refiners:
                key = (id(encoding), refiner)
                if key not in self.preparing:
                    start = time.perf_counter()
                    segmenter.pipeline.prepare_refiner(encoding, 0, refiner)
                    synchronise(segmenter.tower.device)
                    self.preparing[key] = time.perf_counter() - start
                total += self.preparing[key]
        return total


def window_seams(
    segmenter: Segmenter, encodings: Sequence[Encoding], labels: Sequence[np.ndarray]
) -> np.ndarray | None:
    """`Seams.counts` at the borders of windows, over the pieces of a picture; None without."""
    total: np.ndarray | None = None
    for encoding, part in zip(encodings, labels, strict=True):
        size = encoding.pixel_size
        windows = segmenter.method.place_windows(*size, segmenter.tower.patch)
        if windows:
            counts = Seams.of_windows(windows, size, part).counts
            total = counts if total is None else total + counts
    return total
