"""What a test for drift says."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from jaxtyping import Float64, Int64
from torch import Tensor, nn

from taut._display import html_table, rounded_down, rounded_up
from taut.program import LipschitzBound

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 5


@final
@dataclass(frozen=True, eq=False, repr=False)
class Drift:
    """Whether new points come from the distribution of reference points, and where they differ.

    Attributes:
        p_value: of the permutation test on the held-out points: without drift it is at most a with
            probability at most a, for any distribution and number of exchangeable points.
        level: the probability of a false alarm.
        lower: at most W1 of the two distributions with probability at least 1 - `level`, for any
            number of independent points; 0 where nothing is proved.
        dual: dual value over proved bound on the held-out points: in expectation at most W1.
        critic: in eval mode: scores reference points high, new points low. Its scores are clipped.
        chosen: which critic it is: "network", or the name of one in closed form.
        bound: its proved Lipschitz constant, layer by layer.
        saliency: for each feature its part of the difference of the mean scores, over the bound:
            a tensor of a point's shape that sums to about `dual`. No part of the guarantee.
        shifted: places of the new points with the lowest scores, the lowest first.
        scores: of the held-out points of both samples.
        sizes: points of each sample.
        scale: what each feature was divided by first; distances, critic and saliency are of the
            divided points. None if points are as given.
        features: names of the features, if the samples have any.

    Example:
        >>> x = torch.arange(40.0)[:, None]
        >>> settings = taut.wasserstein.DriftSettings(steps=0)
        >>> result = taut.wasserstein.drift(x, x + 30, settings=settings)
        >>> print(result)
        drift: p-value 0.001 <= level 0.05
        W1 of the distributions >= 10.2 at confidence 95 %; estimated from below: 29.95
    """

    p_value: float
    level: float
    lower: float
    dual: float
    critic: nn.Module
    chosen: str
    bound: LipschitzBound
    saliency: Float64[Tensor, "*shape"]
    shifted: Int64[Tensor, "k"]
    scores: tuple[Float64[Tensor, "n"], Float64[Tensor, "m"]]
    sizes: tuple[int, int]
    scale: Float64[Tensor, "*shape"] | None = None
    features: tuple[str, ...] | None = None

    @property
    def alarm(self) -> bool:
        """Whether the p-value is at most the level."""
        return self.p_value <= self.level

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The features that carry most of the shift, each with its part of `dual`.

        Args:
            count: features at most.

        Example:
            >>> x = torch.zeros(40, 2)
            >>> settings = taut.wasserstein.DriftSettings(steps=0)
            >>> result = taut.wasserstein.drift(x, x + torch.tensor([0.0, 9.0]), settings=settings)
            >>> [(name, round(part, 6)) for name, part in result.top()]
            [('1', 9.0), ('0', 0.0)]
        """
        flat = self.saliency.flatten()
        places = flat.argsort(descending=True, stable=True)[:count].tolist()
        return [(self._name(place), float(flat[place])) for place in places]

    def _name(self, place: int) -> str:
        if self.features is not None:
            return self.features[place]
        indices = []
        for size in reversed(self.saliency.shape):
            place, index = divmod(place, size)
            indices.append(str(index))
        return ",".join(reversed(indices))

    def to_json(self) -> str:
        """All numbers but the scores and the critic, as JSON."""
        return json.dumps(
            {
                "alarm": self.alarm,
                "p_value": self.p_value,
                "level": self.level,
                "lower": self.lower,
                "dual": self.dual,
                "sizes": self.sizes,
                "critic": self.chosen,
                "bound": float(self.bound),
                "standardised": self.scale is not None,
                "features": self.features,
                "saliency": self.saliency.tolist(),
                "shifted": self.shifted.tolist(),
            },
            indent=1,
        )

    def plot(self, *, ax: "Axes | None" = None) -> "Axes":
        """Plot the held-out scores of both samples, as :func:`taut.plot.scores` does.

        Args:
            ax: axes to draw on; a new figure by default.

        Returns:
            The axes; `axes.figure.savefig("drift.png")` writes the figure.

        Raises:
            ImportError: if matplotlib is not installed.

        Example:
            >>> x = torch.randn(40, 2)
            >>> settings = taut.wasserstein.DriftSettings(steps=0)
            >>> taut.wasserstein.drift(x, x + 9, settings=settings).plot().get_xlabel()
            'score of the critic'
        """
        from taut.plot import scores

        return scores(self, ax=ax)

    def _verdict(self) -> str:
        if self.alarm:
            return f"drift: p-value {self.p_value:.3g} <= level {self.level:.3g}"
        return f"no drift found: p-value {self.p_value:.3g} > level {self.level:.3g}"

    def _distance(self) -> str:
        unit = "" if self.scale is None else " (of standardised features)"
        return (
            f"W1 of the distributions{unit} >= {rounded_down(self.lower, 4)} at confidence "
            f"{100 * (1 - self.level):g} %; estimated from below: {self.dual:.4g}"
        )

    def _features(self) -> str:
        return ", ".join(f"{name} ({part:.3g})" for name, part in self.top(_NAMED) if part > 0)

    def __repr__(self) -> str:
        return (
            f"Drift(alarm={self.alarm}, p_value={self.p_value:.4g}, "
            f"lower={rounded_down(self.lower, 4)}, "
            f"{self.sizes[0]} and {self.sizes[1]} points, critic {self.chosen!r})"
        )

    def __str__(self) -> str:
        lines = [self._verdict(), self._distance()]
        if self.alarm and self.saliency.numel() > 1:
            lines.append(f"features that carry it: {self._features()}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [
            ("verdict", self._verdict()),
            ("distance", self._distance()),
            ("features", self._features() or "none"),
            ("points", f"{self.sizes[0]} and {self.sizes[1]}"),
            ("critic", f"{self.chosen}, Lipschitz bound {rounded_up(self.bound)}"),
        ]
        return html_table(rows)
