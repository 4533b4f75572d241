"""The evaluator: numbers that do not depend on kills, workers, sharing or the order of things."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModelWithProjection

from tiny import tiny_vfm
from waiting import free_port, soon
from wordmask import Segmenter, toybox
from wordmask.cli import run as command
from wordmask.datasets import VOID, benchmark
from wordmask.errors import WordmaskError
from wordmask.evaluation import progress
from wordmask.evaluation.evaluator import count_share, evaluate
from wordmask.evaluation.plan import Plan, check
from wordmask.evaluation.results import collect
from wordmask.evaluation.sharing import share_passes
from wordmask.evaluation.summary import markdown
from wordmask.evaluation.views import view_picture, view_target
from wordmask.evaluation.workers import Workers
from wordmask.methods import METHODS, create_method
from wordmask.refiners import REFINERS
from wordmask.towers.clip import ClipTower
from wordmask.user_code import load_object

TINY = "wordmask/tiny-clip"
GROUNDS = tuple(toybox.GROUNDS)
NATIVE = "short_side=none"
ALONE = sorted(name for name, kind in METHODS.items() if kind.network == "none")
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def tiny():
    """The built-in network in memory, and text rows for the folder's classes."""
    segmenter = Segmenter.from_pretrained(TINY, "clip", device="cpu", local_files_only=True)
    rows = segmenter.encode_text(list(GROUNDS), "none").embeddings
    return segmenter.tower.model, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    """A data set of 64 small pictures, 8 grounds, some void; and text rows for it."""
    root = tmp_path_factory.mktemp("data")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    for index in range(64):
        scene = toybox.render(5000 + index, 32 + 8 * (index % 3))
        labels = toybox.label_map(scene, GROUNDS).astype(int)
        mask = np.where(labels > 0, labels - 1, 255).astype(np.uint8)
        Image.fromarray(scene.image).save(root / "images" / f"{index:03d}.png")
        Image.fromarray(mask).save(root / "masks" / f"{index:03d}.png")
    (root / "names.txt").write_text("\n".join(GROUNDS) + "\n")
    save_file({"folder": tiny[1].contiguous()}, root / "text.safetensors")
    return root


def make_plan(folder: Path, model, **changes) -> Plan:
    plan = Plan(
        methods=("maskclip", "cliper"),
        datasets=("folder",),
        root=folder,
        model=model,
        protocol="untuned",
        settings=(NATIVE,),
        text_features=folder / "text.safetensors",
        calibration=True,
    )
    return dataclasses.replace(plan, **changes)


def numbers(results):
    """Results without what differs from run to run: times and dates."""
    runs = copy.deepcopy(results["runs"])
    for entry in runs:
        del entry["seconds"]
        for picture in entry["pictures"]:
            del picture["encode"], picture["decide"]
    return runs


@pytest.fixture(scope="module")
def unbroken(folder, tiny, tmp_path_factory):
    """Results of a run that nobody stops, and its seconds."""
    start = time.perf_counter()
    results = evaluate(make_plan(folder, tiny[0]), tmp_path_factory.mktemp("whole"))
    return results, time.perf_counter() - start


# -- numbers ------------------------------------------------------------------------------------


def test_numbers_are_those_of_plain_calls(folder, tiny, tmp_path):
    model, rows = tiny
    results = evaluate(make_plan(folder, model, limit=12), tmp_path)
    for entry in results["runs"]:
        segmenter = Segmenter.from_pretrained(
            model, entry["protocol"]["method"], options=_options(entry)
        )
        counts = np.zeros((len(GROUNDS) + 1, len(GROUNDS) + 1), int)
        for sample in benchmark("folder").open(folder)[:12]:
            answer = segmenter(sample.image, rows).labels
            truth = sample.target()
            np.add.at(counts, (truth[truth != VOID], answer[truth != VOID]), 1)
        hit, true, said = counts.diagonal()[1:], counts.sum(1)[1:], counts.sum(0)[1:]
        iou = hit / (true + said - hit)
        ours = [one["iou"] for one in entry["classes"]]
        # passes are shared here, so single pixels may differ by rounding
        assert ours == pytest.approx(iou, abs=2e-3)
        assert entry["miou"] == pytest.approx(iou.mean(), abs=1e-3)
        assert entry["metrics"]["pixel_accuracy"] == pytest.approx(hit.sum() / true.sum(), abs=1e-3)
        assert entry["images"] == 12
        assert sum(one["target"] for one in entry["classes"]) == true.sum()
        assert [one["name"] for one in entry["classes"]] == list(GROUNDS)
        low, high = entry["intervals"]["miou_union"]
        assert 0 < low < high < 1


def _options(entry):
    method = METHODS[entry["protocol"]["method"]]
    names = {field.name for field in dataclasses.fields(method)}
    return {k: v for k, v in entry["protocol"]["settings"].items() if k in names}


def test_true_regions_are_told_to_the_method(folder, tiny, tmp_path):
    """regions=target: the counts are those of encodings that were given the target by hand."""
    model, rows = tiny
    told = ("clusters=none", "attention=correlation", "regions=target")
    plan = make_plan(
        folder, model, methods=("cliptrase", "cliptrase:official"), limit=6,
        settings=(NATIVE, *told), calibration=False,
    )  # fmt: skip
    entry, _ = evaluate(plan, tmp_path / "told")["runs"]
    assert entry["protocol"]["settings"]["regions"] == "target"
    segmenter = Segmenter.from_pretrained(model, "cliptrase", options=_options(entry))
    texts = segmenter.encode_text(rows)
    counts, plain = np.zeros((2, 2), int)
    for sample in benchmark("folder").open(folder)[:6]:
        truth = sample.target()
        known = truth != VOID
        for right, regions in ((counts, truth), (plain, None)):
            encoding = segmenter.encode(sample.image, regions)
            answer = segmenter.score(encoding, texts).labels()
            right += (answer == truth)[known].sum(), known.sum()
    assert entry["metrics"]["pixel_accuracy"] == pytest.approx(counts[0] / counts[1], abs=1e-6)
    assert counts[0] != plain[0]
    with pytest.raises(WordmaskError, match="maskclip takes no regions"):
        evaluate(dataclasses.replace(plan, methods=("maskclip",), settings=told[2:]), tmp_path)
    with pytest.raises(WordmaskError, match="it takes none"):
        segmenter.with_method("clip").encode(sample.image, truth)
    with pytest.raises(WordmaskError, match=r"give \(H, W\) with one picture"):
        segmenter.encode([sample.image], truth)
    with pytest.raises(WordmaskError, match="set window=0"):
        segmenter.with_method("cliptrase", options={"window": 32, "stride": 16}).encode(
            sample.image, truth
        )


