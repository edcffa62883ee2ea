"""Free tensors to a kernel or matrix with a guarantee; one method a file.

To add a method, write one file with a final subclass of `AbstractParametrization` and add its
line here: tests, tables and the command line find it by iterating over these exports.
"""

from taut.parametrizations._base import (
    AbstractParametrization,
    cached,
    read_basis,
    read_weight,
    transformed,
)
from taut.parametrizations._model import batched, projected, retract_, update_
from taut.parametrizations.bcop import BCOP
from taut.parametrizations.bcop_fixed import BCOPFixed
from taut.parametrizations.orthogonal import Orthogonal
from taut.parametrizations.ossn import OSSN
from taut.parametrizations.rkl2ne import RKL2NE
from taut.parametrizations.rko import RKO
from taut.parametrizations.svcm import SVCM

__all__ = [
    "BCOP",
    "OSSN",
    "RKL2NE",
    "RKO",
    "SVCM",
    "AbstractParametrization",
    "BCOPFixed",
    "Orthogonal",
    "batched",
    "cached",
    "methods",
    "projected",
    "read_basis",
    "read_weight",
    "retract_",
    "transformed",
    "update_",
]


def methods() -> dict[str, type[AbstractParametrization]]:
    """The exported methods by name: what models, tests, tables and the command line go through.

    Example:
        >>> methods()["RKO"].guarantee
        'lipschitz'
    """
    return {
        name: value
        for name, value in globals().items()
        if isinstance(value, type)
        and issubclass(value, AbstractParametrization)
        and value is not AbstractParametrization
    }
