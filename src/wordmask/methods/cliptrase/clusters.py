"""Clusters of patches, and the prototypes that cut a picture into regions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.extras import need


def dbscan(rows: Tensor, eps: float, min_samples: int) -> Tensor:
    """Cluster rows (L, D) by Euclidean distance: labels (L,) from 0, -1 for noise.

    Raises:
        WordmaskError: scikit-learn is not installed.
    """
    cluster = need("sklearn.cluster", "cluster", "DBSCAN")
    if not len(rows):
        return torch.empty(0, dtype=torch.long, device=rows.device)
    found = cluster.DBSCAN(eps=eps, min_samples=min_samples).fit(rows.cpu().double().numpy())
    return torch.from_numpy(found.labels_).to(rows.device)


def prototypes(w: Tensor, labels: Tensor, grid: tuple[int, int], median: int) -> Tensor:
    """The mean row of w (L, L) in each cluster (Eq. 5), (1 + K, h', w').

    Map 0 stands for no region and is below all others; without a cluster it is the only one.
    With `median`, maps are enlarged 4 times and filtered with that size.
    """
    count = int(labels.max()) + 1
    if not count:
        return w.new_zeros(1, *grid)
    maps = torch.stack([w[labels == k].mean(0) for k in range(count)]).unflatten(1, grid)
    if median:
        from scipy.ndimage import median_filter  # a dependency of scikit-learn

        maps = F.interpolate(maps[None], scale_factor=4, mode="bilinear")[0]
        filtered = median_filter(maps.cpu().numpy(), size=(1, median, median))
        maps = torch.from_numpy(filtered).to(w)
    return torch.cat([torch.full_like(maps[:1], float(maps.min()) - 1), maps])
