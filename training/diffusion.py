"""Train the built-in tiny latent diffusion on toybox scenes, in diffusers format.

First an AutoencoderKL learns to write pieces of scenes as latents of half their side; then a
UNet2DConditionModel, conditioned on the empty prompt only, learns to predict the noise in them.
What the package uses is the UNet's self-attention at little noise (t = 101 of 1000): CLIPer
multiplies its maps with a coarse class map to bring it to the edges of things. In Stable Diffusion
these maps know the parts of a picture because billions of pictures were denoised. Here they get
minutes, so a second loss (`seam_loss`) trains them directly: on collages of pieces of scenes
(`collage.py`) an attention, and CLIPer's chain of them (`chain_loss`), shall stay inside the piece
it starts from. No mask, label or word of a scene is involved in either.

    python training/diffusion.py --out runs/diffusion --look src/wordmask/networks/tiny-vfm
    python training/diffusion.py --out runs/diffusion --pictures runs/diffusion/pictures
    python training/diffusion.py --out runs/diffusion --export src/wordmask/networks/tiny-diffusion
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import signal
import time
from pathlib import Path

import numpy as np
import torch
from clip import build_tokenizer
from collage import SIZE, Collages
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, Dinov2Model
from vfm import make_look

from wordmask import toybox

SHRINK = 2  # pixels per latent
CELL = 8  # pixels per cell of the coarse map that is measured: tiny-clip's patch
STEP = 101  # the time step that CLIPer reads: entry 45 of PNDM's 51
FIRST_TRAINING_SEED = 3 * 10**9  # other scenes than those of the other networks
FIRST_TEST_SEED = 10**9
# Side of the crops of a step in pixels, how many are of scenes and how many are collages; and how
# often: most of the run, then last.
CROPS = ((32, 6, 10), (48, 3, 5), (64, 1, 3), (96, 1, 1))
OFTEN = (0.3, 0.4, 0.25, 0.05)
OFTEN_LAST = (0.25, 0.35, 0.3, 0.1)


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
    """Four levels, as Stable Diffusion has; few channels, and two attentions a level going up.

    diffusers calls the number of heads attention_head_dim. One where CLIPer reads them: its chain
    multiplies what every head lets out.
    """
    return UNet2DConditionModel(
        sample_size=SIZE // SHRINK,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(48, 64, 64, 64),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=(1, 2, 2, 2),
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
        """Turn images (B, 3, H, W) in -1 ... 1 into scaled latents (B, 4, H / 2, W / 2)."""
        mean = self.vae.encode(images).latent_dist.mean
        return mean * self.vae.config.scaling_factor

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Fold into the VAE that its latents, times the scaling factor, have mean 0 and spread 1.

        So the factor can be Stable Diffusion's own, and readers that have it built in fit.
        """
        latents = self.vae.encode(images).latent_dist.mean.transpose(0, 1).flatten(1)
        middle = latents.mean(1)
        scale = 1 / (latents.std(1) * self.vae.config.scaling_factor)
        write, read = self.vae.quant_conv, self.vae.post_quant_conv
        read.bias += read.weight[:, :, 0, 0] @ middle
        read.weight /= scale[None, :, None, None]
        write.weight[:4] *= scale[:, None, None, None]
        write.bias[:4] = (write.bias[:4] - middle) * scale
        write.bias[4:] += 2 * scale.log()


def to_input(scenes: list[toybox.Scene], device: torch.device) -> Tensor:
    """Turn scenes into (B, 3, H, W) in -1 ... 1."""
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).to(device)
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
def attention_maps(networks: Networks, unet, scene: toybox.Scene, seed: int) -> Tensor:
    """Give the maps (layers * heads, L, L) that CLIPer reads, in the order of its chain.

    Self-attention of the last up block's second layer, then of its first, at t = 101.
    """
    latents = networks.encode(to_input([scene], networks.device))
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


def mean_iou(scores: Tensor, target: Tensor) -> float:
    """Enlarge scores (C, h, w) to the target (H, W), take the best, average IoU of what occurs."""
    prediction = functional.interpolate(scores[None], target.shape, mode="bilinear")[0].argmax(0)
    shares = []
    for label in range(len(scores)):
        either = ((prediction == label) | (target == label)).sum()
        if either:
            shares.append(float(((prediction == label) & (target == label)).sum() / either))
    return float(np.mean(shares))


