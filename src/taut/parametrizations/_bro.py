"""BRO: block reflectors at each frequency."""

from typing import Any, final

import torch
from torch import Tensor, nn

from taut._arguments import whole
from taut.linalg.rates import wide
from taut.linalg.unitary import unitary_basis
from taut.parametrizations._spectral import AbstractSpectral


@final
class BRO(AbstractSpectral):
    r"""Orthogonal kernel of the size of the input: a low-rank reflection at each frequency.

    At each frequency :math:`Q = I - 2 B B^*` with an orthonormal basis B of the symbol of a raw
    kernel of `rank` columns: a Hermitian unitary matrix that reflects the range of B. It is never
    the identity; two equal ones compose to it. Where channels of input and output differ, it is cut
    out of the larger square one.

    Guarantee: orthogonal (semi-orthogonal where channels of input and output differ) on the
        periodic domain of the input, for every finite raw kernel.
    Cost: QR of a matrix (c, rank) at half of the :math:`n^d` frequencies, c the larger number of
        channels, and c^2 products a frequency to apply it. The fewer columns, the fewer parameters.

    Args:
        in_channels: channels (or features) of the input.
        out_channels: channels (or features) of the output.
        kernel_size: taps of the raw kernel; `()` for a matrix.
        rank: columns of the raw kernel, at most the larger number of channels in a group; None
            for half of that.
        options: stride, groups, device and dtype, as :class:`AbstractParametrization` has them.

    Raises:
        ValueError: as the base class; if `rank` is none of these.

    Reference:
        Lai et al. (2025), *Enhancing Certified Robustness via Block Reflector Orthogonal Layers and
        Logit Annealing Loss*; arXiv:2505.15174. A basis in place of its linear system is ours: the
        system loses orthogonality for ill-conditioned kernels.

    Example:
        >>> layer = taut.nn.Conv2d(4, 4, 3, parametrization=BRO, bias=False)
        >>> x = torch.randn(1, 4, 9, 9)
        >>> torch.allclose(layer(layer(x)), x, atol=1e-5)
        True
    """

    guarantee = "orthogonal"
    reference = "Lai et al. 2025, arXiv:2505.15174"
    raw_vectors: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (),
        *,
        rank: int | None = None,
        **options: Any,
    ) -> None:
        # Set before the base class asks for the shapes of the raw tensors.
        self._given_rank = None if rank is None else whole("rank", rank)
        super().__init__(in_channels, out_channels, kernel_size, **options)

    def check_sizes(self) -> None:
        """Refuse ranks above the number of channels, beside what the base class refuses."""
        super().check_sizes()
        if self.rank > self._side:
            raise ValueError(
                f"`rank` must be at most the larger number of channels, {self._side}; got "
                f"{self.rank}."
            )

    @property
    def _side(self) -> int:
        """Channels of the square matrices."""
        return max(self.out_channels // self.groups, self.folded_channels)

    @property
    def rank(self) -> int:
        """Columns of the raw kernel."""
        return max(1, self._side // 2) if self._given_rank is None else self._given_rank

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The kernel whose symbol spans what is reflected."""
        return {"raw_vectors": (self.groups * self._side, self.rank, *self.folded_size)}

    def reset_parameters(self) -> None:
        """Draw the kernel anew, of a normal distribution."""
        nn.init.normal_(self.raw_vectors)

    def symbol(self, size: tuple[int, ...]) -> Tensor:
        """The reflections, cut to the channels."""
        return self.per_frequency(self._reflection, self.raw_vectors, size)

    def _reflection(self, vectors: Tensor) -> Tensor:
        basis = wide(unitary_basis(vectors))
        eye = torch.eye(self._side, dtype=basis.dtype, device=basis.device)
        reflection = (eye - 2 * basis @ basis.mH).to(vectors.dtype)
        return reflection[..., : self.out_channels // self.groups, : self.folded_channels]

    def extra_repr(self) -> str:
        """Sizes and rank."""
        return f"{super().extra_repr()}, rank={self.rank}"
