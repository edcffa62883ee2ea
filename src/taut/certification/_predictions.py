"""What `taut.predict` returns."""

import csv
import html
import io
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from taut._display import rounded_down, rounded_up
from taut.certification._arithmetic import Arithmetic
from taut.certification._certificate import Certificate, save
from taut.certification._changes import Changes
from taut.certification._eps import Eps
from taut.files import write_atomically
from taut.program import LipschitzBound, canonical

__all__ = ["Predictions"]


@final
@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted classes of images, with margins and certified radii.

    All tensors are on the CPU. Where a model answers at places p, as pixels, there is a class for
    each.

    Attributes:
        classes: class with the largest logit.
        margin: largest logit minus the next one.
        radius: certified radius of the class; 0 where it is tied, or a logit is not finite.
        radii: radius within which each other class does not overtake it; infinite for itself.
        bound: Lipschitz bound of the outputs, in the units of the radii; `print` it.
        certified: for each eps as it was given, which radii are larger.
        certificate: what is proven of the model, whatever the image.
        changes: with a mask or weights, their bounds.
        images_sha256: hash of each image, of its precision, shape and numbers as they were given.
        images_dtype: precision of the images, as safetensors names it.

    Example:
        >>> found = taut.predict(torch.nn.Linear(3, 2), torch.zeros(4, 3), eps="1/10")
        >>> len(str(found).splitlines()), found.certified["1/10"].shape
        (3, torch.Size([4]))
    """

    classes: Int64[Tensor, "b *p"]
    margin: Float64[Tensor, "b *p"]
    radius: Float64[Tensor, "b *p"]
    radii: Float64[Tensor, "b k *p"]
    bound: LipschitzBound
    certified: dict[Eps, Bool[Tensor, "b *p"]]
    certificate: Certificate
    changes: Changes | None
    images_sha256: tuple[str, ...]
    images_dtype: str

    @property
    def arithmetic(self) -> Arithmetic:
        """The arithmetic that the radii hold for: "float64", "float32" or "real"."""
        return self.certificate.arithmetic

    @property
    def meaning(self) -> str:
        """The meaning of the arithmetic in words: what the radii hold for."""
        return self.certificate.meaning

    def __repr__(self) -> str:
        places = "".join(f" of {n} places" for n in [self.radius[0].numel()] if n > 1)
        shares = [f"{is_.double().mean():.4f} at {eps}" for eps, is_ in self.certified.items()]
        low, middle, high = (
            rounded_down(f(self.radius)) for f in (torch.min, torch.median, torch.max)
        )
        return (
            f"Predictions for {len(self.classes)} images{places} ({self.meaning})\n"
            f"certified radius {low} to {high}, median {middle}; "
            f"certified {', '.join(shares) or '(no eps)'}\n"
            f"Lipschitz bound {rounded_up(self.bound)}, {self.radii.shape[1]} classes"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    def rows(
        self, images: Sequence[str] | None = None, names: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """One row for each image, or each place of it: image, place, class, margin, radius.

        Args:
            images: names of the images; their numbers by default.
            names: of the classes; their numbers by default.
        """
        sides = [range(n) for n in self.classes.shape]
        rows: list[dict[str, Any]] = []
        tensors = (self.classes, self.margin, self.radius)
        values = zip(*(t.flatten().tolist() for t in tensors), strict=True)
        for place, (label, margin, radius) in zip(itertools.product(*sides), values, strict=True):
            image = place[0] if images is None else images[place[0]]
            axes = {f"axis{i}": at for i, at in enumerate(place[1:])}
            name = label if names is None else names[label]
            rows.append({"image": image, **axes, "class": name, "margin": margin, "radius": radius})
        return rows

    def to_csv(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        images: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
    ) -> str:
        """The rows as comma-separated values; written to a file if one is given.

        Args:
            path: of the file; its folder exists.
            images: names of the images; their numbers by default.
            names: of the classes; their numbers by default.

        Example:
            >>> found = taut.predict(torch.nn.Linear(3, 2), torch.zeros(4, 3))
            >>> found.to_csv().splitlines()[0]
            'image,class,margin,radius'
        """
        text, rows = io.StringIO(), self.rows(images, names)
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        if path is not None:
            write_atomically(Path(path), text.getvalue().encode())
        return text.getvalue()

    def to_json(
        self, *, images: Sequence[str] | None = None, names: Sequence[str] | None = None
    ) -> str:
        """All predictions as canonical JSON; null stands for a number that is not finite.

        Args:
            images: names of the images, if they are to be in it.
            names: of the classes, if they are to be in it.

        Example:
            >>> taut.predict(torch.nn.Linear(3, 2), torch.zeros(4, 3)).to_json()[:25]
            '{"arithmetic":"float64","'
        """
        content: dict[str, Any] = {
            "arithmetic": self.arithmetic,
            "bound": self.bound.value,
            "classes": self.classes.tolist(),
            "certified": {str(eps): held.tolist() for eps, held in self.certified.items()},
            "margin": _finite(self.margin),
            "radii": _finite(self.radii),
            "radius": _finite(self.radius),
        }
        content |= {} if images is None else {"images": list(images)}
        return canonical(content | ({} if names is None else {"names": list(names)}))

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write a certificate of these predictions, and the exported weights as safetensors.

        It says of each image the class, the margin and the radius to each other class, at each
        place if there are several; `taut.verify` and the stand-alone verifier prove it again.

        Args:
            path: of the JSON file; its folder exists.

        Returns:
            The two files.

        Example:
            >>> import tempfile
            >>> found = taut.predict(torch.nn.Linear(3, 2), torch.zeros(4, 3))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     taut.verify(*found.save(Path(folder, "predictions.json"))).input_shape
            (3,)
        """
        radii = self.radii.clamp(max=torch.finfo(torch.float64).max)
        radii = radii.scatter(1, self.classes[:, None], float("inf"))
        content = self.certificate.content() | {
            "classes": self.classes.tolist(),
            "images": {"dtype": self.images_dtype, "sha256": list(self.images_sha256)},
            "margin": _finite(self.margin),
            "radii": _finite(radii),
        }
        content |= {} if self.changes is None else {"changes": self.changes.content()}
        return save(self.certificate, Path(path), canonical(content))


def _finite(values: Tensor) -> list[Any]:
    """Nested lists, with None for what JSON has no number for."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(plain, value))
        return value if abs(value) < float("inf") else None

    return plain(values.tolist())
