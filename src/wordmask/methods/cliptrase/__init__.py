"""CLIPtrase, with its clusters of patches and its vote of regions."""

from wordmask.methods.cliptrase.method import Cliptrase

__all__ = ["Cliptrase"]
