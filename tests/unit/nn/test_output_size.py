"""Transposed convolutions that are asked for a size: adjoints of the convolution of that size."""

import itertools
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

import taut
from convolution_layers import LAYERS, PLAIN, matrix_of
from convolution_oracles import Case
from exported_nets import in_onnxruntime
from oracles import dense_operator
from taut.certification import verifier
from taut.linalg.windows import Windows

ARGUMENTS = [  # kernel size, stride, dilation, padding, mode
    (3, 2, 1, "same", "circular"),
    (2, 3, 1, "same", "circular"),
    (4, 2, 1, 1, "circular"),
    (3, 1, 2, "same", "circular"),
    (2, 2, 1, "same", "zeros"),
    (4, 2, 1, "same", "zeros"),
    (3, 2, 3, "same", "zeros"),
    (3, 2, 1, 0, "zeros"),
    (3, 3, 1, 1, "zeros"),
    (2, 2, 3, (2, 0, 1), "zeros"),
]


def made(axes, arguments, **options):
    kernel, stride, dilation, padding, mode = arguments
    padding = padding[:axes] if isinstance(padding, tuple) else padding
    options |= {"padding": padding, "padding_mode": mode, "dilation": dilation, "groups": 2}
    channels = (2, 4) if dilation > 1 else (4, 2)
    return LAYERS[True, axes](*channels, kernel, stride, parametrization=taut.AOL, **options)


def size_of_the_output(layer, size, target):
    """What the convolution makes of a target: it must be the size of the input."""
    padding = layer.padding if isinstance(layer.padding, str) else tuple(layer.padding)
    case = Case(
        layer.out_channels, layer.in_channels, layer.kernel_size, layer.stride, target, padding,
        layer.dilation, 2, layer.padding_mode,
    )  # fmt: skip
    lines = case.lines()
    fits = all(line.outputs == n for line, n in zip(lines, size, strict=True))
    return case if fits and all(line.fits for line in lines) else None


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_output_is_that_of_the_adjoint_of_the_size_asked_for(axes, arguments):
    layer = made(axes, arguments, dtype=torch.float64, bias=False)
    frozen, size = taut.freeze(layer), (3, 2, 1)[:axes] if axes < 3 else (2, 2, 2)
    shape, taken = (layer.in_channels, *size), 0
    x = torch.randn(2, *shape, dtype=torch.float64)
    (largest,) = {layer(x).shape[2:]}
    first, *others = [range(max(1, n - 3), n + 2) for n in largest]
    targets = [(n, *(r[-1 - k] for r in others)) for n, k in itertools.product(first, (0, 1, 2))]
    for target in targets if axes > 1 else [(n,) for n in first]:
        case = size_of_the_output(layer, size, target)
        for each in (layer, frozen):
            if case is None:
                with pytest.raises(ValueError, match="output") as error:
                    each(x, output_size=target)
                own = each is layer or type(each) is taut.nn.SizedConvTranspose
                assert not own or str(error.value).startswith("`output_size` must be from (")
                continue
            taken += 1
            dense = dense_operator(partial(each, output_size=target), shape)
            torch.testing.assert_close(dense, matrix_of(case, layer.weight).T, rtol=0, atol=1e-12)
            found = each(x, output_size=torch.Size((2, layer.out_channels, *target)))
            assert found.shape[2:] == target
            alone = each(x[0], output_size=found.shape[1:])
            torch.testing.assert_close(alone, found[0], rtol=0, atol=1e-12)
    assert taken >= 2


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_sizes_with_zeros_are_those_of_torch(axes):
    options = {"padding": 1, "padding_mode": "zeros"}
    layer = LAYERS[True, axes](4, 2, 3, 3, parametrization=taut.BCOP, **options)
    twin, x = PLAIN[True, axes](4, 2, 3, 3, 1), torch.randn(2, 4, *[3] * axes)
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
        twin.bias.copy_(layer.bias)
    for n in range(6, 12):
        size = [n] * axes
        if 7 <= n <= 9:
            torch.testing.assert_close(layer(x, size), twin(x, size))
            continue
        for each in (layer, twin):
            with pytest.raises(ValueError, match="size"):
                each(x, size)


