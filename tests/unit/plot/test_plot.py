"""Figures draw the numbers of the results that they are given."""

import sys

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import taut
from taut import plot
from taut._display import rounded_down
from taut.attacks import AttackResult
from taut.diagnostics import LayerDiagnostics, inspect, spectra


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(1)
    layers = [taut.nn.Conv2d(1, 4, 2, stride=2), taut.nn.MaxMin(), nn.Flatten()]
    return nn.Sequential(*layers, taut.nn.Linear(36, 3)).eval()


@pytest.fixture(scope="module")
def found(net):
    """Images, their certification and the smallest attacks on them; two labels are wrong."""
    images = torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        labels = net(images).argmax(1)
    labels[:2] = (labels[:2] + 1) % 3
    certification = taut.certify(net, images, labels, eps=("0.1",))
    return images, certification, taut.attacks.smallest_attack(net, images, labels)


def named(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return [float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]


def at(x, y, eps):
    """The value of a step function that changes at x, at eps."""
    return y[max(i for i, edge in enumerate(x) if edge <= eps)]


def test_radius_curve_counts_the_images_that_stay_correct(found):
    _, certification, attack = found
    axes = plot.radius_curve(certification, attack)
    certified, attacked = named(axes, "certified"), named(axes, "attacked")
    for eps in (0.0, 0.05, 0.13, 0.4, float(certification.radius.max()), 1.1):
        stay = sum(radius > eps for radius in certification.radius.tolist())
        assert at(*certified, eps) == stay / 24
        pairs = zip(attack.success.tolist(), attack.distance.tolist(), strict=True)
        assert at(*attacked, eps) == sum(not (hit and d <= eps) for hit, d in pairs) / 24
        assert at(*certified, eps) <= at(*attacked, eps)
    assert set(named(axes, "clean")[1]) == {22 / 24}
    assert certified[1][0] == attacked[1][0] == 22 / 24


def test_curve_of_one_attack_stays_level_where_it_found_nothing(found):
    _, certification, _ = found
    success, distance = torch.arange(24) < 6, torch.full((24,), 0.3, dtype=torch.float64)
    attack = AttackResult(torch.rand(24, 1, 6, 6), success, distance, ("0.3",), "x")
    x, y = named(certification.plot(attack), "attacked")
    assert (x[:2], y) == ([0.0, 0.3], [1.0, 18 / 24, 18 / 24])


def test_curves_on_given_axes(found):
    _, certification, attack = found
    ax = Figure().add_subplot()
    assert certification.plot(attack, ax=ax) is ax
    assert plot.radius_curve(certification, ax=ax) is ax
    with pytest.raises(ValueError, match="on the 24 certified images; got 3"):
        certification.plot(
            AttackResult(torch.rand(3, 1), torch.ones(3).bool(), torch.ones(3).double())
        )


def test_gallery_shows_the_nearest_attacks_first(found):
    images, certification, attack = found
    axes = plot.gallery(images, attack, certification, count=4)
    distance = attack.distance.masked_fill(~attack.success | (attack.distance == 0), torch.inf)
    nearest = distance.argsort()[:4].tolist()
    pictures = [torch.as_tensor(picture.get_array()) for picture in axes.images]
    assert len(pictures) == 12
    texts = [text.get_text() for text in axes.texts]
    for column, i in enumerate(nearest):
        original, change, changed = pictures[3 * column : 3 * column + 3]
        torch.testing.assert_close(original, images[i, 0])
        torch.testing.assert_close(changed, attack.adversarial[i, 0])
        lighter = (attack.adversarial[i, 0] - images[i, 0]) > 0
        assert (change[..., 0] >= change[..., 2])[lighter].all(), "orange is lighter"
        assert texts[2 * column] == f"at {attack.distance[i]:.3f}"
        assert texts[2 * column + 1] == f"proven {rounded_down(certification.radius[i], 3)}"
    colours = torch.rand(2, 3, 4, 4)
    result = AttackResult(colours, torch.zeros(2).bool(), torch.zeros(2).double())
    assert plot.gallery(colours, result).images[0].get_array().shape == (4, 4, 3)
    with pytest.raises(ValueError, match=r"the attacked ones, \(24, 1, 6, 6\).*got \(3, 1, 6, 6\)"):
        plot.gallery(images[:3], attack)
    with pytest.raises(ValueError, match="`count` must be at least 1; got 0"):
        plot.gallery(images, attack, count=0)
    with pytest.raises(ValueError, match="`certification` must be of the 2 images; got 24"):
        plot.gallery(colours, result, certification)


def test_slice_is_the_plane_of_the_attack(net, found):
    images, certification, attack = found
    i = int(certification.radius.argmax())
    image, adversarial = images[i], attack.adversarial[i]
    axes = plot.slice(net, image, adversarial=adversarial, extent=1.0, resolution=41)
    grid, disc = torch.as_tensor(axes.images[0].get_array()), axes.patches[0]
    assert disc.radius == float(taut.predict(net, image[None]).radius[0]) > 0.05
    steps = torch.linspace(-1, 1, 41).tolist()
    own = int(net(image[None]).argmax())
    right = (adversarial - image) / (adversarial - image).norm()
    for column, x in enumerate(steps):
        label = int(net((image + x * right)[None]).argmax())
        assert label == grid[20, column], "the middle row is the line through the attack"
        for row, y in enumerate(steps):
            if x * x + y * y <= disc.radius**2:
                assert grid[row, column] == own
    (distance,) = axes.lines[1].get_xdata()
    assert distance == pytest.approx(float(attack.distance[i]), rel=1e-5)
    assert int(net((image + 1.001 * distance * right)[None]).argmax()) != own


def test_slice_names_classes_and_finds_an_attack_itself(net, found):
    axes = plot.slice(net, found[0][5], classes=("a", "b", "c"), resolution=21)
    assert {"a", "b", "c"} & {text.get_text() for text in axes.texts}
    with pytest.raises(ValueError, match=r"another image of \(1, 6, 6\); got the image"):
        plot.slice(net, found[0][5], adversarial=found[0][5].clone())
    constant = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with torch.no_grad():
        constant[1].weight.zero_()
        constant[1].bias.copy_(torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="No attack on `image` succeeded"):
        plot.slice(constant, found[0][5])


def test_spectrum_has_a_bar_for_every_bin(net):
    values = spectra(net, (1, 6, 6))
    half = {name: 0.5 * one for name, one in values.items()}
    for source in (values, inspect(net, torch.rand(2, 1, 6, 6))):
        axes = plot.spectrum(source, before=half)
        assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "3"]
        boxes = [path.get_extents() for bar in axes.collections for path in bar.get_paths()]
        assert {round((box.x0 + box.x1) / 2, 9) for box in boxes} == {0.5, 1.0}
    uneven = {"a": torch.tensor([1.0, 1.0, 0.3, 7.0]).double()}
    axes = plot.spectrum(uneven)
    boxes = [path.get_extents() for bar in axes.collections for path in bar.get_paths()]
    heights = {round((box.x0 + box.x1) / 2, 9): box.height for box in boxes}
    assert set(heights) == {0.3, 1.0, 1.2}
    assert heights[1.0] == pytest.approx(2 * heights[0.3])
    with pytest.raises(ValueError, match="must hold a linear layer; got none"):
        plot.spectrum({"flatten": None})


