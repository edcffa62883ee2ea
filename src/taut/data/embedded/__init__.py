r"""A class-balanced subset of Fashion-MNIST that travels with the package."""

from importlib import resources

import numpy as np

from taut.data.checked import checked_split
from taut.data.idx import CLOTHES
from taut.data.sets import Dataset

NAME = "fashion-mnist-subset"
FILE = "fashion_mnist_subset.npz"


def read() -> Dataset:
    r"""The first 200 training and 100 test images of each class, in the original order.

    Example:
        >>> read().train.labels.bincount().tolist()
        [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]
    """
    with resources.files(__name__).joinpath(FILE).open("rb") as file, np.load(file) as arrays:
        train, test = (
            checked_split(arrays[f"x_{part}"][:, None], arrays[f"y_{part}"], len(CLOTHES), FILE)
            for part in ("train", "test")
        )
    return Dataset(NAME, "Fashion-MNIST (subset of 2,000 + 1,000)", CLOTHES, train, test)
