"""The paper's Small on MNIST, shortened to 60 epochs by a one-cycle learning rate.

Claim: aims to reach or pass table 1 of arXiv:1911.00937, BCOP Small: clean 97.54 ± 0.06,
certified 45.84 ± 0.90 at 1.58 in l2, in three tenths of its epochs.
Measured, 3 seeds: clean 97.53 ± 0.05, certified 47.05 ± 0.47; records/mnist-small.json.
Command: taut train mnist-small --data-dir DIR_OF_MNIST
"""

from taut.models import ModelConfig
from taut.training import MultiMarginLoss, Recipe

RECIPE = Recipe(
    name="mnist-small",
    dataset="mnist",
    model=ModelConfig("small"),
    loss=MultiMarginLoss(eps_train=1.5),
    lr=5e-3,
    schedule="one-cycle",
    epochs=60,
    batch_size=128,
    eps=("0.3", "1.58"),
)
