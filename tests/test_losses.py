import math

import pytest
import torch
import torch.nn.functional as F

from taut.losses import MultiMargin, OffsetCrossEntropy, multi_margin, offset_cross_entropy


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
    assert math.isclose(multi_margin(logits, labels, eps_train=1.3).item(), total / 7)
    torch_loss = F.multi_margin_loss(logits, labels, margin=math.sqrt(2) * 1.3)
    torch.testing.assert_close(multi_margin(logits, labels, eps_train=1.3), torch_loss)


def test_multi_margin_vanishes_exactly_where_all_is_certified():
    eps = 0.5
    margins = math.sqrt(2) * torch.tensor([0.49, 0.51], dtype=torch.float64)
    losses = [
        multi_margin(torch.tensor([[m, 0.0]]), torch.tensor([0]), eps_train=eps) for m in margins
    ]
    assert losses[0] > 0
    assert losses[1] == 0


def test_offset_cross_entropy_is_the_log_of_the_softmax(batch):
    logits, labels = batch
    total = 0.0
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        scaled = [(value - (2.2 if j == y else 0.0)) / 0.35 for j, value in enumerate(z)]
        total += math.log(sum(map(math.exp, scaled))) - scaled[y]
    loss = offset_cross_entropy(logits, labels, offset=2.2, temperature=0.35)
    assert math.isclose(loss.item(), total / 7)


def test_without_offset_and_at_temperature_one_it_is_cross_entropy(batch):
    logits, labels = batch
    loss = offset_cross_entropy(logits, labels, offset=0.0, temperature=1.0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


def test_modules_are_the_functions(batch):
    logits, labels = batch
    assert MultiMargin(eps_train=0.7)(logits, labels) == multi_margin(logits, labels, eps_train=0.7)
    module = OffsetCrossEntropy(offset=1.0, temperature=0.5)
    assert module(logits, labels) == offset_cross_entropy(
        logits, labels, offset=1.0, temperature=0.5
    )


def test_gradients(batch):
    logits, labels = batch
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: multi_margin(z, labels, eps_train=0.7), logits)
    loss = OffsetCrossEntropy(offset=1.0, temperature=0.5)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_out_of_range_numbers_are_refused_by_name(value):
    with pytest.raises(ValueError, match="`eps_train` must be a positive number; got"):
        MultiMargin(eps_train=value)
    with pytest.raises(ValueError, match="`temperature` must be a positive number; got"):
        OffsetCrossEntropy(offset=0.0, temperature=value)


def test_negative_offset_is_refused():
    with pytest.raises(ValueError, match=r"`offset` must be a number >= 0; got -0\.1"):
        OffsetCrossEntropy(offset=-0.1, temperature=1.0)
