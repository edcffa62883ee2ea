r"""The last layer of a classifier: outputs as a matrix times an earlier value, and a constant.

Behind the matrix there may be factors of single outputs (a temperature, a batch norm, a constant
that is added) and changes of shape that keep the order. A convolution whose image is one place is a
matrix, too: each tap reads an entry of its own, or a zero, which only makes rows longer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from taut.linalg.rounding import U64, gamma, outward, up_product
from taut.program._pairwise import UP_SQRT2, pairwise_constants
from taut.program._program import Program, Site
from taut.program._walk import operation

__all__ = ["Head", "head_of", "pairs_of"]

_FACTORS = ("add", "batch_norm", "divide", "neg", "scale")


@final
@dataclass(frozen=True, eq=False)
class Head:
    """A last layer.

    Attributes:
        rows: (classes, features), in float64.
        source: name of the value that they are applied to.
        node: name of the operation that holds the matrix.
        roundings: relative roundings that each entry has passed; 0 if they are exact.
        factors: of the rows of the matrix, `(classes,)` or `(1,)`.
    """

    rows: Tensor
    source: str
    node: str
    roundings: int
    factors: Tensor

    def pairs(self, features: float) -> Tensor:
        """Constants of the differences of two outputs, for features with a Lipschitz constant.

        Example:
            >>> program = taut.program.trace(torch.nn.Linear(2, 2), (2,))
            >>> head_of(program).pairs(1.0).shape
            torch.Size([2, 2])
        """
        constants = pairwise_constants(self.rows, features)
        if not self.roundings:
            return constants
        # Each row is off by at most gamma times its norm; the computed norm by less than twice.
        norms = 2 * torch.linalg.vector_norm(self.rows, dim=1)
        room = gamma(self.roundings, U64) * (norms[:, None] + norms) * features
        return outward(constants + room, 4).fill_diagonal_(0.0)


def head_of(program: Program) -> Head | None:
    """The last layer of a program that has one.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2, 3))
        >>> head_of(taut.program.trace(model, (2,))).source
        '0'
    """
    sites = {site.node.name: site for site in program.sites()}
    name = program.output
    if name not in sites or len(sites[name].shape) != 1:
        return None
    (classes,) = sites[name].shape
    factors, roundings = torch.ones(1, dtype=torch.float64, device="cpu"), 0
    while name in sites:
        site = sites[name]
        rows = _rows(site, classes)
        if rows is not None:
            rows, source = rows.detach().cpu().double(), site.node.inputs[0]
            if not roundings:
                return Head(rows, source, name, 0, factors)
            scaled = rows * factors[:, None]
            moderate = _is_moderate(rows) and _is_moderate(scaled)
            return Head(scaled, source, name, roundings + 2, factors) if moderate else None
        if site.node.op != "reshape":
            step = _factors(site, classes)
            if step is None or not _is_moderate(step[0]):
                return None
            factors, roundings = factors * step[0], roundings + step[1] + 1
        name = site.node.inputs[0]
    return None


def pairs_of(program: Program, constants: Mapping[str, float]) -> Tensor | None:
    """Constants of the differences of two outputs; None without a last layer.

    From the rows, or the root of 2 times that of all outputs as one map, if that is less.

    Args:
        program: of the model.
        constants: Lipschitz constants by the names of values.
    """
    head = head_of(program)
    if head is None:
        return None
    of_map = up_product(UP_SQRT2, constants[program.output])
    return head.pairs(constants[head.source]).clamp(max=of_map)


def _rows(site: Site, classes: int) -> Tensor | None:
    """The rows of an operation that is a matrix with a row for each class."""
    node, weight = site.node, site.tensors.get("weight")
    if weight is None or len(weight) != classes:
        return None
    if node.op == "linear" and len(site.shape) == 1:
        return weight
    if node.op != "conv" or math.prod(site.shape) != classes or site.args["groups"] != 1:
        return None
    return weight.flatten(1) if site.args["padding"]["mode"] == "zeros" else None


def _factors(site: Site, classes: int) -> tuple[Tensor, int] | None:
    """A factor for each class, and its roundings; None for what is more."""
    if site.node.op not in _FACTORS or site.shapes != (site.shape,):
        return None
    last = site.shape[-1] == classes
    if math.prod(site.shape) != classes or not (last or site.shape[0] == classes):
        return None
    kernel = operation(site).as_kernel(site, last=last)
    if kernel is None or not kernel.is_channelwise:
        return None
    return kernel.kernel.flatten(), kernel.roundings


def _is_moderate(values: Tensor) -> bool:
    """Whether no number is so far from 1 that a product of few may have under- or overflowed."""
    sizes = values.abs()
    return bool(((sizes == 0) | ((sizes > 2.0**-300) & (sizes < 2.0**300))).all())
