"""Components of the space of orthogonal kernels, against exact determinants and on a grid."""

from fractions import Fraction

import pytest
import torch

from taut.theory import Component, component, components, representative, winding_estimate
from theory_oracles import (
    assert_orthogonal,
    bcop,
    determinant,
    exact_kernel,
    exact_symbol,
    generator,
    random_factors,
)

SIZES = [(1,), (2,), (3,), (5,), (7,), (2, 2), (3, 3), (4, 3), (2, 3, 2)]


@pytest.mark.parametrize("c", [1, 2, 3])
@pytest.mark.parametrize("size", [(), (2,), (4,), (2, 3), (2, 2, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_component_is_that_of_the_exact_determinant(c, size, seed):
    symbol = exact_symbol(c, size, seed)
    ((windings, sign),) = determinant(symbol, (0,) * len(size)).items()
    found = component(exact_kernel(symbol, size))
    assert found == Component(int(sign), windings)
    # The sum over taps behind it, in fractions, is the integer itself.
    for axis, winding in enumerate(windings):
        entries = (entry for row in symbol for entry in row)
        assert sum(e[axis] * a * a for p in entries for e, a in p.items()) == winding


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("c", [1, 2, 3, 6])
def test_component_is_that_of_the_argument_principle_and_of_the_ranks(c, size):
    for seed in range(3):
        factors = random_factors(c, size, seed)
        kernel = factors.kernel()
        found = component(kernel)
        order = sorted((turn, axis) for axis, k in enumerate(size) for turn in range(k - 1))
        ranks = list(zip(order, factors.ranks, strict=True))
        for axis, winding in enumerate(found.windings):
            assert winding_estimate(kernel, axis=axis) == winding
            assert winding == sum(c - rank for (_, a), rank in ranks if a == axis)
        assert found.sign == round(torch.linalg.det(factors.matrix).item())


@pytest.mark.parametrize(("c", "k"), [(1, 1), (1, 4), (2, 3), (3, 2), (4, 3), (2, 6)])
def test_each_component_has_a_kernel_and_they_are_2kn_plus_2(c, k):
    members = list(components(c, (k,)))
    kernels = [representative(member, c, (k,)) for member in members]
    assert [component(kernel) for kernel in kernels] == members
    assert len(set(members)) == len(members) == 2 * (k - 1) * c + 2
    for member, kernel in zip(members, kernels, strict=True):
        assert_orthogonal(kernel)
        symbol = [
            [{(j,): Fraction(int(v)) for j, v in enumerate(taps) if v} for taps in row]
            for row in kernel.tolist()
        ]
        assert determinant(symbol, (0,)) == {member.windings: member.sign}


def test_no_random_kernel_lies_outside_the_counted_components():
    seen = {component(random_factors(2, (3,), seed).kernel()) for seed in range(60)}
    assert seen <= set(components(2, (3,)))
    assert len(seen) >= 8  # of 10


def test_two_axes_have_a_component_for_each_pair_of_windings():
    members = list(components(2, (3, 2)))
    assert len(set(members)) == 2 * 5 * 3
    assert [component(representative(m, 2, (3, 2))) for m in members] == members


@pytest.mark.parametrize(("c", "size"), [(4, (3,)), (3, (3, 3)), (4, (4, 4))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [0.003, 0.3])
def test_training_stays_in_the_middle_component(c, size, dtype, rate):
    layer = bcop(c, size, 0, dtype)
    before = component(layer.weight())
    for winding, k in zip(before.windings, size, strict=True):
        turned = (k - 1) // 2  # these steps shift what the others do not
        assert winding == (k - 1 - turned) * (c - c // 2) + turned * (c // 2)
    goal = torch.randn(layer.weight().shape, generator=generator(1), dtype=dtype)
    for _ in range(20):
        (layer.weight() - goal).square().sum().backward()
        with torch.no_grad():
            for raw in layer.parameters():
                raw -= rate * raw.grad
                raw.grad = None
    after = component(layer.weight())
    assert after.windings == before.windings
    if rate < 0.01:  # a large step can jump to the other sign, where a path could not get
        assert after.sign == before.sign


def test_winding_is_proven_with_the_defect_of_the_kernel():
    kernel = random_factors(4, (5,), 3).kernel()
    truth = component(kernel)
    noise = torch.randn(kernel.shape, generator=generator(0), dtype=torch.float64)
    for size in (1e-12, 1e-8, 1e-4):
        moved = kernel + size * noise
        assert component(moved) == truth
        assert winding_estimate(moved) == truth.windings[0]
    with pytest.raises(ValueError, match=r"must be orthogonal.*defect \|W W\* - I\| of \d"):
        component(kernel + 0.05 * noise)


def test_measured_defect_bounds_the_symbol_on_a_fine_grid():
    kernel = random_factors(3, (3, 2), 0).kernel()
    kernel = kernel + 0.01 * torch.randn(kernel.shape, generator=generator(2), dtype=torch.float64)
    symbol = torch.fft.fft2(kernel, s=(40, 40)).permute(2, 3, 0, 1)
    gram = symbol @ symbol.mH - torch.eye(3)
    largest = torch.linalg.matrix_norm(gram).max().item()
    with pytest.raises(ValueError, match="must be orthogonal") as caught:
        component(kernel)
    measured = float(str(caught.value).split(" of ")[1].split(" ")[0])
    assert largest <= measured < 4 * largest
