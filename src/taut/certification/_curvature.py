r"""Radii of a classifier that ends in one hidden layer with a smooth activation, in real numbers.

Let :math:`z = V \sigma(W f + b) + c` for features f of constant L, and
:math:`h = z_i - z_j`, v the difference of the two rows of V. Its gradient at a point is
:math:`g = W^\top (\sigma' \odot v)`, and no second derivative along a unit vector is below -K,

.. math:: K = \lambda_{\max}\bigl(W^\top \operatorname{diag}(d)\, W\bigr), \qquad
          d_k = \max(0, -v_k s : s \in [\inf \sigma'', \sup \sigma'']).

So h falls from its margin m over a way t of the features by at most
:math:`\int_0^t \min(\|g\| + K s, C)\,ds`, C its Lipschitz constant. The radius is the way over
which that is m, divided by L. The slope at the point counts, and not the largest anywhere.

Reference:
    Singla and Feizi (2022), *Improved techniques for deterministic l2 robustness*, NeurIPS, certify
    such heads by curvature, after Singla and Feizi (2020), *Second-order provable defenses against
    adversarial attacks*, ICML. There C does not count.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from taut.linalg.matrix import MatrixOperator
from taut.linalg.rounding import up_product
from taut.program import Head, Program, Site, head_of, operation

__all__ = ["CurvedHead", "curved_head"]

_CLASSES, _WORK = 32, 1 << 33
"""Up to so many classes, and multiplications for all pairs, each pair has a K of its own."""

_ENTRIES = 1 << 24
"""Numbers that are made at once, at most."""

_ROOM = 1 - 1e-9
"""Share of a radius that is kept: for roundings of sums in float64, which real numbers lack."""


@final
@dataclass(frozen=True, eq=False)
class CurvedHead:
    """A last layer behind one hidden layer.

    Attributes:
        site: of the activation.
        rows: V, in float64.
        weight: W, in float64.
        features: Lipschitz constant L of what W is applied to.
        curvature: (classes, classes) constants K, each of the difference of two outputs.
    """

    site: Site
    rows: Tensor
    weight: Tensor
    features: float
    curvature: Tensor

    @property
    def hidden(self) -> str:
        """Name of the value that the activation reads."""
        return self.site.node.inputs[0]

    def radii(self, logits: Tensor, hidden: Tensor, labels: Tensor, slopes: Tensor) -> Tensor:
        """Radius within which no input prefers each other class to the label, `(b, classes)`.

        Args:
            logits: as computed.
            hidden: the value of that name, for the same inputs.
            labels: a class of each.
            slopes: `(classes, classes)` Lipschitz constants of differences of two logits.
        """
        size = max(1, _ENTRIES // (len(self.rows) * max(self.weight.shape)))
        parts = zip(*(x.split(size) for x in (logits, hidden, labels)), strict=True)
        radii = [self._radii(z.double(), u.double(), y, slopes) for z, u, y in parts]
        return torch.cat(radii) if radii else logits.double()

    def _radii(self, z: Tensor, u: Tensor, labels: Tensor, slopes: Tensor) -> Tensor:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            (slope,) = torch.autograd.grad(operation(self.site).run(self.site, u).sum(), u)
        differences = self.rows[labels][:, None] - self.rows  # (b, k, h)
        gradients = (differences * slope[:, None]) @ self.weight  # (b, k, n)
        steep = torch.linalg.vector_norm(gradients, dim=2) * self.features
        margin = (z.gather(1, labels[:, None]) - z).clamp(min=0)
        return self._ways(margin, steep, labels, slopes) * _ROOM

    def largest(self, margin: Tensor, labels: Tensor, slopes: Tensor) -> Tensor:
        """What no radius exceeds, whatever the slopes at the inputs are: that of slope 0, `(b,)`.

        Args:
            margin: from the label to the next class.
            labels: a class of each.
            slopes: as of `radii`.
        """
        ways = self._ways(margin[:, None], torch.zeros_like(slopes[labels]), labels, slopes)
        return ways.scatter(1, labels[:, None], 0.0).amax(1)

    def _ways(self, margin: Tensor, steep: Tensor, labels: Tensor, slopes: Tensor) -> Tensor:
        """How far inputs may go until margins are lost, from slopes at the inputs."""
        most = slopes[labels]
        steep = steep.minimum(most)
        # A larger K is a smaller radius; one above 0 keeps all quotients finite.
        bend = (self.curvature[labels] * self.features**2).clamp(min=1e-200)
        near = 2 * margin / (steep + (steep.square() + 2 * bend * margin).sqrt())
        turn = (most - steep) / bend  # from there on the slope is the largest
        fallen = steep * turn + bend * turn.square() / 2
        far = turn + (margin - fallen) / most
        return torch.where(margin <= fallen, near, far).nan_to_num(0.0, posinf=0.0)


def curved_head(program: Program, lipschitz: Mapping[str, float]) -> CurvedHead | None:
    """The last two layers of a program, if they are matrices around a smooth activation.

    Args:
        program: of a model.
        lipschitz: constants of its values, by name.
    """
    found = _hidden_layer(program)
    if found is None:
        return None
    site, head, inner = found
    bends = operation(site).curvatures(site)
    if bends is None:
        return None
    curvature = _curvatures(head.rows, inner.rows, *bends)
    return CurvedHead(site, head.rows, inner.rows, lipschitz[inner.source], curvature)


def _hidden_layer(program: Program) -> tuple[Site, Head, Head] | None:
    """A smooth activation, and the matrices behind and before it."""
    head = head_of(program)
    sites = {site.node.name: site for site in program.sites()}
    site = None if head is None else sites.get(head.source)
    while site is not None and site.node.op == "reshape":
        site = sites.get(site.node.inputs[0])
    if head is None or site is None or operation(site).curvatures(site) is None:
        return None
    if len(head.rows) < 2 or not _reads_in_order(sites[head.node], site):
        return None
    nodes = program.nodes[: [node.name for node in program.nodes].index(site.node.name)]
    inner = head_of(replace(program, nodes=nodes, output=site.node.inputs[0]))
    return None if inner is None else (site, head, inner)


def _reads_in_order(last: Site, site: Site) -> bool:
    """Whether each column of a last matrix is of the unit with its number.

    Taps of a convolution are where it has as many as there are units, and none of them on a pad.
    """
    if last.tensors["weight"][0].numel() != math.prod(site.shape):
        return False
    padding = last.args["padding"] if last.node.op == "conv" else {}
    return not any(any(padding.get(side, ())) for side in ("left", "right", "extend"))


def _curvatures(rows: Tensor, weight: Tensor, low: float, high: float) -> Tensor:
    """K of each pair, rounded up."""
    count = len(rows)
    differences = rows[:, None] - rows
    bends = torch.maximum(-low * differences, -high * differences).clamp(min=0)
    curvature = torch.zeros(count, count, dtype=torch.float64, device="cpu")
    if count > _CLASSES or count**2 * weight.numel() * min(weight.shape) > _WORK:
        whole = MatrixOperator(weight).norm_bound().value
        return bends.amax(2) * up_product(whole, whole) / _ROOM
    for i in range(count):
        for j in range(count):
            if i != j and bool(bends[i, j].any()):
                norm = MatrixOperator(bends[i, j].sqrt()[:, None] * weight).norm_bound().value
                curvature[i, j] = up_product(norm, norm)
    return curvature / _ROOM
