"""The built-in tiny latent diffusion: complete, offline, finite, and honest about its attention."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import wordmask
from wordmask import toybox

diffusers = pytest.importorskip(
    "diffusers", reason="diffusers, an optional extra, is not installed"
)

FOLDER = Path(wordmask.__file__).parent / "networks" / "tiny-diffusion"
SIDE = 48  # latents of a 96-pixel scene
WEIGHTS = sorted(FOLDER.rglob("*.safetensors"))


class Keep:
    """An attention processor that keeps the weights (heads, L, L) of self-attention."""

    def __call__(self, attention, hidden_states, encoder_hidden_states=None, **_):
        q, k, v = (
            attention.head_to_batch_dim(project(hidden_states))
            for project in (attention.to_q, attention.to_k, attention.to_v)
        )
        self.weights = attention.get_attention_scores(q, k)
        return attention.to_out[0](attention.batch_to_head_dim(self.weights @ v))


@pytest.fixture(scope="module")
def pipeline():
    """Load the pipeline with every connection refused."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_, **__):
            raise AssertionError("tiny-diffusion tried to reach a network")

        patch.setattr(socket.socket, "connect", refuse)
        loaded = diffusers.StableDiffusionPipeline.from_pretrained(FOLDER, safety_checker=None)
    return loaded.to(dtype=torch.float32)


def to_input(scene: toybox.Scene) -> torch.Tensor:
    return torch.from_numpy(scene.image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@torch.no_grad()
def one_pass(pipeline, scene: toybox.Scene, seed: int, blocks) -> tuple[torch.Tensor, list]:
    """Give the noise told at t = 101 with the empty prompt, and each layer's (heads, L, L)."""
    attentions = [a.transformer_blocks[0].attn1 for block in blocks for a in block.attentions]
    before, keeps = [a.processor for a in attentions], [Keep() for _ in attentions]
    for attention, keep in zip(attentions, keeps, strict=True):
        attention.set_processor(keep)
    try:
        latents = pipeline.vae.encode(to_input(scene)).latent_dist.mean
        latents = latents * pipeline.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
        pipeline.scheduler.set_timesteps(50)
        step = pipeline.scheduler.timesteps[45:46]
        noisy = pipeline.scheduler.add_noise(latents, noise, step)
        prompt, _ = pipeline.encode_prompt("", "cpu", 1, False)
        told = pipeline.unet(noisy, step, prompt).sample
    finally:
        for attention, processor in zip(attentions, before, strict=True):
            attention.set_processor(processor)
    assert float((told - noise).square().mean()) < 0.7 * float(noise.square().mean())
    return told, [keep.weights for keep in keeps]


def matrix_of(weights: torch.Tensor) -> torch.Tensor:
    """Make the row-stochastic matrices of CLIPer's chain from weights (heads, L, L)."""
    weights = weights / (weights.amax(1, keepdim=True) + 1e-5)
    weights = weights * (weights >= 0.1)
    return weights / (weights.sum(2, keepdim=True) + 1e-5)


def test_the_folder_is_whole_and_small() -> None:
    assert json.loads((FOLDER / "model_index.json").read_text())["_class_name"] == (
        "StableDiffusionPipeline"
    )
    assert len(WEIGHTS) == 3
    assert sum(path.stat().st_size for path in WEIGHTS) < 6_000_000
    for path in WEIGHTS:
        with safe_open(path, "pt") as file:
            types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert types <= {"F16", "I64"}, path
    assert (FOLDER / "README.md").read_text().startswith("---\nlicense: apache-2.0")


def test_the_schedule_is_stable_diffusions(pipeline) -> None:
    pipeline.scheduler.set_timesteps(50)
    assert pipeline.scheduler.timesteps[45] == 101
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert float(pipeline.scheduler.alphas_cumprod[999]) == pytest.approx(0.00466, abs=1e-5)
    assert pipeline.vae.config.scaling_factor == 0.18215


def test_a_pass_is_finite_and_attends_at_the_latents_resolution(pipeline) -> None:
    scene = toybox.render(1, 96)
    unet = pipeline.unet
    told, weights = one_pass(pipeline, scene, 0, (unet.down_blocks[0], unet.up_blocks[-1]))
    assert told.shape == (1, 4, SIDE, SIDE)
    assert told.isfinite().all()
    assert len(weights) == 5  # two layers down, three up
    for weight in weights:
        assert weight.shape == (2, SIDE**2, SIDE**2)
        assert weight.isfinite().all()
        torch.testing.assert_close(weight.sum(2), torch.ones(2, SIDE**2))


def test_the_autoencoder_keeps_what_a_scene_shows(pipeline) -> None:
    with torch.no_grad():
        images = torch.cat([to_input(toybox.render(2 * 10**9 + i, 96)) for i in range(8)])
        latents = pipeline.vae.encode(images).latent_dist.mean
        again = pipeline.vae.decode(latents).sample.clamp(-1, 1)
    assert 10 * torch.log10(4 / (again - images).square().mean()) > 24
    # Scaled latents are what the schedule's noise is made for.
    assert 0.8 < float(latents.std()) * pipeline.vae.config.scaling_factor < 1.25


def test_the_self_attention_knows_more_of_parts_than_chance(pipeline) -> None:
    """Its weight stays in the part it starts from more than evenly spread weight would.

    That is all it is good for: the chain of the four maps does not help, as the card says.
    """
    kept, chance = [], []
    for index in range(8):
        scene = toybox.render(2 * 10**9 + index, 64)
        parts = torch.from_numpy(scene.parts[::2, ::2].copy()).flatten()
        same = parts[:, None] == parts[None]
        _, weights = one_pass(pipeline, scene, index, [pipeline.unet.up_blocks[-1]])
        matrices = matrix_of(torch.cat([weights[1], weights[0]]))
        kept.append(float((matrices * same).sum(2).mean()))
        chance.append(float(same.float().mean()))
    assert sum(kept) / 8 > sum(chance) / 8 + 0.05, (kept, chance)
