"""Train the built-in tiny VFM on toybox scenes: a small ViT, self-supervised.

The network gets collages of pieces of scenes (`collage.py`) and learns which patches were cut from
one piece: cosines of tokens shall be 1 within a region and 0 or less between two. No mask, label or
word of a scene is used; the only regions are those that the script cut itself. So it learns what
ProxyCLIP uses DINO for: what is alike, up to the edges.

    python training/vfm.py --out runs/vfm                            # resumes where it stopped
    python training/vfm.py --out runs/vfm --export src/wordmask/networks/tiny-vfm
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from collage import SIZE, Collages
from torch import Tensor
from torch.nn import functional
from transformers import Dinov2Config, Dinov2Model

from wordmask import toybox

PATCH = 3
GRID = SIZE // PATCH  # patches per side of a scene
MEAN, STD = 0.5, 0.25
FIRST_TEST_SEED = 10**9  # training seeds stay below, test scenes lie above
COARSE = 12  # cells per side of the coarse map that the refinement measure starts from: tiny-clip's
# Patches per side of a collage, and how many a step shows: most of the run, then with whole scenes.
SIDES = ((12, 14), (16, 8))
SIDES_LAST = ((12, 14), (16, 8), (32, 2))


# ---- network -------------------------------------------------------------------------------------


def build_model(options: argparse.Namespace) -> Dinov2Model:
    config = Dinov2Config(
        hidden_size=options.width,
        num_hidden_layers=options.blocks,
        num_attention_heads=options.width // 32,
        mlp_ratio=4,
        image_size=SIZE,
        patch_size=PATCH,
        layerscale_value=1.0,
        use_mask_token=False,
        attn_implementation="sdpa",
    )
    model = Dinov2Model(config)
    with torch.no_grad():  # begin with positions that already say what is near
        axis = torch.arange(GRID).float()
        waves = 2 * torch.pi / torch.logspace(0.6, 2, options.width // 4)
        angle = axis[:, None] * waves
        wave = torch.cat([angle.sin(), angle.cos()], 1)
        rows = wave[:, None].expand(GRID, GRID, -1)
        columns = wave[None].expand(GRID, GRID, -1)
        positions = model.embeddings.position_embeddings
        positions.zero_()
        positions[0, 1:] = 0.3 * torch.cat([rows, columns], -1).reshape(GRID**2, -1)
        projection = model.embeddings.patch_embeddings.projection
        torch.nn.init.normal_(projection.weight, std=projection.weight[0].numel() ** -0.5)
    return model


def encode(model: Dinov2Model, pixels: Tensor, corner: tuple[int, int]) -> Tensor:
    """Give the tokens (B, g * g, C) of square crops at a place on the map of positions.

    In a forward of transformers a picture covers the whole map. Crops lie anywhere on it, so that
    every position is learned.
    """
    embeddings = model.embeddings
    tokens = embeddings.patch_embeddings(pixels)
    side, (top, left) = round(tokens.shape[1] ** 0.5), corner
    positions = embeddings.position_embeddings
    plane = positions[0, 1:].reshape(GRID, GRID, -1)[top : top + side, left : left + side]
    tokens = tokens + plane.flatten(0, 1)
    token = (embeddings.cls_token + positions[:, :1]).expand(len(pixels), -1, -1)
    hidden = model.encoder(torch.cat([token, tokens], 1)).last_hidden_state
    return model.layernorm(hidden)[:, 1:]


# ---- loss ----------------------------------------------------------------------------------------


def owners(regions: Tensor) -> Tensor:
    """Say to which region most of each patch belongs: (B, H, W) to (B, g * g)."""
    cells = functional.one_hot(regions).permute(0, 3, 1, 2).float()
    return functional.avg_pool2d(cells, PATCH).argmax(1).flatten(1)


def seam_loss(tokens: Tensor, owner: Tensor, bar: float = 0.2, sharpness: float = 10.0) -> Tensor:
    """Give the cross-entropy of "one region?" for all pairs of patches of a collage.

    tokens (B, N, C), owner (B, N). The odds of a pair are sharpness * (cosine - bar). The bar lies
    below the cosines from which ProxyCLIP's attention counts a pair (1.2 times their mean, 0.3 to
    0.8 in a scene), so that it leaves out pairs of which the network is not sure. A patch's
    partners in its own region count half as much as those in the others, however many they are:
    what leaks into another part harms a map, and what stays away from its own does not.
    """
    unit = functional.normalize(tokens.float(), dim=-1)
    logits = sharpness * (unit @ unit.transpose(1, 2) - bar)
    same = owner[:, :, None] == owner[:, None]
    wrong = functional.softplus(torch.where(same, -logits, logits))
    inside = (wrong * same).sum(2) / same.sum(2)
    across = (wrong * ~same).sum(2) / (~same).sum(2).clamp(min=1)
    return (inside + 2 * across).mean()


def leak_loss(tokens: Tensor, owner: Tensor, offset: float, width: float = 0.02) -> Tensor:
    """Give minus the logarithm of the share that ProxyCLIP's attention keeps inside a region.

    tokens (B, N, C), owner (B, N); offset as in `add_offset`. The hard threshold at 1.2 times the
    mean cosine becomes a soft one, `width` wide in cosines.
    """
    unit = functional.normalize(tokens.float(), dim=-1)
    cosine = (unit @ unit.transpose(1, 2) + offset) / (1 + offset)
    score = cosine - 1.2 * cosine.detach().mean((1, 2), keepdim=True)
    weight = 3 * score + functional.logsigmoid(score / (width / (1 + offset)))
    same = owner[:, :, None] == owner[:, None]
    inside = weight.masked_fill(~same, -torch.inf).logsumexp(2)
    return (weight.logsumexp(2) - inside).mean()


def light(images: Tensor) -> Tensor:
    """Give crops (B, 3, H, W) a light and noise of their own, and normalise them."""
    count = len(images)
    gain = torch.empty(count, 3, 1, 1).uniform_(0.95, 1.05)
    gain = gain * torch.empty(count, 1, 1, 1).uniform_(0.85, 1.15)
    noise = torch.randn_like(images) * torch.empty(count, 1, 1, 1).uniform_(0, 0.02)
    return ((images * gain + noise).clamp(0, 1) - MEAN) / STD


# ---- quality -------------------------------------------------------------------------------------


def affinity(tokens: Tensor, beta: float = 1.2, gamma: float = 3.0) -> Tensor:
    """Give ProxyCLIP's attention (L, L) of one picture's tokens (L, C); rows sum to 1."""
    unit = functional.normalize(tokens.float(), dim=-1)
    cosine = unit @ unit.T
    score = (cosine - beta * cosine.mean()) * gamma
    score.diagonal().clamp_(min=0)  # a patch may always attend to itself
    return score.masked_fill(score < 0, -torch.inf).softmax(-1)


def same_thing_auc(tokens: Tensor, parts: Tensor) -> float:
    """Give how often the cosine is higher for a pair of patches of one part than of two, 0 ... 1.

    tokens (g, g, C); parts (H, W) of the whole picture; a patch belongs to the part that has most
    of it. Ties count half.
    """
    side = tokens.shape[0]
    cells = functional.one_hot(parts.long()).permute(2, 0, 1)[None].float()
    owner = functional.adaptive_avg_pool2d(cells, side)[0].argmax(0).flatten()
    unit = functional.normalize(tokens.float().flatten(0, 1), dim=-1)
    pairs = torch.ones(len(owner), len(owner), dtype=torch.bool).triu(1)
    cosine, same = (unit @ unit.T)[pairs], (owner[:, None] == owner[None])[pairs]
    ordered = torch.sort(cosine[~same]).values
    if same.all() or not same.any():
        return float("nan")
    below = torch.searchsorted(ordered, cosine[same])
    upto = torch.searchsorted(ordered, cosine[same], right=True)
    return float(((below + upto) / 2 / len(ordered)).mean())


def coarse_map(parts: Tensor, seed: int, noise: float = 0.3) -> Tensor:
    """Give a poor score map (K, COARSE, COARSE): the parts' share of each cell, and noise."""
    cells = functional.one_hot(parts.long()).permute(2, 0, 1)[None].float()
    share = functional.adaptive_avg_pool2d(cells, COARSE)[0]
    generator = torch.Generator().manual_seed(seed)
    return share + noise * torch.randn(share.shape, generator=generator)


