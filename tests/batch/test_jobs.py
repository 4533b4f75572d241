"""Large jobs: pictures that moved, shards, workers, kept passes, manifests, and kills."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from commands import CLASSES, FAST, files, one_line_error, picture, results, times
from tiny import save_tiny_clip
from wordmask import Segmenter, WordmaskError, segment_folder
from wordmask.batch import FolderJob, run_settings
from wordmask.cli import run
from wordmask.towers.clip import ClipTower

WORDS = ["photo", ["cat", "do"]]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_clip(folder, layers=3, text_layers=1)
    return str(folder)


@pytest.fixture
def segmenter(model) -> Segmenter:
    return Segmenter.from_pretrained(model, "naclip", options={"short_side": 56})


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        picture(f"p/{i}.png", (40, 60 + 8 * (i % 2)), seed=i)


def same(one: str, other: str) -> bool:
    names = results(one)
    return names == results(other) and all(
        Path(one, name).read_bytes() == Path(other, name).read_bytes() for name in names
    )


def journal(folder: str) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(Path(folder).glob("*.jsonl")))


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """How many pictures each pass of the network took."""
    counts: list[int] = []
    trace = ClipTower.trace

    def counted(self, pixels, *rest):
        counts.append(len(pixels))
        return trace(self, pixels, *rest)

    monkeypatch.setattr(ClipTower, "trace", counted)
    return counts


# -- sources --------------------------------------------------------------------------------------


def test_every_source_gives_the_same_files(segmenter):
    segment_folder(segmenter, "p", WORDS, "folder", formats=["labels", "scores"])
    kept = {"formats": ["labels", "scores"]}
    paths = [f"p/{i}.png" for i in range(4)]
    with tarfile.open("a.tar", "w") as archive:
        for path in paths:
            archive.add(path, Path(path).name)
    assert segment_folder(segmenter, "a.tar", WORDS, "shard", **kept).segmented == 4
    arrays = [(Path(path).stem, np.asarray(Image.open(path))) for path in paths]
    assert segment_folder(segmenter, iter(arrays), WORDS, "arrays", **kept).segmented == 4
    assert segment_folder(segmenter, (Path(x) for x in paths), WORDS, "paths", **kept).segmented
    assert same("folder", "arrays")
    assert same("folder", "paths")
    assert same("folder", "shard/a")
    assert segment_folder(segmenter, "a.tar", WORDS, "shard", **kept).skipped == 4
    Path("b.tar").write_bytes(Path("a.tar").read_bytes())  # the same pictures in another shard
    assert segment_folder(segmenter, "b.tar", WORDS, "shard", **kept).segmented == 4
    assert same("shard/a", "shard/b")
    before = journal("arrays")
    assert segment_folder(segmenter, iter(arrays), WORDS, "arrays", **kept).skipped == 4
    assert journal("arrays") == before
    arrays[1] = "1", arrays[0][1]
    summary = segment_folder(segmenter, iter(arrays), WORDS, "arrays", **kept)
    assert (summary.segmented, summary.skipped) == (1, 3)


def test_a_generator_is_read_as_far_as_needed(segmenter):
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield np.full((40, 40, 3), len(asked) % 256, np.uint8)

    def stop(one):
        assert one.total is None
        if one.number == 5:
            raise WordmaskError("enough")

    with pytest.raises(WordmaskError, match="enough"):
        segment_folder(segmenter, endless(), WORDS, "o", formats=["labels"], progress=stop)
    assert 5 <= len(asked) < 20


def test_pictures_of_one_size_go_through_the_network_together(segmenter, passes, monkeypatch):
    segment_folder(segmenter, "p", WORDS, "singles")
    monkeypatch.setattr("wordmask.pipeline.CPU_BATCH", 2)  # as on a GPU
    passes.clear()
    segment_folder(segmenter, "p", WORDS, "batches")
    assert passes == [2, 2]
    passes.clear()
    paths = ["p/0.png", "p/2.png", "p/1.png", "p/3.png"]
    listed = segmenter(paths, WORDS)
    assert passes == [2, 2]
    for path, one in zip(paths, listed, strict=True):
        assert (one.labels != segmenter(path, WORDS).labels).mean() < 0.01
    for i in range(4):
        one, other = (np.asarray(Image.open(f"{o}/{i}_labels.png")) for o in ("singles", "batches"))
        assert (one != other).mean() < 0.01


# -- resume ---------------------------------------------------------------------------------------


def test_pictures_that_moved_are_not_made_again(segmenter, passes):
    segment_folder(segmenter, "p", WORDS, "o")
    before = times("o")
    os.rename("p", "q")  # the same names in another folder
    for i in range(4):
        os.utime(f"q/{i}.png")
    passes.clear()
    assert segment_folder(segmenter, "q", WORDS, "o").skipped == 4
    os.makedirs("q/deep")
    os.rename("q/1.png", "q/deep/one.png")  # another name
    picture("q/1.png", seed=9)
    assert passes == []
    summary = segment_folder(segmenter, "q", WORDS, "o")
    assert (summary.segmented, summary.skipped) == (2, 3)  # its name went to another
    assert passes == [1, 1]
    os.rename("q/2.png", "q/deep/two.png")
    assert segment_folder(segmenter, "q", WORDS, "o").skipped == 5
    assert passes == [1, 1]
    now = times("o")
    assert now["deep/two_labels.png"] == before["2_labels.png"]
    assert not {"2.json", "2_labels.png"} & now.keys()
    assert now["1.json"] != before["1.json"]
    before = journal("o")
    assert segment_folder(segmenter, "q", WORDS, "o", manifest="m.parquet").skipped == 5
    assert journal("o") == before
    rows = pyarrow.parquet.read_table("m.parquet").to_pylist()
    assert [row["name"] for row in rows] == ["0", "1", "3", "deep/one", "deep/two"]
    assert rows[4]["source"] == os.path.abspath("q/deep/two.png")


def test_a_copy_is_not_taken_for_the_picture_that_moved(segmenter):
    segment_folder(segmenter, ["p/0.png", "p/1.png"], WORDS, "o")
    Path("p/copy.png").write_bytes(Path("p/0.png").read_bytes())
    summary = segment_folder(segmenter, "p", WORDS, "o")
    assert (summary.segmented, summary.skipped) == (3, 2)
    assert {"0.json", "copy.json"} <= set(files("o"))


def test_failures_are_kept_and_tried_again(segmenter, capsys, model):
    Path("p/1.png").write_bytes(b"no picture")
    segment_folder(segmenter, "p", WORDS, "o", on_error="skip", manifest="m.parquet")
    rows = pyarrow.parquet.read_table("m.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["done", "failed", "done", "done"]
    assert "p/1.png: it is not a picture" in rows[1]["error"]
    assert rows[1]["pixels"] is None
    picture("p/1.png", seed=1)
    settings = run_settings(
        segmenter.method, segmenter.variant, (), {}, model, segmenter.tower.dtype
    )
    job = FolderJob("p", WORDS, "o", settings, on_error="skip")
    assert (len(job.todo), job.failed_before, job.summary.skipped) == (1, 1, 3)
    summary = segment_folder(segmenter, "p", WORDS, "o", on_error="skip", manifest="m.parquet")
    assert (summary.segmented, summary.skipped) == (1, 3)
    assert set(pyarrow.parquet.read_table("m.parquet")["status"].to_pylist()) == {"done"}


def test_a_disk_that_is_full_is_no_reason_of_a_picture(segmenter, monkeypatch):
    def full(self, outcome):
        raise WordmaskError("cannot write o: No space left on device")

    monkeypatch.setattr(FolderJob, "write", full)
    with pytest.raises(WordmaskError, match="No space left"):
        segment_folder(segmenter, "p", WORDS, "o", on_error="skip")


KILLED = """
import os, random, signal, sys, time
import torch
from threading import Event
from wordmask import Segmenter, segment_folder
torch.set_num_threads(1)
segmenter = Segmenter.from_pretrained(sys.argv[1], "naclip", options={"short_side": 28})
segmenter.weights()
def work(out, **more):
    return segment_folder(segmenter, "many", ["photo", "cat"], out, background="none",
                          formats=["labels", "scores", "overlay", "json"], **more)
