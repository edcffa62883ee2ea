import dataclasses
import math
from fractions import Fraction

import jaxtyping
import pytest
import torch
import torch.nn.functional as F

import taut
from taut.losses import (
    EMMA,
    KR,
    AbstractLoss,
    CertificateRegularised,
    CertifiedTRADES,
    HingeKR,
    HingeKRMulticlass,
    LogitAnnealing,
    LossInputs,
    MultiMargin,
    OffsetCrossEntropy,
    kinds,
    label_counts,
)
from taut.program import LipschitzBound

CLASSIFICATION = (
    MultiMargin,
    OffsetCrossEntropy,
    HingeKRMulticlass,
    EMMA,
    LogitAnnealing,
    CertificateRegularised,
    CertifiedTRADES,
)
TWO_SAMPLES = (KR, HingeKR)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(7, 5, dtype=torch.float64, generator=generator)
    return logits, torch.randint(5, (7,), generator=generator)


def test_multi_margin_is_the_sum_of_hinges(batch):
    logits, labels = batch
    total = 0.0
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        hinges = [max(0.0, math.sqrt(2) * 1.3 - z[y] + z[j]) for j in range(5) if j != y]
        total += sum(hinges) / 5
    assert math.isclose(MultiMargin(eps_train=1.3)(logits, labels).item(), total / 7)
    torch_loss = F.multi_margin_loss(logits, labels, margin=math.sqrt(2) * 1.3)
    torch.testing.assert_close(MultiMargin(eps_train=1.3)(logits, labels), torch_loss)


def test_multi_margin_vanishes_exactly_where_all_is_certified():
    eps = 0.5
    margins = math.sqrt(2) * torch.tensor([0.49, 0.51], dtype=torch.float64)
    losses = [
        MultiMargin(eps_train=eps)(torch.tensor([[m, 0.0]]), torch.tensor([0])) for m in margins
    ]
    assert losses[0] > 0
    assert losses[1] == 0


def test_offset_cross_entropy_is_the_log_of_the_softmax(batch):
    logits, labels = batch
    total = 0.0
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        scaled = [(value - (2.2 if j == y else 0.0)) / 0.35 for j, value in enumerate(z)]
        total += math.log(sum(map(math.exp, scaled))) - scaled[y]
    loss = OffsetCrossEntropy(offset=2.2, temperature=0.35)(logits, labels)
    assert math.isclose(loss.item(), total / 7)


def test_without_offset_and_at_temperature_one_it_is_cross_entropy(batch):
    logits, labels = batch
    loss = OffsetCrossEntropy(offset=0.0, temperature=1.0)(logits, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


def test_every_loss_is_tested_here_and_has_settings_to_store():
    assert set(kinds().values()) == {*CLASSIFICATION, *TWO_SAMPLES}
    for kind, cls in kinds().items():
        assert dataclasses.replace(cls()) == cls()
        assert (kind, issubclass(cls, AbstractLoss)) == (cls.kind, True)


@pytest.mark.parametrize("loss", [cls() for cls in CLASSIFICATION], ids=lambda loss: loss.kind)
def test_a_loss_takes_one_object_too(loss, batch):
    expected = loss(*batch)
    assert expected.shape == ()
    assert loss(LossInputs(*batch)) == expected
    # Orthonormal rows part classes as fast as logits that are 1-Lipschitz as one map.
    torch.testing.assert_close(loss(*batch, bound=1.0, head=torch.eye(5).double()), expected)
    with pytest.raises(ValueError, match="`labels` must be one label per image; got None"):
        loss(batch[0])


def test_gradients(batch):
    logits, labels = batch
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: MultiMargin(eps_train=0.7)(z, labels), logits)
    loss = OffsetCrossEntropy(offset=1.0, temperature=0.5)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_out_of_range_numbers_are_refused_by_name(value):
    with pytest.raises(ValueError, match="`eps_train` must be a positive number; got"):
        MultiMargin(eps_train=value)
    with pytest.raises(ValueError, match="`temperature` must be a positive number; got"):
        OffsetCrossEntropy(offset=0.0, temperature=value)


