"""Derivatives of our own operations in forward mode, and of second order, against differences."""

from functools import partial

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from taut.linalg.bases import basis_product, orthonormal_basis
from taut.linalg.derivatives import applied
from taut.linalg.products import _Matmul
from taut.linalg.steps import apply_steps
from taut.linalg.unitary import cayley, polar_factor, unitary_basis

# torch warns of what it does itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning"),
    pytest.mark.filterwarnings("ignore:Failed to fetch module:UserWarning"),
]
TWICE = {
    "basis": (orthonormal_basis, [(5, 3)]),
    "bases": (orthonormal_basis, [(2, 4, 4)]),
    "product": (basis_product, [(2, 5), (5, 3)]),
    "transposed": (partial(basis_product, transposed=True), [(2, 3), (5, 3)]),
    "matmul": (partial(applied, _Matmul), [(3, 4), (4, 2)]),
    "unitary": (unitary_basis, [(5, 3)]),
    "wide": (unitary_basis, [(2, 3, 4)]),
    "cayley": (cayley, [(5, 3)]),
}
ONCE = {
    "polar": (polar_factor, [(5, 3)]),
    "wide polar": (polar_factor, [(2, 3, 4)]),
    "square polar": (polar_factor, [(3, 3)]),
}


def tensors(shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]
    return [x.requires_grad_() for x in made]


@pytest.mark.parametrize("name", [*TWICE, *ONCE])
def test_first_derivatives_in_both_modes(name):
    function, shapes = {**TWICE, **ONCE}[name]
    assert gradcheck(function, tensors(shapes), check_forward_ad=True)


@pytest.mark.parametrize("name", ["unitary", "wide", "cayley", "polar", "wide polar"])
def test_first_derivatives_of_complex_matrices_in_both_modes(name):
    function, shapes = {**TWICE, **ONCE}[name]
    assert gradcheck(function, tensors(shapes, torch.complex128), check_forward_ad=True)


@pytest.mark.parametrize("name", TWICE)
def test_second_derivatives(name):
    function, shapes = TWICE[name]
    assert gradgradcheck(
        function, tensors(shapes), check_fwd_over_rev=True, check_rev_over_rev=True
    )


@pytest.mark.parametrize("name", ["basis", "product", "transposed", "unitary", "cayley"])
def test_hessians_in_all_orders(name):
    function, shapes = TWICE[name]
    values = [x.detach() for x in tensors(shapes)]
    last = len(values) - 1

    def f(a):
        return function(*values[:last], a).pow(3).sum()

    expected = torch.autograd.functional.hessian(f, values[last])
    a = values[last]
    forward, reverse = torch.func.jacfwd, torch.func.jacrev
    orders = [(forward, reverse), (reverse, forward), (reverse, reverse)]
    if name == "cayley":  # that order is wrong in torch.linalg.solve itself
        orders.remove((reverse, forward))
    for outer, inner in orders:
        assert torch.allclose(outer(inner(f))(a), expected, atol=1e-10), (outer, inner)
    if name == "cayley":
        return
    with pytest.raises(NotImplementedError, match="Two derivatives in forward mode"):
        forward(forward(f))(a)
    if name in ("product", "transposed"):  # layers under transforms take the basis instead
        return
    # The oracle is reverse over reverse, which gradgradcheck holds against differences.
    point = [a, torch.randn(a.shape, dtype=a.dtype, generator=torch.Generator().manual_seed(1))]
    slope = torch.func.linearize(torch.func.grad(f), a)[1](point[1])
    assert torch.allclose(slope, torch.tensordot(expected, point[1], 2), atol=1e-9)


@pytest.mark.parametrize("name", ONCE)
def test_second_derivatives_that_are_not_whole_are_refused(name):
    function, shapes = ONCE[name]
    (a,) = tensors(shapes)
    (grad,) = torch.autograd.grad(function(a).pow(3).sum(), a, create_graph=True)
    with pytest.raises(NotImplementedError, match="cannot be differentiated again"):
        grad.sum().backward()
    forward, reverse = torch.func.jacfwd, torch.func.jacrev
    for outer, inner in ((forward, reverse), (reverse, forward), (reverse, reverse)):
        with pytest.raises(NotImplementedError, match="cannot be differentiated again"):
            outer(inner(lambda a: function(a).pow(3).sum()))(a.detach())


def test_rank_deficient_matrices_keep_finite_first_derivatives():
    for a in (torch.zeros(4, 2), torch.ones(4, 2), 1e-30 * torch.ones(4, 2)):
        a = a.double().requires_grad_()
        for function in (orthonormal_basis, unitary_basis):
            for again in (False, True):
                y = function(a).pow(3).sum()
                (grad,) = torch.autograd.grad(y, a, create_graph=again)
                assert grad.isfinite().all()


@pytest.mark.parametrize("axes", [1, 2])
def test_steps_in_forward_mode(axes):
    shapes = [(2, *(4, 3)[:axes], 4), (3, 4, 2)]
    moves = [(0, 1), (axes - 1, -1), (0, 2)]
    x, raw = tensors(shapes)
    assert gradcheck(
        lambda x, raw: apply_steps(x, orthonormal_basis(raw), moves),
        (x, raw),
        check_forward_ad=True,
    )


def test_a_part_alone_may_move():
    """A tangent of one argument, while the other has none."""
    x, a = (t.detach() for t in tensors([(2, 5), (5, 3)]))
    moved = torch.ones_like(x)
    with forward_ad.dual_level():
        y = basis_product(forward_ad.make_dual(x, moved), a.requires_grad_())
        tangent = forward_ad.unpack_dual(y).tangent
    assert torch.allclose(tangent, moved @ orthonormal_basis(a))
