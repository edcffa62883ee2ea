"""Exported programs take batches of any size: no choice of a layer becomes a guard."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import taut
from public_layers import LAYERS, layer
from taut.parametrizations import methods
from thinning import one_in

SIZES = (1, 2, 511, 512, 2047, 2048, 5000)
FUNCTIONS = {"live": lambda m, shape: m, "frozen": taut.freeze}


def exported(model, shape, strict=False):
    x = torch.rand(4, *shape, dtype=torch.float64)
    open_batch = {0: Dim("batch")}
    return torch.export.export(model, (x,), dynamic_shapes=(open_batch,), strict=strict)


def assert_open(program):
    (limits,) = program.range_constraints.values()
    assert str(limits.upper) == "int_oo", limits


def network():
    torch.manual_seed(0)
    layers = (
        taut.nn.Conv2d(1, 4, 3), taut.nn.MaxMin(), taut.nn.Conv2d(4, 6, 2, 2),
        taut.nn.GroupSort(2), taut.nn.Conv2d(6, 6, 3, padding_mode="zeros"),
        taut.nn.HouseHolder(6), nn.Flatten(), taut.nn.Linear(54, 300), taut.nn.MaxMin(),
        taut.nn.Linear(300, 280), taut.nn.Linear(280, 3),
    )  # fmt: skip
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_networks_take_any_batch(kind, strict):
    model = FUNCTIONS[kind](network(), None)
    program = exported(model, (1, 6, 6), strict)
    assert_open(program)
    for size in SIZES:
        x = torch.rand(size, 1, 6, 6, dtype=torch.float64)
        assert torch.allclose(program.module()(x), model(x), atol=1e-12)


@pytest.mark.parametrize("ending", ["pt2", "safetensors", "onnx"])
def test_files_take_any_batch(ending, tmp_path):
    model, path = taut.freeze(network().float()).eval(), tmp_path / f"model.{ending}"
    held = taut.export.export(model, path, (1, 6, 6)).model
    if ending == "pt2":
        program = torch.export.load(path)
        assert_open(program)
        held = program.module()
    elif ending == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        (name,) = (x.name for x in session.get_inputs())
        held = lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])  # noqa: E731
    for size in SIZES:
        x = torch.rand(size, 1, 6, 6)
        assert torch.allclose(held(x), model(x), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name"), one_in(7, [(kind, name) for name in sorted(LAYERS) for kind in FUNCTIONS])
)
def test_every_layer_takes_any_batch(kind, name):
    module, shape = layer(name)
    model = FUNCTIONS[kind](module.eval(), shape)
    program = exported(model, shape)
    assert_open(program)
    x = torch.rand(700, *shape, dtype=torch.float64)
    assert torch.allclose(program.module()(x), model(x), atol=1e-12)


CASES = [
    (kind, name, kernel)
    for name, cls in methods().items()
    for kernel in (False, True)
    for kind in FUNCTIONS
    if not (kernel and cls.matrices_only) and (kernel or name != "BCOPFixed")
]


@pytest.mark.parametrize(("kind", "name", "kernel"), one_in(7, CASES))
def test_every_method_takes_any_batch(kind, name, kernel):
    options = {"parametrization": methods()[name], "dtype": torch.float64}
    if kernel:
        module, shape = taut.nn.Conv2d(4, 4, 3, **options), (4, 6, 6)
    else:
        module, shape = taut.nn.Linear(6, 5, **options), (6,)
    model = FUNCTIONS[kind](module.eval(), shape)
    program = exported(model, shape)
    assert_open(program)
    x = torch.rand(700, *shape, dtype=torch.float64)
    assert torch.allclose(program.module()(x), model(x), atol=1e-10)
