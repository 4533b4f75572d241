"""CaR (CLIP as RNN), with the mask proposals of CLIP-ES and the visual prompts that it uses."""

from wordmask.methods.car.method import Car

__all__ = ["Car"]
