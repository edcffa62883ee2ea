"""Images as data URIs."""

import base64
import io

import torch
from jaxtyping import Float
from torch import Tensor

from taut.plot import change_shown


def data_uri(image: Float[Tensor, "c h w"]) -> str:
    """An image in [0, 1] as PNG, in colour for three channels, else the mean over channels."""
    from PIL import Image

    image = image.detach().cpu().float().clamp(0, 1)
    image = image if len(image) == 3 else image.mean(0, keepdim=True)
    pixels = (255 * image).round().to(torch.uint8).permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2).numpy()).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def perturbation_uri(delta: Float[Tensor, "c h w"]) -> str:
    """The mean over channels of a perturbation: white is 0, blue darker, orange lighter."""
    return data_uri(change_shown(delta).permute(2, 0, 1))