def done():
    return {line.split('"')[3] for name in os.listdir("o") if name.endswith(".jsonl")
            for line in open(os.path.join("o", name)) if line.endswith("\\n")}
def check():
    for folder, _, names in os.walk("o"):
        for name in names:
            if not name.startswith(("wordmask", ".")):
                with open(os.path.join("o", name), "rb") as a, \\
                     open(os.path.join("whole", name), "rb") as b:
                    assert a.read() == b.read(), name
def few(seen=[]):  # and no more than a few more: twenty such are killed before all are done
    seen.append(1)
    if len(seen) == 2:
        Event().wait()
draw = random.Random(0)
start = time.perf_counter()
total = work("whole").segmented
seconds = (time.perf_counter() - start) / total
kills, moments = 0, []
os.mkdir("o")
while kills < 20 and len(done()) < total:
    before = len(done())
    child = os.fork()
    if not child:
        work("o", progress=lambda one: few(),
             **({"shard": f"{kills % 2 + 1}/2"} if kills % 5 == 4 else {}))
        os._exit(0)
    until = time.monotonic() + 120
    while kills % 2 and len(done()) == before and time.monotonic() < until:
        time.sleep(0.0005)  # every second one dies soon after its first picture
    time.sleep(draw.random() * 2 * seconds)
    os.kill(child, signal.SIGKILL)
    kills += os.waitpid(child, 0)[1] == signal.SIGKILL
    check()
