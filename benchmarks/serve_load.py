"""Load on `wordmask serve`: what it answers, how fast, in how much memory, and whether it is right.

    python benchmarks/serve_load.py [--engines here litserve ray] [--batch 8] [--seconds 60]

Locust's users ask for the labels of pictures with words, each picture and list of words in turn and
without a pause, and compare every answer with that of the library. Memory is the proportional set
size of all processes of the service, early and at the end; idle is the CPU that they take when
nobody asks. With `--kill` a worker is killed in the middle. `here` is `--workers 0`: one at a time.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import numpy as np
import psutil
from PIL import Image

MODEL, METHOD = "wordmask/tiny-clip", "naclip"
SIZE = (64, 96)
WORDS = ("red circle; dog, puppy; blue square", "grass; sand", "tree", "water; snow; brick; wood")
PICTURES = 8
ANSWERS = "SERVE_LOAD_ANSWERS"  # in the environment: the file with all questions and answers


def make_answers(file: Path) -> None:
    """All questions with the answers that the library gives."""
    from wordmask import Background, Segmenter, Vocabulary

    segmenter = Segmenter.from_pretrained(MODEL, METHOD, local_files_only=True)
    segmenter.note = ""
    rng, arrays = np.random.default_rng(0), {}
    for i in range(PICTURES):
        small = rng.integers(0, 256, (SIZE[0] // 16, SIZE[1] // 16, 3), dtype=np.uint8)
        pixels = small.repeat(16, axis=0).repeat(16, axis=1)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        arrays[f"picture{i}"] = np.frombuffer(stream.getvalue(), np.uint8)
        for j, words in enumerate(WORDS):
            labels = segmenter(pixels, Vocabulary.parse(words), Background.none()).labels
            arrays[f"labels{i}_{j}"] = labels
    np.savez(file, **arrays)


class Service:
    """The command in a process of its own."""

    def __init__(self, engine: str, batch: int):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        workers = ["--workers", "0"] if engine == "here" else ["--engine", engine]
        command = ["serve", "--model", MODEL, "--method", METHOD, "--offline", "--port", str(port)]
        begun = time.perf_counter()
        self.process = Popen(
            [sys.executable, "-m", "wordmask", *command, *workers, "--batch", str(batch)],
            stderr=DEVNULL,
        )
        while not self._ready():
            assert self.process.poll() is None, "the service ended"
            time.sleep(0.1)
        self.started = time.perf_counter() - begun
        self.family: dict[int, psutil.Process] = {}
        self.look()

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def look(self) -> None:
        """Note the processes that there are."""
        top = psutil.Process(self.process.pid)
        self.family |= {one.pid: one for one in [top, *top.children(recursive=True)]}

    def _sum(self, of) -> float:
        total = 0.0
        for one in self.family.values():
            try:
                total += of(one)
            except psutil.Error:
                continue
        return total

    def cpu(self) -> float:
        """CPU seconds of all processes."""
        return self._sum(lambda one: sum(one.cpu_times()[:2]))

    def memory(self) -> float:
        """MiB of all processes, shared ones counted once."""
        return self._sum(lambda one: one.memory_full_info().pss) / 2**20

    def kill_worker(self) -> None:
        """Kill the process with the networks."""
        self.look()
        others = psutil.Process(self.process.pid).children(recursive=True)
        max(others, key=lambda one: one.memory_full_info().uss).kill()

    def stop(self) -> float:
        """End it; seconds that it takes."""
        begun = time.perf_counter()
        self.look()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)
        for one in psutil.wait_procs(self.family.values(), timeout=10)[1]:
            one.kill()
        return time.perf_counter() - begun


def load(service: Service, answers: Path, clients: int, seconds: int, kill: bool) -> dict:
    """One run of Locust's users; what it counted, and the memory meanwhile."""
    command = ["-m", "locust", "-f", __file__, "--headless", "--json", "--host", service.url]
    users = ["-u", str(clients), "-r", str(clients), "-t", f"{seconds}s", "--stop-timeout", "60"]
    cpu, begun, memory = service.cpu(), time.perf_counter(), []
    process = Popen(
        [sys.executable, *command, *users],
        env={**os.environ, ANSWERS: str(answers)},
        stdout=PIPE,
        stderr=PIPE,
    )
    while process.poll() is None and time.perf_counter() - begun < seconds:
        time.sleep(seconds / 12)
        service.look()
        memory.append(service.memory())
        if kill and len(memory) == 6:
            service.kill_worker()
    out, err = process.communicate()
    try:
        (found,) = json.loads(out)
    except ValueError:
        raise SystemExit(err.decode()[-2000:]) from None
    return found | {"cpu": service.cpu() - cpu, "memory": memory}


def percentile(times: dict[str, int], share: float) -> float:
    """Of answers by their milliseconds."""
    ordered = sorted((float(k), v) for k, v in times.items())
    rank = share * sum(v for _, v in ordered)
    sums = itertools.accumulate(v for _, v in ordered)
    return next(k for (k, _), upto in zip(ordered, sums, strict=True) if upto >= rank)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--engines", nargs="+", default=["here", "litserve", "ray"])
    parser.add_argument("--batch", nargs="+", type=int, default=[8])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--kill", action="store_true")
    given = parser.parse_args()
    titles = (
        "engine batch start/s answers wrong,lost 1/s p50/ms p95/ms CPU-ms/answer MiB idle end/s"
    )
    print(*titles.split(), sep="\t")
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.npz"
        make_answers(answers)
        for engine, batch in itertools.product(given.engines, given.batch):
            service = Service(engine, batch)
            try:
                load(service, answers, 1, min(given.seconds, 3), False)  # words are encoded
                found = load(service, answers, given.clients, given.seconds, given.kill)
                before = service.cpu()
                time.sleep(min(given.seconds / 10, 5))
                idle = (service.cpu() - before) / min(given.seconds / 10, 5)
            finally:
                end = service.stop()
            count, times, memory = found["num_requests"], found["response_times"], found["memory"]
            row = [f"{service.started:.1f}", count, found["num_failures"]]
            row += [f"{count / given.seconds:.1f}"]
            row += [f"{percentile(times, share):.0f}" for share in (0.5, 0.95)]
            row += [f"{1000 * found['cpu'] / count:.0f}", f"{memory[2]:.0f} to {memory[-1]:.0f}"]
            print(engine, batch, *row, f"{idle:.2f}", f"{end:.1f}", sep="\t")


if "locust" in sys.modules:  # this file is Locust's too
    from locust import HttpUser, task

    KNOWN = dict(np.load(os.environ[ANSWERS]))
    QUESTIONS = itertools.cycle([name for name in KNOWN if name.startswith("labels")])

    class User(HttpUser):
        """Asks, and compares."""

        @task
        def ask(self) -> None:
            name = next(QUESTIONS)
            i, j = map(int, name.removeprefix("labels").split("_"))
            with self.client.post(
                "/v1/segment",
                data={"words": WORDS[j], "background": "none", "answer": "png"},
                files={"image": KNOWN[f"picture{i}"].tobytes()},
                catch_response=True,
            ) as answer:
                if answer.status_code == 200:
                    labels = np.asarray(Image.open(io.BytesIO(answer.content)))
                    if not np.array_equal(labels, KNOWN[name]):
                        answer.failure("another answer than the library's")


if __name__ == "__main__":
    main()
