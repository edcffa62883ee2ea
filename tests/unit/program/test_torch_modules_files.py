"""Operations of torch in files: ONNX and plain torch compute the same; rounding is as promised."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from exported_nets import in_onnxruntime
from taut.export import export, load
from taut.export._onnx import onnx_of
from taut.linalg.rounding import U32, gamma
from taut.program import UnprovenError, operation, trace

IMAGE, SOLID = (2, 6, 6), (2, 4, 4, 4)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


FILES = {
    **{f"{kind.__name__}": (kind(), (6,)) for kind in (
        nn.Hardsigmoid, nn.Hardswish, nn.Softshrink, nn.CELU, nn.ELU, nn.SELU, nn.Mish,
        nn.Softplus, nn.Softsign, nn.Sigmoid,
    )},
    "CELU alpha": (nn.CELU(0.3), (6,)),
    "LogSoftmax": (nn.LogSoftmax(1), (6,)),
    "Softmin": (nn.Softmin(1), (6,)),
    "Threshold": (nn.Threshold(0.5, 0.5), (6,)),
    "LPPool1d": (nn.LPPool1d(2, 3, 2), (2, 12)),
    "LPPool2d": (nn.LPPool2d(2, (2, 3), (1, 2)), IMAGE),
    "AvgPool2d": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE),
    "Fold": (nn.Fold((4, 5), (2, 2), padding=1, dilation=(1, 2)), (8, 25)),
    "LayerNorm": (nn.LayerNorm((6,), 0.1), (2, 6)),
    **{f"{mode} {corners}": (
        nn.Upsample(scale_factor=(2, 1.5)[: len(shape) - 1] + (3,) * (len(shape) - 3), mode=mode,
                    align_corners=corners), shape
    ) for mode, shape in (("bilinear", IMAGE), ("bicubic", IMAGE), ("trilinear", SOLID))
      for corners in (False, True)},
    "sizes": (nn.Upsample(size=(9, 4), mode="bilinear"), IMAGE),
    **{name: (Function(function), (6,)) for name, function in (
        ("sin", torch.sin), ("cos", torch.cos), ("atan", torch.atan), ("asinh", torch.asinh),
        ("erf", torch.erf), ("amax", lambda x: x.amax(1, True)), ("amin", lambda x: x.amin(1)),
        ("logsumexp", lambda x: torch.logsumexp(x, 1, True)),
        ("norm", lambda x: x.norm(2, 1, True)),
        ("norm 1", lambda x: torch.linalg.vector_norm(x, 1, 1)),
    )},
}  # fmt: skip

UNREAD = {name for name in FILES if "linear" in name or "cubic" in name or name == "sizes"}
"""Nodes of ONNX that other runtimes read, and taut does not."""


def samples(shape):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, *shape, generator=generator)
    return x * torch.tensor([1e-3, 0.3, 1.0, 3.0, 10.0, 100.0]).reshape(-1, *[1] * len(shape))


@pytest.mark.parametrize("name", FILES)
def test_onnx_files_compute_the_same(name, tmp_path):
    model, shape = nn.Sequential(FILES[name][0]).eval(), FILES[name][1]
    path, x = tmp_path / "model.onnx", samples(shape)
    if name in UNREAD:
        path.write_bytes(onnx_of(trace(model, shape)).SerializeToString())
    else:
        export(model, path, shape)
    expected = model(x).detach()
    torch.testing.assert_close(in_onnxruntime(path, x), expected, rtol=1e-5, atol=1e-4)
    if name in UNREAD:
        return
    again = load(path).model
    torch.testing.assert_close(again(x), expected, rtol=1e-5, atol=1e-5)
    bound = float(taut.lipschitz_bound(model, shape))
    assert float(taut.lipschitz_bound(again, shape)) == pytest.approx(bound, rel=1e-6)


PLAIN = {
    **FILES,
    "ReLU6": (nn.ReLU6(), (6,)),
    "Softplus beta": (nn.Softplus(3.0), (6,)),
    "tanhshrink": (nn.Tanhshrink(), (6,)),
    "adaptive average": (nn.AdaptiveAvgPool2d(4), IMAGE),
    "adaptive maximum": (nn.AdaptiveMaxPool2d((4, 5)), IMAGE),
    "ceil": (nn.AvgPool2d(3, 2, ceil_mode=True), IMAGE),
    "divided": (nn.AvgPool2d(3, 2, 1, False, False, 5), IMAGE),
}
del PLAIN["LayerNorm"]  # has no form in plain torch


@pytest.mark.parametrize("name", PLAIN)
def test_files_of_plain_torch_compute_the_same(name, tmp_path):
    model, shape = nn.Sequential(PLAIN[name][0]).eval(), PLAIN[name][1]
    exported = export(model, tmp_path / "model.safetensors", shape)
    torch.testing.assert_close(exported.model(samples(shape)), model(samples(shape)))
    text, scope = (tmp_path / "model.py").read_text(), {"__file__": str(tmp_path / "model.py")}
    exec(compile(text, "model.py", "exec"), scope)
    torch.testing.assert_close(scope["load"]()(samples(shape)), model(samples(shape)))


ROUNDED = {
    "hardsigmoid": (F.hardsigmoid, (6,)),
    "hardswish": (F.hardswish, (6,)),
    "softshrink": (lambda x: F.softshrink(x, 0.3), (6,)),
    "norm 1": (lambda x: x.norm(1, 1), (40,)),
    "fold": (lambda x: F.fold(x, (4, 5), (3, 3), padding=1), (18, 20)),
    "adaptive average": (lambda x: F.adaptive_avg_pool2d(x, (4, 5)), (2, 7, 7)),
    "uncounted": (lambda x: F.avg_pool2d(x, 3, 2, 1, False, False), (2, 7, 7)),
    "ceil": (lambda x: F.avg_pool2d(x, 3, 2, 1, True), (2, 8, 8)),
    "divided": (lambda x: F.avg_pool3d(x, 3, 2, 1, True, False, 7), (1, 5, 5, 5)),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_float32_is_no_further_from_float64_than_promised(name):
    function, shape = ROUNDED[name]
    (site,) = trace(Function(function), shape).sites()
    promised, generator = operation(site).rounding(site), torch.Generator().manual_seed(0)
    largest = 0.0
    for scale in (1e-4, 1e-2, 1.0, 3.0, 6.0, 1e3):
        x = scale * torch.randn(200, *shape, generator=generator)
        exact, computed = function(x.double()), operation(site).run(site, x).double()
        allowed = promised.absolute * x.double().flatten(1).norm(dim=1) + promised.constant
        error = (exact - computed).reshape(200, -1).norm(dim=1)
        assert (error <= gamma(promised.count, U32) * allowed).all()
        largest = max(largest, (error / allowed).max().item() / U32)
    assert largest > 0.01  # there is something to promise


@pytest.mark.parametrize(
    "part",
    [nn.Mish(), nn.LogSoftmax(1), nn.LPPool1d(2, 2), nn.Upsample(scale_factor=2, mode="linear"),
     nn.LayerNorm(6, 0.1), nn.LocalResponseNorm(2), nn.Softplus()],
    ids=str,
)  # fmt: skip
def test_what_libraries_round_in_their_own_way_is_certified_in_real_arithmetic(part):
    model = nn.Sequential(nn.Unflatten(1, (2, 6)), copy.deepcopy(part), nn.Flatten())
    x = torch.randn(2, 12)
    with pytest.raises(UnprovenError, match="no proven rounding error"):
        taut.certify(model, x, torch.zeros(2).long())
    found = taut.certify(model, x, torch.zeros(2).long(), arithmetic="real")
    assert float(found.bound) >= float(taut.lipschitz_bound(model, (12,))) * (1 - 1e-12)
