"""TIPSv2, MetaCLIP 2 and RADIO: what is their own, beyond tests of every family."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPConfig, XLMRobertaTokenizer
from transformers.models.auto import configuration_auto

from commands import picture
from replicas.files import sentencepiece_model, sentencepiece_pairs
from replicas.hub import Hub
from tiny import tiny_clip, tiny_vfm
from tiny_families import (
    Tipsv2Model,
    metaclip2_tokenizer,
    save,
    tiny_metaclip2,
    tiny_siglip,
    tips_tokenizer,
)
from tiny_families import tiny_tips as make_tips
from wordmask import Segmenter, WordmaskError
from wordmask.cli import run
from wordmask.methods import METHODS, create_method
from wordmask.towers.built_in import FAMILY_OPTIONS, own_options
from wordmask.towers.clip import Need
from wordmask.towers.families import load_clip
from wordmask.towers.hub import SINCE
from wordmask.towers.vfm import load_vfm

TIPS = FAMILY_OPTIONS["tipsv2"]
NAMES = ["cat", "red car", "zebra crossing"]
needs_tips = pytest.mark.skipif(Tipsv2Model is None, reason="transformers is older than 5.14")


def tiny_tips(**vision):
    return make_tips(**{"image_size": 112, "patch_size": 14, "layers": 3} | vision)


@pytest.fixture(scope="module")
def tips_folder(tmp_path_factory):
    """A folder with the names of tensors and files of the hub's, as transformers writes them."""
    if Tipsv2Model is None:
        pytest.skip("transformers is older than 5.14")
    return save(tmp_path_factory.mktemp("tips"), tiny_tips(), tips_tokenizer())


def noise(height: int, width: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


# -- TIPSv2: pictures -------------------------------------------------------------------------


@needs_tips
@pytest.mark.parametrize("vision", [{}, {"use_swiglu_ffn": True, "num_register_tokens": 3}])
@torch.no_grad()
def test_maskclip_is_the_last_block_with_values_in_place_of_attention(vision):
    """Layer scale, residual and feed-forward network are kept, and patches alone are left."""
    model, pixels = tiny_tips(**vision), torch.rand(2, 3, 112, 140)
    ours = Segmenter.from_pretrained(model, "maskclip").encode(pixels).features
    x = model.vision_model(pixels, output_hidden_states=True).hidden_states[-2]
    layer = model.vision_model.encoder.layer[-1]
    values = layer.attention.o_proj(layer.attention.v_proj(layer.norm1(x)))
    x = x + layer.layer_scale1(values)
    x = x + layer.layer_scale2(layer.mlp(layer.norm2(x)))
    first = 1 + model.config.vision_config.num_register_tokens
    patches = model.vision_model.layernorm(x)[:, first:]
    assert ours.shape == (2, 48, 8, 10)
    assert torch.allclose(ours.flatten(2).transpose(1, 2), patches, atol=1e-5)


@needs_tips
@torch.no_grad()
def test_the_last_block_as_it_is_gives_the_last_hidden_state():
    model, pixels = tiny_tips(), torch.rand(1, 3, 126, 112)
    ours = Segmenter.from_pretrained(model, "clip").encode(pixels).features
    theirs = model.vision_model(pixels).last_hidden_state[:, 2:]
    assert torch.allclose(ours.flatten(2).transpose(1, 2), theirs, atol=1e-5)


@needs_tips
@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.network == "vfm"])
def test_methods_with_a_vfm_run_too(name):
    """Those without are run on every family, see test_towers_families.py."""
    segmenter = Segmenter.from_pretrained(
        tiny_tips(), name, tokenizer=tips_tokenizer(), networks={"vfm": tiny_vfm()}
    )
    assert segmenter(noise(60, 80), NAMES, "none").labels.shape == (60, 80)


@needs_tips
def test_registers_are_no_patches():
    """Every method leaves them out: with the class token, they are before the patches."""
    tower = load_clip(tiny_tips(num_register_tokens=4)).tower()
    trace = tower.trace(torch.rand(1, 3, 56, 70), Need.of(states=[0, 1]))
    assert tower.class_tokens == 5
    assert trace.states[1].shape == (1, 5 + 4 * 5, 48)
    registers = tower.vision.embeddings.register_tokens
    assert torch.equal(trace.states[0][:, 1:5], registers)


@needs_tips
def test_an_activation_for_a_gated_network_is_refused_in_one_line():
    model = tiny_tips(use_swiglu_ffn=True)
    pixels = torch.rand(1, 3, 56, 56)
    official = Segmenter.from_pretrained(model, "maskclip", "official")  # has GELU for CLIP
    assert official.method.activation == "checkpoint"
    assert torch.isfinite(official.encode(pixels).features).all()
    segmenter = Segmenter.from_pretrained(model, "maskclip", options={"activation": "gelu"})
    with pytest.raises(WordmaskError, match="gated feed-forward layers") as caught:
        segmenter.encode(pixels)
    assert "\n" not in str(caught.value)


