"""A model as data: what a recipe stores and a run folder rebuilds."""

from dataclasses import dataclass
from typing import Literal, final, get_args

from torch import nn

from taut.models.paper import fc3, large, small
from taut.models.wide import wide
from taut.parametrizations import BCOP, RKO, BCOPFixed, Orthogonal, methods

PaperArchitecture = Literal["small", "large", "fc3"]
Architecture = Literal[PaperArchitecture, "wide"]


@final
@dataclass(frozen=True)
class ModelConfig:
    """Everything `build` needs to know.

    Args:
        architecture: the paper's "small", "large" or "fc3", or "wide", a variant of Large.
        input_shape: channels, height and width of an image.
        classes: number of logits.
        parametrization: name of a class in `taut.parametrizations`, used for every layer; dense
            layers of BCOP and RKO nets are `Orthogonal`, which is what both are on a matrix, and so
            are those of BCOPFixed nets, which only freeze their convolutions.

    Raises:
        ValueError: if a name is unknown or a size is not positive.

    Example:
        >>> ModelConfig("large", input_shape=(3, 32, 32)).parametrization
        'BCOP'
    """

    architecture: Architecture = "small"
    input_shape: tuple[int, int, int] = (1, 28, 28)
    classes: int = 10
    parametrization: str = "BCOP"

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            allowed = ", ".join(get_args(Architecture))
            raise ValueError(f"`architecture` must be one of {allowed}; got {self.architecture!r}.")
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ValueError(
                "`input_shape` must be channels, height and width, each >= 1; "
                f"got {self.input_shape}."
            )
        if self.classes < 2:
            raise ValueError(f"`classes` must be at least 2; got {self.classes}.")
        if self.parametrization not in methods():
            raise ValueError(
                f"`parametrization` must be one of {', '.join(methods())}; "
                f"got {self.parametrization!r}."
            )


def build(config: ModelConfig) -> nn.Sequential:
    """The model that `config` describes, freshly initialised.

    Args:
        config: what to build.

    Returns:
        The model; its weights depend on torch's global seed alone.

    Example:
        >>> build(ModelConfig("fc3", input_shape=(1, 4, 4)))[-1].out_features
        10
    """
    kernels = methods()[config.parametrization]
    # On a matrix these are an orthonormalisation: one implementation serves them.
    dense = Orthogonal if kernels in (BCOP, RKO, BCOPFixed) else kernels
    if config.architecture == "fc3":
        return fc3(config.input_shape, config.classes, dense=dense)
    function = {"small": small, "large": large, "wide": wide}[config.architecture]
    return function(config.input_shape, config.classes, parametrization=kernels, dense=dense)
