"""Train the built-in tiny latent diffusion on toybox scenes, in diffusers format.

First an AutoencoderKL learns to write pieces of scenes as latents of half their side; then a
UNet2DConditionModel, conditioned on the empty prompt only, learns to tell the noise in them. Both
see pieces of scenes at their own scale, never a mask and never a word. What the package uses is
the UNet's self-attention at little noise (t = 101 of 1000): CLIPer multiplies its maps with a
coarse class map to bring it to the edges of things. So time steps are drawn with little noise in
favour, and every test measures just that: the mIoU of a coarse, noisy map before and after. An
auxiliary loss (`Neighbours`, --near) asks those maps to tell what lies near. In the 600 steps of
the shipped weights it did not make the compensation help; see the model card.

    python training/diffusion.py --out runs/diffusion             # resumes where it stopped
    python training/diffusion.py --out runs/diffusion --pictures runs/diffusion/pictures
    python training/diffusion.py --out runs/diffusion --measure   # also with --clip FOLDER
    python training/diffusion.py --out runs/diffusion --export src/wordmask/networks/tiny-diffusion
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from clip import build_tokenizer
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from wordmask import toybox

SIZE = 96  # the scenes of tiny-clip; the networks take any even side
SHRINK = 2  # pixels per latent
CELL = 8  # pixels per cell of the coarse map that is measured: tiny-clip's patch
STEP = 101  # the time step that CLIPer reads: entry 45 of PNDM's 51
MARGIN = 16  # pixels around a piece that the VAE sees and the UNet does not
FIRST_TRAINING_SEED = 3 * 10**9  # other scenes than those of the other networks
FIRST_TEST_SEED = 10**9
# Sides of the pieces in pixels, how many a step shows, and how often: most of the run, then last.
PIECES = ((32, 16), (48, 8), (64, 4), (96, 2))
OFTEN = (0.5, 0.35, 0.15, 0.0)
OFTEN_LAST = (0.2, 0.3, 0.3, 0.2)


# ---- model ---------------------------------------------------------------------------------------


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE,
        scaling_factor=0.18215,
    )


def build_unet(text_width: int) -> UNet2DConditionModel:
    """Four levels and three attentions a level going up, as Stable Diffusion has; few channels.

    diffusers calls the number of heads attention_head_dim.
    """
    return UNet2DConditionModel(
        sample_size=SIZE // SHRINK,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(32, 48, 48, 48),
        layers_per_block=2,
        cross_attention_dim=text_width,
        attention_head_dim=(2, 3, 3, 3),
        norm_num_groups=8,
        use_linear_projection=True,
    )


def build_scheduler() -> PNDMScheduler:
    return PNDMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_text_encoder(tokenizer) -> CLIPTextModel:
    """A text tower that is never trained: all that the UNet is given is the empty prompt."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=32,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


class Networks:
    """The four networks of a pipeline and its schedule, built from a seed."""

    def __init__(self, seed: int, device: torch.device):
        torch.manual_seed(seed)
        self.tokenizer = build_tokenizer(16)
        self.text_encoder = build_text_encoder(self.tokenizer).to(device)
        self.vae = build_vae().to(device)
        self.unet = build_unet(self.text_encoder.config.hidden_size).to(device)
        self.scheduler = build_scheduler()
        self.device = device

    @torch.no_grad()
    def empty_prompt(self) -> Tensor:
        """Encode the empty prompt as StableDiffusionPipeline does: (1, 16, 32)."""
        ids = self.tokenizer(
            "", padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(ids.to(self.device))[0]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, H, W, 3) uint8 into scaled latents (B, 4, H / 2, W / 2)."""
        mean = self.vae.encode(to_input(images)).latent_dist.mean
        return mean * self.vae.config.scaling_factor

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Fold into the VAE that its latents, times the scaling factor, have mean 0 and spread 1.

        So the factor can be Stable Diffusion's own, and readers that have it built in fit.
        """
        latents = self.vae.encode(to_input(images)).latent_dist.mean.transpose(0, 1).flatten(1)
        middle = latents.mean(1)
        scale = 1 / (latents.std(1) * self.vae.config.scaling_factor)
        write, read = self.vae.quant_conv, self.vae.post_quant_conv
        read.bias += read.weight[:, :, 0, 0] @ middle
        read.weight /= scale[None, :, None, None]
        write.weight[:4] *= scale[:, None, None, None]
        write.bias[:4] = (write.bias[:4] - middle) * scale
        write.bias[4:] += 2 * scale.log()


