r"""Circular convolutions by one matrix per frequency: transforms as products with fixed matrices.

All transforms are orthonormal, so that no intermediate result is larger than the input. Of the
first axis only the frequencies :math:`0, \dots, \lfloor n / 2 \rfloor` are computed: the image is
real, so that they determine the others.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taut._torch_private import cached_constants
from taut.linalg.twiddles import fourier_matrix, half_plane

LONGEST = 64
"""Axes up to this length are transformed by matrix products, longer ones by the library's FFT."""


def spectral_product(
    x: Float[Tensor, "b c ..."],
    real: Float[Tensor, "f o i"],
    imag: Float[Tensor, "f o i"],
    size: tuple[int, ...],
    groups: int = 1,
) -> Float[Tensor, "b o ..."]:
    r"""Apply the matrices :math:`Q(\omega)` at the frequencies of images on a periodic domain.

    With the count :math:`n_\omega` of a frequency of the half plane (2 where its mirror image is
    another, else 1) and orthonormal transforms it is :math:`y_j = N^{-1/2} \mathrm{Re}
    \sum_\omega n_\omega Q(\omega) \hat x(\omega) e^{i \omega \cdot j}`.

    Args:
        x: images of this size.
        real: real parts of the matrices, in the order of `half_plane(size)`; `i` is the number of
            channels in a group.
        imag: imaginary parts.
        size: of the periodic domain, one number per axis.
        groups: blocks of channels that do not mix.

    Example:
        >>> x = torch.tensor([[[1.0, 2.0, 4.0]]])
        >>> spectral_product(x, torch.ones(2, 1, 1), torch.zeros(2, 1, 1), (3,)).round(decimals=4)
        tensor([[[1., 2., 4.]]])
    """
    index, counts = _places(size, x.dtype, x.device)
    outputs, inputs = real.shape[1] // groups, real.shape[2]
    z = _transformed(x, size).flatten(2, -2).index_select(2, index)  # (b, c, f, 2)
    z = z.unflatten(1, (groups, inputs)).permute(3, 1, 4, 2, 0).flatten(2, 3)  # (f, g, 2 i, b)
    z = _real_form(real, imag, groups) @ z
    z = z * counts
    z = z.unflatten(2, (2, outputs)).permute(4, 1, 3, 0, 2).flatten(1, 2)  # (b, o, f, 2)
    grid = (size[0] // 2 + 1, *size[1:])
    half = z.new_zeros(*z.shape[:2], math.prod(grid), 2).index_copy(2, index, z)
    return _back(half.unflatten(2, grid), size)


def _real_form(real: Tensor, imag: Tensor, groups: int) -> Tensor:
    """The matrices on (real, imaginary) vectors: (f, g, 2 o, 2 i)."""
    real, imag = (part.unflatten(1, (groups, -1)) for part in (real, imag))
    return torch.cat((torch.cat((real, -imag), 3), torch.cat((imag, real), 3)), 2)


def _transformed(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Half of the frequencies, (b, c, *grid, 2)."""
    n = size[0]
    if n <= LONGEST:
        pairs = x.movedim(2, -1) @ _first_axis(n, x)
        z = pairs.unflatten(-1, (n // 2 + 1, 2)).movedim(-2, 2)
    else:
        z = torch.view_as_real(torch.fft.rfft(x, dim=2, norm="ortho"))
    for axis, n in enumerate(size[1:], start=3):
        z = _along(z, axis, n, inverse=False)
    return z


def _back(z: Tensor, size: tuple[int, ...]) -> Tensor:
    """The real part of the inverse transform of half of the frequencies, the others being zero."""
    for axis, n in enumerate(size[1:], start=3):
        z = _along(z, axis, n, inverse=True)
    n = size[0]
    if n <= LONGEST:
        return (z.movedim(2, -2).flatten(-2) @ _first_axis(n, z).T).movedim(-1, 2)
    wave = torch.view_as_complex(z.contiguous())
    zeros = wave.new_zeros(*wave.shape[:2], n - wave.shape[2], *wave.shape[3:])
    return torch.fft.ifft(torch.cat((wave, zeros), 2), dim=2, norm="ortho").real


def _along(z: Tensor, axis: int, n: int, *, inverse: bool) -> Tensor:
    """The transform of one axis of (real, imaginary) pairs."""
    if n > LONGEST:
        transform = torch.fft.ifft if inverse else torch.fft.fft
        wave = torch.view_as_complex(z.contiguous())
        return torch.view_as_real(transform(wave, dim=axis, norm="ortho"))
    matrix = _pair_matrix(n, z.dtype, z.device)
    pairs = z.movedim(axis, -2).flatten(-2) @ (matrix.T if inverse else matrix)
    return pairs.unflatten(-1, (n, 2)).movedim(-2, axis)


def _first_axis(n: int, like: Tensor) -> Tensor:
    """From real numbers to (real, imaginary) pairs of half of the frequencies."""
    return _pair_matrix(n, like.dtype, like.device)[::2, : 2 * (n // 2 + 1)]


@cached_constants
def _pair_matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """From pairs to pairs: `fourier_matrix`, made orthonormal."""
    return (fourier_matrix(n) / math.sqrt(n)).to(device, dtype)


@cached_constants
def _places(
    size: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Int[Tensor, " f"], Float[Tensor, "f 1 1 1"]]:
    """The half plane: its places in the grid that is computed, and its counts."""
    grid, counts = half_plane(size)
    steps = [math.prod(size[axis + 1 :]) for axis in range(len(size))]
    places = (grid * grid.new_tensor(steps)).sum(1)
    return places.to(device), counts.to(device, dtype)[:, None, None, None]
