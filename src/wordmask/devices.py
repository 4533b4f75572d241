"""Devices: which one is taken, in which type it calculates, and what it cannot do."""

from __future__ import annotations

import torch
from torch import Tensor

from wordmask.errors import WordmaskError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class NotFiniteError(WordmaskError):
    """Numbers that are NaN or infinite where a network gave them."""


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device by name; None takes a GPU if there is one: CUDA's, else Apple's, else the CPU.

    Raises:
        WordmaskError: a device that does not exist here.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()  # "meta" makes tensors that hold nothing
    # torch raises each of these, by the kind of device that is missing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0].partition(". ")[0]
        raise WordmaskError(
            f"got device {device!r}, which is not usable here: {first}; `wordmask doctor` lists "
            "those that are"
        ) from None
    return chosen


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype by name; None is float16 on CUDA, and float32 on a CPU and on Apple's GPUs.

    On Apple's GPUs nobody has measured what float16 gains; float32 cannot overflow and gives what
    a CPU gives.

    Raises:
        WordmaskError: anything but float32, float16 and bfloat16.
    """
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    found = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if found not in DTYPES.values():
        raise WordmaskError(f"got dtype {dtype!r}; choose from: {', '.join(DTYPES)}")
    assert isinstance(found, torch.dtype)
    return found


def for_float64(x: Tensor) -> Tensor:
    """x where it can become float64: where it is, or on the CPU if its device has none (mps)."""
    return x.cpu() if x.device.type == "mps" else x


def has_sparse(device: torch.device) -> bool:
    """Whether sparse matrices can be multiplied on a device."""
    return device.type != "mps"


def synchronise(device: torch.device) -> None:
    """Wait until a device has done all that it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def check_finite(x: Tensor, what: str, dtype: torch.dtype) -> None:
    """Refuse numbers that are NaN or infinite, from which a picture would be labelled at random.

    Args:
        x: of any shape.
        what: what they are, for the message: "the image features of CLIP".
        dtype: the type in which the network that made them calculates.

    Raises:
        NotFiniteError: one is.
    """
    # A sum is finite only if all its terms are, and is many times faster than looking at each.
    if torch.isfinite(x.sum(dtype=torch.float32)) or torch.isfinite(x).all():
        return
    name = str(dtype).removeprefix("torch.")
    advice = "check the weights, the picture and its normalisation"
    if dtype == torch.float16:
        advice = "its largest number is 65504; use bfloat16 or float32 (--dtype, dtype=)"
    raise NotFiniteError(f"{what} are NaN or infinite in {name}; {advice}")
