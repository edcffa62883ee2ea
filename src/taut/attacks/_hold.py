"""Attacks held against a certificate."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from taut.attacks._driver import AttackResult


@runtime_checkable
class Proof(Protocol):
    """What is proven of a model, whatever the image: a `taut.certification.Certificate`.

    Example:
        >>> from taut.certification import prove
        >>> isinstance(prove(nn.Linear(2, 2), (2,)), Proof)
        True
    """

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Run the certified program."""
        ...

    def content(self) -> dict[str, Any]:
        """Return what its file holds; the hash of the weights among it."""
        ...


@runtime_checkable
class Certified(Protocol):
    """What is proven of some images: a `taut.certification.Certification`.

    Example:
        >>> isinstance(taut.certify(nn.Linear(2, 2), torch.eye(2), torch.tensor([0, 1])), Certified)
        True
    """

    @property
    def radius(self) -> Tensor:
        """Certified radius of each image."""
        ...

    @property
    def labels(self) -> Tensor:
        """Label of each image."""
        ...

    @property
    def certificate(self) -> Proof:
        """What is proven of the model."""
        ...


def hold(
    result: AttackResult,
    model: nn.Module,
    certified: Certified,
    *,
    method: str = "the attack",
    places: Sequence[int] | None = None,
) -> Bool[Tensor, " b"]:
    r"""Hold an attack against the certificate of the same images, and fail if it is broken.

    Broken it is where a misclassified image lies within its certified radius, and the program that
    the certificate speaks of, which in float64 arithmetic is the run of the exported weights in
    float64, misclassifies it as well. The attack was made on the model as it runs: where that
    alone gives way, nothing is said against the certificate.

    Args:
        result: of the attack.
        model: that was attacked.
        certified: the result of `taut.certify`.
        method: name of the attack, for the message.
        places: which of the certified images were attacked; None for all of them.

    Returns:
        Which images are misclassified within their certified radius, but by the model as it runs
        alone: mostly none.

    Raises:
        RuntimeError: if a certificate is broken, naming the image, the attack, the distance and
            the radius.
        ValueError: if there are not as many images as certified ones.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> result = taut.attack(model, images, labels, eps=0.3)
        >>> hold(result, model, taut.certify(model, images, labels)).any()
        tensor(False)
    """
    chosen = range(len(certified.radius)) if places is None else places
    if len(chosen) != len(result.success):
        raise ValueError(
            f"`result` must be of the {len(chosen)} certified images; got {len(result.success)}."
        )
    index = torch.tensor(list(chosen), dtype=torch.long)
    radius, labels = certified.radius.cpu()[index], certified.labels.cpu()[index]
    # Rounded up: the sum of n squares in float64, in any order, and its root.
    up = 1 + (result.adversarial[:1].numel() + 8) * 2.0**-52
    within = (radius > 0) & (result.distance.cpu() * up <= radius)
    suspect = (result.success.cpu() & within).nonzero().flatten()
    only = torch.zeros(len(radius), dtype=torch.bool)
    if len(suspect):
        moved = result.adversarial[suspect.to(result.adversarial.device)]
        answers = certified.certificate.logits(model, moved).argmax(1).cpu()
        refuted = suspect[answers != labels[suspect]]
        if len(refuted):
            i = int(refuted[0])
            raise RuntimeError(
                f"A certificate is broken: test image {int(index[i])} is misclassified by {method} "
                f"at a distance of {float(result.distance[i]):.6g}, within its certified radius of "
                f"{float(radius[i]):.6g}. Please report this as a bug."
            )
        only[suspect] = True
    return only
