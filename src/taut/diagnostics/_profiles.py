"""What a comparison of models needs of each: gradient norm by depth, spectrum of the Jacobian."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float64
from torch import Tensor

from taut.diagnostics._inspection import Inspection


@final
@dataclass(frozen=True)
class GradientProfile:
    """One model in a comparison.

    Attributes:
        gradient: norm at each depth, relative to the output's: the image first, the output last.
        jacobian: smallest, lower quartile, median, upper quartile and largest singular value of
            the Jacobian over all images; may be empty.

    Example:
        >>> GradientProfile(gradient=[1.0, 1.0], jacobian=[1.0] * 5).gradient[-1]
        1.0
    """

    gradient: Sequence[float]
    jacobian: Sequence[float] = ()


def gradient_profile(inspection: Inspection) -> GradientProfile:
    """What a comparison shows of a model: the norms where the whole signal passes.

    Args:
        inspection: of the model.

    Example:
        >>> from taut.diagnostics import inspect
        >>> gradient_profile(inspect(taut.nn.Linear(3, 2), torch.ones(1, 3))).gradient[-1]
        1.0
    """
    norms = [layer.random for layer in inspection.layers if layer.whole]
    values = inspection.jacobian
    return GradientProfile([*norms, 1.0], () if values is None else five_numbers(values))


def five_numbers(values: Float64[Tensor, "..."]) -> list[float]:
    """Smallest value, lower quartile, median, upper quartile and largest value.

    Args:
        values: at least one.

    Example:
        >>> five_numbers(torch.tensor([3.0, 1.0, 2.0]).double())
        [1.0, 1.5, 2.0, 2.5, 3.0]
    """
    return values.flatten().quantile(values.new_tensor([0, 0.25, 0.5, 0.75, 1])).tolist()