def layer(i, margin, random, whole=True):
    shape = {"type": "Linear", "call": 1, "input_shape": (2,), "whole": whole}
    return LayerDiagnostics(name=f"layer{i}", margin=margin, random=random, **shape)


def test_gradient_norm_draws_the_norms_of_each_layer(net):
    found = inspect(net, torch.rand(4, 1, 6, 6))
    axes = plot.gradient_norm(found)
    assert named(axes, "margin") == ([0, 1, 2, 3], [one.margin for one in found.layers])
    assert named(axes, "all directions")[1] == [one.random for one in found.layers]
    layers = [layer(0, 1e-6, 1e-3), layer(1, 0.5, 0.25, whole=False), layer(2, 1.0, 0.5)]
    axes = plot.gradient_norm(layers)
    assert axes.get_yscale() == "log"
    assert named(axes, "margin") == ([0, 2], [1e-6, 1.0])
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert [line.get_ydata()[0] for line in hollow] == [0.5, 0.25]
    with pytest.raises(ValueError, match="must hold a layer; got none"):
        plot.gradient_norm([])


def test_figures_leave_the_global_settings_alone(net, found):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    found[1].plot(found[2])
    plot.gallery(found[0], found[2])
    assert dict(mpl.rcParams) == before


def test_without_matplotlib_the_error_says_what_to_install(net, found, monkeypatch):
    images, certification, attack = found
    inspection = inspect(net, images[:1])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (
        certification.plot,
        lambda: plot.gallery(images, attack),
        lambda: plot.slice(net, images[0]),
        lambda: plot.spectrum(inspection),
        lambda: plot.gradient_norm(inspection),
    ):
        with pytest.raises(ImportError, match=r"need matplotlib: pip install 'taut\[cli\]'"):
            draw()
