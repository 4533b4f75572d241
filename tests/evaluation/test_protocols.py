"""Protocols: released settings as they are documented, changes by hand, and the papers' tables."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean

import pytest

from wordmask.cli import run
from wordmask.datasets import BENCHMARKS, benchmark
from wordmask.errors import WordmaskError
from wordmask.evaluation.plan import background_words
from wordmask.evaluation.protocols import Entry, make_protocol, read_background, write
from wordmask.evaluation.published import (
    NETWORKS,
    TABLES,
    RunState,
    find_reported,
    list_commands,
    read_tables,
)
from wordmask.evaluation.published.tables import MODELS
from wordmask.methods import METHODS
from wordmask.towers.auxiliary import KINDS as NETWORK_KINDS
from wordmask.vocabulary import Background, Vocabulary

SETS = [name for name in BENCHMARKS if name != "folder"]
KINDS = ("none", "names", "threshold", "complement", "auto", "negatives")
BY_ID = {table.id: table for table in TABLES}


@pytest.mark.parametrize(
    ("entry", "dataset", "backbone", "settings"),
    [
        (
            "cliper",
            "voc21",
            "ViT-B/16",
            {"logit_scale": 100, "select_layer": -1, "attention_threshold": 0.1, "normalize": True,
             "score_threshold": 0.7, "background": "threshold:0.6:*", "templates": "cliper",
             "short_side": 336, "window": 0, "definition": "present", "names": "cliper"},
        ),
        (
            "cliper",
            "cityscapes",
            "ViT-B/16",
            {"short_side": 560, "view": "halves", "templates": "openai"},
        ),
        (
            "cliper",
            "cityscapes",
            "ViT-L/14",
            {"short_side": 448, "view": "halves", "templates": "cliper"},
        ),
        (
            "cliper",
            "voc20",
            "ViT-L/14",
            {"logit_scale": 70, "score_threshold": 0.1, "background": "threshold:0.0001:*"},
        ),
        (
            "cliper:official-v1",
            "voc21",
            "ViT-L/14",
            {"background": "complement:2:*", "attention_threshold": 0.2, "normalize": True},
        ),
        ("cliper:official-v1", "voc21", "ViT-B/16", {"normalize": False}),
        (
            "sclip",
            "voc21",
            "ViT-B/16",
            {"logit_scale": 65, "area_threshold": 0.1, "short_side": 336, "window": 224,
             "stride": 112, "background": "threshold:0.1:*", "resample": "cv2-bilinear"},
        ),
        ("sclip", "coco_stuff", "ViT-B/16", {"short_side": 448, "logit_scale": 40}),
        ("sclip", "coco_stuff10k", "ViT-B/16", {"short_side": 336}),
        (
            "clearclip",
            "cityscapes",
            "ViT-B/16",
            {"short_side": 448, "window": 224, "stride": 224, "logit_scale": 50,
             "background": "none"},
        ),
        ("clearclip", "coco_object", "ViT-B/16", {"background": "threshold:0.4:*"}),
        ("sclip", "coco_object", "ViT-B/16", {"background": "threshold:0.1:**"}),
        ("naclip", "coco_object", "ViT-B/16", {"background": "threshold:0.1:**"}),
        ("proxyclip", "coco_object", "ViT-B/16", {"background": "threshold:0.25:**"}),
        ("gem", "voc21", "ViT-B/16", {"min_max": True, "background": "threshold:0.85"}),
        ("gem", "voc20", "ViT-B/16", {"min_max": True, "background": "none"}),
        ("gem:clearclip", "voc20", "ViT-B/16", {"min_max": False, "stream": False}),
        ("car", "voc21", "ViT-B/16", {"confidence": 0.6, "background": "complement:2:*"}),
        ("car", "voc20", "ViT-B/16", {"confidence": 0.6, "background": "none"}),
        ("car", "context59", "ViT-B/16", {"confidence": 0.25, "background": "none"}),
        (
            "car",
            "coco_stuff",
            "ViT-B/16",
            {"prompts": ("blur", "gray"), "confidence": 0.25, "background": "none"},
        ),
        (
            "proxyclip",
            "ade150",
            "ViT-B/16",
            {"short_side": 448, "window": 336, "stride": 112, "remainder": "pad"},
        ),
        ("naclip", "voc21", "ViT-B/16", {"window": 0, "refine": "pamr", "pamr.steps": 10}),
        ("naclip", "context60", "ViT-B/16", {"window": 224, "pamr.at": "picture"}),
        (
            "resclip",
            "cityscapes",
            "ViT-B/16",
            {"short_side": 560, "window": 224, "rcs_share": 0.2, "sfr_scale": 2.1,
             "label_threshold": 0.1, "labels": "texts", "background": "none"},
        ),
        ("resclip", "voc21", "ViT-B/16", {"window": 0, "label_threshold": 0.5, "refine": "none"}),
        ("naclip+none", "voc21", "ViT-B/16", {"window": 0, "refine": "none"}),
        ("pearl", "voc21", "ViT-B/16", {"coupling": "diagonal", "key_weight": 0.08, "grid": 80}),
        ("pearl", "ade150", "ViT-B/16", {"key_weight": 0.3, "grid": 80}),
        ("pearl", "cityscapes", "ViT-B/16", {"key_weight": 0.3, "grid": 224}),
        (
            "clearclip+freecp",
            "voc21",
            "ViT-B/16",
            {"freecp.redundancy": 0.15, "freecp.ambiguity": 0.8, "freecp.full_boxes": False},
        ),
        (
            "sclip+freecp:purge+pamr",
            "ade150",
            "ViT-B/16",
            {"freecp.redundancy": 0.05, "freecp.maps": "method"},
        ),
        ("resclip+ptc", "voc21", "ViT-B/16", {"ptc.patches": 100, "ptc.momentum": 0.3}),
        ("resclip+ptc", "voc20", "ViT-B/16", {"ptc.patches": 40, "ptc.momentum": 0.1}),
        (
            "cliptrase",
            "voc21",
            "ViT-B/16",
            {"view": "crop:336", "void": "background", "eps": 1.1, "background": "names:*"},
        ),
        ("cliptrase", "context59", "ViT-B/16", {"void": "ignore", "background": "none"}),
        ("cliper+diffusion", "context60", "ViT-L/14", {"diffusion.threshold": 0.2}),
        ("cliper+diffusion", "cityscapes", "ViT-B/16", {"diffusion.threshold": 0.35}),
        ("cliper:official-v1+diffusion", "context60", "ViT-L/14", {"diffusion.threshold": 0.1}),
    ],
)  # fmt: skip
def test_official_settings_are_the_released_ones(entry, dataset, backbone, settings):
    found = make_protocol(entry, dataset, "official", backbone).settings()
    assert {key: found[key] for key in settings} == settings


def test_untuned_is_one_setting_for_all():
    shared = None
    for method in METHODS:
        for dataset in SETS:
            protocol = make_protocol(method, dataset, "untuned")
            fixed = {k: v for k, v in protocol.settings().items() if protocol.origins.get(k)}
            fixed.pop("background", None)
            shared = shared or fixed
            assert fixed == shared
            assert protocol.refine == ()
            wanted = "auto" if benchmark(dataset).has_background else "none"
            assert protocol.background == wanted
    assert shared is not None
    assert shared["short_side"] == 336


@pytest.mark.parametrize("name", ["official", "paper"])
def test_every_known_combination_is_a_protocol(name):
    made = 0
    for method in METHODS:
        for dataset in SETS:
            try:
                protocol = make_protocol(method, dataset, name)
            except WordmaskError:
                assert name == "paper"
                continue
            made += 1
            assert protocol.source
            assert json.loads(json.dumps(protocol.describe()))["dataset"] == dataset
            assert protocol.names in benchmark(dataset).names
            words = benchmark(dataset).background_words.get(protocol.names, ())
            assert words or "*" not in protocol.background or not benchmark(dataset).has_background
            assert protocol.strategy(words).kind in KINDS
    assert made >= 4 * len(SETS)


def test_changes_by_hand():
    protocol = make_protocol(
        "sclip+pamr",
        "voc21",
        assignments=[
            "short_side=448",
            "background=threshold:0.3:*",
            "names=plain",
            "pamr.steps=3",
            "cliper.short_side=224",  # of another method of the run
            "sclip.logit_scale=70",
        ],
    )
    settings = protocol.settings()
    assert settings["short_side"] == 448
    assert settings["logit_scale"] == 70
    assert settings["pamr.steps"] == 3
    assert settings["names"] == "plain"
    assert protocol.entry == "sclip+pamr"
    assert protocol.changes.keys() == {
        "short_side", "background", "names", "pamr.steps", "logit_scale"
    }  # fmt: skip
    assert protocol.origins["area_threshold"] == "released"
    assert "residual" not in protocol.origins
    assert protocol.strategy(["sky", "wall"]).distractors == ("sky", "wall")


def test_names_fall_back_to_plain_but_not_by_hand():
    assert make_protocol("sclip", "camvid").names == "plain"
    with pytest.raises(WordmaskError, match="source of names of camvid"):
        make_protocol("sclip", "camvid", assignments=["names=sclip"])


@pytest.mark.parametrize(
    ("entry", "settings", "message"),
    [
        ("slcip", [], "unknown method 'slcip'; did you mean sclip"),
        ("sclip:official", [], "unknown variant of sclip"),
        ("sclip+pmar", [], "unknown refiner 'pmar'; did you mean pamr"),
        ("sclip+", [], r"write METHOD\[:VARIANT\]"),
        ("sclip", ["shortside=3"], "did you mean short_side"),
        ("sclip", ["short_side=wide"], "expected int or none"),
        ("sclip", ["short_side"], "write option=value"),
        ("sclip", ["view=crop:0"], "give original, halves or crop:N"),
        ("sclip", ["void=black"], "unknown void"),
        ("sclip", ["definition=all"], "unknown definition"),
        ("sclip", ["background=treshold:0.3"], "did you mean threshold"),
        ("sclip", ["background=threshold:*"], "number"),
        ("sclip", ["background=names:*;sky"], "stands alone"),
        ("sclip", ["pamr.steps=3"], "pamr is not among the refiners"),
        ("sclip+pamr", ["pamr.stepps=3"], "did you mean steps"),
        ("sclip", ["short_side=3", "sclip.short_side=4"], "more than once"),
        ("sclip", ["other.thing=3"], "unknown refiner 'other'"),
    ],
)
def test_bad_entries_and_changes(entry, settings, message):
    with pytest.raises(WordmaskError, match=message):
        make_protocol(entry, "voc21", assignments=settings)


def test_a_method_without_settings_says_whose_are_known():
    with pytest.raises(WordmaskError, match=r"known .they are for .*cliper.* untuned and --set"):
        make_protocol("naclip", "voc21", "paper")


def test_void_as_background_needs_a_background():
    with pytest.raises(WordmaskError, match="voc20 has no background"):
        make_protocol("sclip", "voc20", assignments=["void=background"])


def test_unknown_protocol_and_data_set():
    with pytest.raises(WordmaskError, match="did you mean official"):
        make_protocol("sclip", "voc21", "offical")
    with pytest.raises(WordmaskError, match="did you mean voc2"):
        make_protocol("sclip", "voc22")


@pytest.fixture
def unpublished(monkeypatch):
    """A method that no paper's settings name."""

    @dataclass(frozen=True)
    class Unpublished(METHODS["clearclip"]):
        """ClearCLIP under another name."""

        name = "unpublished"

    monkeypatch.setitem(METHODS._known, "unpublished", Unpublished)


