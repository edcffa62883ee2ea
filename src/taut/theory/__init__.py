r"""The space of orthogonal convolutions, executable: its components, factors and paths.

The symbol of a kernel of c channels is the matrix polynomial :math:`W(z) = \sum_j K_j z^j`, with
`K_j = kernel[:, :, j]`, one variable for each axis. The kernel is orthogonal (singular values all 1
with circular padding, on every size) where W(z) is unitary for all :math:`|z| = 1`; its determinant
is then :math:`\pm z^m`. Everything here is about square kernels of stride 1.
"""

from taut.theory._components import (
    Component,
    component,
    components,
    determinant_curve,
    representative,
    winding_estimate,
)
from taut.theory._factors import Factorisation, embed, factorise
from taut.theory._paths import KernelPath, connect

__all__ = [
    "Component",
    "Factorisation",
    "KernelPath",
    "component",
    "components",
    "connect",
    "determinant_curve",
    "embed",
    "factorise",
    "representative",
    "winding_estimate",
]
