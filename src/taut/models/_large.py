"""The founding paper's Large."""

from dataclasses import dataclass
from typing import final

from taut.models._convnet import AbstractConvNet


@final
@dataclass(frozen=True)
class Large(AbstractConvNet):
    """The paper's Large: conv 32 k3, conv 32 k4 s2, conv 64 k3, conv 64 k4 s2, dense 512 twice.

    MaxMin follows each of them.

    Reference:
        Li et al. (2019), arXiv:1911.00937, appendix on architectures.

    Example:
        >>> Large().build((3, 9, 7), 4)(torch.zeros(2, 3, 9, 7)).shape
        torch.Size([2, 4])
    """

    kind = "large"
    convolutions = ((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2))
    hidden = (512, 512)
