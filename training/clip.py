"""Train the built-in tiny CLIP on toybox scenes: image-level labels only, no mask in the loss.

A step draws scenes from a buffer that a renderer process keeps fresh, and shows views of them:
small and large blocks of patches, a random third of the patches, the whole scene. All patches
outside the view are dropped before the first block, so a small view costs little. The target of a
view is what it shows: every prompt of a bank ("red striped", "grass", "a violet ring and a blue box
on sand") is true, false or, where hardly anything of a thing is left in the view, unknown and not
counted. The loss is a sigmoid per pair of view and prompt.

Three things vary at random from group to group while training, and never at inference: the class
token may not attend to patches before the last block; the last block's residual and MLP may be left
out; and instead of the class token, each patch's value in the last block may be classified, by
itself or averaged by v-v, q-q, k-k or the earlier blocks' attention, a view showing what at least
one of its patches shows (noisy-or: still only the view's target is given). All three make the last
block's values carry the names.

    python training/clip.py --out runs/clip --steps 20000            # resumes where it stopped
    python training/clip.py --out runs/clip --export src/wordmask/networks/tiny-clip
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from wordmask import toybox
from wordmask.vocabulary import templates

SIZE, PATCH = 96, 8
GRID = SIZE // PATCH
PARTS = 7  # two grounds and five things at most
MEAN, STD = 0.5, 0.25
KINDS = ("colour", "surface", "shape", "ground")
NAMES = [list(names) for names in (toybox.COLOURS, toybox.SURFACES, toybox.SHAPES, toybox.GROUNDS)]
SYNONYMS = (toybox.COLOURS, toybox.SURFACES, toybox.SHAPES, toybox.GROUNDS)
# How the names are read off a group of views while training, and how often; see encode_views.
READINGS = {
    "token": 0.25,
    "clear": 0.15,
    "identity": 0.25,
    "v-v": 0.1,
    "q-q": 0.08,
    "k-k": 0.07,
    "early": 0.1,
}
FIRST_TEST_SEED = 10**9  # training seeds stay below, test scenes lie above
TEMPLATES = list(templates("openai"))
SENTENCES = (
    "a picture of {}", "there is {}", "one can see {}", "a scene with {}", "this is {}",
    "on {} there is {}", "{} on {}", "{} with {}", "{} and {}", "{} lying on the {}",
    "a thing that is {}", "something {}", "an {}", "nothing but {}", "that is {} in the scene",
)  # fmt: skip


# ---- tokenizer -----------------------------------------------------------------------------------


def byte_alphabet() -> list[str]:
    """Give the 256 printable characters that byte-level BPE writes bytes with."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + i) for i in range(len(moved))]


def build_tokenizer(length: int) -> CLIPTokenizer:
    """Learn merges until every word of the toybox and of the templates is one token."""
    text = " ".join([*TEMPLATES, *SENTENCES]).replace("{}", " ")
    words = {word.strip(".,!'") for word in text.lower().split()}
    words |= {name for names in SYNONYMS for said in names.values() for name in said}
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in sorted(words) if word.isalpha()}
    merges: list[tuple[str, str]] = []
    while True:
        counts: dict[tuple[str, str], int] = {}
        for pieces in split.values():
            for pair in itertools.pairwise(pieces):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for word, pieces in split.items():
            merged, i = [], 0
            while i < len(pieces):
                if tuple(pieces[i : i + 2]) == best:
                    merged.append(pieces[i] + pieces[i + 1])
                    i += 2
                else:
                    merged.append(pieces[i])
                    i += 1
            split[word] = merged
    letters = byte_alphabet()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


# ---- model ---------------------------------------------------------------------------------------


def build_model(options: argparse.Namespace, tokenizer: CLIPTokenizer) -> CLIPModel:
    def tower(width: int, blocks: int) -> dict:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": blocks,
            "num_attention_heads": width // 32,
            "hidden_act": "quick_gelu",
            "projection_dim": options.joint,
        }

    text = tower(options.text_width, options.text_blocks) | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = tower(options.width, options.blocks) | {"image_size": SIZE, "patch_size": PATCH}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=options.joint,
                        logit_scale_init_value=math.log(20))  # fmt: skip
    return CLIPModel(config)


