"""A GPU that is not there: tensors that say they are on it, and refuse what it would refuse.

Inside `Gpu("cuda")` or `Gpu("mps")` every tensor that is made on or moved to that device is a
`Far`: it holds an ordinary tensor, calculates with it on the CPU, and says that it is on the GPU.
Refused are, with the errors of torch:

- operators of tensors on different devices, but for what torch allows: 0-dim CPU tensors in
  elementwise operators, CPU indices of a tensor on the GPU, copies;
- operators without a kernel for the device, by the table with which the installed torch was built;
- float64 on Apple's GPUs, and sparse layouts without a kernel there;
- `numpy()` of what is not on the CPU, and a CPU generator for numbers on the GPU.

Not seen: kernels that exist but not for every type, memory, time, and what a kernel rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchgen
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torchgen.gen import LineLoader, parse_native_yaml_struct, parse_tags_yaml
from torchgen.model import DispatchKey

CPU = torch.device("cpu")
COPIES = {"copy_", "_to_copy", "lift_fresh"}
SCALARS = {"where", "masked_fill", "masked_fill_", "fill", "fill_", "index_put", "index_put_"}
SPARSE = {torch.sparse_csr: "SparseCsr", torch.sparse_coo: "Sparse"}


class Far(torch.Tensor):
    """A tensor on an emulated device. To C++ it is a meta tensor, whose guards do nothing."""

    held: torch.Tensor
    gpu: torch.device
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor, gpu: torch.device) -> Far:
        dense = held.layout == torch.strided
        with torch.inference_mode(False):  # as a view of a parameter must be
            out = torch.Tensor._make_wrapper_subclass(
                cls,
                held.size(),
                strides=held.stride() if dense else None,
                storage_offset=held.storage_offset() if dense else None,
                dtype=held.dtype,
                layout=held.layout,
                device="meta",
            )
        out.held, out.gpu = held, gpu
        return out

    @property
    def device(self) -> torch.device:
        return self.gpu

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(_indices(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_indices(key), value)

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {self.gpu} device type tensor to numpy. Use Tensor.cpu()")

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=self.gpu)

    def __repr__(self) -> str:
        return f"Far({self.held!r}, {self.gpu})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} of a tensor on an emulated device, outside of the emulation")


class Gpu(TorchDispatchMode):
    """The emulation of a device; tensors on it live as long as it is entered.

    kind: "cuda" or "mps".
    """

    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # then torch does not look for the real device

    def __init__(self, kind: str):
        super().__init__()
        self.device = torch.device(kind, 0)
        self.lifting: list[bool] = []

    def __enter__(self) -> Gpu:
        self.lifting.append(torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is seen as a copy
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self.lifting.pop())
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kernel(func, self.device.type.upper()) == "implicit":
            with self:  # seen whole in inference mode: its parts are what counts
                return func.decompose(*args, **kwargs)
        tensors = list(_tensors([*args, *kwargs.values()]))
        far = any(isinstance(x, Far) for x in tensors)
        assert not any(x.is_meta for x in tensors if not isinstance(x, Far)), func
        if far:
            self._refuse_mixed(func, args, tensors)
        if kwargs.get("device") is not None:
            far = torch.device(kwargs["device"]).type != "cpu"
            kwargs["device"] = CPU
            if far and kwargs.get("generator") is not None:
                raise RuntimeError(f"Expected a '{self.device.type}' device type for generator")
        if far:
            layouts = {_held(x).layout for x in tensors} | {kwargs.get("layout") or torch.strided}
            sparse = "".join(SPARSE[x] for x in layouts if x in SPARSE)
            if not kernel(func, sparse + self.device.type.upper()):
                raise NotImplementedError(
                    f"The operator {func} is not currently implemented for the "
                    f"{self.device.type} device{' on sparse tensors' if sparse else ''}"
                )
        out = _calculate(func, _map(_held, args), {k: _map(_held, x) for k, x in kwargs.items()})
        if not far:
            return out
        if func._schema.is_mutable:  # the tensor that was written to, as it was given
            return kwargs.get("out", args[0])
        return _map(self._put, out)

    def _put(self, x: torch.Tensor) -> torch.Tensor:
        if self.device.type == "mps":
            if x.dtype in (torch.float64, torch.complex128):
                raise TypeError("the MPS framework doesn't support float64")
            if x.layout in SPARSE and not kernel(
                torch.ops.aten.mm.default, SPARSE[x.layout] + "MPS"
            ):
                raise NotImplementedError(f"{x.layout} tensors do not exist on the mps device")
        return Far(x, self.device)

    def _refuse_mixed(self, func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
        name = func._schema.name.removeprefix("aten::")
        near = [x for x in tensors if not isinstance(x, Far)]
        if not near or name in COPIES:
            return
        if name in ("index", "index_put", "index_put_") and isinstance(args[0], Far):
            near = [x for x in args[2:3] if not isinstance(x, Far)]  # indices may be on the CPU
        scalars = torch.Tag.pointwise in func.tags or name in SCALARS
        written = name.endswith("_") and not isinstance(args[0], Far)
        if written or not all(scalars and x.ndim == 0 for x in near):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{self.device} and cpu! ({func})"
            )


def _indices(key: Any) -> Any:
    """Lists in an index as tensors on the CPU, where torch makes them on the device, a copy."""
    if isinstance(key, tuple):
        return tuple(_indices(x) for x in key)
    return torch.tensor(key, dtype=torch.long) if isinstance(key, list) else key


def _held(x: torch.Tensor) -> torch.Tensor:
    return x.held if isinstance(x, Far) else x


def _map(change: Any, value: Any) -> Any:
    """Arguments or results of an operator with its tensors changed; they are alone or in lists."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_map(change, x) for x in value])
    return value


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _calculate(func: Any, args: Any, kwargs: Any) -> Any:
    """The operator on the CPU, in float32 if it has no kernel for half precision there."""
    try:
        return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented for" not in str(error) or func._schema.is_mutable:
            raise
    half = {x.dtype for x in _tensors(args)} & {torch.float16, torch.bfloat16}
    out = func(*_map(lambda x: x.float() if x.dtype in half else x, args), **kwargs)
    return _map(lambda x: x.to(*half) if x.dtype == torch.float32 else x, out)


