"""Plain networks converted: the same sizes, 1-Lipschitz, and nothing left unsaid."""

import copy
import re
from functools import partial
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from taut.export import Change


def cnn() -> nn.Sequential:
    """A network as one finds it."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU(), nn.Dropout(0.1)),
        nn.Conv2d(8, 6, 1, 2),
        nn.LeakyReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5, bias=False),
        nn.LayerNorm(5),
        nn.SiLU(),
        nn.Linear(5, 4),
    )


def bound(model: nn.Module, shape: tuple[int, ...]) -> float:
    return float(taut.lipschitz_bound(copy.deepcopy(model).eval(), shape))


@pytest.mark.parametrize("size", [(16, 16), (15, 17), (33, 20)])
def test_a_plain_cnn_becomes_1_lipschitz_and_keeps_its_sizes(size):
    plain, x = cnn(), torch.rand(2, 3, *size)
    converted = taut.convert(plain)
    assert converted.left == ()
    assert converted.model(x).shape == plain(x).shape
    for layer, twin in zip(plain[:8], converted.model[:8], strict=True):
        y = layer(x)
        assert twin(x).shape == y.shape
        x = y
    assert bound(converted.model, (3, *size)) < 1 + 1e-5


def test_the_list_names_every_change():
    lines = str(taut.convert(cnn())).splitlines()
    assert lines[:5] == [
        "0: Conv2d -> taut.nn.Conv2d",
        "1: BatchNorm2d -> Identity (normalisations are removed)",
        "2: ReLU -> taut.nn.MaxMin (keeps the norm of gradients)",
        "3: MaxPool2d -> MaxPool2d (windows (2, 2) for (3, 3): they may not overlap)",
        "4.0: Conv2d -> taut.nn.Conv2d",
    ]
    assert len(lines) == 13


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "mode"),
    [
        (3, 1, 1, "zeros"), (3, 1, 1, "circular"), (3, 1, 0, "circular"), (3, 1, "same", "zeros"),
        (3, 2, 1, "zeros"), (5, 2, 2, "circular"), (1, 2, 0, "zeros"), (4, 2, 1, "zeros"),
        (4, 4, 0, "zeros"), ((3, 5), (1, 2), (1, 2), "zeros"), (3, 1, "valid", "zeros"),
        (4, 2, 0, "circular"), (3, 1, 3, "zeros"), (6, 3, 2, "circular"),
    ],
)  # fmt: skip
def test_every_convolution_keeps_the_size_of_its_output(kernel, stride, padding, mode):
    for size in ((8, 8), (9, 11), (12, 7)):
        plain = nn.Conv2d(2, 4, kernel, stride, padding, padding_mode=mode, dtype=torch.float64)
        model, changes = taut.convert(plain)
        x = torch.rand(1, 2, *size, dtype=torch.float64)
        assert type(model) is taut.nn.Conv2d, changes
        expected = plain(x).shape
        if mode == "circular" and any(n % s for n, s in zip(size, model.stride, strict=True)):
            continue  # extended by zeros: as large or larger
        assert model(x).shape == expected
        assert model(x).dtype == torch.float64
        assert bound(model, (2, *size)) < 1 + 1e-9


LEFT = {
    "overlapping pool": (nn.MaxPool2d(3, 2), "overlap"),
    "dilated pool": (nn.MaxPool2d(2, dilation=2), "dilated"),
    "attention": (nn.MultiheadAttention(4, 1), "it has weights, and taut.nn has no replacement"),
    "glu": (nn.GLU(1), "no proven bound"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_has_no_twin_is_left_and_listed(case):
    layer, note = LEFT[case]
    model, (change,) = taut.convert(nn.Sequential(layer))
    assert change.name == "0"
    assert change.after is None
    assert note in change.note
    assert "LEFT AS IT IS" in str(change)
    assert type(model[0]) is type(layer)


KEPT = {
    "groups": (nn.Conv2d(4, 4, 3, groups=2), ""),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), "AOL: almost orthogonal"),
    "depthwise with a stride": (nn.Conv2d(4, 4, 3, 2, groups=4), ""),
    "dilation": (nn.Conv2d(4, 4, 3, padding=2, dilation=2), ""),
    "pixels that are not read": (nn.Conv2d(4, 8, 1, 2), "AOL: almost orthogonal"),
    "reflection": (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "root of its copies"),
    "odd stride": (nn.Conv2d(4, 4, 3, 2), ""),
    "wide circular padding": (nn.Conv2d(4, 4, 3, padding=2, padding_mode="circular"), "zeros for"),
    "transposed": (nn.ConvTranspose2d(4, 4, 3), ""),
    "transposed with an odd stride": (nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), ""),
    "transposed groups": (nn.ConvTranspose2d(4, 4, 3, 2, 0, 0, 2, dilation=3), ""),
}


@pytest.mark.parametrize("case", KEPT)
def test_convolutions_keep_their_arguments(case):
    layer, note = KEPT[case]
    model, (change,) = taut.convert(nn.Sequential(layer))
    assert note in change.note
    assert bool(note) == bool(change.note)
    for name in ("kernel_size", "stride", "dilation", "groups"):
        assert getattr(model[0], name) == getattr(layer, name)
    x = torch.rand(1, 4, 7, 7)
    assert model(x).shape == layer(x).shape
    assert bound(model, (4, 7, 7)) <= 1 + 1e-6


@pytest.mark.parametrize("windows", [(2,), (3, 2), ((3, 2), 2, True)])
def test_norm_pools_are_divided_by_the_root_of_their_overlap(windows):
    plain = nn.LPPool2d(2, *windows)
    model, (change,) = taut.convert(nn.Sequential(plain))
    assert change.after == "taut.nn.L2NormPool2d"
    x = torch.rand(1, 2, 7, 8, dtype=torch.float64)
    assert model(x).shape == plain(x).shape
    assert bound(model, (2, 7, 8)) <= 1
    if windows == (2,):
        torch.testing.assert_close(model(x), plain(x))
    assert type(taut.convert(nn.Sequential(nn.LPPool2d(4, 2))).model[0]) is nn.LPPool2d


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)])
        self.alias = self.steps[0]
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.steps[0](x)))
        return x + self.alias(self.steps[1](y))


def test_sums_and_functions_in_classes_of_a_users_own_are_rewritten():
    model, changes = taut.convert(nn.Sequential(Block(), nn.Identity()))
    names = {(change.name, change.before, change.after) for change in changes}
    assert ("0.steps.1", "Conv2d", "taut.nn.Conv2d") in names
    assert ("0.norm", "BatchNorm2d", "Identity") in names
    rewritten = {(change.before, change.after) for change in changes}
    assert {("relu", "taut.nn.MaxMin"), ("add", "taut.nn.ConvexSum")} <= rewritten
    assert all(change.after is not None for change in changes)
    assert bound(model, (4, 6, 6)) <= 1 + 1e-5


def test_the_original_is_left_as_it_was_and_modes_are_kept():
    plain = cnn()
    plain[4].eval()
    before, types = copy.deepcopy(plain.state_dict()), [type(m) for m in plain.modules()]
    converted = taut.convert(plain).model
    for parameter in converted.parameters():
        parameter.data.zero_()
    assert types == [type(m) for m in plain.modules()]
    assert all(torch.equal(before[k], v) for k, v in plain.state_dict().items())
    assert [m.training for m in converted] == [m.training for m in plain]


def test_methods_can_be_chosen_and_converted_models_train():
    model = taut.convert(cnn(), parametrization=taut.RKO, dense=taut.RKO).model
    assert type(model[0].parametrization) is taut.RKO
    assert type(model[9].parametrization) is taut.RKO
    assert model[9].bias is None
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.rand(2, 3, 8, 8)).square().sum().backward()
    optimiser.step()
    assert bound(model, (3, 8, 8)) < 1 + 1e-5


def test_models_of_taut_stay_as_they_are():
    assert taut.convert(taut.models.Small().build((1, 8, 8), 3)).changes == ()


def test_what_cannot_be_copied_is_refused():
    plain = nn.Sequential(nn.ReLU())
    plain.held = (i for i in range(3))
    with pytest.raises(ValueError, match=re.escape("`model` cannot be copied")):
        taut.convert(plain)


def test_a_change_is_one_line():
    assert str(Change("a", "B", "C")) == "a: B -> C"


class Unpooling(nn.Module):
    """Gives its transposed convolution the size of the output."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1)

    def forward(self, x):
        return self.up(self.down(x), output_size=[x.shape[2], x.shape[3]])


