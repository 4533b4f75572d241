"""Region maps: which pixels of a picture belong together, whatever they show.

A region map is integers (h, w) over the whole picture: 0 where a pixel is in no region, and 1 to K
for K regions. It comes from colours, from the patches of a vision foundation model, from a network
that segments everything, or from a folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.clusters import cluster_tree
from wordmask.errors import WordmaskError
from wordmask.extras import need
from wordmask.files import shown
from wordmask.images import IMAGE_SUFFIXES
from wordmask.progress import stage
from wordmask.towers.auxiliary import AuxiliaryModels

SHORT_SIDE = 336  # pixels at which `felzenszwalb`, `slic` and `attention` see a larger picture
HEIGHT = 0.5  # cosine distance up to which `attention` joins patches
FILES = (".png", ".npz")
SKIMAGE = ("skimage.segmentation", "regions", "a region map by colour")


def felzenszwalb(image: Tensor, networks: AuxiliaryModels) -> Tensor:
    """Regions by colour edges (Felzenszwalb and Huttenlocher, IJCV 2004)."""
    found = need(*SKIMAGE).felzenszwalb(_pixels(image), scale=200, sigma=0.8, min_size=100)
    return torch.from_numpy(found) + 1


def slic(image: Tensor, networks: AuxiliaryModels) -> Tensor:
    """About 100 superpixels of similar size (Achanta et al., TPAMI 2012)."""
    found = need(*SKIMAGE).slic(_pixels(image), n_segments=100, compactness=10, start_label=1)
    return torch.from_numpy(found)


def attention(image: Tensor, networks: AuxiliaryModels) -> Tensor:
    """Clusters of the VFM's patches: keys that are alike attend to the same; on its grid."""
    keys = networks.vfm.features(_reduced(image)[None], "keys")[0]  # (D, h, w)
    return patch_clusters(keys, HEIGHT)


def _masks(kind: str) -> Callable[[Tensor, AuxiliaryModels], Tensor]:
    """A SAM's masks of everything, small ones over large ones."""
    return lambda image, networks: paint(networks.get(kind).embed(image).everything()[0])


def _segments(kind: str) -> Callable[[Tensor, AuxiliaryModels], Tensor]:
    """Things and stuff that a segmentation network finds, whatever it calls them."""
    return lambda image, networks: networks.get(kind).segments(image)


SOURCES: dict[str, tuple[str, Callable[[Tensor, AuxiliaryModels], Tensor]]] = {
    # name: the kind of auxiliary model that it needs, and regions of a picture (3, H, W) in [0, 1]
    "felzenszwalb": ("none", felzenszwalb),
    "slic": ("none", slic),
    "attention": ("vfm", attention),
    "sam": ("sam", _masks("sam")),
    "sam2": ("sam2", _masks("sam2")),
    "mask2former": ("mask2former", _segments("mask2former")),
    "eomt": ("eomt", _segments("eomt")),
}


def patch_clusters(features: Tensor, height: float) -> Tensor:
    """Clusters of patches, a region map (h, w), from features (D, h, w).

    The cosine distances of patches are joined by average linkage, up to a distance of `height`.
    """
    hierarchy = need("scipy.cluster.hierarchy", "regions", "a tree of patches")
    joins = cluster_tree(features, spacing=0)
    if not len(joins):
        return torch.ones(features.shape[1:], dtype=torch.int32)
    found = hierarchy.fcluster(joins, height, "distance")
    return torch.from_numpy(found.astype(np.int32)).unflatten(0, features.shape[1:])


def check_source(source: str) -> None:
    """Check where region maps shall come from.

    Raises:
        WordmaskError: neither one of `SOURCES` nor an existing folder.
    """
    if source not in SOURCES and not Path(source).expanduser().is_dir():
        raise WordmaskError(
            f"got region_maps={source!r}; give {', '.join(SOURCES)}, or an existing folder of them"
        )


def network_of(source: str) -> tuple[str, ...]:
    """The kind of auxiliary model that makes these region maps; empty for none."""
    kind = SOURCES[source][0] if source in SOURCES else "none"
    return () if kind == "none" else (kind,)