@pytest.mark.parametrize("name", ["official", "paper"])
def test_a_method_of_no_paper_runs_untuned(name, unpublished):
    made = make_protocol("unpublished", "voc21", name, assignments=["short_side=448"])
    plain = make_protocol("unpublished", "voc21", "untuned", assignments=["short_side=448"])
    note = "No released settings of unpublished are known; the untuned protocol is used."
    assert made.notes == (note,)
    assert plain.notes == ()
    assert made == replace(plain, notes=made.notes)
    assert (made.name, made.origins["window"], made.settings()["short_side"]) == (
        "untuned", "fixed", 448
    )  # fmt: skip
    assert make_protocol("unpublished+pamr", "voc21", name).entry == "unpublished+pamr"


@pytest.mark.parametrize("method", ["sclip", "naclip", "proxyclip"])
def test_a_word_of_both_lists_is_kept_where_the_released_code_keeps_it(method):
    objects = benchmark("coco_object")
    for name, kept in (("official", True), ("untuned", False)):
        changes = [] if name == "official" else ["names=sclip", "background=names:*"]
        protocol = make_protocol(method, objects, name, assignments=changes)
        strategy = protocol.strategy(background_words(protocol, objects))
        assert ("bed" in strategy.distractors) == strategy.overlap == kept
        strategy.check(Vocabulary(objects.names[protocol.names]))


