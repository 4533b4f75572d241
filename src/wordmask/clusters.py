"""Nested clusters of patches: the tree in which they are joined, and all clusters of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.errors import WordmaskError
from wordmask.extras import need
from wordmask.towers.memory import check_memory

Linkage = Literal["average", "weighted", "complete"]


def cluster_tree(
    features: Tensor, spacing: float = 0.3, linkage: Linkage = "average"
) -> np.ndarray:
    """Join patches, two clusters at a time, until one is left; the nearest are joined first.

    The distance of two patches is 1 - the cosine of their features, plus `spacing` times the
    distance of their centres in long sides of the picture. Peak memory: 16 L^2 bytes.

    Args:
        features: (D, h, w) of the L = h w patches.
        spacing: see above; 0 leaves out where patches are.
        linkage: the distance of two clusters, of that of their patches: "average", their mean;
            "weighted", the mean for the two clusters last joined, whatever their sizes;
            "complete", the largest.

    Returns:
        (L - 1, 4) float64, the joins in scipy's form, for `all_clusters`.

    Raises:
        WordmaskError: scipy is not installed, features are NaN or infinite, or there are more
            patches than fit into memory.
    """
    hierarchy, spatial = _scipy()
    height, width = features.shape[1:]
    if height * width < 2:
        return np.empty((0, 4))
    patches = height * width
    smaller = "give a smaller picture or short_side"
    check_memory(f"a tree of {patches} patches", 16 * patches**2, torch.device("cpu"), smaller)
    unit = F.normalize(features.flatten(1).float(), dim=0)
    apart = (1 - unit.T @ unit).clamp_(0).cpu().numpy()
    if not np.isfinite(apart).all():
        raise WordmaskError("got features that are NaN or infinite; run the network in float32")
    centres = np.indices((height, width)).reshape(2, -1).T / max(height, width)
    distance = spacing * spatial.pdist(centres)
    distance += spatial.squareform(apart, checks=False)
    del apart
    joins: np.ndarray = hierarchy.linkage(distance, linkage)
    return joins


@dataclass(frozen=True)
class Clusters:
    """All K = 2 L - 1 clusters of a tree, the L single patches first, the whole picture last.

    Attributes:
        size: (K,) float64, the number of patches in each.
        parent: (K,) int64, the cluster that each is one of the two parts of; of the last, itself.
        levels: the clusters by the number of joins above them, each (n,) int64; the last cluster
            is the first level.
        made, joined: (K,) float64, the heights of the joins that made a cluster and that put it
            into its parent, in shares of the last join's: from 0, of single patches, to 1.
    """

    size: np.ndarray
    parent: np.ndarray
    levels: list[np.ndarray]
    made: np.ndarray
    joined: np.ndarray


def all_clusters(joins: np.ndarray) -> Clusters:
    """Every cluster of a tree, from the joins of `cluster_tree`."""
    parts, heights = joins[:, :2].astype(np.int64), joins[:, 2]
    patches = len(joins) + 1
    parent = np.full(2 * patches - 1, 2 * patches - 2)
    parent[parts] = np.arange(patches, 2 * patches - 1)[:, None]
    depth = [0] * len(parent)
    for i, up in reversed(list(enumerate(parent[:-1].tolist()))):
        depth[i] = depth[up] + 1
    levels = np.split(np.argsort(depth, kind="stable"), np.bincount(depth).cumsum()[:-1])
    top = max(heights.max(initial=0), 1e-4)  # patches that are nearer are one: the picture lasts
    made = np.concatenate([np.zeros(patches), heights / top])
    joined = np.ones_like(made)
    joined[:-1] = made[parent[:-1]]
    size = np.concatenate([np.ones(patches), joins[:, 3]])
    return Clusters(size, parent, levels, made, joined)


def _scipy() -> tuple[Any, Any]:
    parts = ("scipy.cluster.hierarchy", "scipy.spatial.distance")
    hierarchy, spatial = (need(part, "cluster", "a cluster tree") for part in parts)
    return hierarchy, spatial
