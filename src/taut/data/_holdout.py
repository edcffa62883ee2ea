r"""A test split out of a data set that comes without one."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from taut._arguments import check_fields, unit_share, whole
from taut.data._sets import Split, generator


@final
@dataclass(frozen=True)
class Holdout:
    r"""The share of a data set without a test split to hold out, and the seed.

    Args:
        fraction: of the images, strictly between 0 and 1.
        seed: of the choice.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> pool = Split(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10))
        >>> train, test = Holdout(0.3, seed=1).split(pool)
        >>> len(train), len(test)
        (7, 3)
    """

    fraction: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, unit_share, "fraction", zero=False, one=False)
        check_fields(self, whole, "seed", least=0)

    def split(self, pool: Split) -> tuple[Split, Split]:
        r"""Split a pool at random into train and test; both keep its order."""
        train, test = (Split(pool.images[at], pool.labels[at]) for at in self.choose(len(pool)))
        return train, test

    def choose(self, total: int) -> tuple[Tensor, Tensor]:
        r"""Sorted indices of the train and the test images among `total`.

        Raises:
            ValueError: if one of the two would be empty.
        """
        count = round(total * self.fraction)
        if not 0 < count < total:
            raise ValueError(
                f"`fraction` must leave images on both sides of {total}; got {self.fraction}."
            )
        order = torch.randperm(total, generator=generator("holdout", self.seed), device="cpu")
        return order[count:].sort().values, order[:count].sort().values


def check_holdout(holdout: Holdout | None, source: object, *, has_test: bool) -> None:
    """Refuse to hold images out of data with a test split, and data that have neither."""
    if has_test and holdout is not None:
        raise ValueError(
            f"`holdout` must be None for data with a test split, as {source} has; got {holdout}."
        )
    if not has_test and holdout is None:
        raise ValueError(
            f"{source}: must have parts train and test, or `holdout` must say "
            "which share of the images to test on."
        )
