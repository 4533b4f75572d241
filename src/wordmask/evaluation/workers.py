"""Several processes that share the pictures of a run: helpers on this machine, or torchrun's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from wordmask.errors import WordmaskError
from wordmask.evaluation.journal import Record

Heard = tuple[str, tuple[str, int], Record]  # data set, condition, what was counted


class Team:
    """This process among those that share the work; of every `size` shards it takes one.

    Attributes:
        rank, size: which process this is, and of how many; the first reports.
        distributed: started by torchrun, so that processes may be on different machines.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, distributed: bool = False):
        self.rank = rank
        self.size = size
        self.distributed = distributed

    def tell(self, dataset: str, condition: tuple[str, int], record: Record) -> None:
        """Tell the first process of a picture that was counted, where it can be told."""

    def heard(self) -> list[Heard]:
        """What the other processes have told since the last call."""
        return []

    def busy(self) -> bool:
        """Whether helpers of this process are still at work."""
        return False

    def check(self) -> None:
        """Stop where going on is of no use.

        Raises:
            WordmaskError: a helper failed.
        """


class Helper(Team):
    """A process that the first one started."""

    def __init__(self, rank: int, size: int, channel: Any):
        super().__init__(rank, size)
        self.channel = channel

    def tell(self, dataset: str, condition: tuple[str, int], record: Record) -> None:
        """Through the channel to the first process."""
        self.channel.put(("record", (dataset, condition, record.state())))

    def check(self) -> None:
        """End where the first process is gone."""
        first = multiprocessing.parent_process()
        if first is not None and not first.is_alive():
            os._exit(1)


class Leader(Team):
    """The first process, which starts `size` - 1 helpers.

    Args:
        size: processes in all.
        work: called in every helper with its `Team`; it must be importable by name.
        arguments: what `work` is called with besides.
    """

    def __init__(self, size: int, work: Callable[..., object], arguments: tuple[Any, ...]):
        super().__init__(0, size)
        context = multiprocessing.get_context("spawn")
        threads = max(torch.get_num_threads() // size, 1)
        self._channel = context.Queue()
        self._heard: list[Heard] = []
        self._helpers = [
            context.Process(
                target=_help, args=(rank, size, threads, self._channel, work, arguments)
            )
            for rank in range(1, size)
        ]
        for helper in self._helpers:
            helper.daemon = True
            helper.start()

    def heard(self) -> list[Heard]:
        """What the helpers have told since the last call."""
        self._listen()
        heard, self._heard = self._heard, []
        return heard

    def _listen(self, wait: float = 0.0) -> None:
        while True:
            try:
                kind, value = self._channel.get(block=wait > 0, timeout=wait or None)
            except queue.Empty:
                return
            if kind == "error":
                raise WordmaskError(value)
            dataset, condition, state = value
            self._heard.append((dataset, condition, Record.from_state(state)))

    def busy(self) -> bool:
        """Whether a helper is still at work."""
        self.check()
        return any(helper.is_alive() for helper in self._helpers)

    def check(self) -> None:
        """Raise what a helper raised."""
        self._listen()
        for helper in self._helpers:
            if helper.exitcode not in (None, 0):
                self._listen(1.0)
                raise WordmaskError(
                    f"a worker ended with exit code {helper.exitcode}; start again to go on"
                )

    def join(self) -> None:
        """Wait for all helpers."""
        while self.busy():
            for helper in self._helpers:
                helper.join(0.05)

    def stop(self) -> None:
        """End the helpers that still run."""
        for helper in self._helpers:
            if helper.is_alive():
                helper.terminate()
        for helper in self._helpers:
            helper.join()


def _help(
    rank: int,
    size: int,
    threads: int,
    channel: Any,
    work: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    """A helper's whole life."""
    torch.set_num_threads(threads)
    try:
        work(Helper(rank, size, channel), *arguments)
    except WordmaskError as error:
        channel.put(("error", str(error)))
    except KeyboardInterrupt:
        channel.cancel_join_thread()


@contextlib.contextmanager
def make_team(
    workers: int, work: Callable[..., object], arguments: tuple[Any, ...]
) -> Iterator[Team]:
    """The team that the arguments and the environment make.

    Under torchrun (RANK and WORLD_SIZE are set) its processes are the team; else this process and
    `workers` - 1 helpers, which run `work(team, *arguments)` and are waited for at the end.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        if workers > 1:
            raise WordmaskError(
                f"got {workers} workers under torchrun, which starts its own; leave workers at 1"
            )
        with joined_group():
            yield Team(rank, world, distributed=True)
        return
    if workers == 1:
        yield Team()
        return
    before = torch.get_num_threads()
    torch.set_num_threads(max(before // workers, 1))
    leader = Leader(workers, work, arguments)
    try:
        yield leader
        leader.join()
    finally:
        torch.set_num_threads(before)
        leader.stop()


@contextlib.contextmanager
def joined_group() -> Iterator[None]:
    """Join the processes that torchrun started; leave them at the end, unless they were joined."""
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


def gather_files(folder: Path, pattern: str) -> None:
    """Bring files of all processes to the first one, which need not share a disk with the others.

    Collective: every process of the group must call it.
    """
    mine = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern)}
    first = torch.distributed.get_rank() == 0
    known: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.gather_object(mine, known if first else None)
    for files in known[1:] if first else ():
        for name, data in files.items():
            path = folder / name
            if not path.exists() or path.stat().st_size < len(data):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
