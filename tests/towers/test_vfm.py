"""VFMs of every family against transformers' own forward; loading them; the refiner with one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

import wordmask
from places import GOLDEN
from tiny import save_tiny_clip, tiny_clip, tiny_sam, tiny_vfm
from wordmask import Segmenter, WordmaskError
from wordmask.refiners import RefinerInput, create_refiner
from wordmask.towers import memory
from wordmask.towers.auxiliary import AuxiliaryModels
from wordmask.towers.vfm import IMAGENET, DiffusionVfm, VfmTower, load_vfm

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
WIDE = {**SHAPE, "intermediate_size": 64}
MAE = {
    "decoder_hidden_size": 16,
    "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1,
    "decoder_intermediate_size": 32,
}
MAKE = {
    "dino": lambda: tiny_vfm(image_size=32),
    "vit with a head": lambda: ViTForImageClassification(ViTConfig(**WIDE)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SHAPE, mlp_ratio=2)),
    "registers": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**SHAPE, mlp_ratio=2, num_register_tokens=4)
    ),
    "dinov3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**WIDE, num_register_tokens=4)),
    "mae": lambda: ViTMAEForPreTraining(ViTMAEConfig(**WIDE, **MAE)),
}
RADIO = {"num_cls_tokens": 2, "num_registers": 3, "max_img_size": 64}
if hasattr(transformers, "RadioModel"):  # 5.13 and newer
    MAKE["radio"] = lambda: transformers.RadioModel(
        transformers.RadioConfig(**SHAPE, **RADIO, mlp_ratio=2.0, norm_mean=[0.4, 0.5, 0.6])
    )
PROJECTIONS = {"queries": "q_proj", "keys": "k_proj", "values": "v_proj"}


def unit_pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(shape[0], 3, 4, 5, generator=generator)
    return F.interpolate(small, size=shape[1:], mode="bilinear")


def normalised(image: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(x)[:, None, None] for x in IMAGENET)
    return (image - mean) / std


@pytest.fixture(scope="module")
def models():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = {name: make().eval() for name, make in MAKE.items()}
        for model in made.values():
            for parameter in model.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
    return made


@torch.no_grad()
def own_forward(name: str, model: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Patch tokens (B, L, D) of transformers' forward, its position embedding by size."""
    if name == "radio":  # takes pixels in [0, 1]
        return model(image).features
    pixels = normalised(image)
    if name == "mae":
        ratio, model.config.mask_ratio = model.config.mask_ratio, 0.0
        order = torch.arange(image[0, 0].numel() // 64).float().expand(len(image), -1)
        out = model.vit(pixels, noise=order, interpolate_pos_encoding=True).last_hidden_state
        model.config.mask_ratio = ratio
        return out[:, 1:]
    plain = name in ("dino", "vit with a head")
    network = model.vit if name == "vit with a head" else model
    extra = {"interpolate_pos_encoding": True} if plain else {}
    out = network(pixels, **extra).last_hidden_state
    return out[:, -(image[0, 0].numel() // 64) :]


@pytest.mark.parametrize("name", list(MAKE))
class TestEveryFamily:
    def test_equals_transformers_on_the_native_grid(self, models, name):
        image = unit_pictures(2, 32, 32)
        ours = VfmTower(models[name]).features(image)
        assert ours.shape == (2, 32, 4, 4)
        expected = own_forward(name, models[name], image)
        assert torch.allclose(ours.flatten(2).transpose(1, 2), expected, atol=1e-6)

    def test_positions_on_another_grid(self, models, name):
        """By size as transformers has it, but DINO and DINOv2 by scale factor as their own code."""
        image = unit_pictures(1, 40, 72)
        tower = VfmTower(models[name])
        ours = tower.features(image).flatten(2).transpose(1, 2)
        theirs = own_forward(name, models[name], image)
        if name in ("registers", "dinov3", "mae", "radio"):
            assert torch.allclose(ours, theirs, atol=1e-5)
            return
        assert not torch.allclose(ours, theirs, atol=1e-3)
        embeddings = tower.model.embeddings
        table = embeddings.position_embeddings[0].detach()
        plane = table[1:].T.reshape(1, -1, 4, 4)
        scale = ((5 + 0.1) / 4, (9 + 0.1) / 4)
        resized = F.interpolate(plane, scale_factor=scale, mode="bicubic")[0].flatten(1).T
        with torch.no_grad():
            patches = embeddings.patch_embeddings(normalised(image))[0]
            tokens = tower._embed(normalised(image), (5, 9))[0]
        assert torch.allclose(tokens[1:] - patches, resized, atol=1e-5)

    def test_a_picture_does_not_depend_on_its_batch(self, models, name):
        tower, image = VfmTower(models[name]), unit_pictures(3, 40, 56)
        batch = tower.features(image)
        for i in range(3):
            assert torch.allclose(tower.features(image[i : i + 1])[0], batch[i], atol=1e-5)

    def test_any_size(self, models, name):
        tower = VfmTower(models[name])
        assert tower.features(unit_pictures(1, 8, 8)).shape == (1, 32, 1, 1)
        assert tower.features(unit_pictures(1, 43, 101)).shape == (1, 32, 5, 13)
        assert tower.features(unit_pictures(1, 45, 9)).shape == (1, 32, 6, 1)
        assert torch.isfinite(tower.features(torch.zeros(1, 3, 30, 50))).all()

    @pytest.mark.parametrize("facet", list(PROJECTIONS))
    def test_queries_keys_values(self, models, name, facet):
        model, image, outputs = models[name], unit_pictures(2, 32, 32), []
        tower = VfmTower(model)
        ours = tower.features(image, facet)
        layers = [m for n, m in tower.model.named_modules() if n.endswith(PROJECTIONS[facet])]
        hook = layers[-1].register_forward_hook(lambda module, args, out: outputs.append(out))
        own_forward(name, model, image)
        hook.remove()
        assert torch.allclose(ours.flatten(2).transpose(1, 2), outputs[0][:, -16:], atol=1e-6)

    def test_nothing_is_left_behind(self, models, name):
        model = models[name]
        before = {k: v.clone() for k, v in model.state_dict().items()}
        VfmTower(model).features(unit_pictures(1, 40, 56), "keys")
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    def test_by_folder_it_is_the_same(self, models, name, tmp_path):
        models[name].save_pretrained(tmp_path)
        image = unit_pictures(1, 40, 56)
        tower = load_vfm(tmp_path)
        own = ((0.0,) * 3, (1.0,) * 3) if name == "radio" else IMAGENET
        assert (tower.mean, tower.std) == own
        assert tower.source == str(tmp_path)
        assert torch.equal(tower.features(image), VfmTower(models[name]).features(image))


def test_rows_and_columns_are_not_swapped():
    image = torch.zeros(1, 3, 32, 64)
    image[..., 32:] = 1.0
    f = VfmTower(tiny_vfm(image_size=32)).features(image)[0]
    across = (f[:, :, 0] - f[:, :, -1]).norm()
    assert across > (f[:, 0] - f[:, -1]).norm()


@pytest.mark.skipif("radio" not in MAKE, reason="transformers is older than 5.13")
def test_radio_from_a_folder_normalises_by_itself(models, tmp_path):
    """Weights by the names of its release; what a preprocessor says beside it is not applied."""
    models["radio"].save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3})
    )
    tower, image = load_vfm(str(tmp_path)), unit_pictures(1, 40, 72)
    ours = tower.features(image).flatten(2).transpose(1, 2)
    assert torch.allclose(ours, own_forward("radio", models["radio"], image), atol=1e-5)


