"""The padding of convolutions: on images, as an expression, and as plain values of a program."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from taut.linalg.padding import Padding, padded_index
from taut.program._program import Site


def padded(x: Tensor, padding: Padding) -> Tensor:
    """The image with its padding: zeros behind it, then zeros or copies around it."""
    if any(padding.extend):
        x = F.pad(x, torch_pads((0,) * len(padding.extend), padding.extend))
    sides = torch_pads(padding.left, padding.right)
    if not any(sides):
        return x
    if padding.mode == "zeros":
        return F.pad(x, sides)
    sizes = x.shape[2:]
    if all(max(a, b) <= n for a, b, n in zip(padding.left, padding.right, sizes, strict=True)):
        return F.pad(x, sides, padding.mode)
    for axis, (a, b, n) in enumerate(zip(padding.left, padding.right, sizes, strict=True), start=2):
        if a or b:
            x = x.index_select(axis, padded_index(n, a, b, padding.mode, x.device))
    return x


def padded_source(image: str, size: Sequence[int], padding: Padding) -> str:
    """A padded image as an expression: by its places where it is wrapped round more than once."""
    axes = list(zip(size, padding.left, padding.right, strict=True))
    if padding.mode != "circular" or all(max(a, b) <= n for n, a, b in axes):
        mode = "" if padding.mode == "zeros" else f", {padding.mode!r}"
        return f"F.pad({image}, {torch_pads(padding.left, padding.right)}{mode})"
    places = []
    for later, (n, a, b) in zip(range(len(axes))[::-1], axes, strict=True):
        turned = f"[:{', None' * later}]" if later else ""
        places.append(f"torch.arange({-a}, {n + b}){turned} % {n}")
    return f"{image}[:, :, {', '.join(places)}]"


def fits_layer(site: Site) -> bool:
    """Whether a layer of torch has the padding of a convolution, but for what extends the image."""
    padding = padding_of(site.args["padding"])
    axes = zip(site.shapes[0][1:], padding.extend, padding.left, strict=True)
    once = padding.mode != "circular" or all(p <= n + more for n, more, p in axes)
    return padding.left == padding.right and once


def torch_pads(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    """Pads in the order of `F.pad`: the last axis first."""
    return tuple(n for pair in zip(left[::-1], right[::-1], strict=True) for n in pair)


def padding_of(args: dict[str, Any]) -> Padding:
    """Padding of its plain values."""
    return Padding(args["mode"], *(tuple(args[side]) for side in ("left", "right", "extend")))


def padding_args(
    mode: str, left: Sequence[int], right: Sequence[int], extend: Sequence[int] | None = None
) -> dict[str, Any]:
    """The plain values of a padding."""
    extend = [0] * len(left) if extend is None else extend
    return {"mode": mode, "left": list(left), "right": list(right), "extend": list(extend)}