def mean_iou(score: Tensor, parts: Tensor) -> float:
    """Give the mIoU over the parts of one picture of a score map (K, g, g)."""
    full = functional.interpolate(score[None], parts.shape, mode="bilinear", align_corners=False)
    prediction = full[0].argmax(0)
    ious = []
    for part in range(len(score)):
        union = ((prediction == part) | (parts == part)).sum()
        ious.append(float(((prediction == part) & (parts == part)).sum() / union))
    return float(np.mean(ious))


def refine(tokens: Tensor, score: Tensor, attention: Callable[[Tensor], Tensor]) -> Tensor:
    """Spread a score map (K, h, w) over the tokens (g, g, C) that look alike, (K, g, g)."""
    side = tokens.shape[0]
    fine = functional.interpolate(score[None], (side, side), mode="bilinear", align_corners=False)
    spread = attention(tokens.flatten(0, 1)) @ fine[0].flatten(1).T
    return spread.T.reshape(-1, side, side)


def tokens_of(model: Dinov2Model, scenes: list[toybox.Scene]) -> Tensor:
    """Give the tokens (N, g, g, C) of whole scenes, by the forward of transformers."""
    device = model.embeddings.cls_token.device
    found = []
    with torch.no_grad():
        for start in range(0, len(scenes), 8):
            images = np.stack([scene.image for scene in scenes[start : start + 8]])
            pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
            hidden = model(pixel_values=(pixels - MEAN) / STD).last_hidden_state[:, 1:]
            side = round(hidden.shape[1] ** 0.5)
            found.append(hidden.reshape(len(images), side, side, -1).float().cpu())
    return torch.cat(found)


