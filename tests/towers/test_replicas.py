"""Folders as the hub holds them load, and give what transformers and diffusers give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPTokenizer

from replicas import build, diffusion, image_text, vision
from replicas.files import MERGES, clip_vocabulary, put_into_cache
from wordmask.towers.auxiliary import AuxiliaryModels
from wordmask.towers.clip import Need
from wordmask.towers.families import load_clip
from wordmask.towers.sam import load_sam
from wordmask.towers.vfm import load_vfm

CPU = torch.device("cpu")
NAMES = ["cat", "a dog in the car", "photo"]


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def pooled(loaded, image: torch.Tensor) -> torch.Tensor:
    tower = loaded.tower()
    trace = tower.trace(image, Need.of(states=[tower.depth]))
    return tower.pool(trace.states[tower.depth])


@pytest.mark.parametrize("name", image_text.CLIPS)
@torch.no_grad()
def test_clip(name, tmp_path):
    model = build(name, tmp_path)
    loaded = load_clip(tmp_path)
    image = pixels(1, 3, *[model.config.vision_config.image_size] * 2)
    theirs = model.get_image_features(image).pooler_output
    assert torch.allclose(pooled(loaded, image), theirs, atol=1e-5)
    assert (loaded.mean, loaded.std) == (tuple(image_text.MEAN), tuple(image_text.STD))
    tokenizer = CLIPTokenizer(vocab=clip_vocabulary(), merges=MERGES)
    tokens = tokenizer(NAMES, padding="max_length", max_length=77, return_tensors="pt")
    theirs = model.get_text_features(input_ids=tokens.input_ids).pooler_output
    ours = loaded.text(tmp_path / "cache").encode(NAMES, ["{}"])
    assert torch.allclose(ours, F.normalize(theirs, dim=-1), atol=1e-6)


@torch.no_grad()
def test_blip(tmp_path):
    model = build(image_text.BLIP, tmp_path)
    loaded = load_clip(tmp_path)
    image = pixels(1, 3, 384, 384)
    theirs = F.normalize(
        model.vision_proj(model.vision_model(image).last_hidden_state[:, 0]), dim=-1
    )
    assert torch.allclose(F.normalize(pooled(loaded, image), dim=-1), theirs, atol=1e-5)
    tokens = loaded.tokenizer(["a cat", "the red dog"], padding=True, return_tensors="pt")
    states = model.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    theirs = F.normalize(model.text_proj(states[:, 0]), dim=-1)
    ours = loaded.text(tmp_path / "cache").encode(["a cat", "the red dog"], ["{}"])
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("name", image_text.SIGLIPS)
@torch.no_grad()
def test_siglip(name, tmp_path):
    if image_text.SIGLIPS[name] == 1:
        pytest.importorskip("sentencepiece", reason="the extra siglip is not installed")
        pytest.importorskip("google.protobuf", reason="the extra siglip is not installed")
    model = build(name, tmp_path)
    loaded = load_clip(tmp_path)
    image = pixels(1, 3, 224, 224)
    theirs = model.get_image_features(image).pooler_output
    assert torch.allclose(pooled(loaded, image), theirs, atol=1e-5)
    words = ["a cat", "the red dog", "zebra crossing"]
    if image_text.SIGLIPS[name] == 1:  # SentencePiece puts a space before the text, Gemma does not
        pieces = ["▁the", "▁red", "▁dog", "</s>"]
    else:
        pieces = ["the", "▁red", "▁dog", "<eos>"]
    ids = loaded.tokenizer(words[1]).input_ids
    assert loaded.tokenizer.convert_ids_to_tokens(ids) == pieces
    tokens = loaded.tokenizer(words, padding="max_length", max_length=64, return_tensors="pt")
    theirs = model.get_text_features(tokens.input_ids).pooler_output
    ours = loaded.text(tmp_path / "cache").encode(words, ["{}"])
    assert torch.allclose(ours, F.normalize(theirs, dim=-1), atol=1e-6)


@pytest.mark.parametrize("name", vision.VFMS)
@torch.no_grad()
def test_vfm(name, tmp_path):
    model = build(name, tmp_path)
    tower = load_vfm(str(tmp_path))
    side = model.config.image_size
    image = pixels(1, 3, side, side)
    mean, std = (
        torch.tensor(vision.IMAGENET[f"image_{x}"])[:, None, None] for x in ("mean", "std")
    )
    theirs = model((image - mean) / std).last_hidden_state
    ours = tower.features(image).flatten(2).transpose(1, 2)
    assert torch.allclose(ours, theirs[:, -ours.shape[1] :], atol=1e-4)


@pytest.mark.parametrize("name", vision.SAMS)
@torch.no_grad()
def test_sam(name, tmp_path):
    model = build(name, tmp_path)
    tower = load_sam(tmp_path, device=CPU, dtype=torch.float32)
    state = tower.model.state_dict()
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    image, points = pixels(3, 64, 64), torch.tensor([[[20.5, 30.5]]])
    mean, std = (
        torch.tensor(vision.IMAGENET[f"image_{x}"])[:, None, None] for x in ("mean", "std")
    )
    theirs = model(
        ((image - mean) / std)[None],
        input_points=points[None] - 0.5,
        input_labels=torch.ones(1, 1, 1, dtype=torch.int),
    ).pred_masks[0, 0]
    ours = tower.embed(image).predict(points).logits[0]
    assert torch.allclose(ours, theirs, atol=1e-4)


@torch.no_grad()
def test_the_encoder_of_sam_as_vfm(tmp_path):
    """The configuration's parts have an empty model type."""
    model = build("facebook/sam-vit-base", tmp_path)
    tower = load_vfm(str(tmp_path))
    image = pixels(1, 3, 64, 64)
    mean, std = (
        torch.tensor(vision.IMAGENET[f"image_{x}"])[:, None, None] for x in ("mean", "std")
    )
    theirs = model.vision_encoder((image - mean) / std).last_hidden_state
    assert torch.allclose(tower.features(image), theirs, atol=1e-5)


