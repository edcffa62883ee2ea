r"""MNIST and Fashion-MNIST from their original idx files, compressed or not."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from taut.data.checked import checked_split, missing
from taut.data.sets import Dataset, Split

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_FILES = "{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz"
MNIST_HOW = f"Download {_FILES} from https://ossci-datasets.s3.amazonaws.com/mnist/."
FASHION_HOW = f"Download {_FILES} from https://github.com/zalandoresearch/fashion-mnist."


def mnist(folder: Path) -> Dataset:
    r"""MNIST from the folder of its four idx files (LeCun, Cortes and Burges)."""
    train, test = (_read_split(folder, part, MNIST_HOW) for part in ("train", "t10k"))
    return Dataset("mnist", "MNIST", DIGITS, train, test)


def fashion_mnist(folder: Path) -> Dataset:
    r"""Fashion-MNIST from the folder of its four idx files (Xiao, Rasul and Vollgraf, 2017)."""
    train, test = (_read_split(folder, part, FASHION_HOW) for part in ("train", "t10k"))
    return Dataset("fashion-mnist", "Fashion-MNIST", CLOTHES, train, test)


def read_idx(path: Path, ndim: int) -> np.ndarray:
    r"""The uint8 array of `ndim` dimensions in an idx file, compressed if it ends in .gz.

    Args:
        path: the file.
        ndim: how many dimensions it must have: 3 for images, 1 for labels.

    Returns:
        A read-only array.

    Raises:
        ValueError: if the file is not such an idx file or is cut short.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
        >>> read_idx(path, 1).tolist()
        [7, 9]
    """
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: not a whole gzip file: {error}.") from error
    magic, header = bytes((0, 0, 8, ndim)), 4 + 4 * ndim
    if data[:4] != magic:
        raise ValueError(
            f"{path}: an idx file of bytes in {ndim} dimensions starts with {magic.hex()}; "
            f"got {data[:4].hex() or 'an empty file'}."
        )
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, header, 4)]
    if len(data) != header + math.prod(shape):
        raise ValueError(
            f"{path}: the header promises {header + math.prod(shape)} bytes for shape "
            f"{tuple(shape)}; got {len(data)}."
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read_split(folder: Path, part: str, how: str) -> Split:
    images_path = _find(folder, f"{part}-images", "idx3-ubyte", how)
    labels_path = _find(folder, f"{part}-labels", "idx1-ubyte", how)
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    return checked_split(images[:, None], labels, 10, labels_path)


def _find(folder: Path, stem: str, kind: str, how: str) -> Path:
    for name in (f"{stem}-{kind}", f"{stem}-{kind}.gz", f"{stem}.{kind}", f"{stem}.{kind}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise missing(f"{stem}-{kind}[.gz]", folder, how)
