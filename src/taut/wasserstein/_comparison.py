"""Critics that are fixed on one part of two samples, and tested on the other."""

import copy
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from taut._arguments import unit_share
from taut.linalg.rounding import down
from taut.parametrizations import projected
from taut.wasserstein import closed_form, critics
from taut.wasserstein._confidence import least_difference
from taut.wasserstein._drift_result import Drift
from taut.wasserstein._exact import common_exponent, rescaled
from taut.wasserstein._permutation import least_p_value, p_value
from taut.wasserstein._saliency import contributions
from taut.wasserstein._samples import Points
from taut.wasserstein._scaled import ScaledPair, exponent_of_all
from taut.wasserstein._settings import DriftSettings
from taut.wasserstein._training import (
    MeasuredCritic,
    dual_over_bound,
    measure_critic,
    scores_of,
    train_critic,
)

_SHIFTED = 10
_NEAREST = 2000
_APART = 32  # doublings of the extent of the points seen
_MOST = torch.finfo(torch.float64).max
_UP = 1 + 2.0**-40  # more than the rounding of a few operations


@final
@dataclass(frozen=True)
class ComparisonOptions:
    """What a comparison needs beside points and a critic."""

    level: float
    standardise: bool
    features: tuple[str, ...] | None
    settings: DriftSettings


def check_level(level: float) -> float:
    """The level as a float, refused if it is no probability."""
    return unit_share("level", level, zero=False, one=False)


def check_reach(
    sizes: tuple[int, int], level: float, settings: DriftSettings, critic: nn.Module | None
) -> None:
    """Refuse held-out points that are too few for any alarm."""
    critics = 1 if critic is not None else 3 + bool(settings.steps)
    permutations = settings.permutations
    least = least_p_value(*sizes, level=level, permutations=permutations, critics=critics)
    if least > level:
        reached = least_p_value(*sizes, level=1.0, permutations=permutations, critics=critics)
        raise ValueError(
            f"`level` must be at least {min(least, reached):.3g}, the least p-value of {sizes[0]} "
            f"and {sizes[1]} held-out points with {permutations} permutations; got {level:g}: give "
            "more points."
        )


