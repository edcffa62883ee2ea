"""Nets by the name of their architecture: the one place where experiments ask `taut.models`."""

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
