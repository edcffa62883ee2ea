"""Orthogonal kernels as products of two-tap steps."""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.block import grow, last_step, shrink, step_order
from taut.theory._kernels import orthogonal_taps

# Largest distance of a kernel to the product of its factors, per defect from orthogonality and in
# all; kernels that are no product are further away.
_AMPLIFICATION, _LARGEST_MISS = 1e6, 1e-3
_LOOSE = 1e-4  # defect of matrix and frames


@final
@dataclass(frozen=True, eq=False)
class Factorisation:
    r"""An orthogonal kernel as a product, :math:`K = H * [P_1, I-P_1] * [P_2, I-P_2] * \dots`.

    `*` is block convolution: the symbol is :math:`W(z) = H \prod_i (P_i + (I - P_i) z_{a_i})` with
    step i along the axis :math:`a_i`. The steps have the order of :class:`taut.BCOP`, where axes
    take turns. Where BCOP has a step :math:`[I-P, P]`, the complement of P stands here. Ranks are
    free.

    Attributes:
        matrix: H, orthogonal.
        frames: orthogonal matrices; :math:`P_i` projects on the first `ranks[i]` columns.
        ranks: of the projectors, each in 0, ..., c.
        kernel_size: taps per axis; each axis has one step less.

    Example:
        >>> eye = torch.eye(2)
        >>> Factorisation(eye, eye[None], (1,), (2,)).kernel().tolist()
        [[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]
    """

    matrix: Float[Tensor, "c c"]
    frames: Float[Tensor, "steps c c"]
    ranks: tuple[int, ...]
    kernel_size: tuple[int, ...]

    def __post_init__(self) -> None:
        steps, channels = len(step_order(self.kernel_size)), len(self.matrix)
        if not len(self.ranks) == len(self.frames) == steps:
            raise ValueError(
                f"`frames` and `ranks` must be {steps} each for kernel_size={self.kernel_size}; "
                f"got {len(self.frames)} and {len(self.ranks)}."
            )
        if any(not 0 <= rank <= channels for rank in self.ranks):
            raise ValueError(f"`ranks` must be in 0, ..., {channels}; got {self.ranks}.")
        for name, stack in (("matrix", self.matrix[None]), ("frames", self.frames)):
            defect = stack @ stack.mT - torch.eye(channels, device="cpu").to(stack)
            largest = defect.abs().max().item() if defect.numel() else 0.0
            if not largest <= _LOOSE:
                raise ValueError(f"`{name}` must be orthogonal; got a defect of {largest:.3g}.")

    @property
    def projectors(self) -> Float[Tensor, "steps c c"]:
        """The projectors, multiplied out."""
        pairs = zip(self.frames, self.ranks, strict=True)
        products = [frame[:, :rank] @ frame[:, :rank].mT for frame, rank in pairs]
        return torch.stack(products) if products else self.frames

    def kernel(self) -> Float[Tensor, "c c ..."]:
        """The kernel, `(c, c, *kernel_size)`."""
        axes = len(self.kernel_size)
        taps = self.matrix.reshape(1, *(1,) * axes, *self.matrix.shape)
        steps = step_order(self.kernel_size)
        for (_, axis), frame, rank in zip(steps, self.frames, self.ranks, strict=True):
            taps = grow(taps, frame[None, :, :rank], axis)
        return taps[0].permute(axes, axes + 1, *range(axes))

    def raw_tensors(self) -> dict[str, Tensor]:
        """Raw tensors, to be loaded into `taut.BCOP(c, c, kernel_size)`, with the same kernel.

        Raises:
            ValueError: if the ranks are not those of BCOP: half of the channels.
        """
        channels, bases = len(self.matrix), []
        steps = step_order(self.kernel_size)
        for (turn, axis), frame, rank in zip(steps, self.frames, self.ranks, strict=True):
            half = _bcop_rank(channels, turn)
            if rank != half:
                raise ValueError(
                    f"`ranks` must be half of the channels for BCOP, {half} of {channels} in step "
                    f"{turn} of axis {axis}; got {rank}: embed it into twice the channels "
                    "(taut.theory.embed)."
                )
            bases.append(frame[:, rank:] if turn % 2 else frame[:, :rank])
        projectors = {"raw_projectors": torch.stack(bases)} if bases else {}
        return {"raw_matrix": self.matrix.mT.contiguous(), **projectors}


def _bcop_rank(channels: int, turn: int) -> int:
    """The rank of BCOP's step; of every second one along an axis that of the complement."""
    return channels - channels // 2 if turn % 2 else channels // 2


