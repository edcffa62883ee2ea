"""What layers that are 1-Lipschitz by intention only are worth: true norm and proved bound.

Example: python -m experiments.anomalies --record records/anomalies.json

`layers`: convolutions with normally distributed raw kernels, circular on 16x16 inputs; OSSN after
its first iterations of power iteration, SVCM before and after rounds of its projection. `training`:
the paper's Small on the embedded images, Adam at 1e-3, each net wholly of one method; the norm is
the product of those of the layers. Step 300 is one at which SVCM projects. Largest values over the
seeds.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

import taut
from experiments._record import RECORDS, Record, read
from experiments._runner import Experiment, tracked
from experiments._show import table
from experiments._training import steps_of
from taut.models import Small
from taut.nn import Conv2d, Linear
from taut.parametrizations import AbstractParametrization

LAYERS = {"32 to 64, 3x3": (32, 64, 3, 1), "32 to 32, 4x4, stride 2": (32, 32, 4, 2)}
SEEDS, TRAINING_SEEDS = range(5), range(3)
ITERATIONS, ROUNDS, STEPS = (1, 2, 10, 100), (0, 1, 10, 50), (299, 300)
_SIZE, _BATCH, _LR = 16, 128, 1e-3

Norms = tuple[float, float]
Method = Callable[..., AbstractParametrization]


def work(args: argparse.Namespace, record: Record) -> None:
    record.begin(seeds={"layers": list(SEEDS), "training": list(TRAINING_SEEDS)})
    for name in tracked(list(LAYERS), "layers"):
        for n in ITERATIONS:
            norms = [ossn_norms(name, seed, n) for seed in SEEDS]
            add(record, "layers", f"{name}: OSSN", f"{n} iteration{'s' * (n > 1)}", norms)
        for n in ROUNDS:
            norms = [svcm_norms(name, seed, n) for seed in SEEDS]
            add(record, "layers", f"{name}: SVCM", f"{n} round{'s' * (n != 1)}", norms)
    methods: dict[str, Method] = {
        "OSSN, 1 iteration": partial(taut.OSSN, iterations=1),
        "OSSN, 10 iterations": taut.OSSN,
        "SVCM": taut.SVCM,
    }
    for name in tracked(list(methods), "methods"):
        seeds = [trained(methods[name], seed) for seed in TRAINING_SEEDS]
        for when in seeds[0]:
            add(record, "training", f"Small: {name}", when, [norms[when] for norms in seeds])


def add(record: Record, part: str, what: str, when: str, norms: Sequence[Norms]) -> None:
    true, bound = (max(values) for values in zip(*norms, strict=True))
    record.add(part, {"what": what, "when": when, "norm": true, "bound": bound})


def ossn_norms(name: str, seed: int, iterations: int) -> Norms:
    """Iterations from a random direction to a kernel that does not move."""
    layer = drawn(name, partial(taut.OSSN, iterations=iterations), seed)
    taut.update_(layer, 1)
    return layer_norms(layer)


def svcm_norms(name: str, seed: int, rounds: int) -> Norms:
    """Rounds of one projection."""
    layer = drawn(name, partial(taut.SVCM, rounds=max(rounds, 1)), seed)
    return layer_norms(taut.projected(layer) if rounds else layer)


def trained(method: Method, seed: int) -> dict[str, Norms]:
    """The whole net between and after updates; SVCM also as it is saved."""
    torch.manual_seed(seed)
    data = taut.data.load("fashion-mnist-subset")
    model = Small().build(data.input_shape, len(data.classes), parametrization=method, dense=method)
    optimiser = torch.optim.Adam(model.parameters(), lr=_LR, fused=True)
    loss = taut.losses.MultiMargin(eps_train=0.5)
    norms = {}
    batches = steps_of(data.train, _BATCH, max(STEPS), seed=seed)
    for step, (images, labels) in enumerate(batches, 1):
        optimiser.zero_grad()
        loss(model(images), labels).backward()
        optimiser.step()
        taut.update_(model, step)
        if step in STEPS:
            norms[f"step {step}"] = net_norms(model, data.input_shape)
            if method is taut.SVCM:
                saved = taut.projected(model)
                norms[f"as saved at step {step}"] = net_norms(saved, data.input_shape)
    return norms


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


def anomalies() -> str:
    content = read(RECORDS / "anomalies.json")
    columns = {
        "what": "{what}",
        "when": "{when}",
        "norm": "{norm:.4f}",
        "proved bound": "{bound:.4f}",
    }
    return table([*content["layers"], *content["training"]], columns)


EXPERIMENT = Experiment("anomalies", __doc__, work)

if __name__ == "__main__":
    EXPERIMENT.main()
