"""The founding paper's Small."""

from dataclasses import dataclass
from typing import final

from taut.models._convnet import AbstractConvNet


@final
@dataclass(frozen=True)
class Small(AbstractConvNet):
    """The paper's Small: conv 16 k4 s2, conv 32 k4 s2, dense 100, MaxMin after each.

    Reference:
        Li et al. (2019), arXiv:1911.00937, appendix on architectures.

    Example:
        >>> model = Small().build((1, 28, 28), 10)
        >>> [name for name, _ in model.named_children()][:3]
        ['conv1', 'maxmin1', 'conv2']
        >>> model(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    kind = "small"
    convolutions = ((16, 4, 2), (32, 4, 2))
    hidden = (100,)