def factorise(kernel: Tensor) -> Factorisation:
    r"""Factorise an orthogonal kernel into the matrix H and the projectors of its steps.

    Guarantee: the product is the kernel, to a few roundings for almost all; or the kernel is
        refused, where the two differ by over 1e-3 or 1e6 times the defect of the kernel. In one
        axis every orthogonal kernel has factors, but rounding may grow with every step, so that
        kernels of many taps can be refused. The factors are unique where the taps leave no
        direction free, as for almost all kernels of BCOP, in any number of axes. In more axes
        some orthogonal kernels are no such product; these are refused, and so may be products of
        other ranks, where a free direction was not guessed.
    Cost: two SVDs and an eigendecomposition of c channels for each step; in float64.

    Args:
        kernel: `(c, c, *kernel_size)`, orthogonal to 0.01.

    Returns:
        The factors, in the dtype of the kernel.

    Raises:
        ValueError: if the kernel is not square, not finite, not orthogonal, or not the product.

    Reference:
        Kautsky, Turcajova (1994), *A matrix approach to discrete wavelets*, for the factors of
        kernels of one axis; Li et al. (2019), appendix, arXiv:1911.00937. Finding projectors by
        absolute values is ours.

    Example:
        >>> kernel = taut.BCOP(4, 4, (3, 3), dtype=torch.float64).weight()
        >>> torch.allclose(factorise(kernel).kernel(), kernel)
        True
    """
    taps, defect = orthogonal_taps(kernel)
    size, channels = tuple(taps.shape[2:]), len(taps)
    grid = taps.movedim((0, 1), (-2, -1))[None]
    frames, ranks = [], []
    for turn, axis in reversed(step_order(size)):
        values, frame = last_step(grid, axis, defect)
        rank = _rank(values, _bcop_rank(channels, turn))
        grid = shrink(grid, frame[..., :rank], axis)
        frames, ranks = [frame[0], *frames], [rank, *ranks]
    left, _, right = torch.linalg.svd(grid.reshape(channels, channels))
    stack = torch.stack(frames) if frames else taps.new_zeros(0, channels, channels)
    factors = Factorisation(left @ right, stack, tuple(ranks), size)
    missed = torch.linalg.vector_norm(factors.kernel() - taps).item()
    if not missed <= min(_AMPLIFICATION * defect, _LARGEST_MISS):
        raise ValueError(
            "`kernel` must be a product of two-tap steps in the order of taut.BCOP; the product "
            f"that was found is {missed:.3g} off. In more than one axis there are orthogonal "
            "kernels that are none, or whose taps do not determine one."
        )
    return replace(factors, matrix=factors.matrix.to(kernel), frames=stack.to(kernel))


def _rank(values: Tensor, wanted: int) -> int:
    """Rank of the projector of a last step; free directions bring it nearer to that of BCOP."""
    inside, outside = int((values < -1.5).sum()), int((values > 1.5).sum())
    return max(inside, min(wanted, values.numel() - outside))


def embed(factors: Factorisation) -> Factorisation:
    r"""Embed a convolution in twice the channels, where all projectors have half rank.

    :math:`H' = H \oplus H` and :math:`P_i' = P_i \oplus (I - P_i)`, of rank c whatever the ranks.
    The first c output channels of K' are K of the first c input channels,
    :math:`K'(x)_{:c} = K(x_{:c})`; and every K' lies in one component: sign +1, windings (k - 1) c,
    the middle one of 2 c channels.

    Guarantee: exact; to rounding as stored.

    Args:
        factors: of any ranks, any number of axes.

    Returns:
        The factors of K'; its :meth:`Factorisation.raw_tensors` are those of a BCOP layer.

    Reference:
        Li et al. (2019), theorem 2; arXiv:1911.00937.

    Example:
        >>> shift = taut.theory.representative(taut.theory.Component(-1, (4,)), 2, (3,))
        >>> layer = taut.BCOP(4, 4, (3,), dtype=torch.float64)
        >>> layer.load_state_dict(embed(factorise(shift)).raw_tensors())
        <All keys matched successfully>
        >>> torch.allclose(layer.weight()[:2], torch.cat([shift, 0 * shift], 1))
        True
    """
    c = len(factors.matrix)
    frames = factors.frames.new_zeros(len(factors.frames), 2 * c, 2 * c)
    for wide, frame, rank in zip(frames, factors.frames, factors.ranks, strict=True):
        wide[:c, :rank], wide[c:, rank:c] = frame[:, :rank], frame[:, rank:]
        wide[:c, c : 2 * c - rank], wide[c:, 2 * c - rank :] = frame[:, rank:], frame[:, :rank]
    matrix = torch.block_diag(factors.matrix, factors.matrix)
    return Factorisation(matrix, frames, (c,) * len(frames), factors.kernel_size)
