"""What stands for each layer of torch in a 1-Lipschitz net."""

import copy
import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

from torch import nn

from taut import nn as layers
from taut.parametrizations import AOL, BCOP, AbstractParametrization
from taut.program import lipschitz_bound

__all__ = ["Parametrization", "Twin", "activation", "check_methods", "normalisations", "twin_of"]

Parametrization = Callable[..., AbstractParametrization]

Twin = tuple[nn.Module | None, str]
"""The new layer and what is different; None and why there is none."""

_CONVOLUTIONS = {
    nn.Conv1d: layers.Conv1d, nn.Conv2d: layers.Conv2d, nn.Conv3d: layers.Conv3d,
    layers.CircularConv1d: layers.Conv1d, layers.CircularConv2d: layers.Conv2d,
    layers.CircularConv3d: layers.Conv3d,
    nn.ConvTranspose1d: layers.ConvTranspose1d, nn.ConvTranspose2d: layers.ConvTranspose2d,
    nn.ConvTranspose3d: layers.ConvTranspose3d,
}  # fmt: skip
_AVERAGES = {
    nn.AvgPool1d: layers.ScaledAvgPool1d,
    nn.AvgPool2d: layers.ScaledAvgPool2d,
    nn.AvgPool3d: layers.ScaledAvgPool3d,
}
_ADAPTIVE = {
    nn.AdaptiveAvgPool1d: layers.ScaledAdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d: layers.ScaledAdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d: layers.ScaledAdaptiveAvgPool3d,
}
_NORMS = {
    nn.LPPool1d: layers.L2NormPool1d,
    nn.LPPool2d: layers.L2NormPool2d,
    nn.LPPool3d: layers.L2NormPool3d,
}
_COPIES = {
    nn.ReflectionPad1d: nn.ZeroPad1d, nn.ReflectionPad2d: nn.ZeroPad2d,
    nn.ReflectionPad3d: nn.ZeroPad3d, nn.ReplicationPad1d: nn.ZeroPad1d,
    nn.ReplicationPad2d: nn.ZeroPad2d, nn.ReplicationPad3d: nn.ZeroPad3d,
    nn.CircularPad1d: nn.ZeroPad1d, nn.CircularPad2d: nn.ZeroPad2d, nn.CircularPad3d: nn.ZeroPad3d,
}  # fmt: skip
_RECTIFIERS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU,
    nn.SiLU, nn.Mish, nn.Hardswish, nn.Softplus,
)  # fmt: skip
normalisations = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm,
    nn.RMSNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm,
)  # fmt: skip


def check_methods(kernels: Any, dense: Any) -> None:
    """Refuse what is no method, and a method of matrices for convolutions.

    Otherwise the replacement of a convolution that its method refuses would hide the mistake.
    """
    for name, method in (("parametrization", kernels), ("dense", dense)):
        if not callable(method) or isinstance(method, nn.Module):
            raise ValueError(
                f"`{name}` must be a class of taut.parametrizations, or a partial of one; "
                f"got {method!r}."
            )
    if getattr(_class_of(kernels), "matrices_only", False):
        raise ValueError(
            f"`parametrization` must be a method for convolutions; got {_title(kernels)}, which "
            "is for dense layers: pass it as `dense`."
        )


def _class_of(method: Any) -> Any:
    return method.func if isinstance(method, partial) else method


def _title(method: Any) -> str:
    return getattr(_class_of(method), "__name__", repr(method))


def twin_of(module: nn.Module, kernels: Parametrization, dense: Parametrization) -> Twin | None:
    """What stands for a layer, or why nothing can; None if it may stay."""
    kind = type(module)
    if kind in _CONVOLUTIONS:
        return _convolution(module, kernels)
    if isinstance(module, nn.Linear) and kind is nn.Linear:
        options = {"device": module.weight.device, "dtype": module.weight.dtype}
        sizes = (module.in_features, module.out_features, module.bias is not None)
        return layers.Linear(*sizes, parametrization=dense, **options), ""
    if kind in _RECTIFIERS:
        return activation(), "keeps the norm of gradients"
    if kind in normalisations:
        return nn.Identity(), "normalisations are removed"
    for rule in (_max_pool, _average, _norm_pool, _upsample, _padding):
        found = rule(module)
        if found is not None:
            return found if found[0] is not module else None
    return _left(module)


def activation() -> nn.Module:
    """What stands for a rectifier."""
    return layers.MaxMin()


def _left(module: nn.Module) -> Twin | None:
    """Why a layer without a twin may not stay."""
    kind = type(module)
    if kind.__module__.partition(".")[0] == "taut":
        return None
    if any(True for _ in module.parameters()):
        return None, "it has weights, and taut.nn has no replacement"
    if not kind.__module__.startswith("torch."):
        return None  # a class of the user's: its forward is followed
    gain = _gain(module)
    if gain is None:
        return None, "it has no proven bound"
    return None if gain <= 1 + 1e-6 else (None, f"its Lipschitz constant may be {gain:.4g}")


