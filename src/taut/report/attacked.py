"""Attacks kept beside a run, as rows of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from taut.attacks import Attacked, strongest
from taut.certification import Certification, above


@final
@dataclass(frozen=True)
class AttackLine:
    """One attack, or the best of several on each image, beside the proof of the same images.

    Attributes:
        name: of the method, or how many the best is of.
        options: all that are set, as text.
        images: how many of the first test images.
        certified: share proved correct, by eps.
        attacked: share left correct, by eps; an eps that it was not run at is not there.
        float32_only: images that only the run in float32 lost, within their certified radius.
        combined: whether it is the best of several.

    Example:
        >>> AttackLine("fgsm", "", 8, {"0.3": 0.5}, {"0.3": 0.75}, 0).attacked["0.3"]
        0.75
    """

    name: str
    options: str
    images: int
    certified: Mapping[str, float]
    attacked: Mapping[str, float]
    float32_only: int
    combined: bool = False


def attack_lines(
    attacks: Sequence[Attacked], certification: Certification, eps: Sequence[str]
) -> list[AttackLine]:
    """The attacks on most images first; after those on equally many the strongest of them.

    The strongest takes, for each image, every attack that was run on so many images or more.

    Args:
        attacks: on the first of the certified images.
        certification: of the model and the images.
        eps: l2 radii as text.

    Example:
        >>> model, images, labels = torch.nn.Linear(2, 2), torch.eye(2), torch.tensor([0, 1])
        >>> attack_lines([], taut.certify(model, images, labels), ("0.3",))
        []
    """
    groups: dict[tuple[int, str, str], dict[str, Attacked]] = {}
    for attacked in attacks:
        key = len(attacked), attacked.method, _plain(attacked.options)
        for text in eps:
            if attacked.eps is None or Fraction(attacked.eps) == Fraction(text):
                groups.setdefault(key, {})[text] = attacked
    lines = []
    for count in sorted({key[0] for key in groups}, reverse=True):
        certified = {
            text: above(certification.radius[:count], text).double().mean().item() for text in eps
        }
        for (images, name, options), found in groups.items():
            if images == count:
                lost = max(int(attacked.float32_only.sum()) for attacked in found.values())
                shares = {text: attacked.survived(text) for text, attacked in found.items()}
                lines.append(AttackLine(name, options, count, certified, shares, lost))
        able = {key: found for key, found in groups.items() if key[0] >= count}
        if len(able) > 1:
            shares = _strongest(list(able.values()), count, eps)
            name = f"strongest of {len(able)}"
            lines.append(AttackLine(name, "", count, certified, shares, 0, combined=True))
    return lines


def _strongest(
    found: Sequence[Mapping[str, Attacked]], count: int, eps: Sequence[str]
) -> dict[str, float]:
    shares = {}
    for text in eps:
        results = {str(i): one[text] for i, one in enumerate(found) if text in one}
        if results:
            shares[text] = strongest(results, text, first=count).accuracy
    return shares


def _plain(options: Mapping[str, object]) -> str:
    """Options as they are read; a seed tells nothing of an attack's strength."""
    chosen = {name: value for name, value in options.items() if value is not None}
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in chosen.items() if k != "seed")
