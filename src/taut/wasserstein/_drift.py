"""Drift: do two samples come from one distribution, and where do they differ?"""

from collections.abc import Sequence

import torch
from torch import nn

from taut.linalg.rounding import refuse_flushing
from taut.wasserstein._comparison import Comparison, ComparisonOptions, check_level, check_reach
from taut.wasserstein._drift_result import Drift
from taut.wasserstein._samples import Samples, feature_names, read_samples
from taut.wasserstein._settings import DriftSettings

_NAMES = ("reference", "new")


def drift(
    reference: Samples,
    new: Samples,
    critic: nn.Module | None = None,
    *,
    level: float = 0.05,
    standardise: bool = False,
    features: Sequence[str] | None = None,
    settings: DriftSettings = DriftSettings(),  # noqa: B008 (frozen)
    device: torch.device | str | None = None,
) -> Drift:
    r"""Test whether new points come from the distribution of reference points.

    1-Lipschitz critics are trained to score the reference above the new points on one part of both,
    and are then fixed. On the part held out their mean scores are compared: the difference of a
    critic is a lower bound of W1, up to chance, and chance is what a permutation test measures.

    Guarantee: without drift `alarm` is raised with probability at most `level`, for any
        distribution and any number of points, if all points are exchangeable: critics are
        functions of other points, so that each labelling of the held-out scores is equally likely.
        `lower` is at most W1 of the distributions with probability at least 1 - `level`, for any
        distribution and any number of independent points: scores are clipped to the range
        of those of the training points, so that bounds for bounded variables hold.
    Cost: `settings.steps` steps of a small network: a second for hundreds of points of tens of
        features. Needs no extra.

    Args:
        reference: points that are as they should be: whatever :func:`estimate` takes, or a pandas
            DataFrame with columns of numbers.
        new: points to compare with them.
        critic: a model of one number a point, a copy of which is trained; by default an orthogonal
            network, and in closed form the linear critic, the distance from the mean of the
            reference and that from its nearest point: all are tested at once.
        level: probability of a false alarm, and of a `lower` that is too high.
        standardise: divide each feature by its standard deviation in the part of the reference that
            trains: W1 in l2 adds features, which must have a common unit.
        features: names of the features of points that are vectors; by default those of the columns.
        settings: options of the test.
        device: where to; None leaves tensors where they are.

    Returns:
        The p-value, the lower bound, the alarm, and which features and points differ most.

    Raises:
        ValueError: if the samples do not fit each other, are not finite, or are too few for `level`
            to be reached; in one sentence.
        UnprovenError: if the critic cannot be bounded, or its scores contradict its bound.

    Reference:
        Lopez-Paz and Oquab (2017), *Revisiting classifier two-sample tests*, arXiv:1610.06545, for
        a test by a trained function; Phipson and Smyth (2010) for the p-value; Waudby-Smith and
        Ramdas (2024), arXiv:2010.09686, for `lower`.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = (torch.randn(200, 3, generator=generator) for _ in range(2))
        >>> result = drift(x, y + torch.tensor([0.0, 0.0, 2.0]), settings=DriftSettings(steps=20))
        >>> result.alarm, result.p_value, 0 < result.lower < 2, int(result.saliency.argmax())
        (True, 0.001, True, 2)
    """
    refuse_flushing()
    level = check_level(level)
    names = feature_names(reference, new, _NAMES) if features is None else tuple(features)
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(settings.seed)
        sides = read_samples(reference, new, settings.training, device, names=_NAMES)
        check_reach((len(sides[0].held_out), len(sides[1].held_out)), level, settings, critic)
        options = ComparisonOptions(level, standardise, names, settings)
        return Comparison(sides, critic, options).run()
