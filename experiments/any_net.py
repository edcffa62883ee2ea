"""Bound and convert nets of others at the size that they have: time, sharpness, what is left.

Example: python -m experiments.any_net --record records/any-net.json

Bounds are of torchvision's architectures with random weights and settled batch norms at 224 x 224
(DnCNN at 180 x 180); the plain product is of the same layers one by one. Conversions are of
narrow nets of the same kinds: trained for 10 steps, frozen, exported to three formats, and verified
by both verifiers.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import taut
from experiments import _nets as nets
from experiments._record import RECORDS, Record, read
from experiments._runner import Experiment, show_table, tracked
from experiments._show import markdown
from taut.certification import prove
from taut.certification.verifier import verify as verify_alone
from taut.program import verifiable_bound

BOUNDED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-18": (nets.resnet18, (3, 224, 224)),
    "ResNet-50": (nets.resnet50, (3, 224, 224)),
    "MobileNetV2": (nets.MobileNetV2, (3, 224, 224)),
    "DnCNN": (nets.DnCNN, (1, 180, 180)),
    "U-Net": (nets.UNet, (3, 224, 224)),
    "VGG-16": (nets.vgg16, (3, 224, 224)),
}
CONVERTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "VGG": (lambda: nets.VGG(width=8, classes=10, hidden=64, norm=True), (3, 32, 32)),
    "ResNet-18": (lambda: nets.resnet18(width=8, classes=10), (3, 32, 32)),
    "DnCNN": (lambda: nets.DnCNN(width=8, depth=6), (1, 16, 16)),
    "U-Net": (lambda: nets.UNet(width=8, depth=2), (3, 16, 16)),
    "MobileNetV2": (lambda: nets.MobileNetV2(width=0.25, classes=10, last=64), (3, 32, 32)),
}
FORMATS = (".onnx", ".pt2", ".safetensors")


def work(args: argparse.Namespace, record: Record) -> None:
    record.begin(seed=0)
    converted = [conversion(name) for name in tracked(list(CONVERTED), "conversions")]
    record.keep(conversions=converted, chains=chains())
    bounds: list[dict[str, Any]] = []
    for name in tracked(list(BOUNDED), "nets"):
        bounds.append(bounded(name))
        record.keep(bounds=bounds)
    for title, rows in (("bounds", bounds), ("conversions", converted), ("chains", chains())):
        cells = [
            tuple(f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values())
            for row in rows
        ]
        show_table(title, tuple(rows[0]), cells)


def bounded(name: str) -> dict[str, Any]:
    """One net: its bound with all passes, and without any."""
    make, shape = BOUNDED[name]
    torch.manual_seed(0)
    model = nets.settled(make())
    begun = time.perf_counter()
    bound = taut.lipschitz_bound(model, shape)
    seconds = time.perf_counter() - begun
    product = float(verifiable_bound(model, shape))
    excess = [row.excess for row in bound.layers if row.excess is not None]
    return {
        "net": name, "input": list(shape), "bound": float(bound), "plain product": product,
        "seconds": seconds, "largest excess of a layer": max(excess, default=1.0),
        "passes": list(bound.passes),
    }  # fmt: skip


def conversion(name: str) -> dict[str, Any]:
    """One net: what convert leaves, and the bounds of what becomes of it."""
    make, shape = CONVERTED[name]
    torch.manual_seed(0)
    converted = taut.convert(make().train(), shape)
    model, x = converted.model, torch.rand(4, *shape)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(1, 11):
        optimiser.zero_grad()
        outputs = model(x)
        (outputs - torch.rand_like(outputs)).square().mean().backward()
        optimiser.step()
        taut.after_step(model, step)
    frozen = taut.freeze(model.eval())
    row: dict[str, Any] = {"net": name, "left": len(converted.left)}
    row["frozen"] = float(taut.lipschitz_bound(frozen, shape))
    taut.export.shrink_(frozen, shape)
    row["shrunk"] = float(taut.lipschitz_bound(frozen, shape))
    with tempfile.TemporaryDirectory() as folder:
        for suffix in FORMATS:
            path = Path(folder, f"model{suffix}")
            taut.export.export(frozen, path, shape)
            row[suffix] = float(taut.lipschitz_bound(taut.load(path), shape))
        certificate, weights = prove(frozen, shape).save(Path(folder, "certificate.json"))
        row["verified"] = taut.verify(certificate, weights).bound
        row["verified alone"] = "bound" in verify_alone(certificate, weights)
    return row


def maxmin(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)


class ByHand(nn.Module):
    """An orthogonal layer and MaxMin written out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = taut.nn.Conv2d(8, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return maxmin(self.layer(x))


def chains() -> list[dict[str, Any]]:
    """Small nets whose true constants are known layer by layer."""
    torch.manual_seed(0)
    blocks: list[nn.Module] = []
    for i in range(6):
        blocks += [nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    normed = nets.settled(nn.Sequential(*blocks))
    by_hand = nn.Sequential(*(ByHand() for _ in range(10))).eval()
    rows = []
    for name, model, shape in (
        ("six convolutions with batch norms", normed, (3, 16, 16)),
        ("ten orthogonal layers with MaxMin by hand", by_hand, (8, 8, 8)),
    ):
        truth = 1.0
        if name.startswith("six"):
            for i in range(0, 18, 3):
                part = nn.Sequential(*blocks[i : i + 2]).eval()
                truth *= float(taut.singular_values(part, (8 if i else 3, 16, 16))[0])
        rows.append({
            "net": name, "bound": float(taut.lipschitz_bound(model, shape)),
            "plain product": float(taut.lipschitz_bound(model, shape, passes=())),
            "product of the true norms": truth,
        })  # fmt: skip
    return rows


def bounds_table() -> str:
    rows = read(RECORDS / "any-net.json")["bounds"]
    cells = [
        (row["net"], " x ".join(map(str, row["input"])), f"{row['bound']:.3g}",
         f"{row['plain product']:.3g}", f"{row['seconds']:.0f}",
         f"{row['largest excess of a layer'] - 1:.1%}")
        for row in rows
    ]  # fmt: skip
    header = ("net", "input", "bound", "plain product", "seconds", "a layer is at most above")
    return markdown(header, cells)


def conversions_table() -> str:
    rows = read(RECORDS / "any-net.json")["conversions"]
    cells = [
        (row["net"], str(row["left"]), f"1 + {max(0.0, row['frozen'] - 1):.0e}",
         f"{row['verified']:.6f}", "yes" if row["verified alone"] else "no")
        for row in rows
    ]  # fmt: skip
    header = ("net", "left", "bound, frozen", "bound, shrunk and verified", "verifier.py")
    return markdown(header, cells)


TABLES = {"bounds": bounds_table, "conversions": conversions_table}

EXPERIMENT = Experiment("any_net", __doc__, work, threads=2)

if __name__ == "__main__":
    EXPERIMENT.main()
