"""The first misclassified point on the way from an image to one that is farther."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taut.attacks._geometry import per_image
from taut.attacks._objective import Objective


def halve(
    objective: Objective,
    images: Float[Tensor, "b *shape"],
    labels: Int[Tensor, " b"],
    found: Float[Tensor, "b *shape"],
) -> Float[Tensor, "b *shape"]:
    """Bisect the segments from `images` to `found` for the boundary, to a part in a million.

    What comes back is misclassified by more than rounding, in whatever batch; where nothing on the
    way is, it is `found` itself.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
        >>> with torch.no_grad():
        ...     _ = model[1].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        ...     _ = model[1].bias.copy_(torch.tensor([0.0, 1.0]))
        >>> x = torch.ones(1, 1, 1, 1)
        >>> halve(Objective(model), x, torch.tensor([0]), torch.zeros_like(x))
        tensor([[[[0.5000]]]])
    """
    low = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    high = torch.ones_like(low)
    delta = found.double() - images.double()
    nearest = found
    for _ in range(20):
        middle = (low + high) / 2
        point = (images.double() + per_image(middle, images) * delta).to(images.dtype)
        with torch.no_grad():
            broken = objective.margin(point, labels) > 0
        nearest = torch.where(per_image(broken, images), point, nearest)
        low, high = torch.where(broken, low, middle), torch.where(broken, middle, high)
    return nearest
