"""What layers that are 1-Lipschitz by intention only are worth: true norm and proved bound.

    python -m benchmarks.anomalies --out records/anomalies.json

`layers`: convolutions with normally distributed raw kernels, circular on 16x16 inputs; OSSN after
its first iterations of power iteration, SVCM before and after rounds of its projection. `training`:
the paper's Small on the embedded images, Adam at 1e-3, each net wholly of one method; the norm is
the product of those of the layers. Step 300 is one at which SVCM projects. Largest values over the
seeds.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, count, islice
from pathlib import Path

import torch
from torch import Tensor, nn

import taut
from benchmarks.environment import environment
from taut.files import write_atomically
from taut.models import small
from taut.nn import Conv2d, Linear
from taut.parametrizations import AbstractParametrization

LAYERS = {"32 to 64, 3x3": (32, 64, 3, 1), "32 to 32, 4x4, stride 2": (32, 32, 4, 2)}
SEEDS = range(5)
TRAINING_SEEDS = range(3)
ITERATIONS = (1, 2, 10, 100)
ROUNDS = (0, 1, 10, 50)
STEPS = (299, 300)
_SIZE, _BATCH, _LR = 16, 128, 1e-3

Norms = tuple[float, float]
Method = Callable[..., AbstractParametrization]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anomalies", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    record = {
        "environment": environment(),
        "seeds": {"layers": list(SEEDS), "training": list(TRAINING_SEEDS)},
        "layers": [row for name in LAYERS for row in (*ossn_rows(name), *svcm_rows(name))],
        "training": [
            *training_rows("OSSN, 1 iteration", partial(taut.OSSN, iterations=1)),
            *training_rows("OSSN, 10 iterations", taut.OSSN),
            *training_rows("SVCM", taut.SVCM),
        ],
    }
    write_atomically(args.out, (json.dumps(record, indent=1) + "\n").encode())


def ossn_rows(name: str) -> list[dict]:
    """Iterations from a random direction to a kernel that does not move."""

    def norms(seed: int, iterations: int) -> Norms:
        layer = drawn(name, partial(taut.OSSN, iterations=iterations), seed)
        taut.update_(layer, 1)
        return layer_norms(layer)

    return [
        row(f"{name}: OSSN", f"{n} iteration{'s' * (n > 1)}", [norms(seed, n) for seed in SEEDS])
        for n in ITERATIONS
    ]


def svcm_rows(name: str) -> list[dict]:
    """Rounds of one projection."""

    def norms(seed: int, rounds: int) -> Norms:
        layer = drawn(name, partial(taut.SVCM, rounds=max(rounds, 1)), seed)
        return layer_norms(taut.projected(layer) if rounds else layer)

    return [
        row(f"{name}: SVCM", f"{n} round{'s' * (n != 1)}", [norms(seed, n) for seed in SEEDS])
        for n in ROUNDS
    ]


def training_rows(name: str, method: Method) -> list[dict]:
    """The whole net between and after updates; SVCM also as it is saved."""
    found = [trained(method, seed) for seed in TRAINING_SEEDS]
    return [row(f"Small: {name}", when, [norms[when] for norms in found]) for when in found[0]]


def trained(method: Method, seed: int) -> dict[str, Norms]:
    torch.manual_seed(seed)
    data = taut.data.load("fashion-mnist-subset")
    model = small(data.input_shape, len(data.classes), parametrization=method, dense=method)
    optimiser = torch.optim.Adam(model.parameters(), lr=_LR, fused=True)
    loss = taut.losses.MultiMargin(eps_train=0.5)
    found = {}
    for step, (images, labels) in enumerate(stream(data, seed), 1):
        optimiser.zero_grad()
        loss(model(images), labels).backward()
        optimiser.step()
        taut.update_(model, step)
        if step in STEPS:
            found[f"step {step}"] = net_norms(model, data.input_shape)
            if method is taut.SVCM:
                saved = taut.projected(model)
                found[f"as saved at step {step}"] = net_norms(saved, data.input_shape)
    return found


def stream(data: taut.data.Dataset, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    epochs = (taut.data.batches(data.train, _BATCH, seed=seed, epoch=n) for n in count())
    return islice(chain.from_iterable(epochs), max(STEPS))


def drawn(name: str, method: Method, seed: int) -> Conv2d:
    torch.manual_seed(seed)
    layer = Conv2d(*LAYERS[name], parametrization=method)
    with torch.no_grad():
        for raw in layer.parametrization.parameters():
            raw.normal_(std=1 / math.sqrt(raw.shape[0]))
    return layer


def layer_norms(layer: Conv2d) -> Norms:
    shape = (layer.in_channels, _SIZE, _SIZE)
    return true_norm(layer, shape), float(taut.lipschitz_bound(layer, shape))


def net_norms(model: nn.Sequential, shape: tuple[int, ...]) -> Norms:
    bound, product, x = float(taut.lipschitz_bound(model, shape)), 1.0, torch.zeros(1, *shape)
    for layer in model:
        if isinstance(layer, Conv2d | Linear):
            product *= true_norm(layer, tuple(x.shape[1:]))
        x = layer(x)
    return product, bound


def true_norm(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """Exact, from the spectrum of the operator."""
    return float(taut.singular_values(layer, shape)[0])


def row(what: str, when: str, norms: list[Norms]) -> dict:
    true, bound = (max(values) for values in zip(*norms, strict=True))
    return {"what": what, "when": when, "norm": true, "bound": bound}


if __name__ == "__main__":
    main()