def blur(scores: Tensor) -> Tensor:
    """Blur scores (C, h, w) by a Gaussian with a sigma of 0.8 cells."""
    weights = torch.exp(-0.5 * (torch.arange(-2, 3) / 0.8) ** 2)
    kernel = (weights[:, None] * weights / weights.sum() ** 2)[None, None]
    return functional.conv2d(functional.pad(scores[:, None], (2, 2, 2, 2), "replicate"), kernel)[
        :, 0
    ]


def coarse_target(scene: toybox.Scene, seed: int, noise: float = 0.4) -> tuple[Tensor, Tensor]:
    """Give a coarse, noisy map (C, H / 8, W / 8) of a scene's parts, and the target (H, W)."""
    target = torch.from_numpy(scene.parts).long()
    exact = functional.one_hot(target).permute(2, 0, 1).float()
    coarse = functional.avg_pool2d(exact[None], CELL)[0]
    generator = torch.Generator().manual_seed(seed)
    return coarse + noise * torch.randn(coarse.shape, generator=generator), target


@torch.no_grad()
def quality(
    networks: Networks, unet, scenes: list[toybox.Scene], thresholds=(0.1,)
) -> dict[str, float]:
    """Measure, in percent, the mIoU of coarse maps before and after compensation.

    `blurred` is what a plain Gaussian blur of the coarse map gives, which knows no edges; `kept`
    is the share of the matrices' weight that stays inside the part it starts from.
    """
    unet.eval()
    rows: dict[str, list[float]] = {}
    for index, scene in enumerate(scenes):
        coarse, target = coarse_target(scene, index)
        maps = attention_maps(networks, unet, scene, index).float().cpu()
        rows.setdefault("before", []).append(mean_iou(coarse, target))
        rows.setdefault("blurred", []).append(mean_iou(blur(coarse), target))
        side = scene.image.shape[0] // SHRINK
        parts = torch.from_numpy(scene.parts[::SHRINK, ::SHRINK].copy()).flatten()
        same = parts[:, None] == parts[None]
        for threshold in thresholds:
            matrices = sharpen(maps, threshold)
            after = mean_iou(compensate(matrices, coarse, side), target)
            rows.setdefault(f"after {threshold}", []).append(after)
            inside = (matrices * same).sum(2).mean()
            rows.setdefault(f"kept {threshold}", []).append(float(inside))
    return {name: round(100 * float(np.mean(values)), 1) for name, values in rows.items()}


@torch.no_grad()
def denoising_loss(networks: Networks, unet, scenes: list[toybox.Scene]) -> float:
    """Mean squared error of the noise predicted at t = 101, whole scenes, fixed noise."""
    unet.eval()
    latents = networks.encode(to_input(scenes, networks.device))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(networks.device)
    step = torch.full((len(scenes),), STEP)
    noisy = networks.scheduler.add_noise(latents, noise, step)
    prompt = networks.empty_prompt().expand(len(scenes), -1, -1)
    predicted = unet(noisy, step.to(networks.device), prompt).sample
    return round(float((predicted - noise).square().mean()), 4)


@torch.no_grad()
def reconstruction(networks: Networks, scenes: list[toybox.Scene]) -> float:
    """Peak signal-to-noise ratio of the VAE, in decibels, over whole scenes."""
    vae, images = networks.vae, to_input(scenes, networks.device)
    again = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
    return round(10 * math.log10(4 / float((again - images).square().mean())), 2)


# ---- training ------------------------------------------------------------------------------------


def learning_rate(step: int, steps: int, highest: float, cooldown: float) -> float:
    """Rise over 100 steps, hold, and fall to a fiftieth over the last part of the steps."""
    left = (steps - step) / max(1, cooldown * steps)
    return highest * min(1.0, (step + 1) / 100) * max(0.02, min(1.0, left))


def vae_loss(networks: Networks, target: Tensor) -> Tensor:
    """Give the loss of reconstructing pieces (B, 3, H, W) in -1 ... 1."""
    posterior = networks.vae.encode(target).latent_dist
    again = networks.vae.decode(posterior.sample()).sample.float()
    wrong = (again - target).abs().mean() + 2 * (again - target).square().mean()
    return wrong + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()


class Maps:
    """Keeps the queries and keys of the self-attentions that CLIPer reads."""

    def __init__(self, unet: UNet2DConditionModel):
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

    def logits(self, first: int) -> Tensor:
        """Give the logits (layers, B - first, heads, L, L) of all pictures but the first ones."""
        found = []
        for layer in (0, 1):
            q, k = (
                self.kept[layer, name][first:].unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for name in ("to_q", "to_k")
            )
            found.append(q.float() @ k.float().transpose(2, 3) * q.shape[-1] ** -0.5)
        return torch.stack(found)


