"""Plain nets of the data sets of the zoo: what training finds where nothing is constrained."""

from importlib import resources
from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from taut.files import load_tensors

__all__ = ["PLAIN", "PlainNet", "plain_net"]

PLAIN = {
    **{name: name for name in ("mnist", "fashion-mnist", "cifar10-jpeg75")},
    "fashion-mnist-subset": "fashion-mnist",
}
"""Files of plain nets by the name of the data set."""


@final
class PlainNet(nn.Module):
    """The architecture of Small with ReLU and free weights: conv, conv, dense, dense.

    Args:
        input_shape: channels, height and width of an image, the latter two multiples of 4.
        classes: number of classes.

    Example:
        >>> PlainNet((1, 28, 28), 10)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.conv1 = nn.Conv2d(channels, 16, 4, 2, 1)
        self.conv2 = nn.Conv2d(16, 32, 4, 2, 1)
        self.dense1 = nn.Linear(32 * (height // 4) * (width // 4), 100)
        self.dense2 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.dense2(F.relu(self.dense1(x.flatten(1))))


def plain_net(dataset: str) -> tuple[nn.Module, str] | None:
    """The plain net of a data set, and a sentence on how it was trained; None where taut has none.

    Example:
        >>> plain_net("mnist")[1][:30], plain_net("another")
        ('A convolutional net with ReLU,', None)
    """
    if dataset not in PLAIN:
        return None
    file = resources.files("taut.playground") / "plain" / f"{PLAIN[dataset]}.safetensors"
    with resources.as_file(file) as path:
        tensors, notes = load_tensors(path)
    shape = tuple(map(int, notes["input_shape"].split(",")))
    model = PlainNet((shape[0], shape[1], shape[2]), len(tensors["dense2.bias"]))
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.requires_grad_(False).eval(), notes["about"]
