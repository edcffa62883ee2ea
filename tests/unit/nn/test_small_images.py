"""Images smaller than the circular padding of a layer: wrapped round as often as it takes."""

import importlib.util
import re

import numpy as np
import pytest
import torch
from torch import nn

import taut
from exported_nets import in_onnxruntime
from oracles import dense_operator
from taut.certification import verifier
from taut.export import export


def down() -> tuple[nn.Module, tuple[int, ...]]:
    layers = [taut.nn.Conv2d(1, 8, (7, 5)), taut.nn.MaxMin(), nn.Flatten()]
    return nn.Sequential(*layers, taut.nn.Linear(16, 3)).eval(), (1, 2, 1)


def up() -> tuple[nn.Module, tuple[int, ...]]:
    layers = [taut.nn.ConvTranspose2d(8, 2, (9, 7), 2), taut.nn.MaxMin(), nn.Flatten()]
    return nn.Sequential(*layers, taut.nn.Linear(16, 3)).eval(), (8, 2, 1)


def volume() -> tuple[nn.Module, tuple[int, ...]]:
    layers = [taut.nn.Conv3d(1, 8, (5, 1, 7), stride=(2, 1, 1)), taut.nn.MaxMin(), nn.Flatten()]
    return nn.Sequential(*layers, taut.nn.Linear(24, 3)).eval(), (1, 1, 3, 1)


def written(path):
    """The model in the Python file beside the tensors."""
    spec = importlib.util.spec_from_file_location("written", path.with_suffix(".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


@pytest.mark.parametrize("make", [down, up, volume])
def test_nets_are_bounded_certified_and_exported(make, tmp_path):
    torch.manual_seed(0)
    model, shape = make()
    x = torch.rand(6, *shape)
    y = model(x).detach()
    layer = model[0].double()
    dense = torch.linalg.svdvals(dense_operator(layer, shape))
    torch.testing.assert_close(taut.singular_values(layer, shape), dense, rtol=0, atol=1e-9)
    layer.float()
    assert float(taut.lipschitz_bound(model, shape)) <= 1 + 1e-5
    result = taut.certify(model, x, y.argmax(1))
    assert float(result.bound) <= 1 + 1e-5  # so that wraps count as no copies there either
    paths = result.save(tmp_path / "certificate.json")
    np.savez(tmp_path / "points.npz", images=x.numpy())
    assert "6 images" in verifier.verify(*paths, tmp_path / "points.npz")
    assert len(taut.diagnostics.inspect(model, x).layers) == 4

    for suffix, run in (
        (".onnx", lambda path: in_onnxruntime(path, x)),
        (".pt2", lambda path: torch.export.load(path).module()(x)),
        (".safetensors", lambda path: written(path)(x)),
    ):
        path = (tmp_path / "model").with_suffix(suffix)
        exported = export(model, path, shape)
        torch.testing.assert_close(run(path), y, rtol=1e-4, atol=1e-5)
        assert float(taut.lipschitz_bound(*exported)) <= 1 + 1e-5


@pytest.mark.parametrize("make", [down, up, volume])
def test_frozen_nets_wrap_round_as_often(make, tmp_path):
    torch.manual_seed(0)
    model, shape = make()
    frozen, x = taut.freeze(model), torch.rand(4, *shape)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), model(x), rtol=1e-5, atol=1e-6)
    assert float(taut.lipschitz_bound(frozen, shape)) <= 1 + 1e-5
    result = taut.certify(frozen, x, frozen(x).argmax(1))
    paths = result.save(tmp_path / "certificate.json")
    assert f"Lipschitz bound {float(result.bound)}" in verifier.verify(*paths)


def test_layers_of_torch_wrap_round_once_and_say_so():
    layer = nn.Conv2d(1, 8, (7, 5), padding=(3, 2), padding_mode="circular")
    model, shape = nn.Sequential(layer, nn.Flatten(), nn.Linear(16, 3)).eval(), (1, 2, 1)
    x, labels = torch.rand(2, *shape), torch.zeros(2, dtype=torch.long)
    reason = "at `0`: its circular padding.* is larger than the image.*; take larger images"
    for use in (
        lambda: taut.lipschitz_bound(model, shape),
        lambda: taut.certify(model, x, labels),
        lambda: taut.predict(model, x),
        lambda: taut.diagnostics.inspect(model, x),
        lambda: export(model, "model.onnx", shape),
    ):
        with pytest.raises(ValueError, match=reason) as found:
            use()
        assert re.fullmatch(r"`(input_shape|images)` .*[^.]\.", str(found.value))
