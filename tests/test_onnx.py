"""Exported networks: equal to torch, for every method that can be exported, and without torch."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionModelWithProjection

import wordmask
from tiny import save_tiny_clip, tiny_clip
from waiting import LONG, free_port, soon
from wordmask import Background, OnnxSegmenter, Segmenter, WordmaskError, list_methods
from wordmask.cli import run
from wordmask.methods import METHODS, create_method
from wordmask.towers import clip
from wordmask.towers.clip import POSITION_MODES, position_embedding

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZES = ((56, 56), (60, 90), (90, 60), (48, 48), (112, 75))
GROUNDS = (
    "none",
    np.random.default_rng(2).standard_normal((2, 24)).astype(np.float32),
    Background.threshold(0.36),
    Background.complement(0.5),
)
# options with which the tests export a method; the others are exported as they are
OPTIONS = {
    "clip": {"min_max": True},
    "sclip": {"window": 40, "stride": 24},
    "maskclip": {"prompt_denoising": 0.3, "key_smoothing": 1.0},
    "clearclip": {"area_threshold": 0.1},
    "gem": {"depth": 2},
    "clip_surgery": {"feature_surgery": True, "blocks": 2},
    "resclip": {"sfr_share": 0.0, "sfr_scale": 1.0},
}
EXPORTED = [
    name
    for name in list_methods()
    if not create_method(name, None, OPTIONS.get(name))[0].unexported
]


ROWS = np.random.default_rng(1).standard_normal((7, 24)).astype(np.float32)
FEATURES = {"cat": ROWS[0], "dog": ROWS[1:3], "sky": ROWS[3]}


@pytest.fixture(scope="module")
def network():
    """The image encoder alone."""
    whole = tiny_clip(layers=2, width=32, projection=24)
    model = CLIPVisionModelWithProjection(whole.config.vision_config).eval()
    model.load_state_dict(whole.state_dict(), strict=False)
    return model


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (h // 8 + 1, w // 8 + 1, 3), np.uint8) for h, w in SIZES]
    return [
        np.array(Image.fromarray(one).resize((w, h)))
        for one, (h, w) in zip(small, SIZES, strict=True)
    ]


def assert_equal(segmenter: Segmenter, other: OnnxSegmenter, *asked) -> None:
    """Features and scores to 1e-4, labels but where two classes are as likely.

    asked: words and background of each question.
    """

    def tensors(given):
        if isinstance(given, dict):
            return {name: tensors(one) for name, one in given.items()}
        return torch.from_numpy(given) if isinstance(given, np.ndarray) else given

    encoded = []
    for picture in pictures():
        encoding, found = segmenter.encode(picture), other.encode(picture)
        np.testing.assert_allclose(found.outputs["features"], encoding.features, atol=1e-4)
        encoded.append((encoding, found))
    for words, background in asked:
        texts = segmenter.encode_text(tensors(words), tensors(background))
        theirs = other.encode_text(words, background)
        np.testing.assert_allclose(theirs.embeddings, texts.embeddings, atol=1e-5)
        np.testing.assert_array_equal(theirs.owner, texts.owner)
        for encoding, found in encoded:
            wanted, made = segmenter(encoding, texts), other(found, theirs)
            np.testing.assert_allclose(made.scores, wanted.scores, atol=1e-4)
            assert (made.labels != wanted.labels).mean() < 2e-3
            assert made.names == wanted.names


@pytest.mark.parametrize("name", EXPORTED)
def test_as_torch(name, network, tmp_path):
    from wordmask.onnx.export import export

    options = {"short_side": None, **OPTIONS.get(name, {})}
    segmenter = Segmenter.from_pretrained(network, name, options=options)
    made = export(segmenter, tmp_path / "out")
    assert made.difference < 1e-5
    other = OnnxSegmenter.from_folder(tmp_path / "out", threads=1)
    assert_equal(segmenter, other, *((FEATURES, background) for background in GROUNDS))


def test_what_cannot_be_exported_says_why():
    alone = {"clip", "clearclip", "cliper", "gem", "maskclip", "naclip", "sc_clip", "sclip"}
    assert alone | {"clip_surgery", "resclip"} <= set(EXPORTED)
    assert not {"car", "clip_es", "cliptrase", "pearl", "proxyclip", "rf_clip"} & set(EXPORTED)
    assert "sfr_share=0" in METHODS["resclip"]().unexported
    assert create_method("cliper", options={"window": 64})[0].unexported
    assert "vfm" in METHODS["proxyclip"]().unexported


@pytest.mark.parametrize("mode", POSITION_MODES)
@pytest.mark.parametrize("grid", [(7, 7), (9, 12), (3, 20), (7, 9), (1, 1), (30, 5)])
def test_positions_of_a_graph(mode, grid, monkeypatch):
    table = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    wanted = position_embedding(table, grid, mode)
    monkeypatch.setattr(clip, "is_compiling", lambda: True)
    torch.testing.assert_close(position_embedding(table, grid, mode), wanted, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def traced() -> dict[str, Any]:
    """What torch made of the graphs of `folder`, by their kind: tracing takes seconds."""
    return {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, traced) -> Path:
    """A CLIP in a folder, exported by the command."""

    def keep(graph, *given, trace=torch.onnx.export, **named):
        return traced.setdefault(type(graph).__name__, trace(graph, *given, **named))

    place = tmp_path_factory.mktemp("exported")
    save_tiny_clip(place / "clip", layers=2, width=32, projection=24, text_layers=1)
    arguments = ["export", str(place / "clip"), str(place / "out"), "--method", "sclip:clearclip"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", keep)
        assert run([*arguments, "--short-side", "64", "--set", "templates=single", "-q"]) == 0
    Image.fromarray(pictures()[1]).save(place / "photo.png")
    return place


WITHOUT_TORCH = (
    "import sys\n"
    "class NoTorch:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.partition('.')[0] in ('torch', 'transformers'):\n"
    "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
    "sys.meta_path.insert(0, NoTorch())\n"
    "from wordmask.cli import run\n"
    "sys.exit(run(sys.argv[1:]))\n"
)


def start_without_torch(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process in which torch cannot be imported."""
    path = str(Path(wordmask.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": path, "HOME": str(home), "TMPDIR": str(home)},
    )


def test_the_service_without_torch(folder, tmp_path):
    """Exported here; answered by a process in which torch cannot be imported."""
    for package in ("fastapi", "uvicorn", "prometheus_client", "httpx"):
        pytest.importorskip(package)
    import httpx

    from wordmask.client import Client, ServiceError
    from wordmask.objects import Labeller

    port = free_port()
    model = ["--model", str(folder / "out"), "--backend", "onnxruntime"]
    served = start_without_torch(
        tmp_path, "serve", *model, "--workers", "0", "--port", str(port), "--short-side", "56",
        "--tool", "x-anylabeling", "--background", "none",
    )  # fmt: skip
    client, photo = Client(f"http://127.0.0.1:{port}", tries=1), folder / "photo.png"
    offline = OnnxSegmenter.from_folder(folder / "out", options={"short_side": 56})
    try:
        soon(lambda: client.ready() or served.poll() is not None)
        assert served.poll() is None, served.stderr.read()
        encoded = client.encode(photo)
        assert encoded.patches == offline.encode(photo).outputs["features"].shape[2:]
        for words, background in (
            (["cat", ["dog", "hound"]], "none"),
            (["sky", "cat"], ["wall"]),
            (["cat"], "auto"),
        ):
            wanted = offline(photo, words, background)
            for found in (
                client.segment(photo, words, background),
                client.score(encoded, words, background),
            ):
                assert found.names == wanted.names
                np.testing.assert_array_equal(found.labels, wanted.labels)
                np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)
        assert client.segment(photo, "cat; dog", method="sclip", variant="clearclip").names
        for wrong in ({"method": "gem"}, {"refine": "pamr"}, {"options": {"short_side": 64}}):
            with pytest.raises(ServiceError, match="has its method, sclip:clearclip") as caught:
                client.segment(photo, "cat", **wrong)
            assert caught.value.status == 422
        with pytest.raises(ServiceError, match="no such model"):
            client.segment(photo, "cat", model=str(folder / "clip"))
        (method,) = client.methods()["methods"]
        assert (method["name"], list(method["variants"])) == ("sclip", ["clearclip"])
        assert client.methods()["default"]["method"] == "sclip"
        assert client.refiners() == []
        url = f"http://127.0.0.1:{port}/v1"
        (tool,) = httpx.get(f"{url}/models").json()["data"]
        image = base64.b64encode(photo.read_bytes()).decode()
        asked = {"model": tool, "image": image, "params": {"text_prompt": "cat; dog"}}
        shapes = httpx.post(f"{url}/predict", json=asked).json()["data"]["shapes"]
        segmenter = Segmenter.from_pretrained(
            folder / "clip", "sclip", "clearclip", options={"short_side": 56, "templates": "single"}
        )
        sure = Labeller("cat; dog", background="none", segmenter=segmenter)(photo)[1]
        assert [one["label"] for one in shapes] == [one.region.name for one in sure]
        scores = [one["score"] for one in shapes]
        np.testing.assert_allclose(scores, [one.confidence for one in sure], atol=1e-4)
        served.terminate()
        assert served.wait(LONG) == 0
        assert not list(tmp_path.glob("wordmask-serve-*"))  # its encodings are gone
    finally:
        served.kill()
        served.communicate()


