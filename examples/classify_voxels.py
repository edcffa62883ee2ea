"""Tell spheres, cubes and crosses apart by 3-D convolutions, each answer with its radius.

python examples/classify_voxels.py --steps 70
"""

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import taut
from taut.certification import Certification

EPS = 1.0  # in l2: as if 1 voxel appeared or vanished, or all changed by 1/181


def volumes(count: int) -> tuple[Tensor, Tensor]:
    """Shapes of one volume in noise, `(count, 1, 32, 32, 32)`, and which they are."""
    labels = torch.randint(3, (count, 1, 1, 1))
    centre, radius = 14 + 4 * torch.rand(3, count, 1, 1, 1), 7 + 3 * torch.rand(count, 1, 1, 1)
    axes = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"))[:, None]
    distances = ((axes - centre).abs() / radius).sort(0).values  # along the axes, from the centre
    sphere, cube = distances.norm(dim=0) < 1, distances[2] < 0.8
    cross = (distances[1] < 0.4) & (distances[2] < 1.3)
    shape = torch.where(labels == 0, sphere, torch.where(labels == 1, cube, cross))
    return (shape + 0.2 * torch.randn(shape.shape))[:, None], labels.flatten()


def main(arguments: Sequence[str] | None = None) -> Certification:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=70, help="of the optimiser")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    model = nn.Sequential(
        *(taut.nn.Conv3d(1, 32, 5, stride=4), taut.nn.MaxMin()),
        *(taut.nn.Conv3d(32, 64, 3, stride=2, groups=4), taut.nn.MaxMin(), nn.Flatten()),
        *(taut.nn.Linear(64 * 4**3, 64), taut.nn.MaxMin(), taut.nn.Linear(64, 3)),
    )
    print(*(m for m in model if isinstance(m, taut.nn.Conv3d)), sep="\n")
    loss = taut.losses.OffsetCrossEntropy(offset=math.sqrt(2) * EPS, temperature=0.5)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(1, options.steps + 1):
        x, labels = volumes(16)
        optimiser.zero_grad()
        value = loss(model(x), labels)
        value.backward()
        optimiser.step()
        print(f"\rstep {step} of {options.steps}: loss {value.item():.3f}", end="", flush=True)
    result = taut.certify(model.eval(), *volumes(200), eps=(EPS / 2, EPS, 2 * EPS))
    print(f"\n{result}")
    return result


if __name__ == "__main__":
    main()
