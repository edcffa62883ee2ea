"""Wasserstein-1 from both sides: a critic from below, a transport plan from above."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from taut.lipschitz import LipschitzBound
from taut.parametrizations import projected
from taut.wasserstein import closed_form, critics
from taut.wasserstein._confidence import mean_slack, transport_slack
from taut.wasserstein._fit import Measured, dual_over_bound, measured, train
from taut.wasserstein._plan import BYTES_PER_PAIR, Plan, improved, optimal, staircase
from taut.wasserstein._samples import Points, Samples, read_both
from taut.wasserstein.settings import Settings

_BLOCK = 1000
_POTENTIAL = 2000


@final
@dataclass(frozen=True)
class W1Progress:
    """Where an estimate stands.

    Attributes:
        step: of the critic's training.
        total: steps at most.
        lower: lower bound on validation points; the best so far.
        upper: cost of the best plan so far.
    """

    step: int
    total: int
    lower: float
    upper: float


@final
@dataclass(frozen=True, eq=False)
class W1Estimate:
    """The Wasserstein-1 distance (in l2) between two samples, and what it says of their origin.

    Attributes:
        lower: dual value over proved bound, on the held-out points and on all points, the smaller
            one: at most the distance of the samples, and in expectation at most that of the
            distributions.
        upper: cost of a feasible plan between all points: at least the distance of the samples.
        empirical: the distance of the samples, where transport was solved exactly; else None.
        interval: for the distance of the distributions, at `confidence`; where nothing was held
            out, for that of the samples.
        confidence: 1 where the interval is of the samples, which needs no chance.
        guarantee: what the confidence rests on, in words.
        critic: in eval mode, in the precision it was trained in.
        chosen: which critic it is: "network", or the name of one in closed form.
        bound: its proved Lipschitz constant, layer by layer.
        candidates: the lower bound of each critic tried, on validation points.
        history: both sides over the training.
        sizes: points of each sample.
        scores: of the held-out points of both samples.
        notes: sentences on what could not be done as asked.

    Example:
        >>> x = torch.arange(8.0)[:, None]
        >>> found = estimate(x, x + 3, settings=Settings(steps=0, held_out=0.0))
        >>> round(found.lower, 6), round(found.upper, 6)
        (3.0, 3.0)
    """

    lower: float
    upper: float
    empirical: float | None
    interval: tuple[float, float]
    confidence: float
    guarantee: str
    critic: nn.Module
    chosen: str
    bound: LipschitzBound
    candidates: dict[str, float]
    history: tuple[W1Progress, ...]
    sizes: tuple[int, int]
    scores: tuple[Float64[Tensor, "n"], Float64[Tensor, "m"]] = field(repr=False)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        low, high = self.interval
        of = "the samples" if self.confidence == 1 else f"the distributions ({self.guarantee})"
        lines = [
            f"{low:.4g} <= W1 of {of} <= {high:.4g}",
            f"{self.lower:.4g} <= W1 of the samples <= {self.upper:.4g}",
        ]
        return "\n".join((*lines[: 1 if self.confidence == 1 else 2], *self.notes))


def estimate(
    p: Samples,
    q: Samples,
    critic: nn.Module | None = None,
    *,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    device: torch.device | str | None = None,
    on_progress: Callable[[W1Progress], None] = lambda progress: None,
) -> W1Estimate:
    r"""Bound the Wasserstein-1 distance in l2 from below and above.

    From below: for an L-Lipschitz critic f, :math:`(\mathbb E_P f - \mathbb E_Q f) / L \le W_1(P,
    Q)`. The critic is trained on one part of the points; the bound is measured on the part held
    out, L is proved from its weights as they are. From above: a transport plan between all points
    costs at least their distance; the optimal one is found where memory allows, else a plan is
    improved block by block.

    Guarantee: `lower` <= W1 of the samples <= `upper`, to the rounding of float64, whatever the
        critic. `interval` holds W1 of the distributions at the confidence asked for if the points
        are independent draws: of any number with `settings.domain`, else in the limit of many.
    Cost: `settings.steps` steps of the critic; exact transport between n and m points, about n m
        times 40 bytes, within `settings.max_memory`.

    Args:
        p: points to score high: a tensor, a data set, a loader or a sampler.
        q: points to score low.
        critic: a model of one number a point, a copy of which is trained; by default the best, on
            validation points, of an orthogonal network (convolutional for images) and of critics in
            closed form: linear, radial, and the Kantorovich potential of the training points.
        settings: how.
        device: where to; None leaves tensors where they are.
        on_progress: called at each check.

    Returns:
        Both bounds, the interval, the critic and how it came about.

    Raises:
        ValueError: if the samples do not fit each other, are too small or are not finite, or the
            critic does not fit them; in one sentence.
        UnprovenError: if the critic cannot be bounded.
        ImportError: without the extra `wasserstein`.

    Reference:
        Li et al. (2019), arXiv:1911.00937, section 5.2, for orthogonal critics.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(100, 2, generator=generator)
        >>> found = estimate(x, x + torch.tensor([3.0, 4.0]), settings=Settings(steps=10))
        >>> found.interval[0] < 5 < found.interval[1], round(found.empirical, 6)
        (True, 5.0)
    """
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(settings.seed)
        sides = read_both(p, q, settings, device)
        return _Estimation(*sides, settings, on_progress).run(critic)


@final
class _Estimation:
    """One call of `estimate`: the two sides as they come closer."""

    def __init__(
        self, p: Points, q: Points, settings: Settings, tell: Callable[[W1Progress], None]
    ) -> None:
        self.p, self.q, self.settings, self.tell = p, q, settings, tell
        self.shape = tuple(p.everything.shape[1:])
        self.flat = tuple(side.everything.flatten(1).double() for side in (p, q))
        self._check_domain()
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.notes: list[str] = []
        self.history: list[W1Progress] = []
        self.lower = 0.0

    def run(self, given: nn.Module | None) -> W1Estimate:
        """Both sides."""
        network = self._network(given)
        measured(network, self.shape)  # refused before any work
        self._first_plan()
        candidates = {} if given is not None else self._closed_forms(validated=True)
        values = {name: self._validate(measured(f, self.shape)) for name, f in candidates.items()}
        self.lower = max(values.values(), default=0.0)
        if any(tensor.requires_grad for tensor in network.parameters()):
            train(network, self.p, self.q, self.settings, self._check)
        candidates["network"] = projected(network).eval()
        values["network"] = self._validate(measured(candidates["network"], self.shape))
        chosen = max(values, key=values.__getitem__)
        if chosen != "network":  # it costs no more to have it from all that may be seen
            candidates |= self._closed_forms(validated=False)
        return self._conclude(chosen, candidates[chosen], values)

    def _network(self, given: nn.Module | None) -> nn.Module:
        if given is not None:
            return copy.deepcopy(given).to(self.flat[0].device)
        match self.shape:
            case (channels, height, width) if min(height, width) >= 8:
                built = critics.dcgan((channels, height, width), width=16)
            case _:
                built = critics.dense(self.shape)
        return built.to(self.flat[0].device)

    def _closed_forms(self, *, validated: bool) -> dict[str, nn.Module]:
        """Critics that need no steps, from the training points or from all that may be seen."""
        x, y = ((s.training if validated else s.seen) for s in (self.p, self.q))
        near, far = closed_form.radial(x, y)
        found: dict[str, nn.Module] = {
            "linear": closed_form.linear(x, y),
            "radial from p": near,
            "radial from q": far,
        }
        most = _POTENTIAL if self.settings.held_out else max(len(x), len(y))
        x, y = x[:most], y[:most]
        if self._fits(len(x), len(y)):
            solution = optimal(x.flatten(1).double(), y.flatten(1).double())
            if solution is not None:
                offsets = solution.offsets.to(y.device)
                found["potential"] = closed_form.Potential(y.double(), offsets)
        return found

    def _validate(self, critic: Measured) -> float:
        return critic.lower(self.p.validation, self.q.validation)

    def _check(self, step: int, critic: nn.Module) -> float | None:
        """Measure the critic, improve the plan; None if the two sides have met."""
        value = self._validate(measured(critic, self.shape))
        if not self.exact and step:
            self._improve()
        self.lower = max(self.lower, value)
        self.history.append(W1Progress(step, self.settings.steps, self.lower, self.upper))
        self.tell(self.history[-1])
        met = self.upper - self.lower <= self.settings.tolerance * self.upper
        return None if met else value

    def _first_plan(self) -> None:
        n, m = map(len, self.flat)
        solution = optimal(*self.flat) if self._fits(n, m) else None
        self.exact = solution is not None
        if solution is not None:
            self.plan = solution.plan
        else:
            need, most = (x / 2**30 for x in (BYTES_PER_PAIR * n * m, self.settings.max_memory))
            why = (
                "did not finish"
                if self._fits(n, m)
                else f"needs about {need:.3g} GiB, more than the {most:.3g} GiB of `max_memory`"
            )
            self.notes.append(
                f"Exact transport between {n:,} and {m:,} points {why}; "
                "`upper` is the cost of the best feasible plan found."
            )
            direction = self.flat[0].mean(0) - self.flat[1].mean(0)
            self.plan: Plan = staircase(*((x @ direction).cpu().argsort() for x in self.flat))
            self._improve()
        self.upper = self.plan.cost(*self.flat)

    def _improve(self) -> None:
        block = _BLOCK
        while block > 2 and BYTES_PER_PAIR * block**2 > self.settings.max_memory:
            block //= 2
        self.plan = improved(self.plan, *self.flat, block=block, generator=self.generator)
        self.upper = self.plan.cost(*self.flat)

    def _fits(self, n: int, m: int) -> bool:
        return BYTES_PER_PAIR * n * m <= self.settings.max_memory

    def _conclude(self, chosen: str, critic: nn.Module, values: dict[str, float]) -> W1Estimate:
        final = measured(critic, self.shape)
        scores = final.scores(self.p.held_out), final.scores(self.q.held_out)
        whole = final.scores(self.p.everything), final.scores(self.q.everything)
        lower = min(dual_over_bound(*pair, final.bound) for pair in (scores, whole))
        interval, confidence, guarantee = self._interval(scores, final.bound, lower)
        return W1Estimate(
            lower=lower,
            upper=self.upper,
            empirical=self.upper if self.exact else None,
            interval=interval,
            confidence=confidence,
            guarantee=guarantee,
            critic=critic,
            chosen=chosen,
            bound=final.bound,
            candidates=values,
            history=tuple(self.history),
            sizes=(len(self.flat[0]), len(self.flat[1])),
            scores=(scores[0].cpu(), scores[1].cpu()),
            notes=tuple(self.notes),
        )

    def _interval(
        self, scores: tuple[Tensor, Tensor], bound: LipschitzBound, lower: float
    ) -> tuple[tuple[float, float], float, str]:
        settings = self.settings
        if not settings.held_out:
            return (lower, self.upper), 1.0, "of the samples themselves: no chance is involved"
        failure, span = (1 - settings.confidence) / 2, self._span()
        below = dual_over_bound(*scores, bound)
        if 0 < float(bound) < math.inf:
            x, y = (s / float(bound) for s in scores)
            below = max(below - mean_slack(x, y, failure=failure, span=span), 0.0)
        above = self.upper + transport_slack(*self.flat, failure=failure, span=span)
        limit = "in the limit of many" if span is None else "for any number of"
        guarantee = f"confidence {100 * settings.confidence:g} %, {limit} independent points"
        return (below, above), settings.confidence, guarantee

    def _span(self) -> float | None:
        if self.settings.domain is None:
            return None
        low, high = self.settings.domain
        return (high - low) * math.sqrt(math.prod(self.shape))

    def _check_domain(self) -> None:
        if self.settings.domain is None:
            return
        low, high = self.settings.domain
        least = min(float(x.min()) for x in self.flat)
        most = max(float(x.max()) for x in self.flat)
        if least < low or most > high:
            raise ValueError(
                f"`domain` must hold every coordinate of the points; got {self.settings.domain} "
                f"for points from {least:g} to {most:g}."
            )
