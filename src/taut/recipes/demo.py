"""Small on the embedded Fashion-MNIST subset (2,000 images): no download, about a minute.

Claim: shows the whole way from data to certificate on any machine; not a benchmark.
Command: taut train demo
"""

from taut.models import ModelConfig
from taut.training import MultiMarginLoss, Recipe

RECIPE = Recipe(
    name="demo",
    dataset="fashion-mnist-subset",
    model=ModelConfig("small"),
    loss=MultiMarginLoss(eps_train=0.5),
    lr=1e-2,
    schedule="one-cycle",
    epochs=30,
    batch_size=64,
    eps=("0.1", "0.3", "1.58"),
)
