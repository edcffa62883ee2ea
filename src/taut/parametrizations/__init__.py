"""Raw tensors to a kernel or matrix with a guarantee; one method a file.

To add a method, write one file with a final subclass of `AbstractParametrization` and add its line
here: tests, tables and the command line iterate over these exports.
"""

import inspect

from taut.parametrizations._aol import AOL
from taut.parametrizations._base import AbstractParametrization, raws_among
from taut.parametrizations._bcop import BCOP
from taut.parametrizations._bcop_fixed import BCOPFixed
from taut.parametrizations._bro import BRO
from taut.parametrizations._cache import (
    cached,
    may_transform,
    read_basis,
    read_scaled_weight,
    read_symbol,
    read_weight,
    without_autocast,
)
from taut.parametrizations._cayley import Cayley
from taut.parametrizations._cpl import CPL
from taut.parametrizations._eco import ECO
from taut.parametrizations._existence import (
    Isometry,
    effective_stride,
    existing_isometry,
    require_isometry,
)
from taut.parametrizations._exponential import Exponential
from taut.parametrizations._finite_reflector import FiniteReflector
from taut.parametrizations._householder import Householder
from taut.parametrizations._kept import (
    declare_orthonormal,
    is_kept_orthonormal,
    keep_orthonormal,
)
from taut.parametrizations._lires import LiRes
from taut.parametrizations._lot import LOT
from taut.parametrizations._model import (
    after_step,
    batched,
    batched_if_quicker,
    projected,
    retract_,
    update_,
)
from taut.parametrizations._orthogonal import Orthogonal
from taut.parametrizations._ossn import OSSN
from taut.parametrizations._rkl2ne import RKL2NE
from taut.parametrizations._rko import RKO
from taut.parametrizations._scfac import SCFac
from taut.parametrizations._shared import shared_weights
from taut.parametrizations._sll import SLL
from taut.parametrizations._spectral import (
    AbstractSpectral,
    dilated_symbol,
    kernel_of_symbol,
    kernel_symbol,
    map_symbol,
)
from taut.parametrizations._spectral_qr import SpectralQR
from taut.parametrizations._svcm import SVCM

__all__ = [
    "AOL",
    "BCOP",
    "BRO",
    "CPL",
    "ECO",
    "LOT",
    "OSSN",
    "RKL2NE",
    "RKO",
    "SLL",
    "SVCM",
    "AbstractParametrization",
    "AbstractSpectral",
    "BCOPFixed",
    "Cayley",
    "Exponential",
    "FiniteReflector",
    "Householder",
    "Isometry",
    "LiRes",
    "Orthogonal",
    "SCFac",
    "SpectralQR",
    "after_step",
    "batched",
    "batched_if_quicker",
    "cached",
    "declare_orthonormal",
    "dilated_symbol",
    "effective_stride",
    "existing_isometry",
    "is_kept_orthonormal",
    "keep_orthonormal",
    "kernel_of_symbol",
    "kernel_symbol",
    "map_symbol",
    "may_transform",
    "methods",
    "projected",
    "raws_among",
    "read_basis",
    "read_scaled_weight",
    "read_symbol",
    "read_weight",
    "require_isometry",
    "retract_",
    "shared_weights",
    "update_",
    "without_autocast",
]


def methods() -> dict[str, type[AbstractParametrization]]:
    """The exported methods by name; models, tests, tables and the command line iterate over them.

    Example:
        >>> methods()["RKO"].guarantee
        'lipschitz'
    """
    return {
        name: value
        for name, value in globals().items()
        if isinstance(value, type)
        and issubclass(value, AbstractParametrization)
        and not inspect.isabstract(value)
    }