@pytest.mark.parametrize("value", ["1", None, True, [1.0]])
def test_settings_that_are_no_numbers_are_refused_by_name(value, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    for make, name in (
        (MultiMargin, "eps_train"), (OffsetCrossEntropy, "offset"),
        (OffsetCrossEntropy, "temperature"), (OffsetCrossEntropy, "smoothing"),
        (taut.losses.EMMA, "start"), (taut.losses.EMMA, "ramp"),
        (taut.losses.LogitAnnealing, "beta"), (taut.losses.HingeKR, "alpha"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"`{name}` must be .*; got"):
            make(**{name: value})


def test_exact_settings_become_floats(batch, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    exact = OffsetCrossEntropy(Fraction(1, 2), Fraction(1, 4), Fraction(1, 8))
    plain = OffsetCrossEntropy(0.5, 0.25, 0.125)
    assert exact == plain
    assert torch.equal(exact(*batch), plain(*batch))


def test_negative_offset_is_refused():
    with pytest.raises(ValueError, match=r"`offset` must be a number >= 0; got -0\.1"):
        OffsetCrossEntropy(offset=-0.1, temperature=1.0)


@pytest.fixture
def two_samples():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(9, generator=generator, dtype=torch.float64)
    return scores, torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 0])


def _means(scores, labels):
    first = [s for s, y in zip(scores.tolist(), labels.tolist(), strict=True) if y]
    second = [s for s, y in zip(scores.tolist(), labels.tolist(), strict=True) if not y]
    return sum(first) / len(first), sum(second) / len(second)


def test_kr_is_the_difference_of_two_means(two_samples):
    first, second = _means(*two_samples)
    assert math.isclose(KR()(*two_samples).item(), second - first)


def test_minus_kr_of_a_1_lipschitz_function_is_at_most_the_distance():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(8, generator=generator, dtype=torch.float64).sort().values
    y = torch.randn(8, generator=generator, dtype=torch.float64).sort().values + 1
    distance = (x - y).abs().mean()  # in one dimension the sorted samples are matched
    points, labels = torch.cat([y, x]), torch.tensor([1] * 8 + [0] * 8)
    for function in (torch.abs, torch.sin, torch.tanh):
        assert -KR()(function(points), labels) <= distance
    assert -KR()(3 * points, labels) <= 3 * distance + 1e-15  # both are equal, to rounding


def test_hinge_kr_adds_what_margins_lack(two_samples):
    scores, labels = two_samples
    first, second = _means(scores, labels)
    lacks = [
        max(0.0, 0.7 - (s if y else -s))
        for s, y in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    loss = HingeKR(alpha=3.0, margin=0.7)(scores, labels)
    assert math.isclose(loss.item(), second - first + 3 * sum(lacks) / 9)


def test_hinge_kr_of_classes_is_the_mean_of_one_against_the_rest(batch):
    logits, labels = batch
    labels = labels % 4  # class 4 is absent
    total = 0.0
    for k in range(5):
        s = [1.0 if y == k else -1.0 for y in labels.tolist()]
        column = logits[:, k].tolist()
        total += 2 * sum(max(0.0, 0.3 - a * b) for a, b in zip(s, column, strict=True)) / 7
        if k in labels.tolist():
            first, second = _means(logits[:, k], labels == k)
            total += second - first
    loss = HingeKRMulticlass(alpha=2.0, margin=0.3)(logits, labels)
    assert math.isclose(loss.item(), total / 5)


def test_gradients_of_the_losses_on_two_samples(two_samples, batch):
    scores, labels = two_samples
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: KR()(s, labels), scores)
    assert torch.autograd.gradcheck(lambda s: HingeKR(alpha=2.0, margin=0.5)(s, labels), scores)
    logits, classes = batch
    logits.requires_grad_()
    loss = HingeKRMulticlass(alpha=2.0, margin=0.5)
    assert torch.autograd.gradcheck(lambda z: loss(z, classes), logits)


@pytest.mark.parametrize("loss", [cls() for cls in TWO_SAMPLES], ids=lambda loss: loss.kind)
def test_scores_may_be_a_column_and_labels_signs(loss, two_samples):
    """As critics and other libraries have them; once they were broadcast against each other."""
    scores, labels = two_samples
    expected = loss(scores, labels)
    signs = 2 * labels - 1
    for same in (labels.bool(), labels.float(), signs, signs.double(), labels[:, None]):
        assert loss(scores, same) == loss(scores[:, None], same) == expected


@pytest.mark.parametrize("loss", [cls() for cls in TWO_SAMPLES], ids=lambda loss: loss.kind)
def test_two_logits_are_a_score(loss):
    logits, labels = torch.randn(6, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])
    scores = logits @ torch.tensor([-(0.5**0.5), 0.5**0.5], dtype=torch.float64)
    torch.testing.assert_close(loss(logits, labels), loss(scores, labels))


