"""What an estimate says."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float64
from torch import Tensor, nn

from taut._display import html_table, rounded_down, rounded_up
from taut.program import LipschitzBound


@final
@dataclass(frozen=True)
class W1Progress:
    """The progress of an estimate.

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
@dataclass(frozen=True, eq=False, repr=False)
class W1Estimate:
    """Bounds of the Wasserstein-1 distance (in l2) between two samples and their distributions.

    Attributes:
        lower: dual value over proved bound, on the held-out points and on all points, the smaller
            one, rounded down: at most the distance of the samples, and in expectation at most that
            of the distributions.
        upper: cost of a feasible plan between all points, rounded up: at least the distance of the
            samples.
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
        >>> settings = taut.wasserstein.Settings(steps=0, held_out=0.0)
        >>> result = taut.wasserstein.estimate(x, x + 3, settings=settings)
        >>> round(result.lower, 6), round(result.upper, 6)
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
    scores: tuple[Float64[Tensor, "n"], Float64[Tensor, "m"]]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"W1Estimate(lower={rounded_down(self.lower)}, upper={rounded_up(self.upper, 6)}, "
            f"{self.sizes[0]} and {self.sizes[1]} points, critic {self.chosen!r})"
        )

    def _repr_html_(self) -> str:
        low, high = rounded_down(self.interval[0]), rounded_up(self.interval[1], 6)
        between = f"{rounded_down(self.lower)} to {rounded_up(self.upper, 6)}"
        exact = "" if self.empirical is None else f", exactly {self.empirical:.6g}"
        rows = [
            ("W1 of the samples", between + exact),
            ("points", f"{self.sizes[0]} and {self.sizes[1]}"),
            ("critic", f"{self.chosen}, Lipschitz bound {rounded_up(self.bound)}"),
        ]
        if self.confidence < 1:
            rows.insert(1, ("of the distributions", f"{low} to {high}, {self.guarantee}"))
        return html_table([*rows, *(("note", note) for note in self.notes)])

    def __str__(self) -> str:
        low, high = self.interval
        of = "the samples" if self.confidence == 1 else f"the distributions ({self.guarantee})"
        lines = [
            f"{rounded_down(low, 4)} <= W1 of {of} <= {rounded_up(high, 4)}",
            f"{rounded_down(self.lower, 4)} <= W1 of the samples <= {rounded_up(self.upper, 4)}",
        ]
        return "\n".join((*lines[: 1 if self.confidence == 1 else 2], *self.notes))
