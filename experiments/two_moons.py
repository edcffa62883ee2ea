"""Draw what the hinge and the Kantorovich-Rubinstein term each do to a classifier of two moons.

Example: python -m experiments.two_moons --figure docs/figures/two-moons.png
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments._record import Record
from experiments._runner import Experiment, option
from experiments._show import COLOURS, panels, save
from taut.losses import KR, AbstractLoss, HingeKR
from taut.parametrizations import retract_
from taut.wasserstein import critics

SEED = 0
LOSSES = {"KR: a critic": KR(), "hinge-KR, alpha 10, margin 0.2": HingeKR(alpha=10.0, margin=0.2)}


def work(args: argparse.Namespace, record: Record) -> None:
    figure, both = panels(1, 2, (9, 3.4))
    points, labels = two_moons(600, torch.Generator().manual_seed(SEED))
    for axes, (title, loss) in zip(both, LOSSES.items(), strict=True):
        torch.manual_seed(SEED)
        draw(axes, train(loss, points, labels), points, labels)
        axes.set_title(title, fontsize=10)
    save(figure, args.figure)


def two_moons(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 2
    angles = math.pi * torch.rand(count, generator=random)
    upper = torch.stack([angles.cos(), angles.sin()], 1)
    lower = torch.stack([1 - angles.cos(), 0.5 - angles.sin()], 1)
    clean = torch.where(labels[:, None] == 1, upper, lower)
    return clean + 0.08 * torch.randn(count, 2, generator=random), labels


def train(loss: AbstractLoss, points: Tensor, labels: Tensor, steps: int = 600) -> nn.Module:
    model = critics.dense((2,), width=64, depth=4)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        optimiser.zero_grad()
        loss(model(points)[:, 0], labels).backward()
        optimiser.step()
        schedule.step()
        if step % 16 == 15:
            retract_(model)
    return model.eval()


@torch.no_grad()
def draw(axes, model: nn.Module, points: Tensor, labels: Tensor) -> None:
    x, y = torch.linspace(-1.6, 2.6, 240), torch.linspace(-1.2, 1.7, 170)
    heights = model(torch.cartesian_prod(x, y)).reshape(len(x), len(y)).T
    levels = torch.arange(-2, 2.01, 0.2).tolist()
    axes.contourf(x, y, heights, levels, cmap="BrBG", alpha=0.5, extend="both")
    axes.contour(x, y, heights, levels, colors="#777", linewidths=0.4)
    axes.contour(x, y, heights, [0.0], colors="#111", linewidths=1.6)
    for label, colour in ((1, COLOURS[0]), (0, COLOURS[1])):
        chosen = points[labels == label]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=5, color=colour)
    axes.set(aspect="equal", xticks=[], yticks=[])


EXPERIMENT = Experiment(
    "two_moons",
    __doc__,
    work,
    [option("--figure", help="the PNG to write", type=Path, required=True)],
    records=False,
)

if __name__ == "__main__":
    EXPERIMENT.main()
