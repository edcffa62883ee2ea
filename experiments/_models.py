"""Nets by the name of their architecture: the one place where experiments ask `taut.models`.

Beside them stands a plain net of the shape of Small.
"""

from torch import nn

from taut.models import kinds
from taut.parametrizations import methods

PAPER_ARCHITECTURES = ("small", "large", "fc3")
ARCHITECTURES = (
    *PAPER_ARCHITECTURES,
    *(kind for kind in kinds() if kind not in PAPER_ARCHITECTURES),
)


def net(
    architecture: str, shape: tuple[int, int, int] = (1, 28, 28), method: str | None = None
) -> nn.Sequential:
    """A net of ten classes, freshly initialised; of its own method if none is named."""
    model_kind = kinds()[architecture]()
    parametrization = model_kind.method if method is None else methods()[method]
    model = model_kind.build(shape, 10, parametrization=parametrization)
    assert isinstance(model, nn.Sequential), "a chain of layers, as all models of taut are"
    return model


def plain_small(outputs: int = 10, hidden: int = 100) -> nn.Sequential:
    """The shape of Small for grey images of 28 x 28, with ReLU and no constraint."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1568, hidden), nn.ReLU(), nn.Linear(hidden, outputs),
    )  # fmt: skip
