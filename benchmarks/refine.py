"""CLIPer's compensation: the order written in the paper against the order used here.

    python benchmarks/refine.py [--classes 21 60 171] [--repeats 3] [--side 64] [--heads 10]
    python benchmarks/refine.py --network      # one pass of a network of Stable Diffusion's shape

Random attention of the shape of Stable Diffusion 2.1-base: 10 heads, L = 64 x 64 patches. The paper
forms all maps, multiplies them (Eq. 9), then applies the product to the score map (Eq. 10). Here
they are applied right to left, from given maps or from queries and keys by row blocks.

- `flat`: q and k are independent, so that every patch attends everywhere; 13 % of the entries are
  kept, too many for a sparse form: rows are made again on each use.
- `local`: q and k are waves of the position, so that patches attend to what lies near; few are
  kept, as a sparse matrix.

Seconds are wall clock and CPU time of the process; memory is the rise of the resident set, the
largest of all repeats.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from memory import measure
from wordmask.affinity import ByRows, Chain, HeadAttention, Sharpened

THRESHOLD, EPSILON = 0.1, 1e-5


def queries_and_keys(kind: str, side: int, heads: int, width: int = 64) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    if kind == "flat":
        return [tuple(torch.randn(2, side**2, width, generator=generator)) for _ in range(heads)]
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], dim=1).float()
    result = []
    for _ in range(heads):
        waves = torch.randn(2, width, generator=generator) * 8 / side
        shift = torch.rand(width, generator=generator) * 6.28
        noise = torch.randn(side**2, width, generator=generator)
        features = 1.4 * torch.cos(places @ waves + shift) + 0.3 * noise
        result.append((features, features))
    return result


def sharpen(maps: Tensor) -> Tensor:
    """Column maxima, threshold and rows of all maps (heads, L, L), in place."""
    maps /= maps.amax(1, keepdim=True) + EPSILON
    maps.masked_fill_(maps < THRESHOLD, 0)
    maps /= maps.sum(2, keepdim=True) + EPSILON
    return maps


def form(pairs: list[tuple[Tensor, ...]]) -> Tensor:
    """All maps at once, (heads, L, L)."""
    length, width = pairs[0][0].shape
    maps = torch.empty(len(pairs), length, length)
    for one, (q, k) in zip(maps, pairs, strict=True):
        torch.softmax(q @ k.T / width**0.5, dim=-1, out=one)
    return sharpen(maps)


def as_written(maps: Tensor, scores: Tensor) -> Tensor:
    """Eq. 9, then Eq. 10."""
    product = maps[0]
    for one in maps[1:]:
        product = product @ one
    return product @ scores


def run(call: Callable[[], Tensor]) -> tuple[float, float, float, Tensor]:
    result = []
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed goes back, else no rise would show
    # the thread that samples the memory takes time too
    clock = time.thread_time if torch.get_num_threads() == 1 else time.process_time
    begin = clock()
    seconds, memory = measure(lambda: result.append(call()))
    return seconds, clock() - begin, memory, result[0]


def compare(
    title: str, written: Callable[[], Tensor], ours: Callable[[], Tensor], repeats: int
) -> None:
    """Both in turns; medians, the ratio of the CPU times pair by pair, and the difference."""
    rows = []
    for _ in range(repeats):
        a, b = run(written), run(ours)
        difference = (a[3] - b[3]).abs().max().item()
        rows.append((*a[:3], *b[:3], a[1] / b[1], difference))
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    ratios = [row[6] for row in rows]
    most = max(row[2] for row in rows), max(row[5] for row in rows)
    print(
        f"{title:28} written {middle[0]:6.2f} s ({middle[1]:6.2f} CPU) {most[0]:5.0f} MiB | "
        f"ours {middle[3]:6.3f} s ({middle[4]:6.3f} CPU) {most[1]:5.0f} MiB | "
        f"{middle[6]:6.1f} times ({min(ratios):.1f}-{max(ratios):.1f}), memory / "
        f"{most[0] / max(most[1], 1):.0f}, differ by {max(r[7] for r in rows):.0e}",
        flush=True,
    )


class Dense(ByRows):
    """A map (L, L) that is given."""

    def __init__(self, matrix: Tensor):
        self.matrix, self.size = matrix, len(matrix)

    def rows(self, index: slice) -> Tensor:
        """See `ByRows`."""
        return self.matrix[index]


def compensation(arguments: argparse.Namespace) -> None:
    length = arguments.side**2
    generator = torch.Generator().manual_seed(1)
    score_maps = {c: torch.rand(length, c, generator=generator) for c in arguments.classes}
    print("maps given: Eq. 9 and 10 alone")
    maps = form(queries_and_keys("flat", arguments.side, arguments.heads))
    chain = Chain([Dense(one) for one in maps])
    for classes, scores in score_maps.items():
        compare(
            f"  {classes} classes",
            lambda s=scores, maps=maps: as_written(maps, s),
            lambda s=scores, chain=chain: chain @ s,
            arguments.repeats,
        )
    del maps, chain
    for kind in ("flat", "local"):
        pairs = queries_and_keys(kind, arguments.side, arguments.heads)

        def prepare(pairs: list[tuple[Tensor, ...]] = pairs) -> Chain:
            return Chain([Sharpened(HeadAttention(*pair), THRESHOLD) for pair in pairs])

        ready = prepare()
        kept = [f.kept.values().numel() / length**2 for f in ready.factors if f.kept is not None]
        print(
            f"{kind}, from queries and keys: {len(kept)} of {len(pairs)} maps kept as sparse"
            + (f", {100 * statistics.mean(kept):.1f} % of their entries" if kept else "")
        )
        for classes, scores in score_maps.items():
            compare(
                f"  {classes} classes, all in all",
                lambda s=scores, p=pairs: as_written(form(p), s),
                lambda s=scores, prepare=prepare: prepare() @ s,
                arguments.repeats,
            )
            seconds, cpu, *_ = run(lambda s=scores, ready=ready: ready @ s)
            print(f"    other words for the same picture: {seconds:.3f} s ({cpu:.3f} CPU)")


def network() -> None:
    """One pass as `attention` makes it, and a whole pass, with random weights."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel

    from wordmask.refiners.diffusion import Diffusion
    from wordmask.towers.diffusion import DiffusionTower

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        )
    generator = torch.Generator().manual_seed(0)
    for model in (unet, vae):
        model.to_empty(device="cpu").eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(float("norm" in name and name.endswith("weight")))
            else:
                bound = parameter[0].numel() ** -0.5
                parameter.uniform_(-bound, bound, generator=generator)
    print(f"UNet {sum(p.numel() for p in unet.parameters()) / 1e6:.0f} M parameters, float32")
    prompt = torch.randn(1, 77, 1024, generator=generator)
    tower = DiffusionTower(unet, vae, PNDMScheduler(), prompt, "random")
    image = torch.rand(3, 375, 500, generator=generator)
    scores = torch.rand(21, 21, 28, generator=generator)
    refiner = Diffusion()
    latent = tower.noised(tower.encode(image, (512, 512)), 101)
    with torch.inference_mode():
        steps = {
            "VAE": lambda: tower.encode(image, (512, 512)),
            "VAE, UNet up to the last layer read": lambda: tower.attention(image).heads[0].q,
            "whole UNet": lambda: unet(latent, 101, prompt).sample,
        }
        for name, step in steps.items():
            seconds, cpu, memory, _ = run(step)
            print(f"{name:40} {seconds:6.2f} s ({cpu:6.2f} CPU), {memory:5.0f} MiB", flush=True)
        found = tower.attention(image)
        ones = torch.ones(found.grid[0] * found.grid[1], 1)
        fused = refiner.fuse(found)
        seconds, cpu, memory, _ = run(lambda: refiner.fuse(found).attention @ ones)
        print(f"{'fusing its heads':40} {seconds:6.2f} s ({cpu:6.2f} CPU), {memory:5.0f} MiB")
        seconds, cpu, memory, _ = run(lambda: refiner.refine(fused, scores))
        print(f"{'refining 21 classes':40} {seconds:6.2f} s ({cpu:6.2f} CPU), {memory:5.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, nargs="+", default=[21, 60, 171])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--heads", type=int, default=10)
    parser.add_argument("--network", action="store_true")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if arguments.network:
        network()
    else:
        with torch.inference_mode():
            compensation(arguments)


if __name__ == "__main__":
    main()
