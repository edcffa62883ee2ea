import math
from functools import partial

import pytest
import torch
from torch import nn

import taut
from taut.models import FC3, AbstractModel, Large, Small, Wide, kinds
from taut.nn import Conv2d, Linear, MaxMin

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 9, 7), (2, 5, 12), (1, 4, 4), (1, 2, 3)]


@pytest.mark.parametrize(
    ("model", "shape"),
    [(Small(), s) for s in SHAPES]
    + [(model, s) for model in (Large(), Wide()) for s in SHAPES[2:]]
    + [(FC3(), (2, 5, 3)), (FC3(), (7,))],
)
def test_any_input_size_gives_one_logit_a_class(model, shape):
    assert model.build(shape, 7)(torch.rand(2, *shape)).shape == (2, 7)


def test_layers_are_those_documented():
    def sizes(model, shape):
        layers = model.build(shape, 10)
        convolutions = [
            (layer.out_channels, layer.kernel_size[0], layer.stride[0])
            for layer in layers
            if isinstance(layer, Conv2d)
        ]
        return convolutions, [m.out_features for m in layers if isinstance(m, Linear)]

    assert sizes(Small(), (1, 28, 28)) == ([(16, 4, 2), (32, 4, 2)], [100, 10])
    convolutions = [(32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2)]
    assert sizes(Large(), (3, 32, 32)) == (convolutions, [512, 512, 10])
    assert sizes(FC3(), (1, 5, 5)) == ([], [1024, 1024, 1024, 10])
    assert sizes(Wide(), (1, 28, 28)) == (convolutions[1:], [1024, 512, 10])


@pytest.mark.parametrize("kind", kinds())
def test_every_model_has_settings_to_store_and_follows_device_and_dtype(kind):
    assert issubclass(kinds()[kind], AbstractModel)
    assert kinds()[kind]() == kinds()[kind]()
    model = kinds()[kind]().build((1, 4, 4), 3, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}


@pytest.mark.parametrize("kind", ["fc3", "large", "small", "wide"])
def test_maxmin_follows_every_layer_but_the_last(kind):
    layers = list(kinds()[kind]().build((1, 8, 8), 10))
    weighted = [i for i, layer in enumerate(layers) if isinstance(layer, Conv2d | Linear)]
    assert all(isinstance(layers[i + 1], MaxMin) for i in weighted[:-1])
    assert weighted[-1] == len(layers) - 1
    assert sum(isinstance(layer, MaxMin) for layer in layers) == len(weighted) - 1


@pytest.mark.parametrize("shape", [(28, 28), (1, 1, 28, 28)])
def test_convolutions_refuse_a_shape_that_is_no_images(shape):
    with pytest.raises(
        ValueError,
        match="`input_shape` must be channels, height and width",
    ):
        Small().build(shape, 10)


@pytest.mark.parametrize("method", [taut.BCOP, taut.RKO])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 5)])
def test_models_are_1_lipschitz(shape, method):
    torch.manual_seed(0)
    model = Small().build(shape, 4, parametrization=method).double()
    x = torch.rand(shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda image: model(image[None])[0], x)
    singular = torch.linalg.svdvals(jacobian.reshape(4, math.prod(shape)))
    assert singular.max() <= 1 + 1e-9


def test_initial_weights_are_those_of_layers_made_in_order():
    """So that a seed gives the same weights in every version."""
    torch.manual_seed(3)
    layers = {
        "conv1": Conv2d(1, 16, 4, 2, parametrization=taut.RKO),
        "conv2": Conv2d(16, 32, 4, 2, parametrization=taut.RKO),
        "dense1": Linear(32 * 2 * 3, 100),
        "dense2": Linear(100, 5),
    }
    torch.manual_seed(3)
    model = Small().build((1, 8, 9), 5, parametrization=taut.RKO)
    expected = nn.ModuleDict(layers).state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(expected[name], t) for name, t in model.state_dict().items())


def test_initial_weights_follow_the_global_seed():
    def state(seed):
        torch.manual_seed(seed)
        return Small().build((1, 8, 8), 10).state_dict()

    first, again, other = state(3), state(3), state(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_dense_layers_follow_the_method_unless_another_is_given():
    def dense(**options):
        model = Small().build((1, 4, 4), 3, **options)
        return {type(m.parametrization) for m in model if isinstance(m, Linear)}

    assert dense() == dense(parametrization=partial(taut.BCOP)) == {taut.Orthogonal}
    assert dense(parametrization=taut.OSSN) == {taut.OSSN}
    assert dense(parametrization=taut.OSSN, dense=taut.SVCM) == {taut.SVCM}


def test_state_names_are_readable():
    names = Small().build((1, 28, 28), 10).state_dict()
    assert {name.split(".")[0] for name in names} == {"conv1", "conv2", "dense1", "dense2"}
