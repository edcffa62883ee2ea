"""The paper's protocol by data set, and how much of it a machine can do."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

from experiments.reproduce._published import Column, Measure, Radius
from taut.data import Augment
from taut.losses import MultiMargin
from taut.models import kinds
from taut.parametrizations import methods
from taut.training import AbstractSchedule, Exponential, OneCycle, Recipe


@final
@dataclass(frozen=True)
class DataProtocol:
    """What the paper fixes for a data set."""

    label: str  # how tables name it
    input_shape: tuple[int, int, int]  # of an image
    eps_train: float  # the radius that the hinge loss aims at
    radii: Mapping[Radius, str]  # certified and attacked at
    augment: Augment | None = None  # random crops and flips, or None
    # The published data set whose protocol it takes; None for a published one.
    stands_for: str | None = None
    # Whether the values published for that one are shown, without a difference.
    beside: bool = False


_MNIST = DataProtocol("MNIST", (1, 28, 28), 1.5, {"small": "0.3", "large": "1.58"})
_CIFAR10 = DataProtocol(
    "CIFAR-10", (3, 32, 32), 0.5, {"small": "0.1", "large": "36/255"}, Augment(4, flip=True)
)

# The two published ones, then the extensions.
DATASETS: dict[str, DataProtocol] = {
    "mnist": _MNIST,
    "cifar10": _CIFAR10,
    "fashion-mnist": replace(_MNIST, label="Fashion-MNIST", stands_for="mnist"),
    "cifar10-jpeg75": replace(
        _CIFAR10, label="CIFAR-10 (JPEG q75)", stands_for="cifar10", beside=True
    ),
    "fashion-mnist-subset": replace(_MNIST, label="Fashion-MNIST subset", stands_for="mnist"),
}


@final
@dataclass(frozen=True)
class ClassifierSetting:
    """How much of the protocol is done."""

    name: str  # what the command line calls it
    summary: str  # what it is, for the head of a table
    seeds: tuple[int, ...]  # one run each
    epochs: Mapping[str, int]  # by architecture
    lr: float  # peak learning rate of Adam
    schedule: AbstractSchedule  # of the learning rate
    retract_every: int  # as in a recipe
    attacked: int | None  # attack the first so many test images; None is all of them
    # What it is done on where none is named; None for those of the table.
    datasets: tuple[str, ...] | None = None
    # Peak learning rates of the methods that need another one.
    lr_of: Mapping[str, float] = field(default_factory=dict)

    def recipe(
        self, dataset: str, architecture: str, method: str, *, seed: int, epochs: int | None = None
    ) -> Recipe:
        """The training of one net; its radii serve all tables."""
        data = DATASETS[dataset]
        return Recipe(
            name=f"{dataset}-{architecture}-{method.lower()}",
            dataset=dataset,
            validation=0.0,
            input_shape=data.input_shape,
            model=kinds()[architecture](),
            parametrization=methods()[method],
            loss=MultiMargin(data.eps_train),
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

        >>> SETTINGS["short"].measure(Column("pgd"), "1.58").label
        'PGD at 1.58, first 1000'
        """
        attacked = None if column.kind in ("clean", "certified") else self.attacked
        limits = [limit for limit in (column.first, attacked) if limit is not None]
        return Measure(column.kind, eps, min(limits, default=None))


_ONE_CYCLE = ClassifierSetting(
    name="short",
    summary="one-cycle learning rate, for two CPU cores",
    seeds=(0, 1, 2),
    epochs={"small": 60, "large": 10, "fc3": 10},
    lr=5e-3,
    schedule=OneCycle(),
    retract_every=16,
    attacked=1000,
    # Free between two projections: at the common rate its norm grows so far that nothing is left
    # to certify after the next one.
    lr_of={"SVCM": 5e-4},
)

SETTINGS: dict[str, ClassifierSetting] = {
    "short": _ONE_CYCLE,
    "paper": ClassifierSetting(
        name="paper",
        summary="the paper's protocol, for a GPU",
        seeds=(0, 1, 2, 3, 4),
        epochs={"small": 200, "large": 200, "fc3": 200},
        lr=1e-3,
        schedule=Exponential(),
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
