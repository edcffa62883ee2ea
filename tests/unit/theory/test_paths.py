"""Factors of orthogonal kernels, paths between kernels, and twice the channels."""

from pathlib import Path

import pytest
import torch
from torch import nn

import taut
from taut.theory import (
    Component,
    Factorisation,
    component,
    components,
    connect,
    determinant_curve,
    embed,
    factorise,
    representative,
)
from theory_oracles import (
    assert_orthogonal,
    bcop,
    distance,
    exact_kernel,
    generator,
    matrix_product,
    random_factors,
    random_orthogonal,
)


@pytest.mark.parametrize("c", [1, 2, 5])
def test_kernels_of_one_axis_give_factors_that_rebuild_them(c):
    for size in ((), (1,), (2,), (3,), (5,), (7,)):
        for seed in range(4):
            factors = random_factors(c, size, seed)
            kernel = factors.kernel()
            assert_orthogonal(kernel)
            found = factorise(kernel)
            assert distance(found.kernel(), kernel) < 1e-10
            assert sum(found.ranks) == sum(factors.ranks)
            assert_orthogonal(found.matrix)


def test_factors_are_multiplied_as_polynomials():
    factors = random_factors(3, (3, 2), 5)
    symbols = [[[{(0, 0): float(v)} for v in row] for row in factors.matrix]]
    for projector, z in zip(factors.projectors, [(1, 0), (0, 1), (1, 0)], strict=True):
        pairs = zip(projector, torch.eye(3) - projector, strict=True)
        symbols.append(
            [
                [{(0, 0): float(p), z: float(q)} for p, q in zip(*rows, strict=True)]
                for rows in pairs
            ]
        )
    product = symbols[0]
    for step in symbols[1:]:
        product = matrix_product(product, step)
    assert distance(exact_kernel(product, (3, 2)), factors.kernel()) < 1e-14


@pytest.mark.parametrize("size", [(2,), (4,), (6,), (3, 3), (4, 2), (2, 3, 2)])
@pytest.mark.parametrize(
    ("c", "dtype"), [(4, torch.float64), (5, torch.float64), (6, torch.float32)]
)
def test_layers_give_back_their_parameters(c, size, dtype):
    layer = bcop(c, size, 1, dtype)
    kernel = layer.weight().detach()
    factors = factorise(kernel)
    exact = dtype == torch.float64
    # Each of the steps is split off from what the last one left, with its rounding.
    tolerance = 1e-10 if exact else 1e-4 * sum(size)
    assert factors.kernel().dtype == dtype
    # H is that of the layer, and so are the spans of all bases.
    torch.testing.assert_close(factors.matrix.mT, layer.raw_matrix.detach(), rtol=0, atol=tolerance)
    raw = factors.raw_tensors()
    mine = layer.raw_projectors.detach()
    theirs = raw["raw_projectors"]
    assert distance(mine @ mine.mT, theirs @ theirs.mT) < tolerance
    other = bcop(c, size, 2, dtype)
    other.load_state_dict(raw)
    assert distance(other.weight(), kernel) < (1e-12 if exact else 1e-5)


@pytest.mark.parametrize("angle", [1e-3, 1e-6, 1e-9, 1e-15, 0.0])
def test_directions_of_nearly_no_weight_are_told_apart(angle):
    """P_1 and P_2 are nearly complementary in one plane: there both end taps nearly vanish."""
    angles = torch.tensor([angle, 0.7], dtype=torch.float64)
    cos, sin = angles.cos().diag(), angles.sin().diag()
    tilted = torch.cat([torch.cat([-sin, cos]), torch.cat([cos, sin])], 1)
    turn = random_orthogonal(4, 1)
    for steps, tolerance in ((2, 1e-14), (3, 1e-9)):
        frames = torch.stack([turn, turn @ tilted, random_orthogonal(4, 2)])[:steps]
        kernel = Factorisation(random_orthogonal(4, 0), frames, (2,) * steps, (steps + 1,)).kernel()
        assert distance(factorise(kernel).kernel(), kernel) < tolerance


def test_every_representative_can_be_taken_apart():
    for size in ((4,), (3, 2)):
        for member in components(2, size):
            kernel = representative(member, 2, size)
            assert distance(factorise(kernel).kernel(), kernel) < 1e-12