def quality(tokens: Tensor, scenes: list[toybox.Scene]) -> dict[str, float]:
    """Measure affinity AUC and the mIoU of a poor map before and after refinement, in percent."""
    aucs, before, after = [], [], []
    for index, scene in enumerate(scenes):
        parts = torch.from_numpy(scene.parts)
        poor = coarse_map(parts, index)
        aucs.append(same_thing_auc(tokens[index], parts))
        before.append(mean_iou(poor, parts))
        after.append(mean_iou(refine(tokens[index], poor, affinity), parts))
    return {
        "auc": round(100 * float(np.nanmean(aucs)), 2),
        "miou_before": round(100 * float(np.mean(before)), 2),
        "miou_after": round(100 * float(np.mean(after)), 2),
    }


def colour_tokens(scenes: list[toybox.Scene]) -> Tensor:
    """Give each patch's mean colour as its token: what affinities cost without a network."""
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
    mean = functional.avg_pool2d(images.float() / 255, PATCH).permute(0, 2, 3, 1)
    return mean - 0.5


def part_tokens(scenes: list[toybox.Scene]) -> Tensor:
    """Give each patch's share of the parts as its token: what the measures reach at most."""
    parts = torch.from_numpy(np.stack([scene.parts for scene in scenes])).long()
    cells = functional.one_hot(parts, 8).permute(0, 3, 1, 2).float()
    return functional.avg_pool2d(cells, PATCH).permute(0, 2, 3, 1)