def test_missing_settings_are_said():
    notes = make_protocol("cliper", "camvid").notes
    assert any("No settings are known for camvid" in note for note in notes)
    notes = make_protocol("cliper", "voc21", backbone="ViT-H/14").notes
    assert any("No settings are known for ViT-H/14" in note for note in notes)


def test_backgrounds_are_written_as_on_the_command_line():
    assert read_background("none", ["sky"]).kind == "none"
    assert read_background("names:*", ["sky"]).distractors == ("sky",)
    assert read_background("complement:2:*", ["sky"]).power == 2
    assert read_background("threshold:0.25", ["sky"]).distractors == ()
    both = read_background("threshold:0.25:**", ["sky", "bed"])
    assert (both.probability, both.distractors, both.overlap) == (0.25, ("sky", "bed"), True)
    assert read_background("names:**", ["bed"]) == Background("names", ("bed",), overlap=True)
    assert read_background("names:a;b", ["sky"]).distractors == ("a", "b")


def test_entries_read_what_they_write():
    for text in ("cliper", "cliper:official-v1", "cliper:official-v1+diffusion+pamr"):
        made = make_protocol(text, "voc21")
        assert made.entry == text
        assert Entry.parse(text) == Entry.split(text)
    assert [write(x) for x in (True, None, 0.1, 100.0, "a")] == ["true", "none", "0.1", "100", "a"]