left = total - len(done())
summary = work("o")
assert (summary.segmented, summary.skipped) == (left, total - left), (summary, left)
check()
print("KILLS", kills, "LEFT", left)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_twenty_moments_a_run_goes_on_to_the_same_files(model):
    for i in range(120):
        picture(f"many/{i}.png", (40 + i % 3, 60), seed=i)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, model],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) == 20, done.stdout
    for lock in Path("o").glob(".*.lock"):  # of killed shards; held by no one
        lock.unlink()
    assert same("whole", "o")
    assert not [name for name in files("o") if name.endswith(".part")]


def test_two_processes_do_not_write_the_same_part(segmenter):
    refused = []

    def second(one):
        for more in ({}, {"background": "none", "overwrite": True}):
            with pytest.raises(WordmaskError) as error:
                segment_folder(segmenter, "p", WORDS, "o", **{"overwrite": True} | more)
            refused.append(str(error.value))
        segment_folder(segmenter, "p", WORDS, "o", shard="1/1000000")  # a part of its own

    segment_folder(segmenter, "p", WORDS, "whole")
    segment_folder(segmenter, "p", WORDS, "o", progress=second)
    assert set(refused) == {
        "o is being written by another process; wait for it, or give each a part with shard"
    }
    assert same("whole", "o")
    assert not list(Path("o").glob(".*"))


# -- shards and workers ---------------------------------------------------------------------------


def test_shards_share_the_pictures_and_the_folder(segmenter):
    segment_folder(segmenter, "p", WORDS, "whole")
    counts = []
    for i in range(3):
        summary = segment_folder(segmenter, "p", WORDS, "o", shard=f"{i + 1}/3")
        counts.append(summary.segmented)
        assert summary.skipped == 0
    assert sum(counts) == 4
    assert same("whole", "o")
    assert len(list(Path("o").glob("wordmask-*of3.jsonl"))) == sum(map(bool, counts))
    assert segment_folder(segmenter, "p", WORDS, "o").skipped == 4
    assert segment_folder(segmenter, "p", WORDS, "o", shard="1/2", overwrite=True).segmented
    assert segment_folder(segmenter, "p", WORDS, "o").skipped == 4
    assert same("whole", "o")


def test_formats_of_all_hold_what_other_processes_did(segmenter):
    settings = run_settings(
        segmenter.method, segmenter.variant, (), {}, segmenter.source, segmenter.tower.dtype
    )
    job = FolderJob("p", WORDS, "o", settings, formats=["coco-polygons"])
    assert len(job.todo) == 4
    for part in ("1/2", "2/2"):
        segment_folder(segmenter, "p", WORDS, "o", formats=["labels"], shard=part)
    job.finish()
    assert len(json.loads(Path("o/coco_polygons.json").read_text())["images"]) == 4


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0", ""])
def test_shards_that_are_none(segmenter, shard):
    with pytest.raises(WordmaskError, match="write I/N with I from 1 to N"):
        segment_folder(segmenter, "p", WORDS, "o", shard=shard)


def test_workers_give_the_same_files_also_after_one_was_killed(segmenter):
    for i in range(4, 24):
        picture(f"p/{i}.png", seed=i)
    segment_folder(segmenter, "p", WORDS, "whole")
    reported = []

    def kill(one):
        reported.append(one)
        if len(reported) == 2:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    with pytest.raises(WordmaskError, match="a worker was killed; start again to resume"):
        segment_folder(segmenter, "p", WORDS, "o", workers=2, progress=kill)
    assert all(one.result is None and one.pixels.sum() > 0 for one in reported)
    summary = segment_folder(segmenter, "p", WORDS, "o")
    assert summary.skipped >= 2
    assert summary.segmented + summary.skipped == 24
    assert same("whole", "o")