def to_input(images: Tensor) -> Tensor:
    """Turn images (B, H, W, 3) uint8 into (B, 3, H, W) in -1 ... 1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


# ---- quality -------------------------------------------------------------------------------------


class Recorder:
    """An attention processor that keeps the attention's weights (B * heads, L, L)."""

    def __init__(self):
        self.weights: Tensor | None = None

    def __call__(self, attention, hidden_states, encoder_hidden_states=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attention.head_to_batch_dim(x)
            for x in (
                attention.to_q(hidden_states),
                attention.to_k(context),
                attention.to_v(context),
            )
        )
        self.weights = attention.get_attention_scores(q, k)
        return attention.to_out[0](attention.batch_to_head_dim(self.weights @ v))


@torch.no_grad()
def attention_maps(networks: Networks, unet, image: np.ndarray, seed: int) -> Tensor:
    """Give the maps (layers * heads, L, L) that CLIPer reads, in the order of its chain.

    Self-attention of the last up block's second layer, then of its first, at t = 101.
    """
    latents = networks.encode(torch.from_numpy(image)[None].to(networks.device))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    step = torch.tensor([STEP])
    noisy = networks.scheduler.add_noise(latents, noise.to(networks.device), step)
    recorders = []
    for layer in (1, 0):
        attention = unet.up_blocks[-1].attentions[layer].transformer_blocks[0].attn1
        before, recorder = attention.processor, Recorder()
        attention.set_processor(recorder)
        recorders.append((attention, before, recorder))
    unet(noisy, step.to(networks.device), networks.empty_prompt())
    for attention, before, _ in recorders:
        attention.set_processor(before)
    return torch.cat([recorder.weights for _, _, recorder in recorders])


def sharpen(maps: Tensor, threshold: float) -> Tensor:
    """Make row-stochastic matrices of maps (M, L, L): columns by their maximum, small ones to 0."""
    maps = maps / (maps.amax(1, keepdim=True) + 1e-5)
    maps = maps * (maps >= threshold)
    return maps / (maps.sum(2, keepdim=True) + 1e-5)


def compensate(matrices: Tensor, scores: Tensor, side: int) -> Tensor:
    """Multiply the matrices (M, L, L), from the last to the first, with scores (C, h, w)."""
    fine = functional.interpolate(scores[None], (side, side), mode="bilinear")[0]
    columns = fine.flatten(1).T
    for matrix in reversed(matrices):
        columns = matrix @ columns
    return columns.T.view(-1, side, side)


def mean_iou(scores: Tensor, truth: Tensor) -> float:
    """Enlarge scores (C, h, w) to the truth (H, W), take the best, average IoU over what occurs."""
    answer = functional.interpolate(scores[None], truth.shape, mode="bilinear")[0].argmax(0)
    shares = []
    for label in range(len(scores)):
        either = ((answer == label) | (truth == label)).sum()
        if either:
            shares.append(float(((answer == label) & (truth == label)).sum() / either))
    return float(np.mean(shares))


def blur(scores: Tensor) -> Tensor:
    """Blur scores (C, h, w) by a Gaussian with a sigma of 0.8 cells."""
    weights = torch.exp(-0.5 * (torch.arange(-2, 3) / 0.8) ** 2)
    kernel = (weights[:, None] * weights / weights.sum() ** 2)[None, None]
    return functional.conv2d(functional.pad(scores[:, None], (2, 2, 2, 2), "replicate"), kernel)[
        :, 0
    ]


