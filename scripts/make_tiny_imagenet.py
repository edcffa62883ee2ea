"""Write made pictures in the two forms in which `taut train imagenet-large` takes ImageNet.

    python scripts/make_tiny_imagenet.py made
    taut train imagenet-large --data-dir made/folder --input-shape 3,16,16 --classes 4 \
        --epochs 1 --batch-size 16 --warmup 0.5 --workers 1 --devices 2
    taut train imagenet-large --data-dir made/shards --dataset webdataset ...

Each class has a colour, so that a net learns something. Needs Pillow and NumPy, no taut.
"""

import argparse
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

_COUNTS = {"train": 48, "val": 16}
_IN_A_SHARD = 16


def main(folder: Path, classes: int, size: int) -> None:
    """Write `folder/folder` and `folder/shards`."""
    random = np.random.default_rng(0)
    for part, count in _COUNTS.items():
        pictures = [picture(random, at % classes, classes, size) for at in range(count)]
        for at, data in enumerate(pictures):
            place = folder / "folder" / part / f"n{at % classes:08}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{at:05}.JPEG").write_bytes(data)
        (folder / "shards").mkdir(exist_ok=True)
        for first in range(0, count, _IN_A_SHARD):
            shard = folder / "shards" / f"{part}-{first // _IN_A_SHARD:06}.tar"
            with tarfile.open(shard, "w") as tar:
                for at in range(first, min(first + _IN_A_SHARD, count)):
                    add(tar, f"{at:05}.jpg", pictures[at])
                    add(tar, f"{at:05}.cls", str(at % classes).encode())


def picture(random: np.random.Generator, label: int, classes: int, size: int) -> bytes:
    """A JPEG of about `size` pixels a side: coarse noise around the colour of its class."""
    height, width = random.integers(size * 3 // 4, size * 5 // 4, 2)
    colour = 255 * (label + 1) / (classes + 1) * np.array([1, 0.5, 0]) + np.array(
        [0, 0, label * 30]
    )
    coarse = (colour + random.normal(0, 40, (4, 4, 3))).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to an archive."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, default=4, help="from 1 to 16 (default: 4)")
    parser.add_argument(
        "--size", type=int, default=80, help="pixels of a side, about, from 2 (default: 80)"
    )
    chosen = parser.parse_args()
    if not 1 <= chosen.classes <= _COUNTS["val"]:
        parser.error(f"--classes must be from 1 to {_COUNTS['val']}; got {chosen.classes}")
    if chosen.size < 2:
        parser.error(f"--size must be at least 2; got {chosen.size}")
    try:
        main(chosen.folder, chosen.classes, chosen.size)
    except OSError as error:
        parser.error(f"cannot write to {chosen.folder}: {error.strerror}")
