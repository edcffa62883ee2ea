"""Architectures of the papers: sizes, bounds, certificates, files, and steps of training."""

import copy
import dataclasses
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

import taut
from exported_nets import in_onnxruntime
from proven import assert_certified, assert_files_agree, jacobians
from taut.cli.app import main
from taut.models import (
    AbstractNet,
    AOLNet,
    BRONet,
    CPLNet,
    LipConvNet,
    LipNeXt,
    LiResNet,
    ResNet,
    SandwichNet,
    SimpleNet,
    SLLNet,
    Small,
    build,
    configurations,
    kinds,
    layers,
)
from taut.training import Recipe
from thinning import one_in

DEEP = {"depth": 2, "features": 12, "dense_depth": 1, "unit_rows": False}
TINY: dict[str, AbstractNet] = {
    "aol": AOLNet(patch=2, width=8, depth=2, kept=3, dense_depth=2),
    "bronet": BRONet(width=6, rank=2, **DEEP),
    "cpl": CPLNet(width=6, depth=2, dense_depth=2, dense_hidden=8, unit_rows=False),
    "lipconvnet": LipConvNet(depth=5, width=2),
    "lipnext": LipNeXt(depth=2, width=14, unit_rows=False),
    "liresnet": LiResNet(width=6, **DEEP),
    "resnet": ResNet(blocks=(1, 2), width=6, stem_kernel=3, stem_stride=2, unit_rows=False),
    "sandwich": SandwichNet(width=4, stages=2, features=12, unit_rows=False),
    "simple": SimpleNet(width=4, blocks=3, depth=2),
    "sll": SLLNet(width=6, depth=2, dense_depth=2, dense_hidden=8, unit_rows=False),
}
SHAPE = (3, 9, 8)
DATA = {"mnist": ((1, 28, 28), 10), "cifar10": ((3, 32, 32), 10), "cifar100": ((3, 32, 32), 100),
        "tiny": ((3, 64, 64), 200)}  # fmt: skip


def made(kind, **options):
    torch.manual_seed(0)
    return TINY[kind].build(SHAPE, 5, **options).eval()


def size(name, data="cifar10", **options):
    """Millions of parameters of a net of a published size, which needs no memory."""
    net = build(name, *DATA[data], device="meta", **options)
    return sum(p.numel() for p in net.parameters()) / 1e6


def test_every_architecture_has_a_small_size_and_is_tested():
    nets = {kind for kind, cls in kinds().items() if issubclass(cls, AbstractNet)}
    assert nets == TINY.keys()
    assert {f"{kind}-small" for kind in nets} <= configurations().keys()


@pytest.mark.parametrize(
    ("name", "data", "published", "options"),
    [
        ("aol-l", "cifar10", 136, {}),
        ("bronet-l12w512", "cifar10", 68, {}),
        ("cpl-xl", "cifar10", 236, {}),
        ("lipnext-l32w1024", "cifar10", 64 * 2**20 / 1e6, {}),  # in units of 2^20
        ("lipnext-l32w2048", "cifar10", 256 * 2**20 / 1e6, {}),
        ("liresnet-l12w512", "cifar10", 83, {}),
        ("sandwich-3", "cifar100", 26, {"parametrization": taut.AOL}),  # of plain kernels
        ("sandwich-4", "tiny", 39, {"parametrization": taut.AOL}),
        ("simple-xs", "cifar10", 1.6, {"parametrization": taut.AOL}),
        ("simple-s", "cifar10", 6.3, {"parametrization": taut.AOL}),
        ("simple-m", "cifar10", 25, {"parametrization": taut.AOL}),
        ("simple-l", "cifar10", 100, {"parametrization": taut.AOL}),
        ("sll-xl", "cifar10", 236, {}),
    ],
)
def test_parameters_are_as_many_as_published(name, data, published, options):
    tolerance = 0.05 if published < 10 else 0.8  # papers round down, too
    assert size(name, data, **options) == pytest.approx(published, abs=tolerance)


