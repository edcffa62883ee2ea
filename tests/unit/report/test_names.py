"""Names of curves stand beside them, and hide neither a curve nor each other."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from taut.report._comparison import _judged_on
from taut.report._names import name_curves
from taut.report._svg import chart, inline

X = np.linspace(0, 3, 200)
FALLING = {
    "two runs": [90 * np.exp(-X), 80 * np.exp(-X / 2)],
    "a run that stops early": [90 * (1 - np.exp(-2 * X)), 90 * (1 - np.exp(-2 * X[:30]))],
    "seeds": [90 * np.exp(-X * (1 + 0.02 * i)) for i in range(4)],
    "equal curves": [100 - 10 * X] * 3,
    "twelve runs": [90 * np.exp(-X * (0.5 + 0.2 * i)) for i in range(12)],
    "one epoch": [np.array([70.0]), np.array([40.0])],
    "not a number": [np.full(5, np.nan), 90 * np.exp(-X)],
}


def drawn(curves):
    """In pixels: the box of each name, the curve of each name, and the box of the axes."""
    with chart("eps", "certified accuracy in %") as (figure, axes):
        lines = {
            f"fashion-mnist-run{i}": axes.plot(X[: len(y)], y, color=f"C{i}")[0]
            for i, y in enumerate(curves)
        }
        axes.set(xlim=(0, 3), ylim=(0, 100))
        name_curves(axes, lines)
        figure.draw_without_rendering()
        # The box of the text alone, without the line that leads to the curve.
        boxes = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
        paths = {n: line.get_path().transformed(axes.transData) for n, line in lines.items()}
        colours = {text.get_text(): text.get_color() for text in axes.texts}
        assert colours == {name: lines[name].get_color() for name in colours}
        inside = axes.bbox.frozen().padded(1)
        svg = inline(figure, "", "names")
        assert all(f">{name}<" in svg for name in boxes)
    return boxes, paths, inside


@pytest.mark.parametrize("curves", FALLING.values(), ids=FALLING)
def test_names_stand_apart(curves):
    boxes, paths, inside = drawn(curves)
    assert list(boxes) == [name for name, path in paths.items() if np.isfinite(path.vertices).all()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes.values(), 2))
    assert all(inside.fully_contains(*corner) for box in boxes.values() for corner in box.corners())
    if len(curves) <= 4:  # more leave no room between them
        for path, box in itertools.product(paths.values(), boxes.values()):
            assert not path.intersects_bbox(box, filled=False)


def test_names_are_nearest_to_their_own_curve():
    boxes, paths, _ = drawn(FALLING["two runs"])
    for name, box in boxes.items():
        centre = np.mean(box.corners(), axis=0)
        far = {other: np.hypot(*(path.vertices - centre).T).min() for other, path in paths.items()}
        assert min(far, key=far.__getitem__) == name


def test_caption_names_the_images_once():
    assert _judged_on({"a": "test", "b": "test"}) == "test images"
    several = {"a": "test", "b": "validation"}
    assert _judged_on(several) == "test images for a, validation images for b"
