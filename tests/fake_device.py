"""A device without hardware: it computes on the CPU, and counts what a GPU would be asked to do.

Tensors of the device hold a tensor on the CPU. Each operation of torch that computes something is
one kernel launch (`_LAUNCHES` has those that are more); each that hands a value to Python is a
synchronisation. Operations that mix tensors of the device and of the CPU raise, as they do on a
GPU. What it does not model: time, streams, and the workspaces of libraries.
"""

import functools
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_M = TypeVar("_M", bound=nn.Module)
NAME = "fakegpu"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names of operations that are answered without a kernel.
_VIEWS = _names(
    """
    view _unsafe_view reshape transpose t permute expand slice select split split_with_sizes
    unbind squeeze unsqueeze as_strided detach alias diagonal narrow unfold lift_fresh chunk
    movedim view_as_real real imag _conj _reshape_alias _neg_view resolve_conj resolve_neg
    sym_size sym_stride sym_numel is_pinned _has_same_storage_numel set_data squeeze_
    unsqueeze_ is_same_size unsafe_split unsafe_split_with_sizes detach_ transpose_ t_
    view_as swapaxes
    """
)
_ALLOCATIONS = _names(
    """
    empty empty_like empty_strided new_empty new_empty_strided
    """
)
# Those whose result is a value, or has a shape that depends on values.
_SYNCHRONISATIONS = _names(
    """
    _local_scalar_dense is_nonzero nonzero equal masked_select unique _unique2 unique_dim
    unique_consecutive repeat_interleave _linalg_eigh linalg_eigh _linalg_svd linalg_svd
    linalg_qr geqrf
    """
)
_INDEXED = _names(
    """
    index index_put index_put_ _index_put_impl_ _unsafe_index
    """
)
# Kernels of one operation, where it is not one.
_LAUNCHES = {
    "constant_pad_nd": 2,  # fill, copy
    "eye": 2,
    "index_add": 2,  # clone, add
    "index_copy": 2,
    "scatter": 2,
    "diag_embed": 2,
    "linalg_qr": 4,
    "_linalg_svd": 4,
    "_linalg_eigh": 4,
    "linalg_cholesky_ex": 2,  # factor, and zeros above it
}


