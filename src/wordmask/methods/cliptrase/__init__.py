"""CLIPtrase, with the clusters of patches and the vote of regions that it needs."""

from wordmask.methods.cliptrase.method import Cliptrase

__all__ = ["Cliptrase"]