def test_command_prints_table_and_json(capsys):
    assert run(["protocol", "cliper", "voc21", "--set", "short_side=448"]) == 0
    printed = capsys.readouterr().out
    assert "threshold:0.6:*" in printed
    assert "pil-bicubic (antialiased)" in printed
    assert any(line.split()[:3] == ["short_side", "448", "--set"] for line in printed.splitlines())
    assert run(["protocol", "cliper", "voc21", "--json", "--protocol", "untuned"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["short_side"] == 336
    assert run(["protocol", "cliper", "voc22"]) == 2
    assert "did you mean" in capsys.readouterr().err


# -- the papers' tables -------------------------------------------------------------------------


def test_every_row_of_every_table_can_be_run():
    made = set()
    for table in TABLES:
        for setting in {one for row in table.rows for one in row.settings}:
            for dataset in {column.dataset for column in table.columns} & set(BENCHMARKS):
                for changes in setting.runs(dataset):
                    settings = tuple(f"{k}={v}" for k, v in changes.items() if k not in NETWORKS)
                    made.add((setting.entry, dataset, settings))
    for entry, dataset, settings in made:
        make_protocol(entry, dataset, assignments=settings)
    assert len(made) > 100


TABLE = """# a comment
[one]
source: A paper, Table 1
title: Some numbers
columns: voc21 mean_of_8
metrics: miou pixel_accuracy
note: First,
note: second.

Ours | sclip+pamr window=0 bg.background=none pamr.steps=3 or clip | ViT-B/16 | 1.5 2 - 3
Theirs | - | ViT-S/16 | 4 5 6 100
"""


def test_tables_are_read_from_text(tmp_path):
    path = tmp_path / "paper.txt"
    path.write_text(TABLE + TABLE.replace("[one]", "[two]"))
    one, two = read_tables([path])
    assert (one.id, one.source, one.title) == ("one", "A paper, Table 1", "Some numbers")
    assert one.note == "First, second."
    assert [(c.dataset, c.metric) for c in one.columns] == [
        ("voc21", "miou"), ("voc21", "pixel_accuracy"),
        ("mean_of_8", "miou"), ("mean_of_8", "pixel_accuracy"),
    ]  # fmt: skip
    ours, theirs = one.rows
    assert ours.values == (1.5, 2, None, 3)
    assert [setting.entry for setting in ours.settings] == ["sclip+pamr", "clip"]
    assert ours.settings[0].on("voc20") == {"window": "0", "pamr.steps": "3"}
    assert ours.settings[0].on("voc21") == {"window": "0", "background": "none", "pamr.steps": "3"}
    assert theirs.settings == ()
    assert replace(two, id="one") == one


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("[one]", "one", 2, "a table starts with [id]"),
        ("source: A paper, Table 1\n", "", 2, "the table 'one' has no source"),
        ("title: Some", "title: Some\ntitle: More", 5, "got another 'title'"),
        ("voc21 mean", "voc22 mean", 5, "unknown data set 'voc22'; did you mean voc2"),
        ("miou pixel", "muoi pixel", 6, "unknown metric 'muoi'; did you mean miou"),
        ("sclip+pamr", "slcip+pamr", 10, "unknown method 'slcip'; did you mean sclip"),
        ("sclip+pamr", "sclip:v2+pamr", 10, "unknown variant of sclip 'v2'"),
        ("sclip+pamr", "sclip+pmar", 10, "unknown refiner 'pmar'; did you mean pamr"),
        ("window=0", "windoww=0", 10, "unknown option of sclip 'windoww'; did you mean window"),
        ("window=0", "window=wide", 10, "option 'window' got 'wide'; expected int"),
        ("window=0", "window", 10, "got 'window' as a change; write option=value"),
        ("pamr.steps", "pamr.stepps", 10, "unknown option of pamr 'stepps'"),
        (
            "bg.background",
            "voc12.background",
            10,
            "unknown data set or refiner of sclip+pamr",
        ),
        ("| ViT-B/16", "| ViT-S/16", 10, "unknown backbone 'ViT-S/16'"),
        ("| ViT-S/16", "| ViT-Z/16", 11, "unknown backbone 'ViT-Z/16'; did you mean"),
        ("1.5 2 - 3", "1.5 2 -", 10, "Ours has 3 values for 4 columns"),
        ("4 5 6 100", "4 5 6 100.1", 11, "got '100.1' for mean_of_8; give percent, from 0 to 100"),
        ("4 5 6 100", "4 -5 6 1", 11, "got '-5' for voc21"),
        ("4 5 6 100", "4 x 6 1", 11, "got 'x' for voc21"),
        ("Theirs | - |", "Theirs |", 11, "write label | settings | backbone | values"),
        ("4 5 6 100", "4 5 6 100 | names", 11, "or these and | words | supervision"),
        (
            "4 5 6 100",
            "4 5 6 100 | names | mask",
            11,
            "unknown supervision 'mask'; did you mean masks",
        ),
        ("Theirs", "[one]\nTheirs", 11, "there are two tables 'one'; rename one"),
        ("Theirs", "[two]\nTheirs", 12, "got a row and no columns"),
        ("4 5 6 100", "4 5 6 100\n[two]\nsource: a\ntitle: b\ncolumns: voc21", 12, "has no rows"),
    ],
)
def test_tables_that_do_not_fit_name_file_and_line(tmp_path, old, new, line, message):
    path = tmp_path / "paper.txt"
    path.write_text(TABLE.replace(old, new, 1))
    with pytest.raises(WordmaskError) as caught:
        read_tables([path])
    said = str(caught.value)
    assert said.startswith(f"paper.txt:{line}: ")
    assert message in said
    assert "\n" not in said


