"""When an orthogonal convolution exists, from its sizes alone."""

import math
from typing import Literal

Isometry = Literal["rows", "columns", "both", "neither"]


def effective_stride(stride: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    r"""The stride for which the kernel of a dilated convolution is built, s / gcd(s, dilation).

    Taps t and t' of two windows read the same position where the stride s divides
    :math:`\delta (t - t')`: where :math:`s / \gcd(s, \delta)` divides t - t'. So the conditions on
    the rows are those of a convolution of that stride without dilation.

    Example:
        >>> effective_stride((2, 4, 3), (2, 2, 2))
        (1, 2, 3)
    """
    return tuple(s // math.gcd(s, d) for s, d in zip(stride, dilation, strict=True))


def existing_isometry(
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int = 1,
) -> Isometry:
    r"""What the operator of such a convolution can have orthonormal: rows, columns, both, neither.

    On periodic domains that the stride divides. With the effective stride s' of each axis
    (:func:`effective_stride`) and :math:`e = \min(k, s')`:

    - orthonormal rows exist iff :math:`c_{out} \le c_{in} \prod e` (in each group), since an output
      position reads only so many of the phases of the input;
    - orthonormal columns exist iff :math:`c_{out} \ge c_{in} \prod s`, the stride and the dilation
      have no common divisor, and no kernel is shorter than its stride; else there are positions of
      the input that no output reads.

    Reference:
        Achour, Malgouyres, Mamalet (2022), *Existence, Stability and Scalability of Orthogonal
        Convolutional Neural Networks*, JMLR 23(347), for square kernels without dilation.

    Example:
        >>> existing_isometry(3, 16, (4, 4), (2, 2), (1, 1))
        'columns'
    """
    inputs, outputs = in_channels // groups, out_channels // groups
    built = effective_stride(stride, dilation)
    read = inputs * math.prod(map(min, kernel_size, built))
    reads_all = built == stride and all(k >= s for k, s in zip(kernel_size, stride, strict=True))
    rows = outputs <= read
    columns = reads_all and outputs >= inputs * math.prod(stride)
    if rows and columns:
        return "both"
    return "rows" if rows else "columns" if columns else "neither"


def require_isometry(
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    *,
    dilation: tuple[int, ...],
    groups: int,
) -> None:
    """Refuse sizes for which neither rows nor columns can be orthonormal.

    Raises:
        ValueError: with the numbers that decide it.

    Example:
        >>> require_isometry(2, 8, (2, 2), (3, 3), dilation=(1, 1), groups=1)
        >>> existing_isometry(2, 9, (2, 2), (3, 3), (1, 1))  # refused
        'neither'
    """
    sizes = (in_channels, out_channels, kernel_size, stride, dilation, groups)
    if existing_isometry(*sizes) != "neither":
        return
    inputs, outputs = in_channels // groups, out_channels // groups
    patch = math.prod(map(min, kernel_size, effective_stride(stride, dilation)))
    raise ValueError(
        f"`out_channels` must be at most {inputs * patch}{_each(groups)} for an orthogonal "
        f"convolution (input channels times phases that a window reads, {inputs} * {patch}), since "
        f"with kernel_size={kernel_size}, stride={stride}, dilation={dilation} some positions of "
        f"the input are never read; got {outputs}. taut.AOL has kernels that are 1-Lipschitz."
    )


def refuse_shifts(
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    *,
    groups: int,
) -> None:
    """Refuse kernels of stride 1 from one channel to one, of which only shifts are orthogonal.

    Raises:
        ValueError: if each group has one channel in and out, and several taps that all read it.
    """
    read = in_channels // groups * math.prod(map(min, kernel_size, stride))
    if max(read, out_channels // groups) > 1 or math.prod(kernel_size) == 1:
        return
    allowed = (
        "`groups` must leave more than one channel a group"
        if groups > 1
        else "`in_channels` and `out_channels` must not both be 1"
    )
    raise ValueError(
        f"{allowed} for a kernel of several taps and stride 1 (or one that divides the dilation): "
        "only shifts are orthogonal then, so that nothing could be trained; got channels "
        f"{in_channels} and {out_channels}, groups={groups}, kernel_size={kernel_size}. taut.AOL "
        "has kernels that are 1-Lipschitz."
    )


def _each(groups: int) -> str:
    return " in each group" if groups > 1 else ""
