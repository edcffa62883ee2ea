"""One of every public layer of `taut.nn`, and the shape of an input for it."""

from functools import partial

import pytest
from torch import nn

import taut

IMAGE = {1: (5,), 2: (5, 4), 3: (3, 3, 3)}
EVEN = {1: (4,), 2: (4, 4), 3: (2, 2, 2)}

LAYERS = {
    "Abs": (partial(taut.nn.Abs, 0.5), (4, 3)),
    "Averaged": (lambda: taut.nn.Averaged(taut.nn.Linear(4, 4)), (4,)),
    "BatchCentering": (partial(taut.nn.BatchCentering, 4), (4, 3)),
    "BatchLipNorm": (partial(taut.nn.BatchLipNorm, 4), (4, 3)),
    "ConcatResidual": (lambda: taut.nn.ConcatResidual(taut.nn.Linear(4, 4)), (4,)),
    "ConvexResidual": (lambda: taut.nn.ConvexResidual(taut.nn.Linear(4, 4)), (4,)),
    "FirstChannels": (partial(taut.nn.FirstChannels, 2), (4, 3)),
    "FullSort": (taut.nn.FullSort, (4, 3)),
    "GroupSort": (partial(taut.nn.GroupSort, 2), (4, 3)),
    "HouseHolder": (partial(taut.nn.HouseHolder, 5, 2), (5, 3)),
    "LayerCentering": (partial(taut.nn.LayerCentering, (1, 2), bias=(4, 1)), (4, 3)),
    "Linear": (partial(taut.nn.Linear, 4, 3), (4,)),
    "LinearSpline": (partial(taut.nn.LinearSpline, 4), (4, 3)),
    "MaxMin": (taut.nn.MaxMin, (5, 3)),
    "Monotone": (lambda: taut.nn.Monotone(taut.nn.Linear(4, 2), [1, 0, -1, 1]), (4,)),
    "NActivation": (partial(taut.nn.NActivation, 4), (4, 3)),
    "PositionalEncoding": (partial(taut.nn.PositionalEncoding, (5, 4), 2), (2, 5, 4)),
    "ReZeroResidual": (lambda: taut.nn.ReZeroResidual(taut.nn.Linear(4, 4)), (4,)),
    "ScaledMean": (partial(taut.nn.ScaledMean, (2, 3)), (4, 3, 3)),
    "SplitResidual": (lambda: taut.nn.SplitResidual(taut.nn.Linear(2, 2)), (4,)),
    "Times": (partial(taut.nn.Times, 2.0), (4,)),
    "UnitColumnLinear": (partial(taut.nn.UnitColumnLinear, 4, 3), (4,)),
    "UnitRowLinear": (partial(taut.nn.UnitRowLinear, 4, 3), (4,)),
}
for axes in (1, 2, 3):
    image, even = (2, *IMAGE[axes]), (2, *EVEN[axes])
    LAYERS |= {
        f"{name}{axes}d": (partial(getattr(taut.nn, f"{name}{axes}d"), *arguments), shape)
        for name, arguments, shape in (
            ("AdaptiveL2NormPool", (2,), even),
            ("CircularConv", (2, 3, 3, 1, 1, 1, 1, True, "circular"), image),
            ("CircularPad", (1, taut.nn.MaxMin()), image),
            ("Conv", (2, 3, 3), image),
            ("ConvTranspose", (2, 3, 2, 2), even),
            ("InvertibleDownsample", (2,), even),
            ("InvertibleUpsample", (2,), (8, *EVEN[axes])),
            ("IsometricPad", (1,), image),
            ("L2NormPool", (2,), even),
            ("PadToMultiple", (2,), image),
            ("PotentialResidual", (2, 3), image),
            ("SOC", (2, 2, 3), image),
            ("Sandwich", (2, 2), image),
            ("ScaledAdaptiveAvgPool", (2,), even),
            ("ScaledAvgPool", (2,), even),
            ("Shift", (1,), (7, *IMAGE[axes])),
            ("ShiftMix", (7, 7), (7, *IMAGE[axes])),
        )
    }
# Parts of frozen models and of residual ones, which are tested as such.
PARTS = {"AbstractParametrizedLayer", "ConvexConcat", "ConvexSum", "FrozenPotentialResidual",
         "FrozenSandwich", "FullSizeConv", "SharedTensors", "SizedConvTranspose", "SkewExponential",
         "SpectralConv", "SpectralGeometry"}  # fmt: skip


# Layers of one and three axes are cases of two; they run with the slow tests.
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name.endswith(("1d", "3d")) else name
    for name in sorted(LAYERS)
]


def every_name() -> set[str]:
    """The names of all public classes of layers."""
    classes = (name for name in taut.nn.__all__ if isinstance(getattr(taut.nn, name), type))
    return {name for name in classes if name not in PARTS}


def layer(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A layer in float64, and the shape of one input."""
    make, shape = LAYERS[name]
    return make().double(), shape
