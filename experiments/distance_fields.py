"""Fit signed distances of two shapes by Lipschitz nets and by a plain net, and trace rays.

Example: python -m experiments.distance_fields --shapes star \\
             --record records/distance-fields-star.json

The shapes are a star in the plane and a torus in space, whose distances are known exactly. All nets
train for the same CPU seconds on fresh points of the box [-1, 1]^n: a 1-Lipschitz net on labels
inside and outside alone (HingeKR), the same net on distances, and a softplus net on distances with
an eikonal term. Rays start on the unit sphere; a ray went through if, on points of a fine march
along it in float64, the net falls below minus the tolerance before the place where the tracing
ended. The plain net is traced by steps of its value, as if its constant were 1. Nets lie in
runs/distance-fields; those that the record holds are not trained again.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import taut
from experiments._record import FIGURES, RECORDS, RUNS, Record, read
from experiments._runner import Experiment, option, tracked
from experiments._shapes import SHAPES
from experiments._show import COLOURS, markdown, panels, save
from taut import sdf
from taut.files import load_tensors, save_tensors
from taut.parametrizations import retract_
from taut.wasserstein import critics

NETS = {
    "labels": "1-Lipschitz, labels only",
    "distances": "1-Lipschitz, distances",
    "plain": "softplus, distances and eikonal term",
}
TOLERANCE, RAYS, MARCH, BATCH, TEST = 1e-3, 300, 1000, 512, 20_000
ALPHA, MARGIN, EIKONAL = 100.0, 0.01, 0.1
PIXELS = 120


def net(kind: str, n: int) -> nn.Module:
    if kind != "plain":
        return critics.dense((n,), width=64, depth=6)
    widths = [n, 128, 128, 128, 128]
    hidden = ((nn.Linear(a, b), nn.Softplus(100.0)) for a, b in itertools.pairwise(widths))
    return nn.Sequential(*itertools.chain.from_iterable(hidden), nn.Linear(128, 1))


def loss_of(kind: str, model: nn.Module, x: Tensor, distance: Tensor) -> Tensor:
    """Of a batch of points."""
    if kind == "plain":
        x = x.requires_grad_()
        values = model(x)[:, 0]
        (slope,) = torch.autograd.grad(values.sum(), x, create_graph=True)
        eikonal = (slope.norm(dim=1) - 1).square().mean()
        return (values - distance).abs().mean() + EIKONAL * eikonal
    values = model(x)[:, 0]
    if kind == "labels":
        return taut.losses.HingeKR(alpha=ALPHA, margin=MARGIN)(values, (distance > 0).long())
    return (values - distance).abs().mean()


def points(count: int, n: int, random: torch.Generator) -> Tensor:
    return 2 * torch.rand(count, n, generator=random) - 1


def trained(kind: str, name: str, seconds: float) -> tuple[nn.Module, int]:
    """A net after the CPU seconds, over which the learning rate falls to 0; and its steps."""
    exact, n = SHAPES[name]
    torch.manual_seed(0)
    model, random = net(kind, n), torch.Generator().manual_seed(0)
    rate = 1e-2 if kind != "plain" else 2e-3
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    start, steps, share = time.process_time(), 0, 0.0
    while share < 1:
        optimiser.param_groups[0]["lr"] = rate * (1 - share)
        x = points(BATCH, n, random)
        distance = exact(x)
        optimiser.zero_grad()
        loss_of(kind, model, x, distance).backward()
        optimiser.step()
        steps += 1
        if steps % 16 == 0:
            retract_(model)
        share = (time.process_time() - start) / seconds
    return taut.freeze(model.eval()), steps


def accuracy(model: nn.Module, name: str) -> dict[str, float]:
    """Error of distances, of the gradient's norm, and agreement of the insides."""
    exact, n = SHAPES[name]
    x = points(TEST, n, torch.Generator().manual_seed(1)).requires_grad_()
    values = model(x)[:, 0]
    (slope,) = torch.autograd.grad(values.sum(), x)
    truth, values = exact(x.detach()), values.detach()
    both, either = (values < 0) & (truth < 0), (values < 0) | (truth < 0)
    return {
        "error": (values - truth).abs().mean().item(),
        "largest overestimate": (values.abs() - truth.abs()).max().item(),
        "eikonal": (slope.norm(dim=1) - 1).abs().mean().item(),
        "IoU": int(both.sum()) / int(either.sum()),
    }


