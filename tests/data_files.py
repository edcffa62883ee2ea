"""Made files of the published data sets, in their own forms: a few images of each."""

import gzip
import io
from pathlib import Path

import numpy as np
from PIL import Image

from taut.data._named import JPEG75, NAMED, TINY_IMAGENET

IDX_STYLES = ["{0}-{1}-ubyte", "{0}-{1}-ubyte.gz", "{0}.{1}-ubyte", "{0}.{1}-ubyte.gz"]
CIFAR_FORMS = ["python", "binary"]


def random_arrays(n: int, shape: tuple[int, ...], classes: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    return images, np.arange(n) % classes


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    data = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder: Path, style: str = IDX_STYLES[0], size=(5, 4)) -> dict:
    written = {}
    for part, n in (("train", 12), ("t10k", 7)):
        images, labels = random_arrays(n, size, 10, seed=n)
        write_idx(folder / style.format(f"{part}-images", "idx3"), images)
        write_idx(folder / style.format(f"{part}-labels", "idx1"), labels)
        written[part] = images, labels
    return written


def as_python2_pickle(content: dict) -> bytes:
    """Protocol 2, with byte strings for text and arrays built by name, as CIFAR's files are."""
    out = [b"\x80\x02}("]

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def number(value: int) -> bytes:
        return b"J" + int(value).to_bytes(4, "little", signed=True)

    for key, value in content.items():
        out.append(text(key))
        if isinstance(value, np.ndarray):
            out.append(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t")
            out.append(text(b"b") + b"tR(K\x01(" + b"".join(map(number, value.shape)) + b"t")
            out.append(b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|"))
            out.append(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text(value.tobytes()))
            out.append(b"tb")
        else:
            out.append(b"](" + b"".join(map(number, value)) + b"e")
    return b"".join(out) + b"u."


def cifar_files(name: str, form: str, per_file: int = 3) -> tuple[str, str, dict, dict]:
    """Folder, archive, bytes by file name, and the images and labels that they hold."""
    classes = 10 if name == "cifar10" else 100
    stem = name.replace("cifar", "cifar-")
    split_names = {"train": ["train"], "test": ["test"]}
    if name == "cifar10":
        split_names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    files, truth = {}, {}
    for part, file_names in split_names.items():
        arrays = []
        for at, file_name in enumerate(file_names):
            rows, labels = random_arrays(per_file, (3072,), classes, seed=at)
            labels = (labels + at) % classes
            arrays.append((rows, labels))
            if form == "python":
                key = b"labels" if name == "cifar10" else b"fine_labels"
                files[file_name] = as_python2_pickle({b"data": rows, key: labels.tolist()})
            else:
                columns = [labels[:, None]] if name == "cifar10" else [labels[:, None] * 0 + 77]
                columns += [] if name == "cifar10" else [labels[:, None]]
                records = np.hstack([*columns, rows]).astype(np.uint8)
                files[f"{file_name}.bin"] = records.tobytes()
        images = np.concatenate([rows for rows, _ in arrays]).reshape(-1, 3, 32, 32)
        truth[part] = images, np.concatenate([labels for _, labels in arrays])
    folder = {"python": "batches-py", "binary": "batches-bin"}[form]
    folder = f"{stem}-{folder if name == 'cifar10' else form}"
    return folder, f"{stem}-{form}.tar.gz", files, truth


def jpeg(side: int, seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def tiny_imagenet_files(classes: int = 200, side: int = 64) -> dict[str, bytes]:
    """One training and one validation picture a class, the labels of the latter, and a test one.

    Validation pictures have the classes in falling order.
    """
    wnids = [f"n{at:08}" for at in range(classes)]
    train = {f"train/{wnid}/images/{wnid}_0.JPEG": jpeg(side, at) for at, wnid in enumerate(wnids)}
    boxes = {f"train/{wnid}/{wnid}_boxes.txt": b"" for wnid in wnids}
    val = {f"val/images/val_{at}.JPEG": jpeg(side, 1000 + at) for at in range(classes)}
    rows = [f"val_{at}.JPEG\t{wnid}\t0\t0\t9\t9\n" for at, wnid in enumerate(wnids[::-1])]
    labels = {"val/val_annotations.txt": "".join(rows).encode()}
    return train | boxes | val | labels | {"test/images/test_0.JPEG": jpeg(side, 0)}


def by_class_files(classes: list[str], side: int, test: str = "test") -> dict[str, bytes]:
    """Two training pictures and a test picture a class."""
    return {
        f"{part}/{name}/{at}.jpg": jpeg(side, 3 * label + at)
        for part, count in (("train", 2), (test, 1))
        for label, name in enumerate(classes)
        for at in range(count)
    }


def write_data(name: str, folder: Path, classes: int) -> Path:
    """The files of a data set that `taut.data.load` knows; pictures by class are of 72 x 72."""
    if name in ("mnist", "fashion-mnist"):
        write_mnist(folder, size=(28, 28))
    elif name in ("cifar10", "cifar100"):
        below, _, files, _ = cifar_files(name, "python")
        write_files(folder / below, files)
    elif name == JPEG75:
        write_files(folder, by_class_files(NAMED[JPEG75].classes, 32))
    elif name == TINY_IMAGENET:
        write_files(folder / "tiny-imagenet-200", tiny_imagenet_files())
    else:
        assert name == "folder", f"no files are made for {name}"
        write_files(folder, by_class_files([f"n{at:08}" for at in range(classes)], 72, "val"))
    return folder