class _Module(backend_registration._DummyBackendModule):
    """What torch asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(8, dtype=torch.uint8)

    def set_device(self, device: Any) -> None:
        pass

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass


_SETUP = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
if _SETUP is not None:  # before the first backward pass, which counts the devices
    _SETUP(NAME, backend_module=_Module())


def fake_device() -> "FakeDevice":
    """The device; the test is skipped where torch cannot have one in Python."""
    if _SETUP is None:
        pytest.skip("this torch has no devices written in Python")
    return _device()


@functools.cache
def _device() -> "FakeDevice":
    return FakeDevice()


class DeviceTensor(Tensor):
    """A tensor of the device."""

    held: Tensor
    owner: "FakeDevice"
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, owner: "FakeDevice") -> "DeviceTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
            storage_size=held.untyped_storage().size(),
        )
        tensor.held, tensor.owner = held, owner
        return tensor

    def __deepcopy__(self, memo: dict) -> Tensor:
        if id(self) not in memo:
            copied = DeviceTensor(self.held.clone(), self.owner)
            copied.requires_grad_(self.requires_grad)
            is_parameter = isinstance(self, nn.Parameter)
            memo[id(self)] = nn.Parameter(copied, self.requires_grad) if is_parameter else copied
        return memo[id(self)]

    def __repr__(self) -> str:
        return f"DeviceTensor({getattr(self, 'held', None)})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        owner = next(a.owner for a in tree_leaves((args, kwargs)) if isinstance(a, cls))
        return owner.run(func, args, kwargs or {})


class Counts:
    """What the device was asked to do."""

    def __init__(self) -> None:
        self.by_operation: Counter[str] = Counter()
        self.by_place: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.float64: Counter[str] = Counter()
        self.bytes = 0

    @property
    def launches(self) -> int:
        return self.by_operation.total()


class FakeDevice(TorchDispatchMode):
    """Inside this context tensors can be made on the device; `counts` has what ran.

    Set `allows_float64` to False for a device that has no such numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts, self.allows_float64 = Counts(), True

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Inside, operations are counted from zero."""
        before, self.counts = self.counts, Counts()
        try:
            yield self.counts
        finally:
            self.counts = before

    def tensor(self, x: Tensor) -> Tensor:
        """A copy of a tensor of the CPU on the device."""
        return DeviceTensor(x.detach().clone(), self).requires_grad_(x.requires_grad)

    def module(self, module: _M) -> _M:
        """A module, moved to the device."""
        with self:
            for part in module.modules():
                for name, p in part._parameters.items():
                    if p is not None:
                        moved = DeviceTensor(p.detach().clone(), self)
                        part._parameters[name] = nn.Parameter(moved, p.requires_grad)
                for name, b in part._buffers.items():
                    if b is not None:
                        part._buffers[name] = DeviceTensor(b.detach().clone(), self)
        return module

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation on what the tensors hold, and count it."""
        namespace, name = func._schema.name.split("::")
        leaves = tree_leaves((args, kwargs))
        here = [a for a in leaves if isinstance(a, DeviceTensor)]
        if namespace == "taut":  # operations of the package itself are made of others
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
        if (here or self._is_target(kwargs)) and _is_composite(func, name):
            with self:
                return func.decompose(*args, **kwargs)
        target = self._target(name, here, kwargs)
        counted = self._check(name, args, leaves, target)
        out = func(*tree_map(_held, args), **self._own(tree_map(_held, kwargs)))
        if counted:
            self._count(name, args, here, [o for o in tree_leaves(out) if isinstance(o, Tensor)])
        if not isinstance(out, (Tensor, list, tuple)):
            return out
        known = {id(a.held): a for a in here} | {id(a): a for a in leaves if isinstance(a, Tensor)}
        return tree_map(lambda o: self._wrapped(o, known, target), out)

    def _is_target(self, kwargs: dict[str, Any]) -> bool:
        device = kwargs.get("device")
        return device is not None and torch.device(device).type == NAME

    def _target(self, name: str, here: list[Any], kwargs: dict[str, Any]) -> bool:
        """Whether the result is on the device."""
        if kwargs.get("device") is not None:
            return self._is_target(kwargs)
        return bool(here)

    def _own(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments for the CPU."""
        if self._is_target(kwargs):
            kwargs = {**kwargs, "device": torch.device("cpu")}
        return {**kwargs, "pin_memory": None} if "pin_memory" in kwargs else kwargs

    def _wrapped(self, out: Any, known: dict[int, Tensor], target: bool) -> Any:
        if not isinstance(out, Tensor):
            return out
        if id(out) in known:
            return known[id(out)]
        if not target:
            return out
        if out.dtype in (torch.float64, torch.complex128) and not self.allows_float64:
            raise TypeError("the device has no float64")
        return DeviceTensor(out, self)

    def _check(self, name: str, args: Any, leaves: list[Any], target: bool) -> bool:
        """Refuse to mix the device and the CPU; whether there is a kernel to count."""
        here = [a for a in leaves if isinstance(a, DeviceTensor)]
        others = [a for a in leaves if isinstance(a, Tensor) and not isinstance(a, DeviceTensor)]
        if not (here or target):
            return False
        if name in ("_to_copy", "copy_"):
            source = args[0] if name == "_to_copy" else args[1]
            there = target if name == "_to_copy" else isinstance(args[0], DeviceTensor)
            if isinstance(source, DeviceTensor) != there:
                self.counts.copies[f"{'to' if there else 'from'} the device at {_place()}"] += 1
                if not there:
                    self.counts.syncs[f"{name} at {_place()}"] += 1
                return False
        elif here and any(a.dim() > 0 for a in others):
            raise RuntimeError(f"{name} mixes tensors of the device and of the CPU at {_place()}")
        masks = name in _INDEXED and any(
            a.dtype in (torch.bool, torch.uint8) for a in _indices(args)
        )
        if name in _SYNCHRONISATIONS or masks:
            self.counts.syncs[f"{name} at {_place()}"] += 1
        silent = name in _VIEWS | _ALLOCATIONS or name in ("_local_scalar_dense", "is_nonzero")
        return not silent

    def _count(self, name: str, args: Any, here: list[Tensor], out: list[Tensor]) -> None:
        if out and not any(o.numel() for o in out):
            return  # nothing is launched for nothing
        place, launches = _place(), _launches(name, args)
        self.counts.by_operation[name] += launches
        self.counts.by_place[f"{place} {name}"] += launches
        given = {id(_held(a)) for a in here}
        made = [o for o in out if id(o) not in given]
        self.counts.bytes += sum(a.numel() * a.element_size() for a in (*here, *made))
        if any(a.dtype in (torch.float64, torch.complex128) for a in (*here, *out)):
            self.counts.float64[f"{name} at {place}"] += launches


def _held(x: Any) -> Any:
    return x.held if isinstance(x, DeviceTensor) else x


def _indices(args: Any) -> list[Tensor]:
    return [a for a in tree_leaves(args[1]) if isinstance(a, Tensor)] if len(args) > 1 else []


def _is_composite(func: Any, name: str) -> bool:
    key = "CompositeImplicitAutograd"
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
    return composite and name not in ("is_nonzero", "detach")


def _launches(name: str, args: Any) -> int:
    if name == "convolution_backward":
        return sum(args[10])  # one for each gradient asked for
    return _LAUNCHES.get(name, 1)


def _place() -> str:
    """Where in the package the operation was asked for."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/taut/" in path and "/tests/" not in path:
            return f"{path.rsplit('/taut/', 1)[1]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "torch"
