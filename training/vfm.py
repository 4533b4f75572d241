"""Train the built-in tiny VFM on toybox scenes: a small ViT, self-supervised, no labels at all.

Self-distillation on patches, as DINO and iBOT do it, with SwAV's balanced assignment. Two crops of
a scene that overlap, each with its own place, zoom, flip, turn, light and noise, go through a
teacher (the running average of the student). Each teacher patch is softly assigned to prototypes,
so that over the step all prototypes are used alike (Sinkhorn-Knopp). The student sees both crops
with some blocks of patches masked and predicts, at every place, the assignment that the teacher
gave to the same place in the other crop. Before it assigns, the teacher's tokens settle among their
like nearby (`settle`). What survives crop, zoom and place is what the thing looks like, so patches
of one thing draw together; patches that the teacher finds unlike are kept apart (`part`), so that
cosines come to say yes or no. Prototypes are compared with the output tokens themselves, with no
head between: the cosine between tokens, which is what refiners use, is what is trained.

    python training/vfm.py --out runs/vfm --steps 2000               # resumes where it stopped
    python training/vfm.py --out runs/vfm --export src/wordmask/networks/tiny-vfm
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Dinov2Config, Dinov2Model

from wordmask import toybox

SIZE, PATCH = 96, 4
GRID = SIZE // PATCH  # patches per side of a scene
MEAN, STD = 0.5, 0.25
FIRST_TEST_SEED = 10**9  # training seeds stay below, test scenes lie above
COARSE = 6  # cells per side of the coarse map that the refinement measure starts from


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
        use_mask_token=True,
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


def encode(model: Dinov2Model, pixels: Tensor, window: Tensor, masked: Tensor | None) -> Tensor:
    """Give the tokens (B, g, g, C) of square crops, placed anywhere on the map of positions.

    window (B, g, g, 2) are coordinates -1 ... 1 on that map. In a forward of transformers it is
    the whole map; moving it keeps a crop's place from being read off the positions.
    """
    embeddings = model.embeddings
    tokens = embeddings.patch_embeddings(pixels)
    if masked is not None:
        tokens = torch.where(masked[..., None], embeddings.mask_token.to(tokens.dtype), tokens)
    positions = embeddings.position_embeddings
    plane = positions[0, 1:].T.reshape(1, -1, GRID, GRID).expand(len(pixels), -1, -1, -1)
    placed = functional.grid_sample(plane, window, align_corners=False, padding_mode="border")
    tokens = tokens + placed.flatten(2).transpose(1, 2)
    token = (embeddings.cls_token + positions[:, :1]).expand(len(pixels), -1, -1)
    hidden = model.encoder(torch.cat([token, tokens], 1)).last_hidden_state
    side = window.shape[1]
    return model.layernorm(hidden)[:, 1:].reshape(len(pixels), side, side, -1)


# ---- views ---------------------------------------------------------------------------------------


class Views:
    """Crops of scenes: centre (B, 2), turn (B, 2, 2) scaled by half the side, in -1 ... 1."""

    def __init__(self, centre: Tensor, turn: Tensor) -> None:
        self.centre, self.turn = centre, turn

    @classmethod
    def draw(cls, count: int, near: Views | None, least: float, most: float) -> Views:
        """Draw crops whose sides are the shares least ... most of a scene's, near others or not."""
        half = torch.exp(torch.empty(count).uniform_(np.log(least), np.log(most)))
        centre = torch.empty(count, 2).uniform_(-1, 1)
        if near is not None:
            centre = near.centre + 0.6 * centre * torch.maximum(half, near.half)[:, None]
        room = (1 - half)[:, None]
        centre = torch.maximum(torch.minimum(centre, room), -room)
        signs = torch.randint(0, 2, (count, 2)).float() * 2 - 1
        turn = torch.diag_embed(signs)
        swapped = torch.rand(count) < 0.5
        turn[swapped] = turn[swapped].flip(2)
        return cls(centre, turn * half[:, None, None])

    @property
    def half(self) -> Tensor:
        return self.turn.abs().sum(2)[:, 0]

    def points(self, side: int) -> Tensor:
        """Give the centres of side x side cells of each view, (B, side, side, 2) in the scene."""
        axis = (2 * torch.arange(side) + 1) / side - 1
        plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
        return torch.einsum("bij,yxj->byxi", self.turn, plane) + self.centre[:, None, None]

    def locate(self, points: Tensor) -> Tensor:
        """Give points of the scene in coordinates -1 ... 1 of each view."""
        return torch.einsum(
            "bij,byxj->byxi", torch.linalg.inv(self.turn), points - self.centre[:, None, None]
        )


