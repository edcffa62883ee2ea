"""Parametrizations in the frequency domain: one matrix per frequency of the periodic input."""

import math
from abc import abstractmethod
from collections.abc import Callable
from itertools import product

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from taut._arguments import wholes
from taut._torch_private import cached_constants
from taut.linalg.embedding import interleaved
from taut.linalg.twiddles import half_plane
from taut.parametrizations._base import AbstractParametrization


class AbstractSpectral(AbstractParametrization):
    r"""A parametrization whose kernel fills the periodic domain of the input.

    A circular convolution applies one matrix per frequency, its symbol
    :math:`\hat K(\omega) = \sum_t K_t e^{i \omega \cdot t}`. A subclass defines :meth:`symbol` by
    matrices that are orthogonal (or of norm at most 1) at each frequency; the kernel follows. Its
    raw tensors do not depend on the size of the input, its weight does: layers of :mod:`taut.nn`
    ask for the weight with the size of their input. With a stride the symbol is that of the
    convolution on the downsampled input. A matrix (`kernel_size=()`) needs no size. `kernel_size`
    is that of the raw kernel, which says how many parameters there are, not how far the kernel
    reaches.

    Guarantee: on the periodic domain of that size only. On another size, or with zero padding, the
        same kernel may have a norm above 1.
    """

    def check_sizes(self) -> None:
        """Refuse strides that do not divide the kernel size."""
        if any(k % s for k, s in zip(self.kernel_size, self.stride, strict=True)):
            raise ValueError(
                f"`stride` must divide `kernel_size` for {type(self).__name__}; "
                f"got stride={self.stride}, kernel_size={self.kernel_size}."
            )

    @property
    def folded_channels(self) -> int:
        """Input channels of a group after invertible downsampling by the stride."""
        return self.in_channels // self.groups * math.prod(self.stride)

    @property
    def folded_size(self) -> tuple[int, ...]:
        """Kernel size after invertible downsampling by the stride."""
        return tuple(k // s for k, s in zip(self.kernel_size, self.stride, strict=True))

    @abstractmethod
    def symbol(self, size: tuple[int, ...]) -> Complex[Tensor, "f o i"]:
        """Compute the symbol at the frequencies of `taut.linalg.twiddles.half_plane(size)`.

        At frequencies that are their own mirror image the matrices must be real, so that the kernel
        is: see :func:`kernel_symbol` and :func:`map_symbol`.

        Args:
            size: of the domain, after downsampling by the stride.

        Returns:
            Matrices `(out_channels, folded_channels)`, those of the groups one below the other.
        """

    def taps(self, size: tuple[int, ...]) -> Tensor | None:
        """Compute a kernel of few taps with the symbol of this size when dilated by size / taps.

        Of shape `(out_channels, folded_channels, *taps)`, its first tap at the origin; None, the
        default, if the method has none.
        """
        return None

    def per_frequency(
        self, function: Callable[[Tensor], Tensor], kernel: Tensor, size: tuple[int, ...]
    ) -> Complex[Tensor, "f o i"]:
        """A function of the matrix of each group at each frequency, by :func:`map_symbol`.

        Args:
            function: from real or complex matrices, batched, to such matrices.
            kernel: (groups * o, i, *taps), after downsampling by the stride.
            size: of the periodic domain.

        Raises:
            ValueError: for a kernel of less than single precision.
        """
        if kernel.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"`dtype` must be torch.float32 or torch.float64 for {type(self).__name__}, whose "
                f"matrices are complex; got {kernel.dtype}."
            )

        def grouped(symbol: Tensor) -> Tensor:
            return function(symbol.unflatten(1, (self.groups, -1))).flatten(1, 2)

        return map_symbol(grouped, kernel_symbol(kernel, size), size)

    @property
    def raw_kernel_shape(self) -> tuple[int, ...]:
        """Shape of a kernel of `kernel_size` taps, after downsampling by the stride."""
        return (self.out_channels, self.folded_channels, *self.folded_size)

    def weight(self, size: tuple[int, ...] | None = None) -> Tensor:
        """Compute the kernel for inputs of a spatial size, `(out_channels, in_channels, *size)`.

        Raises:
            ValueError: if `size` is missing, or not a multiple of the stride.
        """
        if size is None and self.kernel_size:
            raise ValueError(
                f"`size` must be the spatial size of the input, which the kernel of "
                f"{type(self).__name__} fills; got None. A layer passes it in its forward; use "
                "layer.kernel(size) in place of layer.weight."
            )
        size = wholes("size", size or (), len(self.kernel_size))
        if any(n % s for n, s in zip(size, self.stride, strict=True)):
            raise ValueError(
                f"`size` must be a multiple of `stride`; got size={size}, stride={self.stride}."
            )
        size = tuple(n // s for n, s in zip(size, self.stride, strict=True))
        return interleaved(kernel_of_symbol(self.symbol(size), size), self.stride)


class AbstractKernelSpectral(AbstractSpectral):
    """A spectral method of a raw kernel alone, which starts near one that copies channels."""

    guarantee = "orthogonal"
    raw_kernel: Tensor

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The raw kernel."""
        return {"raw_kernel": self.raw_kernel_shape}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the raw kernel anew: delta plus noise, as far as there are channels to copy."""
        kernel = self.raw_kernel
        nn.init.normal_(kernel, std=0.1 / math.sqrt(kernel[0].numel()))
        origin = tuple((k - 1) // 2 for k in kernel.shape[2:])
        for group in kernel.unflatten(0, (self.groups, -1)):
            for channel in range(min(group.shape[:2])):
                group[(channel, channel, *origin)] += 1


def dilated_symbol(
    symbol: Complex[Tensor, "f o i"],
    size: tuple[int, ...],
    dilation: tuple[int, ...],
    domain: tuple[int, ...],
) -> Complex[Tensor, "f2 o i"]:
    r"""The symbol of a dilated kernel, :math:`\hat K(\delta \omega)`, on a larger periodic domain.

    Only every :math:`\gcd(n, \delta)`-th frequency of a domain of n positions occurs: those of a
    domain of :math:`n / \gcd(n, \delta)` positions.

    Args:
        symbol: on `half_plane(size)`.
        size: `domain / gcd(domain, dilation)`, per axis.
        dilation: distance of the taps, per axis.
        domain: size of the larger domain.

    Example:
        >>> symbol = kernel_symbol(torch.tensor([[[0.0, 1.0, 1.0]]]), (2,))
        >>> dilated_symbol(symbol, (2,), (2,), (4,)).flatten()  # of x_j + x_{j+2}
        tensor([2.+0.j, 0.+0.j, 2.+0.j])
    """
    if size == domain and all(d == 1 for d in dilation):
        return symbol
    index, mirrored = _dilated_places(size, dilation, domain, symbol.device)
    chosen = symbol.index_select(0, index)
    return torch.where(mirrored, chosen.conj(), chosen)


@cached_constants
def _dilated_places(
    size: tuple[int, ...],
    dilation: tuple[int, ...],
    domain: tuple[int, ...],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Where the frequencies of the larger domain are among those of the smaller, or mirrored."""
    factors = [d // math.gcd(n, d) for d, n in zip(dilation, domain, strict=True)]
    known = _numbers(size)
    index, mirrored = [], []
    for frequency in _numbers(domain):
        axes = list(zip(frequency, factors, size, strict=True))
        here = tuple(f * w % n for w, f, n in axes)
        mirror = tuple(-f * w % n for w, f, n in axes)
        index.append(known[min(here, mirror)])
        mirrored.append(here not in known)
    return (
        torch.tensor(index, device=device),
        torch.tensor(mirrored, device=device)[:, None, None],
    )


def kernel_symbol(
    kernel: Float[Tensor, "o i ..."], size: tuple[int, ...]
) -> Complex[Tensor, "f o i"]:
    """The symbol of a kernel of a few taps, its middle tap at the origin, on half the frequencies.

    Differentiable; taps beyond the domain wrap round.

    Args:
        kernel: (o, i, *taps).
        size: of the periodic domain.

    Returns:
        One matrix per frequency of `half_plane(size)`; real at frequencies that mirror themselves.

    Example:
        >>> kernel_symbol(torch.tensor([[[0.0, 1.0, 1.0]]]), (2,)).flatten()
        tensor([2.+0.j, 0.+0.j])
    """
    cos, sin = _waves(tuple(kernel.shape[2:]), size, kernel.dtype, kernel.device)
    taps = kernel.reshape(kernel.shape[0] * kernel.shape[1], -1).T
    return torch.complex(cos @ taps, sin @ taps).unflatten(1, kernel.shape[:2])


@cached_constants
def _waves(
    taps: tuple[int, ...], size: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "f t"], Float[Tensor, "f t"]]:
    """Cosines and sines by frequency and tap; no sine at frequencies that mirror themselves."""
    grid, counts = half_plane(size)
    places = list(product(*(range(-((k - 1) // 2), k // 2 + 1) for k in taps)))
    places = torch.tensor(places, dtype=torch.long, device="cpu").reshape(len(places), len(size))
    domain = torch.tensor(size, dtype=torch.long, device="cpu")
    turns = (grid[:, None] * places % domain).double() / domain  # (f, t, axes), reduced exactly
    angle = 2 * math.pi * turns.sum(2)
    waves = angle.cos(), angle.sin() * (counts == 2)[:, None]
    return waves[0].to(device, dtype), waves[1].to(device, dtype)


def map_symbol(
    function: Callable[[Tensor], Tensor], symbol: Complex[Tensor, "f o i"], size: tuple[int, ...]
) -> Complex[Tensor, "f o2 i2"]:
    r"""Apply a function of matrices at each frequency, in real arithmetic where the symbol is real.

    Complex arithmetic may leave the real matrices by rounding: an orthonormal basis of a
    rank-deficient matrix is completed by arbitrary vectors, and the real part of a unitary matrix
    is not unitary.

    Args:
        function: from real or complex matrices, batched, to such matrices.
        symbol: on `half_plane(size)`.
        size: of the periodic domain.

    Example:
        >>> symbol = kernel_symbol(torch.tensor([[[1.0, 0.0, 3.0]]]), (4,))
        >>> map_symbol(torch.sgn, symbol, (4,)).real.flatten().round()
        tensor([ 1.,  0., -1.])
    """
    own, paired, order = _real_and_paired(size, symbol.device)
    mapped = function(symbol.index_select(0, own).real) + 0j
    if paired.shape[0]:
        mapped = torch.cat((mapped, function(symbol.index_select(0, paired))))
    return mapped.index_select(0, order)


@cached_constants
def _real_and_paired(
    size: tuple[int, ...], device: torch.device
) -> tuple[Int[Tensor, " r"], Int[Tensor, " p"], Int[Tensor, " f"]]:
    """Which frequencies mirror themselves, which others, and the order of both together."""
    counts = half_plane(size)[1]
    own, paired = ((counts == n).nonzero()[:, 0] for n in (1, 2))
    return own.to(device), paired.to(device), torch.cat((own, paired)).argsort().to(device)


def kernel_of_symbol(symbol: Complex[Tensor, "f o i"], size: tuple[int, ...]) -> Tensor:
    r"""The real kernel of a symbol, as many taps as places, the first one at the origin.

    :math:`K_t = N^{-1} \sum_\omega \hat K(\omega) e^{-i \omega \cdot t}`.

    Args:
        symbol: on `half_plane(size)`.
        size: of the periodic domain.

    Example:
        >>> kernel_of_symbol(torch.tensor([[[2.0 + 0j]], [[0j]]]), (2,))
        tensor([[[1., 1.]]])
    """
    if not size:
        return symbol[0].real
    # irfftn reads half of the last axis, and sums with e^{+i w t}: of conjugate matrices it gives
    # the conjugate kernel, which is the kernel itself.
    shape = (*size[:-1], size[-1] // 2 + 1)
    index, conjugate = _half_of_last_axis(size, symbol.device)
    plane = symbol.index_select(0, index)
    plane = torch.where(conjugate, plane.conj(), plane)
    plane = plane.unflatten(0, shape).movedim((-2, -1), (0, 1))  # (o, i, *shape)
    return torch.fft.irfftn(plane, s=size, dim=tuple(range(2, plane.ndim)))


@cached_constants
def _half_of_last_axis(size: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the frequencies that irfftn reads are in `half_plane`, and which it has itself."""
    known = _numbers(size)
    half = list(product(*map(range, (*size[:-1], size[-1] // 2 + 1))))
    mirrors = [tuple(-j % n for j, n in zip(w, size, strict=True)) for w in half]
    index = [known[min(w, mirror)] for w, mirror in zip(half, mirrors, strict=True)]
    conjugate = torch.tensor([w in known for w in half], device=device)
    return torch.tensor(index, device=device), conjugate[:, None, None]


def _numbers(size: tuple[int, ...]) -> dict[tuple[int, ...], int]:
    """The frequencies of `half_plane(size)`, with their numbers in it."""
    return {tuple(frequency): i for i, frequency in enumerate(half_plane(size)[0].tolist())}