@needs_tips
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tips_folder, dtype):
    pixels = torch.rand(1, 3, 112, 112)
    full, half = (
        Segmenter.from_pretrained(str(tips_folder), "maskclip", device="cpu", dtype=d)
        for d in ("float32", dtype)
    )
    assert half.tower.dtype == getattr(torch, dtype)
    a, b = full.encode(pixels).features, half.encode(pixels).features
    assert b.dtype == torch.float32
    assert F.cosine_similarity(a, b).min() > 0.99
    texts = [s.text.encode(NAMES, "tips") for s in (full, half)]
    assert F.cosine_similarity(*texts).min() > 0.99


@needs_tips
def test_low_memory_and_too_large_pictures(tips_folder, monkeypatch):
    networks = {"vfm": tiny_vfm()}
    segmenter = Segmenter.from_pretrained(
        str(tips_folder), "proxyclip", device="cpu", networks=networks, low_memory=True
    )
    image = noise(100, 120)
    assert segmenter(image, NAMES, "none").labels.shape == (100, 120)
    monkeypatch.setattr("wordmask.towers.memory.free_memory", lambda device: 2**20)
    with pytest.raises(WordmaskError, match="make short_side or long_side smaller"):
        segmenter(image, NAMES, "none")


# -- TIPSv2: preprocessing, prompts, text -----------------------------------------------------


@needs_tips
def test_its_own_preprocessing_and_prompts_hold_where_none_is_given(tips_folder):
    for model in (tiny_tips(), str(tips_folder)):
        segmenter = Segmenter.from_pretrained(model, "maskclip", "official")
        options = segmenter.provenance()["options"]
        assert options == create_method("maskclip", "official")[0].options() | TIPS
        other = segmenter.with_method("clearclip", options={"templates": "single"})
        expected = create_method("clearclip")[0].options() | TIPS | {"templates": "single"}
        assert other.provenance()["options"] == expected
        chosen = create_method("clearclip")[0]  # options of one's own
        assert segmenter.with_method(chosen).method == chosen


