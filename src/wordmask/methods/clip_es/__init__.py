"""CLIP-ES, whose maps CaR uses too."""

from wordmask.methods.clip_es.method import ClipEs

__all__ = ["ClipEs"]
