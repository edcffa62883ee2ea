"""Results of earlier attacks, as rows of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from taut.attacks import Attacked, strongest
from taut.certification import Certification, above


@final
@dataclass(frozen=True)
class AttackLine:
    """One attack, or the strongest of several, beside the certificates of the same images.

    Attributes:
        name: name of the method, or how many are combined.
        options: all its options, as text.
        images: number of images attacked, the first ones.
        certified: share certified, by eps.
        attacked: share left correct, by eps; without the eps at which the attack was not run.
        float32_only: images misclassified within their certified radius in float32 only.
        combined: whether it combines several attacks.

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
    """Rows for attacks, those on most images first.

    After the attacks on equally many images follows the strongest on them: for each image the best
    of all attacks that were run on that many images or more.

    Args:
        attacks: attacks on the first of the certified images.
        certification: certification of the model and the images.
        eps: l2 radii as text.

    Example:
        >>> model, images, labels = torch.nn.Linear(2, 2), torch.eye(2), torch.tensor([0, 1])
        >>> attack_lines([], taut.certify(model, images, labels), ("0.3",))
        []
    """
    # One group per row: the results by eps of one method with the same options and images.
    groups: dict[tuple[int, str, str], dict[str, Attacked]] = {}
    for attacked in attacks:
        key = len(attacked), attacked.method, _as_text(attacked.options)
        for text in eps:
            if attacked.eps is None or Fraction(attacked.eps) == Fraction(text):
                groups.setdefault(key, {})[text] = attacked
    lines = []
    for count in sorted({key[0] for key in groups}, reverse=True):
        radius = certification.radius[:count]
        certified = {text: above(radius, text).double().mean().item() for text in eps}
        for (images, name, options), results in groups.items():
            if images == count:
                lost = max(int(result.float32_only.sum()) for result in results.values())
                shares = {text: result.survived(text) for text, result in results.items()}
                lines.append(AttackLine(name, options, count, certified, shares, lost))
        able = [results for key, results in groups.items() if key[0] >= count]
        if len(able) > 1:
            shares = _strongest(able, count, eps)
            name = f"strongest of {len(able)}"
            lines.append(AttackLine(name, "", count, certified, shares, 0, combined=True))
    return lines


def _strongest(
    groups: Sequence[Mapping[str, Attacked]], count: int, eps: Sequence[str]
) -> dict[str, float]:
    """Share of the first `count` images that survived all attacks, by eps."""
    shares = {}
    for text in eps:
        results = {str(i): group[text] for i, group in enumerate(groups) if text in group}
        if results:
            shares[text] = strongest(results, text, first=count).accuracy
    return shares


def _as_text(options: Mapping[str, object]) -> str:
    """Options as text, without the seed, which says nothing about an attack's strength."""
    chosen = {k: v for k, v in options.items() if v is not None and k != "seed"}
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in chosen.items())