def test_tables_agree_with_the_averages_that_the_papers_print():
    printed = {
        "cliptrase-6": [
            (22.92, 21.77, 14.66, 11.17),
            (49.83, 49.59, 39.48, 30.76),
            (52.95, 52.79, 42.25, 32.66),
        ],
        "cliptrase-7": [
            (22.87, 21.49, 14.64, 11.04),
            (50.49, 48.97, 40.21, 31.51),
            (53.93, 52.78, 43.22, 33.54),
        ],
    }
    for name, averages in printed.items():
        for row, expected in zip(BY_ID[name].rows, averages, strict=True):
            for metric in range(4):
                assert mean(row.values[metric::4]) == pytest.approx(expected[metric], abs=0.0051)
    for row, expected in zip(BY_ID["proxyclip-3"].rows, (26.1, 38.2, 38.2, 42.3), strict=True):
        assert mean(row.values) == pytest.approx(expected, abs=0.051)
    plain = (12.6, 11.4, 13.8, 11.0, 28.0, 35.2, 37.2, 5.4, 7.2, 11.4, 8.0, 13.7, 23.6, 31.7)
    ours = (37.5, 32.7, 37.9, 36.4, None, None, 37.8, 34.5, 22.4, 31.0, 34.2, 29.1, 34.7, 33.8)
    rows = BY_ID["clearclip-2"].rows
    for row, expected in zip(rows[::2], plain, strict=True):
        assert mean(row.values) == pytest.approx(expected, abs=0.06)
    for row, expected in zip(rows[1::2], ours, strict=True):  # two do not follow, see its note
        if expected is not None:
            assert mean(row.values) == pytest.approx(expected, abs=0.06)


