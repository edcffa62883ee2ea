"""Measure how far frozen and exported models are from the original, and write the record.

Example: python -m experiments.export --record records/export.json

Differences are the largest of any output, over the largest output, in float32 on the CPU: without
gradients, and for whole models with them, too, where layers may take factors of a weight.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import taut
from experiments._models import PAPER_ARCHITECTURES, net
from experiments._record import Record, brief
from experiments._runner import Experiment, tracked
from taut.export import export, load
from taut.parametrizations import methods

INPUTS = 64
SHAPE = (3, 32, 32)


def work(args: argparse.Namespace, record: Record) -> None:
    torch.manual_seed(0)
    record.begin(seed=0, inputs=INPUTS)
    frozen = {method: frozen_layers(method) for method in tracked(list(methods()), "methods")}
    record.keep(**{"frozen layers": frozen})
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in tracked(PAPER_ARCHITECTURES, "nets"):
            models[name] = exported_model(name, Path(folder))
            print(name, brief(models[name]), flush=True)
            record.keep(**{"exported models": models})


def difference(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def random_images(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(INPUTS, *shape, generator=torch.Generator().manual_seed(0))


def layers(method: str) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
    """Layers of one method with the paddings, sizes and strides that it takes."""
    cls = methods()[method]
    for sizes in ((64, 64), (128, 10), (10, 128)):
        yield taut.nn.Linear(*sizes, parametrization=cls), sizes[:1]
    if cls.matrices_only:
        return
    for kernel, stride in ((1, 1), (2, 1), (3, 1), (4, 2), (5, 1), (6, 3)):
        for mode in ("circular",) if cls is taut.ECO else ("circular", "zeros"):
            options = {"padding_mode": mode, "parametrization": cls}
            # ECO takes multiples of its kernel size alone.
            shape = (8, 4 * kernel, 3 * kernel) if cls is taut.ECO else (8, 15, 17)
            yield taut.nn.Conv2d(8, 12, kernel, stride, **options), shape  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def frozen_layers(method: str) -> dict[str, float]:
    """The largest difference of a frozen layer, in train and in eval mode."""
    worst = {"layers": 0, "train": 0.0, "eval": 0.0}
    for layer, shape in layers(method):
        worst["layers"] += 1
        for mode in ("train", "eval"):
            layer.train(mode == "train")
            x = random_images(shape)
            worst[mode] = max(worst[mode], difference(taut.freeze(layer, shape)(x), layer(x)))
    return worst


def in_onnxruntime(path: Path, x: Tensor) -> Tensor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


RUNTIMES: dict[str, Callable[[Path, Tensor], Tensor]] = {
    "model.onnx": in_onnxruntime,
    "model.pt2": lambda path, x: torch.export.load(path).module()(x),
    "model.safetensors": lambda path, x: load(path).model(x),
}


@torch.no_grad()
def exported_model(architecture: str, folder: Path) -> dict[str, float]:
    """The difference of each file in its own runtime, and its bound."""
    torch.manual_seed(0)
    model = net(architecture, SHAPE).eval()
    frozen, x = taut.freeze(model), random_images(SHAPE)
    row = {"frozen from original": difference(frozen(x), model(x))}
    with torch.enable_grad():
        factored = model(x).detach()
    row["frozen from original with gradients"] = difference(frozen(x), factored)
    absolute = (frozen(x) - factored).abs().max().item()
    row["frozen from original with gradients, absolute"] = absolute
    for name, compute in RUNTIMES.items():
        exported = export(frozen, folder / name, SHAPE)
        row[f"{name} from frozen"] = difference(compute(folder / name, x), frozen(x))
        row[f"{name} bound"] = float(taut.lipschitz_bound(*exported))
        row[f"{name} bytes"] = (folder / name).stat().st_size
    return row | {"bound of the original": float(taut.lipschitz_bound(model, SHAPE))}


EXPERIMENT = Experiment("export", __doc__, work)

if __name__ == "__main__":
    EXPERIMENT.main()
