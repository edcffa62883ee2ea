"""The page of a run: its numbers, its independence from the network, and what it measures."""

import math
import re
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import taut
from taut._display import rounded_up
from taut.attacks import Attacked
from taut.certification import certify
from taut.cli.report import fail_if_refuted
from taut.diagnostics import histogram, inspect
from taut.report import (
    DistanceInputs,
    ReportInputs,
    attack_lines,
    measure_robustness,
    write_distance_report,
    write_report,
)
from taut.wasserstein import Settings, estimate

EPS = ("1/20", "0.3")
VOID = {"meta", "img", "br", "path", "rect", "use"}


class ParsedPage(HTMLParser):
    """Collects text, attributes and unclosed or misnested tags."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.faults: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        self.text += data


def example() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    layers = [taut.nn.Conv2d(1, 4, 2, stride=2), taut.nn.MaxMin(), nn.Flatten()]
    model = nn.Sequential(*layers, taut.nn.Linear(36, 3)).eval()
    images = torch.rand(20, 1, 6, 6)
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[:3] = (labels[:3] + 1) % 3
    return model, images, labels


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    model, images, labels = example()
    certification = certify(model, images, labels, eps=EPS)
    history = [
        {
            "epoch": i,
            "train_loss": 1 / i,
            "clean_accuracy": 0.5,
            **{f"certified_accuracy_{eps}": 0.25 for eps in EPS},
        }
        for i in (1, 2, 3)
    ]
    return ReportInputs(
        title="tiny & small",
        dataset="Noise",
        classes=("cat", "<script>alert(1)</script>", 'dog" onload="x'),
        eps=EPS,
        certification=certification,
        robustness=measure_robustness(model, images, EPS, certification, steps=10),
        attacks=[],
        layers=inspect(model, images, labels, jacobian=False).layers,
        history=history,
        settings={"learning rate": 0.0123, "name": "<b>"},
        commands=["taut train tiny --seed 7"],
        versions={"torch": "9.8.7"},
    )


@pytest.fixture(scope="module")
def page(inputs, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert write_report(path, inputs) == path
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def distance(tmp_path_factory) -> str:
    """The page of a distance, with names that are markup."""
    points = torch.rand(12, 1, 6, 6)
    inputs = DistanceInputs(
        names=("<script>alert(1)</script>", 'dog" onload="x'),
        points=(points, (points + 0.1).clamp(max=1)),
        estimate=estimate(points, (points + 0.1).clamp(max=1), settings=Settings(steps=2)),
        settings={"steps": 2, "name": "<b>"},
        command="taut wasserstein a b",
        versions={"torch": "9.8.7"},
    )
    folder = tmp_path_factory.mktemp("distance")
    paths = [write_distance_report(folder / name, inputs) for name in ("a.html", "b.html")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    return paths[0].read_text(encoding="utf-8")


@pytest.fixture(params=["page", "distance"])
def each_page(request) -> str:
    return request.getfixturevalue(request.param)


def test_equal_inputs_give_equal_bytes(page, inputs, tmp_path):
    again = write_report(tmp_path / "again.html", inputs)
    assert again.read_text(encoding="utf-8") == page


def test_pages_are_well_formed(each_page):
    page = each_page
    parsed = ParsedPage(page)
    assert parsed.faults == []
    assert parsed.open == []
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    linked = [value[1:] for _, name, value in parsed.attributes if name == "href"]
    assert set(linked) <= set(ids)


def test_pages_need_no_network(each_page):
    page = each_page
    loads = [
        value
        for tag, name, value in ParsedPage(page).attributes
        if name in {"src", "href", "srcset", "action"}
    ]
    assert loads
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in loads)
    assert not re.search(r"https?:|@import|<script|<link|<iframe|url\((?!#)", page)
    assert len(page) < 2_000_000


def test_page_says_the_numbers_passed_in(page, inputs):
    text = ParsedPage(page).text
    found, proved = inputs.robustness, inputs.certification
    shares = [proved.clean_accuracy, *proved.certified_accuracy.values(), *found.attacked.values()]
    for share in shares:
        assert f"{100 * share:.1f}" in text
    for layer in inputs.layers:
        assert layer.type in text
        if layer.spectrum is not None:
            assert f"{layer.spectrum.min():.7f}" in text
            assert f"{layer.spectrum.max():.7f}" in text
    most = found.radius.max().item()
    assert f"certified to {most:.3f}" in text
    for words in ("tiny & small", "Noise", "0.0123", "taut train tiny --seed 7", "9.8.7", *EPS):
        assert words in text


def test_hostile_names_are_escaped(each_page):
    parsed = ParsedPage(each_page)
    assert "<script>alert(1)</script>" in parsed.text
    assert not [1 for _, name, _ in parsed.attributes if name.startswith("on")]
    assert "script" not in {tag for tag, _, _ in parsed.attributes}


def test_pictures_have_words(each_page):
    page = each_page
    attributes = ParsedPage(page).attributes
    images = [value for tag, name, value in attributes if (tag, name) == ("img", "src")]
    alternatives = [value for tag, name, value in attributes if (tag, name) == ("img", "alt")]
    assert len(images) == len(alternatives)
    assert all(alternatives)
    charts = page.count("<svg")
    assert charts >= 2
    assert charts == page.count('role="img"')


def test_page_without_a_past(inputs, tmp_path):
    plain = {**vars(inputs), "history": []}
    text = write_report(tmp_path / "r.html", ReportInputs(**plain)).read_text(encoding="utf-8")
    assert ParsedPage(text).faults == []
    assert "training loss" not in text


def test_attenuation_shows_at_every_scale(inputs, tmp_path):
    """A gradient of 1e-9 is not printed as 0; of many layers with long names some are named."""
    layer = replace(inputs.layers[0], margin=1.23e-9, name="a.very.long.name.of.a.layer")
    deep = ReportInputs(**{**vars(inputs), "layers": [layer] * 60 + [inputs.layers[-1]]})
    text = write_report(tmp_path / "r.html", deep).read_text(encoding="utf-8")
    assert text.count('<td class="n">1.2e-09</td>') == 60
    assert "a.very.long.name.of.a.layer: 1.2e-09, " in text
    assert 10 <= text.count("name.of.a.layer</text>") <= 16


def test_broken_certificate_is_named(inputs, tmp_path):
    broken = replace(inputs.robustness, refuted=torch.arange(20) == 7)
    assert broken.broken_certificates() == [7]
    with pytest.raises(RuntimeError, match="test image 7 \\(1 in all\\)"):
        fail_if_refuted(broken)
    page = ReportInputs(**{**vars(inputs), "robustness": broken})
    assert "A certificate was broken" in write_report(tmp_path / "r.html", page).read_text()


def test_refutations_are_those_of_the_certified_program():
    """A program that answers otherwise refutes; one that differs in float32 alone does not."""
    model, images, labels = example()
    found = certify(model, images, labels)
    sure = found.radius.argmax().item()
    other = model(images).argmax(1) != labels[sure]
    far = images[other.nonzero()[0].item()].expand_as(images)
    assert not found.refuted(images, far).any()  # beyond every radius
    wide = replace(found, radius=torch.where(found.radius > 0, 100.0, 0.0).double())
    answers = found.certificate.logits(far).argmax(1)
    expected = (found.radius > 0) & (answers != labels)
    assert expected.any()
    assert torch.equal(wide.refuted(images, far), expected)
    part = wide.refuted(images[5:9], far[5:9], places=range(5, 9))
    assert torch.equal(part, expected[5:9])
    order = [9, 2, 5]
    assert torch.equal(wide.refuted(images[order], far[order], places=order), expected[order])
    with torch.no_grad():  # what becomes of the model is no matter: the certificate has its weights
        for parameter in model.parameters():
            parameter.neg_()
    assert torch.equal(wide.refuted(images, far), expected)
    # Where the answer changes at a known distance: beyond the radius by a little only.
    line = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        line.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    one = torch.ones(1, 1, dtype=torch.float64)
    proved = certify(line, one, torch.tensor([0]))
    assert 1 - 1e-9 < proved.radius.item() < 1
    assert not proved.refuted(one, -1e-3 * one).any()
    just = replace(proved, radius=torch.tensor([1.001]).double())
    assert just.refuted(one, -1e-4 * one).item()
    with pytest.raises(ValueError, match="`images` and `changed` must be alike"):
        found.refuted(images, far, places=range(1, len(images)))


def test_attack_is_never_below_the_certificate(inputs):
    found = inputs.robustness
    assert found.broken_certificates() == []
    assert (found.nearest >= found.radius).all()
    fail_if_refuted(found)
    for eps in EPS:
        assert found.certified(eps) == inputs.certification.certified_accuracy[eps]
        assert found.certified(eps) <= found.attacked[eps] <= found.clean_accuracy
    assert torch.equal(found.nearest == 0, found.predictions != found.labels)
    assert torch.equal(found.fooled != found.labels, found.nearest.isfinite())


def test_inspection_matches_the_dense_jacobian():
    """Spectra by the SVD of each layer's Jacobian, gradients by the chain of Jacobians."""
    model, images, labels = example()
    model, images = model.double(), images.double()
    layers = inspect(model, images[:1], labels[:1], jacobian=False).layers
    assert [layer.name for layer in layers] == ["0", "1", "2", "3"]
    assert [layer.spectrum is None for layer in layers] == [False, True, True, False]
    logits = model(images[:1])[0]
    order = [int(labels[0]), int(logits.index_fill(0, labels[:1], -torch.inf).argmax())]
    x, jacobians = images[:1], []
    for layer in model:
        jacobian = torch.autograd.functional.jacobian(layer, x)
        x = layer(x)
        jacobians.append(jacobian.reshape(x.numel(), -1))
    gradient = torch.zeros(3).double()
    gradient[order[0]], gradient[order[1]] = 1, -1
    for layer, jacobian in zip(layers[::-1], jacobians[::-1], strict=True):
        gradient = gradient @ jacobian
        assert layer.margin == pytest.approx(gradient.norm().item() / 2**0.5, abs=1e-9)
        if layer.spectrum is not None:
            dense = torch.linalg.svdvals(jacobian)
            torch.testing.assert_close(layer.spectrum, dense, rtol=0, atol=1e-9)
            assert sum(histogram(layer.spectrum)) == len(dense)


