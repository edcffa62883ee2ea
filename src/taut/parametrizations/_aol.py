"""AOL: almost orthogonal layers, by a factor for each channel."""

import math
from typing import Any, final

import torch
from torch import Tensor

from taut.linalg.embedding import polyphase
from taut.linalg.rescaling import (
    MOST_AXES,
    gram_taps,
    inverse_roots,
    magnitude,
    moduli,
    weighted_row_sums,
)
from taut.parametrizations._base import MISS, AbstractParametrization

_LARGEST = 8.0
"""Logarithms of the learned q stay below it, so that no ratio of two overflows."""


@final
class AOL(AbstractParametrization):
    r"""1-Lipschitz kernel: a free kernel with each channel rescaled, for any stride and groups.

    With :math:`A_{ij} = \sum_\tau |(K^* K)_{ij, \tau}|` and :math:`T_i = \sum_j A_{ij} q_j / q_i`,
    the kernel :math:`K T^{-1/2}` has norm at most 1 for every q > 0, since :math:`K^* K \preceq T`
    (diagonal dominance). i runs over the input channels and, where the stride is above 1, over the
    phases of the stride. Kernels with fewer outputs than that are rescaled on the side of the
    outputs, by the same lemma for the transpose.

    q is 1, as in the paper, or learned with `learn_scale=True`. Both give the same set of kernels,
    those that a second rescaling leaves unchanged; a learned q changes how training moves in it.

    Guarantee: every singular value of the operator is at most 1, on every input size, with
        circular or zero padding. Orthogonal kernels stay as they are; others become almost
        orthogonal in training at best, so that gradients may shrink.
    Cost: one correlation of the kernel with itself, :math:`c_{in}^2 c_{out} k^{2 d}` products.
    Prefer it where no orthogonal kernel exists, or only shifts are: depthwise convolutions, more
        outputs than a window has inputs and pixels that no window reads (1x1 kernels of stride 2).

    Args:
        in_channels: channels (or features) of the input.
        out_channels: channels (or features) of the output.
        kernel_size: taps per spatial axis, at most 3; `()` for a matrix.
        learn_scale: whether to learn a q, which starts at 1: the exponential of `raw_scale`, kept
            below e^8 by a tanh.
        options: stride, groups, device and dtype, as :class:`AbstractParametrization` has them.

    Raises:
        ValueError: as the base class, or if there are more than 3 axes.

    Reference:
        Prach, Lampert (2022), *Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz
        Networks*, theorem 1 and lemma 2; arXiv:2208.03160. The phases are ours.

    Example:
        >>> kernel = AOL(4, 4, (3, 3), stride=(2, 2), groups=4).weight()
        >>> kernel.shape
        torch.Size([4, 1, 3, 3])
    """

    guarantee = "lipschitz"
    reference = "Prach, Lampert 2022, arXiv:2208.03160, theorem 1"
    raw_kernel: Tensor
    raw_scale: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (),
        *,
        learn_scale: bool = False,
        init: str = "near-identity",
        **options: Any,
    ) -> None:
        if init not in ("near-identity", "identity"):
            raise ValueError(f"`init` must be 'near-identity' or 'identity'; got {init!r}.")
        self.learn_scale, self.init = learn_scale, init
        super().__init__(in_channels, out_channels, kernel_size, **options)

    @property
    def _sizes(self) -> tuple[int, int]:
        """Input channels times phases, and outputs, of a group; the smaller one is rescaled."""
        inputs, outputs = self.in_channels // self.groups, self.out_channels // self.groups
        return inputs * math.prod(self.stride), outputs

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The kernel before it is rescaled, and the logarithms of q if they are learned."""
        per_group = self.in_channels // self.groups
        shapes: dict[str, tuple[int, ...]] = {
            "raw_kernel": (self.out_channels, per_group, *self.kernel_size)
        }
        if self.learn_scale:
            shapes["raw_scale"] = self.per_group(min(self._sizes))
        return shapes

    def check_sizes(self) -> None:
        """Kernels have at most 3 axes."""
        if len(self.kernel_size) > MOST_AXES:
            raise ValueError(f"`kernel_size` must have at most 3 axes; got {self.kernel_size}.")

    def reset_parameters(self) -> None:
        """A raw kernel that copies channels as far as there are any, or one near it; q is 1."""
        noise = 0.0 if self.init == "identity" else 0.1
        with torch.no_grad():
            if self.learn_scale:
                self.raw_scale.zero_()
            raw = self.raw_kernel.normal_(std=noise / math.sqrt(self.raw_kernel[0].numel()))
            outputs = len(raw) // self.groups
            centre = tuple(k // 2 for k in self.kernel_size)
            for group in raw.unflatten(0, (self.groups, outputs)):
                channels = torch.arange(min(group.shape[:2]), device=raw.device)
                group[(channels, channels, *centre)] += 1

    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels // groups, *kernel_size)`."""
        raw = self.raw_kernel / magnitude(self.raw_kernel)
        matrix = self._gram_moduli(raw)
        if not self.learn_scale:
            return self._rescaled(raw, inverse_roots(matrix.sum(2)))
        q = (_LARGEST * torch.tanh(self.raw_scale / _LARGEST)).exp().reshape(self.groups, -1)
        return self._rescaled(raw, inverse_roots(weighted_row_sums(matrix, q)))

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        r"""The kernel K = W D of a weight W that the method can have.

        With :math:`A = \sum_\tau |(W^* W)_\tau|`, the :math:`T_i` of K are :math:`d_i (A d)_i`. So
        K over their roots is W exactly where A d = d, the same on the other side: the sum of the
        Perron vectors of the parts of A, since A has no larger eigenvalue for a weight of AOL.
        """
        # Entries above 1 are those of no 1-Lipschitz kernel; their squares might overflow.
        values, vectors = torch.linalg.eigh(self._gram_moduli(weight.double().clamp(-2, 2)))
        rounded = MISS * torch.finfo(self.raw_kernel.dtype).eps
        largest = vectors * (values > 1 - rounded)[:, None]
        factors = (largest @ largest.sum(1)[..., None])[..., 0]
        raws = {"raw_kernel": self._rescaled(weight.double(), factors)}
        if self.learn_scale:
            raws["raw_scale"] = torch.zeros_like(self.raw_scale)
        return raws

    def _gram_moduli(self, raw: Tensor) -> Tensor:
        """The matrices A of the side that is rescaled: channels and phases, or outputs."""
        phases = polyphase(raw, self.stride, (1,) * len(self.stride))
        kernel = phases.unflatten(0, (self.groups, -1))  # (g, o, i, *taps)
        wide = kernel.shape[1] < kernel.shape[2]
        return moduli(gram_taps(kernel.transpose(1, 2) if wide else kernel))

    def _rescaled(self, raw: Tensor, factors: Tensor) -> Tensor:
        """Multiply by factors (groups, outputs) or (groups, channels and phases)."""
        folded, outputs = self._sizes
        if outputs < folded:
            return raw * factors.reshape(-1, *[1] * (raw.dim() - 1))
        factors = factors.unflatten(1, (-1, *self.stride))
        for axis, (k, s) in enumerate(zip(self.kernel_size, self.stride, strict=True), start=2):
            factors = factors.index_select(axis, torch.arange(k, device=raw.device) % s)
        return (raw.unflatten(0, (self.groups, -1)) * factors[:, None]).flatten(0, 1)
