"""Reports: the papers' tables with ours beside them, plots and a page, from runs on disk."""

from __future__ import annotations

import copy
import csv
import importlib.util
import json
import re
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from wordmask.cli import run as command
from wordmask.datasets import BENCHMARKS
from wordmask.errors import WordmaskError
from wordmask.evaluation import results
from wordmask.evaluation.examples import choose
from wordmask.evaluation.protocols import make_protocol
from wordmask.evaluation.published import EIGHT, TABLES, RunState, list_commands
from wordmask.evaluation.report import page, plots, report
from wordmask.evaluation.report.costs import read_costs
from wordmask.evaluation.report.grid import Grid, escape_latex
from wordmask.evaluation.report.runs import Result, read_runs
from wordmask.evaluation.report.tables import our_value, own_tables, paper_tables, with_ours
from wordmask.towers.auxiliary import KINDS

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


def entry(method, dataset, miou, *changes, name="official", images=None, swept=(),
          backbone="ViT-B/16", **more):  # fmt: skip
    """One run as results.json holds it."""
    changes = (*changes, *swept)
    protocol = make_protocol(method, dataset, name, backbone, changes)
    expected = BENCHMARKS[dataset].expected
    keys = ("miou_union", "miou_present", "pixel_accuracy", "mean_accuracy_present",
            "mean_accuracy_all", "frequency_weighted_iou")  # fmt: skip
    made = {
        "label": " ".join([protocol.entry, *swept]),
        "swept": dict(change.split("=", 1) for change in swept),
        "dataset": dataset,
        "title": dataset,
        "condition": ["clean", 0],
        "images": expected if images is None else images,
        "expected": expected,
        "protocol": protocol.describe(),
        "miou": miou,
        "metrics": dict.fromkeys(keys, miou),
        "intervals": {key: [miou - 0.02, miou + 0.02] for key in keys},
        "classes": [],
        "seconds": {"encode": 0.04 + miou / 10, "decide": 0.01, "pass_shared_by": 1},
        "pictures": [],
    } | more
    kinds = {k: one.source for k, one in KINDS.items()}
    made["networks"] = {k: {"source": source, "weights": "0"} for k, source in kinds.items()}
    made |= results.published(RunState(made, MODEL, kinds))
    return json.loads(json.dumps(made))


def save(folder, *entries, made="2026-01-01T00:00:00+00:00", model=MODEL, plan=None):
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "form": results.FORM,
        "made": made,
        "plan": plan or {},
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


@needs_matplotlib
def test_words_and_supervision_stand_beside_numbers_of_newer_methods(tmp_path):
    save(tmp_path / "a", entry("sc_clip", "voc21", 0.6), entry("clearclip", "voc20", 0.8))
    said = (tmp_path / "a" / "results.md").read_text()
    number = (
        "64.6 (Papers of newer methods; words: extended names, background names; supervision: none)"
    )
    assert f"| {number} | -4.6 |" in said
    assert "none of these numbers was reproduced" in said
    assert "| 80.9 (ClearCLIP, supplement, Table 2) | -0.9 |" in said
    text = report(tmp_path)["report.md"].read_text()
    table = table_of(text, "Papers of newer methods")
    assert table[0][:6] == ["method", "backbone", "words used", "supervision", "voc21", "ours"]
    body = {(row[0], row[1]): row[2:6] for row in table[2:]}
    assert body["SC-CLIP", "ViT-B/16"] == [
        "extended names, background names",
        "none",
        "64.6",
        "60.0",
    ]
    corrclip = body["CorrCLIP (DINO, SAM2)", "ViT-B/16"]
    assert corrclip == ["background names", "masks (SAM2)", "72.2", ""]
    assert "None of these figures was reproduced here" in text
    metrics = table_of(text, "All metrics: voc21 (1449)")
    beside = dict(zip(metrics[0], metrics[2], strict=True))
    assert beside["published"] == "64.6"
    assert beside["words of the published"] == "extended names, background names"
    assert beside["its supervision"] == "none"
    assert "its supervision" not in table_of(text, "All metrics: voc20 (1449)")[0]


