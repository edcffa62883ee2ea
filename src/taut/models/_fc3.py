"""The founding paper's FC-3."""

from dataclasses import dataclass
from typing import final

from taut.models._convnet import AbstractConvNet


@final
@dataclass(frozen=True)
class FC3(AbstractConvNet):
    """The paper's FC-3: three hidden dense layers of 1024, MaxMin after each.

    It has no convolutions: all layers use the dense method.

    Reference:
        Li et al. (2019), arXiv:1911.00937, table 2; Anil et al. (2019), arXiv:1811.05381.

    Example:
        >>> FC3().build((1, 4, 4), 10)(torch.zeros(2, 1, 4, 4)).shape
        torch.Size([2, 10])
    """

    kind = "fc3"
    convolutions = ()
    hidden = (1024, 1024, 1024)
