"""What layers of two convolutions with a function of each entry between them share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from taut._arguments import check_image, whole, wholes
from taut.linalg.geometry import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from taut.nn._conv import Sizes
from taut.nn._conv_transpose import adjoint_sides
from taut.nn._padding import Pads, Size, make_pads, pad
from taut.nn._parametrized import AbstractParametrizedLayer, Parametrization, made
from taut.parametrizations import AbstractSpectral, effective_stride, require_isometry
from taut.program import slope_fault

_ACTIVATIONS = {
    nn.Identity: ("identity", ()),
    nn.ReLU: ("relu", ()),
    nn.ReLU6: ("relu6", ()),
    nn.LeakyReLU: ("leaky_relu", ("negative_slope",)),
    nn.ELU: ("elu", ("alpha",)),
    nn.Hardtanh: ("hardtanh", ("min_val", "max_val")),
    nn.Tanh: ("tanh", ()),
    nn.Sigmoid: ("sigmoid", ()),
    nn.Softsign: ("softsign", ()),
    nn.Softplus: ("softplus", ("beta", "threshold")),
}
"""Functions of each entry with slopes in [0, 1], for some of their arguments."""


class Grid:
    """A convolution with `same` padding, and its adjoint, by their arguments."""

    def __init__(self, stride: Size, dilation: Size, groups: int, mode: str) -> None:
        self.stride, self.dilation, self.groups, self.mode = stride, dilation, groups, mode

    def _pads(self, size: Size, kernel: Tensor) -> tuple[Size, Pads]:
        axes = zip(kernel.shape[2:], self.dilation, strict=True)
        span = tuple(d * (k - 1) + 1 for k, d in axes)
        return span, make_pads(size, span, self.stride, "same", self.mode)

    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of a batch."""
        _, pads = self._pads(tuple(x.shape[2:]), kernel)
        x = pad(x, pads, self.mode)
        convolve = CONVOLUTIONS[len(self.stride)]
        return convolve(x, kernel, bias, self.stride, 0, self.dilation, self.groups)

    def adjoint(self, z: Tensor, kernel: Tensor, size: Size) -> Tensor:
        """Its adjoint, from the outputs to images of a size."""
        span, pads = self._pads(size, kernel)
        if self.mode == "circular":
            axes = zip(span, self.stride, pads.left, strict=True)
            sides = [adjoint_sides(*axis, wraps=True) for axis in axes]
            before, after, crop, more = zip(*sides, strict=True)
            z = pad(z, Pads((0,) * len(size), before, after), self.mode)
        else:
            axes = zip(size, z.shape[2:], span, self.stride, pads.left, strict=True)
            crop = pads.left
            more = tuple(max(0, n - s * (m - 1) - k + 2 * a) for n, m, k, s, a in axes)
        transposed = TRANSPOSED_CONVOLUTIONS[len(self.stride)]
        y = transposed(z, kernel, None, self.stride, crop, more, self.groups, self.dilation)
        for axis, n in enumerate(size, start=2):
            y = y.narrow(axis, 0, n) if y.shape[axis] > n else y
        return y


class AbstractHiddenLayer(AbstractParametrizedLayer):
    """A layer of one kernel, with hidden channels and an activation on them."""

    axes: ClassVar[int]
    activation: nn.Module
    gain = 1.0

    def _set_sizes(self, kernel_size: Sizes, stride: Sizes, dilation: Sizes, groups: int) -> None:
        self.kernel_size = wholes("kernel_size", kernel_size, self.axes)
        self.stride = wholes("stride", stride, self.axes)
        self.dilation = wholes("dilation", dilation, self.axes)
        self.groups = whole("groups", groups)

    def _set_options(self, padding_mode: str, activation: nn.Module | None) -> None:
        if padding_mode not in ("circular", "zeros"):
            raise ValueError(f"`padding_mode` must be 'circular' or 'zeros'; got {padding_mode!r}.")
        self.padding_mode = padding_mode
        self.activation = nn.ReLU() if activation is None else checked_activation(activation)

    def _made(
        self, method: Parametrization, channels: tuple[int, int], stride: Size, **factory: Any
    ) -> None:
        """Make the kernel between these channels."""
        sizes: dict[str, Any] = {"stride": effective_stride(stride, self.dilation)}
        sizes["groups"] = self.groups
        with _hidden_outputs(*channels):
            parametrization = made(method, *channels, self.kernel_size, **sizes, **factory)
        if isinstance(parametrization, AbstractSpectral):
            raise ValueError(
                "`parametrization` must have kernels of finite size for a layer with hidden "
                f"channels; got {type(parametrization).__name__}, whose kernel fills the input."
            )
        if parametrization.guarantee == "orthogonal":
            steps: dict[str, Any] = {"dilation": self.dilation, "groups": self.groups}
            with _hidden_outputs(*channels):
                require_isometry(*channels, self.kernel_size, stride, **steps)
        self.parametrization = parametrization

    def extra_repr(self) -> str:
        """What the layer adds to its parametrization, which prints the other sizes."""
        text = f"padding_mode={self.padding_mode!r}"
        text += "" if set(self.dilation) == {1} else f", dilation={self.dilation}"
        return text if self.bias is not None else f"{text}, bias=False"


@contextmanager
def _hidden_outputs(inputs: int, hidden: int) -> Iterator[None]:
    """Say of channels that a method refuses which channels of the layer they are."""
    try:
        yield
    except ValueError as error:
        if "_channels`" not in str(error):
            raise
        raise ValueError(
            f"The kernel from {inputs} channels to `hidden_channels`={hidden} is refused: {error}"
        ) from error


def checked_activation(activation: nn.Module) -> nn.Module:
    """The activation, if its slopes lie in [0, 1]."""
    fault = type(activation).__name__
    if isinstance(activation, type):
        fault = f"the class {activation.__name__}, not an instance"
    if type(activation) in _ACTIVATIONS:
        op, names = _ACTIVATIONS[type(activation)]
        fault = slope_fault(op, {name: getattr(activation, name) for name in names})
        fault = fault and repr(activation)
    if fault or not isinstance(activation, nn.Module):
        allowed = ", ".join(kind.__name__ for kind in _ACTIVATIONS)
        raise ValueError(
            f"`activation` must have slopes in [0, 1], as {allowed} of torch.nn have (Softplus "
            f"from threshold 34 on); got {fault}. MaxMin may follow the layer."
        )
    return activation


def batch_of_images(x: Tensor, channels: int, axes: int) -> tuple[Tensor, bool]:
    """A batch, and whether it was one image."""
    check_image(x, channels, axes)
    single = x.dim() == axes + 1
    return x[None] if single else x, single


def column(values: Tensor, axes: int) -> Tensor:
    """One number for each channel, for all positions."""
    return values.reshape(-1, *[1] * axes)


def hidden_values(
    z: Tensor, before: Tensor | None, bias: Tensor | None, activation: nn.Module
) -> Tensor:
    """The activation of p z + b; without p the bias is in z."""
    axes = z.dim() - 2
    if before is not None:
        z = z * column(before, axes)
        z = z if bias is None else z + column(bias, axes)
    return activation(z)


def as_parameter(tensor: Tensor) -> nn.Parameter:
    """The parameter itself, or one of these numbers that needs no gradient."""
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
