"""A model as data: what a recipe stores and a run folder rebuilds."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from taut import parametrizations
from taut.models.paper import Parametrization, fc3, large, small


@dataclass(frozen=True)
class ModelConfig:
    """Everything `build` needs to know.

    Args:
        architecture: one of the paper's: "small", "large" or "fc3".
        input_shape: channels, height and width of an image.
        classes: number of logits.
        parametrization: name of a class in `taut.parametrizations`, used for every layer; dense
            layers of BCOP and RKO nets are `Orthogonal`, which is what both are on a matrix.

    Raises:
        ValueError: if a name is unknown or a size is not positive.

    Example:
        >>> ModelConfig("large", input_shape=(3, 32, 32)).parametrization
        'BCOP'
    """

    architecture: Literal["small", "large", "fc3"] = "small"
    input_shape: tuple[int, int, int] = (1, 28, 28)
    classes: int = 10
    parametrization: str = "BCOP"

    def __post_init__(self) -> None:
        if self.architecture not in ("small", "large", "fc3"):
            raise ValueError(
                f"`architecture` must be small, large or fc3; got {self.architecture!r}."
            )
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ValueError(
                "`input_shape` must be channels, height and width, each >= 1; "
                f"got {self.input_shape}."
            )
        if self.classes < 2:
            raise ValueError(f"`classes` must be at least 2; got {self.classes}.")
        if self.parametrization not in _exported():
            raise ValueError(
                f"`parametrization` must be one of {', '.join(_exported())}; "
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
    kernels = _exported()[config.parametrization]
    # On a matrix both of these are an orthonormalisation: one implementation serves them.
    same = kernels in (parametrizations.BCOP, parametrizations.RKO)
    dense = parametrizations.Orthogonal if same else kernels
    if config.architecture == "fc3":
        return fc3(config.input_shape, config.classes, dense=dense)
    function = {"small": small, "large": large}[config.architecture]
    return function(config.input_shape, config.classes, parametrization=kernels, dense=dense)


def _exported() -> dict[str, Parametrization]:
    """The exported parametrizations by name, the abstract base left out."""
    exported = vars(parametrizations)
    return {
        name: exported[name]
        for name in parametrizations.__all__
        if isinstance(exported[name], type) and not name.startswith("Abstract")
    }
