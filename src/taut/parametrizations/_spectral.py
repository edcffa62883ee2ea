"""Parametrizations in the frequency domain: one matrix per frequency of the periodic input."""

import math
from abc import abstractmethod
from collections.abc import Callable
from itertools import product

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from taut._arguments import wholes
from taut._torch_private import constant_when_compiled
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
    factors = [d // math.gcd(n, d) for d, n in zip(dilation, domain, strict=True)]
    known = {frequency: i for i, frequency in enumerate(_half_plane(size)[0])}
    index, mirrored = [], []
    for frequency in _half_plane(domain)[0]:
        axes = list(zip(frequency, factors, size, strict=True))
        here = tuple(f * w % n for w, f, n in axes)
        mirror = tuple(-f * w % n for w, f, n in axes)
        index.append(known[min(here, mirror)])
        mirrored.append(here not in known)
    chosen = symbol.index_select(0, torch.tensor(index, device=symbol.device))
    swapped = torch.tensor(mirrored, device=symbol.device)[:, None, None]
    return torch.where(swapped, chosen.conj(), chosen)


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
    grid, counts = _half_plane(size)
    places = list(product(*(range(-((k - 1) // 2), k // 2 + 1) for k in kernel.shape[2:])))
    places = torch.tensor(places, dtype=torch.long, device="cpu").reshape(len(places), len(size))
    frequencies = torch.tensor(grid, dtype=torch.long, device="cpu").reshape(
        len(grid), 1, len(size)
    )
    domain = torch.tensor(size, dtype=torch.long, device="cpu")
    turns = (frequencies * places % domain).double() / domain  # (f, t, axes), reduced exactly
    angle = 2 * math.pi * turns.sum(2)
    sine = angle.sin() * (torch.tensor(counts, device="cpu") == 2)[:, None]
    taps = kernel.reshape(kernel.shape[0] * kernel.shape[1], -1).T
    symbol = torch.complex(angle.cos().to(kernel) @ taps, sine.to(kernel) @ taps)
    return symbol.unflatten(1, kernel.shape[:2])


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
    _, counts = _half_plane(size)
    own, paired = ([i for i, count in enumerate(counts) if count == n] for n in (1, 2))
    own, paired = (torch.tensor(i, dtype=torch.long, device=symbol.device) for i in (own, paired))
    mapped = function(symbol.index_select(0, own).real) + 0j
    if paired.shape[0]:
        mapped = torch.cat((mapped, function(symbol.index_select(0, paired))))
    return mapped.index_select(0, torch.cat((own, paired)).argsort())


@constant_when_compiled
def _half_plane(size: tuple[int, ...]) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """`half_plane` as plain numbers, which a compiler takes for constants."""
    grid, counts = half_plane(size)
    return tuple(map(tuple, grid.tolist())), tuple(counts.tolist())


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
    grid, _ = _half_plane(size)
    number = {frequency: i for i, frequency in enumerate(grid)}
    # irfftn reads half of the last axis, and sums with e^{+i w t}: of conjugate matrices it gives
    # the conjugate kernel, which is the kernel itself.
    shape = (*size[:-1], size[-1] // 2 + 1)
    half = list(product(*map(range, shape)))
    mirrors = [tuple(-j % n for j, n in zip(w, size, strict=True)) for w in half]
    index = [number[min(w, mirror)] for w, mirror in zip(half, mirrors, strict=True)]
    conjugate = torch.tensor([w in number for w in half], device=symbol.device)
    plane = symbol.index_select(0, torch.tensor(index, device=symbol.device))
    plane = torch.where(conjugate[:, None, None], plane.conj(), plane)
    plane = plane.unflatten(0, shape).movedim((-2, -1), (0, 1))  # (o, i, *shape)
    return torch.fft.irfftn(plane, s=size, dim=tuple(range(2, plane.ndim)))
