"""The paper's Large with one convolution fewer and a wider dense layer."""

from torch import nn

from taut.models._sequence import Parametrization, sequence
from taut.parametrizations import BCOP, Orthogonal


def wide(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    parametrization: Parametrization = BCOP,
    dense: Parametrization = Orthogonal,
) -> nn.Sequential:
    """Three convolutions, none at full resolution, and wide dense layers, MaxMin between them.

    Conv 32 k4 s2, conv 64 k3, conv 64 k4 s2, dense 1024, dense 512: the paper's Large without its
    first convolution and with a first dense layer twice as wide; 3.8 million raw numbers for
    28 x 28 pixels, where Large has 2.0. What it reaches on MNIST: `records/front-mnist-wide.json`.

    Args:
        input_shape: channels, height and width of an image; sizes need not be multiples of 4.
        classes: number of logits.
        parametrization: of the convolutions.
        dense: parametrization of the dense layers.

    Returns:
        The model, drawn from torch's global random generator.

    Reference:
        Ours; :func:`taut.models.large` is what it departs from.

    Example:
        >>> wide((3, 9, 7), 4)(torch.zeros(2, 3, 9, 7)).shape
        torch.Size([2, 4])
    """
    convolutions = ((32, 4, 2), (64, 3, 1), (64, 4, 2))
    return sequence(input_shape, convolutions, (1024, 512, classes), dense, parametrization)
