"""Trains the critics of table 4, as far as that is missing."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from taut.data import load
from taut.data.seeding import generator as random_of
from taut.reproduce._critics_plan import (
    CriticPlan,
    keep_fit,
    kept_fit,
    rates,
    rows_left,
    settings_of,
)
from taut.reproduce._work import Bar
from taut.reproduce.table4 import PAIRS, CriticSetting, Pair
from taut.wasserstein import WGAN, Settings, train_wgan
from taut.wasserstein.comparison import (
    BY_DESIGN,
    BY_PAPER,
    Contest,
    Fit,
    at_best_rate,
    paper_critics,
)
from taut.wasserstein.heuristics import unconstrained, under_penalty
from taut.wasserstein.wgan import WGAN_GP

_PENALTY = 10.0
_CUT = 0  # the seed of which points are taken and how they are cut, whatever the trainings' seeds
_DESCENTS = {"Adam": BY_DESIGN, "RMSprop": BY_PAPER}


def complete_critics(
    plan: CriticPlan, *, device: torch.device, say: Callable[[str], None], bar: Bar
) -> None:
    """Do what is missing of table 4, pair by pair; each training is kept when it is done.

    Args:
        plan: of table 4.
        device: where to.
        say: told what begins.
        bar: shows a training: from a label and its steps to a function of those done.
    """
    rows = rows_left(plan)
    for pair in dict.fromkeys(pair for pair, _ in rows):
        contest = _contest(plan, pair, device, say, bar)
        for critic in (critic for other, critic in rows if other == pair):
            _complete_row(plan, (pair, critic), contest, say, bar)


def _complete_row(
    plan: CriticPlan,
    row: tuple[str, str],
    contest: Contest,
    say: Callable[[str], None],
    bar: Bar,
) -> None:
    def one(rate: float, seed: int) -> Fit:
        known = kept_fit(plan, row, rate, seed)
        if known is not None:
            return known
        say(f"{PAIRS[row[0]].label}: {row[1]}, rate {rate:g}, seed {seed}")
        with bar("critic", plan.setting.steps) as tell:
            found = _fit(plan, row[1], contest, settings_of(plan, row[1], rate, seed), tell)
        keep_fit(plan, row, found)
        return found

    at_best_rate(one, rates=rates(plan, row[1]), seeds=plan.setting.seeds)


def _fit(
    plan: CriticPlan,
    critic: str,
    contest: Contest,
    settings: Settings,
    tell: Callable[[int], None],
) -> Fit:
    shape = tuple(contest.p.everything.shape[1:])
    if critic == WGAN_GP:
        return contest.fit(
            lambda: unconstrained(shape, width=plan.setting.width),
            settings,
            discipline=under_penalty(_PENALTY, settings.seed),
            on_step=tell,
        )
    maker = paper_critics(_image(shape), width=plan.setting.width)[critic]
    return contest.fit(maker, settings, discipline=_DESCENTS[plan.setting.descent], on_step=tell)


def _contest(
    plan: CriticPlan, pair: str, device: torch.device, say: Callable[[str], None], bar: Bar
) -> Contest:
    return Contest.between(
        *_samples(plan, pair, device, say, bar),
        settings=Settings(samples=plan.setting.points, seed=_CUT),
        device=device,
    )


def _samples(
    plan: CriticPlan, pair: str, device: torch.device, say: Callable[[str], None], bar: Bar
) -> Iterator[Tensor]:
    named, count = PAIRS[pair], plan.setting.points
    real = _images(plan, named, named.first)
    yield _drawn(real, count, named.first)
    if named.second is not None:
        yield _drawn(_images(plan, named, named.second), count, named.second)
        return
    config = generator_config(plan.setting, _image(tuple(real.shape[1:])))
    say(f"{named.label}: the generator, {config.steps:,} steps")
    with bar("generator", config.steps) as tell:
        run = train_wgan(
            config,
            real,
            plan.out / "generators" / f"{pair}-{config.steps}",
            device=device,
            on_progress=lambda step, row: tell(step),
        )
    yield run.sample(min(count, len(real)), seed=_CUT)


def generator_config(setting: CriticSetting, shape: tuple[int, int, int]) -> WGAN:
    """The paper's WGAN-GP: penalty 50, Adam at 2e-4 for both sides.

    Args:
        setting: how wide and how long.
        shape: of an image.

    Example:
        >>> from taut.reproduce.table4 import CRITIC_SETTINGS
        >>> generator_config(CRITIC_SETTINGS["paper"], (3, 32, 32)).penalty
        50.0
    """
    steps = setting.generator_steps
    return WGAN(
        shape=shape,
        critic=WGAN_GP,
        steps=steps,
        every=max(1, steps // 10),
        lr=2e-4,
        critic_lr=2e-4,
        penalty=50.0,
        width=setting.generator_width,
        critic_width=setting.generator_width,
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