def rays_of(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Origins on the unit sphere, directions inward, and where each ray leaves the ball."""
    random = torch.Generator().manual_seed(2)
    starts = torch.randn(RAYS, n, generator=random, dtype=torch.float64)
    origins = starts / starts.norm(dim=1, keepdim=True)
    aims = 0.9 * (2 * torch.rand(RAYS, n, generator=random, dtype=torch.float64) - 1) / n**0.5
    ways = aims - origins
    directions = ways / ways.norm(dim=1, keepdim=True)
    return origins, directions, -2 * (origins * directions).sum(1)


def stepped(f: Callable[[Tensor], Tensor], origins: Tensor, directions: Tensor) -> Tensor:
    """Sphere tracing by steps of the value itself; where each ray ends."""
    t = torch.zeros(len(origins), dtype=origins.dtype)
    for _ in range(256):
        values = f(origins + t[:, None] * directions)
        t = torch.where((values > TOLERANCE) & (t < 2), t + values, t)
    return t


@torch.no_grad()
def passages(model: nn.Module, n: int, *, proved: bool) -> dict[str, Any]:
    """How many rays went through the surface of the net, and of how many that have one."""
    origins, directions, chord = rays_of(n)
    wide = taut.freeze(model).double()
    f = lambda x: wide(x)[:, 0]  # noqa: E731
    if proved:
        found = sdf.sphere_trace(model, origins, directions, far=2.0, tolerance=TOLERANCE)
        ends, steps = found.distance, found.steps.double().mean().item()
    else:
        ends, steps = stepped(f, origins, directions), None
    through, crossing = 0, 0
    for o, d, end, last in zip(origins, directions, ends.tolist(), chord.tolist(), strict=True):
        places = torch.linspace(0, last, MARCH, dtype=torch.float64)
        values = f(o + places[:, None] * d)
        crossing += int((values < -TOLERANCE).any())
        through += int((values[places < min(end, last)] < -TOLERANCE).any())
    return {"through": through, "crossing": crossing, "rays": RAYS, "steps a ray": steps}


def work(args: argparse.Namespace, record: Record) -> None:
    record.resume({"seconds": args.seconds})
    done = {(row["shape"], row["net"]) for row in record.content.get("rows", ())}
    for name, kind in tracked([(s, k) for s in args.shapes for k in NETS], "nets"):
        if (name, kind) in done:
            continue
        n = SHAPES[name][1]
        model, steps = trained(kind, name, args.seconds)
        constant = None if kind == "plain" else float(taut.lipschitz_bound(model, (n,)))
        found = accuracy(model, name) | passages(model, n, proved=kind != "plain")
        about = {"shape": name, "net": kind, "training steps": steps, "constant": constant}
        path(name, kind).parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path(name, kind), model.state_dict(), {})
        record.add("rows", about | found)
    if args.figures is not None and "star" in args.shapes:
        save(level_sets(), args.figures / "distance-fields.png")
    if args.figures is not None and "torus" in args.shapes:
        save(rendering(kept("torus", "distances")), args.figures / "distance-fields-ring.png")


def path(name: str, kind: str) -> Path:
    """Where a net is kept."""
    return RUNS / "distance-fields" / f"{name}-{kind}.safetensors"


def kept(name: str, kind: str) -> nn.Module:
    """A net that was trained, frozen."""
    model = taut.freeze(net(kind, SHAPES[name][1]))
    model.load_state_dict(load_tensors(path(name, kind))[0])
    return model


@torch.no_grad()
def level_sets() -> Any:
    """The exact distance of the star, and that of each net."""
    figure, axes = panels(1, 4, (11, 3))
    line = torch.linspace(-1.4, 1.4, 180)
    plane = torch.cartesian_prod(line, line)
    exact: Callable[[Tensor], Tensor] = SHAPES["star"][0]
    fields = {"exact": exact(plane)}
    fields |= {NETS[kind]: kept("star", kind)(plane)[:, 0] for kind in NETS}
    levels = torch.arange(-5, 15).mul(0.1).tolist()
    for place, (title, values) in zip(axes, fields.items(), strict=True):
        heights = values.reshape(180, 180).T
        place.contourf(line, line, heights, levels, cmap="BrBG", alpha=0.6, extend="both")
        place.contour(line, line, heights, levels, colors="#777", linewidths=0.4)
        place.contour(line, line, heights, [0.0], colors="#111", linewidths=1.6)
        place.set(aspect="equal", xticks=[], yticks=[])
        place.set_title(title, fontsize=8)
    return figure


def rendering(model: nn.Module) -> Any:
    """The torus by sphere tracing: shaded by normals, and how many steps each pixel took."""
    eye = torch.tensor([0.0, -1.6, 1.3])
    ahead = -eye / eye.norm()
    right = torch.tensor([1.0, 0.0, 0.0])
    line = torch.linspace(-0.55, 0.55, PIXELS)
    v, u = torch.meshgrid(-line, line, indexing="ij")
    ways = ahead + u[..., None] * right + v[..., None] * torch.linalg.cross(right, ahead)
    directions = nn.functional.normalize(ways.reshape(-1, 3), dim=1)
    found = sdf.sphere_trace(
        model, eye.expand_as(directions), directions, far=4.0, tolerance=TOLERANCE
    )
    light = nn.functional.normalize(torch.tensor([0.4, -0.5, 0.9]), dim=0)
    shade = 0.2 + 0.8 * (sdf.normals(model, found.points) @ light).clamp_min(0)
    tone = torch.tensor([int(COLOURS[0][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    image = torch.where(found.hit[:, None], shade[:, None] * (0.4 + 0.6 * tone), 1.0)
    figure, axes = panels(1, 2, (7, 3.4))
    axes[0].imshow(image.detach().reshape(PIXELS, PIXELS, 3).clamp(0, 1))
    steps = axes[1].imshow(found.steps.reshape(PIXELS, PIXELS), cmap="magma", vmax=60)
    figure.colorbar(steps, ax=axes[1], shrink=0.8)
    for place, title in zip(axes, ("shaded by the gradient", "values of f per ray"), strict=True):
        place.set(xticks=[], yticks=[])
        place.spines[:].set_visible(False)
        place.set_title(title, fontsize=9)
    return figure


def distances_table() -> str:
    """What each net reaches on each shape."""
    records = [read(RECORDS / f"distance-fields-{name}.json") for name in SHAPES]
    rows = [
        (
            row["shape"],
            NETS[row["net"]],
            f"{record['settings']['seconds']:g}",
            "-" if row["constant"] is None else f"{row['constant']:.5f}",
            f"{row['error']:.4f}",
            f"{row['largest overestimate']:.3f}",
            f"{row['eikonal']:.3f}",
            f"{100 * row['IoU']:.1f}",
            f"{row['through']} of {row['crossing']}",
        )
        for record in records
        for row in record.get("rows", ())
    ]
    header = (
        "shape", "net", "CPU seconds", "constant, proved", "error of distance",
        "largest overestimate",
        "mean of abs(norm of gradient - 1)", "IoU, %", "rays that went through",
    )  # fmt: skip
    return markdown(header, rows)


EXPERIMENT = Experiment(
    "distance_fields",
    __doc__,
    work,
    (
        option("--seconds", 18.0, "of the processor for each net"),
        option("--shapes", ("star",), "what is fitted", choices=tuple(SHAPES)),
        option("--figures", FIGURES, "the folder to draw into", type=Path),
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
