"""What the house promises of a layer: one call checks bound, files and both verifiers."""

from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

import forgery
import taut
from taut.certification import verifier
from taut.export import export, load


def jacobians(f: nn.Module, shape: tuple[int, ...], *, points: int = 3, seed: int = 0) -> Tensor:
    """Singular values of the Jacobian at random points, in float64."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(points):
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        matrix = torch.autograd.functional.jacobian(lambda x: f(x[None])[0].flatten(), x)
        found.append(torch.linalg.svdvals(matrix.flatten(1)))
    return torch.stack(found)


def classifier(layer: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The layer before a matrix, frozen; in float32."""
    with torch.no_grad():
        features = layer(torch.zeros(1, *shape)).numel()
    head = nn.Sequential(layer, nn.Flatten(), taut.nn.Linear(features, 3))
    return taut.freeze(head.float().eval())


def assert_certified(layer: nn.Module, shape: tuple[int, ...], folder: Path) -> float:
    """Certificates of float32 and float64 hold by both verifiers; returns the larger bound."""
    torch.manual_seed(0)
    model, bounds = classifier(layer, shape), []
    for dtype in (torch.float32, torch.float64):
        model = model.to(dtype)
        x = torch.rand(2, *shape, dtype=dtype) - 0.3
        found = taut.predict(model, x, arithmetic=str(dtype).removeprefix("torch."))
        path, weights = found.save(folder / f"{dtype}.json")
        assert taut.verify(path, weights).bound == found.bound.value
        assert "answers of 2" in verifier.verify(path, weights, forgery.points_file(folder, x))
        bounds.append(found.bound.value)
    model.float()
    return max(bounds)


def assert_files_agree(
    layer: nn.Module, shape: tuple[int, ...], folder: Path, *, onnx: bool = True
) -> None:
    """Frozen it is the same function, and so are its files, read back and by onnxruntime."""
    layer = layer.float().eval()
    x = torch.randn(3, *shape)
    frozen = taut.freeze(layer)
    with torch.no_grad():
        expected = layer(x)
        assert torch.equal(frozen(x), expected)
    for suffix in (".pt2", ".safetensors", *([".onnx"] if onnx else [])):
        path = folder / f"layer{suffix}"
        export(frozen, path, shape)
        model, _ = load(path)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)
        bounds = [float(taut.lipschitz_bound(m, shape)) for m in (model, layer)]
        assert abs(bounds[0] / bounds[1] - 1) < 1e-6
    if onnx:
        session = onnxruntime.InferenceSession(str(folder / "layer.onnx"))
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-5, atol=1e-6)
