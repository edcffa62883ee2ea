"""Points in DataFrames and Series of pandas, which is never imported here."""

import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor


def frame_of(samples: Any) -> Any:
    """The samples as a DataFrame, if they are one or a Series of pandas; else None."""
    pandas = sys.modules.get("pandas")  # they can only be once pandas is imported
    if pandas is None or not isinstance(samples, pandas.DataFrame | pandas.Series):
        return None
    return samples if isinstance(samples, pandas.DataFrame) else samples.to_frame()


def frame_columns(samples: Any) -> tuple[str, ...] | None:
    """The names of the columns of a DataFrame, of a Series its own; None for other samples."""
    frame = frame_of(samples)
    return None if frame is None else tuple(map(str, frame.columns))


def frame_points(name: str, frame: Any) -> Tensor:
    """The rows of a DataFrame as points in float64."""
    kinds = zip(frame.columns, frame.dtypes, strict=True)
    wrong = [f"{column} ({kind})" for column, kind in kinds if kind.kind not in "fiu"]
    if wrong or not len(frame.columns):
        raise ValueError(
            f"`{name}` must have columns of numbers; got {', '.join(wrong) or 'no column'}."
        )
    gaps = [str(column) for column, gap in frame.isna().any().items() if gap]
    if gaps:
        raise ValueError(f"`{name}` must have a number in each cell; {', '.join(gaps)} has gaps.")
    return torch.from_numpy(frame.to_numpy(dtype="float64", copy=True))


def same_columns(
    first: Sequence[str] | None, second: Sequence[str] | None, names: tuple[str, str]
) -> tuple[str, ...] | None:
    """The names of the columns, refused if both samples have names and these differ.

    >>> same_columns(("a", "b"), None, ("p", "q"))
    ('a', 'b')
    """
    if first is None or second is None or tuple(first) == tuple(second):
        known = second if first is None else first
        return None if known is None else tuple(known)
    a, b = next(pair for pair in zip_longest(first, second) if pair[0] != pair[1])
    raise ValueError(
        f"`{names[0]}` and `{names[1]}` must have the same columns in the same order; "
        f"got {a or 'none'} and {b or 'none'} at one place."
    )
