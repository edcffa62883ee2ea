"""BCOP: block convolution orthogonal parameterization."""

import math
from typing import Any, final

import torch
from torch import Tensor

from taut._torch_private import inside_transform
from taut.linalg.block import grow, last_step, shrink, step_order
from taut.linalg.embedding import interleaved, polyphase
from taut.linalg.factored import AbstractFactor, Downsampling, Matrix, Steps
from taut.linalg.windows import Windows
from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations._cache import read_basis
from taut.parametrizations._existence import refuse_shifts, require_isometry
from taut.parametrizations._orthogonal import Orthogonal

# With fewer channels, kernels cost less than the calls of the steps.
# Weights of a direction in a tap, in units of the last place, up to which they are rounding alone.
_NOISE = 64
_LEAST_CHANNELS = 64
# Narrow products of half rank, and the passes over the images between them, run slower than their
# count says: by a factor 1 + _NARROW / c. So do the small products in which a kernel grows.
_NARROW = 128
_GROWTH = 2


@final
class BCOP(AbstractParametrization):
    r"""Orthogonal convolution: an orthogonal matrix times two-tap steps :math:`[P, I-P]`.

    .. math:: K = U(H * [P_1, I-P_1] * [Q_1, I-Q_1] * [I-P_2, P_2] * \dots) * [R_1, I-R_1] * \dots

    with `*` block convolution, P along the first axis, Q along the second, and so on; every
    projector has half rank: :math:`B B^\top` with the orthonormal basis B of a raw tensor. Every
    second step is reversed: for even channel counts the family stays the same, and kernels of odd
    counts stay centred. There may be any number of axes; without any it is an orthogonal matrix.

    *Strides.* Along an axis of k taps and stride s, the steps behind H act on the input after
    invertible downsampling by s, and U makes them one strided kernel of :math:`s \lfloor k/s
    \rfloor` taps. The other :math:`r = k \bmod s` taps are steps R on the channels of the input,
    which act first. Both are orthogonal, so their product is. A kernel shorter than its stride is a
    single patch.

    *Assigning.* `layer.weight = w` finds the projectors of a kernel of this family from the last
    step to the first, to a few roundings. With steps along several axes, kernels with many more
    channels on one side than on the other (3x3: over 4 times) do not determine their projectors;
    most are refused, as are a few others, such as untrained ones of even size with
    `init="identity"`. `load_state_dict` copies any.

    *Groups* have one kernel each; the singular values of the layer are those of all of them.

    Guarantee: with circular padding all singular values of the operator are 1 (semi-orthogonal
        where the sizes of input and output differ), for every finite raw tensor; with zero padding
        at most 1. float32: within 1e-5 of 1, none above 1 + 3e-6.
    Cost: for a 3x3 kernel 13 products of `(min, c)` with `(c, c)`, c = max of the channel counts,
        and the bases of four `(c, c / 2)` raw tensors and of one `(c, min)`. Layers with many
        channels and positions form no kernel: they apply the steps to the input, with
        `4 c^2 + c min` multiplications per position instead of `9 c min`.

    Args:
        in_channels: channels (or features) of the input.
        out_channels: channels (or features) of the output.
        kernel_size: taps per spatial axis; `()` for a matrix.
        init: `"identity"` takes the identity for H, and one projector for all steps of the same
            kind: pairs of steps cancel, so that a layer of stride 1 with as many outputs as inputs
            and odd kernel sizes starts as the identity. The projectors separate in training; deep
            nets train better. `"uniform"` draws H and the projectors uniformly.
        options: stride, groups, device and dtype, as :class:`AbstractParametrization` has them.

    Raises:
        ValueError: as the base class; if no orthogonal convolution of these sizes exists, or only
            shifts (groups of one channel in and out, stride 1).

    Reference:
        Li et al. (2019), *Preventing Gradient Attenuation in Lipschitz Constrained Convolutional
        Networks*, section 4 and appendix B; arXiv:1911.00937. They orthonormalise with 20 Bjorck
        steps; P depends only on the span, so an exact basis gives the same P. Strides that do not
        divide the kernel: Boissin et al. (2025), *An Adaptive Orthogonal Convolution Scheme for
        Efficient and Flexible CNN Architectures*, arXiv:2501.07930; they take one patch, so that
        all other taps are steps on the channels of the input.

    Example:
        >>> kernel = BCOP(8, 4, (3, 3)).weight()
        >>> symbol = torch.fft.fft2(kernel, s=(5, 5)).permute(2, 3, 0, 1)
        >>> s = torch.linalg.svdvals(symbol)
        >>> torch.allclose(s, torch.ones_like(s), atol=1e-5)
        True
    """

    guarantee = "orthogonal"
    reads_bases = True
    reference = "Li et al. 2019, arXiv:1911.00937, section 4"
    raw_matrix: Tensor
    raw_projectors: Tensor
    raw_input_projectors: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (),
        *,
        init: str = "identity",
        **options: Any,
    ) -> None:
        if init not in ("identity", "uniform"):
            raise ValueError(f"`init` must be 'identity' or 'uniform'; got {init!r}.")
        self.init = init
        super().__init__(in_channels, out_channels, kernel_size, **options)

    def check_sizes(self) -> None:
        """Refuse sizes for which no orthogonal convolution exists, or none that can be trained."""
        sizes = (self.in_channels, self.out_channels, self.kernel_size, self.stride)
        none = (1,) * len(self.stride)
        require_isometry(*sizes, dilation=none, groups=self.groups)
        refuse_shifts(*sizes, groups=self.groups)

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The orthogonal matrix H, and the bases of all projectors in their order."""
        narrow, wide = sorted(self._channels)
        inputs = self.in_channels // self.groups
        shapes = {"raw_matrix": self.per_group(wide, narrow)}
        for name, steps, channels in (
            ("raw_projectors", len(step_order(self._folded_size)), wide),
            ("raw_input_projectors", len(step_order(self._input_size)), inputs),
        ):
            if steps:
                shapes[name] = self.per_group(steps, channels, channels // 2)
        return shapes

    def reset_parameters(self) -> None:
        """Draw the raw tensors anew, as `init` says."""
        super().reset_parameters()
        if self.init == "identity":
            with torch.no_grad():
                self.raw_matrix.copy_(torch.eye(*self.raw_matrix.shape[-2:]))
                for name, raw in self.named_parameters():
                    if name != "raw_matrix":
                        raw.copy_(raw[..., :1, :, :].expand_as(raw).clone())

    @property
    def _patch(self) -> tuple[int, ...]:
        """Taps of a window that one step on the folded channels covers: the stride, or all."""
        return tuple(map(min, self.kernel_size, self.stride))

    @property
    def _channels(self) -> tuple[int, int]:
        """Channels of a group after folding the patch into them, and of its output."""
        inputs = self.in_channels // self.groups * math.prod(self._patch)
        return inputs, self.out_channels // self.groups

    @property
    def _folded_size(self) -> tuple[int, ...]:
        """Taps of the kernel on the folded channels."""
        return tuple(k // e for k, e in zip(self.kernel_size, self._patch, strict=True))

    @property
    def _input_size(self) -> tuple[int, ...]:
        """Taps of the kernel on the channels of the input, which acts first."""
        return tuple(1 + k % e for k, e in zip(self.kernel_size, self._patch, strict=True))

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels // groups, *kernel_size)`."""
        folded, outputs = self._channels
        rows = self._basis("raw_matrix").mT
        kernel = rows.reshape(*rows.shape, *(1,) * len(self.kernel_size))  # (g, narrow, wide, ...)
        kernel = self._after(kernel, "raw_projectors", self._folded_size)
        if outputs > folded:
            kernel = kernel.transpose(1, 2)
        kernel = interleaved(kernel.flatten(0, 1), self._patch).unflatten(0, (self.groups, outputs))
        return self._after(kernel, "raw_input_projectors", self._input_size).flatten(0, 1)

    def _basis(self, name: str) -> Tensor:
        """The basis of a raw tensor, the groups first."""
        basis = read_basis(getattr(self, name))
        return basis[None] if self.groups == 1 else basis

    def _after(self, kernel: Tensor, name: str, size: tuple[int, ...]) -> Tensor:
        """Kernels `(g, o, i, *taps)` after the steps that make a kernel of this size."""
        steps = step_order(size)
        if not steps:
            return kernel
        taps = kernel.movedim((1, 2), (-2, -1))
        for basis, (turn, axis) in zip(self._basis(name).unbind(1), steps, strict=True):
            taps = grow(taps, basis, axis, flipped=turn % 2 == 1)
        return taps.movedim((-2, -1), (1, 2))

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The matrix H and the bases of the projectors, from the last step to the first."""
        folded, outputs = self._channels
        noise = _NOISE * torch.finfo(self.raw_matrix.dtype).eps
        kernel = weight.double().unflatten(0, (self.groups, outputs))  # (g, o, i, *taps)
        kernel, before = _peeled(kernel, self._input_size, noise)
        kernel = polyphase(kernel.flatten(0, 1), self._patch, (1,) * len(self._patch))
        kernel = kernel.unflatten(0, (self.groups, outputs))
        if outputs > folded:
            kernel = kernel.transpose(1, 2)
        kernel, behind = _peeled(kernel, self._folded_size, noise)  # (g, narrow, wide, 1, ...)
        raws = {"raw_matrix": kernel.flatten(2).mT}
        raws |= {"raw_projectors": torch.stack(behind, 1)} if behind else {}
        raws |= {"raw_input_projectors": torch.stack(before, 1)} if before else {}
        return raws if self.groups > 1 else {name: raw[0] for name, raw in raws.items()}

    @classmethod
    def dense_as(cls) -> type[AbstractParametrization]:
        """:class:`taut.Orthogonal`, which is what this method is on a matrix."""
        return Orthogonal

    def transform(self, x: Tensor, bias: Tensor | None, windows: Windows | None) -> Tensor | None:
        """Apply the circular convolution step by step, if that takes fewer operations."""
        if windows is None or not self._steps_are_cheaper(x.numel() // x.shape[1], windows):
            return None
        return self._applied(x, bias, windows, adjoint=False)

    def transform_adjoint(self, x: Tensor, bias: Tensor | None, windows: Windows) -> Tensor | None:
        """Apply the adjoint of the circular convolution step by step, likewise."""
        positions = x.numel() // x.shape[1] * math.prod(windows.stride)
        if not self._steps_are_cheaper(positions, windows):
            return None
        return self._applied(x, bias, windows, adjoint=True)

    def _applied(
        self, x: Tensor, bias: Tensor | None, windows: Windows, *, adjoint: bool
    ) -> Tensor:
        """The factors of each group, one after the other, or their adjoints the other way round."""
        results = []
        for group, part in enumerate(x.chunk(self.groups, 1)):
            y, factors = part.movedim(1, -1), self._factors(group, windows)
            for factor in factors[::-1] if adjoint else factors:
                y = factor.adjoint(y) if adjoint else factor.apply(y)
            results.append(y)
        y = torch.cat(results, -1) if self.groups > 1 else results[0]
        # A copy: in-place operations must not change what is saved for the gradient.
        return (y.clone() if bias is None else y + bias).movedim(-1, 1)

    def _factors(self, group: int, windows: Windows) -> list[AbstractFactor]:
        """The factors of the convolution of a group, in the order in which they act."""
        # On the folded grid the taps of F are as far apart as those of K that a patch is long.
        axes = zip(windows.dilation, windows.stride, self.stride, strict=True)
        coarse = tuple(d * built // s for d, s, built in axes)
        fine = windows.dilation
        before = self._steps(group, "raw_input_projectors", self._input_size, fine)
        behind = self._steps(group, "raw_projectors", self._folded_size, coarse)
        # Each step that is not reversed, every second one, reads one tap further on.
        passed = [r // 2 * d for r, d in zip(self._input_size, fine, strict=True)]
        axes = zip(self._folded_size, coarse, windows.stride, strict=True)
        passed = [p + m // 2 * d * s for p, (m, d, s) in zip(passed, axes, strict=True)]
        left = tuple(n - p for n, p in zip(windows.left, passed, strict=True))
        downsampling = Downsampling(windows._replace(left=left), self._patch)
        matrix, (folded, outputs) = self._basis("raw_matrix")[group], self._channels
        # The last step of a kernel is the first to act.
        factors = [*(steps.reversed() for steps in before), downsampling]
        if outputs > folded:
            return [*factors, Matrix(matrix), *behind]
        return [*factors, *(steps.reversed() for steps in behind), Matrix(matrix.mT)]

    def _steps(
        self, group: int, name: str, size: tuple[int, ...], places: tuple[int, ...]
    ) -> list[Steps]:
        """The steps of a group that make a kernel of this size, taps so many places apart."""
        steps = step_order(size)
        if not steps:
            return []
        moves = tuple((axis, -places[axis] if turn % 2 else places[axis]) for turn, axis in steps)
        return [Steps(self._basis(name)[group], moves)]

    def _steps_are_cheaper(self, positions: int, windows: Windows) -> bool:
        """Compare the multiplications of a training step, with those that build the kernel."""
        folded, outputs = self._channels
        narrow, wide = sorted((folded, outputs))
        before, behind = step_order(self._input_size), step_order(self._folded_size)
        few = wide < _LEAST_CHANNELS or torch.compiler.is_exporting() or not positions
        if few or not (before or behind) or inside_transform():
            return False
        inputs, count = self.in_channels // self.groups, positions // math.prod(windows.stride)
        growth = narrow * wide * wide * _products(self._folded_size)
        patches = outputs * math.prod(self._folded_size) * math.prod(self._patch)
        growth += patches * inputs * inputs * _products(self._input_size)
        kernel = outputs * inputs * math.prod(self.kernel_size) * count + _GROWTH * growth
        factored = 3.5 * len(behind) * wide * wide * count + 3 * narrow * wide * count
        factored += 3.5 * len(before) * inputs * inputs * positions
        return factored * (1 + _NARROW / wide) < 3 * kernel


def _peeled(kernel: Tensor, size: tuple[int, ...], noise: float) -> tuple[Tensor, list[Tensor]]:
    """Kernels `(g, o, i, *taps)` before the steps to a size, and the bases of the steps."""
    taps, bases = kernel.movedim((1, 2), (-2, -1)), []
    half = taps.shape[-1] // 2
    for turn, axis in reversed(step_order(size)):
        _, frame = last_step(taps, axis, noise)
        # Every second step, [I - P, P], has the complement of P in its first tap.
        first = taps.shape[-1] - half if turn % 2 else half
        taps = shrink(taps, frame[..., :first], axis)
        bases.append(frame[..., first:] if turn % 2 else frame[..., :first])
    return taps.movedim((-2, -1), (1, 2)), bases[::-1]


def _products(size: tuple[int, ...]) -> int:
    """Products of matrices in which a kernel of one tap grows to this size."""
    sizes, products = [1] * len(size), 0
    for _, axis in step_order(size):
        products += math.prod(sizes)
        sizes[axis] += 1
    return products