def test_seams_are_counted_where_windows_meet(folder, tiny, tmp_path):
    """Counted by hand from labels at the borders of windows, which joined windows do not show."""
    plan = make_plan(
        folder, tiny[0], methods=("clearclip", "cliper"), sweep=("window=0,16",), limit=8,
        settings=(NATIVE, "stride=16", "background=none"), calibration=False,
    )  # fmt: skip
    results = evaluate(plan, tmp_path / "apart")
    whole, apart, no_window, own = results["runs"]
    for one in (whole, no_window):
        assert "seam_ratio" not in one["metrics"]
    segmenter = Segmenter.from_pretrained(tiny[0], "clearclip", options=_options(apart))
    pairs = np.zeros((2, 2))  # elsewhere and at borders: pairs, changes
    for sample in benchmark("folder").open(folder)[:8]:
        labels = segmenter(sample.image, tiny[1], "none").labels
        for axis in (0, 1):
            length = labels.shape[axis]
            ends = {min(i * 16, length - 16) + e for i in range(-(-length // 16)) for e in (0, 16)}
            differ = np.diff(labels.astype(int), axis=axis) != 0
            for line in range(1, length):
                row = differ.take(line - 1, axis)
                pairs[int(line in ends)] += row.size, row.sum()
    rates = pairs[:, 1] / pairs[:, 0]
    found = apart["metrics"]
    assert found["changes_elsewhere"] == pytest.approx(rates[0])
    assert found["changes_at_seams"] == pytest.approx(rates[1])
    assert found["seam_ratio"] == pytest.approx(rates[1] / rates[0])
    assert own["metrics"]["seam_ratio"] < found["seam_ratio"]
    joined = dataclasses.replace(
        plan,
        methods=("clearclip",),
        sweep=(),
        settings=(*plan.settings, "window=16", "stitch=true"),
    )
    (one,) = evaluate(joined, tmp_path / "joined")["runs"]
    assert one["metrics"]["seam_ratio"] < 0.6 * found["seam_ratio"]
    table = markdown(results)
    (row,) = (line for line in table.splitlines() if line.startswith("| `clearclip window=16` |"))
    assert f"| {found['seam_ratio']:.2f} |" in row
    assert "across the borders of windows" in table


def test_results_hold_all_that_they_depend_on(unbroken):
    results, _ = unbroken
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert results["versions"].keys() >= {"wordmask", "torch", "transformers", "python"}
    assert len(results["model"]["weights"]) == 24
    assert results["plan"]["methods"] == ["maskclip", "cliper"]
    for entry in results["runs"]:
        assert entry["protocol"]["settings"]["logit_scale"] == 100
        assert len(entry["pictures"]) == 64
        assert entry["published"] == []
        assert entry["seconds"]["encode"] > 0
    table = markdown(results)
    assert "64 pictures" in table
    assert "| `cliper` | untuned |" in table
    assert "- cliper: no calibration error: it gives class maps and no probabilities" in table


def test_calibration_equals_a_direct_computation(folder, tiny, unbroken):
    model, rows = tiny
    maskclip, cliper = unbroken[0]["runs"]
    segmenter = Segmenter.from_pretrained(model, "maskclip", options=_options(maskclip))
    sure, right = [], []
    for sample in benchmark("folder").open(folder):
        scores = segmenter.score(sample.image, rows).class_maps()[None]
        truth = sample.target().astype(int)
        whole = F.interpolate(scores.double(), size=truth.shape, mode="bilinear")[0]
        value, index = torch.softmax(100 * whole, 0).max(0)
        sure.append(value.numpy()[truth != VOID])
        right.append((index.numpy() + 1 == truth)[truth != VOID])
    sure, right = np.concatenate(sure), np.concatenate(right)
    bins = np.minimum((15 * sure).astype(int), 14)
    gaps = np.bincount(bins, right, 15) - np.bincount(bins, sure, 15)
    error = np.abs(gaps).sum() / len(sure)
    assert 0.01 < error < 0.9
    assert maskclip["metrics"]["calibration_error"] == pytest.approx(error, abs=1e-4)
    assert sum(maskclip["calibration"]["pixels"]) == len(sure)
    assert np.allclose(maskclip["calibration"]["pixels"], np.bincount(bins, minlength=15), atol=3)
    assert "calibration_error" not in cliper["metrics"]
    table = [line.split("|") for line in markdown(unbroken[0]).splitlines() if line[:2] == "| "]
    place = [cell.strip() for cell in table[0]].index("ECE")
    assert [row[place].strip() for row in table[1:]] == [f"{100 * error:.1f}", "-"]


def test_calibration_of_halves_and_backgrounds(tmp_path):
    """Two pieces of a picture are put together; a background that no scene has is never right."""
    plan = Plan(
        methods=("maskclip", "maskclip+pamr"),
        datasets=("toybox",),
        model=TINY,
        protocol="untuned",
        settings=(NATIVE, "view=halves", "background=threshold:0.6:*"),
        limit=2,
        device="cpu",
        offline=True,
        calibration=True,
    )
    for entry in evaluate(plan, tmp_path)["runs"]:
        pixels = sum(one["target"] for one in entry["classes"])
        assert sum(entry["calibration"]["pixels"]) == pixels
        unlabelled = pixels - sum(one["prediction"] for one in entry["classes"])
        curve = entry["calibration"]
        assert sum(curve["pixels"][:6]) == 0
        assert 100 < sum(curve["pixels"][6:9]) < unlabelled  # 0.4 to 0.6: only a 1 - p is there
        assert curve["accuracy"][6:9] == [0, 0, 0]


# -- being killed -------------------------------------------------------------------------------


def test_killed_at_random_moments_and_resumed(folder, tiny, unbroken, tmp_path):
    whole, seconds = unbroken
    plan = make_plan(folder, tiny[0])
    draw = random.Random(0)
    kills = 0
    done = []
    while kills < 9:
        counting = FORK.Event()
        before = done[-1] if done else 0
        child = FORK.Process(target=_evaluate, args=(plan, tmp_path, before, counting), daemon=True)
        child.start()
        if kills % 4:  # the others are killed while they start
            soon(lambda c=child, counting=counting: counting.is_set() or not c.is_alive())
        time.sleep(draw.uniform(0, seconds / 30))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        kills += 1
        done.append(_counted(tmp_path))
    reported = []
    results = evaluate(plan, tmp_path, report=lambda progress: reported.append(progress.done))
    assert numbers(results) == numbers(whole)
    assert 0 < max(done) <= 64  # kills fell in the middle of the work
    assert len(set(done)) > 3
    assert reported[-1] == 64
    again = evaluate(plan, tmp_path, report=lambda progress: reported.append(progress.done))
    assert numbers(again) == numbers(whole)


def _evaluate(plan, out, before, counting):
    def report(now):
        if now.done > before:
            counting.set()
        if now.done > before + 5:  # nine of them count no more than 54, however slow the killer is
            time.sleep(600)

    progress.REPORT_EVERY = 0.0
    evaluate(plan, out, report=report)


def _counted(out: Path) -> int:
    """Pictures in journals on disk, each counted once; a line cut short by a kill holds none."""
    lines = [line for path in out.rglob("*.jsonl") for line in path.read_bytes().splitlines(True)]
    found = []
    for line in lines:
        try:
            found.append(json.loads(line)["key"])
        except ValueError:
            continue
    assert len(found) == len(set(found))
    return len(found)


def test_an_interruption_keeps_what_was_counted(folder, tiny, unbroken, tmp_path):
    plan = make_plan(folder, tiny[0])
    seen = []

    def interrupt(progress):
        seen.append(progress.done)
        if progress.done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(plan, tmp_path, report=interrupt)
    assert _counted(tmp_path) >= seen[-1]
    assert numbers(evaluate(plan, tmp_path)) == numbers(unbroken[0])


def test_a_run_of_other_settings_is_not_continued(folder, tiny, tmp_path):
    plan = make_plan(folder, tiny[0], limit=2)
    evaluate(plan, tmp_path)
    other = dataclasses.replace(plan, settings=(NATIVE, "logit_scale=50"))
    with pytest.raises(WordmaskError, match=r"logit_scale \(100.0 there, 50 now\); choose"):
        evaluate(other, tmp_path)
    with pytest.raises(WordmaskError, match=r"pictures \(2 there, 3 now\)"):
        evaluate(dataclasses.replace(plan, limit=3), tmp_path)
    with pytest.raises(WordmaskError, match=r"calibration \(true there, false now\)"):
        evaluate(dataclasses.replace(plan, calibration=False), tmp_path)
    results = evaluate(other, tmp_path, overwrite=True)
    assert results["runs"][0]["protocol"]["settings"]["logit_scale"] == 50


def test_a_line_that_was_cut_short_is_counted_anew(folder, tiny, tmp_path):
    plan = make_plan(folder, tiny[0], limit=3)
    whole = evaluate(plan, tmp_path)
    (path,) = tmp_path.rglob("*.jsonl")
    text = path.read_bytes()
    path.write_bytes(text[:-30])
    done = []
    assert numbers(evaluate(plan, tmp_path, report=lambda p: done.append(p.done))) == numbers(whole)
    assert done[0] == 2
    (settings,) = tmp_path.rglob("wordmask.json")
    settings.write_text("{")
    with pytest.raises(WordmaskError, match=r"cannot read the settings in .*wordmask\.json"):
        evaluate(plan, tmp_path)


# -- several processes --------------------------------------------------------------------------


def test_shares_of_workers_add_up(folder, tiny, unbroken, tmp_path):
    plan = make_plan(folder, tiny[0])
    for rank in (2, 0, 1):
        tasks = count_share(Workers(rank, 3), plan, check(plan), tmp_path / "state")
    assert numbers(collect(plan, tasks)) == numbers(unbroken[0])


def test_a_missing_share_is_refused(folder, tiny, tmp_path):
    plan = make_plan(folder, tiny[0], limit=6)
    tasks = count_share(Workers(1, 3), plan, check(plan), tmp_path / "state")
    with pytest.raises(WordmaskError, match="'000' is not counted"):
        collect(plan, tasks)


def test_two_workers_equal_one(folder, tmp_path):
    plan = make_plan(folder, TINY, device="cpu", offline=True)
    seen = []
    results = evaluate(plan, tmp_path / "two", workers=2, report=lambda p: seen.append(p.done))
    assert numbers(results) == numbers(evaluate(plan, tmp_path / "one"))
    assert seen[-1] == 64


def test_processes_of_torchrun_need_no_common_disk(folder, tiny, unbroken, tmp_path):
    port = free_port()
    plan = make_plan(folder, tiny[0])
    children = [
        FORK.Process(target=_under_torchrun, args=(plan, tmp_path / str(rank), rank, port))
        for rank in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
        assert child.exitcode == 0
    first = json.loads((tmp_path / "0" / "found.json").read_text())
    assert first == json.loads(json.dumps(numbers(unbroken[0])))
    assert json.loads((tmp_path / "1" / "found.json").read_text()) is None


def _under_torchrun(plan, out, rank, port):
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port)
    )
    results = evaluate(plan, out)
    found = None if results is None else numbers(results)
    (out / "found.json").write_text(json.dumps(found))


def test_a_model_in_memory_has_one_worker(folder, tiny, tmp_path):
    with pytest.raises(WordmaskError, match="2 workers and a model in memory"):
        evaluate(make_plan(folder, tiny[0]), tmp_path, workers=2)


# -- sharing ------------------------------------------------------------------------------------

OTHER = {
    "templates": ("a {}.",),
    "logit_scale": 7.0,
    "area_threshold": 0.3,
    "attention_threshold": 0.5,
    "select_layer": -2,
    "window_weight": 0.1,
    "score_threshold": 0.9,
    "confidence": 0.2,
    "sfr_scale": 1.5,
    "sfr_share": 0.2,
    "label_threshold": 0.3,
    "mask_threshold": 0.7,
    "box_threshold": 0.2,
    "prompts": ("gray",),
    "classifier_templates": "single",
    "image_weight": 0.5,
    "text_shift": 0.5,
    "text_distance": 0.5,
    "grid": 0,
    "iterations": 3,
}


def another(method, option):
    """A value of an option that is not the default: its opposite, another of a choice, or OTHER."""
    if option in OTHER:
        return OTHER[option]
    now, hint = getattr(method, option), typing.get_type_hints(type(method))[option]
    if isinstance(now, bool):
        return not now
    return next(choice for choice in typing.get_args(hint) if choice != now)


@pytest.mark.parametrize("name", ALONE)
def test_what_scores_read_changes_no_encoding(name, tiny):
    method = create_method(name, None, {"short_side": None})[0]
    base = Segmenter.from_pretrained(tiny[0], name, options={"short_side": None})
    image = toybox.render(1, 48).image
    for option in method.scoring:
        changed = {"short_side": None, option: another(method, option)}
        other = create_method(name, None, changed)[0]
        assert other != method
        assert other.encoding_key() == method.encoding_key()
    everything = {o: another(method, o) for o in method.scoring} | {"short_side": None}
    one = base.encode(image)
    two = base.with_method(name, None, everything).encode(image)
    assert torch.equal(one.features, two.features)
    for key, value in (vars(one.state) if one.state else {}).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(two.state, key))
    smaller = create_method(name, None, {"short_side": 64})[0]
    assert smaller.encoding_key() != method.encoding_key()


def test_passes_are_shared_where_pictures_come_in_alike():
    def make(name, **options):
        return create_method(name, None, {"short_side": 64, **options})[0]

    alike = [make(name) for name in ("clip", "maskclip", "sclip")]
    groups = share_passes([*alike, make("cliper"), make("clip", window=32)], 8)
    assert [[m.name for m in members] for members, _ in groups] == [
        ["clip", "maskclip", "sclip"],
        ["cliper"],
        ["clip"],
    ]
    need = groups[0][1]
    assert need.letters(8) == "qkv"
    assert need.states >= {7, 8}


def test_a_sweep_of_thresholds_encodes_once(folder, tiny, tmp_path, monkeypatch):
    calls = []
    encode = Segmenter.encode
    monkeypatch.setattr(
        Segmenter, "encode", lambda self, *a, **k: calls.append(1) or encode(self, *a, **k)
    )
    plan = make_plan(
        folder,
        tiny[0],
        sweep=("background=none,threshold:0.2,threshold:0.6", "logit_scale=40,100"),
        limit=3,
    )
    results = evaluate(plan, tmp_path / "shared")
    assert len(calls) == 2 * 3  # two methods, three pictures
    evaluate(dataclasses.replace(plan, share=False), tmp_path / "apart")
    assert len(calls) == 2 * 3 + 2 * 3 * 2 * 3  # every run for itself
    labels = [entry["label"] for entry in results["runs"]]
    assert len(labels) == 2 * 3 * 2
    assert "cliper background=threshold:0.2 logit_scale=40" in labels
    assert results["runs"][1]["swept"] == {"background": "none", "logit_scale": "100"}
    by = {entry["label"]: entry["miou"] for entry in results["runs"]}
    assert by["maskclip background=none logit_scale=40"] == pytest.approx(
        by["maskclip background=none logit_scale=100"]
    )


def test_sharing_changes_nothing_but_rounding(folder, tiny, tmp_path):
    plan = make_plan(folder, tiny[0], methods=tuple(ALONE), limit=3)
    shared = evaluate(plan, tmp_path / "shared")
    apart = evaluate(dataclasses.replace(plan, share=False), tmp_path / "apart")
    for one, two in zip(shared["runs"], apart["runs"], strict=True):
        pixels = sum(c["target"] for c in two["classes"])
        moved = sum(
            abs(a["prediction"] - b["prediction"])
            for a, b in zip(one["classes"], two["classes"], strict=True)
        )
        assert moved <= 0.002 * pixels
        assert one["miou"] == pytest.approx(two["miou"], abs=2e-3)


def test_windows_are_shared_and_scored(folder, tiny, tmp_path):
    plan = make_plan(
        folder,
        tiny[0],
        methods=("clip", "sclip", "cliper"),
        settings=("short_side=48", "window=32", "stride=16"),
        limit=4,
    )
    shared = evaluate(plan, tmp_path / "shared")
    apart = evaluate(dataclasses.replace(plan, share=False), tmp_path / "apart")
    for one, two in zip(shared["runs"], apart["runs"], strict=True):
        assert one["miou"] == pytest.approx(two["miou"], abs=2e-3)


# -- pictures, corruptions, metrics --------------------------------------------------------------


def test_crops_are_of_the_short_side_and_centred():
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 40:60] = 255  # the middle fifth
    truth = np.full((40, 100), 1, np.uint16)
    truth[:, 40:60] = 2
    (crop,) = view_picture(image, "crop:20")
    labels = view_target(truth, "crop:20")  # 20 x 50, then columns 15 to 35
    assert crop.shape == (20, 20, 3)
    assert labels.shape == (20, 20)
    assert labels[0].tolist() == [1] * 5 + [2] * 10 + [1] * 5
    assert crop[10, 10].tolist() == [255, 255, 255]
    assert crop[10, 0].tolist() == [0, 0, 0]