def region_map(
    source: str,
    image: Tensor,
    networks: AuxiliaryModels,
    *,
    name: str = "",
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The region map of a picture.

    Args:
        source: one of `SOURCES`, or a folder of region maps, see `read_region_map`.
        image: (3, H, W) in [0, 1].
        networks: the auxiliary models.
        name: the picture's file or id, by which a folder has its map.
        size: (H, W) of the picture as it was given; None: that of `image`.

    Returns:
        Integers (h, w), int32 on the CPU, on the grid of its source.

    Raises:
        WordmaskError: no such source, a network that cannot be loaded, or see `read_region_map`.
    """
    if source not in SOURCES:
        check_source(source)
        height, width = size or (image.shape[1], image.shape[2])
        return read_region_map(source, name, (height, width))
    with stage(f"regions of {source}"), torch.inference_mode():
        return SOURCES[source][1](image.float().clamp(0, 1), networks).int().cpu()


def nearest(regions: Tensor, size: tuple[int, int]) -> Tensor:
    """A region map (..., h, w) at another size: the pixel at the top left of each place."""
    for axis, (old, new) in enumerate(zip(regions.shape[-2:], size, strict=True)):
        if old != new:
            index = torch.arange(new, device=regions.device) * old // new
            regions = regions.index_select(regions.ndim - 2 + axis, index)
    return regions


def paint(masks: Tensor) -> Tensor:
    """A region map (h, w) of masks (K, h, w) bool that may overlap, small ones over large ones."""
    order = masks.flatten(1).sum(1).argsort(descending=True, stable=True)
    regions = torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device)
    for number, k in enumerate(order.tolist(), start=1):
        regions[masks[k]] = number
    return regions


def read_region_map(folder: str | Path, name: str, size: tuple[int, int]) -> Tensor:
    """The region map of a picture from a folder: `NAME.png` or `NAME.npz`, NAME its file's stem.

    A PNG holds numbers, 8 or 16 bit, or colours, one for each region and black for none. An npz
    holds one array: integers (H, W), 0 or less for no region, or masks (K, H, W) bool.

    Args:
        folder: of all maps; a picture's folders may be repeated in it.
        name: the file or the id of the picture.
        size: (H, W) of the picture.

    Raises:
        WordmaskError: a picture without a name, no map, one of another size, or not a region map.
    """
    if not name:
        raise WordmaskError(
            f"got a picture in memory for the region maps of {shown(folder)}, which go by the "
            "picture's name; give its path, or encode(picture, name=NAME)"
        )
    path = PurePath(name)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        path = path.with_suffix("")
    home = Path(folder).expanduser()
    places = [] if path.is_absolute() or ".." in path.parts else [path]
    tried = [home / f"{p}{end}" for p in dict.fromkeys([*places, path.name]) for end in FILES]
    found = next((file for file in tried if file.is_file()), None)
    if found is None:
        raise WordmaskError(
            f"there is no region map of {name} in {shown(folder)}; give "
            f"{path.name}.png or {path.name}.npz"
        )
    try:
        array = _read(found, size)
    except WordmaskError:
        raise
    except Exception as error:  # broken files raise many kinds of errors
        raise WordmaskError(f"cannot read the region map {shown(found)}: {error}") from None
    if array.ndim == 3 and array.dtype == bool:
        array = paint(torch.from_numpy(array)).numpy()
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise WordmaskError(
            f"got {array.dtype} {array.shape} as the region map {shown(found)}; give integers "
            "(H, W), or masks (K, H, W) bool in an npz"
        )
    _check_size(found, array.shape, size)
    return numbered(array)


def numbered(array: np.ndarray) -> Tensor:
    """Integers (H, W) as a region map: 0 or less is no region, others are counted from 1."""
    ids, inverse = np.unique(np.maximum(array, 0), return_inverse=True)
    regions = inverse.reshape(array.shape) + (ids[0] != 0)
    return torch.from_numpy(regions.astype(np.int32))


def _read(file: Path, size: tuple[int, int]) -> np.ndarray:
    """The array of a file; the size of a PNG is checked before its pixels are read."""
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            if len(arrays.files) != 1:
                raise WordmaskError(
                    f"the region map {shown(file)} has {len(arrays.files)} arrays; give one"
                )
            return np.asarray(arrays[arrays.files[0]])
    with PIL.Image.open(file) as picture:
        _check_size(file, (picture.height, picture.width), size)
        if picture.mode in ("RGB", "RGBA"):
            red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB"), np.int64), 2, 0)
            return red + 256 * green + 65536 * blue
        return np.asarray(picture)


def _check_size(file: Path, found: tuple[int, ...], size: tuple[int, int]) -> None:
    if found != size:
        raise WordmaskError(
            f"the region map {shown(file)} is {found[1]} x {found[0]} pixels and its picture "
            f"{size[1]} x {size[0]}; give one of the picture's size"
        )


def _reduced(image: Tensor) -> Tensor:
    """The picture with its short side at most `SHORT_SIDE`."""
    shrink = SHORT_SIDE / min(image.shape[1:])
    if shrink >= 1:
        return image
    size = [round(side * shrink) for side in image.shape[1:]]
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]


def _pixels(image: Tensor) -> np.ndarray:
    """What scikit-image takes: (H, W, 3) float64, reduced."""
    pixels: np.ndarray = _reduced(image).permute(1, 2, 0).cpu().double().numpy()
    return pixels