def test_sam_square():
    model, image = tiny_sam(), unit_pictures(2, 64, 64)
    with torch.no_grad():
        expected = model.vision_encoder(normalised(image)).last_hidden_state
    assert torch.allclose(VfmTower(model).features(image), expected, atol=1e-5)
    keys = VfmTower(model).features(image, "keys")
    assert keys.shape == (2, 32, 4, 4)
    assert not torch.allclose(keys, VfmTower(model).features(image, "values"))


def test_sam_other_shapes():
    """The long side at SAM's size, the pad's features cut off; as given to the whole encoder."""
    model, image = tiny_sam(), unit_pictures(1, 40, 80)
    ours = VfmTower(model).features(image)
    assert ours.shape == (1, 32, 2, 4)
    resized = F.interpolate(image, size=(32, 64), mode="bilinear", antialias=True)
    padded = F.pad(normalised(resized), (0, 0, 0, 32))
    with torch.no_grad():
        expected = model.vision_encoder(padded).last_hidden_state[:, :, :2]
    assert torch.allclose(ours, expected, atol=1e-5)


def test_stable_diffusion():
    pytest.importorskip("diffusers")
    tower = load_vfm(GOLDEN / "sd_model")
    assert isinstance(tower, DiffusionVfm)
    image = unit_pictures(2, 64, 128)
    features = tower.features(image)
    assert features.shape[0] == 2
    assert features.shape[3] == 2 * features.shape[2]
    assert torch.allclose(tower.features(image[1:]), features[1:], atol=1e-5)
    assert torch.equal(tower.features(image), features)
    with pytest.raises(WordmaskError, match="facet='keys'"):
        tower.features(image, "keys")