def shares(logits: Tensor) -> Tensor:
    """Give what CLIPer's chain uses: the logarithm of attention over its column's maximum."""
    share = logits.log_softmax(-1)
    return share - share.detach().amax(-2, keepdim=True)


def owners(regions: Tensor) -> Tensor:
    """Say to which region most of each latent belongs: (B, H, W) to (B, L)."""
    cells = functional.one_hot(regions).permute(0, 3, 1, 2).float()
    return functional.avg_pool2d(cells, SHRINK).argmax(1).flatten(1)


def chain_loss(share: Tensor, owner: Tensor, width: float = 0.15) -> Tensor:
    """Give minus the logarithm of what CLIPer's chain keeps inside a region.

    share (layers, B, heads, L, L) from the first layer to the last; owner (B, L). The map of each
    region goes through the chain, the last layer's heads being applied last. The hard threshold of
    0.1 becomes a soft one, `width` wide in logarithms.
    """
    columns = functional.one_hot(owner).float()
    for layer in share:
        for head in layer.flip(1).unbind(1):
            weight = head + functional.logsigmoid((head - math.log(0.1)) / width)
            columns = weight.softmax(-1) @ columns
    kept = columns.gather(2, owner[..., None])
    return -kept.clamp(min=1e-4).log().mean()


def seam_loss(share: Tensor, owner: Tensor, bar: float = -5.0, sharpness: float = 2.0) -> Tensor:
    """Give the cross-entropy of "one region?" for all pairs of latents of collages.

    share (layers, B, heads, L, L) as `shares` gives it; owner (B, L). The odds of a pair are
    sharpness * (its logarithm - bar); the chain cuts at log 0.1 = -2.3, and with a bar below that
    a pair of which the network is not sure is cut. A latent's partners in its
    own region count half as much as those in the others, however many they are: the chain
    multiplies what leaks.
    """
    same = (owner[:, :, None] == owner[:, None])[:, None]
    odds = sharpness * (share - bar)
    wrong = functional.softplus(torch.where(same, -odds, odds))
    inside = (wrong * same).sum(-1) / same.sum(-1)
    across = (wrong * ~same).sum(-1) / (~same).sum(-1).clamp(min=1)
    return (inside + 2 * across).mean()


def draw_steps(scenes: int, collages: int, power: float) -> Tensor:
    """Draw time steps: for scenes any, little noise more often with power > 1; else around STEP."""
    anywhere = (1000 * torch.rand(scenes) ** power).long().clamp(max=999)
    return torch.cat([anywhere, torch.randint(STEP - 40, STEP + 41, (collages,))])


