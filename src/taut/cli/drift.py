"""`taut drift`."""

from typing import Annotated

import tyro

from taut.cli.shared import OptionalFolder
from taut.training import Device, choose_device
from taut.wasserstein import FEWEST, DriftSettings, read_source
from taut.wasserstein import drift as test_for_drift

_Reference = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REF")]
_New = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NEW")]


def drift(
    ref: _Reference,
    new: _New,
    *,
    level: float = 0.05,
    standardise: bool = False,
    fail_on_drift: bool = False,
    json: bool = False,
    figure: OptionalFolder = None,
    data_dir: OptionalFolder = None,
    samples: int = 2000,
    steps: int = 100,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Test whether new points come from the distribution of reference points.

    REF and NEW are files (npz, npy, csv, parquet; one point a row), folders of images or data sets.
    A critic is trained on one part of the points and tested on the other: without drift, the alarm
    is false with probability at most the level. Exit code 0, with or without drift; with
    --fail-on-drift 1 if there is an alarm.

    Example: taut drift january.csv february.csv --standardise

    Example: taut drift reference.parquet today.parquet --level 0.01 --fail-on-drift --json

    Args:
        ref: the points that are as they should be.
        new: the points to compare with them.
        level: probability of a false alarm.
        standardise: divide each feature by its standard deviation in the reference, for features of
            different units.
        fail_on_drift: end with exit code 1 if there is an alarm.
        json: print JSON, with the part of each feature.
        figure: file for a figure of the scores, such as drift.png.
        data_dir: the folder with a data set's files, or with one folder for each data set.
        samples: maximal number of points of each sample.
        steps: training steps of the critic.
        seed: seed for the choice of points, the weights and the cut.
        device: auto uses a GPU if there is one.
    """
    if samples < FEWEST:  # refused before the work, as all that would fail after it
        raise ValueError(f"`samples` must be at least {FEWEST}; got {samples}.")
    if figure is not None and (figure.is_dir() or not figure.parent.is_dir()):
        raise ValueError(f"`figure` must be a file in a folder that exists; got {figure}.")
    first = read_source(ref, data_dir=data_dir, count=samples, seed=seed)
    second = read_source(new, data_dir=data_dir, count=samples, seed=seed + 1)
    result = test_for_drift(
        first.points,
        second.points,
        level=level,
        standardise=standardise,
        features=first.check_columns(second, ("reference", "new")),
        settings=DriftSettings(steps=steps, seed=seed),
        device=choose_device(device),
    )
    print(result.to_json() if json else result)
    if figure is not None:
        drawn = result.plot().get_figure(root=True)
        assert drawn is not None
        drawn.savefig(figure)
    if fail_on_drift and result.alarm:
        raise RuntimeError(f"drift at level {level:g}: p-value {result.p_value:.3g}.")
