"""Train a small orthogonal classifier on images that come with taut, and certify it.

python examples/certify_classifier.py --epochs 10
"""

import argparse
from collections.abc import Sequence

import torch

import taut
from taut.certification import Certification


def main(arguments: Sequence[str] | None = None) -> Certification:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=1000, help="test images to certify")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    data = taut.data.load("fashion-mnist-subset")
    model = taut.models.Small().build(data.input_shape, classes=10)
    loss = taut.losses.OffsetCrossEntropy(offset=0.7, temperature=0.25)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(options.epochs):
        total = 0.0
        for images, labels in taut.data.batches(data.train, 64, seed=0, epoch=epoch):
            optimiser.zero_grad()
            value = loss(model(images), labels)
            value.backward()
            optimiser.step()
            total += value.item() * len(labels)
        print(f"epoch {epoch + 1}: loss {total / len(data.train.labels):.3f}")

    images, labels = data.test.float_images(), data.test.labels
    result = taut.certify(
        model.eval(), images[: options.images], labels[: options.images], eps=("0.1", "0.3", "0.5")
    )
    print(f"{100 * result.clean_accuracy:.1f} % correct")
    for eps, share in result.certified_accuracy.items():
        print(f"{100 * share:.1f} % proved to stay correct within an l2 distance of {eps}")
    return result


if __name__ == "__main__":
    main()
