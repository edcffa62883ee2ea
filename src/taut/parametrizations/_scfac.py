"""SC-Fac: the steps of one axis after those of the other."""

from typing import Any, final

from taut.parametrizations._composed import AbstractStepped, Order


@final
class SCFac(AbstractStepped):
    r"""Orthogonal kernel: an orthogonal matrix times two-tap steps along one axis, then the next.

    .. math:: K = U(H * [P_1, I-P_1] * [I-P_2, P_2] * \dots * [Q_1, I-Q_1] * [I-Q_2, Q_2] * \dots)

    with all P along the first axis, and all Q along the second. :class:`taut.BCOP` has the same
    steps, but its axes take turns; in two axes neither family contains the other. In one axis the
    two are the same, and with `rank` this class has every orthogonal convolution there is: each is
    a product of such steps, of some ranks. Strides, groups, assigning and reversed steps: see
    :class:`taut.BCOP`.

    Guarantee: with circular padding all singular values of the operator are 1 (semi-orthogonal
        where the sizes of input and output differ), for every finite raw tensor; with zero padding
        at most 1. float32: within 1e-5 of 1, none above 1 + 3e-6.
    Cost: that of :class:`taut.BCOP`; for a 3x3 kernel one product less.

    Args:
        in_channels: channels (or features) of the input.
        out_channels: channels (or features) of the output.
        kernel_size: taps per spatial axis; `()` for a matrix.
        rank: of the projectors behind H, from 0 to the channels that they act on (the larger of
            `out_channels` and the channels times the stride along all axes, in each group): one, or
            one for each step in their order. Half of the channels by default, the largest family.
        init: `"identity"` starts as the identity where all ranks are equal, as :class:`taut.BCOP`
            says; `"uniform"` draws H and the projectors uniformly.
        options: stride, groups, device and dtype, as :class:`AbstractParametrization` has them.

    Raises:
        ValueError: as :class:`taut.BCOP`; if `rank` is none of these.

    Reference:
        Su, Byeon, Huang (2022), *Scaling-up Diverse Orthogonal Convolutional Networks with a
        Paraunitary Framework*, arXiv:2106.09121. Between two axes they have an orthogonal matrix M
        as well. With S the steps before it, :math:`H * S * M = (H M) * (M^\top S M)`, where
        :math:`M^\top S M` are steps again: the kernels are the same without M.

    Example:
        >>> kernel = SCFac(8, 4, (3, 3)).weight()
        >>> symbol = torch.fft.fft2(kernel, s=(5, 5)).permute(2, 3, 0, 1)
        >>> s = torch.linalg.svdvals(symbol)
        >>> torch.allclose(s, torch.ones_like(s), atol=1e-5)
        True
    """

    reference = "Su et al. 2022, arXiv:2106.09121"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (),
        *,
        rank: int | tuple[int, ...] | None = None,
        init: str = "identity",
        **options: Any,
    ) -> None:
        self.step_rank = rank
        super().__init__(in_channels, out_channels, kernel_size, init=init, **options)

    def order(self, size: tuple[int, ...]) -> Order:
        """One axis after the other."""
        return [(turn, axis) for axis, k in enumerate(size) for turn in range(k - 1)]
