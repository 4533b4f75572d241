"""The Ray engine: the same files as the local one, on a cluster of which processes are killed.

    WORDMASK_KILLS=20 python -m pytest tests/batch/test_ray.py -k driver

kills the program that started the job at 20 random moments in place of one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import one_line_error, picture, results
from tiny import save_tiny_clip
from waiting import soon
from wordmask import Segmenter, WordmaskError, segment_folder
from wordmask.cli import run

WORDS = ["photo", ["cat", "do"]]
KEPT = {"formats": ["labels", "scores", "overlay", "json"], "on_error": "skip"}
COUNT = 48


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Iterator[Path]:
    """A folder with a model, pictures of which one is none, and what the local engine makes."""
    folder = tmp_path_factory.mktemp("ray")
    before = os.getcwd()
    os.chdir(folder)
    save_tiny_clip(folder / "model", layers=2, text_layers=1)
    for i in range(COUNT):
        picture(f"p/{i}.png", (40, 60 + 8 * (i % 2)), seed=i)
    Path("p/7.png").write_bytes(b"no picture")
    segment_folder(segmenter(), "p", WORDS, "whole", **KEPT)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def cluster(here) -> Iterator[Any]:
    """A cluster of two nodes on this machine."""
    pytest.importorskip("ray.data", reason="needs wordmask[ray]")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
    try:
        started = Cluster(initialize_head=True, head_node_args=node)
        started.add_node(num_cpus=1, object_store_memory=100_000_000)
        started.wait_for_nodes()
    except Exception as error:  # no shared memory, no ports
        pytest.skip(f"Ray cannot start here: {error}")
    yield started
    started.shutdown()


def segmenter() -> Segmenter:
    return Segmenter.from_pretrained("model", "naclip", options={"short_side": 56})


def lines(folder: str) -> dict[str, dict]:
    """The journal without times; each picture has one line."""
    found: dict[str, dict] = {}
    for file in Path(folder).glob("wordmask-*.jsonl"):
        for text in file.read_text().splitlines():
            entry = json.loads(text)
            entry.pop("seconds", None)
            entry.pop("#")
            assert entry["key"] not in found
            found[entry["key"]] = entry
    return found


def assert_same(folder: str, other: str) -> None:
    assert lines(folder) == lines(other)
    assert results(folder) == results(other)
    for name in results(folder):
        assert Path(folder, name).read_bytes() == Path(other, name).read_bytes(), name


def actors() -> Iterator[tuple[int, int]]:
    """Processes that hold a model, and their parents."""
    import psutil  # comes with Ray

    for process in psutil.process_iter(["cmdline", "ppid"]):
        if "MapWorker(MapBatches(_Actor))" in " ".join(process.info["cmdline"] or ()):
            yield process.pid, process.info["ppid"]


def test_a_cluster_of_two_nodes_goes_on_when_a_worker_is_killed(cluster):
    import ray

    raylets = [x.all_processes["raylet"][0].process.pid for x in cluster.list_all_nodes()]
    seen: list[str] = []
    places: dict[int, int] = {}  # a worker of each node
    ray.init(cluster.address, log_to_driver=False)

    def found() -> bool:
        places.update((parent, pid) for pid, parent in actors() if parent in raylets)
        return len(places) == 2

    def kill(one):
        seen.append(one.picture.name)
        if len(seen) == 8:
            soon(found)
            os.kill(places[raylets[1]], signal.SIGKILL)

    try:
        summary = segment_folder(
            segmenter(), "p", WORDS, "o", engine="ray", workers=2, progress=kill, **KEPT
        )
        assert ray.is_initialized()  # it was not started by the engine
    finally:
        ray.shutdown()
    assert sorted(places) == sorted(raylets)
    assert (summary.segmented, len(summary.failed)) == (COUNT - 1, 1)
    assert sorted(seen) == sorted(str(i) for i in range(COUNT))
    assert_same("whole", "o")


DRIVER = """
import sys
sys.path[:0] = {path!r}
import test_ray
from wordmask import segment_folder
segment_folder(test_ray.segmenter(), "p", test_ray.WORDS, "killed", engine="ray", workers=2,
               address={address!r}, **test_ray.KEPT)
"""


def test_a_job_whose_driver_was_killed_goes_on(cluster, capsys):
    kills = int(os.environ.get("WORDMASK_KILLS", 1))
    draw, left = random.Random(0), []
    code = DRIVER.format(path=[str(Path(__file__).parent), *sys.path], address=cluster.address)
    for _ in range(kills):
        before = len(lines("killed"))
        if before >= COUNT - 4:  # a new folder for more kills
            resume()
            before = 0
        kill_after(before, [sys.executable, "-c", code], draw.random() * 0.5)
        left.append(COUNT - len(lines_now("killed")))
        for name in results("killed"):  # whole, whatever the moment; .part was on its way
            if name.endswith(".part"):
                continue
            assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes(), name
    resume()
    with capsys.disabled():
        print(f"\n{kills} kills of the driver, pictures left: {left}")


def kill_after(before: int, command: list[str], seconds: float) -> None:
    """Start a program and kill it, so long after there are more lines in the journal."""
    with open("stderr.txt", "w") as said:  # a pipe would fill and hold it
        child = subprocess.Popen(command, stderr=said)
    try:
        soon(lambda: child.poll() is not None or len(lines_now("killed")) > before, 300)
        time.sleep(seconds)
        assert child.poll() in (None, 0), Path("stderr.txt").read_text()
    finally:
        child.kill()
        child.wait()


def lines_now(folder: str) -> list[bytes]:
    """Whole lines of the journal."""
    return [
        line
        for file in Path(folder).glob("wordmask-*.jsonl")
        for line in file.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]


def resume() -> None:
    """Finish with the local engine, compare and clear."""
    segment_folder(segmenter(), "p", WORDS, "killed", **KEPT)
    assert results("killed") == results("whole")
    for name in results("killed"):
        assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes(), name
    os.rename("killed", f"killed-{time.monotonic_ns()}")


def test_engines_and_addresses_that_are_none(here, capsys, monkeypatch):
    command = ["segment", "p", "-c", "cat", "--model", "model", "-o", "no"]
    assert run([*command, "--engine", "spark"]) == 2
    assert "unknown engine 'spark'; choose from: local, ray" in one_line_error(capsys)
    assert run([*command, "--address", "auto"]) == 2
    assert "got the address auto of a cluster, and the engine local" in one_line_error(capsys)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    assert run([*command, "--engine", "ray"]) == 2
    assert (
        'the engine ray needs ray; install it with pip install "wordmask[ray]"'
        in one_line_error(capsys)
    )
    assert not Path("no").exists()


def test_ray_needs_a_list_and_a_cluster_that_is_there(here):
    pytest.importorskip("ray.data", reason="needs wordmask[ray]")
    with pytest.raises(WordmaskError, match="the engine ray and pictures that come one by one"):
        segment_folder(segmenter(), iter(["p/0.png"]), WORDS, "no", engine="ray")
    with pytest.raises(WordmaskError, match=r"cluster at 127.0.0.1:1: Connection refused"):
        segment_folder(segmenter(), "p", WORDS, "no", engine="ray", address="127.0.0.1:1", **KEPT)
