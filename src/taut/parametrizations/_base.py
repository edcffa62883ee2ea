"""What a parametrization is."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from taut._arguments import whole, wholes
from taut._sharding import draws, gathers, remember_shard
from taut.linalg.bases import orthonormal_basis
from taut.linalg.windows import Windows

Guarantee = Literal["orthogonal", "lipschitz", "none"]


MISS = 1000  # units of the last place that an assigned weight may be off


# All that there are, from which an optimiser learns what its parameters are.
_basis_readers: "weakref.WeakSet[AbstractParametrization]" = weakref.WeakSet()


def raws_among(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Those of the parameters that a parametrization reads through orthonormal bases.

    Example:
        >>> layer = taut.nn.Linear(2, 3)
        >>> [tuple(raw.shape) for raw in raws_among(layer.parameters())]
        [(3, 2)]
    """
    raws = {id(raw) for owner in list(_basis_readers) for raw in owner.parameters()}
    return [parameter for parameter in parameters if id(parameter) in raws]


class AbstractParametrization(nn.Module, ABC):
    r"""Raw tensors that :meth:`weight` turns into a kernel or matrix with a guarantee.

    A matrix is a kernel without spatial axes (`kernel_size=()`), so one class serves dense layers
    and convolutions of any dimension. Each subclass states its `guarantee`:

    - `"orthogonal"`: with circular padding all singular values of the operator are 1;
    - `"lipschitz"`: its largest singular value is at most 1;
    - `"none"`: only the bound proved from the weight itself counts.

    Certificates do not read the guarantee: bounds are proved from the weight as used. A subclass
    also names the `reference` that it implements, and defines the shapes of its raw tensors and the
    weight. It sets `matrices_only` if it has no kernels, and `reads_bases` if its weight depends on
    the raw tensors only through :func:`read_basis`; :func:`taut.retract_` and :func:`taut.batched`
    then apply to it. `instead_of_assigning` says what to do with a weight that cannot be assigned.

    Args:
        in_channels: channels (or features) of the input.
        out_channels: channels (or features) of the output.
        kernel_size: taps per spatial axis; `()` for a matrix.
        stride: step per spatial axis, 1 by default. For a dilated convolution the one of
            :func:`effective_stride`: methods need not know the dilation.
        groups: blocks of channels that do not mix.
        device: device of the raw tensors.
        dtype: dtype of the raw tensors.

    Raises:
        ValueError: if a size is not a positive integer, `groups` does not divide the channels, the
            method is for matrices only and gets a kernel size, or :meth:`check_sizes` refuses.
    """

    guarantee: ClassVar[Guarantee]
    reference: ClassVar[str]
    matrices_only: ClassVar[bool] = False
    instead_of_assigning: ClassVar[str] = "load_state_dict copies any layer"
    reads_bases: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (),
        *,
        stride: tuple[int, ...] | None = None,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        axes = len(kernel_size)
        self.in_channels = whole("in_channels", in_channels)
        self.out_channels = whole("out_channels", out_channels)
        self.kernel_size = wholes("kernel_size", kernel_size, axes)
        self.stride = wholes("stride", 1 if stride is None else stride, axes)
        self.groups = whole("groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                "`groups` must divide the channels of input and output; "
                f"got groups={groups}, channels {in_channels} and {out_channels}."
            )
        if kernel_size and self.matrices_only:
            raise ValueError(
                f"`parametrization` must be a method for convolutions, such as taut.BCOP; got "
                f"{type(self).__name__}, which is for taut.nn.Linear, and "
                f"kernel_size={kernel_size}."
            )
        self.check_sizes()
        for name, shape in self.raw_shapes().items():
            raw = torch.empty(shape, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(raw))
        for name, shape in self.buffer_shapes().items():
            self.register_buffer(name, torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()
        if self.reads_bases:
            _basis_readers.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy or a pickle."""
        super().__setstate__(state)
        if self.reads_bases:
            _basis_readers.add(self)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "reset_parameters" in vars(cls):
            cls.reset_parameters = draws(cls.reset_parameters)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; torch's `fully_shard` exchanges raw tensors this way."""
        remember_shard(self.__dict__.get("_parameters", {}).get(name), value)
        super().__setattr__(name, value)

    @abstractmethod
    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the raw tensors; with groups, the group is their first axis."""

    @abstractmethod
    def weight(self) -> Tensor:
        """Compute the weight, `(out_channels, in_channels // groups, *kernel_size)`."""

    def scaled_weight(self) -> tuple[Tensor, Tensor | None]:
        """The weight, and a scale g > 0 of its outputs for residual layers; None for 1.

        :class:`taut.nn.PotentialResidual2d` applies its activation to g times the outputs and
        divides by g, which no proof depends on.
        """
        return self.weight(), None

    def buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the buffers, which :meth:`reset_parameters` must fill; none here."""
        return {}

    def check_sizes(self) -> None:
        """Refuse sizes that the method cannot do; a no-op by default.

        Runs before there is any tensor; `in_channels`, `out_channels`, `kernel_size`, `stride` and
        `groups` are set, and are positive integers.

        Raises:
            ValueError: with the numbers.
        """

    def refuse_groups(self) -> None:
        """For the :meth:`check_sizes` of methods whose layers have no groups.

        Raises:
            ValueError: if there are several.
        """
        if self.groups != 1:
            raise ValueError(f"`groups` must be 1 for {type(self).__name__}; got {self.groups}.")

    @classmethod
    def dense_as(cls) -> "type[AbstractParametrization]":
        """The method for the dense layers of a model with this method: itself by default."""
        return cls

    def transform(self, x: Tensor, bias: Tensor | None, windows: Windows | None) -> Tensor | None:
        """Apply the layer without forming the weight, or return None if that is not cheaper.

        For a matrix, `windows` being None, this is the dense layer. For a kernel it is the circular
        convolution of a batch of images with these windows.
        """
        return None

    def may_apply_factors(self) -> bool:
        """Whether :meth:`transform` may apply the layer without its weight, for some input."""
        return type(self).transform is not AbstractParametrization.transform

    def embedding_side(self) -> bool | None:
        r"""Equal for layers of which the one with more channels may hold the other as a block.

        Raw matrices A become :math:`\mathrm{diag}(A, I)`, and the weight of the smaller layer is
        the first block of the larger one's. None, the default, if that is not so.
        """
        return None

    def transform_adjoint(self, x: Tensor, bias: Tensor | None, windows: Windows) -> Tensor | None:
        """Likewise for the adjoint of the circular convolution: a transposed layer."""
        return None

    def update_(self, step: int) -> None:
        """Called after optimiser step number `step`, from 1; a no-op by default.

        The only place where a subclass may move its buffers or its raw tensors.
        """

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The raw tensors of a weight that the method can have, by name: see :meth:`assign_`.

        Raises:
            ValueError: by default, since most methods have no such inverse.
        """
        raise ValueError(
            f"`weight` cannot be assigned: {type(self).__name__} makes it of "
            f"{', '.join(self.raw_shapes()) or 'nothing'}; assign these, or load a state_dict."
        )

    @gathers
    @torch.no_grad()
    def assign_(self, weight: Tensor) -> None:
        """Set the raw tensors so that :meth:`weight` is this one, to rounding.

        Raises:
            ValueError: if it is of another shape, or none that the method can have; then nothing
                is changed.
        """
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        if tuple(weight.shape) != shape:
            raise ValueError(f"`weight` must be of shape {shape}; got {tuple(weight.shape)}.")
        if not bool(weight.isfinite().all()):
            raise ValueError("`weight` must be finite.")
        found = self.raw_of(weight).items()
        raws = [(own, raw.to(own)) for own, raw in ((getattr(self, name), r) for name, r in found)]
        if not all(bool(raw.isfinite().all()) for _, raw in raws):
            raise ValueError(f"`weight` must be finite in {raws[0][0].dtype}.")
        before = [(own, own.clone()) for own, _ in raws]
        for own, raw in raws:
            own.copy_(raw)
        made = self.weight()
        miss = (made - weight.to(made)).abs().max()
        if not bool(miss <= MISS * torch.finfo(made.dtype).eps):  # NaN fails, too
            for own, raw in before:
                own.copy_(raw)
            raise ValueError(
                f"`weight` must be one that {type(self).__name__} can have and that determines its "
                f"raw tensors; those found are off by {float(miss):.3g} "
                f"({self.instead_of_assigning})."
            )

    def project_(self) -> None:
        """Project the raw tensors as a finished model needs them; a no-op by default.

        For a subclass whose weight meets its constraint only from time to time.
        """

    @draws
    def reset_parameters(self) -> None:
        """Draw the raw tensors anew: orthonormal columns, uniformly distributed."""
        with torch.no_grad():
            for raw in self.parameters():
                raw.copy_(orthonormal_basis(raw.normal_()))

    def per_group(self, *shape: int) -> tuple[int, ...]:
        """The shape of a raw tensor with one part for each group; one group has no axis."""
        return shape if self.groups == 1 else (self.groups, *shape)

    def extra_repr(self) -> str:
        """Sizes, as torch's layers print them."""
        text = f"{self.in_channels}, {self.out_channels}"
        if self.kernel_size:
            text += f", kernel_size={self.kernel_size}, stride={self.stride}"
        return text if self.groups == 1 else f"{text}, groups={self.groups}"