@pytest.mark.parametrize("loss", [*TWO_SAMPLES, HingeKRMulticlass])
def test_one_class_alone_has_the_hinge_where_labels_cannot_be_read(loss):
    """As on a GPU: it has finite gradients."""
    logits, labels = torch.randn(6, 2), torch.ones(6, dtype=torch.long)
    gradient = torch.func.vmap(torch.func.grad(lambda x: loss()(x, labels)))(logits[None])[0]
    other = torch.func.vmap(torch.func.grad(lambda x: HingeKR(20.0)(x, labels)))(logits[None])[0]
    if loss is KR:
        assert not gradient.any()
    elif loss is HingeKR:
        torch.testing.assert_close(2 * gradient, other)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("loss", [cls() for cls in TWO_SAMPLES], ids=lambda loss: loss.kind)
def test_samples_that_are_not_two_are_refused(loss):
    scores = torch.zeros(2)
    for labels in ([1, 1], [0, 0], [-1, -1]):
        with pytest.raises(ValueError, match="`labels` must hold both classes in each batch; got"):
            loss(scores[: len(labels)], torch.tensor(labels))
    for labels in ([0, 2], [-1, 0], [0.5, 1.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="`labels` must be 0 and 1, or -1 and 1; got"):
            loss(scores, torch.tensor(labels))
    for shape, count in (((2, 3), 2), ((3,), 2), ((3, 1), 2), ((2, 1, 1), 2), ((), 2)):
        with pytest.raises(ValueError, match="must be one number per image, of shape"):
            loss(torch.zeros(shape), torch.arange(count))


@pytest.mark.parametrize("loss", [cls() for cls in CLASSIFICATION], ids=lambda loss: loss.kind)
def test_labels_that_are_no_class_indices_are_refused(loss, batch):
    logits, labels = batch
    one_hot = F.one_hot(labels, 5)
    for wrong, got in (
        (one_hot, "one-hot rows: use labels.argmax"),
        (labels.float(), "torch.float32: use labels.long"),
        (labels[:, None], r"shape \(7, 1\)"),
        (labels[:6], r"shape \(6,\)"),
    ):
        with pytest.raises(ValueError, match=rf"integers of shape \(7,\); got {got}"):
            loss(logits, wrong)
    with pytest.raises(ValueError, match=r"`logits` must be of shape \(n, classes\); got \(5,\)"):
        loss(logits[0], labels[:1])
    for wrong, got in ((labels + 5, 5 + int(labels.max())), (labels - 9, int(labels.min()) - 9)):
        with pytest.raises(ValueError, match=rf"`labels` must be from 0 to 4; got {got}\."):
            loss(logits, wrong)
    assert loss(logits, labels.to(torch.uint8)) == loss(logits, labels)


IMAGES = [cls() for cls in CLASSIFICATION if not cls().compares_classes]
SMOOTHED = (OffsetCrossEntropy(1.2, 0.6), EMMA(eps=0.7), CertifiedTRADES(eps=0.4, temperature=0.5))


@pytest.mark.parametrize("loss", IMAGES, ids=lambda loss: loss.kind)
def test_probabilities_give_the_mean_over_labels(loss, batch):
    logits, labels = batch
    logits.requires_grad_()
    generator = torch.Generator().manual_seed(1)
    targets = torch.rand(7, 5, dtype=torch.float64, generator=generator).softmax(1)
    head = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    for options in ({}, {"bound": 1.3, "head": head, "progress": 0.2}):
        expected = torch.zeros(7, dtype=torch.float64)
        for k in range(5):
            each = loss(logits, torch.full((7,), k), reduction="none", **options)
            expected = expected + targets[:, k] * each
        found = loss(logits, targets, reduction="none", **options)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(value.sum(), logits)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients)
        torch.testing.assert_close(loss(logits, targets, **options), expected.mean())
        torch.testing.assert_close(
            loss(logits, targets, reduction="sum", **options), expected.sum()
        )
    one_hot = F.one_hot(labels, 5).double()
    torch.testing.assert_close(loss(logits, one_hot), loss(logits, labels))


def test_probabilities_that_are_none_are_refused(batch):
    logits, _ = batch
    for wrong in (torch.full((7, 5), 0.3), torch.tensor([[2.0, -1.0, 0, 0, 0]]).expand(7, 5)):
        with pytest.raises(ValueError, match="`labels` must be probabilities, >= 0 and with the"):
            OffsetCrossEntropy()(logits, wrong)
    for loss in (HingeKRMulticlass(), CertificateRegularised(HingeKRMulticlass())):
        with pytest.raises(ValueError, match=r"one label per image for .* compares classes"):
            loss(logits, torch.full((7, 5), 0.2))


