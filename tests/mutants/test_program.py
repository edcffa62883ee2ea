"""Mutants of what is known of each operation, and of what refuses to follow a forward.

What an operation claims is held against the stand-alone verifier, which derives it again, or
against Jacobians and float64; what refuses is held against models that depend on more than their
input.
"""

import functools
import tempfile

import pytest

import forgery
import unit.program.test_capture as capture
import unit.program.test_torch_modules as modules
import unit.program.test_torch_modules_files as files
from mutation import mutate, name_of, survives
from taut.certification import verifier
from taut.program import _batch, _check, _rounding, _trace
from taut.program.ops import (
    _activations,
    _arithmetic,
    _clamp,
    _joins,
    _lp_pooling,
    _normalisation,
    _norms,
    _pads,
    _patches,
    _pooling,
    _reductions,
    _selections,
    _separable,
    _smooth,
    _softmax,
    _statistics,
)

VERIFIED = {
    "branches": [
        (_normalisation, "BatchNorm.gains", "scale.abs() / root", "0.999 * scale.abs() / root"),
        (_normalisation, "BatchNorm.rounding", ", constant)", ", 0.5 * constant)"),
        (_normalisation, "BatchNorm.rounding", "up_root(positions)", "1.0"),
        (_activations, "LeakyReLU.largest_slope", "at_least_one(", "min(1.0, "),
        (_activations, "LeakyReLU.rounding", "Rounding(2", "Rounding(1"),
    ],
    "add": [
        (_arithmetic, "Add.rounding", "Rounding(3", "Rounding(2"),
        (_arithmetic, "Add.rounding", "self._size(site)", "0.0"),
    ],
    "add a factor of a tensor": [
        (_arithmetic, "Add._size", "norm_upper(", "0.5 * norm_upper("),
    ],
    "residual": [
        (_arithmetic, "Add.gains", "abs(f)", "0.9 * abs(f)"),
    ],
    "broadcast": [
        (_arithmetic, "Add.gains", "spread(shape, site.shape)", "1.0"),
        (_arithmetic, "spread", "up_root(", "(lambda n: 0.9 * n**0.5)("),
    ],
    "scale": [
        (_arithmetic, "Scale.gains", ".abs()", ".abs() * 0.9"),
        (_arithmetic, "AbstractScale.rounding", "Rounding(3", "Rounding(2"),
    ],
    "divide": [
        (_arithmetic, "Divide.gains", "math.nextafter(1 / smallest, math.inf)", "0.5 / smallest"),
    ],
    "clamp": [
        (_clamp, "Clamp.rounding", "float(gain), size", "float(gain), 0.0"),
        (_clamp, "Clamp.rounding", "Rounding(1", "Rounding(0"),
    ],
    "hardtanh": [
        (_activations, "Hardtanh.rounding", "Rounding(1", "Rounding(0"),
        (_activations, "Hardtanh.rounding", "up_product(end, ", "up_product(0.0, "),
    ],
    "mean": [
        (_reductions, "Mean.gains", "1.0 / count", "0.9 / count"),
        (_reductions, "AbstractReduction.rounding", "count + 2", "count"),
    ],
    "sum": [
        (_reductions, "Sum.gains", "float(_count(site))", "1.0"),
    ],
    "take": [
        (_selections, "AbstractSelection.gains", "copied_norm(", "(lambda _: copied_norm(1))("),
    ],
    "pad": [
        (_pads, "Pad.rounding", "Rounding(1, 1.0, constant)", "Rounding(0)"),
        (_pads, "Pad.rounding", "Rounding(1, 1.0, constant)", "Rounding(1, 1.0)"),
    ],
    "maximum": [
        (_joins, "AbstractJoin.rounding", "up_root_sum_square(*sizes)", "0.0"),
    ],
    "minimum": [
        (_joins, "AbstractExtremum.gains", "spread(shape, site.shape)", "0.9"),
    ],
    "concat": [
        (_joins, "Concat.gains", "(1.0,)", "(0.9,)"),
    ],
    "max pool": [
        (_pooling, "MaxPool.gains", "-(-k * math.gcd(s, d) // s)", "k * math.gcd(s, d) // s"),
    ],
    "average pool": [
        (_pooling, "AveragePool.rounding", ") + 2, absolute", ") - 1, absolute"),
        (_pooling, "AveragePool.operator", "Fraction(1, abs(", "Fraction(9, 10 * abs("),
    ],
    "rows": [
        (_rounding, "operator_rounding", "operator.fan_in + 2", "operator.fan_in"),
        (_rounding, "operator_rounding", ", constant)", ", 0.0)"),
        (
            _rounding,
            "operator_rounding",
            "operator.abs_norm_bound()",
            "operator.norm_bound().value",
        ),
    ],
}
"""By the model, whose certificate is no longer proven."""

