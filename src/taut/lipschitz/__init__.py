r"""Proven Lipschitz constants of models: a rule for each exact module type, the rest refused.

`lipschitz_bound(model, input_shape)` follows the graph of the model: compositions multiply, sums
add, branches side by side take the root of the sum of squares. What has no rule is refused by name.

To teach it a layer, give a rule for exactly its type (a subclass stays unknown). The rule sees the
module and the shape of its input without the batch:

>>> import torch
>>> from torch import nn
>>> class Flip(nn.Module):
...     def forward(self, x):
...         return x.flip(-1)
>>> @register(Flip, linear=True)
... def flip(module, shape):
...     return NormBound(1.0, "permutation")
>>> float(lipschitz_bound(nn.Sequential(Flip(), nn.Sigmoid()), (3,)))
0.25

A layer that is a convolution or a matrix gives its operator instead; bound and spectrum follow:

>>> class Tripled(nn.Module):
...     def forward(self, x):
...         return 3.0 * x
>>> @register_linear(Tripled)
... def tripled(module, shape):
...     return ConvOperator(3 * torch.eye(shape[0]), ())
>>> singular_values(Tripled(), (2,)).tolist()
[3.0, 3.0]
"""

from taut.linalg.bounds import NormBound
from taut.linalg.operators import ConvOperator, Padding
from taut.lipschitz import _torch_rules as _torch_rules
from taut.lipschitz._graph import lipschitz_bound, trace, verifiable_bound
from taut.lipschitz._joins import Join, join_of
from taut.lipschitz._pairwise import UP_SQRT2, pairwise_constants
from taut.lipschitz._registry import (
    operator_of,
    register,
    register_adjoint,
    register_linear,
    rule_of,
)
from taut.lipschitz._result import LayerBound, LipschitzBound, UnprovenError
from taut.lipschitz._rounding import (
    Affine,
    Rounding,
    affine_rounding,
    exact_rounding,
    norm_bound,
    register_rounding,
    rounding_of,
)
from taut.lipschitz._singular import singular_values

__all__ = [
    "UP_SQRT2",
    "Affine",
    "ConvOperator",
    "Join",
    "LayerBound",
    "LipschitzBound",
    "NormBound",
    "Padding",
    "Rounding",
    "UnprovenError",
    "affine_rounding",
    "exact_rounding",
    "join_of",
    "lipschitz_bound",
    "norm_bound",
    "operator_of",
    "pairwise_constants",
    "register",
    "register_adjoint",
    "register_linear",
    "register_rounding",
    "rounding_of",
    "rule_of",
    "singular_values",
    "trace",
    "verifiable_bound",
]
