"""Certify a model on a set of images."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from taut._display import html_table, rounded_down, rounded_up
from taut._sharding import gathers
from taut.certification._arithmetic import Arithmetic, l2_distance_upper
from taut.certification._certificate import DTYPES, Certificate, image_sha256, prove, save
from taut.certification._eps import Eps, as_eps_sequence
from taut.certification._inputs import (
    check_images,
    check_labels,
    check_one_answer,
    hold_against_model,
    like_of,
    numbers_of,
)
from taut.certification._radius import above, logit_margin
from taut.program import LipschitzBound, canonical

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from taut.attacks import AttackResult

__all__ = ["Certification", "certify", "certify_batches"]

_BATCH = 256


@final
@dataclass(frozen=True, eq=False)
class Certification:
    """Certified radii and accuracies of a model on a set of images.

    Attributes:
        clean_accuracy: share of the images whose largest logit is the label's.
        certified_accuracy: for each eps as it was given, the share with radius > eps.
        radius: certified l2 radius of each image, in its units; 0 where wrong or tied.
        margin: logit of the label minus the largest other one, of each image.
        predictions: class with the largest logit, of each image (the first of equal ones).
        labels: true classes.
        images_sha256: hash of each image, of its precision, shape and numbers as they were given.
        images_dtype: precision of the images, as safetensors names it.
        certificate: what is proven of the model, whatever the image.

    Example:
        >>> model, images = nn.Linear(2, 2), torch.eye(2)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.eye(2)), model.bias.zero_()
        >>> result = certify(model, images, torch.tensor([0, 1]), eps=("1/2", 0.75))
        >>> result.certified_accuracy
        {'1/2': 1.0, 0.75: 0.0}
    """

    clean_accuracy: float
    certified_accuracy: dict[Eps, float]
    radius: Tensor
    margin: Tensor
    predictions: Tensor
    labels: Tensor
    images_sha256: tuple[str, ...]
    images_dtype: str
    certificate: Certificate

    def __repr__(self) -> str:
        certified = ", ".join(
            f"{share:.4f} at {eps}" for eps, share in self.certified_accuracy.items()
        )
        return (
            f"Certification of {len(self.labels)} images ({self.certificate.meaning})\n"
            f"clean accuracy {self.clean_accuracy:.4f}, certified {certified or '(no eps)'}\n"
            f"Lipschitz bound {rounded_up(self.bound)}, "
            f"largest radius {rounded_down(self.radius.max())}"
        )

    def _repr_html_(self) -> str:
        shares = self.certified_accuracy.items()
        return html_table(
            [
                ("Certification", f"{len(self.labels)} images ({self.certificate.meaning})"),
                ("clean accuracy", f"{self.clean_accuracy:.4f}"),
                *((f"certified at {eps}", f"{share:.4f}") for eps, share in shares),
                ("Lipschitz bound", rounded_up(self.bound)),
                ("largest radius", rounded_down(self.radius.max())),
            ]
        )

    @property
    def bound(self) -> LipschitzBound:
        """The model's Lipschitz bound, layer by layer."""
        return self.certificate.bound

    @property
    def arithmetic(self) -> Arithmetic:
        """The arithmetic that the radii hold for: "float64", "float32" or "real"."""
        return self.certificate.arithmetic

    def within(
        self,
        images: Float[Tensor, "b ..."],
        changed: Float[Tensor, "b ..."],
        *,
        places: Sequence[int] | None = None,
    ) -> Bool[Tensor, " b"]:
        """Which changed images lie within the certified radius of the original image.

        Distances are rounded up, so that one within the radius is.

        Args:
            images: certified ones.
            changed: a changed version of each.
            places: which of the certified images they are; None for all of them, in order.

        Returns:
            On the CPU.

        Raises:
            ValueError: if there are not as many images as changed ones, or as places.
        """
        chosen = (
            torch.arange(len(self.radius), device="cpu")
            if places is None
            else torch.as_tensor(places, device="cpu")
        )
        if len(chosen) != len(images) or images.shape != changed.shape:
            raise ValueError(
                f"`images` and `changed` must be alike, and {len(chosen)} certified ones; got "
                f"{tuple(images.shape)} and {tuple(changed.shape)}."
            )
        radius = self.radius.cpu()[chosen]
        return (radius > 0) & (l2_distance_upper(images, changed).cpu() <= radius)

    def refuted(
        self,
        images: Float[Tensor, "b ..."],
        changed: Float[Tensor, "b ..."],
        *,
        places: Sequence[int] | None = None,
    ) -> Bool[Tensor, " b"]:
        """Which changed images are counterexamples: within the radius, but with another prediction.

        What counts is the answer of the certified program: in float64 arithmetic the float64 run of
        the exported weights, whatever the model itself answers in its own precision.

        Args:
            images: certified ones.
            changed: a changed version of each.
            places: which of the certified images they are; None for all of them, in order.

        Returns:
            On the CPU; always all False if we are right.

        Raises:
            ValueError: if there are not as many images as changed ones, or as places.

        Example:
            >>> model, images = nn.Linear(3, 2), torch.rand(4, 3)
            >>> found = certify(model, images, torch.zeros(4).long())
            >>> found.refuted(images, images + 0.01).any()
            tensor(False)
        """
        found = self.within(images, changed, places=places)
        hits = found.nonzero().flatten()
        if len(hits):
            labels = self.labels.cpu()
            labels = labels if places is None else labels[torch.as_tensor(places, device="cpu")]
            moved = changed[hits.to(changed.device)]
            answers = self.certificate.logits(moved).argmax(1).cpu()
            found[hits] = answers != labels[hits]
        return found

    def content(self) -> dict[str, Any]:
        """The content of the file as plain values: the certificate of the model, and each image."""
        return self.certificate.content() | {
            "certified_accuracy": {str(eps): a for eps, a in self.certified_accuracy.items()},
            "clean_accuracy": self.clean_accuracy,
            "images": {"dtype": self.images_dtype, "sha256": list(self.images_sha256)},
            "labels": self.labels.tolist(),
            "margin": [m if math.isfinite(m) else None for m in self.margin.tolist()],
            "predictions": self.predictions.tolist(),
            "radius": self.radius.tolist(),
        }

    def to_json(self) -> str:
        """The certificate and the results as canonical JSON: equal results give equal text."""
        return canonical(self.content())

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write the JSON file, and the exported weights beside it as safetensors.

        Args:
            path: of the JSON file; its folder exists.

        Returns:
            The two files.
        """
        return save(self.certificate, Path(path), self.to_json())

    def plot(self, attack: "AttackResult | None" = None, *, ax: "Axes | None" = None) -> "Axes":
        """Plot the certified accuracy over eps, as :func:`taut.plot.radius_curve` does.

        Args:
            attack: result of an attack on the same images, drawn as a second curve.
            ax: axes to draw on; a new figure by default.

        Returns:
            The axes; `axes.figure.savefig("radius.png")` writes the figure.

        Raises:
            ValueError: if the attack is on another number of images.
            ImportError: if matplotlib is not installed.

        Example:
            >>> found = certify(nn.Linear(3, 2), torch.rand(4, 3), torch.zeros(4).long())
            >>> found.plot().get_ylabel()
            'accuracy'
        """
        from taut.plot import radius_curve

        return radius_curve(self, attack, ax=ax)


@gathers
def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: Eps | Sequence[Eps] = ("36/255", "72/255", "108/255"),
    input_shape: tuple[int, ...] | None = None,
    *,
    arithmetic: str = "float64",
) -> Certification:
    r"""Certify a classifier on labelled images: certified accuracy, and a radius for each image.

    The model's Lipschitz bound is proven from its weights, its logits are computed in batches, and
    each point gets its certified radius. What the radius is about is the `arithmetic`:

    - "float64": the certified classifier is the float64 execution of the weights as they are used
      (those that `Certification.save` exports), in any order of summation. Its rounding is bounded
      and taken off: next to nothing.
    - "float32": the model as it runs. What is taken off is right for any order of summation, and
      therefore large: radii are small, or 0 for wide nets. Not for convolutions by Winograd or FFT.
    - "real": the network in real numbers, as the literature reports it. The program that runs may
      answer otherwise near the radius.

    The mode of the model is left as it is; what behaves otherwise in training is refused there.

    Args:
        model: from images to logits; or to one number f, whose class is 1 where f > 0 and 0 where
            not.
        images: what the model is fed, floating point in the model's precision; eps is in its units.
        labels: true classes, int64; of a model with one output 0 and 1, or -1 and +1.
        eps: one l2 radius or several, as floats, fractions or strings such as "36/255", compared
            exactly.
        input_shape: shape of one image, if it should be checked; the default is the images' own.
        arithmetic: "float64", "float32" or "real".

    Returns:
        The accuracies, and margin and radius of each image.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) if the model has no proven bound, is
            in training mode where that matters, or runs in a way that the proof does not cover.
        ValueError: if images, labels, eps or shapes are wrong.

    Example:
        >>> certify(nn.Linear(3, 2), torch.rand(4, 3), torch.zeros(4).long()).radius.shape
        torch.Size([4])
    """
    like = like_of(model, images)
    shape = tuple(getattr(images, "shape", ()))[1:] if input_shape is None else tuple(input_shape)
    check_images(images, shape, like)
    check_labels(labels, len(images))
    batches = zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
    return certify_batches(model, batches, shape, eps, arithmetic=arithmetic)


@gathers
def certify_batches(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    input_shape: tuple[int, ...],
    eps: Eps | Sequence[Eps],
    *,
    arithmetic: str = "float64",
) -> Certification:
    r"""As :func:`certify`, for images that come in batches.

    Args:
        model: from images to logits.
        batches: images and labels; only one batch at a time is in memory.
        input_shape: shape of one image.
        eps: as of `certify`.
        arithmetic: as of `certify`.

    Raises:
        UnprovenError: as `certify` does.
        ValueError: if images, labels, eps or shapes are wrong, or there is no batch.

    Example:
        >>> batches = [(torch.rand(2, 3), torch.zeros(2).long()) for _ in range(3)]
        >>> len(certify_batches(nn.Linear(3, 2), batches, (3,), (0.5,)).radius)
        6
    """
    radii = as_eps_sequence(eps)
    certificate = prove(model, input_shape, arithmetic=arithmetic)
    check_one_answer(outputs := certificate.output_shape)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    hashes: list[str] = []
    for images, labels in batches:
        check_images(images, input_shape, like_of(model, images), arithmetic)
        check_labels(labels, len(images))
        logits, labels = certificate.logits(images).cpu(), numbers_of(labels.cpu(), outputs)
        hold_against_model(model, images, logits)
        parts.append((logits, labels, certificate.radius(logits, labels, images)))
        hashes += [image_sha256(x) for x in images.cpu()]
    if not parts:
        raise ValueError("`batches` must hold at least one image; got none.")
    logits, labels, radius = (torch.cat(values) for values in zip(*parts, strict=True))
    return Certification(
        clean_accuracy=_share(logits.argmax(1) == labels),
        certified_accuracy={value: _share(above(radius, value)) for value in radii},
        radius=radius,
        margin=logit_margin(logits, labels),
        predictions=logits.argmax(1),
        labels=labels,
        images_sha256=tuple(hashes),
        images_dtype=DTYPES[images.dtype],  # pyright: ignore[reportPossiblyUnboundVariable]
        certificate=certificate,
    )


def _share(hits: Tensor) -> float:
    return int(hits.sum()) / len(hits)