def train(options: argparse.Namespace) -> None:
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    device = torch.device(options.device)
    amp = device.type == "cuda" or options.bfloat16
    networks = Networks(options.seed, device)
    average = copy.deepcopy(networks.unet)
    maps = Maps(networks.unet)
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
    first_seed = FIRST_TRAINING_SEED + options.seed * 50_000_000
    collages = Collages(first_seed, rendered, options.ring, options.seed)
    if options.look:
        collages.trust(make_look(Dinov2Model.from_pretrained(options.look, dtype=torch.float32)))
    torch.manual_seed(options.seed + 1000 * (done["vae"] + done["unet"]))
    test = [toybox.render(FIRST_TEST_SEED + i, SIZE) for i in range(options.scenes)]
    counts = [sum(p.numel() for p in n.parameters()) / 1e6 for n in (networks.vae, average)]
    print(f"VAE {counts[0]:.2f} M, UNet {counts[1]:.2f} M parameters; from {done}", flush=True)

    def save() -> None:
        state = {
            "vae": networks.vae.state_dict(), "unet": networks.unet.state_dict(),
            "average": average.state_dict(), "done": done, "wall": wall, "cpu": cpu,
            "optimizers": {k: v.state_dict() for k, v in optimizers.items()},
            "rendered": collages.rendered,
        }  # fmt: skip
        torch.save(state, out / "checkpoint.tmp")
        (out / "checkpoint.tmp").replace(checkpoint)

    steps = {"vae": options.vae_steps, "unet": options.steps}
    log = (out / "log.jsonl").open("a")
    ending: list[int] = []  # a polite end (SIGTERM) is saved first
    signal.signal(signal.SIGTERM, lambda number, _frame: ending.append(number))
    losses: list[float] = []
    seams: list[float] = []
    leaks: list[float] = []
    clock, used = time.monotonic(), time.process_time()
    for stage, network in (("vae", networks.vae), ("unet", networks.unet)):
        optimizer = optimizers[stage]
        while done[stage] < steps[stage] and not ending:
            step = done[stage]
            rate = learning_rate(step, steps[stage], rates[stage], options.cooldown)
            for group in optimizer.param_groups:
                group["lr"] = rate
            network.train()
            if step % options.every == 0:
                collages.renew(1)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
                if stage == "vae":
                    loss = vae_loss(networks, (2 * collages.scenes(32, 32) - 1).to(device))
                else:
                    last = step > (1 - options.cooldown) * steps[stage]
                    kind = collages.rng.choice(len(CROPS), p=OFTEN_LAST if last else OFTEN)
                    side, count, others = CROPS[kind]
                    made, regions = collages.draw(others, side)
                    images = torch.cat([collages.scenes(count, side), made])
                    latents = networks.encode((2 * images - 1).to(device))
                    noise = torch.randn_like(latents)
                    times = draw_steps(count, others, options.power)
                    noisy = networks.scheduler.add_noise(latents, noise, times)
                    context = prompt.expand(len(latents), -1, -1)
                    predicted = networks.unet(noisy, times.to(device), context).sample.float()
                    loss = (predicted - noise)[:count].square().mean()
            losses.append(float(loss.detach()))
            if stage == "unet":
                share, owner = shares(maps.logits(count)), owners(regions.to(device))
                seam, leak = seam_loss(share, owner), chain_loss(share, owner)
                seams.append(float(seam.detach()))
                leaks.append(float(leak.detach()))
                loss = loss + options.seam * seam + options.chain * leak
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
            if stage == "vae" and step == steps[stage]:
                networks.standardise((2 * collages.scenes(512, 32) - 1).to(device))
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
                    "scenes": collages.rendered,
                }
                if seams:
                    line["seams"] = round(float(np.mean(seams)), 4)
                    line["chain"] = round(float(np.mean(leaks)), 4)
                losses, seams, leaks = [], [], []
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
    """Load a run's VAE and averaged UNet, ready to be shipped."""
    networks = Networks(options.seed, torch.device(options.device))
    saved = torch.load(Path(options.out) / "checkpoint.pt", map_location=options.device,
                       weights_only=True)  # fmt: skip
    networks.vae.load_state_dict(saved["vae"])
    networks.unet.load_state_dict(saved["average"])
    networks.vae.eval()
    networks.unet.eval()
    with torch.no_grad():  # louder queries: the chain cuts more of what the network is not sure of
        for attention in networks.unet.up_blocks[-1].attentions:
            attention.transformer_blocks[0].attn1.to_q.weight *= options.gain
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
    images = to_input(scenes, networks.device)
    again = networks.vae.decode(networks.vae.encode(images).latent_dist.mean).sample
    rows = [
        torch.cat(list(((x.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1).cpu()), 1)
        for x in (again, images)
    ]
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
        matrices = sharpen(attention_maps(networks, networks.unet, scene, index), 0.1)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", required=True, help="folder of checkpoint and log; resumed if it exists")
    add("--export", help="write the run's averaged weights to this folder and stop")
    add("--pictures", help="write reconstructions, samples and attention to this folder and stop")
    add("--vae-steps", type=int, default=3000)
    add("--steps", type=int, default=4000)
    add("--device", default="cpu")
    add("--threads", type=int, default=1)
    add("--bfloat16", action="store_true", help="also on a CPU, where it gains nothing")
    add("--seed", type=int, default=1)
    add("--vae-rate", type=float, default=2e-3)
    add("--rate", type=float, default=1.2e-3)
    add("--cooldown", type=float, default=0.3, help="share of the steps over which the rate falls")
    add("--average", type=float, default=0.995)
    add("--gain", type=float, default=1.4, help="of the shipped queries that CLIPer reads")
    add("--power", type=float, default=2.0, help="of the draw of time steps; 1 is uniform")
    add("--seam", type=float, default=0.25, help="weight of the seams' loss")
    add("--chain", type=float, default=2.0, help="weight of the chain's loss")
    add("--look", help="folder of tiny-vfm, which then picks the pieces of collages")
    add("--ring", type=int, default=160, help="scenes that pieces are cut from")
    add("--every", type=int, default=4, help="steps between new scenes")
    add("--scenes", type=int, default=12, help="scenes of a test")
    add("--log-every", type=int, default=50)
    add("--test-every", type=int, default=250)
    options = parser.parse_args()
    if not (options.export or options.pictures):
        train(options)
        return
    networks = load(options)
    if options.export:
        export(networks, Path(options.export))
    if options.pictures:
        pictures(networks, Path(options.pictures))


if __name__ == "__main__":
    main()
