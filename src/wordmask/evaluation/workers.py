"""Workers: processes that share the pictures of a run, on this machine or under torchrun."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from wordmask.datasets import Samples
from wordmask.errors import WordmaskError
from wordmask.journal import Journal


class Workers:
    """The group of processes that share the pictures, from within one of them.

    Attributes:
        rank, size: index of this process, and number of processes; rank 0 reports.
        distributed: started by torchrun, so that processes may be on different machines.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, distributed: bool = False):
        self.rank = rank
        self.size = size
        self.distributed = distributed

    def share(self, samples: Samples) -> Samples:
        """The pictures that this process counts: every `size`-th one."""
        return samples[self.rank :: self.size]

    def busy(self) -> bool:
        """Whether processes that this one started are still running."""
        return False

    def check(self) -> None:
        """Stop if another process of the group has ended early.

        Raises:
            WordmaskError: another process failed.
        """


class StartedWorkers(Workers):
    """The group from within the first process, which starts `size` - 1 others.

    Args:
        size: number of processes.
        work: called in every other process with its `Workers`; it must be importable by name.
        arguments: further arguments of `work`.
    """

    def __init__(self, size: int, work: Callable[..., object], arguments: tuple[Any, ...]):
        super().__init__(0, size)
        context = multiprocessing.get_context("spawn")
        threads = max(torch.get_num_threads() // size, 1)
        self._errors = context.SimpleQueue()
        self._processes = [
            context.Process(
                target=_run,
                args=(JoinedWorkers(rank, size), threads, self._errors, work, arguments),
                daemon=True,
            )
            for rank in range(1, size)
        ]
        for process in self._processes:
            process.start()

    def busy(self) -> bool:
        """Whether one is still running."""
        self.check()
        return any(process.is_alive() for process in self._processes)

    def check(self) -> None:
        """Raise what another process raised."""
        for process in self._processes:
            if process.exitcode not in (None, 0):
                if not self._errors.empty():
                    raise WordmaskError(self._errors.get())
                raise WordmaskError(
                    f"a worker ended with exit code {process.exitcode}; start again to resume"
                )

    def join(self) -> None:
        """Wait for all."""
        while self.busy():
            for process in self._processes:
                process.join(0.05)

    def stop(self) -> None:
        """Terminate those that still run."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


class JoinedWorkers(Workers):
    """The group from within a process that the first one started."""

    def check(self) -> None:
        """Exit if the first process has ended."""
        first = multiprocessing.parent_process()
        if first is not None and not first.is_alive():
            os._exit(1)


def _run(
    workers: Workers,
    threads: int,
    errors: Any,
    work: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    """The main function of a started process."""
    torch.set_num_threads(threads)
    try:
        work(workers, *arguments)
    except WordmaskError as error:
        errors.put(str(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@contextlib.contextmanager
def start_workers(
    count: int, work: Callable[..., object], arguments: tuple[Any, ...]
) -> Iterator[Workers]:
    """Start the workers, or join those of torchrun.

    Under torchrun (RANK and WORLD_SIZE are set) they are its processes; else this one and
    `count` - 1 others, which run `work(workers, *arguments)` and are joined at the end.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        if count > 1:
            raise WordmaskError(
                f"got {count} workers under torchrun, which starts its own; leave workers at 1"
            )
        with joined_group():
            yield Workers(rank, world, distributed=True)
        return
    if count == 1:
        yield Workers()
        return
    before = torch.get_num_threads()
    workers = StartedWorkers(count, work, arguments)
    torch.set_num_threads(max(before // count, 1))
    try:
        yield workers
        workers.join()
    finally:
        torch.set_num_threads(before)
        workers.stop()


@contextlib.contextmanager
def joined_group() -> Iterator[None]:
    """Join torchrun's process group; leave it at the end, unless it was joined before."""
    if not torch.distributed.is_available():
        raise WordmaskError("this torch has no torch.distributed; use --workers, not torchrun")
    if torch.distributed.is_initialized():
        yield
        return
    torch.distributed.init_process_group("gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def gather(journal: Journal) -> None:
    """Copy the journals of all processes to the first; they need not share a disk.

    Collective: every process of torchrun's group must call it.
    """
    mine = {key: json.dumps(values) for key, values in journal.items()}
    first = torch.distributed.get_rank() == 0
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.gather_object(mine, gathered if first else None)
    if first:
        journal.refresh()
        for items in gathered:
            for key, text in items.items():
                if key not in journal:
                    journal.append(key, json.loads(text))