STEEP = {
    "log_softmax": [(_softmax, "LogSoftmax.gains", "up_root(", "0.9 * (")],
    "norm 1": [(_norms, "Norm.gains", "up_root(", "0.4 * (")],
    "layer_norm": [(_statistics, "AbstractStandardisation.gains", "math.sqrt(", "(0.5 + ")],
    "rms_norm": [(_statistics, "AbstractStandardisation.gains", "up_divide(largest", "(largest")],
    "normalize": [(_statistics, "Normalize.gains", "up_divide(1.0, eps)", "1.0")],
    "fold": [(_patches, "PatchSum.gains", "up_root(float(most))", "1.0")],
    "adaptive average": [
        (_separable, "AbstractSeparable.gains", "*norms", "*(n / 2 for n in norms)")
    ],
    "average divided": [
        (_separable, "Average.factor", "up_divide(1.0, ", "up_divide(0.9, "),
        (_separable, "Average.axis_norm", "(matrix > 0).double()", "matrix"),
    ],
}
"""By the function, whose Jacobian is larger than its bound."""

STEEP_MODULES = {
    "GELU(approximate='tanh')": [(_smooth, "GELU.largest_slope", "1.12900", "1.12899")],
    "AdaptiveMaxPool2d(4)": [(_pooling, "AdaptiveMaxPool.gains", ".max())", ".min())")],
    "LPPool2d(2, 3, 2)": [(_lp_pooling, "NormPool.gains", ".max())", ".min())")],
    "LocalResponseNorm(2)": [
        (_statistics, "LocalResponseNorm.gains", "up_sum(1.0, share)", "0.9 + 0 * share"),
    ],
    "Upsample(scale_factor=2, mode='bicubic', align_corners=True)": [
        (_separable, "Interpolate._axis_matrix", 'site.args["align_corners"]', "False"),
    ],
}
"""By the module, likewise."""

ROUNDED = {
    "hardswish": [(_activations, "Hardswish.rounding", "Rounding(5, 6.0)", "Rounding(1, 0.1)")],
    "hardsigmoid": [(_activations, "Hardsigmoid.rounding", "up_product(3.0", "up_product(0.0")],
    "softshrink": [(_activations, "Softshrink.rounding", "Rounding(2, 1.0", "Rounding(1, 0.0")],
    "fold": [(_patches, "PatchSum.rounding", "+ 1, gain.value", "- 9, 0.1 * gain.value")],
    "ceil": [(_separable, "Average.rounding", "largest + len(site.shape) + 2, ", "0, ")],
}
"""By the function, whose float32 is further from float64 than promised."""

REFUSING = {
    "a drift": [(_check, "_State.check", "_equal(t.detach(), copy)", "True")],
    "a counter": [(_check, "_State.check", "old != new", "False")],
    "a range": [
        (_batch, "depends_on_batch", "isinstance(value, BatchSize)", "False"),
        (_trace, "Recorder._keep_row", "not same", "False"),
    ],
    "a batch size in a factor": [(_batch, "BatchSize.__floordiv__", "_refuse()", "return 1")],
    "a compared batch size": [(_batch, "BatchSize._compared", "BatchSize", "int")],
    "vmap inside": [
        (_trace, "Recorder._called", "peek_interpreter_stack() is not None or any(", "any(0 and "),
    ],
    "disabled overrides": [(_trace, "_Bypass.__torch_dispatch__", "not self.recorder.depth", "0")],
    "a subclass of weights": [(_trace, "Recorder._check", "if odd", "if False")],
    "autocast": [
        (_trace, "Recorder._check", "torch.is_autocast_enabled(device) != autocast", "False"),
    ],
}
"""By the model that is refused no longer, or not by its name."""


def verified(name):
    """The check that the verifier proves the certificate of a model."""
    with tempfile.TemporaryDirectory() as folder:
        path, weights, points, *_ = forgery.certified(name, folder)
        assert verifier.verify(path, weights, points)


def refused(name):
    capture.test_hidden_dependences_are_refused_by_name(name)


def bounded(name):
    case = next(case for case in modules.CASES if str(case) == name)
    modules.test_bound_of_a_module(case)


TABLES = (
    (verified, VERIFIED),
    (refused, REFUSING),
    (modules.test_bound_of_a_function, STEEP),
    (bounded, STEEP_MODULES),
    (files.test_float32_is_no_further_from_float64_than_promised, ROUNDED),
)
CASES = [
    (functools.partial(check, name), mutant)
    for check, table in TABLES
    for name, mutants in table.items()
    for mutant in mutants
]


@pytest.mark.parametrize("name", VERIFIED)
def test_certificates_hold_without_mutants(name):
    verified(name)


@pytest.mark.parametrize(("check", "mutant"), CASES, ids=name_of)
def test_mutant_is_killed(check, mutant):
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch, *mutant)
        assert not survives([check])