def _gain(module: nn.Module) -> float | None:
    """The largest bound of a layer without weights on inputs of the usual kinds, if it has one."""
    probe, gains = copy.deepcopy(module).eval(), []
    for shape in ((8,), (4, 8), (4, 8, 8), (4, 8, 8, 8)):
        try:
            gains.append(float(lipschitz_bound(probe, shape)))
        except ValueError:
            continue
    return max(gains, default=None)


def _convolution(old: Any, kernels: Parametrization) -> Twin:
    """A convolution with the same arguments; AOL where the method has no kernel for them."""
    options = {name: getattr(old, name) for name in ("stride", "padding", "dilation", "groups")}
    options |= {"bias": old.bias is not None}
    options |= {"device": old.weight.device, "dtype": old.weight.dtype}
    modes, reasons = dict.fromkeys((old.padding_mode, "zeros")), []
    if old.transposed:
        options["output_padding"] = old.output_padding
        modes = ("circular", "zeros")  # orthogonal, where the sizes fit
    for method, mode in product((kernels, AOL), modes):
        options |= {"padding_mode": mode, "parametrization": method}
        try:
            twin = _CONVOLUTIONS[type(old)](
                old.in_channels, old.out_channels, old.kernel_size, **options
            )
        except ValueError as error:
            reasons.append(str(error))
            continue
        notes = []
        if mode in ("reflect", "replicate"):
            notes.append("padding divided by the root of its copies")
        elif mode != old.padding_mode and not old.transposed:
            notes.append(f"zeros for {old.padding_mode} padding")
        if method is AOL:
            notes.append("AOL: almost orthogonal")
        if method is not kernels and kernels is not BCOP:
            notes[-1] = f"AOL in place of {_title(kernels)}: {reasons[0]}"
        return twin, ", ".join(notes)
    return None, reasons[-1]


def _max_pool(old: nn.Module) -> Twin | None:
    """Windows that do not overlap, for ones that do."""
    if not isinstance(old, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
        return None
    axes = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}[type(old)]
    size, stride, padding, dilation = (
        _per_axis(v, axes) for v in (old.kernel_size, old.stride, old.padding, old.dilation)
    )
    if old.return_indices or any(d != 1 for d in dilation):
        return None, "it returns indices or is dilated"
    if all(k <= s for k, s in zip(size, stride, strict=True)):
        return (old, "") if not any(padding) else (None, "padded windows of other places")
    if old.ceil_mode or any(2 * p != k - 1 for p, k in zip(padding, size, strict=True)):
        return None, f"windows {size} overlap, and none of size {stride} give as many outputs"
    twin = type(old)(stride, stride, ceil_mode=True)
    return twin, f"windows {stride} for {size}: they may not overlap"


def _average(old: nn.Module) -> Twin | None:
    """Averages times the inverse of their norm."""
    if type(old) in _ADAPTIVE:
        return _ADAPTIVE[type(old)](old.output_size), "times the inverse of its norm"  # pyright: ignore[reportArgumentType]
    if type(old) not in _AVERAGES:
        return None
    assert isinstance(old, nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d)
    if getattr(old, "divisor_override", None) is not None:
        return None, "its divisor is not the size of its windows"
    twin = _AVERAGES[type(old)](
        old.kernel_size, old.stride, old.padding, old.ceil_mode, old.count_include_pad
    )  # pyright: ignore[reportArgumentType]
    return twin, "times the inverse of its norm"


def _norm_pool(old: nn.Module) -> Twin | None:
    """L2 norms over the root of how many windows share an entry; torch has NaN at zeros."""
    if type(old) not in _NORMS or old.norm_type != 2:
        return None
    twin = _NORMS[type(old)](old.kernel_size, old.stride, ceil_mode=old.ceil_mode)  # pyright: ignore[reportArgumentType]
    return twin, "over the root of how many windows share an entry, with gradients at zeros"


def _upsample(old: nn.Module) -> Twin | None:
    """Copies times the inverse root of how many there are."""
    if not isinstance(old, nn.Upsample):
        return None
    factor = old.scale_factor
    factors = factor if isinstance(factor, tuple) else (factor,)
    if old.mode not in ("nearest", "nearest-exact") or any(f is None or f % 1 for f in factors):
        return None, f"mode {old.mode!r} to a size of its own: its norm depends on the input"
    if len(factors) == 1:
        return _Upsampled(old), "times the inverse of its norm"
    scaled = nn.Sequential(old, layers.Times(math.prod(map(float, factors)) ** -0.5))
    return scaled, "times the inverse of its norm"


class _Upsampled(nn.Module):
    """Nearest copies by one factor for all axes, times the inverse root of their number."""

    def __init__(self, upsample: nn.Upsample) -> None:
        super().__init__()
        self.upsample = upsample

    def forward(self, input: Any) -> Any:
        """Copy, and multiply."""
        copies = float(self.upsample.scale_factor) ** (input.dim() - 2)  # pyright: ignore[reportArgumentType]
        return self.upsample(input) * copies**-0.5


def _padding(old: nn.Module) -> Twin | None:
    """Zeros for copies, which raise the norm."""
    if type(old) not in _COPIES:
        return None
    return _COPIES[type(old)](old.padding), "zeros for copies, which raise the norm"  # pyright: ignore[reportArgumentType]


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * axes
