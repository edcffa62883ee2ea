"""The operations of RandAugment, by Pillow: of a picture and a strength from -1 to 1.

Ranges are those of torchvision's `RandAugment`; shears and rotations are about the middle. What is
moved in from outside is black. Operations without a direction take the absolute strength.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_SHEAR, _SHIFT, _DEGREES, _ENHANCE, _BITS = 0.3, 150 / 331, 30.0, 0.9, 4


def _same(image: "Image", strength: float) -> "Image":
    return image


def _shear_x(image: "Image", strength: float) -> "Image":
    slope = _SHEAR * strength
    return _moved(image, (1, slope, -slope * image.height / 2, 0, 1, 0))


def _shear_y(image: "Image", strength: float) -> "Image":
    slope = _SHEAR * strength
    return _moved(image, (1, 0, 0, slope, 1, -slope * image.width / 2))


def _shift_x(image: "Image", strength: float) -> "Image":
    return _moved(image, (1, 0, round(_SHIFT * strength * image.width), 0, 1, 0))


def _shift_y(image: "Image", strength: float) -> "Image":
    return _moved(image, (1, 0, 0, 0, 1, round(_SHIFT * strength * image.height)))


def _rotate(image: "Image", strength: float) -> "Image":
    from PIL.Image import Resampling

    return image.rotate(_DEGREES * strength, Resampling.BILINEAR)


def _moved(image: "Image", inverse: tuple[float | int, ...]) -> "Image":
    """The picture whose pixel (x, y) is that of (ax + by + c, dx + ey + f) before."""
    from PIL.Image import Resampling, Transform

    return image.transform(image.size, Transform.AFFINE, inverse, Resampling.BILINEAR)


def _enhanced(name: str) -> Callable[["Image", float], "Image"]:
    def enhance(image: "Image", strength: float) -> "Image":
        from PIL import ImageEnhance

        return vars(ImageEnhance)[name](image).enhance(1 + _ENHANCE * strength)

    return enhance


def _posterize(image: "Image", strength: float) -> "Image":
    from PIL import ImageOps

    return ImageOps.posterize(image, 8 - round(_BITS * abs(strength)))


def _solarize(image: "Image", strength: float) -> "Image":
    from PIL import ImageOps

    return ImageOps.solarize(image, round(255 * (1 - abs(strength))))


def _autocontrast(image: "Image", strength: float) -> "Image":
    from PIL import ImageOps

    return ImageOps.autocontrast(image)


def _equalize(image: "Image", strength: float) -> "Image":
    from PIL import ImageOps

    return ImageOps.equalize(image)


OPERATIONS: tuple[Callable[["Image", float], "Image"], ...] = (
    _same,
    _shear_x,
    _shear_y,
    _shift_x,
    _shift_y,
    _rotate,
    *map(_enhanced, ("Brightness", "Color", "Contrast", "Sharpness")),
    _posterize,
    _solarize,
    _autocontrast,
    _equalize,
)
"""All fourteen, in the order of torchvision."""
