"""What taut knows of torch's own operations, one family a file."""

from taut.program.ops import (
    _activations,
    _arithmetic,
    _joins,
    _linear,
    _normalisation,
    _pads,
    _pooling,
    _reductions,
    _selections,
    _shapes,
    _smooth,
    _softmax,
    _sorting,
)

__all__ = [
    "_activations",
    "_arithmetic",
    "_joins",
    "_linear",
    "_normalisation",
    "_pads",
    "_pooling",
    "_reductions",
    "_selections",
    "_shapes",
    "_smooth",
    "_softmax",
    "_sorting",
]
