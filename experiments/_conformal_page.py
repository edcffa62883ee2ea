"""Tables and figure of docs/conformal.md."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from experiments._record import RECORDS, read
from experiments._show import COLOURS, GREY, grid, markdown, panels
from experiments.conformal import CIFAR_EPS, SCORES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DATA = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
_NETS = {"taut": "taut", "plain": "plain layers", "zoo": "taut, from the zoo"}
# deel-ai-papers/lip-rcp@df6ec07, results/cifar10.csv: mean size at eps 0 and 0.03, alpha 0.1.
_PUBLISHED = {"sigmoid": ("1.18", "1.71"), "softmax": ("1.18", "2.38")}
_LINES = {
    ("plain", "plain"): ("plain layers, plain sets", GREY),
    ("zoo", "plain"): ("taut, plain sets", COLOURS[2]),
    ("plain", "robust"): ("plain layers, robust sets", COLOURS[1]),
    ("zoo", "robust"): ("taut, robust sets", COLOURS[0]),
}


def found(part: str, alpha: float, score: str | None = "margin") -> Iterator[Any]:
    """For each net of a part of the record and each eps: its facts, plain sets and robust ones."""
    for net, facts in read(RECORDS / "conformal.json").get(part, {}).items():
        rows = [r for r in facts["rows"] if r["alpha"] == alpha and r.get("score") == score]
        for eps in dict.fromkeys(row["eps"] for row in rows):
            plain, robust = (row for row in rows if row["eps"] == eps)
            yield net, facts, eps, {"plain": plain, "robust": robust}


def percent(row: Mapping[str, Any], key: str) -> str:
    return f"{100 * row[key]['mean']:.1f}"


def size(row: Mapping[str, Any], key: str = "size clean") -> str:
    return f"{row[key]['mean']:.2f}"


def nets_table() -> str:
    """The nets: accuracy, constant, time."""
    rows = []
    for part, label in _DATA.items():
        for net, facts in read(RECORDS / "conformal.json").get(part, {}).items():
            seconds = "20 epochs" if facts["seconds"] is None else f"{facts['seconds']:.0f} s"
            numbers = f"{100 * facts['accuracy']:.1f}", f"{facts['constant']:.3g}"
            rows.append((label, _NETS[net], *numbers, seconds))
    return markdown(("data", "net", "accuracy, %", "proved constant", "CPU time"), rows)


def sets_table(alpha: float = 0.1) -> str:
    """Plain and robust sets of each net."""
    rows = []
    for part, label in _DATA.items():
        for net, _, eps, sets in found(part, alpha):
            plain, robust = sets["plain"], sets["robust"]
            coverage = percent(plain, "coverage clean"), percent(plain, "coverage attacked")
            attacked = percent(robust, "coverage attacked"), size(robust)
            rows.append((label, _NETS[net], f"{eps:g}", *coverage, size(plain), *attacked))
    plain = ("plain sets, %", "attacked, %", "size")
    return markdown(("data", "net", "eps", *plain, "robust sets, attacked, %", "size"), rows)


def scores_table() -> str:
    """Robust sets of the nets of the zoo, by score."""
    header = ["data", "eps", *(f"{score}: attacked, %, size" for score in SCORES)]
    cells: dict[tuple[str, str], list[str]] = {}
    for part, label in _DATA.items():
        for score in SCORES:
            for net, _, eps, sets in found(part, 0.1, score):
                if net == "zoo":
                    robust = sets["robust"]
                    shown = f"{percent(robust, 'coverage attacked')}, {size(robust)}"
                    cells.setdefault((label, f"{eps:g}"), []).append(shown)
    return markdown(header, ((*key, *values) for key, values in cells.items()))


def published_table() -> str:
    """The net of the zoo beside lip-rcp's."""
    rows = [("lip-rcp, CIFAR-10", name, *sizes) for name, sizes in _PUBLISHED.items()]
    for score in SCORES:
        for _, facts, _, sets in found("cifar10-jpeg75", 0.1, score):
            net = f"`zoo:cifar10-jpeg75-small`, accuracy {100 * facts['accuracy']:.0f} %"
            rows.append((net, score, size(sets["plain"]), size(sets["robust"])))
    return markdown(("net", "score", "size at eps 0", f"size at eps {CIFAR_EPS}"), rows)


def angles_table() -> str:
    """Intervals for the angle of a digit."""
    rows = []
    for net, facts, eps, sets in found("rotation", 0.1, None):
        cells = [_NETS[net], f"{facts['error']:.1f}°", f"{facts['constant']:.3g}", f"{eps:g}"]
        for row in sets.values():
            cells += [percent(row, "coverage attacked"), f"{row['width']['mean']:.0f}°"]
        rows.append(cells)
    about = ("net", "mean error", "constant, ° per unit", "eps")
    ends = ("plain, attacked, %", "width", "robust, attacked, %", "width")
    return markdown((*about, *ends), rows)


def figure() -> "Figure":
    """Coverage under attack, and size, over eps on Fashion-MNIST."""
    drawn, (left, right) = panels(1, 2, (8.4, 3.4))
    for (net, kind), (label, tone) in _LINES.items():
        points = [(eps, sets[kind]) for n, _, eps, sets in found("fashion-mnist", 0.1) if n == net]
        eps, rows = [point[0] for point in points], [point[1] for point in points]
        coverage = [100 * row["coverage attacked"]["mean"] for row in rows]
        sizes = [row["size attacked"]["mean"] for row in rows]
        for axes, values in ((left, coverage), (right, sizes)):
            axes.plot(eps, values, "o-", color=tone, markersize=3.5, label=label)
    left.axhline(90, color=GREY, linewidth=0.8, linestyle="--")
    for axes, what in ((left, "coverage under attack, %"), (right, "labels in a set")):
        axes.set_xlabel("l2 radius of the attack")
        axes.set_ylabel(what)
    left.legend(frameon=False, fontsize=8)
    grid(left, "Fashion-MNIST: 90 % were promised")
    grid(right, "What that costs")
    return drawn


TABLES = {
    "conformal-nets": nets_table,
    "conformal-sets": sets_table,
    "conformal-sets-95": partial(sets_table, 0.05),
    "conformal-scores": scores_table,
    "conformal-published": published_table,
    "conformal-angles": angles_table,
}
