"""What tests on a GPU share: the device, the arithmetic of products, a layer of each method."""

import contextlib
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import taut
from taut.parametrizations import methods

PLACE = torch.device("cuda")
MARKS = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
METHODS = list(methods())
SHAPE = (4, 8, 8)


@contextlib.contextmanager
def products(*, tf32: bool) -> Iterator[None]:
    """Whether products and convolutions of float32 may round their factors to TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set("high" if tf32 else "highest", tf32)
    try:
        yield
    finally:
        _set(*before)


def _set(precision: str, convolutions: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later versions of torch have another way to say it
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


def layer_of(name: str, **options) -> tuple[nn.Module, torch.Tensor]:
    """A layer with this method and drawn raw tensors, and images for it; both on the CPU."""
    cls = methods()[name]
    torch.manual_seed(3)
    if cls.matrices_only:
        layer, shape = taut.nn.Linear(12, 12, parametrization=cls, **options), (12,)
    else:
        layer, shape = taut.nn.Conv2d(4, 4, 3, parametrization=cls, **options), (4, 9, 9)
    draw_(layer)
    x = torch.randn(3, *shape, dtype=next(layer.parameters()).dtype)
    return layer, x


def draw_(layer: nn.Module) -> None:
    """Draw all raw tensors, and let the method do what it does after a step."""
    with torch.no_grad():
        for name, raw in layer.named_parameters():
            raw.normal_(std=0.1 if name.endswith("bias") else 1.0)
    taut.after_step(layer, 1, retract_every=0)


def net() -> nn.Sequential:
    """Every kind of layer of a usual net."""
    torch.manual_seed(3)
    return nn.Sequential(
        taut.nn.Conv2d(4, 8, 3),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(8, 8, 3),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(8, 8, 4, stride=2),
        taut.nn.MaxMin(),
        nn.Flatten(),
        taut.nn.Linear(128, 32),
        taut.nn.MaxMin(),
        taut.nn.Linear(32, 5),
    )
