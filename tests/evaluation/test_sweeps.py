"""Heat maps of two swept options, and radars, from runs on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wordmask.cli import run as command
from wordmask.evaluation.report.runs import Result, read_runs
from wordmask.evaluation.report.sweeps import charts, radar_values, tabulate

pytest.importorskip("matplotlib")


def result(
    dataset: str,
    method: str,
    miou: float,
    swept: dict[str, str] | None = None,
    settings: dict[str, str] | None = None,
    weights: str = "0",
) -> Result:
    entry = {
        "dataset": dataset,
        "title": dataset.upper(),
        "images": 3,
        "miou": miou,
        "swept": swept or {},
        "protocol": {"entry": method, "protocol": "official", "settings": settings or {}},
    }
    return Result(entry, {"source": f"models/{weights}", "weights": weights}, {}, Path())


def grid() -> list[Result]:
    """eps 0.5, 1 and 10 by min_samples 2 and 16, in an order of their own."""
    values = {("10", "2"): 0.3, ("0.5", "16"): 0.2, ("1", "2"): 0.5, ("0.5", "2"): 0.4}
    return [
        result("toybox", "cliptrase", miou, {"eps": eps, "min_samples": least})
        for (eps, least), miou in values.items()
    ]


def test_two_options_make_a_table():
    found = tabulate(grid(), "eps", "min_samples")
    assert found.rows == ("eps", ["0.5", "1", "10"])  # by number and not as text
    assert found.columns == ("min_samples", ["2", "16"])
    expected = [[40, 20], [50, np.nan], [30, np.nan]]
    np.testing.assert_allclose(found.values, expected)


def test_heat_maps_are_of_options_that_both_vary():
    lone = [result("toybox", "clip", 0.1, {"eps": "1", "min_samples": k}) for k in ("2", "3")]
    made = list(charts({"toybox": [*grid(), *lone]}, {}))
    assert [(chart.name, chart.title) for chart in made] == [
        ("heat-toybox-1", "TOYBOX (toybox), 3 pictures: cliptrase, eps and min_samples")
    ]


def test_a_radar_has_the_data_sets_that_most_methods_share():
    groups = {
        name: [result(name, "clip", 0.1 * i), result(name, "cliper", 0.2 * i)]
        for i, name in enumerate(("a", "b", "c"), 1)
    }
    groups["d"] = [result("d", "cliper", 0.9)]
    groups["a"].append(result("a", "clip", 0.5, {"eps": "1"}))
    names, lines = radar_values(groups)
    assert names == ["a", "b", "c"]
    assert lines == {
        "clip": pytest.approx([50, 20, 30]),  # the best of a sweep
        "cliper": pytest.approx([20, 40, 60]),
    }
    assert radar_values({name: groups[name] for name in ("a", "b")}) is None


def test_a_radar_keeps_checkpoints_apart_and_leaves_out_upper_bounds():
    groups = {
        name: [
            result(name, "clip", 0.1),
            result(name, "clip", 0.2, weights="1"),
            result(name, "clip", 0.9, settings={"image_labels": "target"}),
        ]
        for name in ("a", "b", "c")
    }
    _, lines = radar_values(groups)
    assert lines == {"clip, 0": pytest.approx([10] * 3), "clip, 1": pytest.approx([20] * 3)}


def test_a_report_of_a_sweep_has_its_heat_map(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = ["evaluate", "proxyclip", "toybox", "--limit", "2", "--model", "wordmask/tiny-clip"]
    run += ["--vfm", "wordmask/tiny-vfm", "--set", "short_side=none", "--pictures", "0"]
    run += ["--sweep", "beta=0.4,1.2", "--sweep", "gamma=1,3,9", "--out", "runs"]
    assert command(run) == 0
    assert command(["report", "runs"]) == 0
    assert len(json.loads(Path("runs/results.json").read_text())["runs"]) == 6
    drawn = Path("runs/plots/heat-toybox-1.svg").read_text()
    assert drawn.count("<image ") >= 1  # the map, and its colour bar
    assert Path("runs/plots/heat-toybox-1.pdf").read_bytes().startswith(b"%PDF")
    found = tabulate(read_runs(Path("runs")), "beta", "gamma").values
    assert found.shape == (2, 3)
    assert not np.isnan(found).any()
    assert "beta and gamma" in Path("runs/report.html").read_text()
