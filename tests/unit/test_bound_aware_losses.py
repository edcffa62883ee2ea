"""Losses that read the bound and the last layer, against loops over images and classes."""

import math

import pytest
import torch

import taut
from taut.losses import (
    EMMA,
    CertificateRegularised,
    CertifiedTRADES,
    LogitAnnealing,
    LossInputs,
    MultiMargin,
    OffsetCrossEntropy,
)
from taut.training import Recipe


@pytest.fixture(params=("head", "map"))
def inputs(request):
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(9, 4, dtype=torch.float64, generator=generator)
    head = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    labels = torch.randint(4, (9,), generator=generator)
    labels[0] = logits[0].argmax()
    return LossInputs(logits, labels, 1.3, head if request.param == "head" else None)


def constant(inputs, i, j):
    """By how much z_i - z_j may move for one unit of the input."""
    if inputs.head is None:
        return math.sqrt(2) * inputs.bound
    rows = inputs.head.tolist()
    return math.dist(rows[i], rows[j]) * inputs.bound


def log_softmax(z):
    top = max(z)
    total = top + math.log(sum(math.exp(value - top) for value in z))
    return [value - total for value in z]


def images(inputs):
    return zip(inputs.logits.tolist(), inputs.labels.tolist(), strict=True)


def test_emma_raises_classes_to_the_label_and_no_further(inputs):
    eps, total = 0.7, 0.0
    for z, y in images(inputs):
        moved = list(z)
        for j in range(4):
            if j != y:
                most = constant(inputs, y, j) * eps
                moved[j] += min(max((z[y] - z[j]) / most, 0.01), 1.0) * most
        total -= log_softmax(moved)[y]
    assert math.isclose(EMMA(eps=eps)(inputs).item(), total / 9)


def test_emma_takes_no_gradient_through_the_share(inputs):
    logits = inputs.logits.clone().requires_grad_()
    EMMA(eps=0.7)(LossInputs(logits, inputs.labels, inputs.bound, inputs.head)).backward()
    for row, (z, y) in zip(logits.grad.tolist(), images(inputs), strict=True):
        moved = list(z)
        for j in range(4):
            if j != y:
                most = constant(inputs, y, j) * 0.7
                moved[j] += min(max((z[y] - z[j]) / most, 0.01), 1.0) * most
        expected = [math.exp(p) - (j == y) for j, p in enumerate(log_softmax(moved))]
        assert all(
            math.isclose(9 * a, b, abs_tol=1e-12) for a, b in zip(row, expected, strict=True)
        )


def test_emma_has_the_gradient_of_constants_with_fixed_shares(inputs):
    """In logits, bound and head: of the moved logits with the shares as numbers."""
    logits, labels, eps = inputs.logits.clone().requires_grad_(), inputs.labels, 0.7
    bound = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    head = None if inputs.head is None else inputs.head.clone().requires_grad_()
    leaves = (logits, bound) if head is None else (logits, bound, head)
    shares = torch.ones_like(logits)
    for n, (z, y) in enumerate(images(inputs)):
        for j in range(4):
            if j != y:
                share = (z[y] - z[j]) / (constant(inputs, y, j) * eps)
                shares[n, j] = min(max(share, 0.01), 1.0)

    def fixed(logits, bound, head=None):
        total = logits.new_zeros(())
        for n, y in enumerate(labels.tolist()):
            moved = [logits[n, j] for j in range(4)]
            for j in set(range(4)) - {y}:
                distance = 2**0.5 if head is None else (head[y] - head[j]).norm()
                moved[j] = moved[j] + shares[n, j] * distance * bound * eps
            total = total - torch.stack(moved).log_softmax(0)[y] / len(labels)
        return total

    assert torch.autograd.gradcheck(fixed, leaves)
    expected = torch.autograd.grad(fixed(*leaves), leaves)
    found = torch.autograd.grad(EMMA(eps=eps)(LossInputs(logits, labels, bound, head)), leaves)
    torch.testing.assert_close(found, expected)


def test_emma_keeps_bound_and_head_small():
    logits, labels = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0])
    bound = torch.tensor(1.0, requires_grad=True)
    head = torch.eye(3, requires_grad=True)
    EMMA(eps=0.5)(logits, labels, bound=bound, head=head).backward()
    assert bound.grad > 0
    assert (head.grad * head).sum() > 0  # longer rows, larger loss
    assert head.grad.isfinite().all()


def test_emma_grows_its_radius():
    loss = EMMA(eps="36/255", start=0.25, ramp=0.5)
    radii = [loss.radius(p) for p in (0.0, 0.25, 0.5, 1.0, None)]
    expected = [share * 36 / 255 for share in (0.25, 0.625, 1.0, 1.0, 1.0)]
    assert all(math.isclose(a, b) for a, b in zip(radii, expected, strict=True))
    assert EMMA(eps=1.0, ramp=0.0).radius(0.0) == 1.0
    logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    assert loss(logits, labels, progress=0.0) < loss(logits, labels, progress=1.0)


def test_logit_annealing_is_a_focal_loss_of_lowered_logits(inputs):
    total = 0.0
    for z, y in images(inputs):
        p = log_softmax([(v - 1.5 * (j == y)) / 0.6 for j, v in enumerate(z)])[y]
        total -= 0.6 * (1 - math.exp(p)) ** 3.0 * p
    loss = LogitAnnealing(temperature=0.6, offset=1.5, beta=3.0)
    assert math.isclose(loss(inputs).item(), total / 9)


