"""All families behind the interface of CLIP's tower, against transformers' own forward."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import BlipConfig, BlipForConditionalGeneration, BlipModel

from tiny import class_scores, tiny_clip, tiny_tokenizer
from tiny_families import (
    Tipsv2Model,
    blip_tokenizer,
    metaclip2_tokenizer,
    save,
    siglip_tokenizer,
    tiny_blip,
    tiny_metaclip2,
    tiny_siglip,
    tiny_tips,
    tips_tokenizer,
)
from wordmask import Segmenter, WordmaskError
from wordmask.methods import METHODS
from wordmask.towers.blip import BlipTower
from wordmask.towers.clip import ClipTower, Need
from wordmask.towers.families import load_clip
from wordmask.towers.siglip import SiglipTower
from wordmask.towers.tips import TipsTower

MAKERS = {
    "clip": tiny_clip,
    "blip": tiny_blip,
    "siglip": tiny_siglip,
    "metaclip_2": tiny_metaclip2,
}
TOKENIZERS = {
    "clip": tiny_tokenizer,
    "blip": blip_tokenizer,
    "siglip": siglip_tokenizer,
    "metaclip_2": metaclip2_tokenizer,
}
if Tipsv2Model:  # transformers 5.14 and newer
    MAKERS["tipsv2"], TOKENIZERS["tipsv2"] = tiny_tips, tips_tokenizer
NEW = list(MAKERS)[1:]
ALONE = [
    (name, variant)
    for name, method in sorted(METHODS.items())
    if method.network == "none"
    for variant in method.variants
]
CLASS_TOKEN = ["cliptrase", "sc_clip"]
TEMPLATES = ("a photo of the {}.", "itap of a {}")
NAMES = ["cat", "red car", "zebra crossing", "Dog"]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: make() for name, make in MAKERS.items()}


def pictures(*shape: int) -> torch.Tensor:
    small = torch.randn(
        shape[0], 3, shape[1] // 8, shape[2] // 8, generator=torch.Generator().manual_seed(3)
    )
    return F.interpolate(small, size=shape[1:], mode="bilinear")


def texts(count: int = 4) -> torch.Tensor:
    return F.normalize(torch.randn(count, 48, generator=torch.Generator().manual_seed(4)), dim=-1)


# -- pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(56, 56), (56, 88), (96, 40)])
@pytest.mark.parametrize("family", MAKERS)
@torch.no_grad()
def test_the_pass_is_transformers_own(models, family, size):
    """Every state, every attention map and the embedding; "bicubic" is their interpolation."""
    image = pictures(2, *size)
    tower = load_clip(models[family]).tower()
    model = copy.deepcopy(models[family])  # transformers leaves hooks of its own to read attention
    model.vision_model.set_attn_implementation("eager")
    resized = {} if family == "tipsv2" else {"interpolate_pos_encoding": True}
    mode = "bilinear_antialias" if family == "tipsv2" else "bicubic"
    theirs = model.vision_model(image, output_hidden_states=True, output_attentions=True, **resized)
    need = Need.of(states=range(tower.depth + 1), attention=range(1, tower.depth + 1))
    trace = tower.trace(image, need, mode)
    assert trace.grid == (size[0] // 8, size[1] // 8)
    for n in range(tower.depth + 1):
        assert torch.allclose(trace.states[n], theirs.hidden_states[n], atol=1e-5)
    for n in range(1, tower.depth + 1):
        assert torch.allclose(trace.attention[n], theirs.attentions[n - 1], atol=1e-5)
    if family == "blip":
        pooled = model.vision_proj(theirs.last_hidden_state[:, 0])
    else:
        pooled = model.get_image_features(image, **resized).pooler_output
    ours = tower.pool(tower.trace(image, Need.of(states=[tower.depth]), mode).states[8])
    assert ours.shape == (2, tower.width) == (2, 48)
    assert torch.allclose(ours, pooled, atol=1e-5)


@torch.no_grad()
def test_blip_scores_pairs_as_its_own_retrieval_does(models):
    model, image = models["blip"], pictures(2, 56, 56)
    inputs = blip_tokenizer()(["a photo of a cat"], return_tensors="pt")
    inputs.pop("token_type_ids", None)
    theirs = model(pixel_values=image, use_itm_head=False, **inputs).itm_score
    tower, text = load_clip(model).tower(), load_clip(model, tokenizer=blip_tokenizer()).text()
    state = tower.trace(image, Need.of(states=[tower.depth])).states[tower.depth]
    ours = F.normalize(tower.pool(state), dim=-1) @ text.encode(["cat"], ["a photo of a {}"]).T
    assert torch.allclose(ours, theirs, atol=1e-5)


@torch.no_grad()
def test_a_patch_of_siglip_is_what_its_head_makes_of_this_patch_alone(models):
    """With one patch the dense feature is the picture's embedding."""
    tower = load_clip(models["siglip"]).tower()
    state = tower.trace(pictures(2, 8, 8), Need.of(states=[tower.depth])).states[tower.depth]
    assert state.shape == (2, 1, 48)
    assert torch.allclose(tower.project(state)[:, 0], tower.pool(state), atol=1e-5)


