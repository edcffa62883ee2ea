"""How many operations of torch a training step calls for the weights: no more than this.

What an operation costs beside its numbers adds up in narrow layers and on small images.
"""

from collections import Counter
from collections.abc import Callable

import pytest
import torch

import taut
from taut._torch_private import UncompiledMode

VIEWS = (
    "view", "slice", "transpose", "select", "squeeze", "split", "unbind", "expand", "permute",
    "detach", "alias", "as_strided", "aten.t.", "aten.diagonal.",
)  # fmt: skip


class _Counting(UncompiledMode):
    """Counts the operations that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if not any(view in name for view in VIEWS):
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


def calls(f: Callable[[], torch.Tensor]) -> int:
    f().sum().backward()
    with _Counting() as counting:
        f().sum().backward()
    return counting.calls.total()


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ((3, 32, 3), 83),
        ((64, 64, 3), 83),
        ((32, 32, 4, 2), 62),
        ((64, 64, 4, 2), 113),
        ((128, 128, 3), 120),
    ],
)
def test_weights_of_narrow_layers_take_few_calls(sizes, most):
    layer = taut.nn.Conv2d(*sizes)
    taut.retract_(layer)
    assert calls(lambda: layer.weight) <= most


@pytest.mark.parametrize(("features", "most"), [((512, 512), 202), ((1024, 256), 133)])
def test_dense_layers_take_few_calls(features, most):
    layer = taut.nn.Linear(*features)
    taut.retract_(layer)
    x = torch.randn(32, features[0])
    assert calls(lambda: layer(x)) <= most
