"""Images as data a page carries in itself."""

import base64
import io

import torch
from jaxtyping import Float
from torch import Tensor


def data_uri(image: Float[Tensor, "c h w"]) -> str:
    """Return an image in [0, 1] with one or three channels as a PNG data URI.

    Other channel counts are shown as the mean over channels.

    Example:
        >>> data_uri(torch.zeros(1, 2, 2))[:22]
        'data:image/png;base64,'
    """
    from PIL import Image

    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    if len(pixels) == 3:
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy(), mode=None)
    else:
        picture = Image.fromarray(pixels.float().mean(0).round().to(torch.uint8).numpy())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def perturbation_uri(delta: Float[Tensor, "c h w"]) -> str:
    """Return a perturbation as a picture: white is no change, blue darker, orange lighter.

    The largest change has full colour; of several channels the mean is shown.

    Example:
        >>> perturbation_uri(torch.zeros(3, 2, 2))[:22]
        'data:image/png;base64,'
    """
    change = delta.detach().cpu().float().mean(0)
    share = change / change.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    lighter = torch.tensor([0.80, 0.33, 0.06])[:, None, None]
    darker = torch.tensor([0.11, 0.36, 0.72])[:, None, None]
    colour = torch.where(share > 0, lighter, darker)
    return data_uri(1 - share.abs() * (1 - colour))