def show(images: Tensor, views: Views, side: int) -> Tensor:
    """Cut views (B, 3, side * PATCH, ...) out of scenes (B, 3, S, S), with a light of their own."""
    cut = functional.grid_sample(
        images, views.points(side * PATCH).to(images), align_corners=False, padding_mode="border"
    )
    count = len(images)
    device = images.device
    gain = torch.empty(count, 3, 1, 1, device=device).uniform_(0.95, 1.05)
    gain = gain * torch.empty(count, 1, 1, 1, device=device).uniform_(0.85, 1.15)
    lift = torch.empty(count, 1, 1, 1, device=device).uniform_(-0.03, 0.03)
    noise = torch.randn_like(cut) * torch.empty(count, 1, 1, 1, device=device).uniform_(0, 0.02)
    return ((cut * gain + lift + noise).clamp(0, 1) - MEAN) / STD


def draw_windows(count: int, side: int) -> Tensor:
    """Draw a place and a spacing on the map of positions, (B, side, side, 2)."""
    spacing = torch.empty(count, 1, 1, 1).uniform_(0.5, 1.0) * min(1.0, GRID / side)
    extent = spacing * side / GRID
    shift = torch.empty(count, 1, 1, 2).uniform_(-1, 1) * (1 - extent)
    axis = (2 * torch.arange(side) + 1) / side - 1
    plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    return plane[None] * extent + shift


def draw_masks(count: int, side: int, share: float) -> Tensor:
    """Draw (B, side * side) bool: one block per view, none in half of the views."""
    masked = torch.zeros(count, side, side, dtype=torch.bool)
    most = max(1, round(side * (2 * share) ** 0.5))
    for view in masked[::2]:
        rows, columns = (int(n) for n in torch.randint(1, most + 1, (2,)))
        top = int(torch.randint(0, side - rows + 1, ()))
        left = int(torch.randint(0, side - columns + 1, ()))
        view[top : top + rows, left : left + columns] = True
    return masked.flatten(1)


# ---- loss ----------------------------------------------------------------------------------------