def test_the_size_that_a_forward_asks_for_is_given():
    converted = taut.convert(Unpooling(), (2, 9, 9))
    assert not converted.left
    assert float(taut.lipschitz_bound(converted.model, (2, 9, 9))) <= 1 + 1e-5
    for n in (8, 9):
        assert converted.model(torch.rand(1, 2, n, n)).shape == (1, 2, n, n)


@pytest.mark.parametrize("method", [taut.Cayley, taut.SLL, partial(taut.AOL, learn_scale=True)])
def test_convolutions_have_the_method_that_was_asked_for(method):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 2, 4, 2, 1))
    converted = taut.convert(net, (3, 8, 6), parametrization=method)
    assert not converted.left
    kind = method.func if isinstance(method, partial) else method
    assert {type(converted.model[i].parametrization) for i in (0, 2)} == {kind}
    assert converted.model(torch.zeros(1, 3, 8, 6)).shape == net(torch.zeros(1, 3, 8, 6)).shape


def test_where_the_method_has_no_kernel_the_list_says_so():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, padding=1))
    model, (change,) = taut.convert(net, parametrization=taut.Cayley)
    assert isinstance(model[0].parametrization, taut.AOL)
    assert change.note.startswith("AOL in place of Cayley: `stride` must divide `kernel_size`")


def test_what_is_no_method_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    net: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 4))
    for name in ("parametrization", "dense"):
        for wrong in ("SLL", taut.Orthogonal(4, 4)):
            with pytest.raises(ValueError, match=f"`{name}` must be a class of taut.param"):
                taut.convert(net, **{name: wrong})
    for wrong in (taut.Exponential, partial(taut.Householder, reflections=2)):
        with pytest.raises(ValueError, match=r"convolutions; got \w+, which is .* as `dense`"):
            taut.convert(net, parametrization=wrong)
        taut.convert(net, dense=wrong)
