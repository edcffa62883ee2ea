"""Small on the embedded Fashion-MNIST subset (2,000 images): no download, half a minute.

Claim: shows the whole way from data to certificate on any machine; not a benchmark.
Command: taut train demo
"""

from taut.models import ModelConfig
from taut.training import OffsetCrossEntropyLoss, Recipe

RECIPE = Recipe(
    name="demo",
    dataset="fashion-mnist-subset",
    model=ModelConfig("small"),
    loss=OffsetCrossEntropyLoss(offset=0.7, temperature=0.25),
    lr=1e-2,
    schedule="one-cycle",
    epochs=30,
    batch_size=64,
    retract_every=0,  # as when it was recorded
    eps=("0.1", "0.3", "0.5"),
)
