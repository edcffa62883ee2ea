"""Circular pads in front of a transposed convolution make it the adjoint of a circular one."""

from dataclasses import replace

import torch
from torch import Tensor

from taut.linalg.padding import padded_index
from taut.program._program import Node, Program, Shape
from taut.program.passes._padding import as_pad
from taut.program.passes._rewriting import rebuilt

__all__ = ["merge_wraps"]


def merge_wraps(program: Program) -> Program:
    r"""A transposed convolution of a wrapped image, cut off, is the adjoint of a circular one.

    Both maps are sums over the taps of a kernel, and of each tap products over the axes of 0/1
    matrices. So they are equal for every kernel if on each axis and for each tap the two matrices
    are equal; the places of their entries are compared, for each way that the convolution may pad.
    The plain rules multiply the norm of the wrapping, up to 2, and that of the layer.
    """
    made, shapes, nodes = {node.name: node for node in program.nodes}, program.shapes, []
    for node in program.nodes:
        if node.op == "conv_transpose" and node.args["wrap"] is None:
            name, before, after = _wrapped(node, program, made, shapes)
            kernel = tuple(program.tensors[node.tensors["weight"]].shape[2:])
            left = _left(node, shapes[name][1:], kernel, before, after)
            if left is not None and name != node.inputs[0]:
                args = {**node.args, "wrap": [before, after], "left": left}
                node = replace(node, inputs=(name,), args=args)
        nodes.append(node)
    return rebuilt(program, nodes)


def _wrapped(
    node: Node, program: Program, made: dict[str, Node], shapes: dict[str, Shape]
) -> tuple[str, list[int], list[int]]:
    """The image of which a node reads the circular padding, and its positions on both sides."""
    name = node.inputs[0]
    before, after = ([0] * (len(node.shape) - 1) for _ in range(2))
    while name in made:
        pad = as_pad(made[name], program, shapes)
        if pad is None or pad[0] != "circular":
            break
        _, left, right = pad
        if any(a and b for a, b in zip(before + after, left + right, strict=True)):
            break
        before, after = ([a + b for a, b in zip(x, y, strict=True)]
                         for x, y in ((before, left), (after, right)))  # fmt: skip
        name = made[name].inputs[0]
    return name, before, after


def _left(
    node: Node, size: tuple[int, ...], kernel: tuple[int, ...], before: list[int], after: list[int]
) -> list[int] | None:
    """The padding in front of each axis of the convolution whose adjoint the node is, if any."""
    found = []
    for axis, (n, k) in enumerate(zip(size, kernel, strict=True)):
        args = {
            key: node.args[key][axis] for key in ("stride", "padding", "output_padding", "dilation")
        }
        s = args["stride"]
        if node.shape[axis + 1] != n * s:
            return None
        here, total = _transposed(k, n, before[axis], after[axis], args), _padding(k, args)
        if bool((here[:, :-n] >= 0).any()):
            return None
        fits = [p for p in range(total + 1) if torch.equal(here[:, -n:], _adjoint(k, n, args, p))]
        if not fits:
            return None
        found.append(fits[0])
    return found


def _transposed(k: int, n: int, before: int, after: int, args: dict[str, int]) -> Tensor:
    """(taps, entries): which outputs add which inputs, of the pad and the transposed convolution.

    Tap t adds position j of the padded input to output s j + d t - p; others are cut off.
    """
    index = padded_index(n, before, after, "circular")
    rows = args["stride"] * torch.arange(len(index), device="cpu") - args["padding"]
    rows = rows + args["dilation"] * torch.arange(k, device="cpu")[:, None]  # (taps, padded inputs)
    return _entries(rows, index, n * args["stride"], n)


def _padding(k: int, args: dict[str, int]) -> int:
    """All padding of the circular convolution, which has as many outputs as the node inputs."""
    return max(0, args["dilation"] * (k - 1) + 1 - args["stride"])


def _adjoint(k: int, n: int, args: dict[str, int], left: int) -> Tensor:
    """(taps, entries): the same of the circular convolution: tap t of j reads s j + d t - left."""
    size, outputs = n * args["stride"], torch.arange(n, device="cpu")
    rows = (
        args["stride"] * outputs - left + args["dilation"] * torch.arange(k, device="cpu")[:, None]
    )
    return _entries(rows % size, outputs, size, n)


def _entries(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """The places of the entries of each tap's matrix, sorted; -1 for what is cut off."""
    places = torch.where((rows >= 0) & (rows < height), rows * width + columns, -1)
    return places.sort(1).values
