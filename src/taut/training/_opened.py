"""A run with its model and its test images in memory, or on their way there."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from taut.certification import Arithmetic, Certification, as_rational, certify_batches
from taut.data import AbstractSplit, Dataset, StreamedDataset
from taut.training._devices import Device, choose_device
from taut.training._run import Run

_BATCH = 256


@final
@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run, its model and its test images on one device.

    Args:
        run: the run folder.
        model: in eval mode.
        data: its data set; images that training streamed from disk are streamed again.
        test: the test images, on the device.
    """

    run: Run
    model: nn.Module
    data: Dataset | StreamedDataset
    test: AbstractSplit

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        device: Device = "auto",
        data_dir: str | os.PathLike[str] | None = None,
    ) -> "OpenedRun":
        """The run in a folder; arguments as of :meth:`Run.open` and :func:`choose_device`.

        Raises:
            FileNotFoundError: if the folder holds no run, no trained model, or the data are gone.
            ValueError: if a file is damaged, or there is no such device.
        """
        run, chosen = Run.open(folder, data_dir), choose_device(device)
        model = run.model(chosen)
        try:
            data = run.data()
        except FileNotFoundError as error:
            hint = (
                "" if data_dir else " If the data set has moved, `data_dir` says where it is now."
            )
            raise FileNotFoundError(f"{error}{hint}") from None
        return cls(run, model, data, data.test.to(chosen))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.data.input_shape

    def radii(self, eps: Sequence[str] = ()) -> tuple[str, ...]:
        """The radii asked for, or those of the recipe, in rising order."""
        recipe = replace(self.run.recipe, eps=tuple(eps) or self.run.recipe.eps)  # checks them
        return tuple(sorted(recipe.eps, key=as_rational))

    def head(self, limit: int) -> tuple[Tensor, Tensor]:
        """The first `limit` test images and their labels."""
        check_limit(limit)
        (part,) = self.test.fetch(torch.arange(len(self.test), device="cpu"), [slice(0, limit)])
        return part.float_images(), part.labels

    def certify(
        self,
        eps: Sequence[str],
        arithmetic: Arithmetic = "float64",
        model: nn.Module | None = None,
    ) -> Certification:
        """Certify the run's model, or another one, on the whole test set, batch by batch."""
        order = torch.arange(len(self.test), device="cpu")
        parts = [slice(start, start + _BATCH) for start in range(0, len(order), _BATCH)]
        batches = ((p.float_images(), p.labels) for p in self.test.fetch(order, parts))
        model, shape = model or self.model, self.data.input_shape
        return certify_batches(model, batches, shape, eps, arithmetic=arithmetic)

    def title(self, count: int | None = None) -> str:
        """The data set and how many test images, all by default; and whether training goes on."""
        count = len(self.test) if count is None else count
        title = f"{self.data.label}, {count:,} test image{'' if count == 1 else 's'}"
        done, epochs = len(self.run.history()), self.run.recipe.epochs
        return title if done >= epochs else f"{title}, after {done} of {epochs} epochs"


def check_limit(limit: int) -> None:
    """Refuse a limit below one image."""
    if limit < 1:
        raise ValueError(f"`limit` must be at least 1; got {limit}.")
