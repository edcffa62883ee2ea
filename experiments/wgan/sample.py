"""Write images of a trained generator into an npz file, which `taut wasserstein` reads.

Example: python -m experiments.wgan.sample runs/generator --out generated.npz
"""

import argparse
import io
from pathlib import Path

import numpy as np

from experiments._record import Record
from experiments._runner import Experiment, option
from experiments.wgan.training import WGANRun
from taut.files import write_atomically


def work(args: argparse.Namespace, record: Record) -> None:
    if args.count < 1:
        raise ValueError(f"`count` must be at least 1; got {args.count}.")
    images = WGANRun.open(args.run).sample(args.count, seed=args.seed)
    content = io.BytesIO()
    np.savez(content, (255 * images).round().byte().numpy())
    write_atomically(args.out, content.getvalue())


EXPERIMENT = Experiment(
    "wgan.sample",
    __doc__,
    work,
    (
        option("run", help="the folder of a generator", type=Path),
        option("--count", 2000, "images"),
        option("--seed", 0, "of the noise"),
        option("--out", help="the npz file to write", type=Path, required=True),
    ),
    records=False,
)

if __name__ == "__main__":
    EXPERIMENT.main()
