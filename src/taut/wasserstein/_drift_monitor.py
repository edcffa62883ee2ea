"""Drift in a stream of points, window by window."""

import math
import sys
from collections import deque
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from taut._arguments import whole
from taut.linalg.rounding import refuse_flushing
from taut.wasserstein._comparison import Comparison, ComparisonOptions, check_level, check_reach
from taut.wasserstein._drift_result import Drift
from taut.wasserstein._samples import FEWEST, Points, Samples, points_of, read_side
from taut.wasserstein._settings import DriftSettings
from taut.wasserstein._tables import frame_columns


@final
class DriftMonitor:
    r"""Test the windows of a stream for drift from a reference.

    The critics of a window are trained on one part of the reference and on the windows before; all
    points of the window test. The first window has none before it and is cut in two, as in
    :func:`drift`. Points unlike the reference are found in the window where they come first, by
    their distance to the reference; a shift inside of it a window later, once critics know it.

    Guarantee: if the points of the reference and of a window are exchangeable, given all windows
        before, the alarm of that window is false with probability at most its level: `level`, so
        that one window in 1 / `level` alarms without drift; or, with `whole_stream`, :math:`6\,
        \mathrm{level} / (\pi^2 k^2)` for window k: then the whole stream, however long, has a false
        alarm with probability at most `level`, since these sum to it.
    Cost: of a window that of :func:`drift`.

    Args:
        reference: points that are as they should be.
        window: points of a window.
        level: probability of a false alarm.
        whole_stream: whether `level` is that of all windows together.
        memory: windows that critics are trained on, the last ones.
        critic: as of :func:`drift`.
        standardise: as of :func:`drift`.
        settings: options of the tests.
        device: where to; None leaves tensors where they are.

    Raises:
        ValueError: if an argument is out of its range, or the reference is too small.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> settings = DriftSettings(steps=0)
        >>> monitor = DriftMonitor(
        ...     torch.randn(200, 3, generator=generator), window=100, level=0.01, settings=settings
        ... )
        >>> for shift in (0.0, 0.0, 2.0):
        ...     result = monitor.update(torch.randn(100, 3, generator=generator) + shift)
        ...     print(monitor.windows, result.alarm)
        1 False
        2 False
        3 True
    """

    def __init__(
        self,
        reference: Samples,
        *,
        window: int = 500,
        level: float = 0.05,
        whole_stream: bool = False,
        memory: int = 10,
        critic: nn.Module | None = None,
        standardise: bool = False,
        settings: DriftSettings = DriftSettings(),  # noqa: B008 (frozen)
        device: torch.device | str | None = None,
    ) -> None:
        self.window, self.memory = whole("window", window), whole("memory", memory)
        if self.window < FEWEST:
            raise ValueError(f"`window` must be at least {FEWEST}; got {window}.")
        self.level, self.whole_stream, self.critic = check_level(level), whole_stream, critic
        self.standardise, self.settings, self.device = standardise, settings, device
        self.columns = frame_columns(reference)
        side = read_side("reference", reference, None, settings.training, device)
        self._reference = replace(side, sampler=None)
        self._rest = self._reference.everything[:0]
        self._past: deque[Tensor] = deque(maxlen=self.memory)
        self.windows = 0
        self.alarms: list[int] = []
        # The second window is the first that tests with all its points.
        sizes = len(self._reference.held_out), self.window
        check_reach(sizes, self.level_of(2), settings, critic)

    def level_of(self, window: int) -> float:
        """The level at which a window is tested; the first is number 1.

        Args:
            window: its number.

        Example:
            >>> monitor = DriftMonitor(torch.zeros(8, 1), window=4, level=0.1, whole_stream=True)
            >>> round(monitor.level_of(2) / monitor.level_of(1), 9)
            0.25
        """
        return self.level * 6 / (math.pi * window) ** 2 if self.whole_stream else self.level

    def update(self, points: Samples) -> Drift | None:
        """Add points of the stream, in their order, and test each window that they fill.

        Args:
            points: any number of new points.

        Returns:
            The result of the window that was filled, or None if there is none; of several that of
            the first with an alarm, else that of the last. `alarms` has the numbers of all windows
            with an alarm.

        Raises:
            ValueError: if the points do not fit the reference or are not finite.

        Example:
            >>> monitor = DriftMonitor(torch.randn(200, 1), window=100)
            >>> monitor.update(torch.randn(99, 1)) is None
            True
        """
        refuse_flushing()
        self._rest = torch.cat([self._rest, self._checked(points)])
        result = None
        while len(self._rest) >= self.window:
            filled, self._rest = self._rest.split([self.window, len(self._rest) - self.window])
            tested = self._test(filled)
            result = result if result is not None and result.alarm else tested
        return result

    def _checked(self, points: Samples) -> Tensor:
        named = frame_columns(points)
        if None not in (named, self.columns) and named != self.columns:
            wanted, got = (", ".join(names or ()) for names in (self.columns, named))
            raise ValueError(f"`points` must have the columns {wanted}; got {got}.")
        found, like = points_of("points", points, sys.maxsize, 0), self._rest
        if found.shape[1:] != like.shape[1:]:
            raise ValueError(
                f"`points` must have the shape of the reference's, {tuple(like.shape[1:])}; got "
                f"{tuple(found.shape[1:])}."
            )
        return found.to(like.device)

    def _test(self, points: Tensor) -> Drift:
        self.windows += 1
        settings = replace(self.settings, seed=self.settings.seed + self.windows)
        options = ComparisonOptions(
            self.level_of(self.windows), self.standardise, self.columns, settings
        )
        gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(settings.seed)
            sides = self._reference, self._side(points, settings)
            result = Comparison(sides, self.critic, options).run()
        self._past.append(points)
        if result.alarm:
            self.alarms.append(self.windows)
        return result

    def _side(self, points: Tensor, settings: DriftSettings) -> Points:
        """The window held out, the windows before to train on; the first window is cut."""
        if not self._past:
            return read_side("points", points, None, settings.training)
        past = torch.cat([*self._past])
        return Points(past, past[:0], points, points, True)