def test_halves_are_pictures_of_their_own():
    image = np.arange(4 * 7 * 3, dtype=np.uint8).reshape(4, 7, 3)
    left, right = view_picture(image, "halves")
    assert np.array_equal(np.concatenate([left, right], axis=1), image)
    assert left.shape[1] == 3
    truth = np.ones((4, 7), np.uint16)
    assert view_target(truth, "halves") is truth


@pytest.mark.parametrize("view", ["halves", "crop:32"])
def test_views_are_evaluated(folder, tiny, tmp_path, view):
    plan = make_plan(folder, tiny[0], settings=(NATIVE, f"view={view}"), limit=3)
    results = evaluate(plan, tmp_path)
    samples = benchmark("folder").open(folder)[:3]
    scored = sum((view_target(s.target(), view) != VOID).sum() for s in samples)
    for entry in results["runs"]:
        assert sum(one["target"] for one in entry["classes"]) == scored


def test_corruptions_are_a_curve_and_repeat(folder, tiny, tmp_path):
    plan = make_plan(
        folder, tiny[0], methods=("maskclip",), corruptions=("noise",), limit=12, seed=3
    )
    results = evaluate(plan, tmp_path / "a")
    conditions = [tuple(entry["condition"]) for entry in results["runs"]]
    assert conditions == [("clean", 0), ("noise", 1), ("noise", 2), ("noise", 3)]
    accuracy = [entry["metrics"]["pixel_accuracy"] for entry in results["runs"]]
    assert accuracy[3] < accuracy[0]
    assert numbers(evaluate(plan, tmp_path / "b")) == numbers(results)
    assert "severities 1 / 2 / 3" in markdown(results)
    other = evaluate(dataclasses.replace(plan, seed=4), tmp_path / "c")
    assert numbers(other)[0] == numbers(results)[0]
    assert numbers(other)[3] != numbers(results)[3]


