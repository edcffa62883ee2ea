"""Orthogonal kernels as products of small ones: a core, and two-tap steps around it."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taut._arguments import wholes
from taut._torch_private import inside_transform
from taut.linalg.bases import orthonormal_basis
from taut.linalg.block import grow, grow_by, last_step, projectors, shrink
from taut.linalg.embedding import interleaved, polyphase
from taut.linalg.factored import AbstractFactor, Downsampling, Matrix, Steps
from taut.linalg.rates import counts_launches, steps_are_quick
from taut.linalg.windows import Windows
from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations._cache import read_basis
from taut.parametrizations._existence import refuse_shifts, require_isometry
from taut.parametrizations._orthogonal import Orthogonal

Order = Sequence[tuple[int, int]]  # for each step: earlier steps along its axis, and the axis

# Weights of a direction in a tap, in units of the last place, up to which they are rounding alone.
_NOISE = 64
# With fewer channels, kernels cost less than the calls of the steps.
_LEAST_CHANNELS = 64
# Narrow products of half rank, and the passes over the images between them, run slower than their
# count says: by a factor 1 + _NARROW / c. So do the small products in which a kernel grows.
_NARROW = 128
_GROWTH = 2


class CoreCosts(NamedTuple):
    """Multiplications of a core in each group: to build it, and in training per position."""

    kernel: float
    position: float


class AbstractComposed(AbstractParametrization):
    r"""Orthogonal kernels: a core times two-tap steps :math:`[P, I-P]`.

    .. math:: K = U(C * S_1 * S_2 * \dots) * R_1 * R_2 * \dots

    A stride s makes patches of :math:`e = \min(k, s)` taps an axis. The core C and the steps S act
    on the channels of a patch, with :math:`\lfloor k/e \rfloor` taps; U makes them one strided
    kernel. The other :math:`k \bmod e` taps are steps R on the channels of the input, which act
    first. C maps the wider of the two sides, patch and output, to the narrower one; if that is the
    patch, C and the steps S are transposed tap by tap. Each factor is orthogonal, so K is. Every
    second step along an axis is reversed, :math:`[I-P, P]`, so that kernels stay centred.

    A subclass defines the core and the order of the steps.
    """

    guarantee = "orthogonal"
    reads_bases = True
    raw_projectors: Tensor
    raw_input_projectors: Tensor
    step_rank: int | tuple[int, ...] | None = None
    """Rank of the projectors of S, of all or one for each step; None is half of the channels."""

    @abstractmethod
    def order(self, size: tuple[int, ...]) -> Order:
        """The order of the steps that make a kernel of this size."""

    @abstractmethod
    def core_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the raw tensors of the core."""

    @abstractmethod
    def core_size(self) -> tuple[int, ...]:
        """Taps of the core; at most those of the kernel on the patches."""

    @abstractmethod
    def core(self) -> Tensor:
        """The core C, `(groups, narrow, wide, *taps)`."""

    @abstractmethod
    def core_factors(
        self, group: int, places: tuple[int, ...], *, widens: bool
    ) -> list[AbstractFactor]:
        """The core of a group as maps of images, centred, with taps so many places apart.

        From the wider side to the narrower one; if it `widens` the other way, with the taps of C
        transposed.
        """

    @abstractmethod
    def core_costs(self) -> CoreCosts:
        """What the core costs, by which it is decided whether to apply the factors."""

    def check_sizes(self) -> None:
        """Refuse sizes for which no orthogonal convolution exists, or none that can be trained."""
        sizes = (self.in_channels, self.out_channels, self.kernel_size, self.stride)
        none = (1,) * len(self.stride)
        require_isometry(*sizes, dilation=none, groups=self.groups)
        refuse_shifts(*sizes, groups=self.groups)

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The core, and the bases of all projectors in their order."""
        shapes = self.core_shapes()
        if ranks := self.ranks:
            wide = max(self.channels)
            shapes["raw_projectors"] = self.per_group(len(ranks), wide, max(ranks))
        if steps := len(self.order(self._input_size)):
            inputs = self.in_channels // self.groups
            shapes["raw_input_projectors"] = self.per_group(steps, inputs, inputs // 2)
        return shapes

    @property
    def patch(self) -> tuple[int, ...]:
        """Taps of a window that one step on the folded channels covers: the stride, or all."""
        return tuple(map(min, self.kernel_size, self.stride))

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of a group after folding the patch into them, and of its output."""
        inputs = self.in_channels // self.groups * math.prod(self.patch)
        return inputs, self.out_channels // self.groups

    @property
    def folded_size(self) -> tuple[int, ...]:
        """Taps of the kernel on the folded channels."""
        return tuple(k // e for k, e in zip(self.kernel_size, self.patch, strict=True))

    @property
    def _step_size(self) -> tuple[int, ...]:
        """Taps of the kernel that the steps behind the core make."""
        return tuple(m - c + 1 for m, c in zip(self.folded_size, self.core_size(), strict=True))

    @property
    def _input_size(self) -> tuple[int, ...]:
        """Taps of the kernel on the channels of the input, which acts first."""
        return tuple(1 + k % e for k, e in zip(self.kernel_size, self.patch, strict=True))

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks of the projectors of the steps behind the core."""
        steps, wide = len(self.order(self._step_size)), max(self.channels)
        if self.step_rank is None:
            return (wide // 2,) * steps
        ranks = wholes("rank", self.step_rank, steps, least=0)
        if any(rank > wide for rank in ranks):
            raise ValueError(f"`rank` must be at most {wide}, the channels; got {self.step_rank}.")
        return ranks

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels // groups, *kernel_size)`."""
        folded, outputs = self.channels
        kernel = self.after(self.core(), "raw_projectors", self._step_size)
        if outputs > folded:
            kernel = kernel.transpose(1, 2)
        kernel = interleaved(kernel.flatten(0, 1), self.patch).unflatten(0, (self.groups, outputs))
        return self.after(kernel, "raw_input_projectors", self._input_size).flatten(0, 1)

    def basis(self, name: str) -> Tensor:
        """The basis of a raw tensor, the groups first; columns beyond the rank of a step are 0."""
        basis = read_basis(getattr(self, name))
        basis = basis[None] if self.groups == 1 else basis
        if name != "raw_projectors" or len(set(self.ranks)) == 1:
            return basis
        columns = torch.arange(basis.shape[-1], device=basis.device)
        inside = [columns < rank for rank in self.ranks]  # no copy from the CPU, which would wait
        return basis * torch.stack(inside)[:, None]

    def after(self, kernel: Tensor, name: str, size: tuple[int, ...]) -> Tensor:
        """Kernels `(g, o, i, *taps)` after the steps that make a kernel of this size."""
        steps = self.order(size)
        if not steps:
            return kernel
        taps, bases, step = kernel.movedim((1, 2), (-2, -1)), self.basis(name), grow
        if counts_launches(kernel.device):
            bases, step = projectors(bases), grow_by
        for basis, (turn, axis) in zip(bases.unbind(1), steps, strict=True):
            taps = step(taps, basis, axis, flipped=turn % 2 == 1)
        return taps.movedim((-2, -1), (1, 2))

    @classmethod
    def dense_as(cls) -> type[AbstractParametrization]:
        """:class:`taut.Orthogonal`."""
        return Orthogonal

    def transform(self, x: Tensor, bias: Tensor | None, windows: Windows | None) -> Tensor | None:
        """Apply the circular convolution factor by factor, if that takes fewer operations."""
        if windows is None or not self._steps_are_cheaper(x.numel() // x.shape[1], windows):
            return None
        return self._applied(x, bias, windows, adjoint=False)

    def transform_adjoint(self, x: Tensor, bias: Tensor | None, windows: Windows) -> Tensor | None:
        """Apply the adjoint of the circular convolution factor by factor, likewise."""
        positions = x.numel() // x.shape[1] * math.prod(windows.stride)
        if not self._steps_are_cheaper(positions, windows):
            return None
        return self._applied(x, bias, windows, adjoint=True)

    def may_apply_factors(self) -> bool:
        """Whether there are enough channels for the device."""
        raw, wide = next(self.parameters()), max(self.channels)
        return wide >= _LEAST_CHANNELS and steps_are_quick(raw.device, raw.dtype, wide)

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
        behind = self._steps(group, "raw_projectors", self._step_size, coarse)
        # Each step that is not reversed, every second one, reads one tap further on.
        passed = [r // 2 * d for r, d in zip(self._input_size, fine, strict=True)]
        axes = zip(self.folded_size, coarse, windows.stride, strict=True)
        passed = [p + m // 2 * d * s for p, (m, d, s) in zip(passed, axes, strict=True)]
        left = tuple(n - p for n, p in zip(windows.left, passed, strict=True))
        downsampling = Downsampling(windows._replace(left=left), self.patch)
        folded, outputs = self.channels
        core = self.core_factors(group, coarse, widens=outputs > folded)
        # The last step of a kernel is the first to act.
        factors = [*(steps.reversed() for steps in before), downsampling]
        if outputs > folded:
            return [*factors, *core, *behind]
        return [*factors, *(steps.reversed() for steps in behind), *core]

    def _steps(
        self, group: int, name: str, size: tuple[int, ...], places: tuple[int, ...]
    ) -> list[Steps]:
        """The steps of a group that make a kernel of this size, taps so many places apart."""
        steps = self.order(size)
        if not steps:
            return []
        moves = tuple((axis, -places[axis] if turn % 2 else places[axis]) for turn, axis in steps)
        return [Steps(self.basis(name)[group], moves)]

    def _steps_are_cheaper(self, positions: Any, windows: Windows) -> bool:
        """Compare the multiplications of a training step, with those that build the kernel."""
        folded, outputs = self.channels
        narrow, wide = sorted((folded, outputs))
        watched = torch.compiler.is_exporting() or inside_transform()
        if watched or not positions or not self.may_apply_factors():
            return False
        before, behind = self.order(self._input_size), self.order(self._step_size)
        inputs, count = self.in_channels // self.groups, positions // math.prod(windows.stride)
        core = self.core_costs()
        growth = core.kernel + narrow * wide * wide * products(behind, self.core_size())
        patches = outputs * math.prod(self.folded_size) * math.prod(self.patch)
        growth += patches * inputs * inputs * products(before, (1,) * len(self.patch))
        kernel = outputs * inputs * math.prod(self.kernel_size) * count + _GROWTH * growth
        steps = 3.5 * len(behind) * wide * wide * count
        steps += 3.5 * len(before) * inputs * inputs * positions
        return core.position * count + (1 + _NARROW / wide) * steps < 3 * kernel


class AbstractStepped(AbstractComposed):
    """Kernels whose core is an orthogonal matrix H, so that all taps are made by steps.

    Args:
        in_channels: as the base class.
        out_channels: as the base class.
        kernel_size: as the base class.
        init: `"identity"` or `"uniform"`.
        options: as the base class.
    """

    raw_matrix: Tensor

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

    def reset_parameters(self) -> None:
        """Draw the raw tensors anew, as `init` says."""
        super().reset_parameters()
        if self.init == "identity":
            with torch.no_grad():
                eye = torch.eye(*self.raw_matrix.shape[-2:], device=self.raw_matrix.device)
                self.raw_matrix.copy_(eye)
                for name, raw in self.named_parameters():
                    if name != "raw_matrix":
                        # Bases of their own, of one span: else the roundings of all steps add up.
                        turns = orthonormal_basis(torch.randn_like(raw[..., : raw.shape[-1], :]))
                        raw.copy_(raw[..., :1, :, :].clone() @ turns)

    def embedding_side(self) -> bool | None:
        """Whether the steps act on the outputs."""
        if self.groups > 1 or self.step_rank is not None:
            return None
        folded, outputs = self.channels
        return outputs > folded

    def core_shapes(self) -> dict[str, tuple[int, ...]]:
        """The matrix H, the wider side first."""
        narrow, wide = sorted(self.channels)
        return {"raw_matrix": self.per_group(wide, narrow)}

    def core_size(self) -> tuple[int, ...]:
        """One tap."""
        return (1,) * len(self.kernel_size)

    def core(self) -> Tensor:
        """H as a kernel."""
        rows = self.basis("raw_matrix").mT
        return rows.reshape(*rows.shape, *self.core_size())

    def core_factors(
        self, group: int, places: tuple[int, ...], *, widens: bool
    ) -> list[AbstractFactor]:
        """H, or its transpose."""
        matrix = self.basis("raw_matrix")[group]
        return [Matrix(matrix if widens else matrix.mT)]

    def core_costs(self) -> CoreCosts:
        """One product, and two for its gradients."""
        narrow, wide = sorted(self.channels)
        return CoreCosts(0, 3 * narrow * wide * (1 + _NARROW / wide))

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The matrix H and the bases of the projectors, from the last step to the first."""
        folded, outputs = self.channels
        kernel = weight.double().unflatten(0, (self.groups, outputs))  # (g, o, i, *taps)
        inputs, steps = kernel.shape[2], self.order(self._input_size)
        kernel, before = self._peeled(kernel, steps, (inputs // 2,) * len(steps))
        kernel = polyphase(kernel.flatten(0, 1), self.patch, (1,) * len(self.patch))
        kernel = kernel.unflatten(0, (self.groups, outputs))
        if outputs > folded:
            kernel = kernel.transpose(1, 2)
        kernel, behind = self._peeled(kernel, self.order(self._step_size), self.ranks)
        raws = {"raw_matrix": kernel.flatten(2).mT}  # (g, wide, narrow)
        raws |= {"raw_projectors": torch.stack(behind, 1)} if behind else {}
        raws |= {"raw_input_projectors": torch.stack(before, 1)} if before else {}
        return raws if self.groups > 1 else {name: raw[0] for name, raw in raws.items()}

    def _peeled(
        self, kernel: Tensor, steps: Order, ranks: tuple[int, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        """Kernels `(g, o, i, *taps)` before these steps, and the bases of the projectors."""
        taps, bases = kernel.movedim((1, 2), (-2, -1)), []
        noise = _NOISE * torch.finfo(self.raw_matrix.dtype).eps
        for (turn, axis), rank in zip(reversed(steps), reversed(ranks), strict=True):
            _, frame = last_step(taps, axis, noise)
            # Every second step, [I - P, P], has the complement of P in its first tap.
            first = taps.shape[-1] - rank if turn % 2 else rank
            taps = shrink(taps, frame[..., :first], axis)
            inside = frame.flip(-1) if turn % 2 else frame
            bases.append(inside[..., : max(ranks)])
        return taps.movedim((-2, -1), (1, 2)), bases[::-1]


def products(steps: Order, size: tuple[int, ...]) -> int:
    """Products of matrices in which a kernel of this size grows by these steps."""
    sizes, count = list(size), 0
    for _, axis in steps:
        count += math.prod(sizes)
        sizes[axis] += 1
    return count
