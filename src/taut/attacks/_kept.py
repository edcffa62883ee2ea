"""Results of attacks, image by image, in a file beside a run."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from taut.attacks._result import AbstractOutcome
from taut.attacks._strongest import strongest
from taut.files import write_atomically

ATTACKS = "attacks.json"
"""The file of a run folder that holds its attacks."""

FORMAT = "taut-attacks"
VERSION = 1


@final
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Attacked(AbstractOutcome):
    """The result of one attack on the first images of a test set.

    Attributes:
        method: kind of the attack.
        options: all of them, defaults included.
        eps: l2 radius as text; None if the attack looked for the smallest distance.
        weights_sha256: of the model attacked, as in its certificate.
        images_sha256: of the images attacked.
        success: which were misclassified.
        distance: l2 distance of what was found.
        float32_only: which were misclassified within their certified radius, but not by the float64
            program that the certificate is about.

    Example:
        >>> kept = Attacked(method="fgsm", options={}, eps="0.3", weights_sha256="",
        ...     images_sha256="", success=torch.tensor([True, False]),
        ...     distance=torch.tensor([0.2, 0.3]).double(), float32_only=torch.zeros(2).bool())
        >>> kept.survived("0.1"), len(kept)
        (1.0, 2)
    """

    method: str
    options: dict[str, Any]
    eps: str | None
    weights_sha256: str
    images_sha256: str
    success: Bool[Tensor, " b"]
    distance: Float64[Tensor, " b"]
    float32_only: Bool[Tensor, " b"]

    def __len__(self) -> int:
        """Number of images attacked."""
        return len(self.success)

    def survived(self, eps: str) -> float:
        """Share of images that remain correct within `eps`, at most the eps of the attack."""
        return strongest({self.method: self}, eps).accuracy

    def same_attack(self, other: "Attacked") -> bool:
        """Whether it is the same attack with the same options at the same eps."""
        return (self.method, self.options, self.eps) == (other.method, other.options, other.eps)

    def _about(self) -> str:
        return f"{self.method}, " + ("any distance" if self.eps is None else f"eps {self.eps}")


def read_attacks(path: str | os.PathLike[str], weights_sha256: str | None = None) -> list[Attacked]:
    """Read the attacks saved in a file, such as attacks.json of a run; none if there is no file.

    Args:
        path: of the file.
        weights_sha256: only those of the model with these weights; None for all.

    Raises:
        ValueError: if the file is damaged; the message names it.

    Example:
        >>> read_attacks("runs/nowhere/attacks.json")
        []
    """
    file = Path(path)
    if not file.is_file():
        return []
    try:
        content = json.loads(file.read_text())
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it is not a {FORMAT} file of version {VERSION}")
        kept = [_from_plain(entry) for entry in content["attacks"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is damaged and cannot be read ({reason}).") from None
    return [a for a in kept if weights_sha256 in (None, a.weights_sha256)]


def write_attacks(path: Path, attacks: Sequence[Attacked]) -> None:
    """Write attacks into a file, whole or not at all."""
    plain = [
        {k: v.tolist() if isinstance(v, Tensor) else v for k, v in vars(attacked).items()}
        for attacked in attacks
    ]
    content = {"format": FORMAT, "version": VERSION, "attacks": plain}
    write_atomically(path, (json.dumps(content, allow_nan=False) + "\n").encode())


def _from_plain(entry: dict[str, Any]) -> Attacked:
    """Read one attack, and check what the file says of it."""
    success, only, distance = (entry[name] for name in ("success", "float32_only", "distance"))
    if not all(isinstance(flag, bool) for flag in (*success, *only)):
        raise ValueError("a flag is not true or false")
    if not len(success) == len(only) == len(distance):
        raise ValueError("its lists differ in length")
    return Attacked(
        options=dict(entry["options"]),
        eps=None if entry["eps"] is None else str(entry["eps"]),
        **{name: str(entry[name]) for name in ("method", "weights_sha256", "images_sha256")},
        success=torch.tensor(success, dtype=torch.bool, device="cpu"),
        distance=torch.tensor([float(x) for x in distance], dtype=torch.float64, device="cpu"),
        float32_only=torch.tensor(only, dtype=torch.bool, device="cpu"),
    )
