"""Train the plain nets that playgrounds show for contrast; weights are kept in half precision.

Example: python scripts/make_plain_nets.py mnist --data-dir data/mnist
"""

import argparse
import math
from pathlib import Path

import torch
from torch.nn import functional as F

from taut.data import load
from taut.files import save_tensors
from taut.playground._plain import PlainNet

FOLDER = Path(__file__).parents[1] / "src/taut/playground/plain"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=("mnist", "fashion-mnist", "cifar10-jpeg75"))
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    data = load(options.name, options.data_dir)
    torch.manual_seed(0)
    model = PlainNet(data.input_shape, len(data.classes))
    train(model, data.train.images, data.train.labels, options.epochs)
    model.half().float()
    with torch.no_grad():
        parts = data.test.float_images().split(1000)
        right = sum(
            int((model(x).argmax(1) == y).sum())
            for x, y in zip(parts, data.test.labels.split(1000), strict=True)
        )
    accuracy = 100 * right / len(data.test)
    about = (
        "A convolutional net with ReLU, trained without constraints: "
        f"{options.epochs} epochs of Adam on cross-entropy; {accuracy:.1f} % of all test images "
        "right."
    )
    notes = {"about": about, "input_shape": ",".join(map(str, data.input_shape))}
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_tensors(FOLDER / f"{options.name}.safetensors", tensors, notes)
    print(about)


def train(model: PlainNet, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """Adam on cross-entropy, the rate falling along a cosine."""
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    steps = epochs * math.ceil(len(labels) / 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for part in torch.randperm(len(labels)).split(128):
            loss = F.cross_entropy(model(images[part].float() / 255), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


if __name__ == "__main__":
    main()
