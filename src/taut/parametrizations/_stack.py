"""Layers of one kind as the groups of a single layer, whose weight is one computation."""

import copy
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import final

import torch
from torch import Tensor

from taut.linalg.packing import blocks, embedded
from taut.linalg.rates import counts_launches
from taut.parametrizations._base import AbstractParametrization

# Multiplications that a GPU does while it launches the operations that build one kernel.
_SMALL = 1 << 28


@final
class Stack:
    r"""Layers that differ in the values of their raw tensors, or in their channels.

    Groups of a layer do not mix, so that L layers of g groups are one layer of L g groups, `whole`:
    its raw tensors are theirs, one behind the other, and its weight holds theirs likewise.

    Smaller layers are embedded in the largest channels: raw matrices A become
    :math:`\mathrm{diag}(A, I)`. Their bases and projectors are block diagonal then, and so is the
    kernel, of which the layer's own is the first block.
    """

    def __init__(self, owners: list[AbstractParametrization]) -> None:
        self.owners, self.whole = owners, copy.copy(owners[0])
        groups = len(owners) * owners[0].groups
        self.whole.groups = groups
        for name in ("in_channels", "out_channels"):
            most = max(getattr(owner, name) // owner.groups for owner in owners)
            setattr(self.whole, name, groups * most)
        self.even = len({_channels(owner) for owner in owners}) == 1
        wide = "out_channels" if owners[0].embedding_side() else "in_channels"
        while not self._has_room():
            setattr(self.whole, wide, getattr(self.whole, wide) + groups)
        self.shapes = self.whole.raw_shapes()
        vars(self.whole)["_parameters"] = {}

    def _has_room(self) -> bool:
        """Whether the matrices of the layers and identities beside them fit into those of all."""
        if self.even:
            return True
        pairs = [
            (shape, getattr(owner, name).shape)
            for name, shape in self.whole.raw_shapes().items()
            for owner in self.owners
        ]
        return all(shape[-2] - own[-2] >= shape[-1] - own[-1] for shape, own in pairs)

    def is_quick(self) -> bool:
        """Whether little is computed in vain."""
        outputs, inputs = self._sides()
        work = len(self.owners) * outputs * inputs * max(outputs, inputs)
        return self.even or work <= _SMALL

    def join(self) -> dict[Tensor, list[Tensor]]:
        """Make the raw tensors of `whole`, each of those that it returns them with."""
        made = {}
        for name, shape in self.shapes.items():
            raws = [getattr(owner, name) for owner in self.owners]
            if self.even:
                joined = torch.cat([raw.reshape(1, -1) for raw in raws])
            else:
                stacks = [raw.reshape(-1, *raw.shape[-2:]) for raw in raws]
                joined = embedded(stacks, (shape[-2], shape[-1]))
            joined = joined.reshape(shape)
            vars(self.whole)["_parameters"][name] = joined
            made[joined] = raws
        return made

    def weights(self) -> list[Tensor]:
        """The weight of each layer."""
        weight = self.whole.weight().contiguous()
        if self.even:
            return list(weight.chunk(len(self.owners)))
        taps = math.prod(self.whole.kernel_size)
        sizes = [_channels(owner) for owner in self.owners]
        shapes = [(1, outputs, inputs * taps) for inputs, outputs in sizes]
        found = blocks(weight.reshape(len(self.owners), -1, self._sides()[1]), shapes)
        kernels = zip(found, sizes, strict=True)
        return [w.view(o, i, *self.whole.kernel_size) for w, (i, o) in kernels]

    def _sides(self) -> tuple[int, int]:
        """Outputs and inputs times taps of a group."""
        outputs, inputs = (
            channels // self.whole.groups
            for channels in (self.whole.out_channels, self.whole.in_channels)
        )
        return outputs, inputs * math.prod(self.whole.kernel_size)


def stacks(owners: Iterable[AbstractParametrization]) -> list[Stack]:
    """All sets of several layers whose weights can be computed together."""
    alike: dict[Hashable, list[AbstractParametrization]] = defaultdict(list)
    for owner in owners:
        if owner.reads_bases and not owner.matrices_only and not owner.may_apply_factors():
            kind = _kind(owner)
            if kind is not None:
                alike[kind].append(owner)
    found = []
    for same in alike.values():
        together = Stack(same)
        if together.is_quick():
            found.append(together)
            continue
        by_channels = defaultdict(list)
        for owner in same:
            by_channels[_channels(owner)].append(owner)
        found += map(Stack, by_channels.values())
    return [stack for stack in found if len(stack.owners) > 1]


def _channels(owner: AbstractParametrization) -> tuple[int, int]:
    return owner.in_channels, owner.out_channels


def _kind(owner: AbstractParametrization) -> Hashable:
    """Equal for layers that can be one stack; None for one that cannot."""
    raws = dict(owner.named_parameters())
    if set(raws) != set(owner.raw_shapes()) or any(True for _ in owner.buffers()):
        return None
    if not all(raw.numel() for raw in raws.values()):
        return None
    settings = {k: v for k, v in vars(owner).items() if not k.startswith("_") and k != "training"}
    side = owner.embedding_side()
    if side is not None and all(counts_launches(raw.device) for raw in raws.values()):
        del settings["in_channels"], settings["out_channels"]
    like = sorted((n, p.dtype, p.device, p.requires_grad) for n, p in raws.items())
    kind = type(owner), side, tuple(sorted(settings.items())), tuple(map(str, like))
    try:
        hash(kind)
    except TypeError:  # settings of a user's own
        return None
    return kind