def test_half_precision_gives_float32():
    model, image = tiny_vfm(image_size=32), unit_pictures(1, 40, 56)
    full = VfmTower(model).features(image)
    half = VfmTower(model.bfloat16()).features(image)
    assert half.dtype == torch.float32
    assert F.cosine_similarity(half.flatten(), full.flatten(), dim=0) > 0.999


# -- loading ------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    tiny_vfm().save_pretrained(tmp_path / "vfm")
    return tmp_path / "vfm"


def test_normalisation_of_the_checkpoint(folder):
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    tower, image = load_vfm(folder), unit_pictures(1, 56, 56)
    assert tower.mean == (0.5, 0.4, 0.3)
    moved = (image - torch.tensor(tower.mean)[:, None, None]) / torch.tensor(tower.std)[
        :, None, None
    ]
    shift, scale = (torch.tensor(x)[:, None, None] for x in IMAGENET)
    plain = VfmTower(tiny_vfm()).features(moved * scale + shift)
    assert torch.allclose(tower.features(image), plain, atol=1e-5)


def test_built_in():
    """The network that ships with the package, by its name."""
    if not (Path(wordmask.__file__).parent / "networks" / "tiny-vfm" / "config.json").is_file():
        pytest.skip("this copy of the package has no built-in VFM")
    tower = load_vfm("wordmask/tiny-vfm")
    features = tower.features(unit_pictures(1, 10 * tower.patch, 14 * tower.patch))
    assert features.shape[2:] == (10, 14)
    assert tower.source == "wordmask/tiny-vfm"
    assert (tower.mean, tower.std) != IMAGENET
    clip = tiny_clip(layers=2)
    segmenter = Segmenter.from_pretrained(clip, "proxyclip", networks={"vfm": "wordmask/tiny-vfm"})
    assert segmenter.encode(torch.zeros(1, 3, 48, 48)).grid == (48 // tower.patch,) * 2


def message(source: object) -> str:
    with pytest.raises(WordmaskError) as caught:
        load_vfm(source, local_files_only=True)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_folder_that_is_missing(tmp_path):
    assert "give a hub id or an existing folder" in message(tmp_path / "nothing")
    assert "has no config.json" in message(tmp_path)


def test_a_hub_id_that_is_not_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    text = message("facebook/dino-vits99")
    assert "nothing of it is in the cache: `hf download facebook/dino-vits99 --include" in text
    assert "as the VFM" in text


def test_half_downloaded(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert f"cannot load the VFM in {folder}" in message(folder)
    weights.unlink()
    assert "lacks model.safetensors or pytorch_model.bin" in message(folder)


def test_a_checkpoint_that_lacks_tensors(folder):
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    text = message(folder)
    assert "lack 48 tensors" in text
    assert "not a complete DINO" in text


def test_the_wrong_kind(tmp_path):
    save_tiny_clip(tmp_path / "clip", layers=1, text_layers=1)
    text = message(tmp_path / "clip")
    assert "got a 'clip' model" in text
    assert "DINOv2" in text
    assert "got a 'clip' model from CLIPModel" in message(tiny_clip(layers=1, text_layers=1))
    assert "got a 'Linear' model" in message(torch.nn.Linear(2, 2))
    assert "got a 'int' model" in message(3)


def test_too_large_is_found_before_the_weights_are_read(folder, monkeypatch):
    """The weights are broken, and the message is about memory."""
    (folder / "model.safetensors").write_bytes(b"broken")
    parameters = sum(p.numel() for p in tiny_vfm().parameters())
    monkeypatch.setattr(memory, "free_memory", lambda device: 3 * parameters)
    monkeypatch.setattr("wordmask.towers.vfm.free_memory", lambda device: 3 * parameters)
    text = message(folder)
    assert "are free" in text
    assert "in bfloat16 would fit" in text
    monkeypatch.setattr(memory, "free_memory", lambda device: parameters)
    monkeypatch.setattr("wordmask.towers.vfm.free_memory", lambda device: parameters)
    assert "free some memory" in message(folder)


def test_a_smaller_vfm_is_named(tmp_path, monkeypatch):
    """DINOv2 giant by its configuration alone, where 1 GiB is free."""
    config = Dinov2Config(
        hidden_size=1536, num_hidden_layers=40, num_attention_heads=24, use_swiglu_ffn=True
    )
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**30)
    monkeypatch.setattr("wordmask.towers.vfm.free_memory", lambda device: 2**30)
    text = message(tmp_path)
    assert "needs about 4.7 GiB on cpu, but 1.0 GiB are free" in text
    assert "facebook/dinov2-base (0.32 GiB) would fit" in text


def test_a_picture_smaller_than_one_patch():
    with pytest.raises(WordmaskError, match="got a picture of 40 x 7 pixels for in memory"):
        VfmTower(tiny_vfm()).features(torch.zeros(1, 3, 40, 7))


# -- the refiner ------------------------------------------------------------


def prepared(options=None, height=64, width=96, variant=None):
    picture = RefinerInput(unit_pictures(1, height, width)[0], torch.zeros(3, 8, 8))
    refiner, _ = create_refiner("vfm", variant, options)
    return refiner, refiner.prepare(picture, AuxiliaryModels({"vfm": tiny_vfm()})), picture


def test_the_refiner_applies_the_attention_once():
    refiner, affinity, picture = prepared()
    features = VfmTower(tiny_vfm()).features(picture.image[None])[0].flatten(1).T
    c = F.cosine_similarity(features[:, None], features[None], dim=-1)
    weights = torch.softmax((3 * c).masked_fill(c < 1.2 * c.mean(), -torch.inf), dim=-1)
    scores = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(1))
    enlarged = F.interpolate(scores[None], size=(8, 12), mode="bilinear")[0]
    expected = (weights @ enlarged.flatten(1).T).T.unflatten(1, (8, 12))
    refined = refiner.refine(affinity, scores)
    assert torch.allclose(refined, expected, atol=1e-5)
    assert refined.amax() <= scores.amax() + 1e-6
    assert refined.amin() >= scores.amin() - 1e-6


def test_the_size_that_the_refiner_works_at():
    """Larger pictures are brought to the short side, smaller ones are left, `cliper` leaves all."""
    sizes = {"short_side": 32}
    assert prepared(sizes)[1].grid == (4, 6)
    assert prepared(sizes, 24, 48)[1].grid == (3, 6)
    assert prepared(None, 24, 48)[1].grid == (3, 6)
    assert prepared(None, 64, 96, "cliper")[1].grid == (8, 12)


@pytest.mark.parametrize("options", [{"gamma": -1.0}, {"threshold": 2.0}, {"short_side": 0}])
def test_bad_options_of_the_refiner(options):
    with pytest.raises(
        WordmaskError, match=f"{next(iter(options))}={next(iter(options.values()))}"
    ):
        create_refiner("vfm", None, options)


def test_a_folder_is_read_once(folder):
    """What is loaded is kept: the folder may go."""
    networks = AuxiliaryModels({"vfm": folder})
    first = networks.vfm
    shutil.rmtree(folder)
    assert networks.vfm is first
    networks.release("vfm")
    with pytest.raises(WordmaskError):
        _ = networks.vfm
