"""How far apart are two kinds of images? Bound it from both sides, and show what the critic sees.

python examples/wasserstein_critic.py --first 0 --second 9
"""

import argparse
from collections.abc import Sequence

import torch

import taut


def main(arguments: Sequence[str] | None = None) -> taut.wasserstein.W1Estimate:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="a class of Fashion-MNIST")
    parser.add_argument("--second", type=int, default=9, help="another one")
    parser.add_argument("--images", type=int, default=200, help="of each class, at most")
    parser.add_argument("--steps", type=int, default=300, help="of the critic")
    options = parser.parse_args(arguments)

    train = taut.data.load("fashion-mnist-subset").train
    images, labels = train.float_images(), train.labels
    p = images[labels == options.first][: options.images]
    q = images[labels == options.second][: options.images]

    critic = taut.wasserstein.critics.dense(tuple(p.shape[1:]), width=64)
    settings = taut.wasserstein.Settings(steps=options.steps, domain=(0.0, 1.0))
    result = taut.wasserstein.estimate(p, q, critic, settings=settings)
    print(result)
    print(f"The critic's proved Lipschitz constant: {float(result.bound):.9f}")

    with torch.no_grad():
        scores = result.critic(torch.cat((p, q))).flatten()
    print(f"It scores the first class {scores[: len(p)].mean():.2f} in the mean,")
    print(f"and the second one {scores[len(p) :].mean():.2f}.")
    return result


if __name__ == "__main__":
    main()
