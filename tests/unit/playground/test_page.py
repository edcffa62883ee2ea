"""The page in a headless Chromium: its numbers, its attacks, and how it is operated."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import playground
from experiments._browser import browser, chromium
from playground_cases import CASES, made
from taut._zoo import zoo_file
from taut.certification import Certificate, certify, prove
from taut.cli import main
from taut.export import load
from taut.playground import PlaygroundInputs, write_playground
from taut.playground._payload import Arrays, net_content
from taut.program import canonical

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium on PATH")
DATA = Path(os.environ.get("TAUT_DATA", "data"))
IDLE = "!attacks.jobs.length && !maps.jobs.length"


@pytest.fixture(scope="module")
def tab():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def play(tmp_path_factory) -> Path:
    """The page that the command writes for a model of the zoo."""
    page = tmp_path_factory.mktemp("play") / "play.html"
    assert main(["play", "zoo:mnist-small", "--images", "50", "--out", str(page)]) == 0
    return page


@pytest.fixture(scope="module")
def certified():
    """Its images in the order of the page, and what taut proves of them."""
    points = np.load(zoo_file("zoo:mnist-small", "points.npz"))["images"]
    labels = json.loads(zoo_file("zoo:mnist-small", "certificate.json").read_text())["labels"]
    order = np.argsort(labels, kind="stable")
    images, labels = torch.from_numpy(points[order]), torch.tensor(labels)[order]
    return images, certify(load(zoo_file("zoo:mnist-small")).model, images, labels)


def answers(tab, side: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Class and radius of all images of the page."""
    script = f"pictures.map((x) => {{ const a = sides[{side}].net.certify(x);"
    found = tab.run(f"{script} return [a.label, a.radius]; }})")
    return np.array([a for a, _ in found]), np.array([b for _, b in found])


def test_answers_are_those_of_the_certificate_and_radii_never_above(tab, play, certified):
    tab.open(play)
    _, certification = certified
    classes, radii = answers(tab)
    right = classes == np.array(tab.run("content.labels"))
    proven = certification.radius.numpy()
    assert (classes == certification.predictions.numpy()).all()
    assert (radii[right] <= proven[right]).all()
    assert (radii[right] >= 0.999999 * proven[right]).all()
    assert (radii[right] > 0).all()


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="there is no MNIST in TAUT_DATA or data")
@pytest.mark.parametrize("name", ["mnist-small", "mnist-sequence", "mnist-wide"])
def test_a_thousand_test_images_have_the_certified_answers(tab, name, tmp_path):
    images, labels = playground.test_images(name, DATA, 1000)
    found = playground.compared(tab, tmp_path / "play.html", name, images, labels)
    assert found["equal_classes"] == found["images"] == 1000
    assert found["radii_above"] == 0
    assert found["least_ratio"] >= 0.999


def test_pixels_are_those_that_taut_reads(tab, play, certified):
    tab.open(play)
    pixels = np.array(tab.run("pictures.map((x) => [...x])"))
    assert (pixels == certified[0].flatten(1).numpy()).all()


def test_no_attack_succeeds_inside_the_proved_radius_of_any_net(tab, play):
    tab.open(play)
    script = """sides.map(({net}) => pictures.slice(0, 12).map((x) => {
      const {label, radius} = net.certify(x);
      return finished(attack(net, x, label, radius * (1 - 1e-9))).label !== label;
    }))"""
    assert not np.array(tab.run(script)).any()


def test_attacks_beyond_succeed_and_stay_within_eps_and_within_pixels(tab, play):
    tab.open(play)
    script = """sides.map(({net}) => pictures.slice(0, 8).map((x) => {
      const {label, radius} = net.certify(x), eps = net === sides[0].net ? 2.5 * radius : 3;
      const found = finished(attack(net, x, label, eps));
      const inside = found.image.every((value) => value >= 0 && value <= 1);
      const within = distance(found.image, x) <= eps;
      return [found.label !== label, within, inside, radius / found.distance];
    }))"""
    found = np.array(tab.run(script))
    assert found[..., 1:3].all()
    assert found[..., 0].mean() > 0.8
    assert found[..., 3].max() < 1


