"""What a parametrization is, and the one cache of the house."""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from taut.linalg.bases import orthonormal_basis

Guarantee = Literal["orthogonal", "lipschitz", "none"]


class AbstractParametrization(nn.Module, ABC):
    r"""Free tensors that answer :meth:`weight` with a kernel or matrix under a guarantee.

    A matrix is a kernel without spatial axes (`kernel_size=()`), so one class serves dense layers
    and convolutions of any dimension. A subclass states its `guarantee`:

    - `"orthogonal"`: with circular padding the operator has all singular values 1;
    - `"lipschitz"`: its largest singular value is at most 1;
    - `"none"`: only the bound proved from the weight itself counts.

    No certificate reads the guarantee: bounds come from the weight as used. A subclass also names
    the `reference` it implements, the shapes of its raw tensors, and how they make the weight. It
    sets `matrices_only` where it has no kernels to offer, and `reads_bases` where its weight
    depends on nothing of the raw tensors but what :func:`read_basis` answers: then
    :func:`taut.retract_` and :func:`taut.batched` serve it, too.

    Args:
        in_channels: channels (or features) of the input.
        out_channels: channels (or features) of the output.
        kernel_size: taps per spatial axis; `()` for a matrix.
        stride: step per spatial axis, 1 by default; it must divide the kernel size.
        device: of the raw tensors.
        dtype: of the raw tensors.

    Raises:
        ValueError: if a size is not a positive integer, a stride does not divide its kernel size,
            or a method for matrices only is given a kernel size.
    """

    guarantee: ClassVar[Guarantee]
    reference: ClassVar[str]
    matrices_only: ClassVar[bool] = False
    reads_bases: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (),
        *,
        stride: tuple[int, ...] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        stride = (1,) * len(kernel_size) if stride is None else stride
        sizes = {
            "in_channels": (in_channels,),
            "out_channels": (out_channels,),
            "kernel_size": kernel_size,
            "stride": stride,
        }
        for name, values in sizes.items():
            if any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
                got = values[0] if name.endswith("channels") else values
                raise ValueError(f"`{name}` must be made of positive integers; got {got}.")
        if len(stride) != len(kernel_size) or any(
            k % s for k, s in zip(kernel_size, stride, strict=True)
        ):
            raise ValueError(
                "`stride` must divide `kernel_size`; "
                f"got stride={stride}, kernel_size={kernel_size}."
            )
        if kernel_size and self.matrices_only:
            raise ValueError(
                f"`{type(self).__name__}` parametrizes matrices, with kernel_size=(); "
                f"got kernel_size={kernel_size}: use taut.BCOP for an orthogonal convolution."
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = kernel_size, stride
        for name, shape in self.raw_shapes().items():
            self.register_parameter(
                name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            )
        self.reset_parameters()

    @abstractmethod
    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the raw tensors, none with more columns than rows."""

    @abstractmethod
    def weight(self) -> Tensor:
        """The weight, of shape `(out_channels, in_channels, *kernel_size)`, computed anew."""

    def transform(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        """What the weight does to `x`, and the bias, where that is cheaper than to have the weight.

        For a matrix the dense layer; for a kernel the circular convolution of images `(batch,
        in_channels, h, w)` of which `stride` divides the size, `(kernel_size - stride) // 2` in
        front.
        None where it is not cheaper: then the weight is to be used.
        """
        return None

    def update_(self, step: int) -> None:
        """What is to be done after optimiser step number `step`, from 1: nothing, mostly.

        A subclass may move its buffers or its raw tensors here, and nowhere else.
        """

    def project_(self) -> None:
        """Bring the raw tensors to where a finished model has them: nowhere else, mostly.

        For a subclass whose weight meets its constraint only now and then.
        """

    def reset_parameters(self) -> None:
        """Fill the raw tensors with uniformly distributed orthonormal columns."""
        with torch.no_grad():
            for raw in self.parameters():
                raw.copy_(orthonormal_basis(raw.normal_()))

    @property
    def folded_channels(self) -> int:
        """Input channels after invertible downsampling by the stride."""
        return self.in_channels * math.prod(self.stride)

    @property
    def folded_size(self) -> tuple[int, ...]:
        """Kernel size after invertible downsampling by the stride."""
        return tuple(k // s for k, s in zip(self.kernel_size, self.stride, strict=True))

    def unfold(self, kernel: Tensor) -> Tensor:
        """A stride-1 kernel on the downsampled input as the strided kernel on the input itself.

        Equal to :class:`taut.nn.InvertibleDownsample2d` followed by `kernel`, so that a layer is
        one plain strided convolution.
        """
        axes = len(self.stride)
        if all(s == 1 for s in self.stride):
            return kernel
        parts = kernel.reshape(self.out_channels, self.in_channels, *self.stride, *self.folded_size)
        pairs = [d for i in range(axes) for d in (2 + axes + i, 2 + i)]
        return parts.permute(0, 1, *pairs).reshape(
            self.out_channels, self.in_channels, *self.kernel_size
        )

    def extra_repr(self) -> str:
        """Sizes, as torch's layers print them."""
        text = f"{self.in_channels}, {self.out_channels}"
        if self.kernel_size:
            text += f", kernel_size={self.kernel_size}, stride={self.stride}"
        return text


_local = threading.local()


@contextmanager
def _noticing_steps() -> Iterator[None]:
    """Inside this context a step of any optimiser counts as a change of its tensors.

    Fused optimisers of torch write to them without saying so.
    """

    def count(optimiser: Optimizer, *_: object) -> None:
        tensors = (p for group in optimiser.param_groups for p in group["params"])
        changed = [p for p in tensors if p.grad is not None and not p.is_inference()]
        torch.autograd.graph.increment_version(changed)

    hook = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def cached() -> Iterator[None]:
    """Inside this context each weight is computed once, not once per forward pass.

    A kept weight serves only reads that need no gradient of it: with gradients disabled, or with
    raw tensors that do not require one. Training inside the context computes weights as always, and
    so does what `torch.func` transforms or inference mode made. A weight is computed anew once a
    raw tensor has changed (an optimiser step, `load_state_dict`, `.to`); changes through
    `Tensor.data` go unseen, as they do in torch. Contexts may be nested; each thread has its own.

    Example:
        >>> matrix = taut.Orthogonal(3, 3)
        >>> with torch.no_grad(), taut.cached():
        ...     read_weight(matrix) is read_weight(matrix)
        True
    """
    outer = getattr(_local, "weights", None)
    _local.weights = {} if outer is None else outer
    try:
        with _noticing_steps():
            yield
    finally:
        _local.weights = outer


def read_basis(raw: Tensor) -> Tensor:
    """The orthonormal basis of a raw tensor, out of :func:`taut.batched` where that has it.

    Example:
        >>> read_basis(torch.tensor([[3.0], [4.0]]))
        tensor([[0.6000],
                [0.8000]])
    """
    kept = kept_basis(raw)
    return orthonormal_basis(raw) if kept is None else kept


def kept_basis(raw: Tensor) -> Tensor | None:
    """The basis that :func:`taut.batched` keeps for a raw tensor that has not changed since.

    Example:
        >>> kept_basis(torch.eye(2))
    """
    if torch.compiler.is_compiling() or getattr(_local, "bases", None) is None:
        return None
    state, made, basis = _local.bases.get(raw, (None, None, None))
    if basis is None or state != _identity(raw) or made != _identity(basis):
        return None
    lacks_gradient = torch.is_grad_enabled() and raw.requires_grad and not basis.requires_grad
    return None if lacks_gradient else basis


@contextmanager
def keeping_bases(pairs: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Inside this context :func:`read_basis` answers with these bases of these raw tensors.

    Example:
        >>> raw = torch.eye(2)
        >>> with keeping_bases([(raw, -raw)]):
        ...     bool((read_basis(raw) == -raw).all())
        True
    """
    outer = getattr(_local, "bases", None)
    kept = {
        raw: (_identity(raw), _identity(basis), basis)
        for raw, basis in pairs
        if not (raw.is_inference() or basis.is_inference())
    }
    _local.bases = {**(outer or {}), **kept}
    try:
        with _noticing_steps():
            yield
    finally:
        _local.bases = outer


def read_weight(parametrization: AbstractParametrization) -> Tensor:
    """The weight of a parametrization, out of the cache where :func:`cached` allows it.

    Computed in the precision of the raw tensors, under autocast too. Without gradients it comes
    contiguous: kernels sum in another order for other strides.

    Example:
        >>> read_weight(taut.Orthogonal(2, 3)).shape
        torch.Size([3, 2])
    """
    tensors = (*parametrization.parameters(), *parametrization.buffers())
    with torch.autocast(tensors[0].device.type, enabled=False):
        if not keeps_weight(parametrization):
            weight = parametrization.weight()
            return weight if torch.is_grad_enabled() else _contiguous(weight)
        state = (torch.is_inference_mode_enabled(), *map(_identity, tensors))
        kept = _local.weights.get(parametrization)
        if kept is None or kept.state != state or kept.made != _identity(kept.weight):
            weight = _contiguous(parametrization.weight())
            # Kept alive, so that no new tensor comes to lie at the address of an old one.
            alive = tuple(tensor.detach() for tensor in tensors)
            kept = _Kept(state, weight, _identity(weight), alive)
            _local.weights[parametrization] = kept
        return kept.weight


def _contiguous(weight: Tensor) -> Tensor:
    """With the strides of a new tensor of its shape, also along axes of length 1."""
    strides = torch.empty(weight.shape, device="meta").stride()
    if weight.stride() == strides:
        return weight
    return weight.clone(memory_format=torch.contiguous_format)


class _Kept(NamedTuple):
    """A kept weight, what it was made from, and how both were to tell when they change."""

    state: tuple
    weight: Tensor
    made: tuple
    alive: tuple[Tensor, ...]


def _identity(tensor: Tensor) -> tuple:
    """What changes when the tensor is another one, or is written to (unless inference made it)."""
    version = None if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.stride(), tensor.dtype, tensor.device


def transformed(
    parametrization: AbstractParametrization, x: Tensor, bias: Tensor | None
) -> Tensor | None:
    """:meth:`AbstractParametrization.transform`, unless the weight itself has to be used.

    It has without gradients, so that what is evaluated is what :func:`taut.freeze` ships, bit for
    bit; under autocast, which rounds it to a dtype of its own at the last moment; where
    :func:`cached` keeps it; and in the transforms of `torch.func`.

    Example:
        >>> transformed(taut.BCOP(1, 1, (3, 3)), torch.zeros(1, 1, 4, 4), None)  # a small kernel
    """
    if not torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
        return None
    if keeps_weight(parametrization):
        return None
    if not torch.compiler.is_compiling() and peek_interpreter_stack() is not None:
        return None
    return parametrization.transform(x, bias)


def keeps_weight(parametrization: AbstractParametrization) -> bool:
    """Whether :func:`cached` serves this parametrization here and now.

    Example:
        >>> keeps_weight(taut.Orthogonal(2, 3))
        False
    """
    # A compiled graph computes what it was traced to compute: to have it without, freeze the model.
    if torch.compiler.is_compiling() or getattr(_local, "weights", None) is None:
        return False
    tensors = (*parametrization.parameters(), *parametrization.buffers())
    if any(t.is_inference() or is_functorch_wrapped_tensor(t) for t in tensors):
        return False
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
