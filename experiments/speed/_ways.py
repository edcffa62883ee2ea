"""The settings in which a contender is timed, of which the fastest counts: padding and format."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import median
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from experiments.speed._cases import Case, LayerCase
from experiments.speed._contenders import Contender
from experiments.speed._timing import TimingSettings, Work, in_turns, inputs, warm_up

FORMATS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
_Way = TypeVar("_Way", bound=Hashable)
_Row = TypeVar("_Row", bound=Hashable)
_SLOW = 1.3  # over the fastest way of a row when warmed up: what is slower is not timed


class Way(NamedTuple):
    """A contender with images and weights in one memory format."""

    contender: str  # its name
    format: str  # a key of `FORMATS`; empty for a dense layer
    padding: str = ""  # of the contender, where several of one row differ in it

    @property
    def setting(self) -> str:
        """As tables show it.

        >>> Way("plain", "channels last", "zeros").setting
        'zeros, channels last'
        """
        return ", ".join(word for word in (self.padding, self.format) if word)

    @property
    def memory_format(self) -> torch.memory_format:
        return FORMATS.get(self.format, torch.contiguous_format)

    def build(self, contender: Contender, case: Case, settings: TimingSettings) -> nn.Module:
        """What the contender builds, on the device and in the format; the same in each."""
        torch.manual_seed(0)
        return self.in_format(contender.build(case).to(settings.place))

    def in_format(self, module: nn.Module) -> nn.Module:
        """The module with its kernels in the format."""
        # Torch's stubs have no `memory_format` alone.
        return module.to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue]

    def images(self, case: Case, settings: TimingSettings) -> Tensor:
        return inputs(case, settings, self.memory_format)


class Best(NamedTuple, Generic[_Way]):
    """The fastest way of a row, its times, one per round, and what it repeats."""

    way: _Way
    times: list[float]
    run: Work


def ways(contender: Contender, case: Case) -> list[Way]:
    """A contender in each format that its images can have."""
    if isinstance(case, LayerCase) and not case.kernel:
        return [Way(contender.name, "")]
    formats = ("channels last",) if contender.mode else tuple(FORMATS)
    return [Way(contender.name, name, contender.padding) for name in formats]


def fastest(
    makers: Mapping[_Way, Callable[[], Work]],
    rows: Mapping[_Row, Sequence[_Way]],
    settings: TimingSettings,
    seconds: float,
) -> tuple[dict[_Row, Best[_Way]], dict[_Row, str]]:
    """By row the fastest of its ways, all of them timed in turns; and why a row has none.

    Args:
        makers: what makes the run of each way.
        rows: by the name of a row its ways, of which rows may share some.
        settings: of the timing.
        seconds: no new round of a way after that time of its own, but three in any case.
    """
    runs = {way: _later(make) for way, make in makers.items()}
    took, failed = warm_up(runs, settings.place)
    quick = {row: _quick(members, took) for row, members in rows.items()}
    timed = {way: took[way] for members in quick.values() for way in members}
    times = in_turns(runs, timed, settings.place, repeats=settings.repeats, each=seconds)
    best = {}
    for row, members in quick.items():
        if members:
            way = min(members, key=lambda way: median(times[way]))
            best[row] = Best(way, times[way], runs[way])
    notes = {row: failed[ways[0]] for row, ways in rows.items() if ways and row not in best}
    return best, notes


def _later(make: Callable[[], Work]) -> Work:
    """A run that is made when it is first called: what fails then is a row in words."""
    made: list[Work] = []

    def run() -> object:
        if not made:
            made.append(make())
        return made[0]()

    return run


def _quick(members: Sequence[_Way], took: Mapping[_Way, float]) -> list[_Way]:
    """Those of a row that can be its fastest, from the times of the warm-up."""
    running = [way for way in members if way in took]
    least = min((took[way] for way in running), default=0.0)
    return [way for way in running if took[way] <= _SLOW * least]
