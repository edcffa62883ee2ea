"""Matrix products by the fastest route of the device."""

import torch
from jaxtyping import Float
from torch import Tensor

from taut._torch_private import inside_transform, onednn_product
from taut.linalg.precision import exact_products, rounds_products

# Below this many multiplications the call costs more than the product.
_LARGE = 1 << 20
# Sums over more rows than this, and than a quarter of all, are added up in float64.
_PART = 256
# Products that pass on their rounding are summed in parts of this inner size.
_INNER = 64
# Only the blocks on and below the diagonal of a Gram matrix are computed.
_BLOCK = 256


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
            return a @ b
    if not uses_onednn(a, b.shape[-1]):
        return a @ b
    if a.ndim == 2:
        # Other strides fall into a slow reference loop.
        return onednn_product(a.contiguous(), b.mT.contiguous())
    if len(a) == 1:
        return product(a[0], b[0])[None]
    return torch.stack([product(left, right) for left, right in zip(a, b, strict=True)])


def matmul(a: Float[Tensor, "*b m k"], b: Float[Tensor, "*b k n"]) -> Float[Tensor, "*b m n"]:
    """The matrix product `a @ b`, differentiable any number of times, all through :func:`product`.

    Large float32 products on a CPU are summed in parts, so that fewer roundings meet in an entry.
    """
    special = uses_onednn(a, b.shape[-1]) or _rounded(a)
    return _Matmul.apply(a, b) if special else a @ b  # pyright: ignore[reportReturnType]


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
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        a, b = ctx.saved_tensors
        times = matmul if torch.is_grad_enabled() else product
        return times(grad, b.mT), times(a.mT, grad)


def gram(a: Float[Tensor, "m n"]) -> Float[Tensor, "n n"]:
    r"""The lower triangle of :math:`A^\top A` of a float32 matrix on a CPU, in float64.

    It is within a few float32 roundings of the largest entry, however many rows there are; the
    diagonal, which has no cancellation to keep its partial sums small, within less than one.
    Half of the multiplications of a product.
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


def uses_onednn(a: Tensor, columns: int) -> bool:
    """Whether a product with `columns` columns goes through oneDNN."""
    return (
        a.device.type == "cpu"
        and a.dtype == torch.float32
        and a.shape[-2] * a.shape[-1] * columns >= _LARGE
        and not torch.compiler.is_compiling()  # Inductor chooses for itself
        and torch.backends.mkldnn.is_available()
        and not inside_transform()  # the operation has no rule for torch.func.vmap
    )


def _rounded(a: Tensor) -> bool:
    """Whether torch may round the float32 matrix `a` before it multiplies."""
    return a.dtype == torch.float32 and rounds_products(a.device)
