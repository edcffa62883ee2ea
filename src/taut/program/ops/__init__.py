"""What taut knows of torch's own operations, one family a file."""

from taut.program.ops import (
    _activations,
    _arithmetic,
    _joins,
    _linear,
    _normalisation,
    _numbers,
    _pads,
    _pooling,
    _readers,
    _reductions,
    _selections,
    _shapes,
    _sorting,
    _traced,
    _windows,
)

__all__ = [
    "_activations",
    "_arithmetic",
    "_joins",
    "_linear",
    "_normalisation",
    "_numbers",
    "_pads",
    "_pooling",
    "_readers",
    "_reductions",
    "_selections",
    "_shapes",
    "_sorting",
    "_traced",
    "_windows",
]