def test_workers_need_a_list(segmenter):
    with pytest.raises(WordmaskError, match="give a list of paths"):
        segment_folder(segmenter, iter(["p/0.png"]), WORDS, "o", workers=2)
    with pytest.raises(WordmaskError, match="got 0 workers; give at least 1"):
        segment_folder(segmenter, "p", WORDS, "o", workers=0)


# -- kept passes ----------------------------------------------------------------------------------


def test_other_words_formats_and_methods_need_no_pass(segmenter, passes):
    kept = {"keep_encodings": "kept"}
    segment_folder(segmenter, "p", WORDS, "o", **kept)
    assert passes == [1, 1, 1, 1]
    passes.clear()
    segment_folder(segmenter, "p", ["dog", "cat", "photo"], "words", **kept)
    segment_folder(segmenter, "p", WORDS, "o", formats=["scores"], **kept)
    for name in ("sclip", "clearclip", "maskclip", "clip"):  # from the same state, the last but one
        options = {"short_side": 56, "window": 0, "remainder": "drop"}
        other = segmenter.with_method(name, None, options)
        segment_folder(other, "p", WORDS, name, **kept)
    assert passes == []
    segment_folder(segmenter, "p", WORDS, "again", formats=["labels"], **kept)
    segment_folder(segmenter, "p", WORDS, "fresh", formats=["labels"], keep_encodings="kept2")
    assert same("again", "fresh")  # results do not depend on what was kept
    segment_folder(segmenter, "p", WORDS, "plain", formats=["labels"])
    for name in results("plain"):
        one, other = (np.asarray(Image.open(f"{o}/{name}")) for o in ("plain", "fresh"))
        assert (one != other).mean() < 0.01


def test_passes_of_other_settings_are_not_taken(model, segmenter, passes):
    def made(using: Segmenter, out: str, **options: object) -> int:
        if options:
            using = using.with_method("naclip", None, {"short_side": 56} | options)
        passes.clear()
        segment_folder(using, "p/0.png", WORDS, out, keep_encodings="kept", formats=["labels"])
        return len(passes)

    assert made(segmenter, "a") == 1
    assert made(segmenter.with_method("naclip", None, {"short_side": 48}), "b") == 1
    assert made(segmenter.with_method("naclip", None, {"short_side": 56, "norm_eps": 1e-3}), "c")
    assert (
        made(segmenter.with_method("naclip", None, {"short_side": 56, "logit_scale": 9.0}), "d")
        == 0
    )
    changed = Segmenter.from_pretrained(model, "naclip", options={"short_side": 56})
    changed.tower.model.visual_projection.weight.data.mul_(2)
    assert made(changed, "e") == 1
    for file in Path("kept").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:50])
    assert made(segmenter, "f") == 1
    assert made(segmenter, "g") == 0


def test_kept_passes_do_not_mix_with_others(segmenter):
    segment_folder(segmenter, "p", WORDS, "o")
    with pytest.raises(WordmaskError, match="different settings: encodings"):
        segment_folder(segmenter, "p", WORDS, "o", keep_encodings="kept")
    other = segmenter.with_method("rf_clip", None, {"short_side": 56})
    with pytest.raises(WordmaskError, match="rf_clip changes the pass itself"):
        segment_folder(other, "p", WORDS, "o2", keep_encodings="kept")


# -- manifest, dry run ----------------------------------------------------------------------------