def test_image_level_and_boundary_are_optional(folder, tiny, tmp_path):
    plan = make_plan(folder, tiny[0], image_level=True, boundary=True, limit=8)
    for entry in evaluate(plan, tmp_path)["runs"]:
        assert 0 < entry["metrics"]["image_map"] <= 1
        assert 0 < entry["metrics"]["boundary_miou_union"] <= 1


def count_calls(monkeypatch, cls, name):
    """A list that grows with every call of a method of a class."""
    calls, original = [], getattr(cls, name)
    monkeypatch.setattr(
        cls, name, lambda self, *arguments: calls.append(1) or original(self, *arguments)
    )
    return calls


def test_each_picture_is_scored_and_refined_once(folder, tiny, tmp_path, monkeypatch):
    """Labels, image-level scores and confidence are read from the same score maps."""
    scored = count_calls(monkeypatch, METHODS["sclip"], "scores")
    prepared = count_calls(monkeypatch, REFINERS["pamr"], "prepare")
    refined = count_calls(monkeypatch, REFINERS["pamr"], "refine")
    plan = make_plan(folder, tiny[0], methods=("sclip+pamr",), image_level=True, limit=4)
    (entry,) = evaluate(plan, tmp_path)["runs"]
    assert (len(scored), len(prepared), len(refined)) == (4, 4, 4)
    assert entry["metrics"].keys() >= {"miou_union", "image_map", "calibration_error"}


