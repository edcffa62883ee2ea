"""The picture that sets models side by side: gradient norms by depth, spectra of Jacobians."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from jaxtyping import Float64
from torch import Tensor

from taut.report._png import COLOURS, LINE, apart, drawing, mark_one, shown, wide
from taut.report.inspection import Inspection

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@final
@dataclass(frozen=True)
class Profile:
    """One model in a comparison.

    Attributes:
        gradient: norm at each depth, relative to the output's: the image first, the output last.
        jacobian: smallest, lower quartile, median, upper quartile and largest singular value of
            the Jacobian, over all images; empty for none.

    Example:
        >>> Profile(gradient=[1.0, 1.0], jacobian=[1.0] * 5).gradient[-1]
        1.0
    """

    gradient: Sequence[float]
    jacobian: Sequence[float] = ()


def profile(inspection: Inspection) -> Profile:
    """What a comparison shows of a model: norms where the whole signal passes.

    Example:
        >>> from taut.report import inspect_model
        >>> profile(inspect_model(taut.nn.Linear(3, 2), torch.ones(1, 3))).gradient[-1]
        1.0
    """
    norms = [layer.gradient.random for layer in inspection.layers if layer.gradient.whole]
    values = inspection.jacobian
    return Profile([*norms, 1.0], () if values is None else five_numbers(values))


def five_numbers(values: Float64[Tensor, "..."]) -> list[float]:
    """Smallest, lower quartile, median, upper quartile and largest value.

    Example:
        >>> five_numbers(torch.tensor([3.0, 1.0, 2.0]).double())
        [1.0, 1.5, 2.0, 2.5, 3.0]
    """
    return values.flatten().quantile(values.new_tensor([0, 0.25, 0.5, 0.75, 1])).tolist()


def save_attenuation(
    path: str | os.PathLike[str], columns: Mapping[str, Mapping[str, Profile]]
) -> Path:
    """Draw models side by side: gradient norm by depth above, spectrum of the Jacobian below.

    A model has one colour in all columns, that of its name. Scales are shared; what is below
    `FLOOR` on a logarithmic one is drawn there.

    Args:
        path: of a file whose ending names the format.
        columns: the models by name, for each column by its title.

    Returns:
        The path.

    Raises:
        ValueError: if there is no model.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_attenuation(Path(folder, "a.png"), {"": {"mine": Profile([0.5, 1.0])}}).name
        'a.png'
    """
    from matplotlib.figure import Figure

    profiles = [profile for named in columns.values() for profile in named.values()]
    if not profiles:
        raise ValueError("`columns` must hold a model; got none.")
    names = list(dict.fromkeys(name for named in columns.values() for name in named))
    log = wide([x for p in profiles for x in (*p.gradient, *p.jacobian)])
    spectra = any(p.jacobian for p in profiles)
    with drawing():
        lower = 0.27 * len(names) + 0.75 if spectra else 0
        size = (1.6 + 3.3 * len(columns) + (1.2 if len(columns) == 1 else 0), 3.3 + lower)
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(h_pad=0.06, w_pad=0.06)  # pyright: ignore
        grid = figure.subplots(
            1 + spectra,
            len(columns),
            sharey="row",
            squeeze=False,
            height_ratios=(3.3, lower) if spectra else None,
        )
        for i, (title, named) in enumerate(columns.items()):
            _draw_gradients(grid[0, i], named, names, log)
            grid[0, i].set_title(title)
            if spectra:
                _draw_jacobians(grid[1, i], named, names, log)
                grid[1, i].sharex(grid[1, 0])
        if spectra:
            _label_rows(grid[1, 0], names)
        grid[0, 0].set_ylabel("gradient norm,\nrelative to the output's")
        figure.draw_without_rendering()
        _label_curves(grid[0, -1], list(columns.values())[-1], names, log)
        figure.savefig(path)
    return Path(path)


def _colour(name: str, names: Sequence[str]) -> str:
    return COLOURS[names.index(name) % len(COLOURS)]


def _draw_gradients(
    axes: "Axes", named: Mapping[str, Profile], names: Sequence[str], log: bool
) -> None:
    for name, one in named.items():
        marker = "o" if len(one.gradient) <= 16 else ""
        values = shown(one.gradient, log=log)[::-1]
        way = [i / max(len(values) - 1, 1) for i in range(len(values))]
        axes.plot(way, values, marker=marker, ms=3.5, color=_colour(name, names), clip_on=False)
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.1 * max(1.0, *(x for one in named.values() for x in one.gradient)))
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 1], ["output", "image"])
    axes.set_xlabel("way back, layer by layer", labelpad=-8)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    mark_one(axes)


def _label_curves(
    axes: "Axes", named: Mapping[str, Profile], names: Sequence[str], log: bool
) -> None:
    """Names the curves beside their ends at the image, apart where two would overlap."""
    points = 72 / axes.figure.dpi
    ends = [shown(one.gradient, log=log)[0] for one in named.values()]
    heights = [float(points * axes.transData.transform((1, y))[1]) for y in ends]
    for name, y, height, place in zip(named, ends, heights, apart(heights, 11.0), strict=True):
        axes.annotate(
            name,
            (1, y),
            xytext=(8, place - height),
            textcoords="offset points",
            color=_colour(name, names),
            fontsize=8.5,
            weight="bold",
            va="center",
            annotation_clip=False,
        )


def _draw_jacobians(
    axes: "Axes", named: Mapping[str, Profile], names: Sequence[str], log: bool
) -> None:
    for name, one in named.items():
        if not one.jacobian:
            continue
        place, colour = names.index(name), _colour(name, names)
        least, low, middle, high, most = shown(one.jacobian, log=log)
        axes.plot([least, most], [place, place], color=colour, linewidth=1.4)
        axes.plot([low, high], [place, place], color=colour, linewidth=5)
        axes.plot(middle, place, "o", ms=6.5, color="white", mec=colour, mew=1.6)
    if log:
        axes.set_xscale("log")
    else:
        axes.set_xlim(
            0, 1.1 * max(1.0, *(one.jacobian[-1] for one in named.values() if one.jacobian))
        )
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    mark_one(axes, vertical=True)
    axes.set_xlabel("singular values of the Jacobian")


def _label_rows(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(_colour(name, names))
        label.set_fontweight("bold")