def published(entry, dataset, *changes, name="official", backbone="ViT-B/16", networks=None):
    protocol = make_protocol(entry, dataset, name, backbone, changes)
    run = {"dataset": dataset, "protocol": protocol.describe()}
    model = {"source": MODELS[backbone], "backbone": backbone}
    known = {kind: one.source for kind, one in NETWORK_KINDS.items()} | (networks or {})
    return [(n.source, n.metric, n.value) for n in find_reported(RunState(run, model, known))]


def test_published_numbers_are_those_of_the_same_setting():
    assert published("clearclip", "voc20")[0] == ("ClearCLIP, supplement, Table 2", "miou", 80.9)
    assert ("CLIPer, Table 1", "miou", 60.1) in published("cliper:official-v1", "voc21")
    assert published("cliper", "voc21", name="paper") == []
    assert [n[2] for n in published("cliper", "voc21")] == [60.7]  # the second generation
    assert ("NACLIP, main results", "miou", 64.07) in published("naclip", "voc21")
    assert published("naclip+none", "voc21") == []
    assert published("clearclip", "voc20", name="untuned") == []
    assert published("clearclip", "voc20", "short_side=336") == []
    large = "ViT-L/14"
    entry = "cliper:official-v1+diffusion"
    short = published(entry, "voc21", "short_side=224", backbone=large)
    assert short == [("CLIPer, Table 11", "miou", 68.3)]
    windows = published("cliper", "voc21", "window=336", "stride=112", backbone=large)
    assert windows == [("CLIPer, Table 12", "miou", 64.0)]
    assert published("cliper", "voc21", "window=224", "stride=112", backbone=large) == []
    crop = published("cliptrase", "voc21")
    assert ("CLIPtrase, Table 7", "pixel_accuracy", 79.93) in crop
    vfm = {"vfm": "facebook/dino-vitb16"}
    alone = published("cliper:official-v1+vfm", "voc21", backbone=large, networks=vfm)
    assert alone == [("CLIPer, Table 9", "miou", 66.1)]


def test_commands_are_ones_that_can_be_given():
    for table in TABLES:
        for line in list_commands(table):
            words = shlex.split(line)
            if words[1] == "bench":
                continue
            assert words[:2] == ["wordmask", "evaluate"]
            settings = [b for a, b in pairwise(words) if a == "--set"]
            for entry in words[2].split(","):
                make_protocol(entry, words[3].split(",")[0], assignments=settings)
    assert any("voc21" in x and "window=336" in x for x in list_commands(BY_ID["cliper-12"]))
    assert all("--image-level" in x for x in list_commands(BY_ID["cliper-2"]))
