"""A chosen constant: never exceeded, reached by orthogonal nets, kept by every file and proof."""

import copy
import math
from fractions import Fraction
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import taut
from exported_nets import in_onnxruntime
from taut.certification import verifier
from taut.export import export, load
from taut.nn import Times, scaled, scaled_by_layer

CONSTANTS = [1, 2.5, 1e-9, 1e9, "1/3", "7e2", Fraction(22, 7), np.float32(0.3), np.int64(3)]
FORMS = {"model": scaled, "layers": scaled_by_layer}


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def net(dtype=torch.float64, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(
        taut.nn.Conv2d(1, 6, 3, 2, bias=bias, dtype=dtype), taut.nn.MaxMin(), nn.Flatten(),
        taut.nn.Linear(96, 7, bias, dtype=dtype), taut.nn.MaxMin(),
        taut.nn.Linear(7, 3, bias, dtype=dtype),
    ).eval()  # fmt: skip


def exact(constant):
    return Fraction(constant.item() if isinstance(constant, np.generic) else constant)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("constant", CONSTANTS, ids=str)
def test_factors_never_exceed_the_constant(constant, form):
    model = FORMS[form](net(), constant)
    factors = [Fraction(m.factor) for m in model.modules() if isinstance(m, Times)]
    assert len(factors) == (1 if form == "model" else 3)
    product = math.prod(factors)
    assert exact(constant) * (1 - Fraction(1, 2**48)) < product <= exact(constant)


@pytest.mark.parametrize("form", FORMS)
def test_bound_is_the_constant_times_that_of_the_net(form):
    inner = float(taut.lipschitz_bound(net(), (1, 7, 7)))
    found = float(taut.lipschitz_bound(FORMS[form](net(), "5/2"), (1, 7, 7)))
    assert found == pytest.approx(2.5 * inner, rel=1e-9)
    assert found == pytest.approx(2.5, rel=1e-6)


def test_the_constant_is_reached():
    """The Jacobian of an orthogonal net has singular values K on its row space."""
    model, x = scaled(net(), 3), torch.rand(1, 1, 7, 7).double()
    jacobian = torch.autograd.functional.jacobian(model, x).reshape(3, -1)
    largest = torch.linalg.svdvals(jacobian)[0].item()
    assert 2.2 < largest <= 3 * (1 + 1e-9)


def test_output_is_the_constant_times_that_of_the_net():
    x = torch.randn(5, 1, 7, 7).double()
    assert torch.equal(scaled(net(), 3)(x), 3 * net()(x))
    spread = scaled_by_layer(net(bias=False), 3)(x)  # homogeneous without biases
    torch.testing.assert_close(spread, 3 * net(bias=False)(x), rtol=1e-12, atol=1e-12)


def test_parts_keep_their_names_and_parameters():
    model = net()
    assert [name for name, _ in scaled(model, 2).named_children()] == ["net", "scale"]
    state = scaled_by_layer(model, 2).state_dict()
    assert list(state) == list(model.state_dict())
    other = scaled_by_layer(net(), 2)
    other.load_state_dict(state)
    again = copy.deepcopy(other)
    x = torch.rand(2, 1, 7, 7).double()
    assert torch.equal(again(x), scaled_by_layer(model, 2)(x))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
def test_certificates_of_scaled_nets_are_verified(arithmetic, form, tmp_path):
    model, x = FORMS[form](net(torch.float32), 4), torch.rand(9, 1, 7, 7)
    result = taut.certify(model, x, model(x).argmax(1), arithmetic=arithmetic)
    assert (result.radius > 0).any()
    path, weights = result.save(tmp_path / "certificate.json")
    assert f"Lipschitz bound {float(result.bound)}" in verifier.verify(path, weights)
    assert float(taut.verify(path, weights).bound) == pytest.approx(4, rel=1e-5)
    # The constant cancels: logits and slopes grow alike.
    plain = taut.certify(net(torch.float32), x, net(torch.float32)(x).argmax(1))
    if form == "model" and arithmetic == "float64":
        torch.testing.assert_close(result.radius, plain.radius, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_frozen_and_exported_nets_compute_the_same(form, tmp_path):
    model, x = FORMS[form](net(torch.float32), "7/3").eval(), torch.rand(4, 1, 7, 7)
    frozen, expected = taut.freeze(model), model(x)
    torch.testing.assert_close(frozen(x), expected, rtol=1e-5, atol=1e-6)
    bound = float(taut.lipschitz_bound(frozen, (1, 7, 7)))
    assert bound == pytest.approx(7 / 3, rel=1e-5)
    for suffix in (".onnx", ".safetensors", ".pt2"):
        path = tmp_path / f"model{suffix}"
        export(frozen, path, (1, 7, 7))
        torch.testing.assert_close(load(path).model(x), expected, rtol=1e-5, atol=1e-6)
    onnx = in_onnxruntime(tmp_path / "model.onnx", x)
    torch.testing.assert_close(onnx, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "constant", [0, -1, math.nan, math.inf, "x", "1/0", "1e99999", None, 1e-400]
)
def test_wrong_constants_are_refused(constant):
    for form in FORMS.values():
        with pytest.raises(ValueError, match="`constant` must be a positive number"):
            form(net(), constant)


def test_models_that_are_no_chain_are_refused():
    single: Any = taut.nn.MaxMin()
    with pytest.raises(ValueError, match=r"`model` must be a torch\.nn\.Sequential; got MaxMin"):
        scaled_by_layer(single, 2)
    with pytest.raises(ValueError, match="must have a part with parameters"):
        scaled_by_layer(nn.Sequential(taut.nn.MaxMin()), 2)


def test_repeated_parts_and_names_in_use_are_kept():
    act, layer = taut.nn.MaxMin(), taut.nn.Linear(4, 4)
    model = nn.Sequential(layer, act, layer, act, taut.nn.Linear(4, 1))
    spread, x = scaled_by_layer(model, 8), torch.rand(5, 4)
    assert [*spread._modules] == ["0", "0_scale", "1", "2", "2_scale", "3", "4", "4_scale"]
    expected = x
    for part in model:
        expected = part(expected) * (1 if part is act else 2)
    assert torch.allclose(spread(x), expected, rtol=1e-5)
    twice = scaled_by_layer(scaled_by_layer(model, 8), 27)
    assert float(taut.lipschitz_bound(twice, (4,))) == pytest.approx(8 * 27, rel=1e-5)
