"""The private names of torch that this package relies on; no other module here uses any.

All of them are present in torch 2.11 to 2.14.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._C import _current_graph_task_id, _len_torch_function_stack
from torch._C._autograd import _top_saved_tensors_default_hooks
from torch._C._functorch import (
    TransformType,
    # Tells the batched gradients of `torch.autograd.grad(is_grads_batched=True)`: writing to a
    # part of one, or reading its bytes, is not possible.
    is_legacy_batchedtensor,
    # The innermost active transform of `torch.func`, or None.
    peek_interpreter_stack,
)
from torch._C._functorch import (
    # Tells the tensors of a `torch.func` transform, which are gone when the transform ends: such
    # a tensor is never cached.
    is_functorch_wrapped_tensor as is_functorch_wrapped_tensor,
)
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

_Function = TypeVar("_Function", bound=Callable[..., Any])


class UncompiledMode(TorchDispatchMode):
    """A dispatch mode that is never compiled, which saves the import of the compiler: seconds."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def on_its_own(function: _Function) -> _Function:
    """Let a function of plain numbers compute with real tensors while others are traced or fake."""

    @functools.wraps(function)
    def computed(*args: Any) -> Any:
        with _disable_current_modes():
            return function(*args)

    return cast(_Function, computed)


def constant_when_compiled(function: _Function) -> _Function:
    """As `torch.compiler.assume_constant_result`, which imports the compiler: seconds."""
    function = on_its_own(function)
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def cached_constants(function: _Function) -> _Function:
    """Cache the tensors that a function makes from plain numbers, a dtype and a device.

    Copying them from the host in each call would wait for the device, and cannot be captured in a
    CUDA graph. To a compiler they are constants. At most 64 results are cached.
    """

    @functools.lru_cache(maxsize=64)
    def computed(*args: Any) -> Any:
        with (
            torch.inference_mode(mode=False),
            _disable_current_modes() as modes,
            ExitStack() as stack,
        ):
            for mode in modes:  # all but those of the compiler, whose tensors have no numbers
                if mode is not None and not mode.is_infra_mode():
                    stack.enter_context(mode)
            return function(*args)

    @functools.wraps(function)
    def constant(*args: Any) -> Any:
        if peek_interpreter_stack() is not None:  # what a transform makes ends with it
            return function(*args)
        return computed(*args)

    constant.cache_clear = computed.cache_clear  # pyright: ignore[reportAttributeAccessIssue]
    constant._dynamo_marked_constant = True  # pyright: ignore[reportAttributeAccessIssue]
    return cast(_Function, constant)


def under_autocast(x: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor; never for the meta device."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def inside_transform() -> bool:
    """Whether a transform of `torch.func` is active; not asked while compiling."""
    return not torch.compiler.is_compiling() and peek_interpreter_stack() is not None


def recomputes_on_its_own() -> bool:
    """Whether a backward pass recomputes activations in a graph of their own.

    So does `torch.utils.checkpoint` with `use_reentrant=True`; otherwise it hooks what is saved.
    """
    if torch.compiler.is_compiling() or _current_graph_task_id() == -1:
        return False
    return _top_saved_tensors_default_hooks(False) is None


def has_dual_numbers() -> bool:
    """Whether `torch.autograd.forward_ad` differentiates in forward mode; not while compiling."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def forward_modes() -> int:
    """How many transforms of `torch.func` in forward mode are active."""
    return sum(t.key() == TransformType.Jvp for t in retrieve_all_functorch_interpreters())


def is_traced() -> bool:
    """Whether `torch.fx` records operations now, as `torch.func.linearize` has it do.

    Not asked while compiling.
    """
    if torch.compiler.is_compiling():
        return False
    tracer = sys.modules.get("torch.fx.experimental.proxy_tensor")  # else none is active
    return tracer is not None and tracer.get_proxy_mode() is not None


def inside_function_mode() -> bool:
    """Whether a mode records or replaces the functions of torch; not asked while compiling."""
    return not torch.compiler.is_compiling() and _len_torch_function_stack() > 0


def has_batched_gradients(x: Tensor) -> bool:
    """Whether autograd batches several gradients in `x`; not asked while compiling."""
    return not torch.compiler.is_compiling() and is_legacy_batchedtensor(x)


def is_watched(x: Tensor) -> bool:
    """Whether anything but autograd follows what is done to `x`: then nothing may write to parts.

    A compiler, a tracer, a transform of `torch.func`, batched gradients, dual numbers, a mode, or a
    subclass.
    """
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter):
        return True
    followed = inside_transform() or inside_function_mode() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return followed or is_traced() or has_dual_numbers() or has_batched_gradients(x)


def shared_hooks(x: Tensor) -> Mapping[int, Any]:
    """The hooks on the gradient of `x`; those that are registered later appear in it, too."""
    x.register_hook(_nothing).remove()  # makes the dictionary that later hooks enter
    hooks = x._backward_hooks
    assert hooks is not None
    return hooks


def has_gradient_hooks(x: Tensor) -> bool:
    """Whether something changes or reads the gradient of a leaf on its way into `x.grad`."""
    return bool(x._backward_hooks or x._post_accumulate_grad_hooks)


def _nothing(grad: Tensor) -> None:
    pass


def has_no_numbers(x: Tensor) -> bool:
    """Whether `x` is a meta tensor, or a fake one, which names another device."""
    return x.is_meta or hasattr(x, "fake_mode")


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch, on any device, had no memory left."""
    words = str(error)  # CPUs and MPS have no class of their own
    return "DefaultCPUAllocator" in words or "out of memory" in words


def end_workers(loader: Any) -> None:
    """End the worker processes of a loader that keeps them, even while it is iterated."""
    iterator = loader._iterator
    if iterator is not None and loader.num_workers:
        iterator._shutdown_workers()


def version_of(x: Tensor) -> int:
    """How often `x` was written to in place; inference tensors do not count it."""
    return x._version


def onednn_product(a: Tensor, b: Tensor) -> Tensor:
    """The product of `a` and the transpose of `b` by oneDNN, both contiguous float32 on a CPU."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