def test_the_manifest_says_what_was_done(segmenter):
    summary = segment_folder(segmenter, "p", WORDS, "o", manifest="m.parquet")
    table = pyarrow.parquet.read_table("m.parquet")
    rows = table.to_pylist()
    assert [row["name"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[2]["source"] == os.path.abspath("p/2.png")
    assert rows[2]["size"] == os.path.getsize("p/2.png")
    assert {row["weights"] for row in rows} == {segmenter.weights()}
    assert np.array_equal(np.sum([row["pixels"] for row in rows], axis=0), summary.pixels)
    assert all(row["seconds"] > 0 and row["error"] is None for row in rows)
    metadata = table.schema.metadata
    assert json.loads(metadata[b"wordmask.settings"])["method"] == "naclip"
    assert json.loads(metadata[b"wordmask.classes"]) == ["photo", "cat"]
    segment_folder(segmenter, "p/0.png", WORDS, "o", manifest="n.parquet")
    assert pyarrow.parquet.read_table("n.parquet").equals(table)
    with pytest.raises(WordmaskError, match=r"got m.csv for the manifest; give a name ending in"):
        segment_folder(segmenter, "p", WORDS, "o", manifest="m.csv")


def test_without_pyarrow_the_extra_is_named(segmenter, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(WordmaskError, match=r'pip install "wordmask\[parquet\]"'):
        segment_folder(segmenter, "p", WORDS, "o", manifest="m.parquet")
    assert not Path("o").exists()


def test_dry_run_says_what_would_be_done(model, capsys, monkeypatch):
    command = ["segment", "p", "-c", CLASSES, "--model", model, *FAST, "--out", "o"]
    assert run([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "to do         4\n" in out
    assert "needed, " in out
    assert not Path("o").exists()
    Path("p/1.png").write_bytes(b"no picture")
    assert run([*command, "--on-error", "skip", "--manifest", "m.parquet"]) == 1
    assert "manifest in m.parquet" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr(Segmenter, "from_pretrained", None)
        assert run([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "done already            3\n" in out
    assert "of these failed before  1\n" in out
    sizes = [
        sum(Path("o", f).stat().st_size for f in results("o") if f[0] == str(i)) for i in (0, 2, 3)
    ]
    needed = int(out.split("about ")[1].split(" kB")[0])
    assert needed == max(round(sum(sizes) / 3e3), 1)


def test_the_command_takes_lists_shards_and_stdin(model, capsys, monkeypatch):
    rest = ["-c", CLASSES, "--model", model, *FAST, "--format", "labels"]
    assert run(["segment", "p", *rest, "--out", "whole"]) == 0
    stdin = io.TextIOWrapper(io.BytesIO(b"p/0.png\np/1.png\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run(["segment", "-", *rest, "--out", "o"]) == 0
    Path("list.txt").write_text("p/2.png\np/3.png\n")
    assert run(["segment", "list.txt", *rest, "--out", "o", "--shard", "1/2"]) == 0
    assert run(["segment", "list.txt", *rest, "--out", "o", "--shard", "2/2"]) == 0
    assert same("whole", "o")
    capsys.readouterr()
    assert run(["segment", "list.txt", *rest, "--out", "o", "--shard", "3/2"]) == 2
    assert "got the shard '3/2'; write I/N" in one_line_error(capsys)


def test_many_pictures_do_not_get_a_line_each(model, capsys, monkeypatch):
    from wordmask import bars
    from wordmask.cli import segment

    monkeypatch.setattr(segment, "MOST_LINES", 3)
    monkeypatch.setattr(bars, "LINE_EVERY", 0.0)
    Path("p/1.png").write_bytes(b"no picture")
    command = ["segment", "p", "-c", CLASSES, "--model", model, *FAST, "--on-error", "skip"]
    assert run(command) == 1
    err = capsys.readouterr().err
    assert "[1/4]" not in err
    lines = [x for x in err.splitlines() if x.startswith("wordmask: segmenting: 4/4 pictures")]
    assert lines[0].endswith("1 failed, 3.png")


# -- decoding at a reduced size -------------------------------------------------------------------


def test_draft_decodes_large_jpegs_at_a_reduced_size(segmenter, monkeypatch):
    """Labels have the full size and are nearly those of the whole picture; PNGs are the same."""
    picture("large/a.jpg", (400, 300), seed=1)
    picture("large/b.png", (400, 300), seed=2)
    sizes = []
    prepare = type(segmenter.method).prepare
    monkeypatch.setattr(
        type(segmenter.method),
        "prepare",
        lambda self, image, tower: sizes.append(image.shape[:2]) or prepare(self, image, tower),
    )
    for out, draft in (("whole", False), ("draft", True)):
        segment_folder(segmenter, "large", WORDS, out, formats=["labels", "rle"], draft=draft)
    assert sorted(sizes) == [(200, 150), (400, 300), (400, 300), (400, 300)]
    one, two = (np.asarray(Image.open(f"{out}/a_labels.png")) for out in ("whole", "draft"))
    assert one.shape == two.shape == (400, 300)
    assert (one != two).mean() < 0.05
    assert Path("whole/b_labels.png").read_bytes() == Path("draft/b_labels.png").read_bytes()
    with pytest.raises(WordmaskError, match="decoding"):  # other results
        segment_folder(segmenter, "large", WORDS, "whole", formats=["labels", "rle"], draft=True)


def test_draft_refuses_what_needs_the_picture(segmenter):
    with pytest.raises(WordmaskError, match=r"draft.* overlay"):
        segment_folder(segmenter, "p", WORDS, "out", draft=True)
    refined = segmenter.with_method("naclip", refine="pamr")
    with pytest.raises(WordmaskError, match=r"draft.* pamr"):
        segment_folder(refined, "p", WORDS, "out", formats=["labels"], draft=True)
