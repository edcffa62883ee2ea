import pytest

from experiments.reproduce._published import TABLES
from experiments.results import RADII, best, ours, published, results_table


@pytest.mark.parametrize("dataset", RADII)
def test_accuracies_fall_with_the_radius(dataset):
    for net in (*published(dataset), *ours(dataset)):
        said = [net.clean, *(net.certified[r] for r in RADII[dataset][1] if r in net.certified)]
        values = [float(value.split(" ")[0]) for value in said if value]
        assert values == sorted(values, reverse=True), net
        assert all(0 < value < 100 for value in values), net


def test_values_of_the_founding_paper_are_those_of_its_tables():
    rows = {(row.dataset, row.system): row.published for row in TABLES["table1"].rows}
    for net in published("mnist"):
        system = net.name.split(" (")[0].replace("-", " ")
        if ("mnist", system) in rows:
            clean, certified = rows["mnist", system]
            assert (float(net.clean), float(net.certified["1.58"])) == (clean.mean, certified.mean)


def test_the_largest_certified_accuracy_comes_first():
    table = results_table("mnist")
    assert table.index("BCOP-Large (2019)") < table.index("QW-3 (2019)")
    assert best().count("\n") == 2 + sum(any(ours(dataset)) for dataset in RADII)
