"""Compare monotone nets with unconstrained ones and with boosted trees, on small tables.

Example: python -m experiments.monotone --record records/monotone.json

The tables are scikit-learn's: progression of diabetes (regression) and breast cancer (two classes).
The monotone features are those of common knowledge: a higher body mass index is no better. Each net
has the same shape and optimiser and keeps the weights of its best validation loss, that of all
constants for a monotone one; the unconstrained net trains for as many CPU seconds as all those of
the monotone net took. A violation is a pair of inputs that differ in one monotone feature, and
whose outputs are in the wrong order by more than 1e-9: found by random steps and by following the
gradient. Splits that the record holds are not measured again.
"""

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from experiments._record import RECORDS, Record, read
from experiments._runner import Experiment, option, tracked
from experiments._show import markdown, spread
from experiments._training import mean_and_deviation

WIDTH, DEPTH, PROBES, CURVES = 32, 2, 1000, 6
LINE = torch.linspace(-3, 3, 61)
NETS = ("monotone net", "monotone net, l2", "unconstrained net")
TREES = ("boosted trees, monotone", "boosted trees")
DIABETES = {"bmi": 1, "bp": 1, "s3": -1, "s5": 1, "s6": 1}  # s3: HDL, s5: triglycerides, s6: sugar
CANCER = ("radius", "texture", "perimeter", "area", "concavity", "concave points")


@final
@dataclass(frozen=True, eq=False)
class Table:
    """Features with mean 0 and deviation 1 in training; targets likewise, or classes 0 and 1."""

    parts: dict[str, tuple[Tensor, Tensor]]
    directions: tuple[int, ...]
    scale: float  # of a target; 0 for classes

    @property
    def of_classes(self) -> bool:
        return self.scale == 0

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        kind = F.binary_cross_entropy_with_logits if self.of_classes else F.mse_loss
        return kind(outputs, targets)

    def error(self, outputs: Tensor) -> float:
        """Root of the mean squared error in the units of the table, or percent of wrong classes."""
        targets = self.parts["test"][1]
        if self.of_classes:
            return 100 * ((outputs > 0) != (targets > 0.5)).double().mean().item()
        return self.scale * F.mse_loss(outputs, targets).sqrt().item()


def loaded(name: str, seed: int) -> Table:
    """A split of a table: 60 % training, 20 % validation, 20 % test."""
    from sklearn import datasets

    data: Any = datasets.load_diabetes() if name == "diabetes" else datasets.load_breast_cancer()
    x, y = torch.from_numpy(data.data), torch.from_numpy(data.target).double()
    names = [str(feature) for feature in data.feature_names]
    if name == "diabetes":
        directions = [DIABETES.get(feature, 0) for feature in names]
    else:
        y = 1 - y  # 1: malignant
        directions = [
            int(feature.startswith(("mean", "worst")) and feature.endswith(CANCER))
            for feature in names
        ]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    cuts = (int(0.6 * len(x)), int(0.8 * len(x)))
    train = order[: cuts[0]]
    x = (x - x[train].mean(0)) / x[train].std(0)
    scale = 0.0 if name != "diabetes" else y[train].std().item()
    y = (y - y[train].mean()) / scale if scale else y
    parts = zip(("train", "validation", "test"), order.tensor_split(cuts), strict=True)
    split = {part: (x[rows].float(), y[rows].float()) for part, rows in parts}
    return Table(split, tuple(directions), scale)


def net(kind: str, table: Table, constant: float) -> nn.Module:
    """Nets of one shape."""
    features = len(table.directions)
    firsts = {"monotone net": taut.nn.UnitColumnLinear, "monotone net, l2": taut.nn.Linear}
    free = kind == "unconstrained net"
    linear = nn.Linear if free else taut.nn.Linear
    layers: list[nn.Module] = [firsts.get(kind, nn.Linear)(features, WIDTH), taut.nn.MaxMin()]
    for _ in range(DEPTH - 1):
        layers += [linear(WIDTH, WIDTH), taut.nn.MaxMin()]
    f = nn.Sequential(*layers, linear(WIDTH, 1))
    if free:
        return f
    f.append(taut.nn.Times(constant))
    return taut.nn.Monotone(f, table.directions, constant)