def attend(attention, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Give the attention's output (B, L, D) and its weights (B, M, L, L)."""
    q, k, v = (
        split_heads(attention, project(x))
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = attention_weights(q, k, mask)
    return attention.out_proj(join_heads(weights @ v)), weights


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Written out: on a CPU, in bfloat16 and at these lengths, twice as fast as the fused one."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        logits = logits + mask
    return logits.softmax(-1).to(q.dtype)


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # (B, L, D)


def split_heads(attention, x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)  # (B, M, L, D/M)


def patchify(images: Tensor) -> Tensor:
    """Turn images (B, H, W, 3) uint8 into patches (B, L, 3 * PATCH**2) uint8, channel first."""
    batch, height, width, _ = images.shape
    cut = images.view(batch, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    return cut.permute(0, 1, 3, 5, 2, 4).reshape(batch, -1, 3 * PATCH * PATCH)


def embed(model: CLIPModel, patches: Tensor, kept: Tensor) -> Tensor:
    """Give the tokens (B, 1 + K, D) of the kept patches; kept (B, K) indexes the grid."""
    embeddings = model.vision_model.embeddings
    pixels = (patches.float() / 255 - MEAN) / STD
    tokens = functional.linear(pixels, embeddings.patch_embedding.weight.flatten(1))
    positions = embeddings.position_embedding.weight
    tokens = tokens + positions[1:][kept]
    first = (embeddings.class_embedding + positions[0]).expand(len(tokens), 1, -1)
    return model.vision_model.pre_layrnorm(torch.cat([first.to(tokens.dtype), tokens], 1))


def blind_mask(count: int, device: torch.device) -> Tensor:
    """Give the additive mask that keeps the class token from reading patches."""
    mask = torch.zeros(count, count, device=device)
    mask[0, 1:] = -torch.inf
    return mask


def encode_views(
    model: CLIPModel, patches: Tensor, kept: Tensor, reading: str, blind: bool
) -> Tensor:
    """Give unit embeddings of views: (B, E), or (B, K, E) where the patches are classified.

    reading is one of READINGS: "token" (as CLIP does), "clear" (no residual, no MLP in the last
    block), or how patches are classified: "identity" (each by itself), with the attention "v-v",
    "q-q" or "k-k", or with the mean attention of the "early" blocks; blind keeps the class token
    from the patches before the last block.
    """
    x = embed(model, patches, kept)
    *early, last = model.vision_model.encoder.layers
    mask = blind_mask(x.shape[1], x.device) if blind else None
    maps: Tensor | float = 0.0
    for block in early:
        read, weights = attend(block.self_attn, block.layer_norm1(x), mask)
        if reading == "early":
            maps = maps + weights[..., 1:, 1:].float()
        x = x + read
        x = x + block.mlp(block.layer_norm2(x))
    y = last.layer_norm1(x)
    attention = last.self_attn
    if reading in ("token", "clear"):
        q = split_heads(attention, attention.q_proj(y[:, :1]))
        k, v = (split_heads(attention, f(y)) for f in (attention.k_proj, attention.v_proj))
        out = attention.out_proj(join_heads(attention_weights(q, k) @ v))[:, 0]
        if reading == "token":
            out = x[:, 0] + out
            out = out + last.mlp(last.layer_norm2(out))
    else:
        y = y[:, 1:]
        v = split_heads(attention, attention.v_proj(y))
        if reading == "early":
            v = (maps / maps.sum(-1, keepdim=True)).to(v.dtype) @ v
        elif reading != "identity":
            project = {"v-v": attention.v_proj, "q-q": attention.q_proj, "k-k": attention.k_proj}
            same = split_heads(attention, project[reading](y))
            v = attention_weights(same, same) @ v
        out = attention.out_proj(join_heads(v))
    out = model.visual_projection(model.vision_model.post_layernorm(out))
    return functional.normalize(out.float(), dim=-1)


def encode_prompts(model: CLIPModel, tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    device = model.logit_scale.device
    tokens = tokenizer(prompts, padding=True, truncation=True, return_tensors="pt").to(device)
    features = model.get_text_features(input_ids=tokens["input_ids"]).pooler_output
    return functional.normalize(features.float(), dim=-1)


# ---- quality -------------------------------------------------------------------------------------


@torch.no_grad()
def dense_variants(model: CLIPModel, images: Tensor) -> dict[str, Tensor]:
    """Give unit patch features (B, L, E) by several uses of the last block; images (B, H, W, 3)."""
    kept = torch.arange(GRID * GRID, device=images.device).expand(len(images), -1)
    x = embed(model, patchify(images), kept)
    *early, last = model.vision_model.encoder.layers
    maps: Tensor | float = 0.0
    for block in early:
        out, weights = attend(block.self_attn, block.layer_norm1(x))
        maps = maps + weights
        x = x + out
        x = x + block.mlp(block.layer_norm2(x))
    attention, y = last.self_attn, last.layer_norm1(x)
    q, k, v = (
        split_heads(attention, project(y))
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )

    def read(weights: Tensor) -> Tensor:
        return attention.out_proj(join_heads(weights @ v))

    def finish(x: Tensor) -> Tensor:
        return x + last.mlp(last.layer_norm2(x))

    states = {
        "plain": finish(x + read(attention_weights(q, k))),
        "v-v": finish(x + read(attention_weights(v, v))),
        "v-v alone": read(attention_weights(v, v)),
        "q-q alone": read(attention_weights(q, q)),
        "k-k alone": read(attention_weights(k, k)),
        "q-k alone": read(attention_weights(q, k)),
        "early alone": read(maps / len(early)),
        "identity alone": attention.out_proj(join_heads(v)),
    }
    vision = model.vision_model
    return {
        name: functional.normalize(
            model.visual_projection(vision.post_layernorm(state[:, 1:])), dim=-1
        )
        for name, state in states.items()
    }


@torch.no_grad()
def quality(
    model: CLIPModel, tokenizer: CLIPTokenizer, scenes: list[toybox.Scene], words: int = 20
) -> dict[str, dict[str, float]]:
    """Measure, in percent, mIoU and pixel accuracy (all, things) of each variant.

    Each scene has its own `words` words to choose from (toybox.choices); one confusion matrix
    over all grounds and looks, mean over classes that occur in target or prediction.
    """
    device = model.logit_scale.device
    names = [*toybox.GROUNDS, *toybox.looks(True)]
    frames = ("{}", "a photo of a {}.", "a {} thing", "a picture of {}")
    text = torch.stack(
        [encode_prompts(model, tokenizer, [f.format(n) for n in names]) for f in frames]
    )
    text = functional.normalize(text.mean(0), dim=-1)
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).to(device)
    features = dense_variants(model, images)
    results = {}
    for variant, dense in features.items():
        confusion = torch.zeros(len(names), len(names), dtype=torch.long)
        for index, scene in enumerate(scenes):
            chosen = toybox.choices(scene, words, seed=index)
            ids = torch.tensor([names.index(name) for name in chosen])
            score = (dense[index] @ text[ids.to(device)].T).T.view(1, len(ids), GRID, GRID)
            score = functional.interpolate(score.float(), scale_factor=PATCH, mode="bilinear")
            prediction = ids[score[0].argmax(0).cpu().flatten()]
            target = ids[torch.from_numpy(toybox.label_map(scene, chosen)).long().flatten() - 1]
            confusion += torch.bincount(
                target * len(names) + prediction, minlength=len(names) ** 2
            ).view(len(names), -1)
        hit, true, said = confusion.diag(), confusion.sum(1), confusion.sum(0)
        union = true + said - hit
        iou = hit[union > 0] / union[union > 0]
        grounds = len(toybox.GROUNDS)
        results[variant] = {
            "miou": round(100 * float(iou.mean()), 1),
            "pixels": round(100 * float(hit.sum() / true.sum()), 1),
            "things": round(100 * float(hit[grounds:].sum() / true[grounds:].sum()), 1),
        }
    return results


# ---- scenes --------------------------------------------------------------------------------------


@dataclass
class Buffer:
    """A ring of rendered scenes in shared memory, written by one process and read by another."""

    memory: shared_memory.SharedMemory
    count: int

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Images (N, S, S, 3), patch counts (N, L, PARTS), facts (N, PARTS, 4), progress (2,)."""
        shapes = [
            ((2,), np.int64),
            ((self.count, SIZE, SIZE, 3), np.uint8),
            ((self.count, GRID * GRID, PARTS), np.uint8),
            ((self.count, PARTS, len(KINDS)), np.int8),
        ]
        views, offset = [], 0
        for shape, dtype in shapes:
            view = np.ndarray(shape, dtype, self.memory.buf, offset)
            views.append(view)
            offset += -(-view.nbytes // 64) * 64
        return views[1], views[2], views[3], views[0]

    @classmethod
    def create(cls, count: int) -> Buffer:
        size = 256 + count * (SIZE * SIZE * 3 + GRID * GRID * PARTS + PARTS * len(KINDS))
        return cls(shared_memory.SharedMemory(create=True, size=size + 512), count)


def facts_of(scene: toybox.Scene) -> np.ndarray:
    """Give (PARTS, 4) int8: indices of colour, surface, shape, ground; -1 for none."""
    table = np.full((PARTS, len(KINDS)), -1, np.int8)
    for part, ground in enumerate(scene.grounds):
        table[part, 3] = NAMES[3].index(ground)
    for part, thing in enumerate(scene.things, len(scene.grounds)):
        table[part, :3] = [
            NAMES[0].index(thing.colour),
            NAMES[1].index(thing.surface),
            NAMES[2].index(thing.shape),
        ]
    return table


def patch_counts(parts: np.ndarray) -> np.ndarray:
    """Give (L, PARTS): pixels of each part in each patch."""
    cut = parts.reshape(GRID, PATCH, GRID, PATCH).transpose(0, 2, 1, 3).reshape(GRID * GRID, -1)
    flat = cut + (np.arange(GRID * GRID) * PARTS)[:, None]
    return np.bincount(flat.ravel(), minlength=GRID * GRID * PARTS).reshape(-1, PARTS)


def render_forever(name: str, count: int, start: int, most: int, parent: int) -> None:
    """Fill the ring with new scenes, as fast as the training uses them and no faster."""
    os.environ["OMP_NUM_THREADS"] = "1"
    buffer = Buffer(shared_memory.SharedMemory(name=name), count)
    images, counts, table, progress = buffer.arrays
    for index in itertools.count():
        while index >= progress[1]:
            time.sleep(0.01)
            if os.getppid() != parent:
                return
        scene = toybox.render(start + index, SIZE, things=(1, most))
        slot = index % count
        images[slot], counts[slot] = scene.image, patch_counts(scene.parts)
        table[slot] = facts_of(scene)
        progress[0] = index + 1


# ---- prompts and their targets -------------------------------------------------------------------


class Bank:
    """Draws prompts; a prompt is a text and up to three clauses that must all hold.

    A clause is (colour, surface, shape, ground), each an index or -1 for any.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        held_looks = {(NAMES[0].index(c), NAMES[1].index(s)) for c, s in toybox.HELD_OUT_LOOKS}
        held_shapes = {(NAMES[0].index(c), NAMES[2].index(h)) for c, h in toybox.HELD_OUT_SHAPES}
        ranges = [range(len(names)) for names in NAMES]
        self.looks = [p for p in itertools.product(*ranges[:2]) if p not in held_looks]
        self.coloured = [p for p in itertools.product(ranges[0], ranges[2]) if p not in held_shapes]
        self.full = [
            (c, s, h) for (c, s) in self.looks for h in ranges[2] if (c, h) not in held_shapes
        ]

    def say(self, kind: int, index: int) -> str:
        said = SYNONYMS[kind][NAMES[kind][index]]
        return said[0] if self.rng.random() < 0.6 else said[int(self.rng.integers(len(said)))]

    def one(self, options: list[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def framed(self, noun: str) -> str:
        draw = self.rng.random()
        article = "an" if noun[0] in "aeiou" else "a"
        if draw < 0.35:
            return noun
        if draw < 0.5:
            return f"{article} {noun}"
        if draw < 0.6:
            return self.one(list(SENTENCES[:5])).format(f"{article} {noun}")
        return self.one(TEMPLATES).format(noun)

    def noun(self, clause: tuple[int, int, int, int]) -> str:
        colour, surface, shape, ground = clause
        if ground >= 0:
            return self.say(3, ground)
        words = [self.say(0, colour)] if colour >= 0 else []
        if surface >= 0:
            words.append(self.say(1, surface))
        if len(words) == 2 and self.rng.random() < 0.25:
            words.reverse()
        if shape >= 0:
            return " ".join([*words, self.say(2, shape)])
        draw = self.rng.random()
        if draw < 0.45:
            return " ".join(words)
        if draw < 0.9:
            return " ".join([*words, "thing"])
        return "thing that is " + " and ".join(words)

    def draw(self, table: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Draw a bank; table (N, PARTS, 4) are the batch's facts, to write captions from.

        Returns texts, clauses (Q, 3, 4) and the weight of each prompt (Q,).
        """
        rng = self.rng
        prompts: list[tuple[str, list[tuple[int, int, int, int]], float]] = []

        def add(clause: tuple[int, int, int, int], weight: float) -> None:
            prompts.append((self.framed(self.noun(clause)), [clause], weight))

        for c, s in self.looks:
            add((c, s, -1, -1), 1.0)
        for g in range(len(NAMES[3])):
            add((-1, -1, -1, g), 1.0)
        for c in range(len(NAMES[0])):
            add((c, -1, -1, -1), 0.5)
        for s in range(len(NAMES[1])):
            add((-1, s, -1, -1), 0.5)
        for h in range(len(NAMES[2])):
            add((-1, -1, h, -1), 0.6)
        for i in rng.permutation(len(self.coloured))[:12]:
            c, h = self.coloured[i]
            add((c, -1, h, -1), 0.4)
        for i in rng.permutation(len(self.full))[:8]:
            add((*self.full[i], -1), 0.4)
        for row in table[rng.permutation(len(table))[:10]]:
            things = [tuple(int(x) for x in part) for part in row if part[0] >= 0]
            grounds = [tuple(int(x) for x in part) for part in row if part[3] >= 0]
            if not things:
                continue
            picked = [things[i] for i in rng.permutation(len(things))[:2]]
            picked = [self.partly(thing) for thing in picked]
            phrases = [self.noun(clause) for clause in picked]
            text = " and ".join(("an " if p[0] in "aeiou" else "a ") + p for p in phrases)
            clauses = list(picked)
            if rng.random() < 0.7:
                ground = grounds[int(rng.integers(len(grounds)))]
                clauses.append(ground)
                said = self.noun(ground)
                text = self.one([
                    f"{text} on {said}", f"on {said} there is {text}", f"{said} with {text}",
                    f"{text} lying on the {said}", f"a photo of {text} on {said}",
                ])  # fmt: skip
            else:
                text = self.one([text, f"a picture of {text}", f"there is {text}"])
            prompts.append((text, clauses, 0.4))
        clauses = np.full((len(prompts), 3, 4), -1, np.int8)
        for i, (_, wanted, _) in enumerate(prompts):
            for j in range(3):
                clauses[i, j] = wanted[min(j, len(wanted) - 1)]
        return [p[0] for p in prompts], clauses, np.array([p[2] for p in prompts], np.float32)

    def partly(self, thing: tuple[int, ...]) -> tuple[int, int, int, int]:
        colour, surface, shape, _ = thing
        draw = self.rng.random()
        if draw < 0.45:
            return (colour, surface, -1, -1)
        if draw < 0.7:
            return (colour, -1, shape, -1)
        return (colour, surface, shape, -1)


def truth(
    shown: Tensor, whole: Tensor, table: Tensor, clauses: Tensor, share: float, area: int
) -> Tensor:
    """Give (V, Q): 1 where a prompt is true of a view, 0 where false, 0.5 where unknown.

    shown (V, PARTS) pixels of each part in the view, whole (V, PARTS) in the scene; share is the
    share of the scene's patches that a random view keeps (1 for a block), area the view's pixels.
    """
    least = max(24, area // 250)
    look = 0.5 * (shown > 5).float() + 0.5 * (shown >= least).float()
    enough = (shown >= 0.6 * share * whole).float()
    shape = look * (0.5 + 0.5 * enough)
    shape = torch.where((look == 1) & (enough == 0), 0.5, shape).clamp(max=1)
    shape = torch.where((look == 0.5), 0.5, shape)
    fits = (clauses[None, :, :, None] == -1) | (clauses[None, :, :, None] == table[:, None, None])
    fits = fits.all(-1)  # (V, Q, 3, PARTS)
    state = torch.where(
        (clauses[:, :, 2] >= 0)[None, :, :, None], shape[:, None, None], look[:, None, None]
    )
    return (fits * state).amax(-1).amin(-1)


@dataclass
class Clip:
    """A group of views: slots (V,) in the ring, kept (V, K) patches, share kept at random."""

    slots: np.ndarray
    kept: np.ndarray
    share: float
    bfloat16: bool = True


def noisy_or_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Give (V, Q) losses: a prompt is true of a view where it is of one patch; logits (V, K, Q)."""
    none = functional.softplus(logits).sum(1)  # -log of the chance that no patch says so
    return torch.where(target == 1, -torch.log(-torch.expm1(-none.clamp(min=1e-6))), none)


def vision_parameters(model: CLIPModel) -> list[Tensor]:
    return [*model.vision_model.parameters(), *model.visual_projection.parameters()]


def gradients(
    model: CLIPModel,
    bias: Tensor,
    scenes: tuple[np.ndarray, np.ndarray, np.ndarray],
    clip: Clip,
    prompts: tuple[Tensor, Tensor, Tensor],
    reading: str,
    blind: bool,
) -> tuple[float, tuple[Tensor | None, ...]]:
    """Give the loss of one group of views, and its gradients.

    scenes are the buffer's images, patch counts and facts; prompts the embeddings (Q, E), the
    clauses (Q, 3, 4) and the weights (Q,). Gradients are of the vision parameters, the logit
    scale, the bias and the embeddings, in this order.
    """
    text, clauses, weight = prompts
    device = text.device
    images, counts, table = scenes
    rows, kept = torch.arange(len(clip.kept))[:, None], torch.from_numpy(clip.kept)
    patches = patchify(torch.from_numpy(images[clip.slots]))[rows, kept].to(device)
    seen = torch.from_numpy(counts[clip.slots]).int()
    facts = torch.from_numpy(table[clip.slots]).to(device)
    shown, whole = seen[rows, kept].sum(1).to(device), seen.sum(1).to(device)
    target = truth(shown, whole, facts, clauses, clip.share, clip.kept.shape[1] * PATCH**2)
    amp = clip.bfloat16
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
        views = encode_views(model, patches, kept.to(device), reading, blind)
    logits = model.logit_scale.exp().clamp(max=100) * views @ text.T + bias
    if logits.ndim == 3:
        pair = noisy_or_loss(logits, target)
    else:
        pair = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = (pair * (target != 0.5) * weight).sum() / len(kept) / 10
    wanted = [*vision_parameters(model), model.logit_scale, bias, text]
    return float(loss.detach()), torch.autograd.grad(loss, wanted, allow_unused=True)


# ---- training ------------------------------------------------------------------------------------


def block_views(rng: np.random.Generator, views: int, rows: int, columns: int) -> np.ndarray:
    """Give (views, rows * columns) patch indices of blocks at random places."""
    top = rng.integers(0, GRID - rows + 1, views)[:, None, None]
    left = rng.integers(0, GRID - columns + 1, views)[:, None, None]
    grid = (top + np.arange(rows)[None, :, None]) * GRID + left + np.arange(columns)[None, None]
    return grid.reshape(views, -1)


def draw_views(
    rng: np.random.Generator, early: bool, scale: float
) -> list[tuple[np.ndarray, float]]:
    """Draw the step's groups of views: patch indices (V, K), and the share kept at random.

    Early steps show mostly small blocks: they cost least and teach what a name looks like.
    """

    def n(x: int) -> int:
        return max(1, int(x * scale))

    rows, columns = ((2, 2), (3, 2), (2, 3), (3, 3), (2, 1))[int(rng.integers(5))]
    groups = [(block_views(rng, n(1300 // (rows * columns)), rows, columns), 1.0)]
    if early and rng.random() < 0.5:
        return groups
    rows, columns = ((4, 4), (5, 5), (6, 6), (4, 6), (7, 5))[int(rng.integers(5))]
    groups.append((block_views(rng, n(1200 // (rows * columns)), rows, columns), 1.0))
    if early:
        return groups
    if rng.random() < 0.5:
        keep = 48
        sparse = np.argsort(rng.random((n(32), GRID * GRID)), 1)[:, :keep]
        groups.append((sparse, keep / GRID**2))
    else:
        groups.append((np.tile(np.arange(GRID * GRID), (n(12), 1)), 1.0))
    return groups


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Warm up, hold, and fall to a fiftieth over the last part of the steps."""
    rise = min(1.0, (step + 1) / 300)
    left = (options.steps - step) / max(1, options.cooldown * options.steps)
    return options.rate * rise * max(0.02, min(1.0, left))


def train(options: argparse.Namespace) -> None:
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "pid").write_text(f"{os.getpid()}\n")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pool = ThreadPoolExecutor(options.threads, initializer=torch.set_num_threads, initargs=(1,))
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    tokenizer = build_tokenizer(32)
    model = build_model(options, tokenizer).to(device)
    bias = torch.nn.Parameter(torch.tensor(-4.0, device=device))
    average = copy.deepcopy(model).eval()
    shared = [*vision_parameters(model), model.logit_scale, bias]
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": 0.05},
            {"params": [*rest, bias], "weight_decay": 0.0},
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
        bias.data.copy_(saved["bias"])
        step, wall, cpu, rendered = (saved[k] for k in ("step", "wall", "cpu", "rendered"))
    log = (out / "log.jsonl").open("a")
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e6:.2f} M parameters, {len(tokenizer)} tokens, from step {step}", flush=True)

    test = [toybox.render(FIRST_TEST_SEED + i, SIZE) for i in range(options.scenes)]
    unseen = [toybox.render(FIRST_TEST_SEED + 10**6 + i, SIZE, held_out="only") for i in range(32)]
    rng = np.random.default_rng([options.seed, step])
    bank = Bank(options.seed * 1_000_003 + step)
    buffer = Buffer.create(options.buffer)
    images, counts, table, progress = buffer.arrays
    progress[:] = (0, options.buffer)
    context = multiprocessing.get_context("spawn")
    start = options.seed * 50_000_000 + rendered  # scenes are counted on, so a resume sees new ones
    worker = context.Process(
        target=render_forever,
        args=(buffer.memory.name, options.buffer, start, options.most, os.getpid()), daemon=True,
    )  # fmt: skip
    worker.start()
    while progress[0] < min(512, options.buffer):
        time.sleep(0.1)

    def save() -> None:
        state = {
            "model": model.state_dict(), "average": average.state_dict(),
            "optimizer": optimizer.state_dict(), "bias": bias.detach(), "step": step,
            "wall": wall, "cpu": cpu, "rendered": rendered + int(progress[0]),
        }  # fmt: skip
        torch.save(state, out / "checkpoint.tmp")
        (out / "checkpoint.tmp").replace(checkpoint)

    losses: list[float] = []
    groups_seen: dict[str, list[float]] = {}
    clock, used = time.monotonic(), time.process_time()
    while step < options.steps:
        if options.minutes and wall > 60 * options.minutes:
            break
        groups = draw_views(rng, step < options.early, options.scale)
        ready = min(int(progress[0]), options.buffer)
        clips = []
        for kept, share in groups:
            slots = rng.integers(0, ready, len(kept))
            clips.append(Clip(slots, kept, share, not options.float32))
        texts, clauses, weight = bank.draw(table[clips[0].slots[:64]])
        clauses_t = torch.from_numpy(clauses).to(device)
        weight_t = torch.from_numpy(weight).to(device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=not options.float32):
            text = encode_prompts(model, tokenizer, texts)
        leaf = text.detach().requires_grad_()
        readings = rng.choice(list(READINGS), len(clips), p=list(READINGS.values()))
        blinds = rng.random(len(clips)) < options.blind

        # Groups run side by side, each on one thread: small products do not gain from several.
        scenes, prompts = (images, counts, table), (leaf, clauses_t, weight_t)
        jobs = [
            pool.submit(gradients, model, bias, scenes, clip, prompts, str(reading), bool(blind))
            for clip, reading, blind in zip(clips, readings, blinds, strict=True)
        ]
        optimizer.zero_grad(set_to_none=True)
        results = [job.result() for job in jobs]
        for tensors in zip([*shared, leaf], *(grads for _, grads in results), strict=True):
            given = [grad for grad in tensors[1:] if grad is not None]
            tensors[0].grad = sum(given[1:], given[0]) if given else None
        text.backward(leaf.grad)
        for index, (loss, _) in enumerate(results):
            key = f"{index} {readings[index]}"
            groups_seen.setdefault(key, []).append(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        step += 1
        progress[1] += options.fresh
        with torch.no_grad():
            keep = min(options.average, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        losses.append(float(np.mean([loss for loss, _ in results])))
        now, now_used = time.monotonic(), time.process_time()
        wall += min(now - clock, 20)  # a stopped process does not count
        cpu += now_used - used
        clock, used = now, now_used
        if step % options.log_every == 0:
            line = {
                "step": step,
                "loss": round(float(np.mean(losses)), 4),
                "groups": {k: round(np.mean(v).item(), 3) for k, v in sorted(groups_seen.items())},
                "scale": round(math.exp(model.logit_scale.item()), 1),
                "bias": round(bias.item(), 2),
                "seconds": round(wall),
                "cpu_seconds": round(cpu),
                "scenes": rendered + int(progress[0]),
            }
            losses, groups_seen = [], {}
            if step % options.test_every == 0:
                line["quality"] = quality(average, tokenizer, test)
                line["held_out"] = quality(average, tokenizer, unseen)
                save()
            log.write(json.dumps(line) + "\n")
            log.flush()
    save()
    worker.terminate()
    worker.join()
    buffer.memory.unlink()
    print(f"stopped at step {step}: {wall:.0f} s, {cpu:.0f} s of CPU in this process", flush=True)


def export(options: argparse.Namespace) -> None:
    """Write the averaged weights of a run as fp16 safetensors, with tokenizer and configs."""
    folder = Path(options.export)
    tokenizer = build_tokenizer(32)
    model = build_model(options, tokenizer)
    saved = torch.load(Path(options.out) / "checkpoint.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(saved["average"])
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "CLIPImageProcessor",
                "do_convert_rgb": True,
                "do_resize": True,
                "size": {"shortest_edge": SIZE},
                "resample": 3,
                "do_center_crop": True,
                "crop_size": {"height": SIZE, "width": SIZE},
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": [MEAN] * 3,
                "image_std": [STD] * 3,
            },
            indent=2,
        )
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", required=True, help="folder of checkpoint and log; resumed if it exists")
    add("--export", help="write the run's averaged weights to this folder and stop")
    add("--steps", type=int, default=12000)
    add("--minutes", type=float, help="stop (not cooled down) after this many minutes of training")
    add("--device", default="cpu")
    add("--threads", type=int, default=2)
    add("--float32", action="store_true", help="no bfloat16")
    add("--seed", type=int, default=1)
    add("--width", type=int, default=128)
    add("--blocks", type=int, default=8)
    add("--text-width", type=int, default=128)
    add("--text-blocks", type=int, default=2)
    add("--joint", type=int, default=128)
    add("--rate", type=float, default=1e-3)
    add("--cooldown", type=float, default=0.25, help="share of the steps over which the rate falls")
    add("--average", type=float, default=0.998)
    add("--blind", type=float, default=0.5)
    add("--early", type=int, default=1500, help="steps that show blocks of patches only")
    add("--scale", type=float, default=1.0, help="views per step, in units of the default")
    add("--most", type=int, default=5)
    add("--buffer", type=int, default=8192)
    add("--fresh", type=int, default=40, help="new scenes per step")
    add("--scenes", type=int, default=64)
    add("--log-every", type=int, default=50)
    add("--test-every", type=int, default=250)
    options = parser.parse_args()
    if options.export:
        export(options)
    else:
        train(options)


if __name__ == "__main__":
    main()
