r"""Intervals that contain every value of a model for all inputs within a radius."""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._display import rounded_up
from taut._sharding import gathers
from taut.certification._arithmetic import norms_upper
from taut.certification._certificate import Certificate, prove
from taut.certification._eps import Eps, as_radius
from taut.certification._inputs import checked_shape, hold_against_model
from taut.certification._radius import class_logits
from taut.linalg.rounding import next_down, next_up, up_product
from taut.program import head_of

__all__ = ["CertifiedInterval", "certified_interval", "output_constants", "output_error"]

_BATCH = 256
_UP_ROOT_HALF = math.nextafter(math.sqrt(0.5), math.inf)


@final
@dataclass(frozen=True, eq=False)
class CertifiedInterval:
    """Predictions, and what they may become for inputs within a radius; tensors on the CPU.

    Attributes:
        prediction: of the certified program, in float64.
        lower: no output is below it, for any input within eps of the given one.
        upper: no output is above it.
        eps: the radius as it was given.
        constants: a Lipschitz constant of each output, in the shape of one output.
        certificate: what is proven of the model, whatever the input.

    Example:
        >>> found = certified_interval(nn.Linear(3, 2), torch.zeros(4, 3), "1/10")
        >>> bool(((found.lower < found.prediction) & (found.prediction < found.upper)).all())
        True
    """

    prediction: Float[Tensor, "b *o"]
    lower: Float[Tensor, "b *o"]
    upper: Float[Tensor, "b *o"]
    eps: Eps
    constants: Float[Tensor, "*o"]
    certificate: Certificate

    def __repr__(self) -> str:
        width = (self.upper - self.lower).flatten()
        return (
            f"CertifiedInterval of {len(self.prediction)} inputs within {self.eps} "
            f"({self.certificate.meaning})\n"
            f"width {rounded_up(width.min(), 6)} to {rounded_up(width.max(), 6)}; "
            f"constants up to {rounded_up(self.constants.max())}"
        )


@gathers
def certified_interval(
    model: nn.Module, inputs: Tensor, eps: Eps, *, arithmetic: str = "float64"
) -> CertifiedInterval:
    r"""Bound each output of a model over all inputs within an l2 radius.

    .. math:: |\hat f_i(x') - \hat f_i(x)| \le L_i \varepsilon + E

    for each x' with :math:`\|x' - x\|_2 \le \varepsilon`. :math:`L_i` is the constant of the output
    i: if the model ends in a matrix with rows w, :math:`\|w_i\|` times the constant of the
    features, and never more than the constant of all outputs as one map. E bounds what the
    certified program rounds at x and at x', in any order of summation: it is tiny for "float64",
    and 0 for "real", which says nothing of a program.

    Guarantee: the bounds hold for the program of `taut.certify` for the same `arithmetic`, and
        also for the real function. Infinite where a number may overflow within the radius.
    Cost: the proof of the model once, and a forward pass.

    Args:
        model: any module with a proven bound; its mode is left as it is.
        inputs: what the model is fed, floating point in the model's precision.
        eps: l2 radius in the units of the inputs; a number, a fraction or a text like "1/10".
        arithmetic: "float64", "float32" or "real", as of `taut.certify`.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) as `taut.certify` does.
        ValueError: if inputs or eps are wrong.

    Example:
        >>> model = taut.nn.scaled(taut.nn.Linear(3, 1), 2)
        >>> found = certified_interval(model, torch.zeros(1, 3), 0.5)
        >>> (found.upper - found.lower).round(decimals=4)
        tensor([[2.]], dtype=torch.float64)
    """
    shape = checked_shape(model, inputs, arithmetic)
    radius = as_radius(eps)
    certificate = prove(model, shape, arithmetic=arithmetic)
    constants = output_constants(certificate)
    parts: list[tuple[Tensor, Tensor]] = []
    for batch in inputs.split(_BATCH):
        outputs = certificate.outputs(batch).cpu()
        hold_against_model(model, batch, class_logits(outputs))
        here, there = (output_error(certificate, batch, within) for within in (0.0, radius))
        parts.append((outputs.double(), next_up(here + there)))
    prediction, error = (torch.cat(values) for values in zip(*parts, strict=True))
    room = next_up(next_up(constants * radius) + error.reshape(-1, *[1] * constants.dim()))
    room = torch.where(prediction.isfinite() & room.isfinite(), room, math.inf)
    middle = prediction.nan_to_num(0.0, 0.0, 0.0)
    return CertifiedInterval(
        prediction, next_down(middle - room), next_up(middle + room), eps, constants, certificate
    )


def output_constants(certificate: Certificate) -> Float[Tensor, "*o"]:
    r"""A Lipschitz constant of each output, rounded up, in the shape of one output.

    :math:`z_i = \langle w_i, h(x) \rangle + b_i` moves by at most :math:`\|w_i\| L_h`: the constant
    of the pair of row i and a row of zeros. Without such a last layer, the constant of all outputs.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> output_constants(prove(layer, (2,))).round(decimals=4)
        tensor([5., 1.], dtype=torch.float64)
    """
    whole = certificate.composed.lipschitz
    shape = certificate.output_shape
    head = head_of(certificate.program)
    if head is None:
        return torch.full(shape, whole, dtype=torch.float64, device="cpu")
    rows = torch.cat([head.rows, torch.zeros_like(head.rows[:1])])
    pairs = replace(head, rows=rows).pairs(certificate.composed.constants[head.source])
    return pairs[-1, :-1].clamp(max=whole).reshape(shape)


def output_error(
    certificate: Certificate, inputs: Float[Tensor, "b ..."], within: float = 0.0
) -> Float[Tensor, " b"]:
    r"""Error of the computed outputs, as one vector, for all inputs within a radius of each.

    `composed.error` is of the difference of two outputs, :math:`\sqrt 2` times as much. Infinite
    where a number may overflow.

    Example:
        >>> error = output_error(prove(nn.Linear(3, 2), (3,)), torch.ones(1, 3))
        >>> bool(0 < error < 1e-14)
        True
    """
    norms, composed = norms_upper(inputs.to("cpu")), certificate.composed
    norms = next_up(norms + within) if within else norms
    a, b = (up_product(_UP_ROOT_HALF, value) for value in composed.error)
    return torch.where(norms <= composed.norm_limit, next_up(next_up(a * norms) + b), math.inf)
