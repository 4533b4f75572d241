"""Reports: the papers' tables with ours beside them, plots and a page, from runs on disk."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wordmask.cli import run as command
from wordmask.errors import WordmaskError
from wordmask.evaluation import results
from wordmask.evaluation.examples import choose
from wordmask.evaluation.protocols import make_protocol
from wordmask.evaluation.published import EIGHT, TABLES, find_reported, list_commands
from wordmask.evaluation.report import page, plots, report
from wordmask.evaluation.report.runs import Result, read_runs
from wordmask.evaluation.report.tables import Grid, our_value, paper_tables, with_ours

MODEL = {
    "source": "openai/clip-vit-base-patch16",
    "weights": "0" * 24,
    "backbone": "ViT-B/16",
    "family": "OpenAI",
    "dtype": "float32",
    "device": "cpu",
}
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="plots need the extra `evaluate`"
)
BY_ID = {table.id: table for table in TABLES}


def entry(method, dataset, miou, *changes, name="official", images=1449, swept=(), **more):
    """One run as results.json holds it."""
    changes = (*changes, *swept)
    protocol = make_protocol(method, dataset, name, assignments=changes)
    keys = ("miou_union", "miou_present", "pixel_accuracy", "mean_accuracy_present",
            "mean_accuracy_all", "frequency_weighted_iou")  # fmt: skip
    made = {
        "label": " ".join([protocol.entry, *swept]),
        "swept": dict(change.split("=", 1) for change in swept),
        "dataset": dataset,
        "title": dataset,
        "condition": ["clean", 0],
        "images": images,
        "expected": 1449,
        "protocol": protocol.describe(),
        "miou": miou,
        "metrics": dict.fromkeys(keys, miou),
        "intervals": {key: [miou - 0.02, miou + 0.02] for key in keys},
        "classes": [],
        "seconds": {"encode": 0.04 + miou / 10, "decide": 0.01, "pass_shared_by": 1},
        "pictures": [],
    } | more
    found = find_reported(made, MODEL, {})
    made["published"] = [{"source": n.source, "metric": n.metric, "value": n.value} for n in found]
    return json.loads(json.dumps(made))


def save(folder, *entries, made="2026-01-01T00:00:00+00:00", model=MODEL):
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "form": results.FORM,
        "made": made,
        "versions": {"wordmask": "0", "torch": "0"},
        "machine": "a machine",
        "model": model,
        "networks": {},
        "runs": list(entries),
    }
    results.write(whole, folder)


def table_of(text: str, title: str) -> list[list[str]]:
    """Cells of the Markdown table under a title."""
    part = text.split(f"## {title}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# -- tables -------------------------------------------------------------------------------------


@needs_matplotlib
def test_our_column_stands_beside_theirs(tmp_path):
    save(tmp_path / "a", entry("clip", "voc21", 0.2), entry("clearclip", "voc20", 0.8123))
    save(tmp_path / "b", entry("cliper:official-v1", "voc21", 0.61))
    files = report(tmp_path)
    text = files["report.md"].read_text()
    rows = table_of(text, "CLIPer, Table 1")
    heads, body = rows[0], {(row[0], row[1]): row for row in rows[2:]}
    assert heads[:6] == ["method", "backbone", "voc21", "ours", "context60", "ours"]
    assert body["CLIP", "ViT-B/16"][2:4] == ["16.4", "20.0"]
    assert body["CLIPer*", "ViT-B/16"][2:4] == ["60.1", "61.0"]
    assert body["CLIPer*", "ViT-L/14"][2:4] == ["61.2", ""]  # another backbone
    assert body["CLIP", "ViT-B/16"][4:6] == ["8.4", ""]
    supplement = table_of(text, "ClearCLIP, supplement, Table 2")
    assert supplement[3][:4] == ["+ClearCLIP", "ViT-B/16", "80.9", "81.2"]
    ours = table_of(text, "Our runs, mIoU")
    assert ours[0][1:] == ["voc21 (1449)", "voc20 (1449)"]
    assert ours[2][0] == "clip, official, ViT-B/16"
    assert ours[2][1] == "20.0"
    missing = [row[0] for row in table_of(text, "Tables without a run of ours")]
    assert any(name.startswith("CLIPtrase, Table 5") for name in missing)
    assert not any(name.startswith("CLIPer, Table 1:") for name in missing)


def test_results_markdown_shows_the_difference(tmp_path):
    save(tmp_path, entry("clearclip", "voc20", 0.8123), entry("sclip", "voc21", 0.6, images=60))
    text = (tmp_path / "results.md").read_text()
    assert "| 80.9 (ClearCLIP, supplement, Table 2) | +0.3 |" in text
    assert "60 pictures of 1449: no number here compares" in text
    row = next(line for line in text.splitlines() if line.startswith("| `sclip`"))
    assert "| 59.1 (CLIPer, Table 1) | - |" in row  # no difference for a part


@pytest.mark.parametrize("partial", [False, True])
def test_incomplete_sets_enter_only_where_asked(tmp_path, partial):
    save(tmp_path, entry("clip", "voc21", 0.2, images=60))
    grids = {grid.title: grid for grid in paper_tables(read_runs(tmp_path), partial)}
    found = next((g for title, g in grids.items() if title.startswith("CLIPer, Table 1:")), None)
    if not partial:
        assert found is None
        return
    assert found is not None
    row = next(row for row in found.rows if row[0] == "CLIP" and row[1] == "ViT-B/16")
    assert row[3] == "20.0 (60 of 1449)"


def test_other_settings_and_weights_stay_out_of_the_papers_tables(tmp_path):
    save(
        tmp_path / "a",
        entry("clip", "voc21", 0.2, name="untuned"),
        entry("clip", "voc21", 0.2, "short_side=512"),
    )
    save(tmp_path / "b", entry("clip", "voc21", 0.2), model={**MODEL, "family": ""})
    assert [g.title for g in paper_tables(read_runs(tmp_path))] == ["Tables without a run of ours"]


def test_the_last_of_equal_runs_counts(tmp_path):
    save(tmp_path / "a", entry("clip", "voc21", 0.2), made="2026-01-02T00:00:00+00:00")
    save(tmp_path / "b", entry("clip", "voc21", 0.3), made="2026-01-01T00:00:00+00:00")
    (found,) = read_runs(tmp_path)
    assert found.entry["miou"] == 0.2


def test_a_mean_over_data_sets_needs_all_of_them():
    row = BY_ID["clearclip-1"].rows[0]
    column = BY_ID["clearclip-1"].columns[0]
    made = [
        Result(entry("clearclip", name, 0.1 * i, "residual=true"), MODEL, {}, None)
        for i, name in enumerate(EIGHT)
    ]
    assert our_value(row, column, made) == "35.0"
    assert our_value(row, column, made[:7]) is None


def test_other_metrics_stand_in_their_columns():
    one = entry("cliptrase", "voc21", 0.5)
    one["metrics"]["pixel_accuracy"] = 0.75
    grid = with_ours(BY_ID["cliptrase-7"], [Result(one, MODEL, {}, None)])
    assert grid is not None
    place = grid.heads.index("voc21 pixel accuracy")
    assert grid.rows[2][place : place + 2] == ["79.93", "75.0"]


# -- plots and page -----------------------------------------------------------------------------


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.cells, self.open = [], 0, []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.sources += [values[key] for key in ("src", "href") if key in values]
        self.cells += tag == "td"
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def runs(tmp_path):
    """A run of two methods with a sweep and corruptions, and a picture of it."""
    entries = [
        entry(m, "voc21", base + 0.01 * i, swept=(f"logit_scale={scale}",))
        for m, base in (("clip", 0.2), ("sclip", 0.5))
        for i, scale in enumerate((20, 40, 80))
    ]
    plain = entry("clip", "voc20", 0.4)
    entries.append(plain)
    for severity in (1, 2, 3):
        corrupted = copy.deepcopy(plain)
        corrupted |= {"condition": ["fog", severity], "miou": 0.4 - 0.1 * severity, "published": []}
        entries.append(corrupted)
    save(tmp_path / "a", *entries)
    pictures = tmp_path / "a" / "pictures"
    pictures.mkdir()
    Image.new("RGB", (30, 10), "red").save(pictures / "x.jpg")
    legend = {"name": "a & b", "colour": "#ff0000", "target": 0.5, "prediction": 0.25}
    about = {"dataset": "voc20", "label": "clip", "group": "worst", "picture": "2007<1>",
             "miou": 0.25, "file": "x.jpg", "legend": [legend]}  # fmt: skip
    (pictures / "pictures.json").write_text(json.dumps([about]))
    return tmp_path


@needs_matplotlib
def test_plots_are_drawn_and_not_blank(runs):
    files = report(runs)
    names = {name for name in files if name.endswith(".png")}
    assert names == {
        "bars-voc21.png", "time-voc21.png", "sweep-voc21-logit_scale.png", "bars-voc20.png",
        "corrupted-voc20.png",
    }  # fmt: skip
    for name in names:
        pixels = np.asarray(Image.open(files[name]).convert("RGB"))
        assert pixels.shape[1] > 500
        assert (pixels < 200).any(axis=2).mean() > 0.01
    assert "fog" in files["report.md"].read_text()


@needs_matplotlib
def test_reliability_is_drawn_where_it_was_measured(tmp_path):
    from matplotlib.figure import Figure

    one, two = entry("clip", "voc21", 0.2), entry("sclip", "voc21", 0.5)
    two["metrics"]["calibration_error"] = 0.125
    two["calibration"] = {
        "pixels": [0, 50, 900, 100_000], "confidence": [None, 0.3, 0.6, 0.9],
        "accuracy": [None, 0.2, 0.5, 0.8],
    }  # fmt: skip
    one["calibration"] = {"note": "no probabilities"}
    save(tmp_path, one, two)
    drawn = []
    for title, name, paint in plots._plots(read_runs(tmp_path)):
        if name.startswith("calibration"):
            figure = Figure()
            paint(figure)
            drawn.append((title, name, figure.axes[0]))
    ((title, name, axes),) = drawn
    assert (title, name) == ("voc21 (voc21), 1449 pictures: calibration", "calibration-voc21")
    diagonal, line = axes.lines  # of the one run that has a curve
    assert diagonal.get_xydata().tolist() == [[0, 0], [100, 100]]
    np.testing.assert_allclose(line.get_xydata(), [[60, 50], [90, 80]])  # not of 50 pixels
    assert line.get_label() == "sclip: 12.5"


@needs_matplotlib
def test_the_page_needs_nothing_beside_it(runs):
    text = report(runs)["report.html"].read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.cells > 100
    assert len(page.sources) == 6  # five plots and a picture
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not re.search(r"https?://", text)
    assert "2007&lt;1&gt;" in text
    assert "a &amp; b 50.0 / 25.0" in text
    assert "<b>worst</b>" in text


def test_markdown_cells_hold_no_bars():
    grid = Grid("t", ["a", "command", "ours"], [["x|y", "z", "1"]], "note")
    assert grid.markdown().splitlines()[2:] == [
        "| a | command | ours |", "|---|---|--:|", "| x\\|y | z | 1 |", "", "note"
    ]  # fmt: skip
    assert '<td class="ours">1</td>' in page.table(grid)


def test_best_median_and_worst_are_chosen_apart():
    pictures = [{"id": f"{i:02d}", "miou": i / 10} for i in range(9)]
    pictures.append({"id": "void", "miou": None})
    chosen = choose(pictures, 3)
    assert chosen == {
        "best": ["08", "07", "06"], "median": ["05", "04", "03"], "worst": ["02", "01", "00"]
    }  # fmt: skip
    assert choose(pictures, 1) == {"best": ["08"], "median": ["04"], "worst": ["00"]}
    for count in range(1, 6):
        few = choose(pictures[:count], 3)
        ids = [one for group in few.values() for one in group]
        assert len(ids) == len(set(ids)) <= count
        assert few["best"] == [f"{count - 1:02d}"]


def test_the_documentation_has_every_command():
    path = Path(__file__).parents[2] / "docs" / "reproducing.md"
    if not path.is_file():
        pytest.skip("docs/ is not here")
    text = path.read_text()
    for table in TABLES:
        assert f"### {table.source}\n" in text
        for line in list_commands(table):
            assert f"\n{line}\n" in text


# -- what cannot be used ------------------------------------------------------------------------


@needs_matplotlib
def test_command_and_its_errors(runs, capsys, tmp_path_factory):
    assert command(["report", str(runs)]) == 0
    assert "report.html" in capsys.readouterr().out
    empty = tmp_path_factory.mktemp("empty")
    assert command(["report", str(empty)]) == 2
    assert "make one with wordmask evaluate" in capsys.readouterr().err
    assert command(["report", str(empty / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    (empty / "results.json").write_text("{}")
    assert command(["report", str(empty)]) == 2
    said = capsys.readouterr().err
    assert "is not a results.json that this version of wordmask wrote" in said
    assert said.count("\n") == 1
    (empty / "results.json").write_text("{")
    assert command(["report", str(empty)]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_without_matplotlib(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(WordmaskError, match=r'pip install "wordmask\[evaluate\]"'):
        report(runs)