@pytest.mark.parametrize("name", diffusion.PIPELINES)
@torch.no_grad()
def test_stable_diffusion(name, tmp_path):
    pytest.importorskip("diffusers", reason="the extra diffusion is not installed")
    same_as_diffusers(build(name, tmp_path), tmp_path, diffusion.PIPELINES[name].version)


def same_as_diffusers(parts, folder, version, tolerance=1e-5):
    from wordmask.towers.diffusion import load_diffusion

    text, unet, vae = parts
    tower = load_diffusion(folder)
    tokenizer = CLIPTokenizer(vocab=clip_vocabulary(), merges=MERGES)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    pad = end if version == 1 else 0  # version 2 pads with "!"
    empty = text(torch.tensor([[start, end, *[pad] * 75]])).last_hidden_state
    assert torch.allclose(tower.prompt, empty, atol=tolerance)
    latent = pixels(1, 4, 8, 8)
    args = latent, 101, empty
    assert torch.allclose(tower.unet(*args).sample, unet.eval()(*args).sample, atol=tolerance)
    image = pixels(1, 3, 64, 64)
    theirs = vae.eval().encode(image).latent_dist.mean
    assert torch.allclose(tower.vae.encode(image).latent_dist.mean, theirs, atol=tolerance)


@torch.no_grad()
def test_half_precision_alone(tmp_path, capfd, recwarn):
    """Folders with the fp16 variant only are read, in single precision too, and nothing is said."""
    pytest.importorskip("diffusers", reason="the extra diffusion is not installed")
    name = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    parts = build(name, tmp_path / "sd", formats=("fp16.safetensors",))
    written = capfd.readouterr().err  # by the building
    recwarn.clear()
    held = {path.name for path in (tmp_path / "sd" / "unet").iterdir()}
    assert held == {"config.json", "diffusion_pytorch_model.fp16.safetensors"}
    for part in parts:  # what was written
        part.half().float()
    same_as_diffusers(parts, tmp_path / "sd", version=1, tolerance=1e-4)
    assert capfd.readouterr().err == "", written
    assert not [str(w.message) for w in recwarn]
    tower = load_vfm(str(tmp_path / "sd"), dtype=torch.bfloat16)
    assert tower.tower.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["wordmask/tiny-diffusion", "a folder", "a hub id"])
def test_a_diffusion_model_as_vfm(name, tmp_path):
    pytest.importorskip("diffusers", reason="the extra diffusion is not installed")
    if name != "wordmask/tiny-diffusion":
        build("Manojb/stable-diffusion-2-1-base", tmp_path / "sd")
    if name == "a hub id":
        put_into_cache(tmp_path / "hub", "owner/sd", tmp_path / "sd", main="a" * 40)
    source = {"a folder": str(tmp_path / "sd"), "a hub id": "owner/sd"}.get(name, name)
    tower = load_vfm(source, cache_dir=tmp_path / "hub", local_files_only=True)
    features = tower.features(pixels(1, 3, 64, 96))
    assert features.shape[3] * 2 == features.shape[2] * 3  # the aspect of the picture
    assert torch.isfinite(features).all()
    networks = AuxiliaryModels({"vfm": source}, cache_dir=tmp_path / "hub", local_files_only=True)
    networks.load(["vfm"])
    assert networks.describe()["vfm"]["source"] == source


@pytest.mark.parametrize("formats", [("bin",), ("safetensors",)])
def test_shards(formats, tmp_path):
    name = "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
    model = build(name, tmp_path, formats)
    assert len(list(tmp_path.glob(f"*-of-00002.{formats[0]}"))) == 2
    state = load_clip(tmp_path).model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_what_is_not_read_may_be_anything(tmp_path):
    """Only one format of the weights is opened."""
    build("openai/clip-vit-large-patch14", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert load_clip(tmp_path).tokenizer is not None
