"""The page of wordmask as a Hugging Face Space."""

import os

from wordmask.app.engine import Engine
from wordmask.app.page import launch

# TinyCLIP (94 MB) suits the free CPU of a Space; set WORDMASK_MODEL in its settings for another.
MODEL = os.environ.get("WORDMASK_MODEL", "wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M")

if __name__ == "__main__":
    launch(Engine(MODEL, local=False), "0.0.0.0", int(os.environ.get("PORT", "7860")))