def test_results_markdown_shows_the_difference(tmp_path):
    save(tmp_path, entry("clearclip", "voc20", 0.8123), entry("sclip", "voc21", 0.6, images=60))
    text = (tmp_path / "results.md").read_text()
    assert "| 80.9 (ClearCLIP, supplement, Table 2) | +0.3 |" in text
    assert "60 pictures of 1449: no number here compares" in text
    row = next(line for line in text.splitlines() if line.startswith("| `sclip`"))
    assert "| 60.0 | 58.0 to 62.0 | - | - |" in row  # no number beside a part of the set
    said = (
        "- sclip, voc21: 59.1 (CLIPer, Table 1, SCLIP) is of another setting: 60 of 1449 pictures."
    )
    assert said in text.splitlines()


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
    other = {**MODEL, "source": "my_clip.py:build", "weights": "1" * 24}
    save(tmp_path / "b", entry("clip", "voc21", 0.2), model=other)
    near, commands = paper_tables(read_runs(tmp_path))
    assert commands.title == "Tables without a run of ours"
    assert [row[0] for row in near.rows] == [
        "clip, official, ViT-B/16, clip-vit-base-patch16, short_side=512",
        "clip, official, ViT-B/16, my_clip.py:build",
    ]
    assert [row[3:] for row in near.rows] == [
        ["16.4", "CLIPer, Table 1: CLIP", "short_side 512 (the row: 448)"],
        ["16.4", "CLIPer, Table 1: CLIP",
         "CLIP my_clip.py:build (the row: openai/clip-vit-base-patch16)"],
    ]  # fmt: skip


def test_the_last_of_equal_runs_counts(tmp_path):
    save(tmp_path / "a", entry("clip", "voc21", 0.2), made="2026-01-02T00:00:00+00:00")
    save(tmp_path / "b", entry("clip", "voc21", 0.3), made="2026-01-01T00:00:00+00:00")
    (found,) = read_runs(tmp_path)
    assert found.entry["miou"] == 0.2


def test_runs_that_differ_in_one_thing_all_appear(tmp_path):
    """Checkpoints of one shape, auxiliary models, settings by hand: none takes another's place."""
    save(tmp_path / "a", entry("clip", "voc21", 0.1), entry("clip", "voc21", 0.2, "short_side=512"))
    laion = {**MODEL, "source": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "weights": "1" * 24}
    save(tmp_path / "b", entry("clip", "voc21", 0.3), model=laion)
    for i, vfm in enumerate(("facebook/dino-vitb8", "facebook/vit-mae-base")):
        one = entry("proxyclip", "voc21", 0.4 + i / 10)
        one["networks"] = {"vfm": {"source": vfm, "weights": str(i)}}
        save(tmp_path / f"c{i}", one)
    found = read_runs(tmp_path)
    names = {run.name: run.entry["miou"] for run in found}
    assert sorted(names.values()) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert names["clip, official, ViT-B/16, CLIP-ViT-B-16-laion2B-s34B-b88K"] == 0.3
    assert names["proxyclip:official, official, ViT-B/16, vfm vit-mae-base"] == 0.5
    (ours, *_) = own_tables(found)
    assert len(ours.rows) == 5
    paper = {grid.title: grid for grid in paper_tables(found)}["CLIPer, Table 1: "
        "Open-vocabulary segmentation, mIoU"]  # fmt: skip
    rows = {(row[0], row[1]): row[3] for row in paper.rows}
    assert rows["ProxyCLIP", "ViT-B/16"] == "40.0"  # DINO's, not MAE's
    assert rows["CLIP", "ViT-B/16"] == "10.0"


def test_two_data_sets_of_one_name_and_size_both_appear(tmp_path):
    """Two folders of 60 pictures each, called the same: the first was taken for a repetition."""
    for i, place in enumerate(("data/birds", "data/boats")):
        one = entry("clip", "toybox", (2 + i) / 10, name="untuned", images=60, expected=None)
        one |= {"dataset": "folder", "pictures": [{"id": "000", "miou": 0.5}]}
        save(tmp_path / str(i), one, plan={"root": place, "datasets": ["folder"]})
    found = read_runs(tmp_path)
    assert [run.entry["miou"] for run in found] == [0.2, 0.3]
    (ours, *_) = own_tables(found)
    assert ours.heads[1:] == ["folder (60, data/birds)", "folder (60, data/boats)"]
    assert ours.rows[0][1:] == ["20.0", "30.0"]
    drawn = [(name, title) for title, name, _ in plots._plots(found)]
    assert drawn == [
        ("bars-folder", "toybox (folder), 60 pictures, data/birds"),
        ("bars-folder-2", "toybox (folder), 60 pictures, data/boats"),
    ]


def test_the_best_of_a_sweep_enters_its_row():
    row = BY_ID["cliper-7"].rows[0]
    column = BY_ID["cliper-7"].columns[0]
    model = {**MODEL, "source": "openai/clip-vit-large-patch14", "backbone": "ViT-L/14"}
    heads = [
        Result(
            entry("cliper:official-v1+diffusion", "voc21", 0.5 + (0.01 * head if head < 7 else 0),
                  "diffusion.fusion=single", swept=(f"diffusion.head={head}",),
                  backbone="ViT-L/14"),
            model,
            {"diffusion": KINDS["diffusion"].source},
        )
        for head in range(10)
    ]  # fmt: skip
    assert our_value(row, column, heads) == "56.0"
    assert our_value(row, column, heads[1:]) is None  # one head is missing


