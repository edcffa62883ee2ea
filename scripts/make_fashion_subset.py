r"""Writes the Fashion-MNIST subset that the package embeds, from the original idx files.

The first 200 training and 100 test images of each class, in their original order; the same bytes
on every run (zip entries carry no time of writing). Run from the repository root:

    python scripts/make_fashion_subset.py --data-dir DIR_OF_FASHION_MNIST
"""

import argparse
from pathlib import Path

import numpy as np

from taut.data import Split, load
from taut.data._named import EMBEDDED_FILE

TARGET = Path(__file__).parents[1] / "src/taut/data/embedded" / EMBEDDED_FILE


def first_of_each_class(split: Split, count: int) -> tuple[np.ndarray, np.ndarray]:
    r"""The first `count` images of each class with their labels, in the original order."""
    labels = split.labels.numpy()
    classes = np.unique(labels)
    keep = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in classes]))
    return split.images.numpy()[keep, 0], labels[keep].astype(np.uint8)


def main() -> None:
    r"""Reads the arguments and writes the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the idx files")
    parser.add_argument("--target", type=Path, default=TARGET, help="where to write")
    options = parser.parse_args()
    data = load("fashion-mnist", options.data_dir)
    x_train, y_train = first_of_each_class(data.train, 200)
    x_test, y_test = first_of_each_class(data.test, 100)
    np.savez_compressed(
        options.target, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test
    )


if __name__ == "__main__":
    main()
