"""The three classifiers of the founding paper, for any input size and number of classes."""

from torch import nn

from taut.models._sequence import Parametrization, sequence
from taut.parametrizations import BCOP, Orthogonal


def small(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    parametrization: Parametrization = BCOP,
    dense: Parametrization = Orthogonal,
) -> nn.Sequential:
    """The paper's Small: two strided convolutions and two dense layers, MaxMin between them.

    Args:
        input_shape: channels, height and width of an image; sizes need not be multiples of 4.
        classes: number of logits.
        parametrization: of the convolutions.
        dense: parametrization of the dense layers.

    Returns:
        The model, drawn from torch's global random generator.

    Reference:
        Li et al. (2019), arXiv:1911.00937, appendix on architectures: conv 16 k4 s2, conv 32 k4
        s2, dense 100.

    Example:
        >>> model = small((1, 28, 28), 10)
        >>> [name for name, _ in model.named_children()][:3]
        ['conv1', 'maxmin1', 'conv2']
        >>> model(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """
    convolutions = ((16, 4, 2), (32, 4, 2))
    return sequence(input_shape, convolutions, (100, classes), dense, parametrization)


def large(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    parametrization: Parametrization = BCOP,
    dense: Parametrization = Orthogonal,
) -> nn.Sequential:
    """The paper's Large: four convolutions and three dense layers, MaxMin between them.

    Args:
        input_shape: channels, height and width of an image; sizes need not be multiples of 4.
        classes: number of logits.
        parametrization: of the convolutions.
        dense: parametrization of the dense layers.

    Returns:
        The model, drawn from torch's global random generator.

    Reference:
        Li et al. (2019), arXiv:1911.00937, appendix on architectures: conv 32 k3, conv 32 k4 s2,
        conv 64 k3, conv 64 k4 s2, dense 512, dense 512.

    Example:
        >>> large((3, 9, 7), 4)(torch.zeros(2, 3, 9, 7)).shape
        torch.Size([2, 4])
    """
    convolutions = ((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2))
    return sequence(input_shape, convolutions, (512, 512, classes), dense, parametrization)


def fc3(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    dense: Parametrization = Orthogonal,
) -> nn.Sequential:
    """The paper's FC-3: three hidden dense layers of 1024, MaxMin between them.

    Args:
        input_shape: shape of an input, flattened.
        classes: number of logits.
        dense: parametrization of every layer.

    Returns:
        The model, drawn from torch's global random generator.

    Reference:
        Li et al. (2019), arXiv:1911.00937, table 2; Anil et al. (2019), arXiv:1811.05381.

    Example:
        >>> fc3((1, 4, 4), 10)(torch.zeros(2, 1, 4, 4)).shape
        torch.Size([2, 10])
    """
    return sequence(input_shape, (), (1024, 1024, 1024, classes), dense)