def test_a_number_outside_its_interval_says_why(tmp_path):
    one = entry("clip", "voc21", 0.2)
    one["intervals"] = {key: [0.21, 0.25] for key in one["intervals"]}
    save(tmp_path, one, entry("sclip", "voc21", 0.5))
    found = read_runs(tmp_path)
    table = {grid.title: grid for grid in own_tables(found)}["All metrics: voc21 (1449)"]
    assert [row[1] for row in table.rows] == ["20.0†", "50.0"]
    assert "† the number lies outside its interval: resampled" in table.note
    written = (tmp_path / "results.md").read_text()
    assert "| 20.0† |" in written
    assert "† outside its interval: resampled" in written


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
    names = {Path(name).stem for name in files if name.endswith(".svg")}
    assert names == {
        "bars-voc21", "time-voc21", "sweep-voc21-logit_scale", "bars-voc20", "corrupted-voc20",
    }  # fmt: skip
    for name in names:
        root = ElementTree.parse(runs / "plots" / f"{name}.svg").getroot()
        assert sum(1 for _ in root.iter("{http://www.w3.org/2000/svg}path")) > 20
        assert (runs / "plots" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
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
    grid = Grid("t", ["a", "command", "ours"], [["x|y", "z", "1"]], "note", ("command",))
    assert grid.markdown().splitlines()[2:] == [
        "| a | command | ours |", "|---|---|--:|", "| x\\|y | z | 1 |", "", "note"
    ]  # fmt: skip
    assert '<td class="ours">1</td>' in page.table(grid)


def test_every_table_is_there_in_every_form(runs):
    """CSV and LaTeX beside Markdown and HTML, per class and every metric in all of them."""
    classes = [
        {"name": f"a_{i} & b", "iou": 0.5, "accuracy": None, "target": 10, "prediction": 5}
        for i in range(50)
    ]
    save(runs / "b", entry("sclip", "voc20", 0.6, classes=classes))
    files = report(runs)
    text, html = files["report.md"].read_text(), files["report.html"].read_text()
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    titles.remove("Plots")
    assert "All metrics: voc20 (1449)" in titles
    assert "Classes: voc20 (1449)" in titles
    for title in titles:
        assert f">{escape(title)}</" in html
        (path,) = [
            files[name] for name in files if name.endswith(".tex") and name.startswith("tables/")
            and files[name].read_text().startswith(f"% {title}\n")
        ]  # fmt: skip
        latex = path.read_text()
        check_latex(latex)
        assert f"\\input{{tables/{path.name}}}" in files["report.tex"].read_text()
        rows = list(csv.reader(path.with_suffix(".csv").open(newline="")))
        shown = table_of(text, title)
        assert len(rows) == len(shown) - 1 == latex.count(r" \\") + 0
        assert len(rows[0]) == len(shown[0])
    check_latex(files["report.tex"].read_text())
    metrics = table_of(text, "All metrics: voc20 (1449)")[0]
    assert {"mIoU union", "pixel accuracy", "fwIoU", "mean accuracy, all"} <= set(metrics)
    exact = list(csv.DictReader(files["runs.csv"].open(newline="")))
    assert len(exact) == 11
    assert {row["swept.logit_scale"] for row in exact} == {"20", "40", "80", ""}
    assert any(float(row["metric.miou_union"]) == 0.51 for row in exact)
    assert len(files["classes.csv"].read_text().splitlines()) == 51


def check_latex(text: str) -> None:
    """A parser's look: environments and braces close, rows have the columns that are declared."""
    body = re.sub(r"(?<!\\)%.*", "", text)
    bare = re.sub(r"\\[&%$#_{}]", "", body)
    assert bare.count("{") == bare.count("}")
    shown = re.sub(
        r"\\input\{.*?\}|plots/.*?\}", "", bare.partition(r"\begin{document}")[2] or bare
    )
    assert not re.search(r"[_^#$~]", shown)
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    for columns, rows in re.findall(r"\{@\{\}([lr]+)@\{\}\}(.*?)\\end", bare, re.DOTALL):
        for row in re.findall(r"^(.*) \\\\$", rows, re.MULTILINE):
            assert row.count("&") == len(columns) - 1, row


def test_our_own_results_come_first_and_commands_last(runs):
    files = report(runs)
    for name, mark in (("report.md", "## "), ("report.html", ">")):
        text = files[name].read_text()
        order = [
            "Our runs, mIoU", "All metrics: voc21", "Plots", "CLIPer, Table 1: Open",
            "Tables without a run of ours",
        ]  # fmt: skip
        places = [text.index(f"{mark}{title}") for title in order]
        assert places == sorted(places)
    html = files["report.html"].read_text()
    assert html.index("Best, median and worst") < html.index(">CLIPer, Table 1: Open")


@needs_matplotlib
def test_checkpoints_have_markers_and_lines_of_their_own(tmp_path):
    from matplotlib.figure import Figure

    swept = [entry("clip", "voc21", 0.2 + i / 100, swept=(f"logit_scale={i}",)) for i in (1, 2)]
    save(tmp_path / "a", *swept)
    laion = {**MODEL, "source": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "weights": "1" * 24}
    save(tmp_path / "b", *copy.deepcopy(swept), model=laion)
    painted = {}
    for _, name, paint in plots._plots(read_runs(tmp_path)):
        painted[name] = Figure()
        paint(painted[name])
    (axes,) = painted["sweep-voc21-logit_scale"].axes
    assert [len(line.get_xdata()) for line in axes.lines] == [2, 2]  # not one line of four points
    assert len({line.get_marker() for line in axes.lines}) == 2
    labels = [line.get_label() for line in axes.lines]
    assert labels == ["clip official clip-vit-base-patch16", f"clip official {laion['source'][6:]}"]
    bars = painted["bars-voc21"].axes[0].patches
    assert len({bar.get_hatch() for bar in bars}) == 2
    points = painted["time-voc21"].axes[0].collections
    assert len({str(one.get_paths()[0].vertices) for one in points}) == 2


def test_costs_enter_the_papers_columns(tmp_path):
    save(tmp_path / "a", entry("clip", "voc21", 0.2))
    row = {
        "method": "clip", "variant": "paper", "refine": "", "networks": {},
        "parameters": 149_600_000, "network_parameters": 0, "flops": 83_400_000_000,
        "milliseconds": 12.5, "encoding": 10.0, "images_per_second": 80.0, "memory": None,
    }  # fmt: skip
    proxy = row | {
        "method": "proxyclip", "variant": "official", "networks": {"vfm": "ViTModel"},
        "parameters": 235_400_000, "flops": 500_000_000_000,
    }  # fmt: skip
    settings = {
        "model": "openai/clip-vit-base-patch16 (random weights)", "size": "336 x 336",
        "device": "a GPU", "dtype": "float16", "vfm": "facebook/dino-vitb8 (random weights)",
    }  # fmt: skip
    (tmp_path / "b").mkdir()
    path = tmp_path / "b" / "bench.json"
    path.write_text(json.dumps({"settings": settings, "costs": [row, proxy]}))
    costs = read_costs(tmp_path)
    grid = with_ours(BY_ID["proxyclip-1"], [], costs)
    cells = {line[0]: line[2:] for line in grid.rows}
    assert cells["CLIP"] == ["142.7", "149.6", "72.5", "80", "3540", "", "41.7", "41.7"]
    assert cells["ProxyCLIP, DINO-B/8"][1] == "235.4"
    assert cells["ProxyCLIP, DINO-B/16"][1] == ""  # another network
    assert cells["MaskCLIP"][1] == ""
    assert grid.note.endswith("Ours: a GPU, float16.")
    assert with_ours(BY_ID["cliper-4"], [], costs) is None  # another size
    assert [g.title for g in own_tables(read_runs(tmp_path), costs)][-1].startswith("Costs: openai")
    path.write_text("{}")
    with pytest.raises(WordmaskError, match="cannot read"):
        read_costs(tmp_path)


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


def test_notes_have_code_and_options_have_two_dashes():
    grid = Grid("Runs", ["name", "mIoU"], [["a", "1"]], "Made by `--names plain` & more.")
    assert "Made by <code>--names plain</code> &amp; more." in page.table(grid)
    assert escape_latex(grid.note) == r"Made by -{}-names plain \& more."


def test_pictures_of_two_checkpoints_are_told_apart(tmp_path):
    about = {"dataset": "toybox", "label": "clip", "group": "best", "picture": "one", "miou": 0.5,
             "legend": []}  # fmt: skip
    strips = [page.Strip(about, b"", tmp_path / name) for name in ("one", "two")]
    made = page.render([], [], strips, [])
    assert made.count("<h3>") == 2
    assert str(tmp_path / "one") in made
    assert str(tmp_path / "one") not in page.render([], [], strips[:1], [])
