"""Functions of torch under the names and with the arguments that compilers give them."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from taut.program._call import Call
from taut.program._op import CAPTURES, captures
from taut.program._result import UnprovenError

__all__: list[str] = []

_SELU = (1.6732632423543772, 1.0507009873554805)


def _as(c: Call, function: Any, *args: Any, **kwargs: Any) -> Any:
    """What a call of another function of torch is."""
    known = CAPTURES.get(function)
    if known is None:
        raise UnprovenError(f"{function.__name__} has no rule")
    return known(c, *args, **kwargs)


@captures("_softmax", "_log_softmax")
def softmax(c: Call, input: Tensor, dim: int, half_to_float: bool) -> str:
    """Softmax in the precision of its input."""
    if half_to_float:
        raise UnprovenError("its result has another precision")
    return _as(c, F.softmax if c.function == "_softmax" else F.log_softmax, input, dim)


@captures("_native_batch_norm_legit_no_training")
def batch_norm(
    c: Call, input: Tensor, weight: Any, bias: Any, mean: Tensor, variance: Tensor,
    momentum: float, eps: float,
) -> tuple[str, None, None]:  # fmt: skip
    """A batch norm in evaluation, and statistics that it does not make."""
    one = Call(c.recorder, c.result[0], c.function)
    name = _as(one, F.batch_norm, input, mean, variance, weight, bias, False, eps=eps)
    return name, None, None


@captures("native_layer_norm")
def layer_norm(
    c: Call, input: Tensor, shape: Any, weight: Any, bias: Any, eps: float
) -> tuple[str, None, None]:
    """A layer norm, and its statistics."""
    one = Call(c.recorder, c.result[0], c.function)
    return _as(one, F.layer_norm, input, shape, weight, bias, eps), None, None


@captures("native_group_norm")
def group_norm(
    c: Call, input: Tensor, weight: Any, bias: Any, batch: Any, channels: int, places: int,
    groups: int, eps: float,
) -> tuple[str, None, None]:  # fmt: skip
    """A group norm, and its statistics."""
    one = Call(c.recorder, c.result[0], c.function)
    return _as(one, F.group_norm, input, groups, weight, bias, eps), None, None


def _elu(c: Call, input: Tensor, alpha: Any = 1.0, scale: Any = 1.0, input_scale: Any = 1.0) -> str:
    """ELU, with two factors more than users have: by them it is SELU, too."""
    if (float(alpha), float(scale), input_scale) == (*_SELU, 1):
        return _as(c, F.selu, input)
    if (scale, input_scale) != (1, 1):
        raise UnprovenError("its factors must be 1, or those of SELU")
    return _as(c, F.elu, input, alpha)


CAPTURES["aten::elu"] = CAPTURES["aten::elu_"] = _elu


def _interpolated(c: Call, input: Tensor, size: Any, *args: Any, kind: str, **kwargs: Any) -> str:
    """By sizes or by factors; `kind` is the mode, with "!" where there is `align_corners`."""
    mode = kind.rstrip("!")
    options: dict[str, Any] = {"mode": mode}
    rest = list(args)
    if kind.endswith("!"):
        corners = kwargs.pop("align_corners", None)
        options["align_corners"] = rest.pop(0) if corners is None else corners
    factors = kwargs.pop("scale_factors", None)
    if len(rest) == 1 and isinstance(rest[0], list | None):
        factors, rest = rest[0], []
    if any(value is not None for value in (*rest, *kwargs.values())):
        raise UnprovenError("it must have sizes or a list of factors")
    if size is not None:
        factors = None
    return _as(c, F.interpolate, input, size, factors, **options)


for _name, _kind in {
    "upsample_nearest1d": "nearest", "upsample_nearest2d": "nearest",
    "upsample_nearest3d": "nearest", "_upsample_nearest_exact1d": "nearest-exact",
    "_upsample_nearest_exact2d": "nearest-exact", "_upsample_nearest_exact3d": "nearest-exact",
    "upsample_linear1d": "linear!", "upsample_bilinear2d": "bilinear!",
    "upsample_trilinear3d": "trilinear!", "upsample_bicubic2d": "bicubic!",
}.items():  # fmt: skip
    captures(_name, kind=_kind)(_interpolated)


@captures("index")
def index(c: Call, x: Tensor, indices: Any) -> str:
    """Lists of places of one axis or of several side by side; None is all of an axis.

    Lists of several axes must each vary along an axis of its own, and so choose axis by axis.
    """
    given = [(axis, entry) for axis, entry in enumerate(indices) if entry is not None]
    if len(given) < 2:
        entries = tuple(slice(None) if entry is None else entry for entry in indices)
        return _as(c, Tensor.__getitem__, x, entries)
    axes = [axis for axis, _ in given]
    if axes != list(range(axes[0], axes[0] + len(axes))) or not axes[0]:
        raise UnprovenError("its lists must be of axes side by side, not of the batch")
    name, shape = c.name(x), list(x.shape[1:])
    for number, (axis, places) in enumerate(given):
        sizes = (*[1] * (len(given) - places.dim()), *places.shape)
        if len(sizes) > len(given) or any(n > 1 for i, n in enumerate(sizes) if i != number):
            raise UnprovenError("its lists must choose axis by axis")
        flat = c.constant(places).flatten().long() % x.shape[axis]
        shape[axis - 1] = len(flat)
        name = c.add("take", [name], tuple(shape), {"axis": axis - 1}, {"index": flat})
    return name


@captures("t")
def transposed(c: Call, x: Tensor) -> str:
    """Of the signal it moves the batch."""
    raise UnprovenError("it does not keep the batch in dimension 0")