def test_separable_kernels_are_refused_unless_they_are_a_product_in_order():
    """One axis after the other: orthogonal, in the middle component, and not BCOP's turns."""
    rows, columns = (random_factors(4, (3,), seed, ranks=(2, 2)).kernel() for seed in (1, 2))
    kernel = torch.einsum("oia,ijb->ojab", rows, columns)
    assert_orthogonal(kernel)
    assert component(kernel).windings == (4, 4)
    with pytest.raises(ValueError, match=r"product of two-tap steps.* found is \d\S+ off"):
        factorise(kernel)
    alone = torch.einsum("oia,ijb->ojab", rows[..., :1].sum(2, keepdim=True), columns)
    with pytest.raises(ValueError, match="must be orthogonal"):
        factorise(alone)
    short = random_factors(4, (2,), 3).kernel()  # with two taps an axis there is but one order
    short = torch.einsum("oia,ijb->ojab", short, random_factors(4, (2,), 4).kernel())
    assert distance(factorise(short).kernel(), short) < 1e-12


@pytest.mark.parametrize(("c", "size"), [(1, (4,)), (2, (3,)), (4, (5,)), (3, (2, 3))])
def test_path_stays_orthogonal_and_leads_from_one_kernel_to_the_other(c, size):
    for seed in range(2):
        factors = random_factors(c, size, seed)
        ranks = factors.ranks[::-1] if len(size) == 1 else factors.ranks
        start, end = factors.kernel(), random_factors(c, size, seed + 50, ranks).kernel()
        if component(start).sign != component(end).sign:
            end[0] *= -1
        path = connect(start, end)
        assert distance(path(0.0), start) < 1e-11
        assert distance(path(1.0), end) < 1e-11
        assert distance(path(0.5), representative(component(start), c, size)) < 1e-11
        for time in torch.linspace(0, 1, 5).tolist():
            assert_orthogonal(path(time))
            assert component(path(time)) == component(start)


def test_path_has_no_jump():
    start = random_factors(3, (3,), 1, ranks=(1, 2)).kernel()
    end = random_factors(3, (3,), 2, ranks=(2, 1)).kernel()
    end[0] *= component(start).sign * component(end).sign
    path = connect(start, end)
    # 3 angles up to pi in half of the time; H turns at that speed, and a step at twice that.
    speed = (1 + 2 * 2) * (3 * torch.pi / 0.5) * 3**0.5
    for gap in (0.02, 1e-7):
        for time in torch.linspace(0, 0.97, 50).tolist():
            moved = torch.linalg.vector_norm(path(time + gap) - path(time))
            assert moved <= gap * speed + 1e-12


@pytest.mark.parametrize(
    ("here", "there"),
    [((1, (2,)), (1, (3,))), ((1, (4,)), (-1, (4,))), ((1, (1,)), (1, (3,)))],
)
def test_kernels_of_different_components_are_as_far_apart_as_can_be(here, there):
    start, end = (representative(Component(*member), 2, (3,)) for member in (here, there))
    turn = random_orthogonal(2, 0)
    turn[0] *= torch.linalg.det(turn).sign()
    end = torch.einsum("oi,ijk->ojk", turn, end)
    with pytest.raises(ValueError, match="No path of orthogonal kernels") as caught:
        connect(start, end)
    assert all(str(Component(*member)) in str(caught.value) for member in (here, there))
    grid = 2000
    half, apart = (
        torch.fft.fft(k, n=grid).movedim(-1, 0) for k in ((start + end) / 2, start - end)
    )
    # Half-way some input is mapped to 0: the two send it to opposite outputs, 2 apart. A singular
    # value moves by at most the degree an angle.
    assert torch.linalg.svdvals(half).min() <= 2 * torch.pi / grid
    assert torch.linalg.svdvals(apart).max() >= 2 - 4 * torch.pi / grid


