"""Six convolutions in three stages and one wide dense layer."""

from dataclasses import dataclass
from typing import final

from taut.models._convnet import AbstractConvNet


@final
@dataclass(frozen=True)
class Deep(AbstractConvNet):
    """Three stages of two convolutions, 32, 64 and 128 channels, and dense 1024, each with MaxMin.

    In a stage the first convolution has kernel 3, the second kernel 4 and stride 2. For 32 x 32
    colour images it has 2.6 million raw numbers, where :class:`taut.models.Large` has 2.5. Its
    results on CIFAR-10 (JPEG q75): `records/cifar10-jpeg75-deep.json`.

    Example:
        >>> Deep().build((3, 9, 7), 4)(torch.zeros(2, 3, 9, 7)).shape
        torch.Size([2, 4])
    """

    kind = "deep"
    convolutions = ((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2), (128, 3, 1), (128, 4, 2))
    hidden = (1024,)
