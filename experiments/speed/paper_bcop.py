"""The paper's own algorithm, as a contender to time taut against; written from its description.

    python -m experiments.speed --contender experiments/speed/paper_bcop.py

Li et al. (2019), arXiv:1911.00937: projectors P = R Rᵀ with R from 20 Björck steps of order 1, 2x2
blocks [[PQ, P(I-Q)], [(I-P)Q, (I-P)(I-Q)]] multiplied out by block convolution, and an orthogonal
matrix H, cut where the channel counts differ. Strides are invertible downsampling; padding is
circular. `taut.BCOP` has the same kernel for the same projectors.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "paper"
_STEPS = 20
_POWER_STEPS = 10


class PaperConv(nn.Module):
    """Downsampling by the stride, then a convolution whose kernel is computed in each forward."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        if kernel % stride:
            raise ValueError(f"the stride must divide the kernel size; got {stride}, {kernel}")
        self.stride, self.size = stride, kernel // stride
        self.narrow, self.wide = sorted((inputs * stride**2, outputs))
        self.expands = outputs > inputs * stride**2
        pairs = 2 * (self.size - 1)
        self.raw_matrix = nn.Parameter(torch.empty(self.wide, self.wide))
        self.raw_projectors = nn.Parameter(torch.empty(pairs, self.wide, self.wide // 2))
        for raw in (self.raw_matrix, *self.raw_projectors):
            nn.init.orthogonal_(raw)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def kernel(self) -> Tensor:
        """(outputs, inputs * stride^2, size, size)."""
        bases = bjorck(self.raw_projectors) if len(self.raw_projectors) else ()
        projectors = [basis @ basis.mT for basis in bases]
        identity = torch.eye(self.wide, device=self.bias.device)
        taps = [[identity]]
        for p, q in zip(projectors[::2], projectors[1::2], strict=True):
            taps = block_convolution(taps, two_by_two(p, q))
        matrix = bjorck(self.raw_matrix)[: self.narrow]
        rows = [torch.stack([matrix @ tap for tap in row]) for row in taps]
        kernel = torch.stack(rows).permute(2, 3, 0, 1)
        return kernel.transpose(0, 1) if self.expands else kernel

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(x, self.stride)
        left = (self.size - 1) // 2
        right = self.size - 1 - left
        if self.size > 1:
            x = F.pad(x, (left, right, left, right), mode="circular")
        return F.conv2d(x, self.kernel(), self.bias)


class PaperLinear(nn.Module):
    """A dense layer with a matrix orthonormalised in each forward."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.raw_matrix = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.orthogonal_(self.raw_matrix)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, bjorck(self.raw_matrix), self.bias)


conv, linear = PaperConv, PaperLinear


def bjorck(a: Tensor) -> Tensor:
    """The orthogonal factor of each matrix by 20 steps W <- 1.5 W - 0.5 W Wᵀ W."""
    w = a / _spectral_norm_estimate(a)
    for _ in range(_STEPS):
        tall = w.shape[-2] >= w.shape[-1]
        cubed = w @ (w.mT @ w) if tall else (w @ w.mT) @ w
        w = 1.5 * w - 0.5 * cubed
    return w


def two_by_two(p: Tensor, q: Tensor) -> list[list[Tensor]]:
    """The 2x2 block convolution of two projectors: rows by P, columns by Q."""
    identity = torch.eye(p.shape[-1], device=p.device)
    return [[a @ b for b in (q, identity - q)] for a in (p, identity - p)]


def block_convolution(a: list[list[Tensor]], b: list[list[Tensor]]) -> list[list[Tensor]]:
    """Convolution of kernels whose taps are matrices, each product of two taps a matrix product."""
    size = len(a) + len(b) - 1
    taps: list[list[list[Tensor]]] = [[[] for _ in range(size)] for _ in range(size)]
    for i, row in enumerate(a):
        for j, left in enumerate(row):
            for k, others in enumerate(b):
                for m, right in enumerate(others):
                    taps[i + k][j + m].append(left @ right)
    return [[torch.stack(terms).sum(0) for terms in row] for row in taps]


@torch.no_grad()
def _spectral_norm_estimate(a: Tensor) -> Tensor:
    """By power iteration. Björck converges from norms up to sqrt(3): it need not be exact."""
    generator = torch.Generator(a.device).manual_seed(0)
    v = torch.randn(*a.shape[:-2], a.shape[-1], 1, generator=generator, device=a.device)
    for _ in range(_POWER_STEPS):
        v = F.normalize(a.mT @ (a @ v), dim=-2)
    return (a @ v).norm(dim=-2, keepdim=True)
