r"""Certified radii of logits."""

import math
from dataclasses import replace
from fractions import Fraction

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taut._arguments import check_tensor, rational
from taut.linalg.rounding import down, next_down, next_up, up, up_product
from taut.program import UP_SQRT2, Composed, LipschitzBound, pairwise_constants

__all__ = [
    "above",
    "as_rational",
    "certified_radius",
    "class_bound",
    "class_logits",
    "executed_radii_to_classes",
    "executed_radius",
    "logit_margin",
    "margin_error",
    "pair_constants",
    "radii_to_classes",
    "targeted_radius",
]

_CONFIRM = 4.0
"""How often the error is subtracted from a margin: at the point and at the perturbed one, and both
twice, so that anyone who sums in another order, with another error, reaches the same verdict."""


def certified_radius(
    logits: Float[Tensor, "b k"],
    labels: Int[Tensor, " b"],
    bound: float | LipschitzBound,
    *,
    head: Float[Tensor, "k n"] | None = None,
) -> Float[Tensor, " b"]:
    r"""l2 radius within which no perturbation changes the prediction; the inequality is strict.

    :math:`\min_{j \ne y} (z_y - z_j) / L_{yj}`, rounded down, where :math:`L_{yj}` bounds the
    Lipschitz constant of :math:`z_y - z_j`: :math:`\sqrt 2 L` for logits that are L-Lipschitz as a
    map, or, where the bound knows the last layer, the constant from the difference of its rows,
    which is never larger. 0 where the point is wrong or tied, and where a logit is not finite.

    Args:
        logits: of the model at the points.
        labels: true classes.
        bound: a proven Lipschitz constant of the whole map from inputs to logits.
        head: the matrix of the last layer, if `bound` is of what it multiplies, the features: then
            :math:`L_{yj} = L \|w_y - w_j\|`.

    Returns:
        Radii in float64.

    Raises:
        ValueError: if there are fewer than two classes, a label is out of range, lengths differ,
            logits or head are not of a floating-point dtype, the head has not one row per class, or
            the bound is negative or NaN.

    Reference:
        Li et al. (2019), section 5 (margin over sqrt(2)); arXiv:1911.00937. Rows: Singla, Singla,
        Feizi (2022), proposition 1; arXiv:2108.04062.

    Example:
        >>> certified_radius(torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 0]), 1.0)
        tensor([1.4142, 0.0000], dtype=torch.float64)
    """
    return targeted_radius(logits, labels, bound, head=head).amin(1)


def targeted_radius(
    logits: Float[Tensor, "b k"],
    labels: Int[Tensor, " b"],
    bound: float | LipschitzBound,
    *,
    head: Float[Tensor, "k n"] | None = None,
) -> Float[Tensor, "b k"]:
    r"""l2 radius within which each other class does not overtake the label: targeted attacks.

    :math:`(z_y - z_j) / L_{yj}`, rounded down, with the constants of :func:`certified_radius`,
    which is the least of them. 0 for classes that lead or tie, infinite for the label itself; 0
    where a logit is not finite.

    Args:
        logits: of the model at the points.
        labels: true classes.
        bound: as of `certified_radius`.
        head: as of `certified_radius`.

    Returns:
        Radii in float64, one row a point and one column a class.

    Raises:
        ValueError: as `certified_radius` does.

    Example:
        >>> targeted_radius(torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0]), 1.0)
        tensor([[   inf, 1.4142, 0.7071]], dtype=torch.float64)
    """
    return radii_to_classes(logits, labels, bound_with_head(logits, labels, bound, head))


def bound_with_head(
    logits: Tensor, labels: Tensor, bound: float | LipschitzBound, head: Tensor | None
) -> float | LipschitzBound:
    """The bound of the logits, from that of the features if there is a head; all checked."""
    _check(logits, labels)
    if head is None:
        return bound
    _check_real("head", head)
    if head.dim() != 2 or len(head) != logits.shape[1] or not head.shape[1]:
        raise ValueError(
            f"`head` must be a matrix of {logits.shape[1]} rows, one per class; got "
            f"{tuple(head.shape)}."
        )
    features = constant_of(bound)
    return LipschitzBound(math.inf, pairwise=pairwise_constants(head, features))


