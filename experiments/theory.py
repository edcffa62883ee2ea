"""Draw the figures of docs/theory.md, and record what they show.

Example: python -m experiments.theory --figures docs/figures --record records/theory.json
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import taut
from experiments._record import Record
from experiments._runner import Experiment, option, tracked
from experiments._show import COLOURS, GRID, INK, grid, panels, save
from taut.linalg.bases import orthonormal_basis
from taut.theory import Factorisation, component, connect, determinant_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIRST, _SECOND = COLOURS[:2]
_FREQUENCIES, _TIMES = 256, 201
_CHANNELS, _SEEDS, _STEPS = 4, range(5), 400


def work(args: argparse.Namespace, record: Record) -> None:
    torch.manual_seed(0)
    ways = spectra()
    losses: dict[int, list[list[float]]] = {_CHANNELS: [], 2 * _CHANNELS: []}
    for channels, seed in tracked([(c, seed) for c in losses for seed in _SEEDS], "fits"):
        losses[channels].append(fit(channels, seed))
    figures = {"winding": draw_winding(), "path": draw_path(ways), "doubled": draw_doubled(losses)}
    for name, figure in figures.items():
        save(figure, args.figures / f"theory-{name}.png")
    record.begin(seeds=list(_SEEDS))
    record.keep(
        singular_values_on_the_way={
            name: {"smallest": values.min().item(), "largest": values.max().item()}
            for name, values in ways.items()
        },
        target=str(component(target())),
        error_after_fitting={
            f"BCOP of {c} channels": [curve[-1] for curve in curves] for c, curves in losses.items()
        },
    )


def kernel(channels: int, ranks: tuple[int, ...], sign: int) -> Tensor:
    """A random orthogonal kernel of one axis whose projectors have these ranks."""

    def rotation() -> Tensor:
        return orthonormal_basis(torch.randn(channels, channels, dtype=torch.float64))

    matrix = rotation()
    matrix[0] *= sign * torch.linalg.det(matrix).sign()
    frames = torch.stack([rotation() for _ in ranks])
    return Factorisation(matrix, frames, ranks, (len(ranks) + 1,)).kernel()


def spectra() -> dict[str, Tensor]:
    """Singular values at all times of three ways from one kernel to another."""
    start, same, other = (
        kernel(3, ranks, sign=1) for ranks in ((1, 2), (2, 1), (1, 1))
    )  # windings 3, 3, 4
    path = connect(start, same)
    times = torch.linspace(0, 1, _TIMES, dtype=torch.float64)
    ways = {
        "a path inside one component": torch.stack([path(time) for time in times.tolist()]),
        "the straight line inside it": start + times[:, None, None, None] * (same - start),
        "the straight line to another": start + times[:, None, None, None] * (other - start),
    }
    return {
        name: torch.linalg.svdvals(torch.fft.fft(way, n=_FREQUENCIES).movedim(-1, 1)).flatten(1)
        for name, way in ways.items()
    }


def target() -> Tensor:
    """A kernel that shifts less than the middle component does."""
    torch.manual_seed(1)
    return kernel(_CHANNELS, (2, 3), sign=1)


def fit(channels: int, seed: int) -> list[float]:
    """The squared error of BCOP's kernel for the first channels, a channel, at each step."""
    goal = target()
    goal = torch.cat([goal, goal.new_zeros(_CHANNELS, channels - _CHANNELS, 3)], 1)
    torch.manual_seed(seed)
    layer = taut.BCOP(channels, channels, (3,), init="uniform", dtype=torch.float64)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, _STEPS)
    curve = []
    for _ in range(_STEPS):
        loss = (layer.weight()[:_CHANNELS] - goal).square().sum() / _CHANNELS
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        curve.append(loss.item())
    return curve


