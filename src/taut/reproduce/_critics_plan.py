"""What table 4 takes: its trainings, each kept in a file of its own."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, final

from taut.data import load
from taut.files import write_atomically
from taut.reproduce._plan import data_folder
from taut.reproduce.table4 import PAIRS, CriticSetting
from taut.wasserstein import Settings
from taut.wasserstein.comparison import ACTIVATIONS, METHODS, Fit, at_best_rate, paper_critics
from taut.wasserstein.wgan import WGAN_GP

PENALISED_RATE = 1e-3
"""Of WGAN-GP's critic, which is not swept: there is no bound that a sweep could raise."""


@final
@dataclass(frozen=True)
class CriticPlan:
    """All that `taut reproduce table4` is to do.

    Args:
        setting: how much of the protocol, with the seeds wanted.
        pairs: by word.
        critics: by name, in the paper's order, then WGAN-GP's.
        out: the folder of the table.
        data_dir: as given.
    """

    setting: CriticSetting
    pairs: tuple[str, ...]
    critics: tuple[str, ...]
    out: Path
    data_dir: Path | None

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """Pair and critic of each row, in the order of the table."""
        return tuple(product(self.pairs, self.critics))

    def source(self, dataset: str) -> Path | None:
        """Where a data set lies."""
        names = {name for pair in self.pairs for name in PAIRS[pair].datasets}
        return data_folder(dataset, self.data_dir, alone=len(names) == 1)


def make_critic_plan(
    setting: CriticSetting, out: Path, *, only: Sequence[str] = (), data_dir: Path | None = None
) -> CriticPlan:
    """What there is to do for table 4; nothing is read or written.

    Args:
        setting: one of `CRITIC_SETTINGS`, with the seeds and steps wanted.
        out: the folder of the table.
        only: words for pairs, methods and activations to keep, in any order and case.
        data_dir: a folder with one folder a data set, called by its name; or that of the only one.

    Raises:
        ValueError: if a word of `only` names nothing, or nothing is left.

    Example:
        >>> from taut.reproduce.table4 import CRITIC_SETTINGS
        >>> plan = make_critic_plan(CRITIC_SETTINGS["short"], Path("out"), only=["relu", "cifar10"])
        >>> plan.pairs, plan.critics
        (('cifar10',), ('OSSN, ReLU', 'RKO, ReLU', 'BCOP, ReLU'))
    """
    if not setting.seeds or len(set(setting.seeds)) < len(setting.seeds) or min(setting.seeds) < 0:
        raise ValueError(
            f"`seeds` must be different numbers from 0, at least one; got {setting.seeds}."
        )
    if setting.steps < 1:
        raise ValueError(f"`steps` must be at least 1; got {setting.steps}.")
    words = {word.lower(): word for word in only}
    names = {name.lower(): name for name in (*PAIRS, *METHODS, *ACTIVATIONS, WGAN_GP)}
    for word, given in words.items():
        if word not in names:
            raise ValueError(
                f"`only` takes, for table4, {', '.join(names.values())}; got {given!r}."
            )
    kept = {names[word] for word in words}
    pairs = tuple(name for name in PAIRS if name in kept) or setting.pairs
    critics = tuple(name for name in _every_critic() if _kept(name, kept))
    if not critics:
        raise ValueError(f"`only` must leave a critic; got {' '.join(only)}.")
    return CriticPlan(setting, pairs, critics, out, data_dir)


def _every_critic() -> tuple[str, ...]:
    return (*paper_critics((1, 8, 8)), WGAN_GP)


def _kept(critic: str, words: set[str]) -> bool:
    method, _, activation = critic.partition(", ")
    methods, activations = words & {*METHODS, WGAN_GP}, words & set(ACTIVATIONS)
    return (not methods or method in methods) and (not activations or activation in activations)


