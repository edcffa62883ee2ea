"""Matrix products by the fastest route of the device."""

import torch
from jaxtyping import Float
from torch import Tensor

from taut._torch_private import inside_transform, onednn_product
from taut.linalg.derivatives import applied, keep
from taut.linalg.precision import exact_products, rounds_products

# Below this many multiplications the call costs more than the product.
_LARGE = 1 << 20
# Sums over more rows than this, and than a quarter of all, are added up in float64.
_PART = 256
# Products that pass on their rounding are summed in parts of this inner size.
_INNER = 64
# Only the blocks on and below the diagonal of a Gram matrix are computed.
_BLOCK = 128
# Triangular factors of at least this size are multiplied in two blocks.
_TRIANGULAR = 512
# Rows of tall results that are computed together.
_ROWS = 1024


def product(a: Float[Tensor, "*b m k"], b: Float[Tensor, "*b k n"]) -> Float[Tensor, "*b m n"]:
    """The matrix product `a @ b` without a gradient, equal up to the order of summation.

    On a CPU, large float32 products go through oneDNN: its matrix product is the faster one on
    processors that MKL does not favour. Where torch may round float32 factors, to TF32 or bfloat16,
    it is told not to.
    """
    if _rounded(a):
        if torch.compiler.is_compiling():  # settings of the process stay as they are
            return (a.double() @ b.double()).to(a.dtype)
        with exact_products(a.device):
            return _plain(a, b)
    if torch.compiler.is_compiling() and _is_large(a, b.shape[-1]):
        return torch.ops.taut.product(a, b)
    if not uses_onednn(a, b.shape[-1]):
        return _plain(a, b)
    if a.ndim == 2:
        # Other strides fall into a slow reference loop.
        rows = a.stride(1) == 1 and a.stride(0) >= a.shape[1]
        return onednn_product(a if rows else a.contiguous(), b.mT.contiguous())
    if len(a) == 1:
        return product(a[0], b[0])[None]
    return torch.stack([product(left, right) for left, right in zip(a, b, strict=True)])


def matmul(a: Float[Tensor, "*b m k"], b: Float[Tensor, "*b k n"]) -> Float[Tensor, "*b m n"]:
    """The matrix product `a @ b`, differentiable any number of times, all through :func:`product`.

    Large float32 products on a CPU are summed in parts, so that fewer roundings meet in an entry.
    """
    if a.ndim == b.ndim == 3 and len(a) == len(b) == 1:
        return matmul(a[0], b[0])[None]
    special = uses_onednn(a, b.shape[-1]) or _rounded(a)
    return applied(_Matmul, a, b) if special else _plain(a, b)


def _plain(a: Tensor, b: Tensor) -> Tensor:
    """The product `a @ b` by torch; of stacks in one call, where `@` takes six."""
    return torch.bmm(a, b) if a.ndim == b.ndim == 3 and len(a) == len(b) else a @ b


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        if not uses_onednn(a, b.shape[-1]):
            return product(a, b)
        pairs = zip(a.split(_INNER, -1), b.split(_INNER, -2), strict=True)
        total = product(*next(pairs))
        for left, right in pairs:
            total.add_(product(left, right))
        return total

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        keep(ctx, *inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        a, b = ctx.saved_tensors
        times = matmul if torch.is_grad_enabled() else product
        return times(grad, b.mT), times(a.mT, grad)

    @staticmethod
    def tangent(ctx, *tangents: Tensor | None) -> Tensor:
        (a, b), (of_a, of_b) = ctx.saved_tensors, tangents
        parts = [] if of_a is None else [matmul(of_a, b)]
        parts += [] if of_b is None else [matmul(a, of_b)]
        return sum(parts[1:], parts[0])


def difference_of_products(
    a: Float[Tensor, "m k"],
    b: Float[Tensor, "k n"],
    c: Float[Tensor, "m l"],
    d: Float[Tensor, "l n"],
) -> Float[Tensor, "m n"]:
    """The difference `a @ b - c @ d` without a gradient, in parts that stay in the cache."""
    b, d = b.mT.contiguous().mT, d.mT.contiguous().mT
    if len(a) <= _ROWS:
        return product(a, b).sub_(product(c, d))
    result = a.new_empty(len(a), b.shape[-1])
    for rows, left, right in zip(*(t.split(_ROWS) for t in (result, a, c)), strict=True):
        torch.sub(product(left, b), product(right, d), out=rows)
    return result


def congruence(upper: Float[Tensor, "n n"], lower: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    r""":math:`U (L + L^\top) U^\top` of triangular matrices, without a gradient.

    Large ones are multiplied in two blocks, without those that are zero: 10 of 16 multiplications.
    """
    size, cut = upper.shape[-1], upper.shape[-1] // 2
    if size < _TRIANGULAR:
        half = product(upper, product(upper, lower.mT).mT)
        return half + half.mT
    both = torch.zeros_like(lower)  # U L^T, an upper triangle
    both[:cut, :cut] = product(upper[:cut, :cut], lower[:cut, :cut].mT)
    both[:cut, cut:] = product(upper[:cut], lower[cut:].mT)
    both[cut:, cut:] = product(upper[cut:, cut:], lower[cut:, cut:].mT)
    half = torch.empty_like(lower)
    half[:cut] = product(upper[:cut], both.mT)
    half[cut:] = product(upper[cut:, cut:], both[:, cut:].mT)
    return half + half.mT


def gram(a: Float[Tensor, "m n"]) -> Float[Tensor, "n n"]:
    r"""The lower triangle of :math:`A^\top A` of a float32 matrix on a CPU, in float64.

    It is within a few roundings of the largest entry, however many rows there are; the diagonal,
    which has no cancellation to keep its partial sums small, within one. Little more than half of
    the multiplications of a product.
    """
    columns = a.shape[-1]
    total = a.new_zeros(columns, columns, dtype=torch.float64)
    squares = a.new_zeros(columns, dtype=torch.float64)
    # The rounding depends on the share of the rows that a part has.
    for part in a.split(max(_PART, a.shape[0] // 4)):
        rows = part.mT.contiguous()
        squares += rows.square().sum(1)  # in a tree, where a product adds one after the other
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            total[start:stop, :stop] += onednn_product(rows[start:stop], rows[:stop])
    total.diagonal().copy_(squares)
    return total


# An operation of torch: Inductor would call MKL, and does not take the operation of oneDNN.
_LIBRARY = torch.library.Library("taut", "FRAGMENT")
_LIBRARY.define("product(Tensor a, Tensor b) -> Tensor")
_LIBRARY.impl("product", product, "CPU")


@torch.library.register_fake("taut::product", lib=_LIBRARY)
def _fake_product(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty((*a.shape[:-1], b.shape[-1]))


def _is_large(a: Tensor, columns: int) -> bool:
    """Whether a product with `columns` columns is one of large float32 matrices on a CPU."""
    large = a.shape[-2] * a.shape[-1] * columns >= _LARGE
    return a.device.type == "cpu" and a.dtype == torch.float32 and large


def uses_onednn(a: Tensor, columns: int) -> bool:
    """Whether a product with `columns` columns goes through oneDNN."""
    return (
        _is_large(a, columns)
        and not torch.compiler.is_compiling()  # see `product`
        and torch.backends.mkldnn.is_available()
        and not inside_transform()  # the operation has no rule for torch.func.vmap
    )


def _rounded(a: Tensor) -> bool:
    """Whether torch may round the float32 matrix `a` before it multiplies."""
    return a.dtype == torch.float32 and rounds_products(a.device)