def coarse_truth(scene: toybox.Scene, seed: int, noise: float = 0.4) -> tuple[Tensor, Tensor]:
    """Give a coarse, noisy map (C, H / 8, W / 8) of a scene's parts, and the truth (H, W)."""
    truth = torch.from_numpy(scene.parts).long()
    exact = functional.one_hot(truth).permute(2, 0, 1).float()
    coarse = functional.avg_pool2d(exact[None], CELL)[0]
    generator = torch.Generator().manual_seed(seed)
    return coarse + noise * torch.randn(coarse.shape, generator=generator), truth


def clip_scores(folder: str):
    """Make a function that gives tiny-clip's class map by v-v, and the truth, of a scene."""
    from clip import dense_variants, encode_prompts
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder).float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def scores(scene: toybox.Scene, seed: int) -> tuple[Tensor, Tensor]:
        words = toybox.choices(scene, 20, seed=seed)
        text = encode_prompts(model, tokenizer, words)
        dense = dense_variants(model, torch.from_numpy(scene.image)[None])["v-v alone"][0]
        side = scene.image.shape[0] // CELL
        coarse = (model.logit_scale.exp() * dense @ text.T).softmax(-1).T.view(-1, side, side)
        return coarse, torch.from_numpy(toybox.label_map(scene, words)).long() - 1

    return scores


@torch.no_grad()
def quality(
    networks: Networks, unet, scenes: list[toybox.Scene], thresholds=(0.1,), make=coarse_truth
) -> dict[str, float]:
    """Measure, in percent, the mIoU of coarse maps before and after compensation.

    `blurred` is what a plain Gaussian blur of the coarse map gives, which knows no edges; `kept`
    is the share of the matrices' weight that stays inside the part it starts from.
    """
    unet.eval()
    rows: dict[str, list[float]] = {}
    for index, scene in enumerate(scenes):
        coarse, truth = make(scene, index)
        maps = attention_maps(networks, unet, scene.image, index).float().cpu()
        rows.setdefault("before", []).append(mean_iou(coarse, truth))
        rows.setdefault("blurred", []).append(mean_iou(blur(coarse), truth))
        side = scene.image.shape[0] // SHRINK
        parts = torch.from_numpy(scene.parts[::SHRINK, ::SHRINK].copy()).flatten()
        same = parts[:, None] == parts[None]
        for threshold in thresholds:
            matrices = sharpen(maps, threshold)
            after = mean_iou(compensate(matrices, coarse, side), truth)
            rows.setdefault(f"after {threshold}", []).append(after)
            inside = (matrices * same).sum(2).mean()
            rows.setdefault(f"kept {threshold}", []).append(float(inside))
    return {name: round(100 * float(np.mean(values)), 1) for name, values in rows.items()}


@torch.no_grad()
def denoising_loss(networks: Networks, unet, scenes: list[toybox.Scene]) -> float:
    """Mean squared error of the noise told at t = 101, whole scenes, fixed noise."""
    unet.eval()
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).to(networks.device)
    latents = networks.encode(images)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(networks.device)
    step = torch.full((len(scenes),), STEP)
    noisy = networks.scheduler.add_noise(latents, noise, step)
    prompt = networks.empty_prompt().expand(len(scenes), -1, -1)
    told = unet(noisy, step.to(networks.device), prompt).sample
    return round(float((told - noise).square().mean()), 4)


@torch.no_grad()
def reconstruction(networks: Networks, scenes: list[toybox.Scene]) -> float:
    """Peak signal-to-noise ratio of the VAE, in decibels, over whole scenes."""
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).to(networks.device)
    vae = networks.vae
    again = vae.decode(vae.encode(to_input(images)).latent_dist.mean).sample.clamp(-1, 1)
    return round(10 * math.log10(4 / float((again - to_input(images)).square().mean())), 2)


