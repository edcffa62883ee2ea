"""Pads that stand in front of a convolution become its padding."""

from dataclasses import replace

import torch
from torch import Tensor

from taut.linalg.padding import isometric_mask, padded_index
from taut.program._program import Node, Program, Shape
from taut.program.ops._image_padding import padding_args
from taut.program.passes._rewriting import rebuilt

__all__ = ["as_pad", "fixed_size", "merge_pads", "recognise_isometric_pads"]


def recognise_isometric_pads(program: Program) -> Program:
    r"""An image times the mask of an isometric padding, and then padded, is that padding.

    Of the two alone the norms multiply; together they are an isometry (`isometric_mask`), whose
    factors may be off by the rounding of the mask. The mask must be that of taut, bit for bit, in
    at least float32: of 16 bits it is off by more.
    """
    made = {node.name: node for node in program.nodes}
    shapes = program.shapes
    nodes = []
    for node in program.nodes:
        scale = made.get(node.inputs[0]) if node.op == "pad" else None
        args = None if scale is None else _isometric(scale, node, program, shapes)
        if scale is not None and args is not None:
            kind = f"IsometricPad{len(node.shape) - 1}d"
            node = replace(node, op=kind, type=kind, inputs=scale.inputs, args=args)
        nodes.append(node)
    return rebuilt(program, nodes)


def _isometric(
    scale: Node, pad: Node, program: Program, shapes: dict[str, Shape]
) -> dict[str, object] | None:
    """The arguments of the isometric padding that both together are, if they are one."""
    args = pad.args
    if scale.op != "scale" or not scale.tensors or args["mode"] not in ("reflect", "replicate"):
        return None
    if shapes[scale.inputs[0]] != scale.shape or args["left"][0] or args["right"][0]:
        return None
    sides = zip(args["left"][:0:-1], args["right"][:0:-1], strict=True)
    padding = [n for pair in sides for n in pair]
    factor = program.tensors[scale.tensors["factor"]]
    if factor.dtype not in (torch.float32, torch.float64):
        return None
    mask = isometric_mask(factor.new_empty(scale.shape), padding, args["mode"])
    # Each entry of the image must have the factor of its place, however the factors are shaped.
    same = torch.equal(factor.expand(scale.shape), mask.expand(scale.shape))
    return {"padding": padding, "mode": args["mode"]} if same else None


def merge_pads(program: Program) -> Program:
    r"""A convolution without padding of a padded image is a convolution with that padding.

    :math:`K \circ P` is the operator itself, written as one: its norm is at most
    :math:`\|K\| \|P\|`, and less where P copies entries (circular padding of an orthogonal kernel
    has norm 1). Zeros behind the image, and then another padding, are `extend`. The value between
    is computed by copying, so that the rounding stays that of the convolution.

    Zeros, whose norm is 1, stay if another node reads the padded image, too: a residual layer is
    recognised by the image that both its branches read.
    """
    made = {node.name: node for node in program.nodes}
    shapes = program.shapes
    others = {
        name
        for node in program.nodes
        if node.op != "conv" and as_pad(node, program, shapes) is None
        for name in node.inputs
    }
    nodes = []
    for node in program.nodes:
        while node.op == "conv" and node.inputs[0] in made:
            pad = as_pad(made[node.inputs[0]], program, shapes)
            padding = None if pad is None else _joined(*pad, node.args["padding"])
            shared = pad is not None and pad[0] == "zeros" and node.inputs[0] in others
            if padding is None or shared:
                break
            inputs = made[node.inputs[0]].inputs
            node = replace(node, inputs=inputs, args={**node.args, "padding": padding})
        nodes.append(node)
    return rebuilt(program, nodes)


Sides = tuple[str, list[int], list[int]]


def as_pad(node: Node, program: Program, shapes: dict[str, Shape]) -> Sides | None:
    """Mode, left and right by spatial axis of a node that pads images and leaves channels alone."""
    args = node.args
    if node.op == "pad" and not args["value"] and not args["left"][0] and not args["right"][0]:
        mode = "zeros" if args["mode"] == "constant" else args["mode"]
        return mode, args["left"][1:], args["right"][1:]
    if node.op != "take" or args["axis"] == 0:
        return None
    known = _places_of(
        program.tensors[node.tensors["index"]].cpu(), shapes[node.inputs[0]][args["axis"]]
    )
    if known is None:
        return None
    (mode, before, after), axis, axes = known, args["axis"] - 1, len(node.shape) - 1
    return mode, _at(axis, axes, before), _at(axis, axes, after)


def _places_of(places: Tensor, size: int) -> tuple[str, int, int] | None:
    """Mode, left and right of the padding of one axis that a list of places is, if it is one."""
    # Circular padding may be by more than the image, which torch does not offer.
    before = int(-places[0]) % size
    after = len(places) - size - before
    while after < 0 and before >= size:
        before, after = before - size, after + size
    added = len(places) - size
    options = [("circular", before)] if after >= 0 else []
    if 0 <= added <= 2 * size - 2:
        first = int(places[0])  # of a reflection that is how far it goes
        copies = int((places == 0).long().cumprod(0).sum()) - 1
        options += [("reflect", first), ("replicate", min(max(copies, 0), added))]
    for mode, left in options:
        right = added - left
        moderate = mode != "reflect" or max(left, right) < size
        if right >= 0 and moderate and torch.equal(places, padded_index(size, left, right, mode)):
            return mode, left, right
    return None


def _at(axis: int, axes: int, value: int) -> list[int]:
    return [value if i == axis else 0 for i in range(axes)]


def _joined(mode: str, left: list[int], right: list[int], padding: dict) -> dict | None:
    """The padding of both together, or None where no convolution has it."""
    inner = [a or b for a, b in zip(padding["left"], padding["right"], strict=True)]
    if not any(inner) and not any(padding["extend"]):
        return padding_args(mode, left, right)
    apart = not any((a or b) and c for a, b, c in zip(left, right, inner, strict=True))
    if mode == padding["mode"] and not any(padding["extend"]) and (mode == "zeros" or apart):
        sums = [
            [a + b for a, b in zip(x, y, strict=True)]
            for x, y in ((left, padding["left"]), (right, padding["right"]))
        ]
        return padding_args(mode, *sums)
    if mode == "zeros" and not any(left) and not any(padding["extend"]):
        return padding_args(padding["mode"], padding["left"], padding["right"], right)
    return None


def fixed_size(program: Program) -> Program:
    """The program for inputs of its own size alone: zeros up to a multiple are so many zeros."""
    names, nodes, shapes = {}, [], program.shapes
    for original in program.nodes:
        node = replace(original, inputs=tuple(names.get(n, n) for n in original.inputs))
        if node.op.startswith("PadToMultiple"):
            size = shapes[node.inputs[0]]
            right = [m - n for m, n in zip(node.shape, size, strict=True)]
            if not any(right):
                names[node.name] = node.inputs[0]
            args = {"mode": "constant", "left": [0] * len(size), "right": right, "value": 0.0}
            node = replace(node, op="pad", args=args)
        nodes.append(node)
    output = names.get(program.output, program.output)
    return merge_pads(rebuilt(replace(program, output=output), nodes))
