"""Diagnostics of any torch model: gradient norms by depth, spectra, orthogonality.

:mod:`taut.plot` draws them. None of this is a certificate; a proven Lipschitz
constant is :func:`taut.lipschitz_bound`.
"""

from taut.diagnostics._inspection import Inspection, LayerDiagnostics, gradient_norms, inspect
from taut.diagnostics._jacobian import MAX_JACOBIAN_OUTPUTS, jacobian_singular_values
from taut.diagnostics._profiles import GradientProfile, five_numbers, gradient_profile
from taut.diagnostics._spectra import histogram, orthogonality_defects, spectra

__all__ = [
    "MAX_JACOBIAN_OUTPUTS",
    "GradientProfile",
    "Inspection",
    "LayerDiagnostics",
    "five_numbers",
    "gradient_norms",
    "gradient_profile",
    "histogram",
    "inspect",
    "jacobian_singular_values",
    "orthogonality_defects",
    "spectra",
]
