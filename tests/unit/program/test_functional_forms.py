"""What has a rule as a module has the same rule as a function of torch.nn.functional."""

import pytest
from torch import nn
from torch.nn import functional as F

from experiments._torch_modules import CASES
from taut.program import UnprovenError, lipschitz_bound

PLAIN = {
    "ReLU": F.relu, "ReLU6": F.relu6, "Hardsigmoid": F.hardsigmoid, "Hardswish": F.hardswish,
    "SELU": F.selu, "SiLU": F.silu, "Mish": F.mish, "LogSigmoid": F.logsigmoid, "Tanh": F.tanh,
    "Sigmoid": F.sigmoid, "Tanhshrink": F.tanhshrink, "Softsign": F.softsign,
    "Identity": lambda x: x, "Softmax2d": lambda x: F.softmax(x, 1), "RReLU": F.rrelu,
}  # fmt: skip
"""Functions without arguments."""

_POOL = ("kernel_size", "stride", "padding")
_CONV = ("weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_NORM = ("running_mean", "running_var", "weight", "bias")
_AVERAGE = (*_POOL, "ceil_mode", "count_include_pad")
NAMED = {
    "LeakyReLU": (F.leaky_relu, ("negative_slope",)), "PReLU": (F.prelu, ("weight",)),
    "Hardtanh": (F.hardtanh, ("min_val", "max_val")), "Hardshrink": (F.hardshrink, ("lambd",)),
    "Softshrink": (F.softshrink, ("lambd",)), "ELU": (F.elu, ("alpha",)),
    "CELU": (F.celu, ("alpha",)), "Threshold": (F.threshold, ("threshold", "value")),
    "Softplus": (F.softplus, ("beta", "threshold")), "Softmax": (F.softmax, ("dim",)),
    "Softmin": (F.softmin, ("dim",)), "LogSoftmax": (F.log_softmax, ("dim",)),
    "Linear": (F.linear, ("weight", "bias")),
    **{f"Conv{d}d": (f, _CONV) for d, f in ((1, F.conv1d), (2, F.conv2d), (3, F.conv3d))},
    **{f"ConvTranspose{d}d": (f, _TRANSPOSED) for d, f in (
        (1, F.conv_transpose1d), (2, F.conv_transpose2d), (3, F.conv_transpose3d))},
    **{f"MaxPool{d}d": (f, (*_POOL, "dilation", "ceil_mode")) for d, f in (
        (1, F.max_pool1d), (2, F.max_pool2d), (3, F.max_pool3d))},
    "AvgPool1d": (F.avg_pool1d, _AVERAGE),
    "AvgPool2d": (F.avg_pool2d, (*_AVERAGE, "divisor_override")),
    "AvgPool3d": (F.avg_pool3d, (*_AVERAGE, "divisor_override")),
    **{f"Adaptive{kind}Pool{d}d": (f, ("output_size",)) for kind, d, f in (
        ("Avg", 1, F.adaptive_avg_pool1d), ("Avg", 2, F.adaptive_avg_pool2d),
        ("Avg", 3, F.adaptive_avg_pool3d), ("Max", 1, F.adaptive_max_pool1d),
        ("Max", 2, F.adaptive_max_pool2d), ("Max", 3, F.adaptive_max_pool3d))},
    **{f"LPPool{d}d": (f, ("norm_type", "kernel_size", "stride")) for d, f in (
        (1, F.lp_pool1d), (2, F.lp_pool2d), (3, F.lp_pool3d))},
    "Upsample": (F.interpolate, ("size", "scale_factor", "mode", "align_corners")),
    "PixelShuffle": (F.pixel_shuffle, ("upscale_factor",)),
    "PixelUnshuffle": (F.pixel_unshuffle, ("downscale_factor",)),
    "ChannelShuffle": (F.channel_shuffle, ("groups",)),
    "Unfold": (F.unfold, ("kernel_size", "dilation", "padding", "stride")),
    "Fold": (F.fold, ("output_size", "kernel_size", "dilation", "padding", "stride")),
    **{f"BatchNorm{d}d": (F.batch_norm, _NORM) for d in (1, 2, 3)},
    "LayerNorm": (F.layer_norm, ("normalized_shape", "weight", "bias", "eps")),
    "GroupNorm": (F.group_norm, ("num_groups", "weight", "bias", "eps")),
    "RMSNorm": (F.rms_norm, ("normalized_shape", "weight", "eps")),
    "LocalResponseNorm": (F.local_response_norm, ("size", "alpha", "beta", "k")),
}  # fmt: skip
"""Functions, and the names in the module of their arguments in their order."""

PADS = {"Zero": "constant", "Constant": "constant", "Circular": "circular",
        "Reflection": "reflect", "Replication": "replicate"}  # fmt: skip


def functional(case, module):
    """The function that a module is; None where torch has none."""
    if case.name in PLAIN:
        return PLAIN[case.name]
    if case.name == "GELU":
        return lambda x: F.gelu(x, approximate=module.approximate)
    if case.name.startswith("InstanceNorm") and not module.track_running_stats:
        return lambda x: F.instance_norm(x, eps=module.eps)
    kind, pad, _ = case.name.partition("Pad")
    if pad and kind in PADS:
        value = getattr(module, "value", 0.0)
        options = {"value": value} if kind == "Constant" else {}
        return lambda x: F.pad(x, module.padding, PADS[kind], **options)
    if case.name not in NAMED:
        return None
    function, names = NAMED[case.name]
    return lambda x: function(x, *(getattr(module, name) for name in names))


class Functional(nn.Module):
    def __init__(self, module, function):
        super().__init__()
        self.module, self.function = module, function

    def forward(self, x):
        return self.function(x)


WITHOUT = (
    "SyncBatchNorm",
    "InstanceNorm2d(2, track",
    "Upsampling",
    "Flatten",
    "Unflatten",
    "Dropout",
    "AlphaDropout",
    "FeatureAlpha",
    "Bilinear",
    "GLU",
    "Fractional",
    "MaxUnpool",
)
"""Modules whose function has no form of its own, or needs more than the module has."""


@pytest.mark.parametrize("case", [case for case in CASES if case.name in (
    *PLAIN, *NAMED, "GELU") or "Pad" in case.name or case.name.startswith("InstanceNorm")],
    ids=str)  # fmt: skip
def test_a_function_has_the_bound_of_its_module(case):
    module = case.module().double()
    function = functional(case, module)
    if function is None:
        assert str(case).startswith(WITHOUT)
        return
    model = Functional(module, function)
    try:
        bound = float(lipschitz_bound(nn.Sequential(module), case.shape))
    except UnprovenError:
        with pytest.raises(UnprovenError, match="has no proven bound"):
            lipschitz_bound(model, case.shape)
        return
    assert float(lipschitz_bound(model, case.shape)) == bound
