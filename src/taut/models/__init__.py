"""Architectures as frozen dataclasses that build plain `torch.nn` models: one a file.

To add a model, write a file with a frozen dataclass derived from `AbstractModel`, and add its line
here: recipes, the command line and the tests iterate over these exports.
"""

from taut.kinds import exported
from taut.models._base import AbstractModel
from taut.models._fc3 import FC3
from taut.models._function import model_of
from taut.models._large import Large
from taut.models._small import Small
from taut.models._wide import Wide

__all__ = ["FC3", "AbstractModel", "Large", "Small", "Wide", "kinds", "model_of"]


def kinds() -> dict[str, type[AbstractModel]]:
    """The exported models by their `kind`."""
    return exported(globals(), AbstractModel)
