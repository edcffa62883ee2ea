"""Architectures of the papers: sizes, bounds, certificates, files, and a step of training."""

import pytest
import torch

import taut
from taut.models import SimpleNet, layers


def numbers(net):
    """Numbers in the parameters of a net but for its biases."""
    return sum(p.numel() for name, p in net.named_parameters() if not name.endswith("bias"))


@pytest.mark.parametrize(("name", "published"), [("xs", 1.6), ("s", 6.3), ("m", 25), ("l", 100)])
def test_the_simple_net_has_the_published_sizes(name, published):
    net = taut.models.build(f"simple-{name}", parametrization=taut.AOL, device="meta")
    w = SimpleNet.configurations[name]["width"]
    stages = 5 * 9 * sum((w * 2**i) ** 2 for i in range(4)) + 5 * (16 * w) ** 2
    assert numbers(net) == w**2 + stages + (32 * w) ** 2
    assert numbers(net) / 1e6 == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("name", layers())
def test_the_simple_net_takes_every_layer(name):
    layer, method = layers()[name]
    torch.manual_seed(0)
    net = SimpleNet(width=4, depth=1, blocks=3, layer=layer)
    net = net.build((3, 9, 16), 10, parametrization=method).eval()
    assert net(torch.rand(2, 3, 9, 16)).shape == (2, 10)
    if method.guarantee != "none":
        assert float(taut.lipschitz_bound(net, (3, 9, 16))) <= 1 + 2e-5
