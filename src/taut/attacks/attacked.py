"""What attacks came to, image by image, as it is kept beside a run."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from taut.attacks.strongest import strongest
from taut.files import write_atomically

ATTACKS = "attacks.json"
"""The file of a run folder that attacks are kept in."""

FORMAT = "taut-attacks"
VERSION = 1


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Attacked:
    """What one method came to on the first images of a test set.

    Attributes:
        method: its name in `METHODS`.
        options: all of them, defaults included.
        eps: l2 radius as text; None if the method looked for the smallest distance.
        weights_sha256: of the model attacked, as its certificate has it.
        images_sha256: of the images attacked.
        success: which were misclassified.
        distance: l2 distance of what was found.
        float32_only: which were misclassified within their certified radius, but not by the float64
            program that the certificate is about.

    Example:
        >>> found = Attacked(method="fgsm", options={}, eps="0.3", weights_sha256="",
        ...     images_sha256="", success=torch.tensor([True, False]),
        ...     distance=torch.tensor([0.2, 0.3]).double(), float32_only=torch.zeros(2).bool())
        >>> found.survived("0.1"), len(found)
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
        """Share of the images that it left correct within `eps`, which is at most its own."""
        return strongest({self.method: self}, eps).accuracy

    def same_attack(self, other: "Attacked") -> bool:
        """Whether it is the same method with the same options at the same eps."""
        return (self.method, self.options, self.eps) == (other.method, other.options, other.eps)


def read_attacks(path: str | os.PathLike[str], weights_sha256: str | None = None) -> list[Attacked]:
    """Read the attacks kept in a file, attacks.json of a run folder; none if there is no file.

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
            raise ValueError(f"it is no {FORMAT} file of version {VERSION}")
        found = [_from_plain(entry) for entry in content["attacks"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is damaged and cannot be read ({reason}).") from None
    return [a for a in found if weights_sha256 in (None, a.weights_sha256)]


def write_attacks(path: str | os.PathLike[str], attacks: Sequence[Attacked]) -> None:
    """Write attacks into a file, whole or not at all.

    Args:
        path: of the file; its folder exists.
        attacks: all that it is to hold.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_attacks(Path(folder, "attacks.json"), [])
        ...     read_attacks(Path(folder, "attacks.json"))
        []
    """
    content = {"format": FORMAT, "version": VERSION, "attacks": [_plain(a) for a in attacks]}
    write_atomically(Path(path), (json.dumps(content, allow_nan=False) + "\n").encode())


def _plain(attacked: Attacked) -> dict[str, Any]:
    plain = dict(vars(attacked))
    for name in ("success", "distance", "float32_only"):
        plain[name] = plain[name].tolist()
    return plain


def _from_plain(entry: dict[str, Any]) -> Attacked:
    found = Attacked(
        method=str(entry["method"]),
        options=dict(entry["options"]),
        eps=None if entry["eps"] is None else str(entry["eps"]),
        weights_sha256=str(entry["weights_sha256"]),
        images_sha256=str(entry["images_sha256"]),
        success=_flags(entry["success"]),
        distance=torch.tensor([float(x) for x in entry["distance"]], dtype=torch.float64),
        float32_only=_flags(entry["float32_only"]),
    )
    if not len(found.success) == len(found.distance) == len(found.float32_only):
        raise ValueError("its lists differ in length")
    return found


def _flags(values: list[object]) -> Tensor:
    if not all(isinstance(value, bool) for value in values):
        raise ValueError("a flag is neither true nor false")
    return torch.tensor(values, dtype=torch.bool)
