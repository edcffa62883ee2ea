"""Clean and certified accuracy after an epoch, each process with its part of the images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from taut.certification import above, prove
from taut.data import AbstractSplit
from taut.parametrizations import cached
from taut.training._processes import Processes

# As in `taut.certify`, so that logits are bitwise equal for any number of processes.
_BATCH = 256


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results on one split after an epoch, proven in real arithmetic.

    Args:
        clean_accuracy: share of the images that are classified correctly.
        certified_accuracy: for each eps of the recipe, the share with a larger certified radius.
        bound: the proven Lipschitz bound of the model.
    """

    clean_accuracy: float
    certified_accuracy: dict[str, float]
    bound: float


def evaluate(
    model: nn.Module, test: AbstractSplit, eps: Sequence[str], processes: Processes
) -> Evaluation:
    """Certify a split batch by batch; the model is the same in each process, in eval mode.

    Each process takes whole batches, and hits are counted as integers: the result does not depend
    on the number of processes.
    """
    share = processes.share
    certificate = prove(model, test.input_shape, arithmetic="real")
    hits = torch.zeros(1 + len(eps), dtype=torch.int64, device="cpu")
    begins = range(share.rank * _BATCH, len(test), share.world * _BATCH)
    parts = [slice(begin, begin + _BATCH) for begin in begins]
    with torch.no_grad(), cached():
        for part in test.fetch(torch.arange(len(test), device="cpu"), parts):
            images, labels = part.float_images(), part.labels.cpu()
            logits = certificate.logits(images).cpu()
            radius = certificate.radius(logits, labels, images)
            right = [logits.argmax(1) == labels, *(above(radius, value) for value in eps)]
            hits += torch.stack([hit.sum() for hit in right])
    hits = processes.total(hits.to(processes.fabric.device)).tolist()
    clean, *certified = (count / len(test) for count in hits)
    return Evaluation(clean, dict(zip(eps, certified, strict=True)), float(certificate.bound))
