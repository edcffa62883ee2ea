"""Wasserstein-1 from both sides: a critic from below, a transport plan from above."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from taut.linalg.rounding import down, refuse_flushing, up
from taut.parametrizations import projected
from taut.program import LipschitzBound
from taut.wasserstein import closed_form, critics
from taut.wasserstein._confidence import (
    domain_span,
    mean_slack,
    student_quantile,
    transport_slack,
)
from taut.wasserstein._exact import common_exponent, rescaled
from taut.wasserstein._plan import (
    BYTES_PER_PAIR,
    Masses,
    TransportPlan,
    improved,
    optimal,
    staircase,
)
from taut.wasserstein._result import W1Estimate, W1Progress
from taut.wasserstein._samples import Points, Samples, Weights, read_samples
from taut.wasserstein._scaled import ScaledPair
from taut.wasserstein._settings import Settings
from taut.wasserstein._training import (
    MeasuredCritic,
    dual_over_bound,
    measure_critic,
    train_critic,
)

_BLOCK = 1000
_POTENTIAL = 2000
_FLOAT32 = 2.0**60  # points beyond are trained on in float64


def estimate(
    p: Samples,
    q: Samples,
    critic: nn.Module | None = None,
    *,
    weights: tuple[Weights | None, Weights | None] | None = None,
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

    Guarantee: `lower` <= W1 of the samples <= `upper` with all rounding counted, whatever the
        critic and the scale of the points. Without a critic of your own, the estimate of points
        times a power of two is that of the points, times the power. `interval` holds W1 of the
        distributions at the confidence asked for if the points are independent draws: of any
        number with `settings.domain`, else in the limit of many.
    Cost: `settings.steps` steps of the critic; exact transport between n and m points, about n m
        times 40 bytes, within `settings.max_memory`; a matrix product for all pairs of points.

    Args:
        p: points to score high: a tensor, a data set, a loader or a sampler.
        q: points to score low.
        critic: a model of one number a point, a copy of which is trained; by default the best, on
            validation points, of an orthogonal network (convolutional for images) and of critics in
            closed form: linear, radial, and the Kantorovich potential of the training points.
        weights: for each side the weights of its points, such as the counts of a histogram, or
            None. Then nothing is held out: the bounds are of the weighted points.
        settings: options of the estimate.
        device: where to; None leaves tensors where they are.
        on_progress: called at each check.

    Returns:
        Both bounds, the interval, the critic and how it came about.

    Raises:
        ValueError: if the samples do not fit each other, are too small or are not finite, or the
            critic does not fit them; in one sentence.
        UnprovenError: if the critic cannot be bounded, or its scores contradict its bound.
        ImportError: without the extra `wasserstein`, if exact transport or an interval without
            `settings.domain` is asked for.

    Reference:
        Li et al. (2019), arXiv:1911.00937, section 5.2, for orthogonal critics.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(100, 2, generator=generator)
        >>> result = estimate(x, x + torch.tensor([3.0, 4.0]), settings=Settings(steps=10))
        >>> result.interval[0] < 5 < result.interval[1], round(result.empirical, 6)
        (True, 5.0)
        >>> bins = torch.arange(4.0)[:, None]
        >>> round(estimate(bins, bins, weights=([3, 2, 1, 4], [1, 2, 4, 3])).upper, 12)
        0.5
    """
    refuse_flushing()
    if weights is not None:
        settings = replace(settings, held_out=0.0)
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(settings.seed)
        sides = read_samples(p, q, settings, device, weights or (None, None))
        return _Estimation(sides, critic, settings, on_progress).run()


def _exponent_of(domain: tuple[float, float] | None) -> int | None:
    """That of the unit of a domain, so that no critic depends on the held-out points by it."""
    if domain is None:
        return None
    low, high = torch.tensor(domain, dtype=torch.float64, device="cpu").view(2, 1, 1)
    return common_exponent(low, high)