def trained(
    model: nn.Module, table: Table, seed: int, steps: int, seconds: float | None = None
) -> tuple[nn.Module, float, float]:
    """The model at its best validation loss, that, and the CPU seconds, which may be the limit.

    The learning rate falls to 0 over the steps, or over the seconds.
    """
    x, y = table.parts["train"]
    others, expected = table.parts["validation"]
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    best, kept, start, step = float("inf"), copy.deepcopy(model), time.process_time(), 0
    share = 0.0
    while share < 1:
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 - share)
        rows = torch.randperm(len(x), generator=random)[:128]
        optimiser.zero_grad()
        table.loss(model(x[rows])[:, 0], y[rows]).backward()
        optimiser.step()
        step += 1
        if step % 10 == 0:
            with torch.no_grad():
                loss = table.loss(model(others)[:, 0], expected).item()
            if loss < best:
                best, kept = loss, copy.deepcopy(model)
        spent = time.process_time() - start
        share = step / steps if seconds is None else spent / seconds
    return taut.freeze(kept), best, time.process_time() - start


def chosen(
    kind: str, table: Table, seed: int, args: argparse.Namespace, seconds: float | None
) -> tuple[nn.Module, float | None, float]:
    """The best net of all constants, its constant, and the CPU seconds of all together."""
    found = []
    for constant in (0.0,) if seconds is not None else args.constants:
        torch.manual_seed(seed)
        model = net(kind, table, constant)
        found.append((constant or None, *trained(model, table, seed, args.steps, seconds)))
    constant, model, _, _ = min(found, key=lambda each: each[2])
    return model, constant, sum(each[3] for each in found)


def boosted(table: Table, *, monotone: bool) -> tuple[Callable[[Tensor], Tensor], float]:
    """scikit-learn's boosted trees with early stopping, as a function to raw scores."""
    from sklearn import ensemble

    kinds = (ensemble.HistGradientBoostingRegressor, ensemble.HistGradientBoostingClassifier)
    x, y = (
        torch.cat([table.parts[part][i] for part in ("train", "validation")]).double().numpy()
        for i in (0, 1)
    )
    start = time.process_time()
    model: Any = kinds[table.of_classes](
        monotonic_cst=table.directions if monotone else None,
        early_stopping=True,  # pyright: ignore[reportArgumentType]
        validation_fraction=0.25, random_state=0,
    )  # fmt: skip
    model.fit(x, y)
    seconds = time.process_time() - start

    def scores(inputs: Tensor) -> Tensor:
        rows = inputs.detach().double().numpy()
        found = model.decision_function(rows) if table.of_classes else model.predict(rows)
        return torch.from_numpy(found)

    return scores, seconds


def violations(f: Callable[[Tensor], Tensor], table: Table, *, smooth: bool) -> tuple[int, float]:
    """How many of the pairs are in the wrong order, and the largest fall in a step of at most 1."""
    random = torch.Generator().manual_seed(0)
    x = table.parts["test"][0].double()
    x = x[torch.randint(len(x), (PROBES,), generator=random)]
    x = x + 0.3 * torch.randn(x.shape, generator=random, dtype=torch.float64)
    count, worst = 0, 0.0
    for feature, sign in enumerate(table.directions):
        if not sign:
            continue
        step = torch.zeros_like(x)
        step[:, feature] = sign * torch.rand(len(x), generator=random, dtype=torch.float64)
        at = steepest(f, x, step) if smooth else x
        with torch.no_grad():
            fall = f(at) - f(at + step)
        count += int((fall > 1e-9).sum())
        worst = max(worst, fall.max().item())
    return count, worst


def steepest(f: Callable[[Tensor], Tensor], x: Tensor, step: Tensor) -> Tensor:
    """Inputs nearby from which the same step falls further, by five steps up the gradient."""
    for _ in range(5):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad((f(x) - f(x + step)).sum(), x)
        x = x + 0.2 * slope.sign()
    return x.detach()