@pytest.mark.parametrize("size", [[8, 9], [8], [0, 9], [9.0, 9], 8])
def test_other_sizes_are_refused_in_a_sentence(size, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # as users run it
    layer, x = taut.nn.ConvTranspose2d(4, 2, 3, 2), torch.randn(1, 4, 5, 5)
    allowed = r"from \(9, 9\) to \(10, 10\) for this input|a positive integer or a tuple of 2"
    with pytest.raises(ValueError, match=rf"^`output_size` must be ({allowed}); got .*\.$"):
        layer(x, output_size=size)


class Unet(nn.Module):
    """Goes down and up again, to the size that the image had."""

    def __init__(self, kernel_size: int, mode: str) -> None:
        super().__init__()
        options = {"padding_mode": mode}
        self.down = taut.nn.Conv2d(1, 4, kernel_size, 2, **options)
        self.up = taut.nn.ConvTranspose2d(4, 2, kernel_size, 2, **options)
        self.head = taut.nn.Linear(2 * 35, 3)

    def forward(self, x):
        y = taut.nn.MaxMin()(self.up(self.down(x), output_size=x.shape))
        return self.head(y.flatten(1))


@pytest.mark.parametrize(("kernel_size", "mode"), [(3, "circular"), (2, "zeros")])
def test_models_that_ask_for_a_size_are_frozen_certified_and_exported(kernel_size, mode, tmp_path):
    torch.manual_seed(0)
    model, x = Unet(kernel_size, mode).eval(), torch.rand(5, 1, 7, 5)
    frozen = taut.freeze(model)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), model(x))
    assert not any("raw" in key for key in frozen.state_dict())
    bound = float(taut.lipschitz_bound(model, (1, 7, 5)))
    assert bound <= 1 + 1e-5
    assert float(taut.lipschitz_bound(frozen, (1, 7, 5))) == bound
    for arithmetic in ("float64", "float32"):
        result = taut.certify(frozen, x, model(x).argmax(1), arithmetic=arithmetic)
        path, weights = result.save(tmp_path / f"{arithmetic}.json")
        assert "Lipschitz bound" in verifier.verify(path, weights)
    taut.export.export(frozen, tmp_path / "model.onnx", (1, 7, 5))
    found = in_onnxruntime(tmp_path / "model.onnx", x)
    torch.testing.assert_close(found, model(x).detach(), rtol=1e-4, atol=1e-5)


SCRIPT = """
import torch, taut
frozen, x = taut.freeze(taut.nn.ConvTranspose2d(4, 2, 3, 2)), torch.randn(2, 4, 3, 5)
for tool in (torch.jit.script, torch.fx.symbolic_trace):
    assert torch.equal(tool(frozen)(x), frozen(x))
"""


def test_frozen_layers_pass_through_the_compilers_of_torch():
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]  # without the checks of shapes
    result = subprocess.run(command, capture_output=True, text=True)
    assert not result.returncode, result.stderr[-1000:]


@pytest.mark.parametrize("n", [7, 8])
def test_wide_layers_that_apply_their_factors_are_cut_likewise(n):
    layer = taut.nn.ConvTranspose2d(256, 64, 4, 2)
    x = torch.randn(32, 256, 4, 4, requires_grad=True)
    windows = Windows(layer.stride, layer.dilation, layer.pads((8, 8)).left)
    assert layer.parametrization.transform_adjoint(x, layer.bias, windows) is not None
    y = layer(x, output_size=[n, n])
    with torch.no_grad():  # by the kernel
        expected = layer(x, output_size=[n, n])
    torch.testing.assert_close(y.detach(), expected, rtol=1e-4, atol=1e-4)
    assert y.shape == (32, 64, n, n)
    y.square().sum().backward()
    assert x.grad.isfinite().all()
