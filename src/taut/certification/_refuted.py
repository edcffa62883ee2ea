"""Counterexamples to a certificate, confirmed by the program that it speaks of."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from taut.certification._arithmetic import l2_distance_upper
from taut.certification._certify import Certification

__all__ = ["refuted"]


def refuted(
    certification: Certification,
    model: nn.Module,
    images: Float[Tensor, "b ..."],
    changed: Float[Tensor, "b ..."],
    *,
    start: int = 0,
) -> Bool[Tensor, " b"]:
    """Which images a change refutes: it is within the certified radius and changes the answer.

    What counts is the answer of the certified program: in float64 arithmetic the float64 run of the
    exported weights, whatever the model itself answers in its own precision. Distances are rounded
    up, so that one within the radius is.

    Args:
        certification: of the model and the images.
        model: that was certified.
        images: certified ones, as many as there are changed ones.
        changed: a changed version of each.
        start: which of the certified images is the first here.

    Returns:
        On the CPU; always all False if we are right.

    Raises:
        ValueError: if there are not as many images as changed ones, or as certified ones from
            `start` on.

    Example:
        >>> model, images = nn.Linear(3, 2), torch.rand(4, 3)
        >>> found = taut.certify(model, images, torch.zeros(4).long())
        >>> refuted(found, model, images, images + 0.01).any()
        tensor(False)
    """
    part = slice(start, start + len(images))
    radius, labels = certification.radius[part].cpu(), certification.labels[part].cpu()
    if start < 0 or len(radius) != len(images) or images.shape != changed.shape:
        raise ValueError(
            f"`images` and `changed` must be alike, and certified from place {start} on; got "
            f"{tuple(images.shape)} and {tuple(changed.shape)} for "
            f"{len(certification.radius)} certified images."
        )
    within = (radius > 0) & (l2_distance_upper(images, changed).cpu() <= radius)
    places = within.nonzero().flatten()
    if len(places):
        moved = changed[places.to(changed.device)]
        answers = certification.certificate.logits(model, moved).argmax(1).cpu()
        within[places] = answers != labels[places]
    return within