def test_the_command_without_torch(folder, tmp_path):
    """Exported here; segmented by a process in which torch cannot be imported."""
    ask = [str(folder / "photo.png"), "--classes", "cat; dog, hound", "-f", "labels,json", "-q"]

    def without(*arguments: str) -> subprocess.CompletedProcess[str]:
        process = start_without_torch(tmp_path, *arguments)
        out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    model = ["--model", str(folder / "out"), "--backend", "onnxruntime"]
    done = without("segment", *ask, *model, "--out", str(tmp_path / "onnx"))
    assert (done.returncode, done.stderr) == (0, "")
    options = ["--method", "sclip:clearclip", "--short-side", "64", "--set", "templates=single"]
    torch_model = ["--model", str(folder / "clip"), "--out", str(tmp_path / "torch")]
    assert run(["segment", *ask, *torch_model, *options]) == 0
    found, wanted = (
        np.asarray(Image.open(tmp_path / name / "photo_labels.png")) for name in ("onnx", "torch")
    )
    assert (found != wanted).mean() < 2e-3
    assert len(np.unique(wanted)) > 1
    provenance = json.loads((tmp_path / "onnx" / "photo.json").read_text())["provenance"]
    assert provenance["backend"] == "onnxruntime"
    assert provenance["method"] == "sclip"

    missing = without("segment", *ask, "--out", str(tmp_path / "none"))
    assert missing.returncode == 2
    assert len(missing.stderr.splitlines()) == 1
    assert 'pip install "wordmask[torch]"' in missing.stderr
    assert without("--version").returncode == without("formats").returncode == 0


