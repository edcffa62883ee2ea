"""The paper's protocol by data set, and how much of it a machine can do."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

from taut.data import Augment
from taut.models import ModelConfig
from taut.models.config import PaperArchitecture
from taut.reproduce._table import Column, Measure, Radius
from taut.training import MultiMarginLoss, Recipe, Schedule


@final
@dataclass(frozen=True)
class DataProtocol:
    """What the paper fixes for a data set.

    Args:
        label: how tables name it.
        input_shape: of an image.
        eps_train: the radius that the hinge loss aims at.
        radii: certified and attacked at.
        augment: random crops and flips, or None.
        stands_for: the published data set whose protocol it takes; None for a published one.
        beside: whether the values published for that one are shown, without a difference.
    """

    label: str
    input_shape: tuple[int, int, int]
    eps_train: float
    radii: Mapping[Radius, str]
    augment: Augment | None = None
    stands_for: str | None = None
    beside: bool = False


_MNIST = DataProtocol("MNIST", (1, 28, 28), 1.5, {"small": "0.3", "large": "1.58"})
_CIFAR10 = DataProtocol(
    "CIFAR-10", (3, 32, 32), 0.5, {"small": "0.1", "large": "36/255"}, Augment(4, flip=True)
)

DATASETS: dict[str, DataProtocol] = {
    "mnist": _MNIST,
    "cifar10": _CIFAR10,
    "fashion-mnist": replace(_MNIST, label="Fashion-MNIST", stands_for="mnist"),
    "cifar10-jpeg75": replace(
        _CIFAR10, label="CIFAR-10 (JPEG q75)", stands_for="cifar10", beside=True
    ),
    "fashion-mnist-subset": replace(_MNIST, label="Fashion-MNIST subset", stands_for="mnist"),
}
"""By the name that `taut.data.load` knows: the two published ones, then the extensions."""


@final
@dataclass(frozen=True)
class Setting:
    """How much of the protocol is done.

    Args:
        name: what the command line calls it.
        summary: what it is, for the head of a table.
        seeds: one run each.
        epochs: by architecture.
        lr: peak learning rate of Adam.
        schedule: of the learning rate.
        retract_every: as in a recipe.
        attacked: attack the first so many test images; None is all of them.
        datasets: what it is done on where none is named; None for those of the table.
        lr_of: peak learning rates of the methods that need another one.
    """

    name: str
    summary: str
    seeds: tuple[int, ...]
    epochs: Mapping[PaperArchitecture, int]
    lr: float
    schedule: Schedule
    retract_every: int
    attacked: int | None
    datasets: tuple[str, ...] | None = None
    lr_of: Mapping[str, float] = field(default_factory=dict)

    def recipe(
        self,
        dataset: str,
        architecture: PaperArchitecture,
        method: str,
        *,
        seed: int,
        epochs: int | None = None,
    ) -> Recipe:
        """The training of one net.

        Args:
            dataset: one of `DATASETS`.
            architecture: of the paper.
            method: name of a parametrization.
            seed: of the run.
            epochs: instead of the setting's.

        Returns:
            A recipe whose radii serve all tables.

        Raises:
            ValueError: if there is no such parametrization, or a number is out of its range.

        Example:
            >>> SETTINGS["paper"].recipe("mnist", "small", "RKO", seed=3).epochs
            200
        """
        data = DATASETS[dataset]
        return Recipe(
            name=f"{dataset}-{architecture}-{method.lower()}",
            dataset=dataset,
            model=ModelConfig(architecture, data.input_shape, parametrization=method),
            loss=MultiMarginLoss(data.eps_train),
            lr=self.lr_of.get(method, self.lr),
            schedule=self.schedule,
            epochs=self.epochs[architecture] if epochs is None else epochs,
            batch_size=128,
            retract_every=self.retract_every,
            augment=data.augment,
            seed=seed,
            eps=tuple(data.radii.values()),
        )

    def measure(self, column: Column, eps: str) -> Measure:
        """What a column means by this setting: attacks are on its first images at most.

        Example:
            >>> SETTINGS["short"].measure(Column("pgd"), "1.58").label
            'PGD at 1.58, first 1000'
        """
        limits = [column.first]
        if column.kind not in ("clean", "certified"):
            limits.append(self.attacked)
        images = min((limit for limit in limits if limit is not None), default=None)
        return Measure(column.kind, eps, images)


_ONE_CYCLE = Setting(
    name="short",
    summary="one-cycle learning rate, for two CPU cores",
    seeds=(0, 1, 2),
    epochs={"small": 60, "large": 10, "fc3": 10},
    lr=5e-3,
    schedule="one-cycle",
    retract_every=16,
    attacked=1000,
    # Free between two projections: at the common rate its norm grows so far that nothing is left
    # to certify after the next one.
    lr_of={"SVCM": 5e-4},
)

SETTINGS: dict[str, Setting] = {
    "short": _ONE_CYCLE,
    "paper": Setting(
        name="paper",
        summary="the paper's protocol, for a GPU",
        seeds=(0, 1, 2, 3, 4),
        epochs={"small": 200, "large": 200, "fc3": 200},
        lr=1e-3,
        schedule="exponential",
        retract_every=0,
        attacked=None,
    ),
    "quick": replace(
        _ONE_CYCLE,
        name="quick",
        summary="one epoch on 2,000 embedded images: shows that all works, and nothing else",
        seeds=(0,),
        epochs={"small": 1, "large": 1, "fc3": 1},
        attacked=8,
        datasets=("fashion-mnist-subset",),
    ),
}
"""By the name that the command line knows."""