# ---- training ------------------------------------------------------------------------------------


class Pieces:
    """Random pieces of a ring of scenes that is kept fresh."""

    def __init__(self, seed: int, rendered: int, count: int = 1024):
        self.first = FIRST_TRAINING_SEED + seed * 50_000_000
        self.rendered = rendered
        self.rng = np.random.default_rng([seed, rendered])
        self.ring = np.stack([self._next() for _ in range(count)])

    def _next(self) -> np.ndarray:
        self.rendered += 1
        return toybox.render(self.first + self.rendered, SIZE, things=(1, 5)).image

    def draw(self, side: int, count: int, fresh: int) -> Tensor:
        """Give pieces (count, side, side, 3) uint8, after rendering `fresh` new scenes."""
        for _ in range(fresh):
            self.ring[self.rendered % len(self.ring)] = self._next()
        pieces = []
        for index in self.rng.integers(0, len(self.ring), count):
            top, left = self.rng.integers(0, SIZE - side + 1, 2)
            piece = self.ring[index, top : top + side, left : left + side]
            pieces.append(piece[:, ::-1] if self.rng.random() < 0.5 else piece)
        return torch.from_numpy(np.stack(pieces))


def learning_rate(step: int, steps: int, highest: float, cooldown: float) -> float:
    """Rise over 100 steps, hold, and fall to a fiftieth over the last part of the steps."""
    left = (steps - step) / max(1, cooldown * steps)
    return highest * min(1.0, (step + 1) / 100) * max(0.02, min(1.0, left))


def vae_loss(networks: Networks, images: Tensor) -> Tensor:
    target = to_input(images)
    posterior = networks.vae.encode(target).latent_dist
    again = networks.vae.decode(posterior.sample()).sample.float()
    wrong = (again - target).abs().mean() + 2 * (again - target).square().mean()
    return wrong + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()


class Neighbours:
    """An auxiliary loss: the maps that CLIPer reads shall tell what lies near, from the content.

    What lies near mostly belongs to the same thing, so the attention learns how likely two contents
    are parts of one (Isola et al., Crisp boundary detection, 2014). No mask is involved. Position
    alone must not answer, so it is asked only where the convolutions wrap around (see `wrap`).
    """

    def __init__(self, unet: UNet2DConditionModel, reach: float):
        self.reach = reach  # sigma of what is near, in latents
        self.kept: dict[tuple[int, str], Tensor] = {}
        self.heads = 0
        for layer in (0, 1):
            attention = unet.up_blocks[-1].attentions[layer].transformer_blocks[0].attn1
            self.heads = attention.heads
            for name in ("to_q", "to_k"):
                getattr(attention, name).register_forward_hook(self._keep(layer, name))

    def _keep(self, layer: int, name: str):
        def hook(_module, _inputs, output: Tensor) -> None:
            self.kept[layer, name] = output

        return hook

    def loss(self) -> Tensor:
        """Cross-entropy of each position's attention with a Gaussian around it, itself left out."""
        total = torch.zeros(())
        for layer in (0, 1):
            q, k = (
                self.kept[layer, name].unflatten(-1, (self.heads, -1)).transpose(1, 2).float()
                for name in ("to_q", "to_k")
            )
            side = math.isqrt(q.shape[2])
            along = torch.arange(side, device=q.device)
            y, x = (a.flatten() for a in torch.meshgrid(along, along, indexing="ij"))
            squares = (y[:, None] - y).square() + (x[:, None] - x).square()
            near = torch.exp(-squares / (2 * self.reach**2)) * (squares > 0)
            near = near / near.sum(1, keepdim=True)
            logits = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
            told = logits.logsumexp(3) - (near * logits).sum(3)
            total = total.to(q.device) + told.mean() - math.log(side * side)
        return total / 2


