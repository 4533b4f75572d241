"""Progress of an evaluation, with the mIoU so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from wordmask.evaluation.plan import Condition
from wordmask.evaluation.runs import PictureCounts, Task, key
from wordmask.evaluation.workers import Workers

REPORT_EVERY = 0.25  # seconds


@dataclass(frozen=True)
class Progress:
    """Progress on one data set.

    `mean_iou` is the headline mIoU of every run, by its label, over the pictures counted so far.
    """

    dataset: str
    condition: Condition
    done: int
    total: int
    mean_iou: Mapping[str, float]


class ProgressReporter:
    """Reports progress in the first process, over its own pictures and those of other workers.

    Under torchrun the parts of the others are not read before the end, so only its own count.
    """

    def __init__(
        self,
        task: Task,
        condition: Condition,
        workers: Workers,
        report: Callable[[Progress], object],
    ):
        self.task, self.condition, self.workers, self.report = task, condition, workers, report
        self.counts = [run.metrics(task.bench, False).confusion for run in task.runs]
        samples = workers.share(task.samples) if workers.distributed else task.samples
        self.total = len(samples)
        self.waiting = {key(condition, sample.id): sample.id for sample in samples}
        self.reported = 0.0
        self._count_written(task.journal)
        self.show()

    def add(self, counts: PictureCounts) -> None:
        """Count a picture of this process."""
        self._count(counts)
        self.show()

    def show(self, force: bool = False) -> None:
        """Report, unless the last report was less than `REPORT_EVERY` ago."""
        if not force and time.perf_counter() - self.reported < REPORT_EVERY:
            return
        if self.workers.size > 1:
            self._count_written(self.task.journal.refresh())
        means = {
            run.label: counts.mean_iou(run.protocol.definition)  # type: ignore[arg-type]
            for run, counts in zip(self.task.runs, self.counts, strict=True)
        }
        done = self.total - len(self.waiting)
        self.report(Progress(self.task.bench.name, self.condition, done, self.total, means))
        self.reported = time.perf_counter()

    def wait(self) -> None:
        """Keep reporting until the other workers have finished."""
        while self.waiting and self.workers.busy():
            time.sleep(0.05)
            self.show()
        self.show(force=True)

    def _count_written(self, keys: Iterable[str]) -> None:
        """Count pictures that are on disk."""
        for one in keys:
            if one in self.waiting:
                self._count(self.task.read(self.condition, self.waiting[one]))

    def _count(self, found: PictureCounts) -> None:
        del self.waiting[key(self.condition, found.picture)]
        for counts, run in zip(self.counts, found.runs, strict=True):
            counts.add(run.counted.pairs)
