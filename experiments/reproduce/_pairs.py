"""Table 4: how much of a Wasserstein-1 distance a critic proves, by parametrization."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

from experiments.reproduce._published import PAPER

NAME = "table4"
TITLE = "Lower bounds of Wasserstein-1 by the critic's parametrization and activation"
SOURCE = f"{PAPER}, table 4"


@final
@dataclass(frozen=True)
class Pair:
    """Two samples whose distance is bounded."""

    label: str  # how tables name the pair
    first: str  # the data set whose training images are the first sample
    # That of the other one; None for samples of a WGAN-GP trained on the first.
    second: str | None = None
    side: int | None = None  # pixels that images are brought to; None leaves them
    # Lower bounds by critic; empty where there are none.
    published: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None  # what a reader must know of the published ones

    @property
    def datasets(self) -> tuple[str, ...]:
        """What must be at hand."""
        return (self.first,) if self.second is None else (self.first, self.second)


# By critic as `experiments.wgan.comparison.paper_critics` names it, in its order.
_CRITICS = tuple(f"{m}, {a}" for a in ("MaxMin", "ReLU") for m in ("OSSN", "RKO", "BCOP"))
_STL10 = dict(zip(_CRITICS, (7.39, 8.95, 9.91, 7.06, 7.82, 8.28), strict=True))
_CIFAR10 = dict(zip(_CRITICS, (3.29, 4.95, 5.34, 3.07, 4.20, 4.39), strict=True))
_UPSAMPLED = (
    "The critic released for CIFAR-10 doubles the image's side first, a gain of 2 that its "
    "Lipschitz check does not count; ours takes the image as it is."
)

# By the word that picks a pair: the two published ones, then the extensions.
PAIRS: dict[str, Pair] = {
    "stl10": Pair(
        "STL-10 (64 x 64) against its WGAN-GP samples",
        "stl10",
        side=64,
        published=_STL10,
        note="Our STL-10 is its 5,000 labelled training images.",
    ),
    "cifar10": Pair(
        "CIFAR-10 against its WGAN-GP samples", "cifar10", published=_CIFAR10, note=_UPSAMPLED
    ),
    "cifar10-jpeg75": Pair(
        "CIFAR-10 (JPEG q75) against its WGAN-GP samples",
        "cifar10-jpeg75",
        published=_CIFAR10,
        note=f"CIFAR-10 (JPEG q75) is a data set of its own. {_UPSAMPLED}",
    ),
    "mnist": Pair("MNIST against its WGAN-GP samples", "mnist"),
    "fashion-mnist": Pair("Fashion-MNIST against its WGAN-GP samples", "fashion-mnist"),
    "mnist-fashion-mnist": Pair("MNIST against Fashion-MNIST", "mnist", "fashion-mnist"),
    "fashion-mnist-subset": Pair(
        "Fashion-MNIST subset against its WGAN-GP samples", "fashion-mnist-subset"
    ),
}


@final
@dataclass(frozen=True)
class CriticSetting:
    """How much of the paper's protocol is done."""

    name: str  # what the command line calls it
    summary: str  # what it is, for the head of the table
    seeds: tuple[int, ...]  # one training each, at the best rate
    rates: tuple[float, ...]  # learning rates tried with the first seed
    steps: int  # of a critic
    batch_size: int  # points of either sample a step
    width: int  # channels of the critic's first convolution
    points: int  # of each sample at most
    descent: str  # "RMSprop" at a constant rate, or "Adam" with a falling one
    generator_steps: int  # of the generator that makes a second sample
    generator_width: int  # channels of that generator
    pairs: tuple[str, ...]  # done where none is named


_SHORT = CriticSetting(
    name="short",
    summary="a narrow critic and Adam with a falling rate, for two CPU cores",
    seeds=(0, 1, 2),
    rates=(1e-1, 1e-2, 1e-3),
    steps=400,
    batch_size=64,
    width=8,
    points=6000,
    descent="Adam",
    generator_steps=500,
    generator_width=16,
    pairs=("stl10", "cifar10"),
)

CRITIC_SETTINGS: dict[str, CriticSetting] = {
    "short": _SHORT,
    "paper": CriticSetting(
        name="paper",
        summary="the paper's protocol, for a GPU",
        seeds=(0, 1, 2, 3, 4),
        rates=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
        steps=25_600,
        batch_size=64,
        width=64,
        points=50_000,
        descent="RMSprop",
        generator_steps=20_000,
        generator_width=32,
        pairs=("stl10", "cifar10"),
    ),
    "quick": replace(
        _SHORT,
        name="quick",
        summary="a few steps on embedded images: shows that all works, and nothing else",
        seeds=(0,),
        rates=(1e-2,),
        steps=2,
        batch_size=16,
        width=2,
        points=120,
        generator_steps=2,
        generator_width=4,
        pairs=("fashion-mnist-subset",),
    ),
}