@pytest.mark.parametrize(("method", "variant"), ALONE)
@pytest.mark.parametrize("family", NEW)
def test_every_method_runs(models, family, method, variant, monkeypatch):
    """Any size, a batch as its pictures, fused as explicit, and nothing is left behind."""
    monkeypatch.setattr("wordmask.pipeline.CPU_BATCH", 8)
    model, image = models[family], pictures(2, 64, 96)
    segmenter = Segmenter.from_pretrained(model, method, variant)
    if family == "siglip" and (variant == "feature-surgery" or method in CLASS_TOKEN):
        with pytest.raises(WordmaskError, match="needs a class token, and SiglipModel has none"):
            segmenter.encode(image)
        return
    encoding = segmenter.encode(image)
    assert encoding.features.shape == (2, 48, 8, 12)
    scores = class_scores(segmenter, encoding, texts())
    assert scores.shape == (2, 4, 8, 12)
    assert torch.isfinite(scores).all()
    for i in range(2):
        single = class_scores(segmenter, image[i : i + 1], texts())
        assert torch.allclose(single[0], scores[i], atol=2e-5)
    segmenter.tower.fused = False
    assert torch.allclose(segmenter.encode(image).features, encoding.features, atol=2e-5)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("family", NEW)
def test_methods_differ(models, family):
    """The attention that a method puts in place reaches the features."""
    features = [
        Segmenter.from_pretrained(models[family], name).encode(pictures(1, 64, 64)).features
        for name in ("clip", "maskclip", "clearclip")
    ]
    assert (features[0] - features[1]).abs().max() > 1e-2
    assert (features[1] - features[2]).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["blip", "siglip"])
def test_clearclip_is_its_formula(models, family):
    """Proj(softmax(QQ^T / sqrt d) V) of the last block, written out."""
    model, image = models[family], pictures(1, 56, 56)
    encoding = Segmenter.from_pretrained(model, "clearclip").encode(image)
    tower = load_clip(model).tower()
    block = model.vision_model.encoder.layers[-1]
    z = block.layer_norm1(tower.trace(image, Need.of(states=[7])).states[7])
    if family == "blip":
        q, _, v = block.self_attn.qkv(z).chunk(3, dim=-1)
        out = block.self_attn.projection
    else:
        q, v = block.self_attn.q_proj(z), block.self_attn.v_proj(z)
        out = block.self_attn.out_proj
    width = q.shape[-1] // 2
    heads = []
    for m in range(2):
        qm, vm = (x[0, :, m * width : (m + 1) * width] for x in (q, v))
        heads.append(torch.softmax(qm @ qm.T / width**0.5, dim=-1) @ vm)
    x = out(torch.cat(heads, dim=-1))
    expected = tower.project(x)[-49:]
    assert torch.allclose(encoding.features[0].flatten(1).T, expected, atol=1e-5)


def test_patches_are_where_they_are():
    """A picture whose right half is bright has features whose halves differ, on the right axis."""
    image = torch.zeros(1, 3, 64, 128)
    image[..., 64:] = 2.0
    for family in NEW:
        make = MAKERS[family]
        f = Segmenter.from_pretrained(make(), "clip").encode(image).features[0]
        across = (f[:, :, :6].mean((1, 2)) - f[:, :, -6:].mean((1, 2))).norm()
        down = (f[:, :3].mean((1, 2)) - f[:, -3:].mean((1, 2))).norm()
        assert across > down


# -- words ------------------------------------------------------------------------------------


