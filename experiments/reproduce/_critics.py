"""Table 4: its trainings of critics, each kept in a file of its own, and what is known of them."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from experiments._record import Record, write_json
from experiments._runner import progress
from experiments._training import say
from experiments.reproduce._page import ComparisonPage, Line, Quantity
from experiments.reproduce._pairs import NAME, PAIRS, SOURCE, TITLE, CriticSetting, Pair
from experiments.reproduce._plan import data_folder, named
from experiments.reproduce._published import PublishedValue
from experiments.wgan.comparison import (
    ACTIVATIONS,
    BY_PAPER,
    METHODS,
    Contest,
    Fit,
    at_best_rate,
    paper_critics,
)
from experiments.wgan.heuristics import unconstrained, under_penalty
from experiments.wgan.training import WGAN, WGAN_GP, train_wgan
from taut.data import generator as random_of
from taut.data import load
from taut.training import Device, choose_device
from taut.wasserstein import CriticTraining, Settings

LOWER = Quantity("lower bound of W1")
CLAIMED = Quantity("claims, with no right to")
BOUND = Quantity("its proved Lipschitz bound")
# Of WGAN-GP's critic, which is not swept: there is no bound that a sweep could raise.
PENALISED_RATE = 1e-3

_PENALTY = 10.0
_CUT = 0  # the seed of which points are taken and how they are cut, whatever the trainings' seeds
_TRAININGS = {"Adam": CriticTraining(), "RMSprop": BY_PAPER}

CriticRow = tuple[str, str]  # a pair, by its word, and a critic


@final
@dataclass(frozen=True)
class CriticPlan:
    """All that is to do for table 4."""

    setting: CriticSetting  # how much of the protocol, with the seeds wanted
    pairs: tuple[str, ...]  # by word
    critics: tuple[str, ...]  # by name, in the paper's order, then WGAN-GP's
    out: Path  # the folder of the table
    data_dir: Path | None  # as given

    @property
    def rows(self) -> tuple[CriticRow, ...]:
        """Pair and critic of each row, in the order of the table."""
        return tuple(product(self.pairs, self.critics))

    def source(self, dataset: str) -> Path | None:
        """Where a data set lies."""
        names = {name for pair in self.pairs for name in PAIRS[pair].datasets}
        return data_folder(dataset, self.data_dir, alone=len(names) == 1)

    def rates(self, critic: str) -> tuple[float, ...]:
        """The learning rates that a critic is tried at."""
        return (PENALISED_RATE,) if critic == WGAN_GP else self.setting.rates

    def complete(self, device: Device, record: Record) -> None:
        """Train what is missing, pair by pair; each training is kept when it is done."""
        rows, place = rows_left(self), choose_device(device)
        for pair in dict.fromkeys(pair for pair, _ in rows):
            settings = Settings(samples=self.setting.points, seed=_CUT)
            samples = _samples(self, pair, place)
            contest = Contest.between(*samples, settings=settings, device=place)
            for row in (row for row in rows if row[0] == pair):
                _complete_row(self, row, contest)

    def done(self) -> int:
        """How many rows are finished."""
        return sum(is_done(self, row) for row in self.rows)

    def recorded(self) -> dict[str, Any]:
        """The setting, and every training that the lines rest on."""
        trainings = [
            {"pair": row[0], "critic": row[1], **asdict(fit)}
            for row in self.rows
            for fit in fits(self, row)
        ]
        return {"setting": asdict(self.setting), "trainings": trainings}

    def page(self) -> ComparisonPage:
        """What is known so far; nothing is trained."""
        lines = tuple(line for row in self.rows for line in _lines(self, row))
        setting = self.setting
        rates = ", ".join(f"{rate:g}" for rate in setting.rates)
        seeds = ", ".join(map(str, setting.seeds))
        return ComparisonPage(
            name=NAME,
            title=TITLE,
            setting=(
                f"{setting.name}: {setting.summary}; {setting.steps:,} steps of "
                f"{setting.descent}, learning rates {rates}; seeds {seeds}"
            ),
            lines=lines,
            notes=tuple(_notes(self)),
            out=self.out,
            columns=1,
            axis="lower bound of W1",
            drawn=tuple(line for line in lines if line.measure == LOWER),
        )


def make_critic_plan(
    setting: CriticSetting, out: Path, *, only: Sequence[str] = (), data_dir: Path | None = None
) -> CriticPlan:
    """What there is to do for table 4; nothing is read or written.

    Of `only` pairs, methods and activations are kept, in any order and case.
    """
    if setting.steps < 1:
        raise ValueError(f"`steps` must be at least 1; got {setting.steps}.")
    kept = named(only, (*PAIRS, *METHODS, *ACTIVATIONS, WGAN_GP), NAME)
    pairs = tuple(name for name in PAIRS if name in kept) or setting.pairs
    every = (*paper_critics((1, 8, 8)), WGAN_GP)
    critics = tuple(critic for critic in every if _kept(critic, kept))
    if not critics:
        raise ValueError(f"`only` must leave a critic; got {' '.join(only)}.")
    return CriticPlan(setting, pairs, critics, out, data_dir)


def _kept(critic: str, words: set[str]) -> bool:
    method, _, activation = critic.partition(", ")
    methods, activations = words & {*METHODS, WGAN_GP}, words & set(ACTIVATIONS)
    return (not methods or method in methods) and (not activations or activation in activations)


def fits(plan: CriticPlan, row: CriticRow) -> list[Fit]:
    """The kept trainings at the best rate, one a seed of the plan, as far as they are done."""
    first, *others = plan.setting.seeds
    swept: dict[float, Fit] = {}
    for rate in plan.rates(row[1]):
        fit = kept_fit(plan, row, rate, first)
        if fit is None:
            return []
        swept[rate] = fit
    (best,) = at_best_rate(lambda rate, _: swept[rate], rates=list(swept), seeds=(first,))
    more = (kept_fit(plan, row, best.rate, seed) for seed in others)
    return [best, *(fit for fit in more if fit is not None)]


def rows_left(plan: CriticPlan) -> list[CriticRow]:
    """Rows with trainings still to be done, after checking that their data are there."""
    rows = [row for row in plan.rows if not is_done(plan, row)]
    for dataset in dict.fromkeys(name for pair, _ in rows for name in PAIRS[pair].datasets):
        load(dataset, plan.source(dataset))
    return rows


def is_done(plan: CriticPlan, row: CriticRow) -> bool:
    return len(fits(plan, row)) == len(plan.setting.seeds)


def settings_of(plan: CriticPlan, critic: str, rate: float, seed: int) -> Settings:
    """Of one training."""
    # The weights of WGAN-GP's critic are those of its end: no check chooses them.
    return Settings(
        steps=plan.setting.steps,
        batch_size=plan.setting.batch_size,
        lr=rate,
        checks=1 if critic == WGAN_GP else min(5, plan.setting.steps),
        samples=plan.setting.points,
        seed=seed,
    )


def _path(plan: CriticPlan, row: CriticRow, rate: float, seed: int) -> Path:
    name = row[1].lower().replace(", ", "-")
    return plan.out / "critics" / row[0] / f"{name}-rate{rate:g}-seed{seed}.json"


def _about(plan: CriticPlan, critic: str, rate: float, seed: int) -> dict[str, Any]:
    """All that decides a training, as a file holds it."""
    names = ("width", "descent", "generator_steps", "generator_width")
    setting = {name: vars(plan.setting)[name] for name in names}
    return json.loads(json.dumps(asdict(settings_of(plan, critic, rate, seed)) | setting))


def keep_fit(plan: CriticPlan, row: CriticRow, fit: Fit) -> None:
    """Write a training where `kept_fit` finds it."""
    settings = _about(plan, row[1], fit.rate, fit.seed)
    path = _path(plan, row, fit.rate, fit.seed)
    write_json(path, {"settings": settings, "fit": asdict(fit)})


def kept_fit(plan: CriticPlan, row: CriticRow, rate: float, seed: int) -> Fit | None:
    """One training, if it is done; refuses one of other settings."""
    path = _path(plan, row, rate, seed)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        stored, fit = content["settings"], Fit(**content["fit"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None
    for name, now in _about(plan, row[1], rate, seed).items():
        if stored.get(name) != now:
            raise ValueError(
                f"{path} holds a training of other settings (`{name}` is {stored.get(name)} there, "
                f"{now} now); choose another `out`."
            )
    return fit


def _complete_row(plan: CriticPlan, row: CriticRow, contest: Contest) -> None:
    pair, critic = row

    def one(rate: float, seed: int) -> Fit:
        known = kept_fit(plan, row, rate, seed)
        if known is not None:
            return known
        say(f"{PAIRS[pair].label}: {critic}, rate {rate:g}, seed {seed}")
        with progress("critic", plan.setting.steps) as tell:
            fit = _fit(plan, critic, contest, settings_of(plan, critic, rate, seed), tell)
        keep_fit(plan, row, fit)
        return fit

    at_best_rate(one, rates=plan.rates(critic), seeds=plan.setting.seeds)


def _fit(
    plan: CriticPlan, critic: str, contest: Contest, settings: Settings, tell: Callable[[int], None]
) -> Fit:
    shape, width = tuple(contest.p.everything.shape[1:]), plan.setting.width
    if critic == WGAN_GP:
        return contest.fit(
            lambda: unconstrained(shape, width=width),
            settings,
            training=under_penalty(_PENALTY, settings.seed),
            on_step=tell,
        )
    maker = paper_critics(_image(shape), width=width)[critic]
    return contest.fit(maker, settings, training=_TRAININGS[plan.setting.descent], on_step=tell)


def _samples(plan: CriticPlan, word: str, device: torch.device) -> Iterator[Tensor]:
    pair, count = PAIRS[word], plan.setting.points
    real = _images(plan, pair, pair.first)
    yield _drawn(real, count, pair.first)
    if pair.second is not None:
        yield _drawn(_images(plan, pair, pair.second), count, pair.second)
        return
    config = generator_config(plan.setting, _image(tuple(real.shape[1:])))
    say(f"{pair.label}: the generator, {config.steps:,} steps")
    folder = plan.out / "generators" / f"{word}-{config.steps}"
    with progress("generator", config.steps) as tell:
        run = train_wgan(
            config, real, folder, device=device, on_progress=lambda step, row: tell(step)
        )
    yield run.sample(min(count, len(real)), seed=_CUT)


def generator_config(setting: CriticSetting, shape: tuple[int, int, int]) -> WGAN:
    """The paper's WGAN-GP: penalty 50, Adam at 2e-4 for both sides."""
    steps, width = setting.generator_steps, setting.generator_width
    return WGAN(
        shape=shape,
        critic=WGAN_GP,
        steps=steps,
        every=max(1, steps // 10),
        lr=2e-4,
        critic_lr=2e-4,
        penalty=50.0,
        width=width,
        critic_width=width,
        seed=_CUT,
    )


def _images(plan: CriticPlan, pair: Pair, dataset: str) -> Tensor:
    images = load(dataset, plan.source(dataset)).train.float_images()
    if pair.side is None or images.shape[-1] == pair.side:
        return images
    resized = torch.nn.functional.interpolate(
        images, (pair.side, pair.side), mode="bilinear", antialias=True
    )
    return resized.clamp(0, 1)


def _drawn(images: Tensor, count: int, dataset: str) -> Tensor:
    order = torch.randperm(len(images), generator=random_of("table4", dataset, _CUT))
    return images[order[:count]]


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = shape
    return channels, height, width


def _lines(plan: CriticPlan, row: CriticRow) -> list[Line]:
    (word, critic), trainings = row, fits(plan, row)
    pair = PAIRS[word]
    value = pair.published.get(critic)
    published = None if value is None else PublishedValue(value)

    def line(measure: Quantity, ours: list[float]) -> Line:
        comparable = published is None
        return Line(critic, pair.label, measure, tuple(ours), published, comparable=comparable)

    lower = line(LOWER, [fit.lower for fit in trainings])
    if critic != WGAN_GP:
        return [lower]
    claimed, bound = [fit.claimed for fit in trainings], [fit.bound for fit in trainings]
    return [lower, line(CLAIMED, claimed), line(BOUND, bound)]


def _notes(plan: CriticPlan) -> list[str]:
    setting, pairs = plan.setting, [PAIRS[pair] for pair in plan.pairs]
    notes = [
        "Dual value on held-out points over the proved Lipschitz bound, in l2, pixels from 0 to "
        "1: mean ± standard deviation over seeds. The learning rate is the best on validation "
        "points, with the first seed.",
        f"The critic has {setting.width}, {2 * setting.width}, {4 * setting.width} and "
        f"{8 * setting.width} channels; samples have up to {setting.points:,} points, a third of "
        "them held out.",
    ]
    if any(pair.second is None for pair in pairs):
        notes.append(
            f"Against WGAN-GP: samples of a generator trained on the data set for "
            f"{setting.generator_steps:,} steps, with penalty 50 and Adam at 2e-4."
        )
    if WGAN_GP in plan.critics:
        notes.append(
            f"{WGAN_GP}: an unconstrained critic under a gradient penalty of 10, with Adam at "
            f"{PENALISED_RATE:g}. Nothing holds its Lipschitz bound to 1: what it claims is no "
            "distance."
        )
    if any(pair.published for pair in pairs):
        notes.append(
            f"† Published: {SOURCE}; 64 channels first, 25,600 steps of RMSprop, against another "
            "generator: no difference is given, the order is what compares."
        )
    notes += dict.fromkeys(pair.note for pair in pairs if pair.note)
    if plan.done() < len(plan.rows):
        notes.append(f"So far {plan.done()} of {len(plan.rows)} rows.")
    return notes
