r"""Data sets in memory: uint8 images and int64 labels, as two tensors a split."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from taut.data._augment import Variation, augmented


class AbstractSplit(ABC):
    r"""One split of a data set: uint8 images of one shape, with labels."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, int, int]:
        r"""Channels, height and width of one image."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        r"""The device that `fetch` puts images on."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "AbstractSplit":
        r"""The same split, with images fetched to `device`."""

    @abstractmethod
    def pick(self, indices: Int64[Tensor, " n"]) -> "AbstractSplit":
        r"""The split of the images at these indices, in their order."""

    @abstractmethod
    def fetch(
        self,
        order: Int64[Tensor, " n"],
        parts: Sequence[slice],
        *,
        variation: Variation | None = None,
    ) -> Iterator["Split"]:
        r"""Yield the images at `order[part]` for each part; indices are on the CPU.

        Parts are slices without steps; empty ones give splits without images. A `variation` changes
        each image by its index.
        """


@final
@dataclass(frozen=True, eq=False, repr=False)
class Split(AbstractSplit):
    r"""Images and labels of one part of a data set, on one device.

    Images stay uint8 (a quarter of the memory) and become float32 in [0, 1] batch by batch; there
    is no mean or standard deviation, so that a radius is in units of pixels.

    Args:
        images: pixels in 0..255, channels first.
        labels: class indices from 0.

    Raises:
        ValueError: if the shapes or dtypes are not the ones above.

    Example:
        >>> split = Split(torch.full((2, 1, 3, 3), 255, dtype=torch.uint8), torch.tensor([0, 1]))
        >>> split, split.float_images(slice(0, 1)).max()
        (Split(2 images of (1, 3, 3)), tensor(1.))
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(
                "`images` must be uint8 of shape (n, c, h, w); "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}."
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"`labels` must be int64 of shape ({len(self.images)},), one an image; "
                f"got {self.labels.dtype} of shape {tuple(self.labels.shape)}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images of {self.input_shape})"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def device(self) -> torch.device:
        return self.images.device

    def fetch(
        self,
        order: Int64[Tensor, " n"],
        parts: Sequence[slice],
        *,
        variation: Variation | None = None,
    ) -> Iterator["Split"]:
        places = order.to(self.device)
        for part in parts:
            images = self.images[places[part]]
            if variation is not None:
                images = augmented(images, order[part], variation)
            yield Split(images, self.labels[places[part]])

    def pick(self, indices: Int64[Tensor, " n"]) -> "Split":
        indices = indices.to(self.device)
        return Split(self.images[indices], self.labels[indices])

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))

    def take(self, n: int) -> "Split":
        r"""The first `n` images in the order of the files, or all if there are fewer."""
        if n < 1:
            raise ValueError(f"`n` must be at least 1; got {n}.")
        return Split(self.images[:n], self.labels[:n])

    def float_images(self, which: slice | Tensor = slice(None)) -> Float[Tensor, "b c h w"]:
        r"""The images picked by a slice or an index tensor as float32 in [0, 1]."""
        return to_unit_range(self.images[which])


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    r"""A train and a test split with the names of their classes.

    Args:
        name: what `load` was asked for.
        label: how reports name it, for example "CIFAR-10 (JPEG q75)".
        classes: one name a class; labels index it.
        train: the training split.
        test: the test split.

    Raises:
        ValueError: if a split is empty, its image sizes differ from the other's or a label has no
            class.

    Example:
        >>> split = Split(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 1]))
        >>> Dataset("tiny", "Tiny", ("cat", "dog"), train=split, test=split).input_shape
        (1, 3, 3)
    """

    name: str
    label: str
    classes: tuple[str, ...]
    train: Split
    test: Split

    def __post_init__(self) -> None:
        for part, split in (("train", self.train), ("test", self.test)):
            if len(split) == 0:
                raise ValueError(f"`{part}` of {self.name} must hold at least one image; got none.")
            low, high = map(int, split.labels.aminmax())
            if low < 0 or high >= len(self.classes):
                raise ValueError(
                    f"`{part}` of {self.name} must have labels from 0 to {len(self.classes) - 1}; "
                    f"got {low} to {high}."
                )
        if self.train.input_shape != self.test.input_shape:
            raise ValueError(
                f"`train` and `test` of {self.name} must have images of one shape; got "
                f"{self.train.input_shape} and {self.test.input_shape}."
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        r"""Channels, height and width of one image."""
        return self.train.input_shape

    def to(self, device: torch.device | str) -> "Dataset":
        r"""The same data set with both splits on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def to_unit_range(pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Pixels 0..255 as float32 in [0, 1].

    Example:
        >>> to_unit_range(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    return pixels.float().div_(255)


def generator(*key: str | int) -> torch.Generator:
    r"""A CPU generator seeded by all parts of `key`.

    Hashing keeps the streams of (0, 1) and (1, 0) apart, which a sum of seeds would not.

    Example:
        >>> a, b = (torch.rand(3, generator=generator("a", 1)) for _ in range(2))
        >>> torch.equal(a, b)
        True
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