def test_other_numbers_of_parameters_differ_for_the_reason_stated():
    last = 1024 * (1024 - 10) / 1e6  # the paper's last layer is square, and all but 10 are dropped
    assert size("lipconvnet-15") + last == pytest.approx(24.1, abs=0.05)
    dense = 4 * 2048 * (2048 - 256) / 1e6  # matrices in place of reflectors of rank 256
    assert size("bronet-l6w512", "tiny") - dense == pytest.approx(75, abs=0.8)
    blocks = 2 * 32 * 1024**2 / 1e6
    assert 0 < size("lipnext-l32w1024") - blocks < 0.1


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (AOLNet, ["aol-s", "aol-m"]),
        (BRONet, ["bronet-l12w512"]),
        (LipConvNet, ["lipconvnet-15"]),
        (LipNeXt, ["lipnext-l32w1024"]),
        (LiResNet, ["liresnet-l12w512"]),
        (SimpleNet, ["simple-m", "simple-l"]),
        (SLLNet, ["sll-s", "sll-m"]),
    ],
)
def test_sizes_in_docstrings(cls, names):
    assert [name for name in names if f"{size(name):.1f} M" not in cls.__doc__] == []


def test_sizes_in_the_documentation():
    """Of docs/models.md, and of `resnet-34` in its docstring."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d.]+) \|", page, flags=re.MULTILINE)
    assert len(rows) > 15
    for name, stated in rows:
        digits = len(stated.partition(".")[2])
        assert f"{size(name):.{digits}f}" == stated, name
    assert round(size("bronet-l6w512", "tiny")) == 90
    kernels = build("resnet-34", (3, 224, 224), 1000, parametrization=taut.AOL, device="meta")
    bcop = build("resnet-34", (3, 224, 224), 1000, device="meta")
    counts = [
        sum(p.numel() for name, p in net.named_parameters() if "raw" in name and "head" not in name)
        for net in (kernels, bcop)
    ]
    assert [round(n / 1e6, 2) for n in counts] == [18.0, 6.26]


@pytest.mark.parametrize(
    ("kind", "data"), one_in(3, [(kind, data) for data in DATA for kind in TINY])
)
def test_small_sizes_take_the_usual_images(kind, data):
    shape, classes = DATA[data]
    net = build(f"{kind}-small", shape, classes).eval()
    with torch.no_grad():
        assert net(torch.rand(2, *shape)).shape == (2, classes)


@pytest.mark.parametrize("kind", TINY)
def test_nets_are_1_lipschitz_but_liresnet(kind):
    net = made(kind, dtype=torch.float64)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    bound = float(taut.lipschitz_bound(net, SHAPE))
    assert jacobians(net, SHAPE).max() <= bound * (1 + 1e-9)
    assert bound > 1 if kind == "liresnet" else bound <= 1 + 1e-9


@pytest.mark.parametrize(
    ("kind", "model"), one_in(3, [case for case in TINY.items() if "unit_rows" in vars(case[1])])
)
def test_heads_of_unit_rows_are_certified_pair_by_pair(kind, model):
    torch.manual_seed(0)
    net = dataclasses.replace(model, unit_rows=True).build(SHAPE, 5).eval()
    bound, features = (taut.lipschitz_bound(part, SHAPE) for part in (net, net[:-1]))
    head: Any = net[-1]
    if kind != "liresnet":
        assert float(features) <= 1 + 1e-5
    rows = head.weight.detach().double()
    lengths = torch.cdist(rows, rows) * float(features)
    torch.testing.assert_close(bound.pairwise, lengths, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", TINY)
def test_steps_of_training_lower_the_loss(kind):
    net, loss = made(kind).train(), taut.losses.OffsetCrossEntropy(offset=0.5)
    x, labels = torch.rand(16, *SHAPE), torch.arange(16) % 5
    optimiser, values = torch.optim.Adam(net.parameters(), lr=3e-3), []
    for _ in range(6):
        optimiser.zero_grad()
        values.append(loss(net(x), labels))
        values[-1].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        optimiser.step()
    assert values[-1] < values[0]


@pytest.mark.parametrize(("kind", "dtype"), one_in(5, [(kind, torch.float32) for kind in TINY]))
def test_nets_are_certified_verified_and_exported(kind, dtype, tmp_path):
    torch.manual_seed(0)
    shape = (3, 8, 8)
    net, x = TINY[kind].build(shape, 5, dtype=dtype).eval(), torch.rand(2, *shape, dtype=dtype)
    frozen = taut.freeze(net, shape)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), net(x), rtol=1e-5, atol=1e-6)
    assert assert_certified(copy.deepcopy(frozen), shape, tmp_path) > 0.1
    assert_files_agree(frozen, shape, tmp_path)


@pytest.mark.parametrize("kind", ["sandwich", "sll"])
def test_nets_of_odd_images_are_exported(kind, tmp_path):
    net, x = made(kind), torch.rand(2, *SHAPE)
    taut.export.export(net, tmp_path / "net.onnx", SHAPE)
    with torch.no_grad():
        y = net(x)
    torch.testing.assert_close(in_onnxruntime(tmp_path / "net.onnx", x), y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", TINY)
def test_a_seed_decides_the_weights_which_copies_and_states_keep(kind):
    net, again = made(kind), made(kind)
    x = torch.rand(2, *SHAPE)
    torch.manual_seed(1)
    other = TINY[kind].build(SHAPE, 5).eval()
    assert torch.equal(net(x), again(x))
    assert not torch.equal(net(x), other(x))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))


@pytest.mark.parametrize(("name", "kind"), one_in(3, layers().items()))
def test_the_simple_net_takes_every_layer(name, kind):
    layer, method = kind
    torch.manual_seed(0)
    net = SimpleNet(width=4, depth=1, blocks=2, layer=layer)
    net = net.build(SHAPE, 10, parametrization=method, dtype=torch.float64).eval()
    assert net(torch.rand(2, *SHAPE, dtype=torch.float64)).shape == (2, 10)
    if method.guarantee != "none":
        assert float(taut.lipschitz_bound(net, SHAPE)) <= 1 + 1e-9


@pytest.mark.parametrize("layer", taut.models.LAYERS)
def test_lipconvnet_takes_every_class_of_layers(layer):
    torch.manual_seed(0)
    net = LipConvNet(depth=5, width=2, layer=layer).build(SHAPE, 5, dtype=torch.float64).eval()
    assert net(torch.rand(2, *SHAPE, dtype=torch.float64)).shape == (2, 5)
    bound = taut.lipschitz_bound(net, SHAPE)
    assert max(row.bound for row in bound.layers) <= 1 + 1e-9
    assert float(bound) <= (1 + 1e-9) ** 5  # of as many convolutions


def test_the_simple_net_has_the_layers_of_the_paper():
    net: Any = build("simple-xs", parametrization=taut.AOL, device="meta")
    sizes = [
        (m.in_channels, m.out_channels, m.kernel_size[0])
        for m in net.modules()
        if isinstance(m, taut.nn.Conv2d)
    ]
    blocks = [(16 * 2**i, 16 * 2**i, 3 if i < 4 else 1) for i in range(5) for _ in range(5)]
    assert sizes == [(16, 16, 1), *blocks]
    assert (net.dense.in_features, net.dense.out_features) == (512, 512)


def test_larger_images_are_pooled():
    net = SimpleNet(width=4, blocks=2, depth=1).build(SHAPE, 3)
    assert isinstance(net.pool, nn.AdaptiveMaxPool2d)
    assert net(torch.rand(2, *SHAPE)).shape == (2, 3)


@pytest.mark.parametrize(
    "net", [TINY["aol"], TINY["simple"], LipConvNet(depth=10, width=4, layer="Conv2d")]
)
def test_aol_starts_at_the_identity(net):
    net = net.build((3, 8, 8), 5, parametrization=taut.AOL, dtype=torch.float64)
    assert float(taut.lipschitz_bound(net, (3, 8, 8))) == pytest.approx(1, abs=1e-9)


def test_backbones_know_their_depth_and_rank():
    lires = [m for m in made("liresnet").modules() if isinstance(m, taut.LiRes)]
    assert [m.depth for m in lires] == [2, 2]
    bro = [m for m in made("bronet").modules() if isinstance(m, taut.BRO)]
    assert [m.rank for m in bro] == [2, 2]
    other: Any = made("bronet", parametrization=partial(taut.BCOP, init="uniform"))
    assert any(isinstance(m, taut.BCOP) for m in other.backbone.modules())
    assert (
        "centering"
        not in repr(dataclasses.replace(TINY["bronet"], centering=False).build(SHAPE, 5)).lower()
    )


@pytest.mark.parametrize("name", ["simple-m", "resnet-34", "aol-s", "lipnext-small"])
def test_recipes_name_sizes_and_store_settings(name):
    recipe = Recipe.from_json(json.dumps({"name": "x", "data": "cifar10", "model": name}))
    assert recipe.model == configurations()[name]
    assert recipe.parametrization is recipe.model.method
    assert Recipe.from_json(recipe.to_json()) == recipe
    values = {"kind": name, "padding_mode": "zeros"}
    recipe = Recipe.from_json(json.dumps({"name": "x", "data": "cifar10", "model": values}))
    assert recipe.model == dataclasses.replace(configurations()[name], padding_mode="zeros")


@pytest.mark.parametrize(
    ("words", "model", "method"),
    [
        (("--model", "aol-small"), configurations()["aol-small"], "AOL"),
        (("--model=aol-small", "--model.depth", "1"),
         dataclasses.replace(configurations()["aol-small"], depth=1), "AOL"),
        (("--parametrization", "BCOP", "--model", "aol-small"), configurations()["aol-small"],
         "BCOP"),
        (("--parametrization", "RKO", "--model", "simple-small"), configurations()["simple-small"],
         "RKO"),
    ],
)  # fmt: skip
def test_the_command_line_names_sizes(words, model, method, tmp_path, capsys):
    path = tmp_path / "mine.json"
    dataset = ("--dataset", "fashion-mnist-subset")
    assert main(["train", "--init", str(path), *dataset, *words]) == 0, capsys.readouterr().err
    recipe = Recipe.from_json(path.read_text())
    assert (recipe.model, recipe.parametrization.__name__) == (model, method)


def test_the_list_has_all_sizes(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in configurations())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: build("sll-xxl"), "`name` must be one of"),
        (lambda: SimpleNet(layer="conv"), "`layer` must be one of Conv2d, PotentialResidual2d, "),
        (lambda: SimpleNet(width=3), "`width` must be even, as blocks halve it; got 3."),
        (lambda: SimpleNet(depth=0), "`depth` must be a positive integer; got 0."),
        (lambda: LipConvNet(depth=12), "`depth` must be a multiple of 5, the stages; got 12."),
        (lambda: ResNet(blocks=()), r"`blocks` must be positive integers; got \(\)."),
        (lambda: ResNet(blocks=(2, 0)), "Each of `blocks` must be a positive integer; got 0."),
        (lambda: SandwichNet(features=1), "`features` must be an integer >= 2; got 1."),
        (lambda: SLLNet(width=2).build((3, 8, 8), 3), "`width` must be at least 3, the channels"),
        (lambda: SimpleNet().build((3, 32), 3), "`input_shape` must be channels, height and"),
        (lambda: AOLNet().build((3, 0, 8), 3), "Each of `input_shape` must be a positive"),
        (lambda: Small().build((3, 0, 8), 3), "Each of `input_shape` must be a positive"),
        (lambda: Small().build((3, 8, 8), 0), "`classes` must be a positive integer; got 0."),
        (lambda: SimpleNet(width=4, blocks=1).build((3, 2, 2), 9), "`classes` must be at most 8,"),
        (lambda: AOLNet(width=8, kept=9).build((3, 8, 8), 3), "`kept` must be at most 8, the"),
        (lambda: LipConvNet().build((3, 32, 32), 9, parametrization=taut.AOL),
         "`parametrization` must be left at BCOP for layer='SOC2d'"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        wrong()


def test_first_channels():
    layer, x = taut.nn.FirstChannels(2), torch.rand(3, 4, 5)
    assert torch.equal(layer(x), x[:, :2])
    assert taut.lipschitz_bound(layer, (4, 5)).value == 1
    sigma = taut.singular_values(layer, (4, 5))
    assert torch.equal(sigma, torch.ones(10, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"`input` must have at least 2 channels .* \(3, 1\)"):
        layer(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="`channels` must be a positive integer; got 0"):
        taut.nn.FirstChannels(0)


def test_convex_sums_follow_device_and_dtype():
    options = {"device": "meta", "dtype": torch.float64}
    for kind in (taut.nn.ConvexResidual, taut.nn.ConcatResidual):
        raw = kind(nn.ReLU(), **options).join.raw
        assert (raw.device.type, raw.dtype) == ("meta", torch.float64)


@pytest.mark.parametrize("kind", taut.models.kinds())
def test_a_shape_that_is_no_shape_is_refused_in_one_sentence(kind, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    for wrong in (8, None, "188", ("1", 8, 8), (1, 8.5, 8), (True, 8, 8), (0, 8, 8), (1, -3, 8)):
        with pytest.raises(ValueError, match=r"^(Each of )?`input_shape` must be "):
            taut.models.kinds()[kind]().build(wrong, 3, device="meta")
