"""Images, what an attack changed, and the changed images."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from taut._display import rounded_down
from taut.attacks import AttackResult
from taut.certification import Certification
from taut.plot._style import ATTACKED, CERTIFIED, MUTED, styled_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROOM = 1.12  # of one picture, with the gap to the next


def gallery(
    images: Float[Tensor, "b c h w"],
    attack: AttackResult,
    certification: Certification | None = None,
    *,
    count: int = 6,
    ax: "Axes | None" = None,
) -> "Axes":
    """Images above, what an attack changed in the middle, the changed images below.

    Shows the images that were broken nearest to themselves first. Changes are scaled to full
    colour: white is none, orange lighter, blue darker. The distance stands below each column, and
    the certified radius if a certification is given.

    Args:
        images: the attacked images, in [0, 1].
        attack: the result of the attack.
        certification: certification of the same images.
        count: number of images shown, at most.
        ax: axes to draw on; a new figure by default.

    Returns:
        The axes; pictures are in `ax.images`, three for each column from top to bottom.

    Raises:
        ValueError: if the numbers of images differ, or `count` is below 1.
        ImportError: if matplotlib is not installed.

    Example:
        >>> images, labels = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 1])
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), taut.nn.Linear(16, 2))
        >>> len(gallery(images, taut.attack(model, images, labels, 0.5, steps=2)).images)
        9
    """
    if images.ndim != 4 or images.shape != attack.adversarial.shape:
        raise ValueError(
            f"`images` must be the attacked ones, {tuple(attack.adversarial.shape)}, as "
            f"(images, channels, height, width); got {tuple(images.shape)}."
        )
    if count < 1:
        raise ValueError(f"`count` must be at least 1; got {count}.")
    if certification is not None and len(certification.radius) != len(images):
        raise ValueError(
            f"`certification` must be of the {len(images)} images; got {len(certification.radius)}."
        )
    key = attack.distance.cpu().masked_fill(~attack.success.cpu(), torch.inf)
    # Images that the model misclassifies without any change show nothing, and come last.
    order = torch.argsort(key.masked_fill(key == 0, torch.inf), stable=True)[:count]
    height, width = images.shape[2:]
    with styled_axes(ax, 1.1 * len(order) + 0.9, 3.3 * height / width + 0.7) as axes:
        for column, i in enumerate(order.tolist()):
            image, changed = images[i].detach().cpu(), attack.adversarial[i].detach().cpu()
            pictures = (shown(image), change_shown(changed - image), shown(changed))
            for row, picture in enumerate(pictures):
                left, top = column * _ROOM, row * _ROOM
                axes.imshow(picture.numpy(), extent=(left, left + 1, top + 1, top), aspect="auto")
                axes.images[-1].set(cmap="gray", clim=(0, 1))
            _caption(axes, column, attack, certification, i)
        last = (len(order) - 1) * _ROOM + 1
        axes.set(xlim=(-0.02, last + 0.02), ylim=(2 * _ROOM + 1.42, -0.02), xticks=[])
        axes.set_aspect(height / width)
        rows = [row * _ROOM + 0.5 for row in range(3)]
        axes.set_yticks(rows, ["image", "change", "changed"])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return axes


def _caption(
    axes: "Axes", column: int, attack: AttackResult, certification: Certification | None, i: int
) -> None:
    """The distance of the attack and the certified radius below a column."""
    x, y = column * _ROOM + 0.5, 2 * _ROOM + 1.04
    found = bool(attack.success[i])
    text = f"at {float(attack.distance[i]):.3f}" if found else "not fooled"
    style = {"ha": "center", "va": "top", "fontsize": 7}
    axes.text(x, y, text, color=ATTACKED if found else MUTED, **style)
    if certification is not None:
        proven = f"proven {rounded_down(certification.radius[i], 3)}"
        axes.text(x, y + 0.17, proven, color=CERTIFIED, **style)


def shown(image: Float[Tensor, "c h w"]) -> Float[Tensor, "h w *c"]:
    """An image as matplotlib shows it: three channels in colour, else the mean over channels.

    Example:
        >>> shown(torch.zeros(3, 2, 5)).shape, shown(torch.zeros(1, 2, 5)).shape
        (torch.Size([2, 5, 3]), torch.Size([2, 5]))
    """
    image = image.float().clamp(0, 1)
    return image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)


def change_shown(change: Float[Tensor, "c h w"]) -> Float[Tensor, "h w 3"]:
    """The mean over channels of a change in colours: white is 0, blue darker, orange lighter.

    Example:
        >>> change_shown(torch.zeros(1, 1, 1)).flatten().tolist()
        [1.0, 1.0, 1.0]
    """
    mean = change.detach().cpu().float().mean(0)
    share = mean / mean.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    lighter, darker = _ORANGE.to(share)[:, None, None], _BLUE.to(share)[:, None, None]
    colours = 1 - share.abs() * (1 - torch.where(share > 0, lighter, darker))
    return colours.permute(1, 2, 0)


_ORANGE = torch.tensor([0.80, 0.33, 0.06], device="cpu")
_BLUE = torch.tensor([0.11, 0.36, 0.72], device="cpu")