@cache
def kernel(func: Any, key: str) -> str:
    """How a device with this dispatch key runs an operator: "own", "explicit", "implicit" or ""."""
    name = func._schema.name.removeprefix("aten::")
    if name in ("detach", "alias"):
        return "explicit"
    return _kernels()[key].get(f"{name}.{func._overloadname}".removesuffix(".default"), "")


@cache
def _kernels() -> dict[str, dict[str, str]]:
    """What runs on a device, by its dispatch key: the table from which the torch here was built.

    Only this is kept of it: its many objects would slow down every collection of garbage.
    """
    folder = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native"
    with (folder / "native_functions.yaml").open() as file:
        entries = yaml.load(file, Loader=LineLoader)
    read = parse_native_yaml_struct(entries, parse_tags_yaml(str(folder / "tags.yaml")))
    functions = {str(f.func.name): f for f in read.native_functions}
    found: dict[str, dict[str, str]] = {}
    for key in (f"{layout}{gpu}" for layout in ("", *SPARSE.values()) for gpu in ("CUDA", "MPS")):
        own, kinds = read.backend_indices[DispatchKey.parse(key)].index, {}
        for name, function in functions.items():
            one = functions.get(str(function.structured_delegate), function)
            if one.func.name in own:
                kinds[name] = "own"
            elif one.has_composite_implicit_autograd_kernel:
                kinds[name] = "implicit"
            elif one.has_composite_kernel:
                kinds[name] = "explicit"
        found[key] = kinds
    return found
