"""One training step of the paper's Large, orthogonal over plain, side by side in one run.

python -m benchmarks.speed --out records/speed.json
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

import taut
from benchmarks.environment import environment
from taut.files import write_atomically
from taut.report import inspect_layers

CASES = {"MNIST Large": (1, 28, 28), "CIFAR-10 Large": (3, 32, 32)}


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    record = {"environment": environment(), "batch": args.batch, "repeats": args.repeats}
    record["steps"] = {name: measured(shape, args) for name, shape in CASES.items()}
    for name, row in record["steps"].items():
        times = f"{row['taut']:.3f} s, plain {row['plain']:.3f} s"
        print(f"{name}: {times}, ratio {row['ratio']:.2f}, error {row['error']:.1e}")
    if args.out is not None:
        write_atomically(args.out, (json.dumps(record, indent=1) + "\n").encode())


def measured(shape: tuple[int, int, int], args: argparse.Namespace) -> dict[str, float]:
    """Medians in seconds, their ratio, and the largest distance of a singular value from 1."""
    model = taut.models.build(taut.models.ModelConfig("large", input_shape=shape))
    images, labels = torch.rand(args.batch, *shape), torch.randint(10, (args.batch,))
    steps = {"taut": step(model, images, labels), "plain": step(plain(model), images, labels)}
    for warm_up in steps.values():
        warm_up()
    times = {name: [] for name in steps}
    for _ in range(args.repeats):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    result = {name: median(values) for name, values in times.items()}
    result["ratio"] = median(a / b for a, b in zip(times["taut"], times["plain"], strict=True))
    spectra = [layer.spectrum for layer in inspect_layers(model, images[:1], labels[:1])]
    result["error"] = max(float((s - 1).abs().max()) for s in spectra if s is not None)
    return result


def step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """Forward, loss, backward and Adam."""
    optimiser = torch.optim.Adam(model.parameters(), fused=True)

    def run() -> None:
        optimiser.zero_grad()
        F.multi_margin_loss(model(images), labels).backward()
        optimiser.step()

    return run


def plain(model: nn.Sequential) -> nn.Sequential:
    """The same net with torch's own layers."""
    return nn.Sequential(*(_twin(layer) for layer in model))


def _twin(layer: nn.Module) -> nn.Module:
    if isinstance(layer, taut.nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features)
    if isinstance(layer, taut.nn.Conv2d):
        return nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.pads((64, 64)).left,
            padding_mode="circular",
        )
    return layer


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="the record; left out: only print")
    return parser.parse_args()


if __name__ == "__main__":
    main()