def kept(method, eps, success, distance, **options):
    return Attacked(
        method=method,
        options=options,
        eps=eps,
        weights_sha256="",
        images_sha256="",
        success=torch.tensor(success),
        distance=torch.tensor(distance, dtype=torch.float64),
        float32_only=torch.zeros(len(success), dtype=torch.bool),
    )


def test_kept_attacks_are_shown_with_the_strongest_of_them(inputs, tmp_path):
    """By hand: at 1/20 and 0.3 a search for the nearest counts, PGD at the eps that it had."""
    attacks = [
        kept("ddn", None, [True, True, False, True], [0.0, 0.04, 0.9, 0.2], steps=7, seed=3),
        kept("pgd", "0.30", [True, False, True, False], [0.0, 0.3, 0.3, 0.3], step_size=None),
        kept("fgsm", "0.3", [True, True], [0.0, 0.3]),
    ]
    lines = attack_lines(attacks, inputs.certification, EPS)
    assert [(line.name, line.options, line.images, dict(line.attacked)) for line in lines] == [
        ("ddn", "steps 7", 4, {"1/20": 0.5, "0.3": 0.25}),
        ("pgd", "", 4, {"0.3": 0.5}),
        ("strongest of 2", "", 4, {"1/20": 0.5, "0.3": 0.0}),
        ("fgsm", "", 2, {"0.3": 0.0}),
        ("strongest of 3", "", 2, {"1/20": 0.0, "0.3": 0.0}),
    ]
    assert [line.combined for line in lines] == [False, False, True, False, True]
    radius = inputs.certification.radius[:4]
    assert lines[0].certified == {
        eps: sum(r > Fraction(eps) for r in map(Fraction, radius.tolist())) / 4 for eps in EPS
    }
    page = ReportInputs(**{**vars(inputs), "attacks": lines})
    parsed = ParsedPage(write_report(tmp_path / "r.html", page).read_text(encoding="utf-8"))
    assert parsed.faults == []
    share = f"{100 * lines[0].certified['1/20']:.1f}"
    assert f"ddnsteps 74{share}50.0" in parsed.text.split("Attack by attack")[1]
    assert "strongest of 3" in parsed.text
    assert "not run" in parsed.text