def assign(tokens: Tensor, prototypes: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    """Assign tokens (N, C) to prototypes (K, C), (N, K) rows that sum to 1, columns used alike."""
    logits = functional.normalize(tokens, dim=-1) @ functional.normalize(prototypes, dim=-1).T
    share = torch.exp((logits - logits.max()) / temperature)
    for _ in range(rounds):
        share = share / share.sum(0, keepdim=True).clamp(min=1e-12)
        share = share / share.sum(1, keepdim=True).clamp(min=1e-12)
    return share


def settle(tokens: Tensor, temperature: float, reach: float) -> Tensor:
    """Average tokens (B, g, g, C) over those nearby that look alike: (B, g, g, C), once.

    A step of mean shift. Patches of one thing come together and those on its rim take a side, so
    the teacher's assignments are a little better than its tokens, and the student follows.
    """
    side = tokens.shape[1]
    unit = functional.normalize(tokens.flatten(1, 2), dim=-1)
    cell = torch.arange(side**2, device=tokens.device)
    place = torch.stack([cell // side, cell % side], -1).float()
    far = torch.cdist(place, place).square() / reach**2
    weight = (unit @ unit.transpose(1, 2) / temperature - far).softmax(-1)
    return (weight @ unit).reshape(tokens.shape)


def agree(
    tokens: Tensor, prototypes: Tensor, target: Tensor, where: Tensor, temperature: float
) -> Tensor:
    """Give the cross-entropy of student tokens (B, g, g, C) at the places of the other crop.

    target (B, g, g, K) are the teacher's assignments in the other crop, where (B, g, g, 2) the
    places of the student's patches in it; those outside of it are not counted.
    """
    inside = (where.abs() <= 1).all(-1)
    wanted = functional.grid_sample(
        target.permute(0, 3, 1, 2), where, align_corners=False, padding_mode="border"
    ).permute(0, 2, 3, 1)[inside]
    unit = functional.normalize(tokens[inside], dim=-1)
    logits = unit @ functional.normalize(prototypes, dim=-1).T / temperature
    return -(wanted * logits.log_softmax(-1)).sum(-1).mean()


def part(tokens: Tensor, taught: Tensor, masked: Tensor, bar: float) -> Tensor:
    """Give the mean squared cosine, where positive, of pairs of patches that do not look alike.

    tokens and taught (B, g, g, C) are the student's and the teacher's of the same views; pairs
    whose cosine the teacher puts below the bar should come to stand at right angles. Masked
    patches, (B, g * g) bool, are left out.
    """
    ours = functional.normalize(tokens.flatten(1, 2), dim=-1)
    theirs = functional.normalize(taught.flatten(1, 2), dim=-1)
    apart = (theirs @ theirs.transpose(1, 2) < bar) & ~masked[:, :, None] & ~masked[:, None]
    cosine = (ours @ ours.transpose(1, 2)).relu()
    return (cosine.square() * apart).sum() / apart.sum().clamp(min=1)


# ---- quality -------------------------------------------------------------------------------------


def affinity(tokens: Tensor, beta: float = 1.2, gamma: float = 3.0) -> Tensor:
    """Give ProxyCLIP's attention (L, L) of one picture's tokens (L, C); rows sum to 1."""
    unit = functional.normalize(tokens.float(), dim=-1)
    cosine = unit @ unit.T
    score = (cosine - beta * cosine.mean()) * gamma
    score.diagonal().clamp_(min=0)  # a patch may always attend to itself
    return score.masked_fill(score < 0, -torch.inf).softmax(-1)


def peaked(tokens: Tensor, temperature: float = 0.05) -> Tensor:
    """Give the plain softmax of the cosines (L, L) of one picture's tokens (L, C)."""
    unit = functional.normalize(tokens.float(), dim=-1)
    return (unit @ unit.T / temperature).softmax(-1)


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
    answer = full[0].argmax(0)
    ious = []
    for part in range(len(score)):
        union = ((answer == part) | (parts == part)).sum()
        ious.append(float(((answer == part) & (parts == part)).sum() / union))
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
    """Measure affinity AUC and the mIoU of a poor map before and after refinement, in percent.

    After: by ProxyCLIP's attention, and ("peaked") by the plain softmax of the cosines.
    """
    aucs, before, after, plain = [], [], [], []
    for index, scene in enumerate(scenes):
        parts = torch.from_numpy(scene.parts)
        poor = coarse_map(parts, index)
        aucs.append(same_thing_auc(tokens[index], parts))
        before.append(mean_iou(poor, parts))
        after.append(mean_iou(refine(tokens[index], poor, affinity), parts))
        plain.append(mean_iou(refine(tokens[index], poor, peaked), parts))
    return {
        "auc": round(100 * float(np.nanmean(aucs)), 2),
        "miou_before": round(100 * float(np.mean(before)), 2),
        "miou_after": round(100 * float(np.mean(after)), 2),
        "miou_peaked": round(100 * float(np.mean(plain)), 2),
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


def train(options: argparse.Namespace) -> None:
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "pid").write_text(f"{os.getpid()}\n")
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    student = build_model(options).to(device)
    prototypes = torch.nn.Parameter(torch.randn(options.prototypes, options.width, device=device))
    teacher, anchors = copy.deepcopy(student).eval(), prototypes.detach().clone()
    trained = [*student.parameters(), prototypes]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in student.parameters() if p.ndim >= 2], "weight_decay": 0.04},
            {"params": [p for p in student.parameters() if p.ndim < 2], "weight_decay": 0.0},
            {"params": [prototypes], "weight_decay": 0.0},
        ],
        lr=options.rate, betas=(0.9, 0.98), foreach=True,
    )  # fmt: skip
    step, wall, cpu, rendered = 0, 0.0, 0.0, 0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        student.load_state_dict(saved["student"])
        teacher.load_state_dict(saved["teacher"])
        optimizer.load_state_dict(saved["optimizer"])
        prototypes.data.copy_(saved["prototypes"])
        anchors.copy_(saved["anchors"])
        step, wall, cpu, rendered = (saved[k] for k in ("step", "wall", "cpu", "rendered"))
    torch.manual_seed(options.seed * 1_000_003 + step)
    rng = np.random.default_rng([options.seed, step])
    count = sum(p.numel() for p in student.parameters())
    print(f"{count / 1e6:.2f} M parameters, from step {step}", flush=True)

    def fresh(number: int) -> np.ndarray:
        nonlocal rendered
        first = options.seed * 50_000_000 + rendered  # counted on, so a resume sees new scenes
        rendered += number
        return np.stack([toybox.render(first + i, SIZE).image for i in range(number)])

    test = [toybox.render(FIRST_TEST_SEED + i, SIZE) for i in range(options.tested)]
    unseen = [toybox.render(FIRST_TEST_SEED + 10**6 + i, SIZE, held_out="only") for i in range(32)]
    log = (out / "log.jsonl").open("a")

    def write(line: dict) -> None:
        log.write(json.dumps(line) + "\n")
        log.flush()

    if step == 0:
        line = {"step": 0, "quality": quality(tokens_of(teacher, test), test), "seconds": 0}
        write({**line, "cpu_seconds": 0, "colour_alone": quality(colour_tokens(test), test)})

    def save() -> None:
        state = {
            "student": student.state_dict(), "teacher": teacher.state_dict(),
            "optimizer": optimizer.state_dict(), "prototypes": prototypes.detach(),
            "anchors": anchors, "step": step, "wall": wall, "cpu": cpu, "rendered": rendered,
        }  # fmt: skip
        torch.save(state, out / "checkpoint.tmp")
        (out / "checkpoint.tmp").replace(checkpoint)

    clock, used = time.monotonic(), time.process_time()
    buffer = fresh(options.buffer)
    losses: list[float] = []
    aparts: list[float] = []
    while step < options.steps:
        if options.minutes and wall > 60 * options.minutes:
            break
        buffer[rng.integers(0, len(buffer), options.fresh)] = fresh(options.fresh)
        picked = rng.integers(0, len(buffer), options.scenes)
        images = torch.from_numpy(buffer[picked]).to(device).permute(0, 3, 1, 2).float() / 255
        side = int(options.sides[int(rng.integers(len(options.sides)))])
        images = images[: max(2, round(len(images) * (options.sides[0] / side) ** 2))]
        number = len(images)
        # One patch of a view covers 0.6 to 1.6 patches of the scene.
        most = min(1.0, side / GRID * 1.6)
        first = Views.draw(number, None, min(1.0, side / GRID * 0.6), most)
        second = Views.draw(number, first, min(1.0, side / GRID * 0.6), most)
        shown = torch.cat([show(images, view, side) for view in (first, second)])
        windows = draw_windows(2 * number, side).to(device)
        masked = draw_masks(2 * number, side, options.mask).to(device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options)

        amp = torch.autocast(device.type, dtype=torch.bfloat16, enabled=not options.float32)
        with torch.no_grad(), amp:
            seen = encode(teacher, shown, windows, None)
        with torch.no_grad():
            settled = settle(seen.float(), 0.1, options.reach)
            target = assign(settled.flatten(0, 2), anchors, options.teacher_temperature)
            target = target.reshape(2 * number, side, side, -1)
        with amp:
            tokens = encode(student, shown, windows, masked)
        loss = torch.zeros((), device=device)
        pairs = ((first, second, 0, 1), (second, first, 1, 0))
        for mine, other, i, j in pairs:
            where = other.locate(mine.points(side)).to(device)
            loss = loss + 0.5 * agree(
                tokens[i * number : (i + 1) * number].float(), prototypes,
                target[j * number : (j + 1) * number], where, options.temperature,
            )  # fmt: skip
        apart = part(tokens.float(), settled, masked, options.bar)
        optimizer.zero_grad(set_to_none=True)
        (loss + options.apart * apart).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        optimizer.step()
        step += 1
        with torch.no_grad():
            keep = min(options.average, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - keep)
            anchors.lerp_(prototypes, 1 - keep)
        losses.append(float(loss.detach()))
        aparts.append(float(apart.detach()))
        now, now_used = time.monotonic(), time.process_time()
        wall += min(now - clock, 20)  # a stopped process does not count
        cpu += now_used - used
        clock, used = now, now_used
        if step % options.log_every == 0:
            line = {
                "step": step,
                "loss": round(float(np.mean(losses)), 4),
                "apart": round(float(np.mean(aparts)), 4),
                "seconds": round(wall),
                "cpu_seconds": round(cpu),
                "scenes": rendered,
            }
            losses, aparts = [], []
            if step % options.test_every == 0 or step == options.steps:
                line["quality"] = quality(tokens_of(teacher, test), test)
                line["held_out"] = quality(tokens_of(teacher, unseen), unseen)
                save()
            write(line)
    save()
    print(f"stopped at step {step}: {wall:.0f} s, {cpu:.0f} s of CPU", flush=True)


