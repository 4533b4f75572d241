"""Which pictures of a run are drawn."""

from __future__ import annotations

import json

from wordmask.cli import run as command
from wordmask.evaluation.examples import choose, choose_same


def pictures(*mious):
    return [{"id": f"{i}", "miou": miou} for i, miou in enumerate(mious)]


def test_the_same_pictures_are_chosen_by_the_mean():
    one = {"pictures": pictures(0.9, 0.1, 0.5, 0.6, 0.2)}
    other = {"pictures": pictures(0.1, 0.8, 0.5, 0.9, None)}
    # means: 0.5, 0.45, 0.5, 0.75; the last has no mIoU under the other
    assert choose_same([one, other], 1) == {"best": ["3"], "median": ["0"], "worst": ["1"]}
    assert choose_same([one], 1) == choose(one["pictures"], 1)


def test_evaluate_draws_the_same_pictures_for_all_methods(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = ["evaluate", "clip,cliper", "toybox", "--limit", "5", "--model", "wordmask/tiny-clip"]
    run += ["--set", "short_side=none", "--pictures", "1"]
    chosen = {}
    for which in ("each", "same"):
        assert command([*run, "--examples", which, "--out", which]) == 0
        listed = json.loads((tmp_path / which / "pictures" / "pictures.json").read_text())
        by_method = {}
        for one in listed:
            by_method.setdefault(one["label"], []).append((one["group"], one["picture"]))
        chosen[which] = by_method
    assert chosen["same"]["clip"] == chosen["same"]["cliper"]
    assert chosen["each"]["clip"] != chosen["each"]["cliper"]
    capsys.readouterr()
    assert command([*run, "--examples", "some", "--out", "x"]) == 2
    assert "give each or same" in capsys.readouterr().err