@pytest.mark.parametrize("loss", SMOOTHED, ids=lambda loss: loss.kind)
def test_smoothing_shares_the_label_among_all_classes(loss, batch):
    """Of a cross-entropy with smoothing s: 1 - s of it, and s / c of the sum over the classes."""
    logits, labels = batch
    if isinstance(loss, EMMA):
        lead = logits.gather(1, labels[:, None]) - logits
        most = 0.7 * math.sqrt(2) * (1 - F.one_hot(labels, 5).double())
        moved, temperature = logits + (lead / most.clamp(min=1e-30)).clamp(0.01, 1) * most, 1.0
    elif isinstance(loss, OffsetCrossEntropy):
        moved, temperature = logits - 1.2 * F.one_hot(labels, 5), 0.6
    else:
        moved, temperature = logits, 0.5
    log_p = (moved / temperature).log_softmax(1)
    plain = -log_p.gather(1, labels[:, None]).squeeze(1)
    smoothed = dataclasses.replace(loss, smoothing=0.3)
    change = smoothed(logits, labels, reduction="none") - loss(logits, labels, reduction="none")
    torch.testing.assert_close(change, 0.3 * (-log_p.mean(1) - plain))
    for wrong in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="`smoothing` must be from 0 to below 1"):
            dataclasses.replace(loss, smoothing=wrong)


def test_an_offset_for_a_radius_is_twice_the_margin_needed():
    loss = OffsetCrossEntropy.for_radius("36/255", smoothing=0.1)
    assert math.isclose(loss.offset, 2 * math.sqrt(2) * 36 / 255)
    assert (loss.temperature, loss.smoothing) == (0.25, 0.1)
    assert OffsetCrossEntropy.for_radius(0.5).offset == OffsetCrossEntropy.for_radius("0.5").offset
    # Classes look tied where the margin is twice that of the radius.
    tied = loss(torch.tensor([[loss.offset, 0.0]]), torch.tensor([0]))
    torch.testing.assert_close(tied, torch.tensor(math.log(2)))
    radius = taut.certified_radius(torch.tensor([[loss.offset, 0.0]]), torch.tensor([0]), 1.0)
    assert math.isclose(radius.item(), 2 * 36 / 255, rel_tol=1e-6)
    for wrong in (0, "1/0", "none", math.inf, "1e999999999"):
        with pytest.raises(ValueError, match="`eps` must be a positive number or a text"):
            OffsetCrossEntropy.for_radius(wrong)


@pytest.mark.parametrize("loss", [cls() for cls in kinds().values()], ids=lambda loss: loss.kind)
def test_a_batch_without_images_has_no_mean(loss):
    shape = (0, 1) if isinstance(loss, TWO_SAMPLES) else (0, 3)
    with pytest.raises(ValueError, match=r"`logits` must hold at least one image; got \(0, "):
        loss(torch.zeros(shape), torch.zeros(0).long())


def test_classes_that_are_all_the_same_are_refused():
    with pytest.raises(ValueError, match="`labels` must hold at least two classes"):
        HingeKRMulticlass()(torch.zeros(2, 3), torch.tensor([1, 1]))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_weights_and_margins_are_positive(value):
    for loss in (HingeKR, HingeKRMulticlass):
        with pytest.raises(ValueError, match="`alpha` must be a positive number; got"):
            loss(alpha=value, margin=1.0)
        with pytest.raises(ValueError, match="`margin` must be a positive number; got"):
            loss(alpha=1.0, margin=value)


@pytest.mark.parametrize("loss", [cls() for cls in kinds().values()], ids=lambda loss: loss.kind)
def test_reductions(loss, batch, two_samples):
    inputs = two_samples if isinstance(loss, TWO_SAMPLES) else batch
    each, count = loss(*inputs, reduction="none"), len(inputs[0])
    assert each.shape == (count,)
    torch.testing.assert_close(each.mean(), loss(*inputs))
    torch.testing.assert_close(loss(*inputs, reduction="sum"), loss(*inputs) * count)
    assert loss(LossInputs(*inputs), reduction="sum") == loss(*inputs, reduction="sum")
    with pytest.raises(ValueError, match="`reduction` must be 'none', 'sum' or 'mean'; got 'all'"):
        loss(*inputs, reduction="all")


@pytest.mark.parametrize("loss", [cls() for cls in kinds().values()], ids=lambda loss: loss.kind)
def test_parts_of_a_batch_make_up_its_loss(loss, batch, two_samples):
    """Also where a part has one class alone."""
    logits, labels = two_samples if isinstance(loss, TWO_SAMPLES) else batch
    logits.requires_grad_()
    expected = loss(logits, labels)
    (gradient,) = torch.autograd.grad(expected, logits)
    counts = label_counts(labels, 2 if isinstance(loss, TWO_SAMPLES) else 5)
    assert loss(logits, labels, counts=counts) == expected
    order = labels.argsort()
    total = logits.new_zeros(())
    for part in order.split([1, 2, len(order) - 3]):
        total = total + loss(logits[part], labels[part], counts=counts) * len(part) / len(order)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(torch.autograd.grad(total, logits)[0], gradient)
    assert loss.compares_classes == (loss.kind in ("kr", "hinge-kr", "hinge-kr-multiclass"))


