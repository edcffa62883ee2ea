"""What a page holds: arrays as one compressed text, and everything else as JSON."""

import base64
import zlib
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taut.certification import Certificate, pair_constants
from taut.playground._lower import lower

__all__ = ["Arrays", "image_array", "net_content"]

_TYPES = {"<f4": "f32", "<f8": "f64", "<i4": "i32", "|u1": "u8"}


@final
class Arrays:
    """Arrays one after the other, each at a multiple of 8 bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._end = 0

    def add(self, array: np.ndarray) -> list[Any]:
        """Keep an array; returns its type, first byte and length. Integers are kept as steps."""
        flat = np.ascontiguousarray(array).ravel()
        kind = _TYPES[flat.dtype.newbyteorder("<").str]
        raw = (np.diff(flat, prepend=flat.dtype.type(0)) if kind == "i32" else flat).tobytes()
        entry = [kind, self._end, flat.size]
        self._parts.append(raw + bytes(-len(raw) % 8))
        self._end += len(self._parts[-1])
        return entry

    def text(self) -> str:
        """All bytes, compressed, in base64: of each four the first ones, the second ones, ...

        Exponents of floats lie side by side then, and compress better.
        """
        planes = np.frombuffer(b"".join(self._parts), np.uint8).reshape(-1, 4).T
        return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()


def net_content(certificate: Certificate, arrays: Arrays) -> dict[str, Any]:
    """A net with what is proven of it, as plain values; its tensors go to `arrays`."""
    steps = lower(certificate.program)
    outputs = certificate.output_shape
    if len(outputs) > 1:
        raise ValueError(
            "The playground shows one answer for an image; the outputs of this model have the "
            f"shape {outputs}, which `taut predict` takes."
        )
    pairs = pair_constants(certificate.class_bound, certificate.classes)
    return {
        "input": steps.sizes[0],
        "steps": steps.steps,
        "arrays": [arrays.add(array) for array in steps.arrays],
        "bound": float(certificate.bound),
        "pairs": arrays.add(pairs.numpy()),
        "error": list(certificate.composed.error),
        "limit": certificate.composed.norm_limit,
    }


def image_array(images: Float[Tensor, "n c h w"]) -> np.ndarray:
    """Images as bytes where these are all that they hold, else as float32, or as float64."""
    images = images.detach().cpu()
    wide = images.double().numpy()
    pixels = (255 * images.double()).round().clamp(0, 255).to(torch.uint8)
    if np.array_equal(pixels.numpy().astype(np.float32) / np.float32(255), wide):
        return pixels.numpy()
    narrow = wide.astype(np.float32)
    return narrow if np.array_equal(narrow, wide) else wide