# ---- training ------------------------------------------------------------------------------------


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Warm up, hold, and fall to a fiftieth over the last part of the steps."""
    rise = min(1.0, (step + 1) / options.warmup)
    left = (options.steps - step) / max(1, options.cooldown * options.steps)
    return options.rate * rise * max(0.02, min(1.0, left))


def make_look(model: Dinov2Model) -> Callable[[np.ndarray], np.ndarray]:
    """Make a function that gives a scene's (96, 96, 3) unit tokens (g, g, C)."""

    @torch.no_grad()
    def look(image: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        device = model.embeddings.cls_token.device
        with torch.autocast(device.type, dtype=torch.bfloat16):
            hidden = model(pixel_values=((pixels - MEAN) / STD).to(device)).last_hidden_state
        unit = functional.normalize(hidden[0, 1:].float(), dim=-1)
        return unit.reshape(GRID, GRID, -1).cpu().numpy()

    return look


def train(options: argparse.Namespace) -> None:
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    model = build_model(options).to(device)
    average = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.02},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=options.rate, betas=(0.9, 0.98), foreach=True,
    )  # fmt: skip
    step, wall, cpu, rendered = 0, 0.0, 0.0, 0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step, wall, cpu, rendered = (saved[k] for k in ("step", "wall", "cpu", "rendered"))
    torch.manual_seed(options.seed * 1_000_003 + step)
    collages = Collages(options.seed * 50_000_000, rendered, options.ring, options.seed)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e6:.2f} M parameters, from step {step}", flush=True)

    test = [toybox.render(FIRST_TEST_SEED + i, SIZE) for i in range(options.tested)]
    log = (out / "log.jsonl").open("a")

    def write(line: dict) -> None:
        log.write(json.dumps(line) + "\n")
        log.flush()

    if step == 0:
        line = {"step": 0, "quality": quality(tokens_of(average, test), test), "seconds": 0}
        write({**line, "cpu_seconds": 0, "colour_alone": quality(colour_tokens(test), test)})

    def save() -> None:
        state = {
            "model": model.state_dict(), "average": average.state_dict(),
            "optimizer": optimizer.state_dict(), "step": step, "wall": wall, "cpu": cpu,
            "rendered": collages.rendered,
        }  # fmt: skip
        torch.save(state, out / "checkpoint.tmp")
        (out / "checkpoint.tmp").replace(checkpoint)

    clock, used = time.monotonic(), time.process_time()
    losses: list[float] = []
    leaks: list[float] = []
    while step < options.steps:
        if step >= options.trust * options.steps and (not collages.look or step % 2000 == 0):
            collages.trust(make_look(copy.deepcopy(average)))
        if step % options.every == 0:
            collages.renew(1)
        sides = SIDES if step < options.whole * options.steps else SIDES_LAST
        side, number = sides[int(collages.rng.integers(len(sides)))]
        images, regions = collages.draw(number, side * PATCH)
        corner = collages.rng.integers(GRID - side + 1, size=2)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=not options.float32):
            tokens = encode(model, light(images).to(device), (int(corner[0]), int(corner[1])))
        owner = owners(regions).to(device)
        loss = seam_loss(tokens, owner)
        losses.append(float(loss.detach()))
        if step >= options.settled * options.steps:
            leak = leak_loss(tokens, owner, options.offset)
            leaks.append(float(leak.detach()))
            loss = loss + 2 * leak
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        step += 1
        keep = min(options.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        now, now_used = time.monotonic(), time.process_time()
        wall += min(now - clock, 20)  # a stopped process does not count
        cpu += now_used - used
        clock, used = now, now_used
        if step % options.log_every == 0:
            line = {
                "step": step,
                "loss": round(float(np.mean(losses)), 4),
                "seconds": round(wall),
                "cpu_seconds": round(cpu),
                "scenes": collages.rendered,
            }
            if leaks:
                line["leak"] = round(float(np.mean(leaks)), 4)
            losses, leaks = [], []
            if step % options.test_every == 0 or step == options.steps:
                line["quality"] = quality(tokens_of(average, test), test)
                shipped = copy.deepcopy(average)
                add_offset(shipped, options.offset, test)
                line["with_offset"] = quality(tokens_of(shipped, test), test)
                save()
            write(line)
    save()
    print(f"stopped at step {step}: {wall:.0f} s, {cpu:.0f} s of CPU", flush=True)


@torch.no_grad()
def add_offset(model: Dinov2Model, share: float, scenes: list[toybox.Scene]) -> None:
    """Add a common part to all tokens, so that cosines rise: c to (c + share) / (1 + share).

    ProxyCLIP's threshold is 1.2 times the mean cosine. Tokens of DINO have much in common and the
    mean is high. Here unlike patches were driven to 0, and the mean is so low that pairs pass of
    which the network is not sure. The last norm's output is empty along 1 / its weight; there the
    common part goes, at right angles to all tokens.
    """
    norm = model.layernorm
    empty = functional.normalize(1 / norm.weight, dim=0)
    norm.bias -= (norm.bias @ empty) * empty
    length = tokens_of(model, scenes).square().sum(-1).mean().sqrt()
    norm.bias += share**0.5 * length * empty


def export(options: argparse.Namespace) -> None:
    """Write the averaged weights of a run as fp16 safetensors, with its configs."""
    folder = Path(options.export)
    saved = torch.load(Path(options.out) / "checkpoint.pt", map_location="cpu", weights_only=True)
    model = build_model(options)
    model.load_state_dict(saved["average"])
    first_seed = options.seed * 50_000_000
    add_offset(model, options.offset, [toybox.render(first_seed + i) for i in range(16)])
    model.half().save_pretrained(folder)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": False,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    (folder / "model.safetensors").chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", required=True, help="folder of checkpoint and log; resumed if it exists")
    add("--export", help="write the run's averaged weights to this folder and stop")
    add("--offset", type=float, default=2.0, help="common part added by --export, see add_offset")
    add("--steps", type=int, default=7000)
    add("--device", default="cpu")
    add("--threads", type=int, default=1)
    add("--float32", action="store_true", help="no bfloat16")
    add("--seed", type=int, default=1)
    add("--width", type=int, default=128)
    add("--blocks", type=int, default=5)
    add("--rate", type=float, default=1.5e-3)
    add("--warmup", type=int, default=100)
    add("--cooldown", type=float, default=0.3, help="share of the steps over which the rate falls")
    add("--whole", type=float, default=0.3, help="share of the steps before whole scenes come")
    add("--settled", type=float, default=0.8, help="share of the steps before the leak counts")
    add("--average", type=float, default=0.995)
    add("--ring", type=int, default=320, help="scenes that pieces are cut from")
    add("--every", type=int, default=4, help="steps between new scenes")
    add("--trust", type=float, default=0.2, help="share of the steps before it picks pieces itself")
    add("--tested", type=int, default=32)
    add("--log-every", type=int, default=50)
    add("--test-every", type=int, default=250)
    options = parser.parse_args()
    if options.export:
        export(options)
    else:
        train(options)


if __name__ == "__main__":
    main()