def executed_radius(
    logits: Float[Tensor, "b k"],
    labels: Int[Tensor, " b"],
    norms: Float[Tensor, " b"],
    bound: LipschitzBound,
    composed: Composed,
) -> Float[Tensor, " b"]:
    """What `certified_radius` is, for the executed program, rounding included."""
    _check(logits, labels)
    return executed_radii_to_classes(logits, labels, norms, bound, composed).amin(1)


def radii_to_classes(
    logits: Float[Tensor, "b k *p"], labels: Int[Tensor, "b *p"], bound: float | LipschitzBound
) -> Float[Tensor, "b k *p"]:
    """Radius within which no input prefers each other class to the label; infinite for the label.

    As `certified_radius` says, which is the least of them. 0 if any logit of the point is not
    finite. Where there are places p, as pixels, there is a label for each.
    """
    z = logits.detach().double()
    gaps = next_down(z.gather(1, labels[:, None]) - z)
    radii = next_down(gaps / _constants(bound, labels, z.shape[1]))
    return _kept(radii, z, labels)


def executed_radii_to_classes(
    logits: Float[Tensor, "b k *p"],
    labels: Int[Tensor, "b *p"],
    norms: Float[Tensor, " b"],
    bound: LipschitzBound,
    composed: Composed,
    stretch: float = 1.0,
) -> Float[Tensor, "b k *p"]:
    r"""What `radii_to_classes` is, for the executed program, rounding included.

    Let E(t) = a t + b bound the error of the difference of two computed logits at inputs of norm at
    most t. At x' with :math:`\|x' - x\| \le s \rho` the computed difference is at least

    .. math:: m - E(\|x\|) - L_{yj} \rho - E(\|x\| + s \rho),

    m the computed margin at x: positive if :math:`m - 2 E(\|x\|) > (L_{yj} + a s) \rho`. Twice
    more is taken off, see `_CONFIRM`; every operation is rounded so that the radius comes out
    smaller. No point beyond the norm at which something may overflow is certified.

    Args:
        logits: as computed.
        labels: a class of each point.
        norms: of the inputs.
        bound: constants L in the units of the radius.
        composed: error and norm limit, in the units of the inputs.
        stretch: s, the most that an input moves by within a radius of 1.
    """
    z, norms = logits.detach().double(), norms.to(logits.device)
    error = _beside(margin_error(composed, norms), z)
    gaps = next_down(next_down(z.gather(1, labels[:, None]) - z) - error)
    slope = up_product(composed.error[0], stretch)
    slopes = next_up(_constants(bound, labels, z.shape[1]) + slope)
    limit = next_down(next_down(composed.norm_limit - norms) / stretch)
    return _kept(torch.minimum(next_down(gaps / slopes), _beside(limit, z)), z, labels)


