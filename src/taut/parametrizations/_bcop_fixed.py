"""BCOP-Fixed: an orthogonal convolution that is drawn once and never trained."""

from typing import Any, final

import torch
from torch import Tensor

from taut.linalg.embedding import polyphase
from taut.linalg.gram import gram_kernel
from taut.parametrizations._base import MISS, AbstractParametrization
from taut.parametrizations._bcop import BCOP
from taut.parametrizations._orthogonal import Orthogonal


@final
class BCOPFixed(AbstractParametrization):
    r"""Orthogonal kernel drawn as a random BCOP kernel and never trained: a baseline.

    The kernel is a buffer, not a parameter: optimisers do not see it, distributed training does not
    wait for its gradient, and checkpoints contain it. Any orthogonal kernel may be assigned. It
    is kept as it is, off by up to 1e-4 in float32; bounds count that.

    Guarantee: that of :class:`taut.BCOP`, for the kernel as drawn: with circular padding all
        singular values of the operator are 1 (semi-orthogonal where the channel counts differ).
    Cost: nothing per read.

    Reference:
        Li et al. (2019), arXiv:1911.00937, table 7, "BCOP-Fixed".

    Example:
        >>> list(BCOPFixed(2, 2, (3, 3)).parameters())
        []
    """

    guarantee = "orthogonal"
    reference = "Li et al. 2019, arXiv:1911.00937, table 7"
    kernel: Tensor

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """Empty: nothing is trained."""
        return {}

    def buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        """The kernel."""
        inputs = self.in_channels // self.groups
        return {"kernel": (self.out_channels, inputs, *self.kernel_size)}

    def check_sizes(self) -> None:
        """Refuse what BCOP refuses, before there is any tensor."""
        self._drawn(device="meta")

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the kernel anew."""
        options = {"device": self.kernel.device, "dtype": self.kernel.dtype}
        self.kernel.copy_(self._drawn(**options).weight())

    def _drawn(self, **options: Any) -> BCOP:
        """A fresh BCOP of these sizes."""
        sizes = self.in_channels, self.out_channels, self.kernel_size
        return BCOP(*sizes, init="uniform", stride=self.stride, groups=self.groups, **options)

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """Any orthogonal kernel; it need not be one of BCOP.

        Raises:
            ValueError: if rows or columns, whichever are fewer, are not orthonormal to the
                precision of the layer: for its stride, on every input size.
        """
        kernel = weight.to(self.kernel)
        phases = polyphase(kernel.double(), self.stride, (1,) * len(self.stride))
        gram = gram_kernel(phases.unflatten(0, (self.groups, -1)))
        defect = float(gram.shifted(torch.ones_like(gram.error)).grams.abs().max())
        if not defect <= MISS * torch.finfo(kernel.dtype).eps:  # NaN fails, too
            raise ValueError(
                "`weight` must be orthogonal: an inner product of shifted rows (or columns, if "
                f"they are fewer) is off by {defect:.3g}."
            )
        return {"kernel": kernel}

    @classmethod
    def dense_as(cls) -> type[AbstractParametrization]:
        """:class:`taut.Orthogonal`, which models train as ever."""
        return Orthogonal

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels, *kernel_size)`."""
        # A copy, so that writing to a weight does not change the kernel.
        return self.kernel.clone()
