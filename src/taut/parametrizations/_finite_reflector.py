"""Block reflectors as kernels of finite size."""

import math
from typing import Any, final

from torch import Tensor

from taut._arguments import whole
from taut.linalg.block import reflector, step_order
from taut.linalg.factored import AbstractFactor, Adjoint, Channels, Reflection
from taut.parametrizations._composed import AbstractComposed, CoreCosts, Order, products


@final
class FiniteReflector(AbstractComposed):
    r"""Orthogonal kernel: a block reflector built from a thin orthogonal kernel.

    The kernel is :math:`K = \delta - 2 V * V^\top`, where V is an orthogonal kernel from `rank`
    channels to c, made as in :class:`taut.BCOP`, of :math:`\lceil k / 2 \rceil` taps an axis. K is
    symmetric and its own inverse, with `rank` eigenvalues -1 at each frequency. It is the reflector
    of BRO (Lai et al., 2025) without a Fourier transform: of finite size, for inputs of every size.

    *Other sizes.* Rows or columns are dropped if there are more inputs or outputs. A stride s works
    on the channels of its patches, with :math:`\lfloor k/s \rfloor` taps. Of an even number of taps
    the reflector has one less, and a two-tap step follows it; :math:`k \bmod s` steps act on the
    channels of the input, as in :class:`taut.BCOP`. Each group has a kernel of its own.

    Guarantee: with circular padding all singular values of the operator are 1 (semi-orthogonal
        where the sizes of input and output differ), for every finite raw tensor; with zero padding
        at most 1. float32: within 1e-5 of 1, none above 1 + 3e-6.
    Cost: for a 3x3 kernel of stride 1 three products of `(rank, c)` with `(c, c)`, one of
        `(4 c, rank)` with its transpose, and the bases of two `(c, c / 2)` raw tensors and of one
        `(c, rank)`. Layers with many channels and positions form no kernel: with
        :math:`x - 2 V (V^\top x)` they take `8 c rank` multiplications per position, not `9 c^2`.

    Args:
        in_channels: channels (or features) of the input.
        out_channels: channels (or features) of the output.
        kernel_size: taps per spatial axis; `()` for a matrix, a reflector by a `(c, rank)` basis.
        rank: channels of the input of V, from 1 to c, the larger of `out_channels` and the channels
            times the stride along all axes, in each group; c / 2 by default.
        options: stride, groups, device and dtype, as :class:`AbstractParametrization` has them.

    Raises:
        ValueError: as :class:`taut.BCOP`; if `rank` is not from 1 to c.

    Reference:
        Ours. BRO: Lai et al. (2025), *Enhancing Certified Robustness via Block Reflector Orthogonal
        Layers and Logit Annealing Loss*, arXiv:2505.15174.

    Example:
        >>> kernel = FiniteReflector(4, 4, (3, 3), dtype=torch.float64).weight()
        >>> torch.allclose(kernel, kernel.transpose(0, 1).flip(2, 3))
        True
        >>> s = torch.linalg.svdvals(torch.fft.fft2(kernel, s=(5, 5)).permute(2, 3, 0, 1))
        >>> torch.allclose(s, torch.ones_like(s))
        True
    """

    reference = "block reflector of finite kernels, after Lai et al. 2025, arXiv:2505.15174"
    raw_basis: Tensor
    raw_inner_projectors: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (),
        *,
        rank: int | None = None,
        **options: Any,
    ) -> None:
        self._rank = None if rank is None else whole("rank", rank)
        super().__init__(in_channels, out_channels, kernel_size, **options)

    @property
    def rank(self) -> int:
        """Eigenvalues -1 at each frequency."""
        return max(1, max(self.channels) // 2) if self._rank is None else self._rank

    @property
    def _half_size(self) -> tuple[int, ...]:
        """Taps of V."""
        return tuple((m + 1) // 2 for m in self.folded_size)

    def order(self, size: tuple[int, ...]) -> Order:
        """The axes take turns."""
        return step_order(size)

    def core_size(self) -> tuple[int, ...]:
        """The largest odd number of taps."""
        return tuple(2 * h - 1 for h in self._half_size)

    def core_shapes(self) -> dict[str, tuple[int, ...]]:
        """The orthogonal matrix of V, and the bases of its projectors."""
        wide = max(self.channels)
        if self.rank > wide:
            raise ValueError(f"`rank` must be at most {wide}, the channels; got {self.rank}.")
        shapes = {"raw_basis": self.per_group(wide, self.rank)}
        if steps := len(self.order(self._half_size)):
            shapes["raw_inner_projectors"] = self.per_group(steps, wide, wide // 2)
        return shapes

    def _thin(self) -> Tensor:
        r"""The kernel of :math:`V^\top`, `(g, rank, wide, *taps)`."""
        rows = self.basis("raw_basis").mT
        rows = rows.reshape(*rows.shape, *(1,) * len(self.kernel_size))
        return self.after(rows, "raw_inner_projectors", self._half_size)

    def core(self) -> Tensor:
        """The first rows of the reflector."""
        return reflector(self._thin())[:, : min(self.channels)]

    def core_factors(
        self, group: int, places: tuple[int, ...], *, widens: bool
    ) -> list[AbstractFactor]:
        """The reflector, and the choice of channels."""
        narrow, wide = sorted(self.channels)
        thin, chosen = self._thin()[group], Channels(wide, narrow)
        if not widens:
            return [Reflection(thin, places), *([chosen] if narrow < wide else [])]
        # The transposed taps of a symmetric kernel are its taps in the opposite order.
        return [Adjoint(chosen), Reflection(thin.flip(list(range(2, thin.dim()))), places)]

    def core_costs(self) -> CoreCosts:
        """V and its product with the transpose; two convolutions, and their gradients."""
        wide, taps = max(self.channels), math.prod(self._half_size)
        ones = (1,) * len(self.kernel_size)
        grown = self.rank * wide * wide * products(self.order(self._half_size), ones)
        return CoreCosts(grown + self.rank * (wide * taps) ** 2, 6 * self.rank * wide * taps)
