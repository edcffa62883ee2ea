"""Lipschitz constants that libraries and papers claim for their nets, beside what is proved.

Example: python -m experiments.referee --record records/referee.json

Each net is built as its library says, trained on the embedded images, and bounded by
`taut.lipschitz_bound`. The product of norms takes 1000 power iterations for each layer, which
estimate its norm from below. "found" is the largest norm of a Jacobian at test images and on a walk
from them: the constant of the net is at least that. Certified accuracies divide margins by the
constant claimed, or proved.
"""

import argparse
from importlib.metadata import version
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from experiments._record import RECORDS, Record, read
from experiments._referee_nets import NETS, SHAPE, claims_estimate
from experiments._runner import QUICK, Experiment, option, sentence, tracked
from experiments._show import markdown
from experiments._training import share, steps_of

RECORD = RECORDS / "referee.json"
_EPS, _BATCH, _LR, _LOGIT_SCALE = 36 / 255, 128, 1e-3, 10.0
_WALK, _STEP = 20, 0.1
_ITERATIONS = 1000


def work(args: argparse.Namespace, record: Record) -> None:
    steps = 5 if args.quick else args.steps
    record.resume({"steps": steps, "seed": args.seed})
    known = {row["net"] for row in record.content.get("rows", ())}
    for name in tracked([name for name in NETS if name not in known], "nets"):
        try:
            row = measured(name, steps, args.seed)
        except ImportError as error:  # the library is not installed
            row = {"note": sentence(error)}
        record.add("rows", {"net": name, **row})


def measured(name: str, steps: int, seed: int) -> dict[str, Any]:
    """The constants of a trained net that are claimed, proved and found, and what they certify."""
    make, claim, packages = NETS[name]
    torch.manual_seed(seed)
    data = taut.data.load("fashion-mnist-subset")
    net = trained(make(), data, steps, seed).eval()
    images, labels = data.test.float_images(), data.test.labels
    claimed = claim(net)
    proved = float(taut.lipschitz_bound(net, SHAPE))
    found = largest_slope(net, images[:64])
    with torch.no_grad():
        top = net(images).topk(2)
    right, margin = top.indices[:, 0] == labels, top.values[:, 0] - top.values[:, 1]
    return {
        "versions": {package: version(package) for package in packages},
        "claimed": claimed,
        "proved": proved,
        "norms multiplied": claims_estimate(net, iterations=_ITERATIONS),
        "found": found,
        "clean": 100 * share(right),
        "certified as claimed": 100 * share(right & (margin > sqrt(2) * claimed * _EPS)),
        "certified as proved": 100 * share(right & (margin > sqrt(2) * proved * _EPS)),
    }


def trained(net: nn.Module, data: taut.data.Dataset, steps: int, seed: int) -> nn.Module:
    """The net after some steps of cross-entropy."""
    optimiser = torch.optim.Adam(net.parameters(), lr=_LR)
    for images, labels in steps_of(data.train, _BATCH, steps, seed=seed):
        optimiser.zero_grad()
        F.cross_entropy(_LOGIT_SCALE * net(images), labels).backward()
        optimiser.step()
    return net


def largest_slope(net: nn.Module, images: Tensor) -> float:
    """The largest singular value of Jacobians, at images and on a walk along singular vectors."""
    best = 0.0
    for _ in range(_WALK):
        images = images.requires_grad_()
        outputs = net(images).sum(0)
        rows = [torch.autograd.grad(y, images, retain_graph=True)[0].flatten(1) for y in outputs]
        _, values, directions = torch.linalg.svd(torch.stack(rows, 1), full_matrices=False)
        best = max(best, float(values.max()))
        images = images.detach() + _STEP * directions[:, 0].reshape(images.shape)
    return best


def referee_table() -> str:
    """The table of docs/any-net.md."""
    rows = []
    for row in read(RECORD)["rows"]:
        if "note" in row:
            rows.append((row["net"], row["note"], *["-"] * 7))
            continue
        numbers = [f"{row[key]:.4g}" for key in ("claimed", "norms multiplied", "proved", "found")]
        shares = [f"{row[f'certified as {how}']:.1f}" for how in ("claimed", "proved")]
        rows.append((row["net"], *numbers, verdict(row), f"{row['clean']:.1f}", *shares))
    header = (
        *("net", "claimed", "product of norms", "proved", "found", "the claim", "clean, %"),
        *("by the claim, %", "by the proof, %"),
    )
    return markdown(header, rows)


def verdict(row: dict[str, Any]) -> str:
    """Whether a claim is true.

    >>> verdict({"claimed": 1.0, "proved": 3.0, "found": 1.5})
    'is false'
    """
    if row["found"] > row["claimed"] * (1 + 1e-5):
        return "is false"
    return "is proved" if row["proved"] <= row["claimed"] * (1 + 1e-5) else "is not proved"


EXPERIMENT = Experiment(
    "referee",
    __doc__,
    work,
    (
        option("--steps", 400, "of training"),
        option("--seed", 0, "of initialisation and order"),
        QUICK,
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