CARD = """---
license: apache-2.0
library_name: transformers
---
# wordmask/tiny-vfm

A small self-supervised ViT that knows the toybox and **not the world**: a stand-in for DINO where
wordmask refines score maps by what looks alike. It exists so that the refiners run, offline and for
real, and can be tested. On a photograph its affinities mean little.

- **Format**: transformers `Dinov2Model` (`AutoModel` loads it), {parameters:.2f} M parameters in
  fp16; patch {patch}, {blocks} blocks of width {width}, {heads} heads; positions for a grid of
  24 x 24 (96 pixels), interpolated by transformers at any other. Pixels are normalised with mean
  0.5 and standard deviation 0.25 (`preprocessor_config.json`); sides: multiples of {patch}.
- **Use**: cosines between the patch tokens of `last_hidden_state[:, 1:]`. No loss was put on the
  class token: do not use it.
- **Data**: {scenes:,} scenes of `wordmask.toybox`, rendered while training (seeds from {first:,}
  on). No label, no caption, no mask.
- **Recipe**: `training/vfm.py`, seed {seed}: self-distillation on patches (DINO, iBOT) with
  balanced prototypes (SwAV): the assignment of a patch in one crop is predicted from another crop
  that is partly masked. Step {step:,}, AdamW at {rate}{cooled}, the teacher's (averaged)
  weights. {note}
- **Cost**: {cpu:,} s of CPU on one core in all ({wall:,} s on a machine shared with other work).
- **Log**: `log.jsonl` of the run.

## Measured

{count} fresh scenes of 96 pixels (seeds {tested:,} on), and as many in which every thing is a pair
of colour and surface that was held out of training. *AUC*: how often two patches of one part of a
scene have a higher cosine than two of different parts. *mIoU*: a {coarse} x {coarse} map of the
true parts with noise (0.3) added is multiplied once with an affinity of the tokens: ProxyCLIP's
attention (beta 1.2, gamma 3), or the plain softmax of the cosines at temperature 0.05; a cell says
mIoU on the fresh scenes / on those held out, per cent. "Colour alone" takes each patch's mean
colour for a token; "true parts" takes the parts themselves, the most that any token can reach.

| tokens | AUC | map as it is | after ProxyCLIP's | after the softmax |
|---|---|---|---|---|
{rows}

## Limits

- It knows 8 colours, 6 surfaces and 8 grounds as they are rendered, near 96 pixels a scene.
- Two things that look the same are the same to it; it tells looks apart, not objects.
- Patches of ground at the rim of a thing side with the thing about as often as with the ground.
{limit}"""
NO_GAIN = """- **ProxyCLIP's attention of it does not sharpen these maps**: it leaves too much
  weight on other parts.
"""


