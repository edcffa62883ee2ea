"""A model in plain values, and the table of facts: what every operation stretches and rounds."""

from taut.program import ops as ops
from taut.program._bound import (
    bound_of,
    checked_program,
    lipschitz_bound,
    single_operator,
    singular_values,
    trace,
    verifiable_bound,
)
from taut.program._call import Call
from taut.program._check import check_agreement, check_precision
from taut.program._compose import Composed, Layer, compose, row, widened
from taut.program._composition import Composition, composition_of
from taut.program._dense import matrix_and_error
from taut.program._folds import Fold, fold_of, folds_of
from taut.program._functions import wraps_too_often
from taut.program._head import Head, head_of, pairs_of
from taut.program._norm_bounds import Effort
from taut.program._op import (
    CAPTURES,
    EXACT,
    READS,
    AbstractOp,
    Rounding,
    captures,
    like,
    norm_upper,
    op,
    reads,
)
from taut.program._pairwise import UP_SQRT2, pairwise_constants
from taut.program._parametrized import has_parametrizations, with_plain_weights
from taut.program._program import Node, Program, Site, canonical
from taut.program._replay import ProgramModule, replay
from taut.program._result import LayerBound, LipschitzBound, UnprovenError
from taut.program._shares import shares_of
from taut.program._single_call import single_call
from taut.program._walk import Progress, bounds_of, expanded, layers_of, operation, parts_of
from taut.program.passes import PASSES
from taut.program.passes._affine import affine_terms
from taut.program.passes._padding import fixed_size
from taut.program.passes._residuals import slope_fault

__all__ = [
    "CAPTURES",
    "EXACT",
    "PASSES",
    "READS",
    "UP_SQRT2",
    "AbstractOp",
    "Call",
    "Composed",
    "Composition",
    "Effort",
    "Fold",
    "Head",
    "Layer",
    "LayerBound",
    "LipschitzBound",
    "Node",
    "Program",
    "ProgramModule",
    "Progress",
    "Rounding",
    "Site",
    "UnprovenError",
    "affine_terms",
    "bound_of",
    "bounds_of",
    "canonical",
    "captures",
    "check_agreement",
    "check_precision",
    "checked_program",
    "compose",
    "composition_of",
    "expanded",
    "fixed_size",
    "fold_of",
    "folds_of",
    "has_parametrizations",
    "head_of",
    "layers_of",
    "like",
    "lipschitz_bound",
    "matrix_and_error",
    "norm_upper",
    "op",
    "operation",
    "pairs_of",
    "pairwise_constants",
    "parts_of",
    "reads",
    "replay",
    "row",
    "shares_of",
    "single_call",
    "single_operator",
    "singular_values",
    "slope_fault",
    "trace",
    "verifiable_bound",
    "widened",
    "with_plain_weights",
    "wraps_too_often",
]
