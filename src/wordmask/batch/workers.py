"""Several processes on this machine that share the pictures of a job."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import torch
import torch.multiprocessing  # so that processes share weights in memory

from wordmask.batch.engine import run_here
from wordmask.batch.job import FolderJob, Processed
from wordmask.batch.sources import Picture
from wordmask.errors import WordmaskError
from wordmask.user_code import import_file, source_files

if TYPE_CHECKING:
    from wordmask.segmenter import Segmenter


def run_workers(
    job: FolderJob, segmenter: Segmenter, report: Callable[[Processed], object], count: int
) -> None:
    """Deal what is left of a job out to `count` processes, which share the weights in memory.

    Raises:
        WordmaskError: what one of them raised, or that one was killed.
    """
    job.claim()  # once, and not in each of them
    todo = list(enumerate(job.todo or ()))
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    threads = max(torch.get_num_threads() // count, 1)
    parts = [segmenter.method, *segmenter.refiners]
    files = source_files(parts)
    with ProcessPoolExecutor(count, context, _begin, (reports, threads, files)) as pool:
        futures = [
            pool.submit(_work, job.share(i), segmenter, todo[i::count]) for i in range(count)
        ]
        try:
            while any(not future.done() for future in futures) or not reports.empty():
                _take(reports, job, report)
                done, _ = wait(futures, timeout=0, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
        except BrokenProcessPool:
            raise WordmaskError("a worker was killed; start again to resume") from None
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise


def _take(reports: Any, job: FolderJob, report: Callable[[Processed], object]) -> None:
    try:
        one = reports.get(timeout=0.1)
    except queue.Empty:
        return
    job.summary.add(one)
    report(one)


# -- in a worker ----------------------------------------------------------------------------------

_reports: Any = None


def _begin(reports: Any, threads: int, files: Sequence[str]) -> None:
    global _reports
    _reports = reports
    torch.set_num_threads(threads)
    for file in files:  # of methods and refiners, which the segmenter is unpickled with
        import_file(file)


def _work(job: FolderJob, segmenter: Segmenter, share: Sequence[tuple[int, Picture]]) -> None:
    numbers = [number for number, _ in share]
    job.todo = [picture for _, picture in share]

    def report(one: Processed) -> None:
        first = multiprocessing.parent_process()
        if first is not None and not first.is_alive():
            os._exit(1)
        number = numbers[one.number - 1] + 1
        _reports.put(Processed(number, one.total, one.picture, None, one.reason, one.pixels))

    run_here(job, segmenter, report)
