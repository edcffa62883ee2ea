"""Conformal prediction that holds under attack: sets and intervals with a proven coverage.

To add a score, write a final subclass of `AbstractScore` and add its line here.
"""

from taut.conformal._classifier import ConformalClassifier
from taut.conformal._quantile import conformal_threshold, points_needed
from taut.conformal._regressor import ConformalRegressor
from taut.conformal._score_bounds import ScoreBounds
from taut.conformal._scores import AbstractScore, Logit, Margin, Softmax

__all__ = [
    "AbstractScore",
    "ConformalClassifier",
    "ConformalRegressor",
    "Logit",
    "Margin",
    "ScoreBounds",
    "Softmax",
    "conformal_threshold",
    "points_needed",
]
