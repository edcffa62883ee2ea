"""A plane through an image: decision regions and the certified disc."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from taut._arguments import whole
from taut._display import rounded_down
from taut.attacks import smallest_attack
from taut.certification import class_logits, predict
from taut.parametrizations import cached
from taut.plot._style import ATTACKED, COLOURS, INK, MUTED, styled_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BATCH = 256


def slice(
    model: nn.Module,
    image: Float[Tensor, "*shape"],
    *,
    adversarial: Float[Tensor, "*shape"] | None = None,
    classes: tuple[str, ...] = (),
    extent: float | None = None,
    resolution: int = 61,
    seed: int = 0,
    ax: "Axes | None" = None,
) -> "Axes":
    """Decision regions on a plane through an image, with the certified disc.

    The plane is spanned by the direction of an attack, to the right, and a random direction
    orthogonal to it, upwards; both in l2 units of the image, which is at the origin. Every point of
    the disc, and of the ball that it is a cut of, is proven to have the class of the image.
    Points of the plane need not be images: pixels are not clipped to [0, 1].

    Cost: `resolution` squared forward passes, in batches, and the attack.

    Args:
        model: maps images to logits.
        image: one image, in [0, 1], without the batch.
        adversarial: image that an attack found; by default that of
            :func:`taut.attacks.smallest_attack`.
        classes: names of the classes; their numbers by default.
        extent: half the side of the plane; by default 1.6 times the distance of the attack.
        resolution: points along each side.
        seed: of the random direction.
        ax: axes to draw on; a new figure by default.

    Returns:
        The axes; the classes on the plane are the array of `ax.images[0]`, the certified disc is
        `ax.patches[0]`, the image and the end of the attack are `ax.lines[0]` and `ax.lines[1]`.

    Raises:
        ValueError: if `adversarial` is the image itself or of another shape, or none was found.
        UnprovenError: as :func:`taut.predict`.
        ImportError: if matplotlib is not installed.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), taut.nn.Linear(4, 3))
        >>> axes = slice(model, torch.rand(1, 2, 2), resolution=5)
        >>> axes.images[0].get_array().shape
        (5, 5)
    """
    whole("resolution", resolution)
    with styled_axes(ax, 4.6, 4.0) as axes:
        found = predict(model, image[None])
        label, radius = int(found.classes[0]), float(found.radius[0])
        move = _attack_direction(model, image, label, adversarial)
        right, up = _basis(move, seed)
        distance = float(move.norm())
        side = extent or 1.6 * max(distance, radius)
        steps = torch.linspace(-side, side, resolution, dtype=image.dtype, device=image.device)
        labels = _classes_on(model, image, steps, right, up)
        _draw_regions(axes, labels, side, classes)
        _draw_disc(axes, radius)
        axes.plot([0], [0], "o", color=INK, ms=5, label="image")
        axes.plot([distance], [0], "X", color=ATTACKED, mec="white", ms=8, label="attack")
        axes.set(xlabel="direction of the attack (l2)", ylabel="random direction (l2)")
        axes.set(xlim=(-side, side), ylim=(-side, side), aspect="equal")
    return axes


def _attack_direction(
    model: nn.Module, image: Tensor, label: int, adversarial: Tensor | None
) -> Tensor:
    """From the image to its adversarial version."""
    if adversarial is None:
        labels = torch.tensor([label], device=image.device)
        result = smallest_attack(model, image[None], labels)
        if not bool(result.success[0]):
            raise ValueError("No attack on `image` succeeded; give `adversarial`, another image.")
        adversarial = result.adversarial[0]
    if adversarial.shape != image.shape or torch.equal(adversarial, image):
        got = "the image" if adversarial.shape == image.shape else tuple(adversarial.shape)
        raise ValueError(f"`adversarial` must be another image of {tuple(image.shape)}; got {got}.")
    return (adversarial - image).detach()


def _basis(move: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Orthonormal directions: that of the attack, and a random one."""
    right = move / move.norm()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(move.shape, generator=generator, device="cpu").to(move)
    noise -= (noise * right).sum() * right
    return right, noise / noise.norm()


@torch.no_grad()
def _classes_on(
    model: nn.Module, image: Tensor, steps: Tensor, right: Tensor, up: Tensor
) -> Int64[Tensor, "n n"]:
    """Classes of the points image + x right + y up; rows are y, columns x."""
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    ones = (1,) * image.ndim
    moves = zip(x.flatten().split(_BATCH), y.flatten().split(_BATCH), strict=True)
    with cached():
        parts = [
            class_logits(model(image + a.view(-1, *ones) * right + b.view(-1, *ones) * up))
            for a, b in moves
        ]
    return torch.cat(parts).argmax(1).cpu().view(len(steps), len(steps))


def _draw_regions(axes: "Axes", labels: Tensor, side: float, classes: tuple[str, ...]) -> None:
    """One pale colour for each class on the plane, with its name where it takes most room."""
    from matplotlib.colors import ListedColormap

    present = labels.unique().tolist()
    colours = [COLOURS[label % len(COLOURS)] for label in range(max(present) + 1)]
    grid = axes.imshow(
        labels.numpy(),
        origin="lower",
        extent=(-side, side, -side, side),
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=max(present) + 0.5,
        alpha=0.28,
        interpolation="nearest",
    )
    grid.set_rasterized(True)
    scale = 2 * side / max(len(labels) - 1, 1)
    for label in present:
        rows, columns = (labels == label).nonzero(as_tuple=True)
        if len(rows) < 0.02 * labels.numel():
            continue
        # The name is written in the region, at its point nearest to the region's centre.
        far = (rows - rows.double().mean()) ** 2 + (columns - columns.double().mean()) ** 2
        at = int(far.argmin())
        x, y = (float(place[at]) * scale - side for place in (columns, rows))
        name = classes[label] if label < len(classes) else f"class {label}"
        axes.text(x, y + 0.1 * side, name, ha="center", color=INK, fontsize=8, weight="bold")


def _draw_disc(axes: "Axes", radius: float) -> None:
    from matplotlib.patches import Circle

    disc = Circle((0, 0), radius, fill=False, edgecolor=INK, linewidth=1.6, label="certified")
    axes.add_patch(disc)
    text = f"certified, {rounded_down(radius, 3)}"
    style = {"ha": "center", "va": "top", "fontsize": 8, "color": MUTED}
    axes.annotate(text, (0, -radius), xytext=(0, -4), textcoords="offset points", **style)
