"""CaR (CLIP as RNN), with the visual prompts that it uses."""

from wordmask.methods.car.method import Car

__all__ = ["Car"]