def margin_error(composed: Composed, norms: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """What is taken off a computed margin for rounding at inputs of these norms, see `_CONFIRM`.

    Example:
        >>> margin_error(Composed(1.0, error=(0.0, 0.5)), torch.ones(1).double()) >= 2.0
        tensor([True])
    """
    a, b = composed.error
    return _CONFIRM * next_up(next_up(a * norms) + b)  # a power of two: exact


def _kept(radii: Tensor, z: Tensor, labels: Tensor) -> Tensor:
    """The radii that are proven: positive, and of points whose logits are all finite."""
    finite = _beside(z.flatten(1).isfinite().all(1), z)
    radii = torch.where(finite & (radii > 0), radii, 0.0)
    return radii.scatter(1, labels[:, None], math.inf)


def _beside(values: Tensor, z: Tensor) -> Tensor:
    """One value a point, to be combined with logits."""
    return values.reshape(-1, *[1] * (z.dim() - 1))


def class_logits(outputs: Float[Tensor, "b *k"]) -> Float[Tensor, "b k *p"]:
    """Outputs as logits of classes; a single output f becomes (0, f), so that f > 0 is class 1.

    Example:
        >>> class_logits(torch.tensor([[-2.0], [3.0]])).argmax(1)
        tensor([0, 1])
    """
    z = outputs[:, None] if outputs.dim() == 1 else outputs
    return torch.cat([torch.zeros_like(z), z], 1) if z.shape[1] == 1 else z


def class_bound(bound: LipschitzBound, outputs: tuple[int, ...]) -> LipschitzBound:
    """The bound of `class_logits`: one output f, and so f - 0, moves by L and not sqrt(2) L."""
    if outputs[:1] not in ((), (1,)):
        return bound
    pairs = torch.tensor(
        [[0.0, bound.value], [bound.value, 0.0]], dtype=torch.float64, device="cpu"
    )
    return replace(bound, pairwise=pairs)


def pair_constants(bound: LipschitzBound, classes: int) -> Float[Tensor, "k k"]:
    """A Lipschitz constant of the difference of each two logits, on the CPU.

    Example:
        >>> pair_constants(LipschitzBound(1.0), 2).round(decimals=4)
        tensor([[0.0000, 1.4142],
                [1.4142, 0.0000]], dtype=torch.float64)
    """
    if bound.pairwise is not None:
        return bound.pairwise.cpu()
    constant = up_product(UP_SQRT2, bound.value)
    pairs = torch.full((classes, classes), constant, dtype=torch.float64, device="cpu")
    return pairs.fill_diagonal_(0.0)


def logit_margin(logits: Float[Tensor, "b k"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Logit of the label minus the largest other logit, in float64; negative if misclassified.

    Differentiable in the logits.

    Raises:
        ValueError: as `certified_radius`.

    Example:
        >>> logit_margin(torch.tensor([[2.0, 0.5, 1.0]]), torch.tensor([0]))
        tensor([1.], dtype=torch.float64)
    """
    _check(logits, labels)
    z = logits.double()
    others = z.scatter(1, labels[:, None], -math.inf)
    return z.gather(1, labels[:, None]).squeeze(1) - others.amax(1)


def _check_real(name: str, values: Tensor) -> None:
    check_tensor(name, values)
    if not values.is_floating_point():
        raise ValueError(f"`{name}` must be of a floating-point dtype; got {values.dtype}.")


def _check(logits: Tensor, labels: Tensor) -> None:
    _check_real("logits", logits)
    check_tensor("labels", labels)
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(f"`logits` must be (points, >= 2 classes); got {tuple(logits.shape)}.")
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"`labels` must be one class per point; got {tuple(labels.shape)} for "
            f"{len(logits)} points."
        )
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"`labels` must be int64 or int32 classes; got {labels.dtype}.")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"`labels` must be in 0..{logits.shape[1] - 1}; got {int(labels.min())}.."
            f"{int(labels.max())}."
        )


def _constants(bound: float | LipschitzBound, labels: Tensor, classes: int) -> Tensor:
    """Constant of the difference of the label's logit and each other one."""
    value = constant_of(bound)
    if isinstance(bound, LipschitzBound) and bound.pairwise is not None:
        if bound.pairwise.shape != (classes, classes):
            raise ValueError(
                f"`bound` must be of a model with {classes} classes; got one with "
                f"{len(bound.pairwise)}."
            )
        return bound.pairwise.to(labels.device)[labels].movedim(-1, 1)
    constant = up_product(UP_SQRT2, value)
    return torch.tensor(constant, dtype=torch.float64, device=labels.device)


def constant_of(bound: float | Fraction | LipschitzBound) -> float:
    """The constant as a float, never below it: a ratio is rounded up."""
    try:
        value = up(bound) if isinstance(bound, Fraction) else float(bound)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not value >= 0:
        raise ValueError(f"`bound` must be a number >= 0; got {bound}.")
    return value


def as_rational(eps: int | float | str | Fraction) -> Fraction:
    """The exact value of an eps: "36/255" is that ratio, 0.1 is the float.

    Raises:
        ValueError: if it is not a finite number >= 0.

    Example:
        >>> as_rational("36/255"), as_rational(0.5)
        (Fraction(12, 85), Fraction(1, 2))
    """
    value = rational(eps)
    if value is None or value < 0:
        raise ValueError(f'`eps` must be a number >= 0 or a ratio such as "36/255"; got {eps!r}.')
    return value


def above(radius: Float[Tensor, "*b"], eps: int | float | str | Fraction) -> Tensor:
    """Whether each radius is strictly above eps, compared exactly.

    A float is above eps iff it is above the largest float that is not above eps.

    Example:
        >>> above(torch.tensor([0.5, 0.6]).double(), "1/2").tolist()
        [False, True]
    """
    return radius > down(as_rational(eps))