def test_refiners_are_prepared_once_for_all_thresholds(folder, tiny, tmp_path, monkeypatch):
    calls = count_calls(monkeypatch, REFINERS["pamr"], "prepare")
    plan = make_plan(
        folder,
        tiny[0],
        methods=("maskclip", "maskclip+pamr"),
        sweep=("background=none,threshold:0.5",),
        limit=2,
    )
    results = evaluate(plan, tmp_path)
    assert len(calls) == 2
    assert [e["protocol"]["settings"]["refine"] for e in results["runs"]] == [
        "none", "none", "pamr", "pamr"
    ]  # fmt: skip
    assert results["runs"][0]["miou"] != results["runs"][2]["miou"]


def test_steps_on_words_share_a_pass_with_their_method(folder, tiny, tmp_path, monkeypatch):
    """The attention that FreeCP needs is recorded in ClearCLIP's pass, for both variants."""
    passes = count_calls(monkeypatch, ClipTower, "trace")
    steps = ("+freecp", "+freecp:purge", "+ptc")
    never = "freecp.ambiguity=2"  # no boxes are cut out
    plan = make_plan(
        folder,
        tiny[0],
        methods=("clearclip", *(f"clearclip{step}" for step in steps)),
        limit=2,
        calibration=True,
    )
    alone = make_plan(
        folder, tiny[0], methods=("clearclip+freecp",), settings=(NATIVE, never), limit=2
    )
    entries = evaluate(plan, tmp_path / "all")["runs"]
    passes.clear()
    evaluate(alone, tmp_path / "alone")
    assert len(passes) == 2
    assert "calibration_error" in entries[0]["metrics"]
    assert "calibration_error" not in entries[1]["metrics"]
    refine = [entry["protocol"]["settings"]["refine"] for entry in entries]
    assert refine == ["none", "freecp", "freecp:purge", "ptc"]


