"""Large on Fashion-MNIST, a short run.

Claim: a first certified number on the original Fashion-MNIST, at 0.3 and 1.58 in l2.
Measured, 2 of its epochs: records/fashion-mnist-large.json.
Command: taut train fashion-mnist-large --data-dir DIR_OF_FASHION_MNIST
"""

from taut.models import ModelConfig
from taut.training import MultiMarginLoss, Recipe

RECIPE = Recipe(
    name="fashion-mnist-large",
    dataset="fashion-mnist",
    model=ModelConfig("large"),
    loss=MultiMarginLoss(eps_train=0.5),
    lr=5e-3,
    schedule="one-cycle",
    epochs=10,
    batch_size=128,
    retract_every=0,  # as when it was recorded
    eps=("0.3", "1.58"),
)
