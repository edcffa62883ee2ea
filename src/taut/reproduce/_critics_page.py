"""Table 4 in words."""

from taut.reproduce._critics_plan import PENALISED_RATE, CriticPlan, fits
from taut.reproduce._line import Line, Quantity
from taut.reproduce._render import Page
from taut.reproduce._table import Published
from taut.reproduce.table4 import NAME, PAIRS, SOURCE, TITLE
from taut.wasserstein.wgan import WGAN_GP

LOWER = Quantity("lower bound of W1")
CLAIMED = Quantity("claims, with no right to")
BOUND = Quantity("its proved Lipschitz bound")


def critic_page(plan: CriticPlan) -> Page:
    """What is known of table 4 so far; nothing is trained.

    Args:
        plan: of table 4.

    Raises:
        ValueError: if a kept file is damaged or of other settings; the message names it.

    Example:
        >>> from pathlib import Path
        >>> from taut.reproduce import CRITIC_SETTINGS, make_critic_plan
        >>> plan = make_critic_plan(CRITIC_SETTINGS["paper"], Path("out"), only=["cifar10", "bcop"])
        >>> [line.published.mean for line in critic_page(plan).lines]
        [5.34, 4.39]
    """
    lines = tuple(line for row in plan.rows for line in _lines(plan, *row))
    setting = plan.setting
    rates = ", ".join(f"{rate:g}" for rate in setting.rates)
    seeds = ", ".join(map(str, setting.seeds))
    return Page(
        name=NAME,
        title=TITLE,
        setting=(
            f"{setting.name}: {setting.summary}; {setting.steps:,} steps of {setting.descent}, "
            f"learning rates {rates}; seeds {seeds}"
        ),
        lines=lines,
        notes=tuple(_notes(plan)),
        out=plan.out,
        columns=1,
        axis="lower bound of W1",
        drawn=tuple(line for line in lines if line.measure == LOWER),
    )


def trained_rows(plan: CriticPlan) -> tuple[int, int]:
    """How many rows of the table are finished, and how many there are.

    Args:
        plan: of table 4.
    """
    wanted = len(plan.setting.seeds)
    return sum(len(fits(plan, *row)) == wanted for row in plan.rows), len(plan.rows)


def _lines(plan: CriticPlan, pair: str, critic: str) -> list[Line]:
    found, named = fits(plan, pair, critic), PAIRS[pair]
    value = named.published.get(critic)
    published = None if value is None else Published(value)

    def line(measure: Quantity, ours: list[float]) -> Line:
        return Line(
            critic, named.label, measure, tuple(ours), published, comparable=published is None
        )

    lower = line(LOWER, [fit.lower for fit in found])
    if critic != WGAN_GP:
        return [lower]
    claimed, bound = [fit.claimed for fit in found], [fit.bound for fit in found]
    return [lower, line(CLAIMED, claimed), line(BOUND, bound)]


def _notes(plan: CriticPlan) -> list[str]:
    setting = plan.setting
    found = [
        "Dual value on held-out points over the proved Lipschitz bound, in l2, pixels from 0 to "
        "1: mean ± standard deviation over seeds. The learning rate is the best on validation "
        "points, with the first seed.",
        f"The critic has {setting.width}, {2 * setting.width}, {4 * setting.width} and "
        f"{8 * setting.width} channels; samples have up to {setting.points:,} points, a third of "
        "them held out.",
    ]
    if any(PAIRS[pair].second is None for pair in plan.pairs):
        found.append(
            f"Against WGAN-GP: samples of a generator trained on the data set for "
            f"{setting.generator_steps:,} steps, with penalty 50 and Adam at 2e-4."
        )
    if WGAN_GP in plan.critics:
        found.append(
            f"{WGAN_GP}: an unconstrained critic under a gradient penalty of 10, with Adam at "
            f"{PENALISED_RATE:g}. Nothing holds its Lipschitz bound to 1: what it claims is no "
            "distance."
        )
    if any(PAIRS[pair].published for pair in plan.pairs):
        found.append(
            f"† Published: {SOURCE}; 64 channels first, 25,600 steps of RMSprop, against another "
            "generator: no difference is given, the order is what compares."
        )
    found += dict.fromkeys(note for pair in plan.pairs if (note := PAIRS[pair].note))
    done, rows = trained_rows(plan)
    if done < rows:
        found.append(f"So far {done} of {rows} rows.")
    return found