@final
class Comparison:
    """One comparison of the held-out points by critics that are functions of the others."""

    def __init__(
        self, sides: tuple[Points, Points], critic: nn.Module | None, options: ComparisonOptions
    ) -> None:
        self.options, self.settings, self.own = options, options.settings, critic is not None
        self.scale: Tensor | None = None
        if options.standardise:
            self.scale = scale = _scale(sides[0].seen)
            p, q = (side.mapped(lambda points: points.double() / scale) for side in sides)
            divided = [points for side in (p, q) for points in (side.seen, side.everything)]
            if not all(bool(points.isfinite().all()) for points in divided):
                raise ValueError(
                    "`standardise` must be False for a feature that overflows once it is divided "
                    "by its standard deviation in the reference."
                )
            sides = p, q
        exponent, self.apart = _exponent_of_seen(*sides)
        self.sides, self.pair = sides, ScaledPair.of(*sides, exponent=exponent)
        self.shape = tuple(sides[0].everything.shape[1:])
        if options.features is not None and (len(options.features),) != self.shape:
            raise ValueError(
                f"`features` must be a name for each number of a point of shape {self.shape}; "
                f"got {len(options.features)}."
            )
        self.network = critics.dense(self.shape, width=32, depth=2) if critic is None else critic
        self.network = copy.deepcopy(self.network).to(sides[0].everything.device)
        if self.own:
            measure_critic(self.network, self.shape, self._exponent)  # refused before any work

    @property
    def _exponent(self) -> int:
        """The user's own critic takes the points as given, the others take the scaled ones."""
        return self.pair.exponent if self.own else 0

    def run(self) -> Drift:
        """Train critics, fix them, and test all of them at once."""
        built = {} if self.own else _closed_forms(self.pair.p.seen, self.pair.q.seen)
        if self.settings.steps and any(x.requires_grad for x in self.network.parameters()):
            x, y = self.sides if self.own else (self.pair.p, self.pair.q)
            x, y = (replace(side, training=side.seen) for side in (x, y))
            train_critic(self.network, x, y, self.settings.training, lambda step, _: float(step))
        if self.settings.steps or self.own:
            built["network"] = projected(self.network).eval()
        return self._conclude({name: self._clipped(critic) for name, critic in built.items()})

    def _clipped(self, critic: nn.Module) -> nn.Module:
        """The critic, no higher and no lower than on the points that it has seen.

        Points that all score alike give no range: then it is not clipped, and proves no distance.
        """
        model = projected(critic).double().eval()
        seen = torch.cat([self.pair.p.seen, self.pair.q.seen])
        scores = rescaled(scores_of(model, seen, self._exponent), self._exponent).nan_to_num()
        low, high = float(scores.min()), float(scores.max())
        low, high = (low, high) if low < high else (-_MOST, _MOST)
        return nn.Sequential(critic, closed_form.Clip(low, high).to(scores.device)).eval()

    def _conclude(self, built: dict[str, nn.Module]) -> Drift:
        pair, unit, level = self.pair, self.pair.exponent, self.options.level
        generator = torch.Generator().manual_seed(self.settings.seed)
        tested = {name: self._tested(critic, generator) for name, critic in built.items()}
        sides = zip(*(t.scores for t in tested.values()), strict=True)
        columns = [torch.stack(side, 1).nan_to_num() for side in sides]
        p = p_value(
            *columns, level=level, permutations=self.settings.permutations, generator=generator
        )
        lowers = {n: 0.0 if self.apart else t.lower(level / len(tested)) for n, t in tested.items()}
        chosen = max(tested, key=lambda name: (lowers[name], tested[name].separation))
        final, scores = tested[chosen].critic, tested[chosen].scores
        shares = contributions(final, pair.p.held_out, pair.q.held_out)
        # Not clipped, so that there are no ties.
        model = projected(next(built[chosen].children())).double().eval()
        raw = scores_of(model, pair.q.everything, self._exponent)
        return Drift(
            p_value=p,
            level=level,
            lower=pair.restored(lowers[chosen], down),
            dual=pair.restored(tested[chosen].dual, down),
            critic=built[chosen] if self.own else pair.restored_critic(built[chosen]),
            chosen=chosen,
            bound=final.bound,
            saliency=rescaled(shares, unit),
            shifted=raw.topk(min(_SHIFTED, len(raw)), largest=False).indices.cpu(),
            scores=(rescaled(scores[0].cpu(), unit), rescaled(scores[1].cpu(), unit)),
            sizes=(len(pair.p.everything), len(pair.q.everything)),
            scale=self.scale,
            features=self.options.features,
        )

    def _tested(self, critic: nn.Module, generator: torch.Generator) -> "_Tested":
        """Scores of the held-out points, all in one random order: rounding may depend on places."""
        final = measure_critic(critic, self.shape, self._exponent)
        x, y = self.pair.p.held_out, self.pair.q.held_out
        order = torch.randperm(len(x) + len(y), generator=generator, device="cpu").to(x.device)
        scores = final.scores(torch.cat([x, y])[order])[order.argsort()]
        first, second = scores.split([len(x), len(y)])
        excess = final.excess((x.flatten(1).double(), y.flatten(1).double()), (first, second))
        seen = [final.scores(side.seen) for side in (self.pair.p, self.pair.q)]
        sizes = [max(1, len(a) // len(b)) for a, b in ((x, y), (y, x))]  # of a pair
        variance = sum(float(s.var(correction=0)) / n for s, n in zip(seen, sizes, strict=True))
        span = (float(torch.cat(seen).max()) - float(torch.cat(seen).min())) * _UP
        if float(critic.get_buffer("1.high")) == _MOST:  # not clipped: rounding alone is no range
            span = 0.0
        return _Tested(final, (first, second), excess, span, math.sqrt(variance))


class _Tested(NamedTuple):
    """A critic that was fixed before, and the scores that it gives the held-out points."""

    critic: MeasuredCritic
    scores: tuple[Tensor, Tensor]
    excess: Fraction
    span: float  # of the scores
    deviation: float  # expected, of a difference of two scores

    @property
    def dual(self) -> float:
        """The lower bound of the distance of the held-out points."""
        return dual_over_bound(self.scores, self.critic.bound, excess=self.excess)

    @property
    def separation(self) -> float:
        """Difference of the mean scores, in standard deviations of all scores."""
        x, y = self.scores
        return float((x.mean() - y.mean()) / torch.cat([x, y]).std().clamp_min(2.0**-900))

    def lower(self, failure: float) -> float:
        """At most the distance of the distributions, but for this probability."""
        bound = float(self.critic.bound)
        if not 0 < bound < math.inf:
            return 0.0
        surely = least_difference(
            *self.scores, failure=failure, span=self.span, deviation=self.deviation
        )
        return max(0.0, down((Fraction(surely) - self.excess) / Fraction(bound)))


def _exponent_of_seen(p: Points, q: Points) -> tuple[int, bool]:
    """That of the unit of the points seen, so that critics do not depend on others by it.

    And whether held-out points lie too far out for it: then it is that of all points, and no
    distance is proved.
    """
    of_all = exponent_of_all(p, q)
    of_seen = common_exponent(*(side.seen.flatten(1).double() for side in (p, q)))
    apart = not of_seen <= of_all <= of_seen + _APART
    return (of_all if apart else of_seen), apart


def _closed_forms(p: Tensor, q: Tensor) -> dict[str, nn.Module]:
    return {
        "linear": closed_form.linear(p, q),
        "radial": closed_form.radial(p, q)[0],  # from the mean of the reference
        "nearest": closed_form.nearest(p[:_NEAREST]),
    }


def _scale(points: Tensor) -> Tensor:
    """Standard deviation of each feature, without overflow; 1 where a feature is constant."""
    moved = points.double() / 2 - points[0].double() / 2
    largest = moved.abs().amax(0)
    unit = torch.where(largest > 0, largest, 1.0)
    deviation = (unit * (2 * (moved / unit).std(0))).clamp(max=_MOST)
    return torch.where(largest > 0, deviation, 1.0)
