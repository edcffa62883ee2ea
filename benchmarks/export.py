"""Measure how far frozen and exported models are from the original, and write the record.

    python -m benchmarks.export --out records/export.json

Differences are the largest of any output, over the largest output, in float32 on the CPU: without
gradients, and for whole models with them, too, where layers may take factors of a weight.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import taut
from benchmarks.environment import environment
from taut.deploy import export, load
from taut.files import write_atomically
from taut.models import ModelConfig, build
from taut.parametrizations import methods

INPUTS = 64
SHAPE = (3, 32, 32)


def difference(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def random_images(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(INPUTS, *shape, generator=torch.Generator().manual_seed(0))


def layers(method: str) -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """Layers of one method with the paddings, sizes and strides that it takes."""
    cls = methods()[method]
    for sizes in ((64, 64), (128, 10), (10, 128)):
        yield f"Linear {sizes}", taut.nn.Linear(*sizes, parametrization=cls), sizes[:1]
    if cls.matrices_only:
        return
    for kernel, stride in ((1, 1), (2, 1), (3, 1), (4, 2), (5, 1), (6, 3)):
        for mode in ("circular", "zeros"):
            options = {"padding_mode": mode, "parametrization": cls}
            layer = taut.nn.Conv2d(8, 12, kernel, stride, **options)  # pyright: ignore[reportArgumentType]
            yield f"Conv2d {kernel}, stride {stride}, {mode}", layer, (8, 15, 17)


@torch.no_grad()
def frozen_layers() -> dict[str, dict[str, float]]:
    """For each method the largest difference of a frozen layer, in train and in eval mode."""
    found = {}
    for method in methods():
        worst = {"layers": 0, "train": 0.0, "eval": 0.0}
        for _, layer, shape in layers(method):
            worst["layers"] += 1
            for mode in ("train", "eval"):
                layer.train(mode == "train")
                x = random_images(shape)
                worst[mode] = max(worst[mode], difference(taut.freeze(layer)(x), layer(x)))
        found[method] = worst
    return found


def in_onnxruntime(path: Path, x: Tensor) -> Tensor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


def in_torch_export(path: Path, x: Tensor) -> Tensor:
    return torch.export.load(path).module()(x)


def read_back(path: Path, x: Tensor) -> Tensor:
    return load(path).model(x)


RUNTIMES: dict[str, Callable[[Path, Tensor], Tensor]] = {
    "model.onnx": in_onnxruntime,
    "model.pt2": in_torch_export,
    "model.safetensors": read_back,
}


@torch.no_grad()
def exported_models(folder: Path) -> dict[str, dict[str, float]]:
    """Of each of the paper's nets the difference of each file in its own runtime, and its bound."""
    found = {}
    for architecture in ("small", "large", "fc3"):
        torch.manual_seed(0)
        model = build(ModelConfig(architecture, input_shape=SHAPE)).eval()
        frozen, x = taut.freeze(model), random_images(SHAPE)
        row = {"frozen from original": difference(frozen(x), model(x))}
        with torch.enable_grad():
            factored = model(x).detach()
        row["frozen from original with gradients"] = difference(frozen(x), factored)
        row["frozen from original with gradients, absolute"] = (
            (frozen(x) - factored).abs().max().item()
        )
        for name, compute in RUNTIMES.items():
            exported = export(frozen, folder / name, SHAPE)
            row[f"{name} from frozen"] = difference(compute(folder / name, x), frozen(x))
            row[f"{name} bound"] = float(taut.lipschitz_bound(*exported))
            row[f"{name} bytes"] = (folder / name).stat().st_size
        row["bound of the original"] = float(taut.lipschitz_bound(model, SHAPE))
        found[architecture] = row
        print(architecture, row, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--out", type=Path, help="the record; left out: only print")
    out = parser.parse_args().out
    torch.manual_seed(0)
    frozen = frozen_layers()
    print(frozen)
    with tempfile.TemporaryDirectory() as folder:
        models = exported_models(Path(folder))
    record = {
        "environment": environment(),
        "seed": 0,
        "inputs": INPUTS,
        "frozen layers": frozen,
        "exported models": models,
    }
    if out is not None:
        write_atomically(out, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