def export(options: argparse.Namespace) -> None:
    """Write the teacher of a run as fp16 safetensors, its configs and its measured model card."""
    folder = Path(options.export)
    torch.set_num_threads(options.threads)
    saved = torch.load(Path(options.out) / "checkpoint.pt", map_location="cpu", weights_only=True)
    model = build_model(options)
    model.load_state_dict(saved["teacher"])
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

    model = Dinov2Model.from_pretrained(folder, dtype=torch.float32).eval()
    first, count = 1_200_000_000, 64
    fresh = [toybox.render(first + i, SIZE) for i in range(count)]
    unseen = [toybox.render(first + 10**6 + i, SIZE, held_out="only") for i in range(count)]
    torch.manual_seed(options.seed)
    untrained = build_model(options).eval()
    rows, ours = [], {}
    kinds: dict[str, Callable[[list[toybox.Scene]], Tensor]] = {
        "colour alone": colour_tokens,
        "untrained network": lambda scenes: tokens_of(untrained, scenes),
        "true parts": part_tokens,
        "**tiny-vfm**": lambda scenes: tokens_of(model, scenes),
    }
    for name, tokens in kinds.items():
        ours, held = quality(tokens(fresh), fresh), quality(tokens(unseen), unseen)
        cells = [f"{ours[key]:.1f} / {held[key]:.1f}" for key in ours]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    left = min(1.0, (options.steps - saved["step"]) / max(1, options.cooldown * options.steps))
    card = CARD.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6, patch=PATCH,
        blocks=options.blocks, width=options.width, heads=options.width // 32,
        first=options.seed * 50_000_000, scenes=saved["rendered"], seed=options.seed,
        step=saved["step"], rate=options.rate, cpu=round(saved["cpu"]), wall=round(saved["wall"]),
        cooled=", cooled down" if left < 0.1 else " without cool-down", note=options.note,
        count=count, tested=first, coarse=COARSE, rows="\n".join(rows),
        limit=NO_GAIN if ours["miou_after"] <= ours["miou_before"] else "",
    )  # fmt: skip
    (folder / "README.md").write_text(card)
    print("\n".join(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", required=True, help="folder of checkpoint and log; resumed if it exists")
    add("--export", help="write the run's averaged weights to this folder and stop")
    add("--note", default="", help="a sentence on the run for the exported model card")
    add("--steps", type=int, default=2000)
    add("--minutes", type=float, help="stop (not cooled down) after this many minutes of training")
    add("--device", default="cpu")
    add("--threads", type=int, default=1)
    add("--float32", action="store_true", help="no bfloat16")
    add("--seed", type=int, default=1)
    add("--width", type=int, default=128)
    add("--blocks", type=int, default=6)
    add("--prototypes", type=int, default=256)
    add("--scenes", type=int, default=8, help="scenes per step, at the first of --sides")
    add("--sides", type=int, nargs="+", default=[12], help="patches per side of a view")
    add("--mask", type=float, default=0.3, help="most of a view that is masked")
    add("--temperature", type=float, default=0.1)
    add("--teacher-temperature", type=float, default=0.03)
    add("--reach", type=float, default=2.8, help="patches over which the teacher's tokens settle")
    add("--bar", type=float, default=0.6, help="cosine below which two patches do not look alike")
    add("--apart", type=float, default=2.0, help="weight of keeping such patches apart")
    add("--rate", type=float, default=1e-3)
    add("--warmup", type=int, default=50)
    add("--cooldown", type=float, default=0.3, help="share of the steps over which the rate falls")
    add("--average", type=float, default=0.99)
    add("--buffer", type=int, default=512)
    add("--fresh", type=int, default=6, help="new scenes per step")
    add("--tested", type=int, default=64)
    add("--log-every", type=int, default=25)
    add("--test-every", type=int, default=200)
    options = parser.parse_args()
    if options.export:
        export(options)
    else:
        train(options)


if __name__ == "__main__":
    main()