def test_without_beta_annealing_is_the_offset_loss(inputs):
    loss = LogitAnnealing(temperature=0.6, offset=1.5, beta=0.0)
    offset = OffsetCrossEntropy(offset=1.5, temperature=0.6)
    torch.testing.assert_close(loss(inputs), 0.6 * offset(inputs))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 5.0])
def test_annealing_has_finite_gradients_at_extreme_margins(beta):
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor(
            [[1e4, 0.0], [-1e4, 0.0], [2.0, 0.0]], dtype=dtype, requires_grad=True
        )
        value = LogitAnnealing(beta=beta)(logits, torch.tensor([0, 0, 0]))
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()


def radius(inputs, z, y):
    return min((z[y] - z[j]) / constant(inputs, y, j) for j in range(4) if j != y)


@pytest.mark.parametrize("base", [OffsetCrossEntropy(0.0, 1.0), MultiMargin(0.5)])
def test_regularised_subtracts_certified_radii(inputs, base):
    radii = [max(0.0, radius(inputs, z, y)) for z, y in images(inputs)]
    loss = CertificateRegularised(base, weight=0.3)
    assert math.isclose(loss(inputs).item(), base(inputs).item() - 0.3 * sum(radii) / 9)
    certified = taut.certified_radius(inputs.logits, inputs.labels, inputs.bound)
    if inputs.head is None:
        torch.testing.assert_close(torch.tensor(radii, dtype=torch.float64), certified.double())


def test_regularised_survives_equal_rows():
    logits = torch.tensor([[2.0, 2.0, 0.0]], requires_grad=True)
    head = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    CertificateRegularised()(logits, torch.tensor([0]), head=head).backward()
    assert logits.grad.isfinite().all()
    assert head.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [-1e6, 0.0, 1e6])
def test_equal_rows_leave_the_gradient_to_the_others(logit, dtype):
    """A quotient by almost 0 has no part in it, whether its class is the nearest or not."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=dtype)
    for head in (rows.clone(), torch.zeros_like(rows)):
        logits = torch.tensor([[2.0, 2.0 + logit, 0.0]], dtype=dtype, requires_grad=True)
        bound = torch.ones((), dtype=dtype, requires_grad=True)
        head.requires_grad_()
        CertificateRegularised()(logits, torch.tensor([0]), head=head, bound=bound).backward()
        for leaf in (logits, bound, head):
            assert leaf.grad.isfinite().all()
            assert leaf.grad.abs().max() < 1e3


@pytest.mark.parametrize("loss", [OffsetCrossEntropy(), LogitAnnealing(), CertificateRegularised()])
def test_gradients_of_single_images_are_mapped(loss):
    logits, labels = torch.randn(5, 3, requires_grad=True), torch.tensor([0, 2, 1, 1, 0])
    each = torch.func.grad(lambda z, y: loss(z[None], y[None]))
    (expected,) = torch.autograd.grad(loss(logits, labels, reduction="sum"), logits)
    torch.testing.assert_close(torch.func.vmap(each)(logits.detach(), labels), expected)


def test_trades_compares_with_the_certified_worst_case(inputs):
    eps, weight, temperature, total = 0.4, 2.0, 0.5, 0.0
    for z, y in images(inputs):
        top = z.index(max(z))
        worst = [v + (constant(inputs, top, j) * eps if j != top else 0) for j, v in enumerate(z)]
        p = log_softmax([v / temperature for v in z])
        q = log_softmax([v / temperature for v in worst])
        total += -p[y] + weight * sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
    loss = CertifiedTRADES(eps=eps, weight=weight, temperature=temperature)
    assert math.isclose(loss(inputs).item(), total / 9)


@pytest.mark.parametrize(
    "loss",
    [LogitAnnealing(), CertificateRegularised(), CertifiedTRADES()],
    ids=lambda loss: loss.kind,
)
def test_gradients(loss, inputs):
    logits = inputs.logits.clone().requires_grad_()
    bound = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    head = None if inputs.head is None else inputs.head.clone().requires_grad_()

    def value(logits, bound, *head):
        return loss(LossInputs(logits, inputs.labels, bound, *head))

    leaves = (logits, bound) if head is None else (logits, bound, head)
    assert torch.autograd.gradcheck(value, leaves)


def test_settings_out_of_range_are_refused():
    for wrong in (0, -1.0, math.nan, "none", "1/0"):
        with pytest.raises(ValueError, match="`eps` must be a positive number or a text"):
            EMMA(eps=wrong)
        with pytest.raises(ValueError, match="`eps` must be a positive number or a text"):
            CertifiedTRADES(eps=wrong)
    with pytest.raises(ValueError, match="`start` must be above 0 and at most 1; got 2"):
        EMMA(start=2.0)
    with pytest.raises(ValueError, match="`ramp` must be from 0 to 1; got 2"):
        EMMA(ramp=2.0)
    with pytest.raises(ValueError, match="`beta` must be a number >= 0; got -1"):
        LogitAnnealing(beta=-1.0)
    with pytest.raises(ValueError, match=r"`head` must be of shape \(2, features\)"):
        EMMA()(torch.zeros(1, 2), torch.tensor([0]), head=torch.eye(3))


def test_recipes_store_a_loss_inside_another():
    loss = CertificateRegularised(MultiMargin(0.3), weight=0.2)
    recipe = Recipe(name="x", dataset="mnist", loss=loss)
    assert Recipe.from_json(recipe.to_json()) == recipe
