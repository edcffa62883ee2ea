"""Torch's settings that round float32 products more: whichever is used, all is right."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

import taut
from taut.linalg import precision, products
from taut.linalg.bases import orthonormal_basis
from taut.program import UnprovenError

CPU = torch.device("cpu")
backends = torch.backends


def _settings() -> dict[str, Callable[[], None]]:
    found: dict[str, Callable[[], None]] = {
        "set high": lambda: torch.set_float32_matmul_precision("high"),
        "set medium": lambda: torch.set_float32_matmul_precision("medium"),
        "allow tf32": lambda: setattr(backends.cuda.matmul, "allow_tf32", True),
        "cudnn allow tf32": lambda: setattr(backends.cudnn, "allow_tf32", True),
        "cudnn no tf32": lambda: setattr(backends.cudnn, "allow_tf32", False),
    }
    owners = {
        "all": backends,
        "cuda.matmul": backends.cuda.matmul,
        "cudnn": backends.cudnn,
        "cudnn.conv": getattr(backends.cudnn, "conv", None),
        "mkldnn": backends.mkldnn,
        "mkldnn.matmul": getattr(backends.mkldnn, "matmul", None),
        "mkldnn.conv": getattr(backends.mkldnn, "conv", None),
    }
    for name, owner in owners.items():
        for value in ("tf32", "bf16", "ieee"):
            on_gpu = name.startswith(("cuda", "cudnn")) and value == "bf16"
            if hasattr(owner, "fp32_precision") and not on_gpu:
                found[f"{name} {value}"] = lambda o=owner, v=value: setattr(o, "fp32_precision", v)
    return found


SETTINGS = _settings()
# Those that round products or convolutions of a CPU.
ROUNDING = {"set high", "set medium"} | {
    f"{name} {value}"
    for name in ("all", "mkldnn", "mkldnn.matmul", "mkldnn.conv")
    for value in ("tf32", "bf16")
}


@pytest.fixture(name="setting", params=list(SETTINGS))
def _setting(request):
    """Each setting, and all as they were afterwards."""
    SETTINGS[request.param]()
    yield request.param
    _reset()


def _reset() -> None:
    torch.set_float32_matmul_precision("highest")
    for owner in (backends, backends.cuda.matmul, backends.cudnn, backends.mkldnn):
        parts = [getattr(owner, n, None) for n in ("conv", "rnn", "matmul")]
        for part in (owner, *parts):
            if hasattr(part, "fp32_precision"):
                part.fp32_precision = "none"  # after the old ones, which set the new
    backends.cudnn.allow_tf32 = True  # or torch.export refuses all, as torch starts with it


def test_settings_are_reset_to_those_that_torch_starts_with():
    found = state()
    for change in SETTINGS.values():
        change()
        _reset()
        assert state() == found
    assert "refused" not in found


def state() -> list[str]:
    """All that can be read of the settings."""
    questions = [
        torch.get_float32_matmul_precision,
        lambda: backends.cuda.matmul.allow_tf32,
        lambda: backends.cudnn.allow_tf32,
    ]
    for owner in (backends, backends.cuda.matmul, backends.cudnn, backends.mkldnn):
        for part in (owner, getattr(owner, "matmul", None), getattr(owner, "conv", None)):
            questions.append(lambda p=part: getattr(p, "fp32_precision", None))
    answers = []
    for question in questions:
        answers.append("refused")
        with contextlib.suppress(RuntimeError):
            answers[-1] = str(question())
    return answers


def test_forward_and_certificates(setting):
    before = state()
    model = nn.Sequential(taut.nn.Conv2d(2, 4, 3), taut.nn.MaxMin(), nn.Flatten())
    model.append(taut.nn.Linear(64, 3))
    images, labels = torch.rand(2, 2, 4, 4), torch.tensor([0, 1])
    model(images).sum().backward()
    for arithmetic in ("float64", "real"):
        taut.certify(model, images, labels, arithmetic=arithmetic)
    if setting in ROUNDING:
        with pytest.raises(UnprovenError, match=r"needs products and convolutions in float32; "):
            taut.certify(model, images, labels, arithmetic="float32")
    else:
        taut.certify(model, images, labels, arithmetic="float32")
    assert state() == before


def test_wide_nets_are_proven_as_without_a_setting(setting):
    """Rounded, outputs differ from those in float64, or in batches of another size, by too much."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 64, 3))
    model += nn.Sequential(nn.Flatten(), nn.Linear(64 * 36, 10))
    found = taut.certification.prove(model, (64, 8, 8)).bound
    _reset()
    assert found == taut.certification.prove(model, (64, 8, 8)).bound