def test_a_name_on_the_hub_says_its_family():
    for name in ("google/tipsv2-b14", "google/tipsv2-g14@main", "someone/My-TIPSv2"):
        assert own_options(name, {}) == TIPS
        assert own_options(name, {"short_side": 224})["short_side"] == 224
    for name in ("openai/clip-vit-base-patch16", "tipsv2/clip", "google/siglip-base-patch16-224"):
        assert own_options(name, {}) == {}
    assert own_options(tiny_siglip(layers=1), {}) == {}


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": ["tipsv2"]}', "{}", None])
def test_a_folder_whose_settings_cannot_be_read_brings_no_options(content, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert own_options(tmp_path, {}) == {}


@needs_tips
def test_pixels_are_in_0_to_1_and_resized_as_its_processor_does(tips_folder):
    segmenter = Segmenter.from_pretrained(str(tips_folder), "maskclip")
    image = noise(600, 800)
    pixels = segmenter.prepare(image).pixels
    assert pixels.shape == (3, 448, 602)  # whole patches of 14
    resized = Image.fromarray(image).resize((602, 448), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1) / 255
    assert torch.allclose(pixels, expected, atol=1e-6)


@needs_tips
def test_pixels_are_those_of_its_own_processor(tips_folder):
    pytest.importorskip("torchvision", reason="the processor of TIPSv2 needs torchvision")
    from transformers import Tipsv2ImageProcessor

    image = noise(600, 600)
    theirs = Tipsv2ImageProcessor()(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    ours = Segmenter.from_pretrained(str(tips_folder), "maskclip").prepare(image).pixels
    assert ours.shape == theirs.shape == (3, 448, 448)
    assert (ours - theirs).abs().max() < 2 / 255


@needs_tips
def test_a_processor_that_does_not_normalise_is_believed(tips_folder, tmp_path):
    shutil.copytree(tips_folder, tmp_path, dirs_exist_ok=True)
    settings = {"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    tower = load_clip(tmp_path).tower()
    assert (tower.mean, tower.std) == ((0.0,) * 3, (1.0,) * 3)


@needs_tips
@torch.no_grad()
def test_text_is_the_mean_over_valid_tokens_of_lower_case(tips_folder, tmp_path):
    """As transformers' own model, with the padding and the mask of its processor."""
    loaded = load_clip(tips_folder)
    ours = loaded.text(tmp_path).encode(["Cat", "zebra crossing"], ["a photo of the {}."])
    inputs = tips_tokenizer()(
        ["a photo of the cat.", "a photo of the zebra crossing."],
        padding="max_length",
        max_length=24,
        return_tensors="pt",
    )
    theirs = loaded.model.get_text_features(**inputs).pooler_output
    assert torch.allclose(ours, F.normalize(theirs, dim=-1), atol=1e-5)


@needs_tips
def test_its_sentencepiece_model_alone(tips_folder, tmp_path):
    """Words in lower case are the same pieces as those of its tokenizer.json."""
    pytest.importorskip("sentencepiece", reason="the extra siglip is not installed")
    shutil.copytree(tips_folder, tmp_path, dirs_exist_ok=True)
    own = tips_tokenizer()
    tokens = own.convert_ids_to_tokens(range(2, len(own)))
    tokens.sort(key=lambda token: len(token) == 1)  # letters after what is merged of them
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_pairs(tokens))
    tokenizer = load_clip(tmp_path).tokenizer
    ids = tokenizer("a photo of a Zebra crossing.")["input_ids"]
    pieces = ["▁a", "▁photo", "▁of", "▁a", "▁zebra", "▁crossing", "."]
    assert tokenizer.convert_ids_to_tokens(ids) == pieces


# -- MetaCLIP 2 -------------------------------------------------------------------------------


@torch.no_grad()
def test_words_of_other_languages(tmp_path):
    """The end token 2 is found, whatever the highest token is, unlike in CLIP's old settings."""
    model, tokenizer = tiny_metaclip2(layers=2), metaclip2_tokenizer()
    ours = load_clip(model, tokenizer=tokenizer).text(tmp_path).encode(["gato rojo", "猫"], ["{}"])
    inputs = tokenizer(["gato rojo", "猫"], padding=True, return_tensors="pt")
    theirs = model.get_text_features(**inputs).pooler_output
    assert model.config.text_config.eos_token_id == 2
    assert torch.allclose(ours, F.normalize(theirs, dim=-1), atol=1e-5)
    assert (ours[0] - ours[1]).norm() > 0.1


@torch.no_grad()
def test_a_sentencepiece_tokenizer_alone(tmp_path):
    """XLM-RoBERTa's file, as in repositories without a tokenizer.json."""
    pytest.importorskip("sentencepiece", reason="the extra siglip is not installed")
    model = tiny_metaclip2(layers=1)
    model.save_pretrained(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(sentencepiece_model(["cat"]))
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 20}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_clip(tmp_path).tokenizer
    assert isinstance(tokenizer, XLMRobertaTokenizer)
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)


# -- from the hub and the command line --------------------------------------------------------


@pytest.mark.parametrize("kind", ["tipsv2", "metaclip_2"])
def test_what_is_fetched(kind, tmp_path, monkeypatch, request):
    home = tmp_path / "home"
    if kind == "tipsv2":
        shutil.copytree(request.getfixturevalue("tips_folder"), home)
        extra = "tokenizer.model"
    else:
        save(home, tiny_metaclip2(layers=1), metaclip2_tokenizer())
        extra = "sentencepiece.bpe.model"
    wanted = {path.name for path in home.iterdir()} | {extra}
    for name in (extra, "modeling_own.py", "README.md", "model.onnx"):
        (home / name).write_bytes(b"not read")
    with Hub({"google/tipsv2-b14": home}) as hub:
        hub.use(monkeypatch)
        where = {"cache_dir": tmp_path / "cache", "device": "cpu"}
        loaded = load_clip("google/tipsv2-b14", **where)
        asked = list(hub.requests)
        assert load_clip("google/tipsv2-b14", **where).tokenizer is not None
        assert hub.requests == asked
    (snapshot,) = (tmp_path / "cache").glob("models--*/snapshots/*")
    assert {path.name for path in snapshot.iterdir()} == wanted
    assert loaded.text(tmp_path).encode(["cat"], ["{}"]).shape == (1, 48)


@pytest.mark.parametrize(("kind", "load"), [("tipsv2", load_clip), ("radio", load_vfm)])
def test_an_older_transformers_is_named(kind, load, tmp_path, monkeypatch):
    """Before its weights are looked at, also where the repository has code of its own."""
    monkeypatch.delitem(configuration_auto.CONFIG_MAPPING_NAMES, kind, raising=False)
    settings = CLIPConfig().to_dict() | {"model_type": kind, "auto_map": {"AutoModel": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(WordmaskError) as caught:
        load(str(tmp_path))
    said = str(caught.value)
    assert "\n" not in said
    assert f"the {kind!r} model of {tmp_path} needs transformers {SINCE[kind]} or newer" in said
    assert f'pip install -U "transformers>={SINCE[kind]}"' in said


@needs_tips
def test_segment_as_its_user(tips_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture("photo.png", (120, 90))
    asked = ["segment", "photo.png", "-c", "cat; red car; a zebra crossing", "-b", "none"]
    asked += ["--model", str(tips_folder), "--method", "maskclip", "--device", "cpu"]
    assert run([*asked, "--format", "json", "--out", "own"]) == 0
    options = json.loads(next(Path("own").glob("*.json")).read_text())["provenance"]["options"]
    assert options["short_side"] == 448
    assert options["templates"] == "tips"
    sizes = ["--short-side", "112", "--set", "templates=single", "--window", "112,56"]
    assert run([*asked, *sizes, "--format", "json", "--out", "asked"]) == 0
    options = json.loads(next(Path("asked").glob("*.json")).read_text())["provenance"]["options"]
    assert (options["short_side"], options["templates"]) == (112, "single")
    assert "Traceback" not in capsys.readouterr().err


def test_an_english_clip_takes_no_options_of_another_family():
    assert Segmenter.from_pretrained(tiny_clip(), "maskclip").method == create_method("maskclip")[0]