def measured(
    name: str, seed: int, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, list[list[float]]]]:
    """A row for each contender on one split, and how its outputs change with one feature."""
    table, rows, seconds = loaded(name, seed), [], 0.0
    curves: dict[str, list[list[float]]] = {}
    features = len(table.directions)
    monotone = [i for i, sign in enumerate(table.directions) if sign]
    signs = torch.tensor(table.directions)[monotone]
    for kind in NETS:
        limit = seconds if kind == NETS[-1] else None
        model, constant, spent = chosen(kind, table, seed, args, limit)
        seconds = spent if kind == NETS[0] else seconds
        wide = copy.deepcopy(model).double()
        f = lambda x, wide=wide: wide(x)[:, 0]  # noqa: E731
        row = contender(kind, f, table, spent, smooth=True)
        curves[kind] = along(f, table)
        found = taut.slopes(model, (features,), features=monotone)
        both = torch.stack([found.lower[monotone] * signs, found.upper[monotone] * signs])
        ends = {"lowest slope": both.min().item(), "highest slope": both.max().item()}
        rows.append(row | ends | {"constant": constant})
    for kind in TREES:
        f, spent = boosted(table, monotone=kind == TREES[0])
        curves[kind] = along(f, table)
        rows.append(contender(kind, f, table, spent, smooth=False))
    return [{"table": name, "seed": seed} | row for row in rows], curves


def along(f: Callable[[Tensor], Tensor], table: Table) -> list[list[float]]:
    """Outputs of some test inputs while the first monotone feature goes through `LINE`."""
    feature = next(i for i, sign in enumerate(table.directions) if sign)
    curves = []
    for row in table.parts["test"][0][:CURVES].double():
        x = row.repeat(len(LINE), 1)
        x[:, feature] = LINE.double()
        with torch.no_grad():
            curves.append(f(x).tolist())
    return curves


def contender(
    kind: str, f: Callable[[Tensor], Tensor], table: Table, seconds: float, *, smooth: bool
) -> dict[str, Any]:
    """What is measured of each."""
    with torch.no_grad():
        error = table.error(f(table.parts["test"][0].double()))
    count, worst = violations(f, table, smooth=smooth)
    pairs = PROBES * sum(map(abs, table.directions))
    return {
        "model": kind, "error": error, "violations": count, "pairs": pairs, "worst": worst,
        "CPU seconds": seconds,
    }  # fmt: skip


def work(args: argparse.Namespace, record: Record) -> None:
    record.resume({"constants": list(args.constants), "steps": args.steps})
    done = {(row["table"], row["seed"]) for row in record.content.get("rows", ())}
    cases = [(name, seed) for seed in args.seeds for name in ("diabetes", "breast cancer")]
    for name, seed in tracked([case for case in cases if case not in done], "splits"):
        rows, curves = measured(name, seed, args)
        if (name, seed) == cases[0]:
            record.keep(curves={"x": LINE.tolist(), "of": curves})
        record.keep(rows=[*record.content.get("rows", ()), *rows])


def monotone_table() -> str:
    """Means and deviations over the splits of each table; sums of violations."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in read(RECORDS / "monotone.json").get("rows", ()):
        groups.setdefault((row["table"], row["model"]), []).append(row)
    cells = []
    for (name, kind), rows in sorted(groups.items(), key=lambda group: group[0][0], reverse=True):
        slopes = "-"
        if "lowest slope" in rows[0]:
            low = min(row["lowest slope"] for row in rows)
            slopes = f"{low:.2g} to {max(row['highest slope'] for row in rows):.2g}"
        wrong, pairs = (sum(row[key] for row in rows) for key in ("violations", "pairs"))
        seconds = fmean(row["CPU seconds"] for row in rows)
        found = f"{wrong:,} of {pairs:,}"
        error = spread(mean_and_deviation([row["error"] for row in rows]), ".1f")
        cells.append((name, kind, f"{len(rows)}", error, found, slopes, f"{seconds:.2g}"))
    header = (
        "table", "model", "splits", "test error", "violations found", "slopes, proved",
        "CPU seconds",
    )  # fmt: skip
    return markdown(header, cells)


EXPERIMENT = Experiment(
    "monotone",
    __doc__,
    work,
    (
        option("--steps", 200, "of training of each monotone net"),
        option("--constants", (0.5, 2.0), "largest slopes of f to choose from"),
        option("--seeds", tuple(range(5)), "one split each"),
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