@pytest.mark.parametrize(
    ("c", "size"), [(1, (3,)), (2, (4,)), (3, (3, 3)), (2, (2, 2, 2)), (3, ())]
)
@pytest.mark.parametrize("seed", range(3))
def test_twice_the_channels_hold_every_convolution_with_half_ranks(c, size, seed):
    factors = random_factors(c, size, seed)
    double = embed(factors)
    assert set(double.ranks) <= {c}
    layer = bcop(2 * c, size, seed)
    layer.load_state_dict(double.raw_tensors())
    wide, kernel = layer.weight().detach(), factors.kernel()
    assert distance(wide, double.kernel()) < 1e-13
    assert component(wide) == Component(1, tuple((k - 1) * c for k in size))
    if len(size) == 2:  # the layer's own forward, circular
        x = torch.randn(2, 2 * c, 5, 6, generator=generator(seed), dtype=torch.float64)
        narrow = nn.Conv2d(
            c, c, size, padding="same", padding_mode="circular", bias=False, dtype=x.dtype
        )
        narrow.weight = nn.Parameter(kernel)
        conv = taut.nn.Conv2d(2 * c, 2 * c, size, bias=False, dtype=x.dtype)
        conv.parametrization.load_state_dict(double.raw_tensors())
        with torch.no_grad():
            assert distance(conv(x)[:, :c], narrow(x[:, :c])) < 1e-10
    assert distance(wide[:c, :c], kernel) < 1e-13
    assert wide[:c, c:].abs().max() < 1e-13


@pytest.mark.parametrize(
    ("kernel", "sentence"),
    [
        (torch.zeros(2, 3, 3), r"of shape \(channels, channels, .*\(2, 3, 3\)"),
        (torch.zeros(3), r"of shape .*\(3,\)"),
        (torch.eye(2, dtype=torch.long), "must be real.*int64"),
        (torch.full((2, 2, 3), torch.nan), "must be finite"),
        (torch.ones(2, 2, 3), r"must be orthogonal.*of \d"),
        (2 * torch.eye(2), r"must be orthogonal.*of 4.24"),
        (torch.full((2, 2, 3), 1e200, dtype=torch.float64), "must be orthogonal.*of (inf|nan)"),
    ],
)
def test_what_is_no_orthogonal_kernel_is_refused(kernel, sentence):
    for function in (component, factorise):
        with pytest.raises(ValueError, match=sentence):
            function(kernel)


def test_bad_arguments_are_refused_in_a_sentence():
    kernel = bcop(2, (3,), 0).weight().detach()
    eye = torch.eye(2)
    for call, sentence in [
        (lambda: determinant_curve(kernel, axis=1), "`axis` must be one of the 1 axes; got 1"),
        (lambda: determinant_curve(kernel, points=0), "`points` must be positive; got 0"),
        (lambda: representative(Component(1, (5,)), 2, (3,)), "winding numbers of 0 to .4,.; got"),
        (lambda: representative(Component(0, (1,)), 2, (3,)), "must have a sign of 1 or -1"),
        (lambda: list(components(0, (3,))), "must be positive; got channels=0"),
        (lambda: connect(kernel, kernel[:, :, :2]), "one shape; got .2, 2, 3. and .2, 2, 2."),
        (lambda: connect(kernel, kernel)(1.5), "`time` must be from 0 to 1; got 1.5"),
        (lambda: Factorisation(eye, eye[None], (1,), (3,)), "must be 2 each .*got 1 and 1"),
        (lambda: Factorisation(eye, eye[None], (3,), (2,)), r"`ranks` must be in 0, ..., 2"),
        (lambda: Factorisation(2 * eye, eye[None], (1,), (2,)), "`matrix` must be orthogonal.* 3"),
        (lambda: Factorisation(eye, 0 * eye[None], (1,), (2,)), "`frames` must be orthogonal"),
        (
            lambda: Factorisation(eye, eye[None], (2,), (2,)).raw_tensors(),
            "1 of 2 in step 0 of axis 0; got 2: embed it into twice the channels",
        ),
    ]:
        with pytest.raises(ValueError, match=sentence):
            call()


@pytest.mark.parametrize("winding", range(7))
def test_free_directions_are_the_rank_of_the_derivative(winding, monkeypatch):
    """What the left figure of docs/theory.md shows, for 3 channels and 3 taps."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[3])
    from experiments.theory import free_directions

    ranks = []
    for first in range(max(0, winding - 3), min(3, winding) + 1):
        old = random_factors(3, (3,), 1, ranks=(3 - first, 3 - winding + first))

        def kernel(a, old=old):
            turn = torch.linalg.matrix_exp(a - a.mT)
            return Factorisation(
                old.matrix @ turn[0], old.frames @ turn[1:], old.ranks, (3,)
            ).kernel()

        zero = torch.zeros(3, 3, 3, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(kernel, zero).reshape(27, 27)
        ranks.append(int(torch.linalg.matrix_rank(jacobian, atol=1e-9)))
    assert max(ranks) == free_directions(3, winding)