def test_counts_are_of_signs_and_truth_values_too():
    for labels in ([1, -1, 1], [1, 0, 1], [True, False, True], [[1.0], [-1.0], [1.0]]):
        assert label_counts(torch.tensor(labels)).tolist() == [1, 2]
    assert label_counts(torch.tensor([3, 1]), 5).tolist() == [0, 1, 0, 1, 0]
    for loss in (KR(), HingeKR()):
        with pytest.raises(ValueError, match="`labels` must hold both classes"):
            loss(torch.ones(2), torch.tensor([1, 1]), counts=torch.tensor([0, 4]))


class WithoutTerms(AbstractLoss):
    kind = "without-terms"

    def value(self, inputs):
        return inputs.logits.square().mean()


def test_a_loss_of_a_batch_has_no_terms(batch):
    loss = WithoutTerms()
    torch.testing.assert_close(loss(*batch, reduction="sum"), 7 * batch[0].square().mean())
    with pytest.raises(ValueError, match="must be 'mean' or 'sum' for WithoutTerms; got 'none'"):
        loss(*batch, reduction="none")


@pytest.mark.parametrize("loss", [cls() for cls in CLASSIFICATION], ids=lambda loss: loss.kind)
def test_logits_that_are_not_numbers_have_no_loss(loss, batch):
    logits, labels = batch
    assert loss(logits.clone().index_fill_(0, torch.tensor([0]), math.nan), labels).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [cls() for cls in CLASSIFICATION], ids=lambda loss: loss.kind)
def test_losses_of_half_precision_are_computed_in_single(loss, batch, dtype):
    logits, labels = batch[0].to(dtype), batch[1]
    head = torch.eye(5).to(dtype)
    expected = loss(logits.float(), labels, head=head.float())
    assert expected.isfinite()
    assert torch.equal(loss(logits, labels, head=head), expected)


@pytest.mark.parametrize("loss", [cls() for cls in CLASSIFICATION], ids=lambda loss: loss.kind)
def test_what_a_loss_cannot_use_is_refused_in_one_sentence(loss, batch, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    logits, labels = batch
    for wrong, name in (
        ((logits.long(), labels), "logits"), ((logits.tolist(), labels), "logits"),
        ((logits.numpy(), labels), "logits"), ((logits[:, :1], 0 * labels), "logits"),
        ((logits, labels.tolist()), "labels"), ((logits, labels + 0j), "labels"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"^`{name}` must be [^\n]*; got [^\n]*\.$"):
            loss(*wrong)
    for name, values in (
        ("bound", (-1.0, math.nan, math.inf, "2", True, 10**400, torch.ones(5), -torch.ones(()))),
        ("head", (torch.eye(5).numpy(), torch.eye(5).long(), "x")),
        ("progress", (-0.1, 1.1, math.nan, "x")), ("counts", ([1, 2], 3)),
    ):  # fmt: skip
        for value in values:
            with pytest.raises(ValueError, match=rf"^`{name}` must be "):
                loss(logits, labels, **{name: value})
    with pytest.raises(ValueError, match="must be in the LossInputs object"):
        loss(LossInputs(logits, labels), bound=2.0)


def test_a_proven_bound_is_a_bound(batch):
    bound = LipschitzBound(1.5)
    assert EMMA(0.3)(*batch, bound=bound) == EMMA(0.3)(*batch, bound=1.5)


def test_counts_of_labels_that_are_no_classes_are_refused():
    for labels, classes in (([0, -1], 3), ([-2, 1], 2), ([3], 3)):
        with pytest.raises(ValueError, match=r"`labels` must be from (-1|0) to (1|2); got"):
            label_counts(torch.tensor(labels), classes)


@pytest.mark.parametrize("loss", [KR(), HingeKR(), HingeKRMulticlass()], ids=lambda loss: loss.kind)
def test_counts_of_another_number_of_classes_are_refused(loss):
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    for counts in (torch.tensor([4]), torch.tensor([2, 2, 0]), torch.tensor(4)):
        with pytest.raises(ValueError, match=r"`counts` must be of shape \(2,\); got \("):
            loss(logits, labels, counts=counts)