def test_own_products_are_exact(setting):
    before = state()
    a, b = torch.randn(384, 384), torch.randn(384, 384)
    exact = a.double() @ b.double()
    for times in (products.product, products.matmul):
        assert (times(a, b).double() - exact).abs().max() < 1e-4
    q = orthonormal_basis(a)
    values = torch.linalg.svdvals(q.double())
    assert abs(values - 1).max() < 3e-6
    assert state() == before


def test_settings_are_switched_off_until_the_last_has_left(setting):
    rounds, before = precision.rounds_products(CPU), state()
    assert rounds == (setting in ROUNDING and "conv" not in setting)
    with precision.exact_products(CPU):
        with precision.exact_products(CPU):
            assert not precision.rounds_products(CPU)
        assert not precision.rounds_products(CPU)
    assert precision.rounds_products(CPU) == rounds
    assert state() == before
    if setting == "all tf32":  # what was inherited goes on being so
        backends.fp32_precision = "ieee"
        assert not precision.rounds_products(CPU)


@pytest.mark.parametrize("context", [precision.exact_products, precision.exact_float32])
def test_settings_come_back_after_an_error(setting, context):
    before = state()
    with pytest.raises(KeyError), context(CPU):
        raise KeyError
    assert state() == before


def test_layers_are_exact_for_a_while(setting):
    before = state()
    x = torch.randn(8, 64, 8, 8)
    layers = [nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(2304, 64)]
    with torch.no_grad(), precision.exact_float32(CPU):
        with precision.exact_float32(CPU):
            assert not list(precision.reduced_settings(CPU))
        for layer in layers:
            exact = layer.double()(x.double())
            x = layer.float()(x)
            assert (x.double() - exact).abs().max() < 1e-5
            x = exact.float()
    assert state() == before


def test_weights_do_not_depend_on_a_setting(setting):
    """AOL's factors are sums of a convolution; rounded, a kernel of norm 1 may grow."""
    layer = taut.nn.Conv2d(16, 16, 3, parametrization=taut.AOL)
    _reset()
    exact = layer.weight.detach()
    SETTINGS[setting]()
    assert torch.equal(layer.weight, exact)
    assert torch.equal(taut.freeze(layer).weight, exact)


def test_certificates_that_were_proven_before_are_exact():
    model = nn.Linear(128, 2, bias=False)
    with torch.no_grad():
        model.weight[1] = model.weight[0] + 1e-2 * torch.randn(128)
    certificate = taut.certification.prove(model, (128,), arithmetic="float32")
    x = torch.rand(512, 128)
    exact = certificate.outputs(x)
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(certificate.outputs(x), exact)
    finally:
        _reset()


_WITH_A_VARIABLE = """
import torch, taut
from taut.linalg import precision
torch.manual_seed(0)
layer = taut.nn.Conv2d(16, 16, 3, parametrization=taut.AOL)
model = torch.nn.Sequential(layer, torch.nn.Flatten(), taut.nn.Linear(1024, 3)).eval()
torch.save(layer.weight.detach(), FILE)
images, labels = torch.rand(2, 16, 8, 8), torch.tensor([0, 1])
for arithmetic in ("float64", "real"):
    taut.certify(model, images, labels, arithmetic=arithmetic)
assert torch.backends.mkldnn.enabled
with precision.exact_float32(torch.device("cpu")):
    assert not torch.backends.mkldnn.enabled
    exact = layer.double()(images.double())
    assert (layer.float()(images).double() - exact).abs().max() < 1e-5
assert torch.backends.mkldnn.enabled
try:
    taut.certify(model, images, labels, arithmetic="float32")
except taut.program.UnprovenError as error:
    print(error)
"""


@pytest.mark.parametrize("name", precision.ONEDNN_VARIABLES)
def test_variables_of_onednn_round_no_weight_and_no_certificate(name, tmp_path):
    file, variable = tmp_path / "weight.pt", {name: "BF16"}
    script = _WITH_A_VARIABLE.replace("FILE", repr(str(file)))
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, env={**os.environ, **variable}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert f"{name} is 'BF16': unset this variable before Python starts." in ran.stdout
    torch.manual_seed(0)
    layer = taut.nn.Conv2d(16, 16, 3, parametrization=taut.AOL)
    torch.testing.assert_close(torch.load(file), layer.weight.detach(), atol=1e-6, rtol=0)