# -- weights and words --------------------------------------------------------------------------


def test_a_model_from_a_python_file(folder, tiny, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from wordmask.towers.families import load_clip\nimport torch\n\n\n"
        "def build():\n"
        f"    return load_clip({TINY!r}, device=torch.device('cpu'), dtype=torch.float32).model\n"
        "\n\ndef wrong():\n    return 3\n"
    )
    plan = make_plan(folder, f"{file}:build", limit=2)
    results = evaluate(plan, tmp_path / "a")
    assert results["model"]["source"] == f"{file}:build"
    for name, message in (("wrong", "returned int"), ("none", "unknown name in .*mine.py")):
        with pytest.raises(WordmaskError, match=message):
            evaluate(dataclasses.replace(plan, model=f"{file}:{name}"), tmp_path / "b")
    file.write_text(file.read_text() + "# edited\n")
    with pytest.raises(WordmaskError, match=r"code of the model .*mine\.py:build \("):
        evaluate(plan, tmp_path / "a")
    with pytest.raises(WordmaskError, match="no file"):
        evaluate(dataclasses.replace(plan, model=f"{tmp_path}/x.py:build"), tmp_path / "b")


MINE = """
from dataclasses import dataclass

from wordmask.methods.clip import Clip
from wordmask.refiners import Refiner


@dataclass(frozen=True)
class Mine(Clip):
    'CLIP with scores times a factor.'

    name = "mine"
    title = "Mine"
    factor: float = 1.0

    def scores(self, towers, encoding, texts):
        return SIGN * self.factor * super().scores(towers, encoding, texts)


@dataclass(frozen=True)
class Twice(Refiner):
    'Doubles scores.'

    name = "twice"
    title = "Twice"
    variants = {"plain": {}}

    def prepare(self, picture, networks):
        return None

    def refine(self, prepared, scores):
        return 2 * scores
"""


def write_mine(tmp_path, sign):
    file = tmp_path / "mine.py"
    file.write_text(MINE.replace("SIGN", str(sign)))
    return file


def test_edited_code_is_never_answered_with_old_numbers(folder, tiny, tmp_path):
    file = write_mine(tmp_path, 1)
    plan = make_plan(folder, tiny[0], methods=(f"{file}:Mine+{file}:Twice",), limit=4)
    before = evaluate(plan, tmp_path / "out")
    assert before["runs"][0]["label"] == "mine+twice"
    assert numbers(evaluate(plan, tmp_path / "out")) == numbers(before)
    write_mine(tmp_path, -1)
    with pytest.raises(WordmaskError, match=r"code of the method mine \(.*overwrite"):
        evaluate(plan, tmp_path / "out")
    after = evaluate(plan, tmp_path / "out", overwrite=True)
    assert after["runs"][0]["miou"] != before["runs"][0]["miou"]


def test_replaced_weights_of_an_auxiliary_model_are_refused(folder, tiny, tmp_path):
    tiny_vfm().save_pretrained(tmp_path / "vfm")
    networks = {"vfm": str(tmp_path / "vfm")}
    plan = make_plan(folder, tiny[0], methods=("clip+vfm",), networks=networks, limit=2)
    before = evaluate(plan, tmp_path / "out")
    assert numbers(evaluate(plan, tmp_path / "out")) == numbers(before)
    tiny_vfm(seed=5).save_pretrained(tmp_path / "vfm")
    with pytest.raises(WordmaskError, match=r"networks\.vfm\.weights \("):
        evaluate(plan, tmp_path / "out")


def test_classes_methods_and_data_sets_as_they_are(folder, tiny, tmp_path):
    mine = load_object(f"{write_mine(tmp_path, 1)}:Mine")
    own = dataclasses.replace(benchmark("folder"), name="own", place=folder)
    plan = make_plan(
        folder,
        tiny[0],
        methods=(mine, mine(factor=2.0), create_method("maskclip")[0], "clip"),
        datasets=(own, "folder", f"other={folder}"),
        text_features=tmp_path / "text.safetensors",
        limit=2,
    )
    rows = tiny[1].contiguous()
    save_file({name: rows.clone() for name in ("own", "folder", "other")}, plan.text_features)
    results = evaluate(plan, tmp_path / "out")
    labels = [entry["label"] for entry in results["runs"]]
    assert labels == 3 * ["mine", "mine factor=2.0", "maskclip", "clip"]
    assert results["plan"]["methods"][0] == "mine"
    assert results["plan"]["datasets"] == ["own", "folder", f"other={folder}"]
    assert results["runs"][1]["protocol"]["settings"]["factor"] == 2
    for i in range(4):
        assert len({results["runs"][i + 4 * j]["miou"] for j in range(3)}) == 1
    with pytest.raises(WordmaskError, match=r"2 workers and .*FILE\.py:NAME"):
        evaluate(dataclasses.replace(plan, model=TINY), tmp_path / "b", workers=2)


