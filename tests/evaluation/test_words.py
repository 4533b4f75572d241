"""Class names and vocabularies of an evaluation: other lists, fewer words, more words."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest

from wordmask import Segmenter
from wordmask.datasets import VOID, benchmark
from wordmask.datasets.toyscenes import Toybox
from wordmask.errors import WordmaskError
from wordmask.evaluation.evaluator import PictureEvaluator, evaluate
from wordmask.evaluation.plan import Plan, background_words, check
from wordmask.evaluation.protocols import make_protocol
from wordmask.evaluation.report.differences import difference_table
from wordmask.evaluation.report.runs import Result, read_runs
from wordmask.evaluation.results import write
from wordmask.evaluation.summary import markdown, percent
from wordmask.evaluation.words import added_words, chosen_classes
from wordmask.metrics import Confusion
from wordmask.vocabulary import same_word

TINY = "wordmask/tiny-clip"


@dataclass(frozen=True, kw_only=True)
class TwoLists(Toybox):
    """The toybox with a second list of names, in which every class has two."""

    name: str = "two_lists"

    @cached_property
    def names(self):
        plain = benchmark("toybox").names["plain"]
        return {"plain": plain, "sclip": tuple((*names, f"big {names[0]}") for names in plain)}


def make_plan(data, **changes):
    settings = {"settings": ("short_side=none", "mean=none", "std=none", "templates=single")}
    return Plan(("clip",), (data,), model=TINY, limit=2, offline=True, **{**settings, **changes})


@pytest.fixture(scope="module")
def tiny():
    return Segmenter.from_pretrained(TINY, "clip", device="cpu", local_files_only=True)


def test_added_words_are_nested_and_no_class_of_the_set():
    voc = benchmark("voc20")
    assert added_words(voc, "plain", "all") == added_words(voc, "plain", "20") == ()
    few, many = (added_words(voc, "plain", count) for count in ("60", "847"))
    assert (len(few), len(many)) == (40, 827)
    assert many[:40] == few == added_words(voc, "plain", "+40")
    classes = [name for names in voc.names["plain"] for name in names]
    assert not any(same_word(word, name) for word in few for name in classes)
    assert not {"wall", few[0]} & set(added_words(voc, "plain", "+400", ("wall", few[0])))


def test_too_many_words_are_refused():
    with pytest.raises(
        WordmaskError, match=r"got vocabulary=60000; voc20 has 20 classes, and ther"
    ):
        added_words(benchmark("voc20"), "plain", "60000")
    with pytest.raises(WordmaskError, match=r"got vocabulary=60000; toybox has 56 classes"):
        check(make_plan("toybox", sweep=("vocabulary=5,60000",)))


@pytest.mark.parametrize("text", ["0", "-3", "+", "few", "1.5"])
def test_a_vocabulary_is_a_count(text):
    with pytest.raises(WordmaskError, match="give all, a number of words, or"):
        make_protocol("clip", "voc20", "untuned", assignments=[f"vocabulary={text}"])


def test_the_classes_of_a_picture_are_kept_and_others_drawn():
    target = np.array([[0, 3, 9], [VOID, 3, 3]], np.uint16)
    chosen = chosen_classes(target, 20, "5", "a")
    assert len(chosen) == 5
    assert {2, 8} <= set(chosen.tolist())
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, chosen_classes(target, 20, "5", "a"))
    drawn = {tuple(chosen_classes(target, 20, "5", str(i))) for i in range(5)}
    assert len(drawn) > 1
    assert chosen_classes(target, 20, "1", "a").tolist() == [2, 8]
    for all_of_them in ("all", "20", "60", "+3"):
        assert chosen_classes(target, 20, all_of_them, "a") is None


def test_kept_queries_equal_those_of_the_words_alone(tiny):
    words = [["cat", "kitten"], "dog", ["sofa", "couch"], "lamp"]
    kept = tiny.encode_text(words, ["sky", "wall"]).keep([0, 2])
    alone = tiny.encode_text([words[0], words[2]], ["sky", "wall"])
    assert kept.embeddings.equal(alone.embeddings)
    assert kept.owner.equal(alone.owner)
    assert (kept.names, kept.vocabulary) == (alone.names, alone.vocabulary)


def test_vocabularies_equal_plain_calls_with_these_words(tiny, tmp_path):
    plan = make_plan("toybox", sweep=("vocabulary=3,all,+30",), image_level=True)
    found = {run["swept"]["vocabulary"]: run for run in evaluate(plan, tmp_path)["runs"]}
    assert [found[key]["words"]["classes"] for key in ("3", "all", "+30")] == [3, 56, 86]
    samples = check(plan)["toybox"]
    names = [names[0] for names in samples.benchmark.names["plain"]]
    more = [*names, *added_words(samples.benchmark, "plain", "+30")]
    segmenter = tiny.with_method(
        "clip", None, make_protocol("clip", "toybox", "untuned", assignments=plan.settings).options
    )
    for key in found:
        confusion = Confusion(56, background=False)
        for sample in samples:
            target = sample.target()
            if key == "3":
                chosen = chosen_classes(target, 56, "3", sample.id)
                labels = segmenter(sample.image, [names[i] for i in chosen], "none").labels
                labels = (np.array([0, *(chosen + 1)], np.uint16))[labels]
            else:
                words = names if key == "all" else more
                labels = segmenter(sample.image, words, "none").labels.astype(np.uint16)
                labels[labels > 56] = 0
            confusion.update(target, labels)
        assert found[key]["miou"] == confusion.mean_iou("union")
    assert found["3"]["miou"] > found["all"]["miou"]


def test_names_run_in_one_pass_of_the_network(tmp_path, monkeypatch):
    passes = []
    encode = PictureEvaluator._encode
    monkeypatch.setattr(
        PictureEvaluator, "_encode", lambda *args: passes.append(args[1]) or encode(*args)
    )
    plan = make_plan(TwoLists, names=("released", "plain", "sclip"))
    found = evaluate(plan, tmp_path)["runs"]
    assert len(passes) == 2  # one a picture
    # the released list is the plain one here, and is run once
    assert [run["label"] for run in found] == ["clip", "clip names=sclip"]
    assert [run["words"]["names"] for run in found] == [56, 112]
    assert found[0]["miou"] != found[1]["miou"]


def test_the_plain_list_has_one_background_word():
    voc = benchmark("voc21")
    for method in ("sclip", "cliper", "proxyclip"):
        protocol = make_protocol(method, voc, assignments=["names=plain"])
        assert background_words(protocol, voc) == ("background",)
    assert background_words(make_protocol("sclip", voc), voc) != ("background",)


def test_unknown_names_are_refused():
    with pytest.raises(WordmaskError, match="unknown source of names of toybox 'harnes'"):
        check(make_plan("toybox", names=("harnes",)))


def test_results_show_plain_names_and_words(tmp_path):
    plan = make_plan(TwoLists, names=("sclip", "plain"))
    found = evaluate(plan, tmp_path)
    one, plain = found["runs"]
    assert plain["plain"] == plain["miou"] == one["plain"] != one["miou"]
    table = markdown(found)
    assert f"| {percent(one['miou'])} |" in table
    assert table.count(f"| {percent(plain['miou'])} |") == 3  # its own, and two plain columns
    assert "| 112 |" in table


def test_two_methods_have_a_paired_interval(tmp_path):
    plan = dataclasses.replace(make_plan("toybox"), methods=("clip", "maskclip", "sclip"))
    found = evaluate(plan, tmp_path)
    runs = [Result(entry, found["model"], pictures="toybox (2)") for entry in found["runs"]]
    table = difference_table("toybox (2)", runs)
    best = max(runs, key=lambda run: run.entry["miou"])
    assert [row[0] for row in table.rows] == [best.name] * 2
    for row in table.rows:
        other = next(run for run in runs if run.name == row[1])
        assert row[2] == f"{100 * (best.entry['miou'] - other.entry['miou']):+.1f}"
    assert difference_table("toybox (2)", runs[:1]) is None


def test_methods_of_two_definitions_are_compared_by_one(tmp_path):
    plan = dataclasses.replace(
        make_plan("toybox"),
        methods=("clip", "maskclip"),
        settings=("short_side=none", "clip.definition=present"),
    )
    found = evaluate(plan, tmp_path)
    runs = [Result(entry, found["model"], pictures="toybox (2)") for entry in found["runs"]]
    assert {run.entry["protocol"]["settings"]["definition"] for run in runs} == {"union", "present"}
    table = difference_table("toybox (2)", runs)
    low, high = sorted(run.entry["metrics"]["miou_union"] for run in runs)
    assert [row[2] for row in table.rows] == [f"{100 * (high - low):+.1f}"]
    assert "(union)" in table.note


def test_plain_names_stand_beside_their_own_background(tmp_path):
    plan = dataclasses.replace(
        make_plan(TwoLists),
        names=("sclip", "plain"),
        sweep=("background=none,threshold:0.9",),
    )
    found = evaluate(plan, tmp_path)["runs"]
    runs = {(run["swept"]["names"], run["swept"]["background"]): run for run in found}
    for (_, background), run in runs.items():
        assert run["plain"] == runs["plain", background]["miou"]


def test_plain_names_of_another_run_enter_the_report(tmp_path):
    for names in ("sclip", "plain"):
        found = evaluate(make_plan(TwoLists, names=(names,)), tmp_path / names)
        write(found, tmp_path / names)
    runs = {run.entry["swept"]["names"]: run for run in read_runs(tmp_path)}
    other, plain = runs["sclip"], runs["plain"]
    assert other.entry["plain"] == plain.entry["miou"] != other.entry["miou"]
