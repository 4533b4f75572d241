"""Small replicas of the hub's repositories: their files, configurations and tensor names.

Weights are random, widths and depths small (a sixteenth, and two layers); everything else is as in
the repository: which files there are, in which format and type, the keys and the spelling of the
configurations, the names of the tensors with their old spellings, buffers that nobody reads any
more. Written from knowledge of the repositories, without access to the hub; files that no loader
may read (TensorFlow, Flax, original checkpoints) hold a few bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from replicas import diffusion, image_text, vision

BUILDERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(image_text.CLIPS, image_text.build_clip),
    **dict.fromkeys(image_text.SIGLIPS, image_text.build_siglip),
    image_text.BLIP: image_text.build_blip,
    **dict.fromkeys(vision.VFMS, vision.build_vfm),
    **dict.fromkeys(vision.SAMS, vision.build_sam),
    **dict.fromkeys(diffusion.PIPELINES, diffusion.build),
}


def build(name: str, folder: Path, formats: Sequence[str] = ()) -> Any:
    """Write the files of a repository's main branch to a folder.

    Args:
        name: the hub id, a key of `BUILDERS`.
        folder: made if needed.
        formats: endings of the weight files to write ("bin", "fp16.safetensors"); none: all that
            the repository has.

    Returns the model in memory whose weights were written; for Stable Diffusion (text encoder,
    UNet, VAE).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\nlibrary_name: transformers\n---\n# {name}\n")
    (folder / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    return BUILDERS[name](name, folder, tuple(formats))
