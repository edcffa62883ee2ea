"""Attacks checked against a certificate."""

from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor

from taut.attacks._objective import Batch
from taut.attacks._result import AttackResult
from taut.certification import Certification


def hold(
    result: AttackResult,
    images: Batch,
    certified: Certification,
    *,
    method: str = "the attack",
    places: Sequence[int] | None = None,
) -> Bool[Tensor, " b"]:
    r"""Compare an attack with the certificate of the same images; raise if it refutes it.

    A certificate is broken if the certified program misclassifies an adversarial image within the
    certified radius: `certified.refuted` decides. In float64 arithmetic that is the float64 run of
    the exported weights; what only the attacked run misclassifies does not contradict it.

    Args:
        result: of the attack.
        images: that were attacked.
        certified: the result of `taut.certify`.
        method: name of the attack, for the message.
        places: which of the certified images they are; None for all of them.

    Returns:
        Which images the attacked run alone misclassifies within their certified radius; usually
        none.

    Raises:
        RuntimeError: if a certificate is broken, naming the image, the attack, the distance and
            the radius.
        ValueError: if there are not as many images as certified ones.

    Example:
        >>> from torch import nn
        >>> model, images, labels = nn.Linear(4, 2), torch.rand(3, 4), torch.tensor([0, 1, 1])
        >>> result = taut.attack(model, images, labels, eps=0.3)
        >>> hold(result, images, taut.certify(model, images, labels)).any()
        tensor(False)
    """
    refuted = certified.refuted(images, result.adversarial, places=places)
    if refuted.any():
        i = int(refuted.nonzero()[0])
        place = i if places is None else places[i]
        raise RuntimeError(
            f"A certificate is broken: test image {place} is misclassified by {method} at a "
            f"distance of {float(result.distance[i]):.6g}, within its certified radius of "
            f"{float(certified.radius[place]):.6g} ({int(refuted.sum())} in all). Please report "
            "this as a bug."
        )
    return result.success.cpu() & certified.within(images, result.adversarial, places=places)