def fits(plan: CriticPlan, pair: str, critic: str) -> list[Fit]:
    """The kept trainings at the best rate, one a seed of the plan, as far as they are done.

    Args:
        plan: of table 4.
        pair: one of its pairs.
        critic: one of its critics.

    Raises:
        ValueError: if a file is damaged, or of other settings; the message names it.
    """
    first, *others = plan.setting.seeds
    swept: dict[float, Fit] = {}
    for rate in rates(plan, critic):
        found = kept_fit(plan, (pair, critic), rate, first)
        if found is None:
            return []
        swept[rate] = found
    (best,) = at_best_rate(lambda rate, _: swept[rate], rates=list(swept), seeds=(first,))
    more = (kept_fit(plan, (pair, critic), best.rate, seed) for seed in others)
    return [best, *(fit for fit in more if fit is not None)]


def rows_left(plan: CriticPlan) -> list[tuple[str, str]]:
    """Pairs and critics with trainings still to be done, after checking that all can be done.

    Args:
        plan: of table 4.

    Raises:
        ValueError: if a kept file is damaged or of other settings, or the data do not fit.
        FileNotFoundError: if the data are not there.
    """
    wanted = len(plan.setting.seeds)
    rows = [row for row in plan.rows if len(fits(plan, *row)) < wanted]
    for dataset in dict.fromkeys(name for pair, _ in rows for name in PAIRS[pair].datasets):
        load(dataset, plan.source(dataset))
    return rows


def rates(plan: CriticPlan, critic: str) -> tuple[float, ...]:
    """The learning rates that a critic is tried at."""
    return (PENALISED_RATE,) if critic == WGAN_GP else plan.setting.rates


def settings_of(plan: CriticPlan, critic: str, rate: float, seed: int) -> Settings:
    """Of one training.

    Args:
        plan: of table 4.
        critic: its name.
        rate: learning rate.
        seed: of weights and order.
    """
    # The weights of WGAN-GP's critic are those of its end: no check chooses them.
    return Settings(
        steps=plan.setting.steps,
        batch_size=plan.setting.batch_size,
        lr=rate,
        checks=1 if critic == WGAN_GP else min(5, plan.setting.steps),
        samples=plan.setting.points,
        seed=seed,
    )


def _path(plan: CriticPlan, row: tuple[str, str], rate: float, seed: int) -> Path:
    pair, critic = row
    name = critic.lower().replace(", ", "-")
    return plan.out / "critics" / pair / f"{name}-rate{rate:g}-seed{seed}.json"


def _about(plan: CriticPlan, critic: str, rate: float, seed: int) -> dict[str, Any]:
    """All that decides a training, as a file holds it."""
    setting = plan.setting
    whole = asdict(settings_of(plan, critic, rate, seed)) | {
        "width": setting.width,
        "descent": setting.descent,
        "generator_steps": setting.generator_steps,
        "generator_width": setting.generator_width,
    }
    return json.loads(json.dumps(whole))


def keep_fit(plan: CriticPlan, row: tuple[str, str], fit: Fit) -> None:
    """Write a training where `kept_fit` finds it.

    Args:
        plan: of table 4.
        row: pair and critic.
        fit: what it came to.
    """
    path = _path(plan, row, fit.rate, fit.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"settings": _about(plan, row[1], fit.rate, fit.seed), "fit": asdict(fit)}
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def kept_fit(plan: CriticPlan, row: tuple[str, str], rate: float, seed: int) -> Fit | None:
    """One training, if it is done.

    Args:
        plan: of table 4.
        row: pair and critic.
        rate: its learning rate.
        seed: its seed.

    Raises:
        ValueError: if its file is damaged, or of other settings; the message names it.
    """
    path = _path(plan, row, rate, seed)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        there, fit = content["settings"], Fit(**content["fit"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged and cannot be read ({error}).") from None
    now = _about(plan, row[1], rate, seed)
    for name in now:
        if there.get(name) != now[name]:
            raise ValueError(
                f"{path} holds a training of other settings (`{name}` is {there.get(name)} there, "
                f"{now[name]} now); choose another `out`."
            )
    return fit
