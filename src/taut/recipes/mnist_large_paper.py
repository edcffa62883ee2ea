"""The paper's Large on MNIST by the paper's own protocol, 200 epochs.

Claim: table 1 of arXiv:1911.00937, BCOP Large: clean 98.77 ± 0.05, certified 56.66 ± 0.23 at 1.58
in l2, 5 seeds. Measured numbers: records/.
Command: taut train mnist-large-paper --data-dir DIR_OF_MNIST
"""

from taut.models import ModelConfig
from taut.training import MultiMarginLoss, Recipe

RECIPE = Recipe(
    name="mnist-large-paper",
    dataset="mnist",
    model=ModelConfig("large"),
    loss=MultiMarginLoss(eps_train=1.5),
    lr=1e-3,
    schedule="exponential",
    epochs=200,
    batch_size=128,
    retract_every=0,
    eps=("0.3", "1.58"),
)
