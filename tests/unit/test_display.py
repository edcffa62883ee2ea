"""Results print as a few lines, and show as small tables in a notebook."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

import taut
from taut.export import Change, Converted
from taut.program import LayerBound, LipschitzBound, trace
from taut.recipes import RECIPES
from taut.training import Run
from taut.wasserstein import Settings, W1Estimate


class Table(HTMLParser):
    """The cells of a table, row by row; refuses tags that no table of ours has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag in ("table", "tr", "th", "td")
        assert not attrs
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag != "table":
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.rows[-1][-1] += data


def estimate(**changes) -> W1Estimate:
    facts = {
        "lower": 1.25, "upper": 1.5, "empirical": 1.5, "interval": (0.5, 2.0), "confidence": 0.95,
        "guarantee": "confidence 95 % <b>", "critic": nn.Linear(2, 1), "chosen": "network",
        "bound": LipschitzBound(1.0), "candidates": {}, "history": (), "sizes": (40, 50),
        "scores": (torch.zeros(400).double(),) * 2, "notes": ("a < b",),
    }  # fmt: skip
    return W1Estimate(**(facts | changes))


@pytest.fixture(scope="module")
def results() -> dict[str, object]:
    torch.manual_seed(0)
    layers = [taut.nn.Conv2d(1, 4, 3), taut.nn.MaxMin(), nn.Flatten(), taut.nn.Linear(64, 3)]
    model = nn.Sequential(*layers).double()
    images, labels = torch.rand(50, 1, 4, 4).double(), torch.arange(50) % 3
    return {
        "certification": taut.certify(model, images, labels, eps=(0.1, "36/255")),
        "attack": taut.attack(model, images, labels, 0.1),
        "bound": taut.lipschitz_bound(model, (1, 4, 4)),
        "converted": Converted(model, (Change("0", "Conv2d", "Conv2d"), Change("1", "Odd", None))),
        "run": Run(Path("runs/a"), RECIPES["demo"], None),
        "inspection": taut.diagnostics.inspect(model, images, labels),
        "program": trace(model, (1, 4, 4)),
        "estimate": estimate(),
    }


def test_every_result_prints_as_a_few_lines(results):
    for name, result in results.items():
        lines = repr(result).splitlines()
        assert 1 <= len(lines) <= 3, name
        assert max(map(len, lines)) <= 120, name
        assert "tensor(" not in repr(result), name
    assert "4 layers" in repr(results["bound"])
    assert repr(results["run"]) == "Run('runs/a', recipe 'demo')"
    assert repr(results["converted"]) == "Converted(changed: 1, left as it is: 1)"


def test_every_result_shows_as_a_table(results):
    for name in ("certification", "attack", "bound", "estimate"):
        rows = Table(results[name]._repr_html_()).rows
        assert len(rows) >= 3, name
        assert len({len(row) for row in rows}) == 1, name
    rows = dict(Table(results["certification"]._repr_html_()).rows)
    certified = results["certification"].certified_accuracy
    assert rows["certified at 36/255"] == f"{certified['36/255']:.4f}"
    assert rows["certified at 0.1"] == f"{certified[0.1]:.4f}"


def test_tables_escape_everything():
    bound = LipschitzBound(2.0, (LayerBound("<script>", "a&b", 2.0, 'x "<i>"'),))
    assert Table(bound._repr_html_()).rows[1] == ["<script>", "a&b", "2", 'x "<i>"']
    assert "<script>" not in bound._repr_html_()
    rows = dict(Table(estimate()._repr_html_()).rows)
    assert rows["of the distributions"] == "0.5 to 2, confidence 95 % <b>"
    assert rows["note"] == "a < b"


def test_tables_of_deep_models_stay_small():
    layers = tuple(LayerBound(str(at), "ReLU", 1.0, "slope") for at in range(500))
    rows = Table(LipschitzBound(1.0, layers)._repr_html_()).rows
    assert len(rows) == 32
    assert rows[16] == ["...", "471 more", "", ""]
    assert rows[15][0] == "14"
    assert (rows[-2][0], rows[-1][0]) == ("499", "total")


def test_an_estimate_of_the_samples_alone_says_nothing_of_distributions():
    x = torch.arange(8.0)[:, None]
    result = taut.wasserstein.estimate(x, x + 3, settings=Settings(steps=0, held_out=0.0))
    assert repr(result).startswith(
        "W1Estimate(lower=2.99999, upper=3.00001, 8 and 8 points, critic "
    )
    rows = dict(Table(result._repr_html_()).rows)
    assert "of the distributions" not in rows
    assert rows["W1 of the samples"].startswith("2.99999 to 3.00001, exactly 3")
