"""Nested clusters of patches: a tree, cut into any number of clusters."""

from __future__ import annotations

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
        (L - 1, 4) float64, the joins in scipy's form, for `cut_tree`.

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


def cut_tree(joins: np.ndarray, clusters: int) -> np.ndarray:
    """The cluster of every patch, (L,) int64 from 0, after undoing all but the first joins.

    There are at most `clusters`: fewer where joins are tied, or patches are fewer.
    """
    if not len(joins):
        return np.zeros(1, np.int64)
    labels = _scipy()[0].fcluster(joins, clusters, "maxclust")
    return labels.astype(np.int64) - 1


def _scipy() -> tuple[Any, Any]:
    parts = ("scipy.cluster.hierarchy", "scipy.spatial.distance")
    hierarchy, spatial = (need(part, "cluster", "a cluster tree") for part in parts)
    return hierarchy, spatial