def test_text_rows_must_fit(folder, tiny, tmp_path):
    rows = tiny[1].contiguous()
    plan = make_plan(folder, tiny[0], text_features=tmp_path / "t.safetensors", limit=2)
    with pytest.raises(WordmaskError, match="cannot read the text features"):
        evaluate(plan, tmp_path)
    save_file({"voc20": rows}, tmp_path / "t.safetensors")
    with pytest.raises(WordmaskError, match=r"has no tensor 'folder' \(it has voc20\)"):
        evaluate(plan, tmp_path)
    save_file({"folder": rows[:3].contiguous()}, tmp_path / "t.safetensors")
    with pytest.raises(WordmaskError, match="8 classes, a row for each"):
        evaluate(plan, tmp_path)
    save_file({"folder": rows}, tmp_path / "t.safetensors")
    wants = dataclasses.replace(plan, settings=(NATIVE, "background=names:*"))
    with pytest.raises(WordmaskError, match=r"no tensor 'folder\.background'"):
        evaluate(wants, tmp_path)
    save_file({"folder": rows, "folder.background": rows[:2].clone()}, tmp_path / "t.safetensors")
    evaluate(wants, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ()}, "no method or no data set"),
        ({"methods": ("cliper", "cliper")}, "given more than once"),
        ({"methods": ("clipper",)}, "unknown method"),
        ({"datasets": ("folder", "folder")}, "given more than once"),
        ({"datasets": ("floder",)}, "unknown data set"),
        ({"protocol": "best"}, "unknown protocol"),
        ({"sweep": ("logit_scale",)}, "write option=a,b,c"),
        ({"sweep": ("logit_scale=1,,2",)}, "write option=a,b,c"),
        ({"sweep": ("logit_scla=1",)}, "did you mean logit_scale"),
        ({"corruptions": ("snow",)}, "unknown corruption"),
        (
            {"methods": ("cliper", "car")},
            "calibration for cliper, car, which give no prob",
        ),
        ({"limit": 0}, "give 1 picture or more"),
        ({"root": "/nowhere"}, "does not exist"),
    ],
)
def test_bad_plans_are_refused_before_anything_is_loaded(folder, tmp_path, changes, message):
    plan = make_plan(folder, "no-such/model", **changes)
    with pytest.raises(WordmaskError, match=message):
        evaluate(plan, tmp_path)
    assert not (tmp_path / "state").exists()


def test_a_broken_picture_is_named_and_the_rest_is_kept(folder, tiny, tmp_path):
    copied = tmp_path / "data"
    shutil.copytree(folder, copied)
    (copied / "images" / "005.png").write_bytes(b"not a picture")
    plan = make_plan(copied, tiny[0])
    with pytest.raises(WordmaskError, match=r"005\.png"):
        evaluate(plan, tmp_path / "out")
    assert _counted(tmp_path / "out") == 5
    shutil.copy(folder / "images" / "005.png", copied / "images" / "005.png")
    assert evaluate(plan, tmp_path / "out")["runs"][0]["images"] == 64


def test_a_set_without_background_words(folder, tmp_path):
    copied = tmp_path / "data"
    shutil.copytree(folder, copied)
    (copied / "names.txt").write_text("\n".join(["background", *GROUNDS[1:]]) + "\n")
    settings = (NATIVE, "templates=single")
    plan = make_plan(
        copied, TINY, protocol="official", text_features=None, settings=settings, limit=2
    )
    results = evaluate(plan, tmp_path / "a")  # CLIPer's own rule needs no words to be there
    assert [entry["background"]["kind"] for entry in results["runs"]] == ["auto", "auto"]
    assert results["runs"][0]["classes"][0]["name"] == "background"
    wants = dataclasses.replace(plan, settings=(*settings, "background=threshold:0.3:*"))
    with pytest.raises(WordmaskError, match="folder has no background words under names=plain"):
        evaluate(wants, tmp_path / "b")


def test_no_workers(folder, tiny, tmp_path):
    with pytest.raises(WordmaskError, match="give 1 or more"):
        evaluate(make_plan(folder, tiny[0]), tmp_path, workers=0)


# -- the command --------------------------------------------------------------------------------


def call(*arguments) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = command(["evaluate", *map(str, arguments)])
    return code, said.getvalue()


def test_command_on_rendered_scenes(tmp_path, capsys):
    code, said = call(
        "clip,maskclip,sclip,clearclip,cliper", "toybox", "--model", TINY, "--protocol", "untuned",
        "--set", NATIVE, "--limit", 6, "--out", tmp_path, "--offline", "--pictures", 1,
    )  # fmt: skip
    assert code == 0
    assert re.search(r"toybox: 6/6 pictures, .*mIoU clip", said)
    assert "cliper" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    by = {entry["label"]: entry["miou"] for entry in results["runs"]}
    assert by["cliper"] > 0.3 > by["clip"] > 0
    assert "## Toybox" in (tmp_path / "results.md").read_text()
    drawn = json.loads((tmp_path / "pictures" / "pictures.json").read_text())
    assert len(drawn) == 5 * 3
    for one in drawn:
        assert Image.open(tmp_path / "pictures" / one["file"]).size[0] > 300
        assert one["legend"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clipper", "toybox"], "unknown method 'clipper'"),
        (["clip", "toyboks"], "unknown data set 'toyboks'"),
        (["clip", "voc21"], "voc21 needs the folder of its files: give --root DIR"),
        (["clip", "toybox", "--protocol", "paper"], "no stated settings of clip"),
        (["clip", "toybox", "--set", "short=3"], "unknown option of clip"),
        (["clip", "toybox", "--corrupt", "snow"], "unknown corruption"),
        (["clip", "toybox", "--pictures", "-1"], "give 0 or more"),
        (["clip", "toybox", "--workers", "0"], "give 1 or more"),
        (["clip", "toybox", "--model", "/no/such/folder"], "/no/such/folder"),
        ([",", "toybox"], "no method or no data set"),
    ],
)
def test_command_refuses_in_one_line(tmp_path, arguments, message):
    code, said = call(*arguments, "--out", tmp_path, "--offline")
    assert code == 2
    assert message in said
    assert said.count("\n") == 1


# -- real photographs ----------------------------------------------------------------------------