def wrap(unet: UNet2DConditionModel, around: bool) -> None:
    """Let the convolutions pad with the other side, which hides position, or with zeros again."""
    for module in unet.modules():
        if isinstance(module, torch.nn.Conv2d) and module.padding != (0, 0):
            module.padding_mode = "circular" if around else "zeros"


def unet_loss(networks: Networks, prompt: Tensor, latents: Tensor, power: float) -> Tensor:
    noise = torch.randn_like(latents)
    draws = torch.rand(len(latents)) ** power  # more than 1: little noise comes more often
    steps = (1000 * draws).long().clamp(max=999)
    noisy = networks.scheduler.add_noise(latents, noise, steps)
    told = networks.unet(noisy, steps.to(noisy.device), prompt.expand(len(latents), -1, -1)).sample
    return (told.float() - noise).square().mean()


def train(options: argparse.Namespace) -> None:
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "pid").write_text(f"{os.getpid()}\n")
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    device = torch.device(options.device)
    amp = device.type == "cuda" or options.bfloat16
    networks = Networks(options.seed, device)
    average = copy.deepcopy(networks.unet)
    neighbours = Neighbours(networks.unet, options.reach)
    prompt = networks.empty_prompt()
    rates = {"vae": options.vae_rate, "unet": options.rate}
    optimizers = {
        stage: torch.optim.AdamW(
            network.parameters(), lr=rates[stage], betas=(0.9, 0.99), weight_decay=0.01
        )
        for stage, network in (("vae", networks.vae), ("unet", networks.unet))
    }
    done = {"vae": 0, "unet": 0}
    wall, cpu, rendered = 0.0, 0.0, 0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        networks.vae.load_state_dict(saved["vae"])
        networks.unet.load_state_dict(saved["unet"])
        average.load_state_dict(saved["average"])
        for stage, optimizer in optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][stage])
        done, wall, cpu, rendered = (saved[k] for k in ("done", "wall", "cpu", "rendered"))
    pieces = Pieces(options.seed, rendered)
    torch.manual_seed(options.seed + 1000 * (done["vae"] + done["unet"]))
    test = [toybox.render(FIRST_TEST_SEED + i, SIZE) for i in range(options.scenes)]
    counts = [sum(p.numel() for p in n.parameters()) / 1e6 for n in (networks.vae, average)]
    print(f"VAE {counts[0]:.2f} M, UNet {counts[1]:.2f} M parameters; from {done}", flush=True)

    def save() -> None:
        state = {
            "vae": networks.vae.state_dict(), "unet": networks.unet.state_dict(),
            "average": average.state_dict(), "done": done, "wall": wall, "cpu": cpu,
            "optimizers": {k: v.state_dict() for k, v in optimizers.items()},
            "rendered": pieces.rendered,
        }  # fmt: skip
        torch.save(state, out / "checkpoint.tmp")
        (out / "checkpoint.tmp").replace(checkpoint)

    steps = {"vae": options.vae_steps, "unet": options.steps}
    log = (out / "log.jsonl").open("a")
    ending: list[int] = []  # a polite end (SIGTERM) is saved first
    signal.signal(signal.SIGTERM, lambda number, _frame: ending.append(number))
    losses: list[float] = []
    nearness: list[float] = []
    denoised: list[float] = []
    clock, used = time.monotonic(), time.process_time()
    for stage, network in (("vae", networks.vae), ("unet", networks.unet)):
        optimizer = optimizers[stage]
        while done[stage] < steps[stage] and not ending:
            step = done[stage]
            rate = learning_rate(step, steps[stage], rates[stage], options.cooldown)
            for group in optimizer.param_groups:
                group["lr"] = rate
            network.train()
            if stage == "vae":
                images = pieces.draw(32, 32, fresh=8).to(device)
            else:
                last = step > (1 - options.cooldown) * steps[stage]
                kind = pieces.rng.choice(len(PIECES), p=OFTEN_LAST if last else OFTEN)
                side, count = PIECES[kind]
                around = side < SIZE and pieces.rng.random() < 0.7
                edge = MARGIN if around else 0  # the VAE's own padding would tell position, too
                images = pieces.draw(side + 2 * edge, int(count * options.scale), fresh=8)
                latents = networks.encode(images.to(device))
                low, high = edge // SHRINK, (edge + side) // SHRINK
                latents = latents[:, :, low:high, low:high]
                wrap(networks.unet, around)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
                if stage == "vae":
                    loss = vae_loss(networks, images)
                else:
                    loss = unet_loss(networks, prompt, latents, options.power)
                    denoised.append(float(loss.detach()))
                    if around and options.near:
                        near = neighbours.loss()
                        nearness.append(float(near.detach()))
                        loss = loss + options.near * near
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            done[stage] = step = step + 1
            if stage == "unet":
                keep = min(options.average, (1 + step) / (10 + step))
                with torch.no_grad():
                    torch._foreach_lerp_(
                        list(average.parameters()), list(network.parameters()), 1 - keep
                    )
            losses.append(float(loss.detach()))
            if stage == "vae" and step == steps[stage]:
                networks.standardise(pieces.draw(32, 512, fresh=0).to(device))
            now, now_used = time.monotonic(), time.process_time()
            wall += min(now - clock, 20)  # a stopped process does not count
            cpu += now_used - used
            clock, used = now, now_used
            tested = step % options.test_every == 0 or step == steps[stage]
            if step % options.log_every == 0 or tested:
                line = {
                    "stage": stage,
                    "step": step,
                    "loss": round(float(np.mean(losses)), 4),
                    "seconds": round(wall),
                    "cpu_seconds": round(cpu),
                    "scenes": pieces.rendered,
                }
                if nearness:
                    line["near"] = round(float(np.mean(nearness)), 4)
                if denoised:
                    line["loss"] = round(float(np.mean(denoised)), 4)
                losses, nearness, denoised = [], [], []
                if tested and stage == "vae":
                    line["psnr"] = reconstruction(networks, test)
                elif tested:
                    line["denoising"] = denoising_loss(networks, average, test[:16])
                    line["quality"] = quality(networks, average, test)
                if tested:
                    save()
                log.write(json.dumps(line) + "\n")
                log.flush()
    save()
    print(f"stopped at {done}: {wall:.0f} s, {cpu:.0f} s of CPU", flush=True)


