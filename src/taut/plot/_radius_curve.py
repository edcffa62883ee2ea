"""Certified accuracy and accuracy under attack over the size of the perturbation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float64
from torch import Tensor

from taut.attacks import AttackResult
from taut.certification import Certification
from taut.plot._style import (
    ATTACKED,
    ATTACKED_LINE,
    CERTIFIED,
    CERTIFIED_LINE,
    CLEAN,
    CLEAN_LINE,
    styled_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def radius_curve(
    certification: Certification,
    attack: AttackResult | None = None,
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Share of images that stay correct over eps: certified, and under an attack.

    The accuracy under the strongest attack lies between the two curves.

    Args:
        certification: result of :func:`taut.certify`.
        attack: result of :func:`taut.attack` or :func:`taut.attacks.smallest_attack` on the same
            images. An image counts as broken from the distance of what was found; beyond the
            largest eps of the attack the curve stays level, though attacks there would find more.
        ax: axes to draw on; a new figure by default.

    Returns:
        The axes, with the curves "certified", "attacked" and "clean".

    Raises:
        ValueError: if the attack is on another number of images.
        ImportError: if matplotlib is not installed.

    Example:
        >>> model, images, labels = torch.nn.Linear(2, 2), torch.eye(2), torch.tensor([0, 1])
        >>> radius_curve(taut.certify(model, images, labels)).get_xlabel()
        'eps (l2)'
    """
    radius = certification.radius
    if attack is not None and len(attack.success) != len(radius):
        raise ValueError(
            f"`attack` must be on the {len(radius)} certified images; got {len(attack.success)}."
        )
    curves = {"certified": steps_below(radius)}
    if attack is not None:
        broken_at = attack.distance.masked_fill(~attack.success, torch.inf)
        curves["attacked"] = steps_below(broken_at)
    ends = [edge for edges, _ in curves.values() for edge in edges]
    reach = 1.05 * max(ends) or 1.0
    styles = {"certified": (CERTIFIED, CERTIFIED_LINE), "attacked": (ATTACKED, ATTACKED_LINE)}
    with styled_axes(ax) as axes:
        for name, (edges, shares) in curves.items():
            colour, style = styles[name]
            x, y = [*edges, max(reach, edges[-1])], [*shares, shares[-1]]
            axes.step(x, y, where="post", color=colour, linestyle=style, label=name)
            _name(axes, name, x, y, colour)
        clean = certification.clean_accuracy
        axes.axhline(clean, color=CLEAN, linestyle=CLEAN_LINE, linewidth=1.2, label="clean")
        side = {"xytext": (-2, 3), "textcoords": "offset points", "ha": "right", "fontsize": 8}
        axes.annotate("clean", (1, clean), xycoords=axes.get_yaxis_transform(), color=CLEAN, **side)
        axes.set(xlabel="eps (l2)", ylabel="accuracy", ylim=(0, 1.04), xlim=(0, reach))
        axes.grid(axis="y")
    return axes


def steps_below(values: Float64[Tensor, " n"]) -> tuple[list[float], list[float]]:
    """The share of `values` above each x as a step function: where it drops, and to what.

    Infinite values are above every x; values of 0 are never above one.

    Example:
        >>> steps_below(torch.tensor([0.0, 0.5, torch.inf]).double())
        ([0.0, 0.5], [0.6666666666666666, 0.3333333333333333])
    """
    values = values.cpu().double()
    drops, counts = values[(values > 0) & values.isfinite()].unique(return_counts=True)
    above = int((values > 0).sum())
    left = above - counts.cumsum(0)
    total = len(values)
    return [0.0, *drops.tolist()], [above / total, *(int(n) / total for n in left)]


def _name(axes: "Axes", name: str, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    """Write the name beside the curve: certified below and to the left, attacked above."""
    low = name == "certified"
    middle = (y[0] + y[-1]) / 2
    at = next(i for i, share in enumerate(y) if share <= middle)
    style = {"color": colour, "fontsize": 8.5, "weight": "bold"}
    style |= {"ha": "right", "va": "top"} if low else {"ha": "left", "va": "bottom"}
    shift = (-5, -3) if low else (5, 3)
    axes.annotate(name, (x[at], y[at]), xytext=shift, textcoords="offset points", **style)
