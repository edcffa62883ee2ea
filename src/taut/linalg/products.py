"""Matrix products by the fastest route of the device."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

# Below this many multiplications the call costs more than the product.
_LARGE = 1 << 23


def product(a: Float[Tensor, "*b m k"], b: Float[Tensor, "*b k n"]) -> Float[Tensor, "*b m n"]:
    """The matrix product `a @ b`, without a gradient.

    On a CPU, large float32 products go through oneDNN: its matrix product is the faster one on
    processors that MKL does not favour.

    Guarantee: equal to `a @ b` up to the order of summation, in the precision of its dtype.
    Cost: `m * n * k` multiplications and additions.

    Args:
        a: left factors; leading dimensions are batch.
        b: right factors, with the same leading dimensions.

    Returns:
        The products.

    Example:
        >>> product(torch.ones(1, 2), torch.ones(2, 1))
        tensor([[2.]])
    """
    if not uses_onednn(a, b.shape[-1]):
        return a @ b
    if a.ndim == 2:
        # Other strides fall into a slow reference loop.
        left, right = a.contiguous(), b.mT.contiguous()
        return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return torch.stack([product(left, right) for left, right in zip(a, b, strict=True)])


def uses_onednn(a: Tensor, columns: int) -> bool:
    """Whether a product with `columns` columns goes through oneDNN."""
    return (
        a.device.type == "cpu"
        and a.dtype == torch.float32
        and a.shape[-2] * a.shape[-1] * columns >= _LARGE
        and not torch.compiler.is_compiling()  # Inductor chooses for itself
        and torch.backends.mkldnn.is_available()
        and peek_interpreter_stack() is None  # the operation has no rule for torch.func.vmap
    )
