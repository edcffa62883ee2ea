r"""Random changes of training images: what is drawn, and those that are made of single pictures."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from taut._arguments import check_fields, not_negative, switch, unit_share, whole
from taut.data._randaugment import OPERATIONS

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]  # width and height, as Pillow has them
Box = tuple[float, float, float, float]  # left, upper, right and lower, as shares of the size
_LARGEST = 30
_TRIES = 10
_CROP, _COLOUR = 0, 1  # keep the draws of the two apart


@final
@dataclass(frozen=True)
class Augment:
    r"""Random augmentation of training images; 0 or False disables an operation.

    In this order: `resized_crop`, `randaugment`, `flip`, `crop_padding`, `cutout`, `mixup`.

    Args:
        crop_padding: zeros added to each side before a crop of the original size; 0 for no crop.
        flip: mirror every image left to right with probability one half.
        resized_crop: smallest share of a picture's area that a random part of it has, which is
            scaled to the shape of the images (0.08 is usual for ImageNet); its proportions are 3/4
            to 4/3 times those of the shape, on a logarithmic scale. 0 for no such crop. Streamed
            pictures are cropped before they are brought to the shape, pictures in memory after.
        randaugment: how many operations of RandAugment change each image, drawn from fourteen.
        magnitude: how strongly, from 0 to 30.
        cutout: side, in pixels, of a square of zeros about a random pixel of each image; what of it
            lies outside is lost.
        mixup: parameter of the beta distribution, the same twice, that draws for each image what
            share of it stays; the rest is another image of its batch, likewise changed. The loss is
            the mean of those for both labels with these shares. Streamed pictures are decoded twice
            as often.

    Raises:
        ValueError: if a setting is out of its range.

    Reference:
        Szegedy et al. (2015), arXiv:1409.4842, for resized crops; Cubuk et al. (2020),
        *RandAugment*, arXiv:1909.13719, with the operations and ranges of torchvision; DeVries and
        Taylor (2017), *Cutout*, arXiv:1708.04552; Zhang et al. (2018), *mixup*, arXiv:1710.09412,
        there with one share for all images of a batch.

    Example:
        >>> Augment(crop_padding=0, resized_crop=0.08, randaugment=2).changes_pictures
        True
    """

    crop_padding: int = 4
    flip: bool = True
    resized_crop: float = 0.0
    randaugment: int = 0
    magnitude: float = 9.0
    cutout: int = 0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, whole, "crop_padding", "randaugment", "cutout", least=0)
        check_fields(self, unit_share, "resized_crop")
        check_fields(self, switch, "flip")
        check_fields(self, not_negative, "magnitude", "mixup")
        if self.magnitude > _LARGEST:
            raise ValueError(f"`magnitude` must be from 0 to {_LARGEST}; got {self.magnitude}.")

    @property
    def changes_pictures(self) -> bool:
        r"""Whether any operation changes single pictures, not only whole batches."""
        return self.resized_crop > 0 or self.randaugment > 0


@final
@dataclass(frozen=True)
class Variation:
    r"""How the pictures of an epoch change, as a pure function of seed, epoch and index.

    Args:
        augment: what to do.
        seed: of the run.
        epoch: from 0.

    Example:
        >>> varied = Variation(Augment(resized_crop=0.5), seed=0, epoch=0)
        >>> varied.box(7, (30, 20), (8, 8)) == varied.box(7, (30, 20), (8, 8))
        True
    """

    augment: Augment
    seed: int
    epoch: int

    def box(self, index: int, size: Size, target: Size) -> Box | None:
        r"""The part to cut out of picture `index` of a size; None for what covers the target."""
        smallest, draws = self.augment.resized_crop, self._draws(index, _CROP)
        if not smallest:
            return None
        wanted = size[1] * target[0] / (size[0] * target[1])  # w/h of shares that keep proportions
        for area, ratio, left, upper in draws.random((_TRIES, 4)):
            share = smallest + area * (1 - smallest)
            ratio = wanted * math.exp((2 * ratio - 1) * math.log(4 / 3))
            width, height = math.sqrt(share * ratio), math.sqrt(share / ratio)
            if max(width, height) <= 1:
                left, upper = left * (1 - width), upper * (1 - height)
                return left, upper, left + width, upper + height
        width, height = min(1.0, wanted), min(1.0, 1 / wanted)  # the largest part in the middle
        return (1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2

    def randaugmented(self, index: int, image: "Image") -> "Image":
        r"""Picture `index` after its operations of RandAugment."""
        draws = self._draws(index, _COLOUR)
        for which, sign in draws.random((self.augment.randaugment, 2)):
            operation = OPERATIONS[int(which * len(OPERATIONS))]
            strength = self.augment.magnitude / _LARGEST
            image = operation(image, strength if sign < 0.5 else -strength)
        return image

    def _draws(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, index, purpose])


def resized(image: "Image", size: Size, box: Box | None) -> "Image":
    """A part of a picture at a size (bicubic); without a part the middle that covers the size."""
    if box is not None:
        width, height = image.size
        left, upper, right, lower = box
        within = left * width, upper * height, min(right, 1.0) * width, min(lower, 1.0) * height
        from PIL.Image import Resampling

        return image.resize(size, Resampling.BICUBIC, box=within)
    if image.size == size:
        return image
    from PIL import ImageOps

    return ImageOps.fit(image, size)


def augmented(
    images: UInt8[Tensor, "b c h w"], indices: Int64[Tensor, " b"], variation: Variation
) -> UInt8[Tensor, "b c h w"]:
    """Images in memory, changed as pictures of their size; of one or three channels."""
    arrays = [
        augmented_array(image, index, variation)
        for image, index in zip(images.cpu().numpy(), indices.tolist(), strict=True)
    ]
    changed = np.stack(arrays) if arrays else np.empty(images.shape, np.uint8)
    return torch.from_numpy(changed).to(images.device)


def augmented_array(pixels: np.ndarray, index: int, variation: Variation) -> np.ndarray:
    """One image (c, h, w), likewise."""
    if len(pixels) not in (1, 3):
        raise ValueError(f"Pictures that change must have 1 or 3 channels; got {len(pixels)}.")
    try:
        from PIL import Image
    except ModuleNotFoundError:
        message = "Changing pictures needs Pillow: pip install 'taut[cli]'."
        raise ModuleNotFoundError(message) from None
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())
    image = resized(image, image.size, variation.box(index, image.size, image.size))
    return as_pixels(variation.randaugmented(index, image))


def as_pixels(image: "Image") -> np.ndarray:
    """The pixels (c, h, w) of a grey or coloured picture."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