def draw_winding() -> "Figure":
    """The determinant round the circle for a kernel of each component: 2 channels, 3 taps."""
    figure, circles = panels(1, 5, (10.5, 2.75))
    ranks = {0: (2, 2), 1: (1, 2), 2: (1, 1), 3: (0, 1), 4: (0, 0)}
    for axes, (winding, steps) in zip(circles, ranks.items(), strict=True):
        for sign, colour in ((1, _FIRST), (-1, _SECOND)):
            curve = determinant_curve(kernel(2, steps, sign), points=400)
            # Drawn with a growing radius, since all of it lies on the unit circle.
            curve = torch.cat([curve, curve[:1]])
            curve = curve * torch.linspace(1, 1.8, len(curve), dtype=torch.float64)
            label = f"sign {sign:+d}"
            axes.plot(curve.real, curve.imag, color=colour, linewidth=1.4, label=label)
            axes.plot(curve.real[:1], curve.imag[:1], "o", color=colour, markersize=5)
        axes.plot(0, 0, "+", color=INK, markersize=7)
        axes.set(aspect="equal", xlim=(-2, 2), ylim=(-2, 2), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        shift = f"{winding / 2:g} pixel" + ("s" if winding != 2 else "")
        axes.set_title(f"winding {winding}\nmean shift {shift}", fontsize=9.5, color=INK)
    circles[0].legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(-0.08, -0.16))
    return figure


def draw_path(ways: dict[str, Tensor]) -> "Figure":
    """Singular values over time, from the smallest to the largest of all frequencies."""
    figure, three = panels(1, 3, (10.5, 3.1))
    times = torch.linspace(0, 1, _TIMES)
    shares = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0], dtype=torch.float64)
    for axes, (name, values) in zip(three, ways.items(), strict=True):
        levels = torch.quantile(values, shares, dim=1)
        for low, high in ((0, 6), (1, 5), (2, 4)):
            axes.fill_between(times, levels[low], levels[high], color=_FIRST, alpha=0.2, lw=0)
        axes.plot(times, levels[3], color=_FIRST, linewidth=1.6)
        axes.plot(times, levels[0], color=_SECOND, linewidth=1.6)
        axes.set(xlim=(0, 1), ylim=(0, 1.1), xlabel="time on the way")
        grid(axes, name)
    three[0].set_ylabel("singular values of the layer")
    three[0].text(0.3, 0.93, "all of them are 1", color=_SECOND, fontsize=8.5)
    three[1].text(0.5, 0.62, "median", color=_FIRST, fontsize=8.5)
    three[1].text(0.03, 0.2, "smallest", color=_SECOND, fontsize=8.5)
    return figure


def draw_doubled(losses: dict[int, list[list[float]]]) -> "Figure":
    """How many free directions each component has; what BCOP reaches of a kernel outside of its."""
    figure, (left, right) = panels(1, 2, (10.5, 3.4))
    windings = range(2 * _CHANNELS + 1)
    left.bar(windings, [free_directions(_CHANNELS, m) for m in windings], 0.62, color=GRID)
    left.bar([_CHANNELS], [free_directions(_CHANNELS, _CHANNELS)], 0.62, color=_FIRST)
    left.set(xticks=windings, xlabel="winding number of the component", ylabel="free directions")
    left.set_title("4 channels, 3 taps: half rank is the middle", fontsize=10, loc="left")
    for (channels, curves), colour in zip(losses.items(), (_SECOND, _FIRST), strict=True):
        lines = [right.plot(curve, color=colour, linewidth=1.2, alpha=0.8) for curve in curves]
        lines[0][0].set_label(f"BCOP of {channels} channels")
    right.set(yscale="log", xlabel="step", ylabel="squared error a channel", xlim=(0, _STEPS))
    grid(right, "fitting a kernel of winding number 3")
    right.legend(frameon=False, fontsize=9, loc="lower left")
    return figure


def free_directions(channels: int, winding: int) -> int:
    """Of the kernels of three taps with this winding number: H, and a subspace for each step."""
    ranks = ((r, winding - r) for r in range(channels + 1) if 0 <= winding - r <= channels)
    subspaces = max(a * (channels - a) + b * (channels - b) for a, b in ranks)
    return channels * (channels - 1) // 2 + subspaces


EXPERIMENT = Experiment(
    "theory",
    __doc__,
    work,
    [option("--figures", help="the folder for the PNGs", type=Path, required=True)],
)

if __name__ == "__main__":
    EXPERIMENT.main()