def test_a_run_without_kept_attacks_says_nothing_of_them(page):
    assert "Attack by attack" not in page


@pytest.mark.parametrize("shape", [(6,), (1, 8), (1, 2, 2, 2)])
def test_inputs_without_pictures_have_a_report(inputs, shape, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), taut.nn.Linear(math.prod(shape), 3)).eval()
    points, labels = torch.rand(5, *shape), torch.arange(5) % 3
    certification = certify(model, points, labels, eps=EPS)
    robustness = measure_robustness(model, points, EPS, certification, steps=2)
    layers = inspect(model, points, labels, jacobian=False).layers
    parts = {"certification": certification, "robustness": robustness, "layers": layers}
    text = write_report(tmp_path / "a.html", replace(inputs, **parts)).read_text(encoding="utf-8")
    assert not ParsedPage(text).faults
    assert "Image by image" not in text


def test_bounds_are_rounded_up():
    for value in (1.00000041, 1 / 3, 152.7, 6.11e29, 5e-324, 1.7e308, 0.0):
        for digits in (1, 5, 8):
            shown = rounded_up(value, digits)
            assert (
                Fraction(value)
                <= Fraction(shown)
                <= Fraction(value) * (1 + Fraction(10, 10**digits))
            )
            assert len(shown) <= digits + 7
