import math

import pytest
import torch

import taut
from taut.models import ModelConfig, build, fc3, large, small, wide
from taut.models._sequence import sequence
from taut.nn import Conv2d, Linear, MaxMin

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 9, 7), (2, 5, 12), (1, 4, 4), (1, 2, 3)]


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [("small", s) for s in SHAPES]
    + [(name, s) for name in ("large", "wide") for s in SHAPES[2:]]
    + [("fc3", (2, 5, 3))],
)
def test_any_input_size_gives_one_logit_a_class(architecture, shape):
    model = build(ModelConfig(architecture, input_shape=shape, classes=7))
    assert model(torch.rand(2, *shape)).shape == (2, 7)


def test_layers_are_those_documented():
    def sizes(model):
        convolutions = [
            (layer.out_channels, layer.kernel_size[0], layer.stride[0])
            for layer in model
            if isinstance(layer, Conv2d)
        ]
        return convolutions, [m.out_features for m in model if isinstance(m, Linear)]

    assert sizes(small((1, 28, 28), 10)) == ([(16, 4, 2), (32, 4, 2)], [100, 10])
    convolutions = [(32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2)]
    assert sizes(large((3, 32, 32), 10)) == (convolutions, [512, 512, 10])
    assert sizes(fc3((1, 5, 5), 10)) == ([], [1024, 1024, 1024, 10])
    assert sizes(wide((1, 28, 28), 10)) == (convolutions[1:], [1024, 512, 10])


@pytest.mark.parametrize("architecture", ["small", "large", "fc3", "wide"])
def test_maxmin_follows_every_layer_but_the_last(architecture):
    layers = list(build(ModelConfig(architecture, input_shape=(1, 8, 8))))
    weighted = [i for i, layer in enumerate(layers) if isinstance(layer, Conv2d | Linear)]
    assert all(isinstance(layers[i + 1], MaxMin) for i in weighted[:-1])
    assert weighted[-1] == len(layers) - 1
    assert sum(isinstance(layer, MaxMin) for layer in layers) == len(weighted) - 1


@pytest.mark.parametrize("shape", [(28, 28), (1, 1, 28, 28)])
def test_convolutions_refuse_a_shape_that_is_no_images(shape):
    with pytest.raises(ValueError, match="`input_shape` must be channels, height and width; got"):
        sequence(shape, ((8, 4, 2),), (10,), taut.Orthogonal)


@pytest.mark.parametrize("parametrization", ["BCOP", "RKO"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 5)])
def test_models_are_1_lipschitz(shape, parametrization):
    torch.manual_seed(0)
    model = build(ModelConfig("small", shape, 4, parametrization)).double()
    x = torch.rand(shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda image: model(image[None])[0], x)
    singular = torch.linalg.svdvals(jacobian.reshape(4, math.prod(shape)))
    assert singular.max() <= 1 + 1e-9


def test_initial_weights_follow_the_global_seed():
    def state(seed):
        torch.manual_seed(seed)
        return build(ModelConfig("small", input_shape=(1, 8, 8))).state_dict()

    first, again, other = state(3), state(3), state(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_state_names_are_readable():
    names = build(ModelConfig("small")).state_dict()
    assert {name.split(".")[0] for name in names} == {"conv1", "conv2", "dense1", "dense2"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parametrization": "Bcop"}, "`parametrization` must be one of BCOP, .*got 'Bcop'"),
        ({"parametrization": "cached"}, "`parametrization` must be one of"),
        ({"input_shape": (1, 0, 3)}, "`input_shape` must be .*got \\(1, 0, 3\\)"),
        ({"classes": 1}, "`classes` must be at least 2; got 1"),
    ],
)
def test_wrong_descriptions_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**values)
