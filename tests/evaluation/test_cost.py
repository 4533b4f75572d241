"""`wordmask bench`: numbers that can be worked out, and the command as a process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from transformers import CLIPModel, ViTConfig, ViTModel

from waiting import soon
from wordmask.cli import run
from wordmask.errors import WordmaskError
from wordmask.evaluation import cost as bench
from wordmask.methods import METHODS

TINY = "wordmask/tiny-clip"


def test_flops_are_those_of_the_formula(golden_clip):
    size, words = (64, 96), 5
    (cost,) = bench.measure(
        golden_clip, [("clip", None, "")], size=size, batch=2, words=words, rounds=1
    )
    config = golden_clip.config.vision_config
    width, patch, joint = config.hidden_size, config.patch_size, golden_clip.config.projection_dim
    patches = size[0] // patch * (size[1] // patch)
    tokens, inner = patches + 1, config.intermediate_size
    block = tokens * (4 * width**2 + 2 * width * inner) + 2 * tokens**2 * width
    encoder = patches * 3 * patch**2 * width + config.num_hidden_layers * block
    projection, scores = tokens * width * joint, patches * joint * words
    assert cost.flops == pytest.approx(2 * (encoder + projection + scores), rel=0.01)
    assert cost.parameters == sum(x.numel() for x in golden_clip.parameters())
    assert (cost.variant, cost.refine, cost.networks) == ("paper", "", {})
    assert cost.images_per_second == pytest.approx(1000 / cost.milliseconds)
    assert cost.memory is None or cost.memory > cost.parameters * 4 / 2**20


def test_batches_and_methods(golden_clip):
    chosen = [("clip", None, ""), ("clearclip", "paper", ""), ("clip", None, "pamr")]
    seen = []
    one = bench.measure(golden_clip, chosen, size=(48, 80), rounds=1, report=seen.append)
    assert one == seen
    assert [(cost.method, cost.refine) for cost in one] == [
        ("clip", ""),
        ("clearclip", ""),
        ("clip", "pamr"),
    ]
    assert one[1].flops < one[0].flops  # no feed-forward network in the last block
    (three,) = bench.measure(golden_clip, chosen[:1], size=(48, 80), batch=3, rounds=1)
    # but for names that cannot win somewhere in a picture, which differ from one to the next
    assert three.flops == pytest.approx(one[0].flops, rel=0.01)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="watches /proc")
def test_peak_memory_is_what_a_call_holds(monkeypatch):
    cpu, looks, resident = torch.device("cpu"), [], bench.resident
    monkeypatch.setattr(bench, "resident", lambda: looks.append(resident()) or looks[-1])

    def hold(mebibytes):
        def call():
            pages = torch.zeros(mebibytes, 2**18)  # of float32
            for _ in range(4):
                pages += 1
            seen = len(looks)
            soon(lambda: len(looks) > seen + 1)  # however late the other thread has its turn

        return call

    for _ in range(2):  # a second time, though what the first freed could be taken again
        assert bench.peak_memory(hold(64), cpu) == pytest.approx(64, abs=8)
    assert bench.peak_memory(lambda: None, cpu) < 4


def test_a_network_that_was_loaded_counts(golden_clip):
    vfm = ViTModel(ViTConfig(**bench._transformer(32, 2, 2), image_size=32, patch_size=8)).eval()
    alone = sum(x.numel() for x in golden_clip.parameters())
    (cost,) = bench.measure(
        golden_clip, [("proxyclip", None, "")], size=(32, 32), rounds=1, networks={"vfm": vfm}
    )
    assert cost.networks == {"vfm": "ViTModel"}
    assert cost.network_parameters == sum(x.numel() for x in vfm.parameters())
    assert cost.parameters == alone + cost.network_parameters


def test_options_by_hand_change_the_cost(golden_clip):
    costs = [
        bench.measure(golden_clip, [("clearclip", None, "")], size=(48, 80), rounds=1, options=set)
        for set in ((), ("residual=true", "ffn=true"))
    ]
    (plain,), (changed,) = costs
    assert changed.flops > plain.flops
    assert plain.network_parameters == 0


def test_candidates():
    alone = [name for name in sorted(METHODS) if METHODS[name].network == "none"]
    assert bench.candidates(None, [], []) == [(name, None, "") for name in alone]
    assert "proxyclip" not in alone
    assert ("proxyclip", None, "") in bench.candidates(None, [], ["vfm"])
    assert bench.candidates(["cliper:paper", "clip"], ["pamr"], []) == [
        ("cliper", "paper", ""),
        ("cliper", "paper", "pamr"),
        ("clip", None, ""),
        ("clip", None, "pamr"),
    ]


def test_random_weights_have_the_shape_of_the_published(monkeypatch):
    name = "openai/clip-vit-base-patch16"
    with torch.device("meta"):
        model = bench.random_clip(name, torch.device("meta"), torch.float32)
    assert sum(x.numel() for x in model.parameters()) == 149_620_737
    assert isinstance(model, CLIPModel)
    shape = ((64, 2, 2, 16, 32), (32, 1, 2), 24)
    monkeypatch.setitem(bench.CLIP_SHAPES, "small", shape)
    before = torch.random.get_rng_state()
    one, two = (bench.random_clip("small", torch.device("cpu"), torch.float32) for _ in range(2))
    assert torch.equal(one.visual_projection.weight, two.visual_projection.weight)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.device("meta"):
        vfm = bench.random_vfm(torch.device("meta"), torch.float32)
    assert sum(x.numel() for x in vfm.parameters()) == 85_807_872  # of DINO ViT-B/8
    with pytest.raises(WordmaskError, match="did you mean openai/clip-vit-base-patch16"):
        bench.random_clip("clip-vit-base-patch16", torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01234, "0.0123"), (9.9, "9.90"), (72.53, "72.5"), (6412.3, "6412")]
)
def test_numbers_are_read_without_powers_of_ten(value, shown):
    cost = bench.Cost("clip", "paper", "", {}, 10**6, 10**9, value, value, value, None)
    row = dict(zip(*bench.table([cost]), strict=True))
    assert row["time (ms)"] == row["speed (IPS)"] == shown
    assert row["memory (MiB)"] == "-"


# -- the command ----------------------------------------------------------------------------------


def test_the_command_as_a_process(tmp_path):
    command = [sys.executable, "-m", "wordmask", "bench", "clip,clearclip", "--model", TINY]
    options = [
        "--size",
        "48x64",
        "--rounds",
        "2",
        "--words",
        "7",
        "--offline",
        "--device",
        "cpu",
        "-q",
    ]
    done = subprocess.run(
        [*command, *options, "--markdown", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert found["settings"]["size"] == "48 x 64"
    assert (found["settings"]["words"], found["settings"]["model"]) == (7, TINY)
    assert [cost["method"] for cost in found["costs"]] == ["clip", "clearclip"]
    for cost in found["costs"]:
        assert cost["encoding"] > 0
        assert cost["flops"] > 10**8
    text = (tmp_path / "out" / "bench.md").read_text()
    assert text == done.stdout
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0][0] == "| method"
    assert rows[1][0] == "| clip (paper)"
    assert rows[1][7].rstrip(" |") == f"{found['costs'][0]['flops'] / 1e9:.1f}"
    assert rows[3] == ["| method", "encoder", "input size", "time (ms) |"]
    assert rows[4][:3] == ["| clip", TINY, "48 x 64"]


def test_the_table_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ["bench", "clip", "--model", TINY, "--size", "32", "--rounds", "1", "--offline"]
    assert run([*arguments, "--refine", "pamr"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(" clip")]
    assert [row[:3] for row in rows] == [["clip", "(paper)", "-"], ["clip", "(paper)", "pamr"]]
    assert all(len(row) == 9 for row in rows)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["clipp"], "did you mean clip"),
        (["clip:papr"], "did you mean paper"),
        (["clip", "--refine", "pamrr"], "did you mean pamr"),
        (["clip", "--size", "3x4x5"], "got --size 3x4x5"),
        (["clip", "--size", "-4"], "got --size -4"),
        (["clip", "--size", "0"], "size 0 x 0"),
        (["clip", "--rounds", "0"], "0 rounds"),
        (["clip", "--size", "2"], "2"),
        (["clip", "--random", "clip-vit-b"], "shape of a CLIP"),
        (["clip", "--json", "--markdown"], "--json and --markdown"),
        (["clip", "--model", "wordmask/huge"], "built-in network"),
    ],
)
def test_bad_input_is_one_line(arguments, part, capsys):
    model = [] if "--model" in arguments else ["--model", TINY]
    assert run(["bench", *arguments, *model, "--offline"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert part in err