@torch.no_grad()
def reference(family: str, model: Any, prompt: str) -> torch.Tensor:
    """One prompt by transformers' own path."""
    if family == "blip":
        inputs = blip_tokenizer()(prompt, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        return model.text_proj(model.text_encoder(**inputs).last_hidden_state[0, 0])
    context = model.config.text_config.max_position_embeddings
    inputs = TOKENIZERS[family]()(
        prompt, return_tensors="pt", padding="max_length", truncation=True, max_length=context
    )
    if family == "siglip":
        inputs.pop("attention_mask", None)
    return model.get_text_features(**inputs).pooler_output[0]


@pytest.mark.parametrize("family", NEW)
def test_texts_are_transformers_own(models, family, tmp_path):
    """Prompts of different lengths in one batch, each as it would be alone; the same from disk."""
    model = models[family]
    ours = load_clip(model, tokenizer=TOKENIZERS[family]()).text(tmp_path).encode(NAMES, TEMPLATES)
    for name, row in zip(NAMES, ours, strict=True):
        prompts = [reference(family, model, t.replace("{}", name)) for t in TEMPLATES]
        mean = torch.stack([F.normalize(p, dim=-1) for p in prompts]).mean(0)
        assert torch.allclose(row, F.normalize(mean, dim=-1), atol=1e-5)
    again = load_clip(model, tokenizer=TOKENIZERS[family]()).text(tmp_path).encode(NAMES, TEMPLATES)
    assert torch.equal(again, ours)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("family", NEW)
def test_a_long_name_is_cut_and_said(models, family):
    text = load_clip(models[family], tokenizer=TOKENIZERS[family]()).text()
    with pytest.warns(UserWarning, match="too long"):
        cut = text.encode(["cat " * 60], ["a {}"])
    assert torch.isfinite(cut).all()
    # 40, 16, 20 and 24 tokens, less the ends and "a"
    kept = {"blip": 37, "siglip": 14, "metaclip_2": 17, "tipsv2": 23}[family]
    same = text.encode(["cat " * (kept - 1) + "cat"], ["a {}"])
    assert torch.allclose(cut, same, atol=1e-6)


# -- loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", NEW)
def test_a_folder_is_the_model_in_memory(models, family, tmp_path):
    save(tmp_path, models[family], TOKENIZERS[family](), mean=[0.1, 0.2, 0.3])
    loaded = Segmenter.from_pretrained(str(tmp_path), "clearclip", device="cpu")
    memory = Segmenter.from_pretrained(models[family], "clearclip", tokenizer=TOKENIZERS[family]())
    assert loaded.tower.mean == (0.1, 0.2, 0.3)
    assert loaded.tower.std == (0.2, 0.3, 0.4)
    image = pictures(1, 64, 64)
    for segmenter in (loaded, memory):
        labels = segmenter(image, NAMES, "none")[0].labels
        assert labels.shape == (64, 64)
    assert (labels == loaded(image, NAMES, "none")[0].labels).all()


@pytest.mark.parametrize(
    ("family", "mean"),
    [
        ("blip", (0.48145466, 0.4578275, 0.40821073)),
        ("siglip", (0.5,) * 3),
        ("metaclip_2", (0.48145466, 0.4578275, 0.40821073)),
        ("tipsv2", (0.0,) * 3),
    ],
)
def test_a_family_has_its_own_normalisation(models, family, mean, tmp_path):
    if family not in models:
        pytest.skip("transformers is older than 5.14")
    assert Segmenter.from_pretrained(models[family], "clip").tower.mean == mean
    save(tmp_path, models[family], TOKENIZERS[family]())
    loaded = Segmenter.from_pretrained(str(tmp_path), "clip", device="cpu")
    assert loaded.tower.mean == mean
    assert loaded.with_method("sclip").tower.mean == mean
    assert type(loaded.with_method("sclip").tower) is type(loaded.tower)


def test_each_model_finds_its_tower(models):
    kinds = {"blip": BlipTower, "siglip": SiglipTower, "tipsv2": TipsTower}
    for family, model in models.items():
        assert type(load_clip(model).tower()) is kinds.get(family, ClipTower)


# -- bad input --------------------------------------------------------------------------------


def test_a_blip_without_contrastive_projections(models, tmp_path):
    config = models["blip"].config
    captioner = BlipForConditionalGeneration(config)
    for model in (BlipModel(config), captioner):
        with pytest.raises(WordmaskError, match="give a BlipForImageTextRetrieval") as caught:
            Segmenter.from_pretrained(model, "clip")
        assert "\n" not in str(caught.value)
    save(tmp_path, captioner, blip_tokenizer())
    with pytest.raises(WordmaskError, match="not a complete BlipForImageTextRetrieval"):
        Segmenter.from_pretrained(str(tmp_path), "clip", device="cpu")


def test_a_siglip_without_pooling_head():
    with pytest.raises(WordmaskError, match="give a SiglipModel"):
        Segmenter.from_pretrained(tiny_siglip(vision_use_head=False), "clip")


def test_another_kind_of_model_is_named(models, tmp_path):
    save(tmp_path, models["siglip"], siglip_tokenizer())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "siglip2"}))
    with pytest.raises(WordmaskError, match="'siglip2' model from"):
        Segmenter.from_pretrained(str(tmp_path), "clip", device="cpu")


def test_words_need_a_tokenizer(models):
    for family in ("blip", "siglip"):
        segmenter = Segmenter.from_pretrained(models[family], "clip")
        with pytest.raises(WordmaskError, match="names need a tokenizer; pass tokenizer="):
            segmenter(pictures(1, 64, 64), ["cat"], "none")


def test_a_tokenizer_of_another_model(models):
    big = blip_tokenizer()
    big.add_tokens([f"word{i}" for i in range(9)])
    text = load_clip(models["blip"], tokenizer=big).text()
    with pytest.raises(WordmaskError, match="tokenizer that belongs to these weights"):
        text.encode(["word8"], ["a {}"])
    bare = siglip_tokenizer()
    bare.pad_token = None
    with pytest.raises(WordmaskError, match="pad"):
        load_clip(models["siglip"], tokenizer=bare).text().encode(["cat"], ["a {}"])
    with pytest.raises(WordmaskError, match=r"\[CLS\]"):
        load_clip(models["blip"], tokenizer=siglip_tokenizer()).text().encode(["cat"], ["a {}"])


def test_blip_config_is_the_hubs():
    """The default configuration is BLIP base's: 384 pixels, patches of 16, 256 joint channels."""
    config = BlipConfig()
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (384, 16)
    assert config.image_text_hidden_size == 256
