"""The HTML page of a playground: one file that needs no server and no network."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, final

from jaxtyping import Float, Int
from markupsafe import Markup
from torch import Tensor

from taut._display import rounded_up
from taut.certification import Certificate
from taut.playground._payload import Arrays, image_array, net_content
from taut.program import canonical
from taut.report import write_page

__all__ = ["Contrast", "PlaygroundInputs", "write_playground"]

_SCRIPTS = ("net.js", "attack.js", "page.js", "pictures.js", "maps.js", "start.js")


@final
@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A net to be shown beside the first one.

    Attributes:
        name: heads its column.
        about: how it was trained, in a sentence.
        certificate: what is proven of it, in float64.
    """

    name: str
    about: str
    certificate: Certificate


@final
@dataclass(frozen=True, kw_only=True)
class PlaygroundInputs:
    """The content of the page.

    Attributes:
        title: name of the net.
        dataset: name of the data set of the images.
        certificate: what is proven of the net, in float64.
        images: images to choose from, in [0, 1].
        labels: their classes.
        classes: names of the classes.
        contrast: a net beside the first one, if any.
        command: command that makes the page.
        versions: versions of the software.

    Raises:
        ValueError: if the images are not grey or coloured pictures, or the net is not certified in
            float64 for their shape.
    """

    title: str
    dataset: str
    certificate: Certificate
    images: Float[Tensor, "n *shape"]
    labels: Int[Tensor, " n"]
    classes: Sequence[str]
    contrast: Contrast | None = None
    command: str
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape[1:])
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(
                "The playground shows pictures, of 1 or 3 channels, height and width; the net "
                f"takes inputs of {shape}."
            )
        others = [] if self.contrast is None else [self.contrast.certificate]
        for certificate in (self.certificate, *others):
            if certificate.arithmetic != "float64":
                raise ValueError(
                    "`certificate` must be of arithmetic 'float64', in which the page computes; "
                    f"got {certificate.arithmetic!r}."
                )
            if certificate.input_shape != shape:
                raise ValueError(
                    f"`certificate` must be of inputs of {shape}, as the images are; got "
                    f"{certificate.input_shape}."
                )
            if certificate.output_shape != self.certificate.output_shape:
                raise ValueError(
                    f"`contrast` must have outputs of {self.certificate.output_shape}, as the net "
                    f"has; got {certificate.output_shape}."
                )


def write_playground(path: str | os.PathLike[str], inputs: PlaygroundInputs) -> Path:
    """Write a playground, atomically. Equal inputs give equal bytes.

    The page computes class, margin and proved radius in float64. Its radii are never above those
    of the certificate (docs/playground.md).

    Args:
        path: the HTML file.
        inputs: the content.

    Returns:
        The path.

    Raises:
        ValueError: if the page's interpreter lacks an operation of a net.

    Example:
        >>> write_playground("play.html", inputs)  # doctest: +SKIP
    """
    arrays = Arrays()
    content = _content(inputs, arrays)
    return write_page(
        path,
        "play.html",
        package="taut.playground",
        run=inputs,
        bound=rounded_up(inputs.certificate.bound, 5),
        nets=_columns(inputs),
        content=Markup(canonical(content).replace("<", r"\u003c")),
        arrays=Markup(arrays.text()),
        scripts=[Markup(_script(name)) for name in _SCRIPTS],
        drawable=inputs.images.shape[1] == 1,
    )


def _columns(inputs: PlaygroundInputs) -> list[dict[str, str]]:
    """What heads the column of each net."""
    own = f"Lipschitz constant of at most {rounded_up(inputs.certificate.bound, 5)}, proved."
    columns = [{"name": "With a proof", "about": own}]
    if inputs.contrast is not None:
        bound = rounded_up(inputs.contrast.certificate.bound, 5)
        about = f"{inputs.contrast.about} Lipschitz constant proved: {bound}."
        columns.append({"name": inputs.contrast.name, "about": about})
    return columns


def _content(inputs: PlaygroundInputs, arrays: Arrays) -> dict[str, Any]:
    """What the page computes with, as plain values."""
    nets = [inputs.certificate]
    nets += [] if inputs.contrast is None else [inputs.contrast.certificate]
    return {
        "classes": list(inputs.classes),
        "shape": list(inputs.images.shape[1:]),
        "images": arrays.add(image_array(inputs.images)),
        "labels": inputs.labels.tolist(),
        "nets": [net_content(certificate, arrays) for certificate in nets],
    }


def _script(name: str) -> str:
    folder = resources.files("taut.playground") / "templates"
    return (folder / name).read_text(encoding="utf-8")