def loaded(tab, certificate: Certificate) -> None:
    """Make a net the page's `tested`."""
    arrays = Arrays()
    content = canonical(net_content(certificate, arrays))
    tab.run(
        f"(async () => {{ window.tested = new Net({content}, await unpack('{arrays.text()}')) }})()"
    )


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_torch(tab, play, name):
    tab.run("typeof Net === 'function'") or tab.open(play)
    model, shape = made(name)
    model = torch.nn.Sequential(model, torch.nn.Flatten())
    loaded(tab, prove(model, shape))
    x = torch.randn(1, *shape, dtype=torch.float64, requires_grad=True)
    output = model.double()(x)
    direction = torch.randn_like(output)
    (gradient,) = torch.autograd.grad(output, x, direction)
    values = tab.run(f"[...tested.forward({x.flatten().tolist()})]")
    found = tab.run(f"[...tested.backward({direction.flatten().tolist()})]")
    np.testing.assert_allclose(values, output.flatten().detach(), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found, gradient.flatten(), rtol=1e-10, atol=1e-12)


def test_one_output_is_a_critic_of_two_classes(tab, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 1))
    images = torch.rand(6, 1, 4, 4)
    found = certify(model, images, (model(images)[:, 0] > 0).long())
    inputs = PlaygroundInputs(
        title="critic", dataset="noise", certificate=prove(model, (1, 4, 4)), images=images,
        labels=found.predictions, classes=(), command="", versions={},
    )  # fmt: skip
    tab.open(write_playground(tmp_path / "critic.html", inputs))
    classes, radii = answers(tab)
    assert classes.tolist() == found.predictions.tolist()
    assert (radii <= found.radius.numpy()).all()
    assert (radii >= 0.999999 * found.radius.numpy()).all()
    assert tab.run("document.querySelector('.answer').textContent").startswith("class ")
    assert not tab.errors


def test_all_is_operable_with_the_keyboard(tab, play):
    tab.open(play)
    tab.run("document.querySelector('#thumbs [aria-checked=true]').focus()")
    before = tab.run("state.index")
    tab.press("ArrowLeft", 37)
    assert tab.run("state.index") == before - 1
    assert tab.run("document.activeElement.ariaChecked") == "true"
    tab.run("element('eps').focus()")
    eps = tab.run("state.eps")
    tab.press("ArrowLeft", 37)
    assert tab.run("state.eps") < eps
    tab.run("element('draw').focus()")
    tab.press("Enter", 13, "\r")
    for key, code in ((" ", 32), *[("ArrowUp", 38)] * 6, *[("ArrowRight", 39)] * 6):
        tab.press(key, code)
    assert tab.run("state.image.reduce((a, b) => a + b, 0)") > 5
    assert not tab.errors


def test_screen_readers_are_told_what_happens(tab, play):
    tab.open(play)
    tab.wait(IDLE)
    said = tab.run("element('live').textContent")
    assert "With a proof: " in said
    assert "The attack failed, as it must" in said
    assert "Without constraints: " in said
    assert "Fooled: " in said
    unnamed = """[...document.querySelectorAll('button, input, select, canvas')].filter((e) =>
      !e.closest('[role=radio]') && !e.ariaLabel && !e.textContent && !e.labels?.length)"""
    assert tab.run(f"({unnamed}).length") == 0


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window_or_moves_while_it_works(tab, play, width):
    tab.open(play, width=width)
    root = "document.documentElement"
    before = tab.run(f"{root}.scrollHeight")
    tab.wait(IDLE)
    assert tab.run(f"{root}.scrollWidth") <= width
    assert abs(tab.run(f"{root}.scrollHeight") - before) <= 1


def test_the_map_and_its_circle_have_one_scale(tab, play):
    """Along the axis of the attack the class changes where the attack says."""
    tab.open(play)
    tab.wait(IDLE)
    script = """(() => { const {view, nearest, result} = sides[0], middle = (GRID - 1) / 2;
      const row = [...view.classes.slice(middle * GRID + middle, (middle + 1) * GRID)];
      const circle = sides[0].map.querySelector('.disc'), box = circle.getBoundingClientRect();
      const square = circle.ownerSVGElement.getBoundingClientRect();
      return [row.findIndex((c) => c !== result.label) * view.reach / middle, nearest.distance,
        view.reach / middle, (box.width / square.width) * 2 * view.reach * GRID / (GRID - 1),
        2 * result.radius]; })()"""
    change, nearest, cell, width, diameter = tab.run(script)
    assert nearest <= change <= nearest + 2 * cell
    assert width == pytest.approx(diameter, rel=0.03)  # with the stroke


def test_the_page_needs_nothing_from_elsewhere(play):
    text = play.read_text()
    for word in ("http://", "https://", "import(", "fetch("):
        assert word not in text.replace("http://www.w3.org/2000/svg", "")
