"""Attacks held against a certificate."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
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

    def within(
        self, images: Tensor, changed: Tensor, *, places: Sequence[int] | None = None
    ) -> Tensor:
        """Say which changed images lie within the radius of theirs."""
        ...

    def refuted(
        self,
        model: nn.Module,
        images: Tensor,
        changed: Tensor,
        *,
        places: Sequence[int] | None = None,
    ) -> Tensor:
        """Say for which of them the certified program answers otherwise."""
        ...


def hold(
    result: AttackResult,
    model: nn.Module,
    images: Float[Tensor, "b *shape"],
    certified: Certified,
    *,
    method: str = "the attack",
    places: Sequence[int] | None = None,
) -> Bool[Tensor, " b"]:
    r"""Hold an attack against the certificate of the same images, and fail if it is broken.

    Broken it is where an image that the attack came to lies within the certified radius, and the
    program that the certificate speaks of misclassifies it: `certified.refuted` decides. In float64
    arithmetic that program is the run of the exported weights in float64. The attack was made on
    the model as it runs: where that alone gives way, nothing is said against the certificate.

    Args:
        result: of the attack.
        model: that was attacked.
        images: that were attacked.
        certified: the result of `taut.certify`.
        method: name of the attack, for the message.
        places: which of the certified images they are; None for all of them.

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
        >>> hold(result, model, images, taut.certify(model, images, labels)).any()
        tensor(False)
    """
    refuted = certified.refuted(model, images, result.adversarial, places=places)
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