@final
class _Estimation:
    """One call of `estimate`: both sides as they come closer, in the units of the scaled pair."""

    def __init__(
        self,
        sides: tuple[Points, Points],
        critic: nn.Module | None,
        settings: Settings,
        tell: Callable[[W1Progress], None],
    ) -> None:
        self.sides, self.own, self.settings, self.tell = sides, critic is not None, settings, tell
        self.shape = tuple(sides[0].everything.shape[1:])
        self.weights = sides[0].weights, sides[1].weights
        span = domain_span(settings.domain, *(side.everything for side in sides))
        if settings.held_out and span is None:
            student_quantile(1.0, 0.5)  # a missing package is refused before any work
        self.pair = ScaledPair.of(*sides, exponent=_exponent_of(settings.domain))
        unit = Fraction(2) ** self.pair.exponent
        self.span = None if span is None else up(Fraction(span) / unit)
        device = self.pair.flat[0].device
        self.network = (self._built() if critic is None else copy.deepcopy(critic)).to(device)
        self._measured(self.network)  # refused before any work
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.notes: list[str] = []
        self.history: list[W1Progress] = []
        plan, self.exact = self._first_plan()
        self._take(plan)
        if not self.exact:
            self._improve()

    def _built(self) -> nn.Module:
        """A network for the scaled points."""
        match self.shape:
            case (channels, height, width) if min(height, width) >= 8:
                built = critics.dcgan((channels, height, width), width=16)
            case _:
                built = critics.dense(self.shape)
        largest = max(float(side.abs().max()) for side in self.pair.flat)
        return built if largest <= _FLOAT32 else built.double()

    def run(self) -> W1Estimate:
        """Train, choose and measure a critic."""
        candidates = {} if self.own else self._closed_forms(validated=True)
        values = {name: self._validate(critic) for name, critic in candidates.items()}
        self.lower = max(values.values(), default=0.0)
        if any(tensor.requires_grad for tensor in self.network.parameters()):
            sides = self.sides if self.own else (self.pair.p, self.pair.q)
            train_critic(self.network, *sides, self.settings, self._check)
        candidates["network"] = projected(self.network).eval()
        values["network"] = self._validate(candidates["network"])
        chosen = max(values, key=values.__getitem__)
        if chosen != "network":  # it costs no more to have it from all that may be seen
            candidates |= self._closed_forms(validated=False)
        values = {name: self.pair.restored(value, down) for name, value in values.items()}
        return self._conclude(chosen, candidates[chosen], values)

    def _closed_forms(self, *, validated: bool) -> dict[str, nn.Module]:
        """Critics that need no steps, from the training points or from all that may be seen."""
        x, y = ((s.training if validated else s.seen) for s in (self.pair.p, self.pair.q))
        near, far = closed_form.radial(x, y, weights=self.weights)
        built: dict[str, nn.Module] = {
            "linear": closed_form.linear(x, y, weights=self.weights),
            "radial from p": near,
            "radial from q": far,
        }
        masses = self.pair.masses
        if self.settings.held_out:
            x, y = x[:_POTENTIAL], y[:_POTENTIAL]
            masses = Masses.of(*(torch.ones(len(side), device="cpu").double() for side in (x, y)))
        if self._fits(len(x), len(y)):
            solved = optimal(x.flatten(1).double(), y.flatten(1).double(), masses)
            if solved is not None:
                taking = masses.demand > 0
                offsets = solved.offsets[taking].to(y.device)
                built["potential"] = closed_form.Potential(y[taking.to(y.device)].double(), offsets)
        return built

    def _measured(self, critic: nn.Module) -> MeasuredCritic:
        """A critic for the scaled points; the user's own takes the points as given."""
        return measure_critic(critic, self.shape, self.pair.exponent if self.own else 0)

    def _validate(self, critic: nn.Module) -> float:
        """What a critic proves on the validation points, but for rounding of its scores."""
        measured = self._measured(critic)
        scores = measured.scores(self.pair.p.validation), measured.scores(self.pair.q.validation)
        return dual_over_bound(scores, measured.bound, self.weights)

    def _check(self, step: int, critic: nn.Module) -> float | None:
        """Measure the critic, improve the plan; None if the two sides have met."""
        value = self._validate(critic)
        if not self.exact and step:
            self._improve()
        self.lower = max(self.lower, value)
        lower, upper = self.pair.restored(self.lower, down), self.pair.restored(self.upper, up)
        self.history.append(W1Progress(step, self.settings.steps, lower, upper))
        self.tell(self.history[-1])
        met = self.upper - self.lower <= self.settings.tolerance * self.upper
        return None if met else value

    def _first_plan(self) -> tuple[TransportPlan, bool]:
        """The optimal plan where memory allows, else a feasible one; and whether it is optimal."""
        x, y = self.pair.flat
        why = "did not finish"
        if self._fits(len(x), len(y)):
            solved = optimal(x, y, self.pair.masses)
            if solved is not None:
                return solved.plan, True
        else:
            need = BYTES_PER_PAIR * len(x) * len(y) / 2**30
            most = self.settings.max_memory / 2**30
            why = f"needs about {need:.3g} GiB, more than the {most:.3g} GiB of `max_memory`"
        self.notes.append(
            f"Exact transport between {len(x):,} and {len(y):,} points {why}; "
            "`upper` is the cost of the best feasible plan found."
        )
        direction = x.mean(0) - y.mean(0)
        first, second = ((side @ direction).cpu().argsort() for side in (x, y))
        return staircase(first, second, self.pair.masses), False

    def _take(self, plan: TransportPlan) -> None:
        self.plan = plan
        self.upper = up(Fraction(plan.cost(*self.pair.flat)) + self.pair.allowance)

    def _improve(self) -> None:
        """One sweep over the plan, unless no memory is allowed for it."""
        if self.settings.max_memory:
            block = _BLOCK
            while block > 2 and BYTES_PER_PAIR * block**2 > self.settings.max_memory:
                block //= 2
            flat = self.pair.flat
            self._take(improved(self.plan, *flat, block=block, generator=self.generator))

    def _fits(self, n: int, m: int) -> bool:
        return BYTES_PER_PAIR * n * m <= self.settings.max_memory

    def _conclude(self, chosen: str, critic: nn.Module, values: dict[str, float]) -> W1Estimate:
        pair, final = self.pair, self._measured(critic)
        scores = final.scores(pair.p.held_out), final.scores(pair.q.held_out)
        whole = final.scores(pair.p.everything), final.scores(pair.q.everything)
        excess = final.excess(pair.flat, whole)
        lower = min(dual_over_bound(s, final.bound, self.weights, excess) for s in (scores, whole))
        low, high, guarantee = self._interval(scores, final.bound, excess, lower)
        upper, unit = pair.restored(self.upper, up), partial(rescaled, exponent=pair.exponent)
        return W1Estimate(
            lower=pair.restored(lower, down),
            upper=upper,
            empirical=upper if self.exact else None,
            interval=(pair.restored(low, down), pair.restored(high, up)),
            confidence=self.settings.confidence if self.settings.held_out else 1.0,
            guarantee=guarantee,
            critic=critic if self.own else pair.restored_critic(critic),
            chosen=chosen,
            bound=final.bound,
            candidates=values,
            history=tuple(self.history),
            sizes=(len(pair.flat[0]), len(pair.flat[1])),
            scores=(unit(scores[0].cpu()), unit(scores[1].cpu())),
            notes=tuple(self.notes),
        )

    def _interval(
        self, scores: tuple[Tensor, Tensor], bound: LipschitzBound, excess: Fraction, lower: float
    ) -> tuple[float, float, str]:
        """Both ends of the interval in scaled units, and what its confidence rests on."""
        if not self.settings.held_out:
            return lower, self.upper, "of the samples themselves: no chance is involved"
        failure = (1 - self.settings.confidence) / 2
        below = dual_over_bound(scores, bound, excess=excess)
        if 0 < float(bound) < math.inf:
            x, y = (side / float(bound) for side in scores)
            below = max(0.0, below - mean_slack(x, y, failure=failure, span=self.span))
        above = self.upper + transport_slack(*self.pair.flat, failure=failure, span=self.span)
        limit = "in the limit of many" if self.span is None else "for any number of"
        percent = f"{100 * self.settings.confidence:g} %"
        return min(below, above), above, f"confidence {percent}, {limit} independent points"