def load(options: argparse.Namespace) -> Networks:
    """Load a run's VAE and averaged UNet."""
    networks = Networks(options.seed, torch.device(options.device))
    saved = torch.load(Path(options.out) / "checkpoint.pt", map_location=options.device,
                       weights_only=True)  # fmt: skip
    networks.vae.load_state_dict(saved["vae"])
    networks.unet.load_state_dict(saved["average"])
    networks.vae.eval()
    networks.unet.eval()
    return networks


def make_pipeline(networks: Networks) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=networks.vae,
        text_encoder=networks.text_encoder,
        tokenizer=networks.tokenizer,
        unet=networks.unet,
        scheduler=networks.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(networks: Networks, folder: Path) -> None:
    """Write the pipeline in fp16 with safetensors, the layout of Stable Diffusion's folders."""
    make_pipeline(networks).to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


@torch.no_grad()
def pictures(networks: Networks, folder: Path) -> None:
    """Write reconstructions (above the originals), samples, and where some pixels attend."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [toybox.render(FIRST_TEST_SEED + i, SIZE) for i in range(6)]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    again = networks.vae.decode(networks.vae.encode(to_input(images)).latent_dist.mean).sample
    again = ((again.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1)
    rows = [torch.cat(list(x), 1) for x in (again, images)]
    enlarge(torch.cat(rows).numpy()).save(folder / "reconstructions.png")

    generator = torch.Generator().manual_seed(0)
    made = make_pipeline(networks)(
        [""] * 6, guidance_scale=1, num_inference_steps=50, generator=generator, output_type="np",
        height=SIZE, width=SIZE,
    ).images  # fmt: skip
    enlarge(np.concatenate(list((made * 255).astype(np.uint8)), 1)).save(folder / "samples.png")

    side = SIZE // SHRINK
    rows = []
    for index, scene in enumerate(scenes):
        matrices = sharpen(attention_maps(networks, networks.unet, scene.image, index), 0.1)
        rng = np.random.default_rng(index)
        strip = [scene.image]
        for y, x in rng.integers(4, side - 4, (2, 2)):
            for matrix in matrices:
                row = matrix[y * side + x].view(side, side)
                row = (255 * (row / row.max()).sqrt()).byte().numpy().repeat(SHRINK, 0)
                row = np.stack([row.repeat(SHRINK, 1)] * 3, -1)
                row[2 * y - 2 : 2 * y + 3, 2 * x - 2 : 2 * x + 3] = (255, 0, 0)
                strip.append(row)
        rows.append(np.concatenate(strip, 1))
    Image.fromarray(np.concatenate(rows)).save(folder / "attention.png")


def enlarge(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image.repeat(2, 0).repeat(2, 1))


def measure(networks: Networks, options: argparse.Namespace) -> None:
    """Print the qualities that the model card states, over fresh scenes."""
    scenes = [toybox.render(FIRST_TEST_SEED + 10**5 + i, SIZE) for i in range(options.scenes)]
    thresholds = (0.1, 0.2, 0.35)
    result: dict[str, object] = {
        "scenes": len(scenes),
        "psnr": reconstruction(networks, scenes),
        "denoising": denoising_loss(networks, networks.unet, scenes[:16]),
        "noisy truth": quality(networks, networks.unet, scenes, thresholds),
    }
    if options.clip:
        make = clip_scores(options.clip)
        result["tiny-clip v-v"] = quality(networks, networks.unet, scenes, thresholds, make)
    print(json.dumps(result, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", required=True, help="folder of checkpoint and log; resumed if it exists")
    add("--export", help="write the run's averaged weights to this folder and stop")
    add("--pictures", help="write reconstructions, samples and attention to this folder and stop")
    add("--measure", action="store_true", help="measure on other scenes than the log's, and stop")
    add("--clip", help="folder of tiny-clip, whose class map --measure then compensates too")
    add("--vae-steps", type=int, default=3000)
    add("--steps", type=int, default=6000)
    add("--device", default="cpu")
    add("--threads", type=int, default=2)
    add("--bfloat16", action="store_true", help="also on a CPU, where it gains nothing")
    add("--seed", type=int, default=1)
    add("--vae-rate", type=float, default=2e-3)
    add("--rate", type=float, default=1.5e-3)
    add("--cooldown", type=float, default=0.3, help="share of the steps over which the rate falls")
    add("--average", type=float, default=0.995)
    add("--power", type=float, default=2.0, help="of the draw of time steps; 1 is uniform")
    add("--near", type=float, default=0.1, help="weight of the neighbours' loss; 0 is plain")
    add("--reach", type=float, default=2.5, help="what counts as near, in latents")
    add("--scale", type=float, default=1.0, help="pieces per step, in units of the default")
    add("--scenes", type=int, default=32)
    add("--log-every", type=int, default=50)
    add("--test-every", type=int, default=500)
    options = parser.parse_args()
    if not (options.export or options.pictures or options.measure):
        train(options)
        return
    networks = load(options)
    if options.export:
        export(networks, Path(options.export))
    if options.pictures:
        pictures(networks, Path(options.pictures))
    if options.measure:
        measure(networks, options)


if __name__ == "__main__":
    main()
