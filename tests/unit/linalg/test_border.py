"""Norm bounds of zero padding: not below the dense operator, near to it, whatever the witness."""

import itertools
import math

import pytest
import torch

from oracles import dense_operator
from taut.linalg import border, torus
from taut.linalg.border import border_bound
from taut.linalg.bounds import conv_norm_bound, tight_norm_bound
from taut.linalg.convolution import ConvOperator
from taut.linalg.gram import gram_kernel
from taut.linalg.padding import Padding


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix_of(op):
    return dense_operator(op, (op.in_channels, *op.input_size))


def norm_of(op):
    return torch.linalg.matrix_norm(matrix_of(op), 2).item()


def same(axes=2, p=1):
    return Padding("zeros", (p,) * axes, (p,) * axes)


OPERATORS = {
    "same": ConvOperator(random(2, 3, 3, 3) / 4, (6, 7), padding=same()),
    "more outputs": ConvOperator(random(5, 2, 3, 3) / 4, (6, 5), padding=same()),
    "one side": ConvOperator(
        random(2, 2, 2, 3) / 4, (7, 6), padding=Padding("zeros", (0, 2), (1, 0))
    ),
    "stride": ConvOperator(random(3, 2, 3, 3) / 4, (8, 7), (2, 1), padding=same()),
    "dilation": ConvOperator(random(2, 2, 3) / 4, (16,), dilation=(2,), padding=same(1, 2)),
    "groups": ConvOperator(random(4, 2, 3, 3) / 4, (6, 6), groups=2, padding=same()),
    "extended": ConvOperator(
        random(2, 2, 3) / 4, (11,), (2,), padding=Padding("zeros", (1,), (1,), (1,))
    ),
    "no padding": ConvOperator(random(2, 2, 4) / 4, (13,)),
    "three axes": ConvOperator(random(1, 1, 2, 2, 2) / 4, (5, 5, 4), padding=same(3)),
    "alternating": ConvOperator(
        torch.tensor([[1.0, -1.0, 1.0]]).T.mul(torch.tensor([1.0, -1.0, 1.0]))[None, None] / 9,
        (15, 15),
        padding=same(),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_part_of_the_torus_is_the_operator(name):
    op = OPERATORS[name]
    part = torus.torus_part(op)
    assert part is not None
    x = random(2, *part.inputs.shape)
    y = random(2, op.kernel.shape[0], *part.size)
    assert (part.forward(x) * y).sum().item() == pytest.approx(
        (x * part.adjoint(y)).sum().item(), rel=1e-10
    )
    here, there = part.inputs.flatten() > 0, part.outputs.expand(op.kernel.shape[0], *part.size)
    columns = torch.eye(len(here), dtype=torch.float64)[here].unflatten(1, part.inputs.shape)
    found = part.forward(columns).flatten(1)[:, there.flatten() > 0].T
    expected = matrix_of(op)
    assert found.shape == expected.shape
    assert torch.linalg.svdvals(found) == pytest.approx(torch.linalg.svdvals(expected), abs=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_bound_is_close_above_the_dense_norm(name):
    op, norm = OPERATORS[name], norm_of(OPERATORS[name])
    most = conv_norm_bound(op).value
    bound = border_bound(op, most)
    assert bound is not None
    assert norm * (1 - 1e-13) <= bound <= norm * (1 + 1e-6) < most
    tight = tight_norm_bound(op)
    assert "dense operator" in tight.proof
    assert norm * (1 - 1e-13) <= tight.value <= norm * (1 + 1e-9)


@pytest.mark.parametrize("scale", [1e-300, 1e-8, 1e8, 1e200])
def test_scale_of_the_kernel_does_not_matter(scale):
    op = ConvOperator(scale * random(8, 8, 3, 3), (12, 12), padding=same())
    small = ConvOperator(op.kernel / scale, (12, 12), padding=same())
    bound = tight_norm_bound(op)
    assert "zeros at the border" in bound.proof
    assert bound.value == pytest.approx(scale * tight_norm_bound(small).value, rel=1e-6)


def test_whole_layer_is_proven_within_a_millionth():
    op = ConvOperator(random(8, 8, 3, 3) / 8, (16, 16), padding=same())
    x = random(1, 8, 16, 16)
    for _ in range(600):  # from below, by another route: powers of the operator itself
        x = torch.nn.functional.conv_transpose2d(op(x), op.kernel, padding=1)
        size = x.norm().item()
        x = x / size
    norm, loose, tight = size**0.5, conv_norm_bound(op), tight_norm_bound(op)
    assert norm * (1 - 1e-12) <= tight.value <= norm * (1 + 1e-6)
    assert loose.value > norm * (1 + 1e-3)


def test_nearly_orthogonal_kernels_and_other_paddings_are_left_alone():
    shift = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    shift[:, :, 0, 0] = torch.eye(2)
    circular = Padding("circular", (1, 1), (1, 1))
    for kernel, pad in ((shift, same()), (random(2, 2, 3, 3), circular)):
        op = ConvOperator(kernel, (6, 6), padding=pad)
        assert tight_norm_bound(op) == conv_norm_bound(op)
    assert border_bound(ConvOperator(random(2, 2, 3, 3) / 4, (6, 6), padding=circular), 9.0) is None
    assert border_bound(ConvOperator(random(3, 2) / 4, ()), 9.0) is None


def test_theorem_on_dense_operators():
    """For any C, any coordinates, any s and any Z: |T| <= s + |R|^2 / g, all of it dense."""
    tried = 0
    for seed, (q, level) in enumerate(itertools.product([1, 2, 3], [0.4, 0.7, 0.9])):
        c = random(6, 7, seed=seed)
        u, values, vh = torch.linalg.svd(c)
        s = (values[q - 1] * level + values[q] * (1 - level)).item()  # q values are above it
        outputs, inputs = random(6, seed=seed + 50) > -1, random(7, seed=seed + 90) > -1
        norm = torch.linalg.matrix_norm(c[outputs][:, inputs], 2).item()
        j = torch.cat(
            [torch.cat([s * torch.eye(6), -c], 1), torch.cat([-c.T, s * torch.eye(7)], 1)]
        )
        z = torch.cat([u[:, :q], vh[:q].T]) + 0.05 * random(13, q, seed=seed + 30)
        least = torch.linalg.eigvalsh(-z.T @ j @ z)[0].item()
        if least <= 0:
            continue
        rest = (j @ z)[torch.cat([outputs, inputs])]
        assert norm <= s + torch.linalg.matrix_norm(rest, 2).item() ** 2 / least + 1e-12
        tried += 1
    assert tried >= 5


@pytest.mark.parametrize("wrong", ["zero", "random", "half", "nan", "fewer"])
def test_a_wrong_witness_never_makes_a_bound_too_small(wrong, monkeypatch):
    right = border.witness

    def witness(part, s, a, b):
        a, b = right(part, s, a, b)
        if wrong == "fewer":
            return a[1:], b[1:]
        noise = (random(*a.shape), random(*b.shape))
        factor = {"zero": 0.0, "half": 0.5, "nan": math.nan, "random": 1.0}[wrong]
        return tuple(
            factor * v + (wrong == "random") * n for v, n in zip((a, b), noise, strict=True)
        )

    monkeypatch.setattr(border, "witness", witness)
    for name in ("one side", "groups"):
        bound = border_bound(OPERATORS[name], conv_norm_bound(OPERATORS[name]).value)
        assert bound is None or bound >= norm_of(OPERATORS[name])


@pytest.mark.parametrize("share", [0.9, 1 - 1e-3, 1 - 1e-7])
def test_levels_below_the_norm_prove_nothing_below_it(share, monkeypatch):
    for name in ("one side", "stride"):
        op = OPERATORS[name]
        part, norm = torus.torus_part(op), norm_of(op)
        assert border._proven(part, gram_kernel(part.kernel), share * norm) >= norm
        monkeypatch.setattr(border, "norm_estimate", lambda part, n=norm: share * n)
        bound = border_bound(op, math.inf)
        assert bound is None or bound >= norm


def test_singular_values_above_the_level_are_all_counted():
    for name in ("same", "groups", "stride"):
        part = torus.torus_part(OPERATORS[name])
        kernel, size = part.kernel, part.size
        eye = torch.eye(part.inputs.numel(), dtype=torch.float64)
        c = part.forward(eye.unflatten(1, part.inputs.shape)).flatten(1).T
        values = torch.linalg.svdvals(c)
        for level in (0.7, 0.9, 0.99):
            s = level * values[0].item()
            count, modes = border._modes_above(part, gram_kernel(kernel), s)
            assert count == int((values > s).sum()) <= math.prod(size)
            a, b = (torch.cat(side) for side in zip(*modes, strict=True))
            assert len(a) == count
            assert ((part.forward(b) - s * a) * a).flatten(1).sum(1).min() > 0
            assert torch.linalg.matrix_rank(torch.cat([a, b], 1).flatten(1)) == count


def dense_form(part, s):
    """J as a dense matrix, and which coordinates belong to T."""
    inputs = torch.eye(part.inputs.numel(), dtype=torch.float64).unflatten(1, part.inputs.shape)
    c = part.forward(inputs).flatten(1).T
    eye = [s * torch.eye(n, dtype=torch.float64) for n in c.shape]
    j = torch.cat([torch.cat([eye[0], -c], 1), torch.cat([-c.T, eye[1]], 1)])
    outputs = part.outputs.expand(len(c) // part.outputs.numel(), *part.size)
    return j, torch.cat([outputs.flatten(), part.inputs.flatten()]) > 0


def split(part, z):
    """Columns as pairs of fields."""
    inputs = part.inputs.numel()
    a, b = z.T[:, :-inputs], z.T[:, -inputs:]
    return a.reshape(len(a), -1, *part.size).contiguous(), b.reshape(len(b), *part.inputs.shape)


def test_what_a_witness_shows_is_not_less_than_the_theorem_says():
    part = torus.torus_part(OPERATORS["one side"])
    gram, s = gram_kernel(part.kernel), norm_of(OPERATORS["one side"]) * (1 + 1e-3)
    j, inside = dense_form(part, s)
    values, vectors = torch.linalg.eigh(j)
    tried = 0
    for seed in range(30):
        count = 1 + seed % 3
        z = vectors[:, :count] / (-values[:count]).sqrt()
        z = z * (1 + 0.3 * random(1, seed=seed)) + 0.02 * random(len(z), count, seed=seed)
        found = border._witnessed(part, gram, s, count, *split(part, z))
        least = torch.linalg.eigvalsh(-z.T @ j @ z)[0].item()
        rest = torch.linalg.matrix_norm((j @ z)[inside], 2).item()
        assert found >= (s + rest**2 / least if least > 0 else math.inf) * (1 - 1e-12)
        tried += math.isfinite(found)
    assert tried >= 5


def test_fewer_vectors_than_singular_values_prove_nothing():
    """Below the norm there are vectors that do all that is asked but for their number."""
    part = torus.torus_part(OPERATORS["one side"])
    gram, norm = gram_kernel(part.kernel), norm_of(OPERATORS["one side"])
    s = 0.999 * norm
    j, inside = dense_form(part, s)
    basis = torch.linalg.inv(j)[:, ~inside]
    values, vectors = torch.linalg.eigh(basis.T @ j @ basis)
    z = basis @ vectors[:, values < -1e-9] / (-values[values < -1e-9]).sqrt()
    count, _ = border._modes_above(part, gram, s)
    assert z.shape[1] < count
    assert border._witnessed(part, gram, s, z.shape[1], *split(part, z)) < norm
    assert border._witnessed(part, gram, s, count, *split(part, z)) == math.inf
    assert border._proven(part, gram, 0.2 * norm) == math.inf  # too many to look for


def test_rounding_enlarges_the_rest_and_lessens_the_gap(monkeypatch):
    op = OPERATORS["one side"]
    part, s = torus.torus_part(op), norm_of(op) * (1 + 1e-3)
    gram = gram_kernel(part.kernel)
    _, modes = border._modes_above(part, gram, s)
    a, b = border.witness(part, s, *(torch.cat(side) for side in zip(*modes, strict=True)))
    size = border.columns(a, b).norm().item()
    monkeypatch.setattr(border, "gamma", lambda n, u: 1e-4 * (n == 12 + 2))
    found = border._witnessed(part, gram, s, len(a), a, b)
    assert found >= s + (1e-4 * s * size) ** 2 / (1 - 1e-4 * s * size**2)
    monkeypatch.setattr(border, "gamma", lambda n, u: 1.0 * (n > 200))
    assert border._witnessed(part, gram, s, len(a), a, b) == math.inf