def test_names_that_need_torch_say_so():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import wordmask; wordmask.OnnxSegmenter, wordmask.read_image, wordmask.Vocabulary\n"
        "from wordmask import doctor\n"
        "found = {one.name: one for one in doctor._devices()}['cpu']\n"
        "print(found.state, found.text)\n"
        "from wordmask import Segmenter"
    )
    path = {"PYTHONPATH": str(Path(wordmask.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path)
    assert done.stderr.splitlines()[-1].startswith(
        "ModuleNotFoundError: this needs torch, which is not installed: pip install"
    )
    assert "absent torch is not installed; exported networks alone" in done.stdout


def test_precisions(folder, traced, tmp_path, monkeypatch):
    from wordmask.onnx.export import export

    monkeypatch.setattr(torch.onnx, "export", lambda graph, *_, **__: traced[type(graph).__name__])

    segmenter = Segmenter.from_pretrained(
        folder / "clip",
        "sclip",
        "clearclip",
        options={"short_side": 64, "templates": "single"},
        cache_dir=tmp_path,
    )
    made = {p: export(segmenter, tmp_path / p, p) for p in ("fp16", "int8")}
    assert 1e-5 < made["fp16"].difference < 2e-3
    assert made["fp16"].difference < made["int8"].difference < 0.2
    for name in ("image.onnx", "text.onnx"):
        full = (folder / "out" / name).stat().st_size
        assert made["int8"].files[name] < made["fp16"].files[name] < full
    loaded = [
        OnnxSegmenter.from_folder(one) for one in (folder / "out", *map(tmp_path.joinpath, made))
    ]
    wanted, *rounded = (one.encode_text(["cat", "dog"], "none").embeddings for one in loaded)
    for rows, least in zip(rounded, (0.999, 0.98), strict=True):
        assert ((rows * wanted).sum(1) > least).all()
    assert [one.provenance()["dtype"] for one in loaded] == ["float32", "float16", "int8"]
    assert len({one.weights() for one in loaded}) == 3  # their results are not mixed in a folder


def test_what_is_refused(folder, tmp_path, capsys):
    from wordmask.onnx.export import export

    for name in ("cliptrase", "resclip", "clip_es"):
        segmenter = Segmenter.from_pretrained(folder / "clip", name)
        with pytest.raises(WordmaskError, match=f"{name} cannot be exported: "):
            export(segmenter, tmp_path / "refused")
    segmenter = Segmenter.from_pretrained(folder / "clip", "clip")
    with pytest.raises(WordmaskError, match="did you mean fp16"):
        export(segmenter, tmp_path / "refused", "fp61")
    with pytest.raises(WordmaskError, match="is there and no exported network"):
        export(segmenter, folder)
    assert not (tmp_path / "refused").exists()
    with pytest.raises(WordmaskError, match="holds no exported network"):
        OnnxSegmenter.from_folder(folder / "clip")
    with pytest.raises(WordmaskError, match="unknown option of an exported network 'logit_scale'"):
        OnnxSegmenter.from_folder(folder / "out", options={"logit_scale": 1})
    ask = ["segment", str(folder / "photo.png"), "--classes", "cat; dog", "--out", str(tmp_path)]
    exported = ["--model", str(folder / "out")]
    for more, why in (
        (["--method", "naclip"], "an exported network has its method, sclip:clearclip"),
        (["--refine", "pamr"], "an exported network has its method, sclip:clearclip"),
        (["--device", "cpu"], "an exported network takes no --device"),
        (["--backend", "torch"], "which torch does not run"),
        (["--workers", "2"], "runs in one process on all cores"),
    ):
        assert run([*ask, *exported, *more]) == 2
        assert why in capsys.readouterr().err
    assert run([*ask, "--backend", "tensorflow"]) == 2
    assert "unknown backend 'tensorflow'" in capsys.readouterr().err
    assert run(["serve", "--model", "wordmask/tiny-clip", "--backend", "onnxruntime"]) == 2
    assert "holds no exported network" in capsys.readouterr().err


def test_words_and_auto(folder, tmp_path):
    segmenter = Segmenter.from_pretrained(
        folder / "clip",
        "sclip",
        "clearclip",
        options={"short_side": 64, "templates": "single"},
        cache_dir=tmp_path,
    )
    other = OnnxSegmenter.from_folder(folder / "out")
    assert_equal(
        segmenter,
        other,
        (["cat", ["dog", "hound"], "sky" * 40], "auto"),
        ({"cat": "kitten", "dog": []}, ["wall", "floor"]),
        (["cat", "dog"], Background.negatives(12)),
        (["cat", "dog"], None),
    )


def test_a_damaged_graph(folder, tmp_path):
    for file in (folder / "out").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "image.onnx").write_bytes(b"damaged")
    with pytest.raises(WordmaskError, match=r"cannot load .*image\.onnx"):
        OnnxSegmenter.from_folder(tmp_path)
    about = json.loads((tmp_path / "wordmask.json").read_text())
    (tmp_path / "wordmask.json").write_text(json.dumps(about | {"schema": "wordmask.export/9"}))
    with pytest.raises(WordmaskError, match=r"reads wordmask\.export/1; export it again"):
        OnnxSegmenter.from_folder(tmp_path)


def test_features_in_place_of_words(folder):
    """Arrays, as `Segmenter` takes tensors; image-level labels; several pictures."""
    segmenter = Segmenter.from_pretrained(
        folder / "clip", "sclip", "clearclip", options={"short_side": 64}
    )
    other = OnnxSegmenter.from_folder(folder / "out")
    rows = np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)
    photo = folder / "photo.png"
    for words, theirs in (
        (torch.from_numpy(rows), rows),
        (
            {"cat": torch.from_numpy(rows[:2]), "dog": torch.from_numpy(rows[2])},
            {"cat": rows[:2], "dog": rows[2]},
        ),
    ):
        wanted, found = segmenter(photo, words), other(photo, theirs)
        assert wanted.names == found.names
        assert (wanted.labels != found.labels).mean() < 2e-3
    known = other([photo, photo], ["cat", "dog", "sky"], "none", [["dog"], None])
    assert known[0].found == ("dog",)
    assert known[1].labels.max() <= 3
    with pytest.raises(WordmaskError, match=r"needs float \(C, 24\)"):
        other(photo, rows[:, :5])
    with pytest.raises(WordmaskError, match="unknown image-level label"):
        other(photo, ["cat"], "none", ["dog"])