def test_real_network_on_photographs(shared, tmp_path):
    weights = shared / "models" / "vit-tiny-in1k"
    if not weights.is_dir() or not (shared / "data" / "VOCdevkit").is_dir():
        pytest.skip("the real network or the VOC photographs are not here")
    model = CLIPVisionModelWithProjection.from_pretrained(weights).eval()
    model.vision_model.pre_layrnorm = torch.nn.Identity()  # this network has none
    half = "(0.5,0.5,0.5)"
    plan = Plan(
        methods=("clip", "maskclip", "sclip", "clearclip", "cliper"),
        datasets=("voc20",),
        root=shared / "data",
        model=model,
        protocol="untuned",
        settings=("short_side=224", f"mean={half}", f"std={half}"),
        text_features=weights / "text_features.safetensors",
        limit=2,
    )
    results = evaluate(plan, tmp_path)
    rows = load_file(weights / "text_features.safetensors")["voc20"]
    samples = benchmark("voc20").open(shared / "data")[:2]
    for entry in results["runs"]:
        segmenter = Segmenter.from_pretrained(
            model, entry["protocol"]["method"], options=_options(entry)
        )
        right = total = 0
        for sample in samples:
            truth = sample.target()
            labels = segmenter(sample.image, rows, "none").labels
            right += (labels == truth)[truth != VOID].sum()
            total += (truth != VOID).sum()
        assert entry["metrics"]["pixel_accuracy"] == pytest.approx(right / total, abs=1e-3)
        assert entry["expected"] == 1449
    assert "2 pictures of 1449: no number here compares" in markdown(results)


# -- image-level labels -------------------------------------------------------------------------


def labels_file(folder, samples, path):
    """A file with the names of the classes in each target."""
    rows = []
    for sample in samples:
        found = [GROUNDS[label - 1].upper() for label in np.unique(sample.target()) if label < VOID]
        rows.append(",".join([sample.id, *found]))
    path.write_text("\n".join(rows) + "\n")
    return path


def test_image_labels_from_targets_or_a_file_are_the_same(folder, tiny, tmp_path):
    """No class that is not in the picture gets a pixel, and numbers rise."""
    plan = make_plan(
        folder, tiny[0], methods=("maskclip", "cliper", "clip_es"), limit=5, calibration=False
    )
    free = evaluate(plan, tmp_path / "free")
    target = dataclasses.replace(plan, settings=(NATIVE, "image_labels=target"))
    known = evaluate(target, tmp_path / "target")
    samples = benchmark("folder").open(folder)[:5]
    path = labels_file(folder, samples, tmp_path / "labels.csv")
    given = dataclasses.replace(plan, settings=(NATIVE, f"image_labels={path}"))
    again = evaluate(given, tmp_path / "file")
    for one, two, three in zip(free["runs"], known["runs"], again["runs"], strict=True):
        assert two["metrics"] == three["metrics"]
        assert two["miou"] > one["miou"]
        assert two["protocol"]["settings"]["image_labels"] == "target"
        absent = [c for c in two["classes"] if not c["target"]]
        assert not any(c["prediction"] for c in absent)
    with pytest.raises(WordmaskError, match="image_labels"):
        evaluate(target, tmp_path / "free")
    path.write_text("".join(f"{sample.id},{GROUNDS[1]}\n" for sample in samples))
    with pytest.raises(WordmaskError, match="image_labels"):
        evaluate(given, tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read the image labels"),
        ("nothing,brick\n", "no row for 000"),
        ("000,brik\n", "unknown label of 000 'brik'"),
    ],
)
def test_bad_image_labels(folder, tiny, tmp_path, text, words):
    path = tmp_path / "labels.csv"
    if text is not None:
        path.write_text(text)
    plan = make_plan(folder, tiny[0], settings=(NATIVE, f"image_labels={path}"), limit=2)
    with pytest.raises(WordmaskError, match=words):
        check(plan)


def test_pseudo_masks_on_the_command_line(tmp_path, capsys):
    arguments = ["clip_es", "toybox", "--limit", "2", "--model", TINY, "--out", str(tmp_path)]
    assert command(["evaluate", *arguments, "--image-labels", "target", "--pictures", "1"]) == 0
    settings = json.loads((tmp_path / "results.json").read_text())["runs"][0]["protocol"]
    assert settings["settings"]["image_labels"] == "target"
    assert settings["source"].startswith("CLIP-ES's released code")


def test_pseudo_masks_of_voc_photographs(shared, tmp_path):
    """Real masks as the training split: labels from them, CLIP-ES and CLIPer's maps among them."""
    weights, voc = shared / "models" / "vit-tiny-in1k", shared / "data/VOCdevkit/VOC2012"
    if not weights.is_dir() or not voc.is_dir():
        pytest.skip("the real network or the VOC photographs are not here")
    model = CLIPVisionModelWithProjection.from_pretrained(weights).eval()
    model.vision_model.pre_layrnorm = torch.nn.Identity()  # this network has none
    for name in ("JPEGImages", "SegmentationClass"):
        (tmp_path / name).symlink_to(voc / name)
    split = tmp_path / "ImageSets/Segmentation/train.txt"
    split.parent.mkdir(parents=True)
    split.write_text("\n".join(sorted(p.stem for p in (voc / "SegmentationClass").iterdir())[:6]))
    rows = load_file(weights / "text_features.safetensors")["voc20"]
    save_file({"voc_train": rows}, tmp_path / "text.safetensors")
    half = "(0.5,0.5,0.5)"
    plan = Plan(
        methods=("clip", "clip_es"),
        datasets=("voc_train",),
        root=tmp_path,
        model=model,
        protocol="untuned",
        settings=("short_side=224", f"mean={half}", f"std={half}", "background=complement:1"),
        text_features=tmp_path / "text.safetensors",
    )
    free = evaluate(plan, tmp_path / "free")
    known = dataclasses.replace(plan, settings=(*plan.settings, "image_labels=target"))
    for one, two in zip(free["runs"], evaluate(known, tmp_path / "known")["runs"], strict=True):
        assert two["images"] == 6
        assert two["expected"] == 1464
        assert two["metrics"]["miou_present"] > one["metrics"]["miou_present"]
        assert not any(c["prediction"] for c in two["classes"][1:] if not c["target"])
