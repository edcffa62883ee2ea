"""Swap the layers of a plain CNN for 1-Lipschitz ones, train both, and compare what is proved.

python examples/convert_cnn.py --epochs 5
"""

import argparse
from collections.abc import Sequence

import torch
from torch import nn

import taut
from taut.data import Dataset


def plain_cnn() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 10)),
    )


def train(model: nn.Module, data: Dataset, epochs: int) -> None:
    loss = taut.losses.OffsetCrossEntropy(offset=0.7, temperature=0.25)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(epochs):
        for images, labels in taut.data.batches(data.train, 64, seed=0, epoch=epoch):
            optimiser.zero_grad()
            loss(model(images), labels).backward()
            optimiser.step()


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    data = taut.data.load("fashion-mnist-subset")
    plain = plain_cnn()
    converted = taut.convert(plain)
    print(converted)  # what became of each layer, and what could not be converted

    bounds = {}
    images, labels = data.test.float_images(), data.test.labels
    for name, model in (("plain", plain), ("converted", converted.model)):
        train(model, data, options.epochs)
        result = taut.certify(model.eval(), images, labels, eps=("0.1",))
        bounds[name] = float(result.bound)
        clean, certified = result.clean_accuracy, result.certified_accuracy["0.1"]
        print(f"{name}: {100 * clean:.1f} % correct, {100 * certified:.1f} % certified at 0.1;")
        print(f"  an output moves by at most {bounds[name]:.4g} times what the image moves")
    return bounds


if __name__ == "__main__":
    main()
