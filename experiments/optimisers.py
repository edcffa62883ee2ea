"""Compare optimisers on the manifold with torch's, in the same number of steps.

Example: python -m experiments.optimisers --data-dir ~/data --record records/optimisers.json

torch's Adam with `taut.after_step` against `taut.optim.Adam`. Each takes the learning rate of a
small search that comes out best with a seed of its own, by the loss of the last steps; then all
seeds are trained. Initial weights, images and their order are the same for both. The step times are
the processor's, which other work hardly slows, medians of a run.
"""

import argparse
import time
from statistics import fmean, median

import torch
from torch import nn

import taut
from experiments._record import RECORDS, Record, read
from experiments._runner import DATA_DIR, SEEDS, Experiment, option, tracked
from experiments._show import markdown
from experiments._training import steps_of
from taut.training import OneCycle

OPTIMISERS = {"torch.optim.Adam": torch.optim.Adam, "taut.optim.Adam": taut.optim.Adam}
MODELS = {"small": taut.models.Small, "large": taut.models.Large}
_SETTINGS = ("dataset", "models", "steps", "search_steps", "batch_size", "images", "lrs", "seeds")
_SEARCH_SEED = 1000
_COLUMNS = {"loss": 4, "clean": 2, "certified": 2, "processor ms a step": 1}  # and digits


def work(args: argparse.Namespace, record: Record) -> None:
    record.begin(settings={name: vars(args)[name] for name in (*_SETTINGS, "eps")})
    data = taut.data.load(args.dataset, args.data_dir)
    searches = [(model, name) for model in args.models for name in OPTIMISERS]
    for model, name in tracked(searches, "searches"):
        case = {"model": model, "optimiser": name}
        trials = {lr: _loss(model, name, lr, data, args) for lr in args.lrs}
        lr = min(trials, key=lambda lr: trials[lr])
        record.add("searches", {**case, "lr": lr, "losses": list(trials.values())})
    for search in tracked(record.content["searches"], "optimisers"):
        case = {key: search[key] for key in ("model", "optimiser", "lr")}
        for seed in args.seeds:
            record.add("rows", {**case, "seed": seed, **measured(case, data, seed, args)})


def measured(case: dict, data: taut.data.Dataset, seed: int, args: argparse.Namespace) -> dict:
    """Loss, clean and certified accuracy in percent, and milliseconds a step."""
    net, losses, times = trained(case, data, seed, args.steps, args.batch_size)
    test = data.test.take(args.images)
    certification = taut.certify(net.eval(), test.float_images(), test.labels, (args.eps,))
    return {
        "loss": _last(losses),
        "clean": 100 * certification.clean_accuracy,
        "certified": 100 * certification.certified_accuracy[args.eps],
        "processor ms a step": 1e3 * median(times),
    }


def trained(
    case: dict, data: taut.data.Dataset, seed: int, steps: int, batch_size: int
) -> tuple[nn.Module, list[float], list[float]]:
    """A net after so many steps, with the loss and the seconds of each."""
    torch.manual_seed(seed)
    net = MODELS[case["model"]]().build(data.input_shape, len(data.classes))
    optimiser = OPTIMISERS[case["optimiser"]](net.parameters(), lr=case["lr"], fused=True)
    loss, schedule = taut.losses.MultiMargin(eps_train=0.5), OneCycle()
    losses: list[float] = []
    times: list[float] = []
    for images, labels in steps_of(data.train, batch_size, steps, seed=seed):
        factor = schedule.factor(len(losses), steps_per_epoch=steps, epochs=1)
        optimiser.param_groups[0]["lr"] = case["lr"] * factor
        start = time.process_time()
        optimiser.zero_grad()
        value = loss(net(images), labels)
        value.backward()
        optimiser.step()
        if case["optimiser"] == "torch.optim.Adam":
            taut.after_step(net, len(losses) + 1)
        times.append(time.process_time() - start)
        losses.append(value.item())
    return net, losses, times


def _loss(
    model: str, name: str, lr: float, data: taut.data.Dataset, args: argparse.Namespace
) -> float:
    """The loss at the end of a short run."""
    case = {"model": model, "optimiser": name, "lr": lr}
    return _last(trained(case, data, _SEARCH_SEED, args.search_steps, args.batch_size)[1])


def _last(losses: list[float]) -> float:
    """The mean over the last tenth of the steps."""
    return fmean(losses[-max(1, len(losses) // 10) :])


def optimisers_table() -> str:
    """Means over the seeds, and the largest distance from them."""
    record = read(RECORDS / "optimisers.json")
    rows = []
    for search in record["searches"]:
        model, name = search["model"], search["optimiser"]
        seeds = [r for r in record["rows"] if (r["model"], r["optimiser"]) == (model, name)]
        cells = []
        for column, digits in _COLUMNS.items():
            values = [row[column] for row in seeds]
            spread = max(abs(value - fmean(values)) for value in values)
            cells.append(f"{fmean(values):.{digits}f} ± {spread:.{digits}f}")
        rows.append((model, f"`{name}`", f"{search['lr']:g}", *cells))
    certified = f"certified at {record['settings']['eps']} in %"
    header = ("net", "optimiser", "lr", "loss", "clean in %", certified, "processor ms a step")
    return markdown(header, rows)


EXPERIMENT = Experiment(
    "optimisers",
    __doc__,
    work,
    (
        option("--dataset", "mnist", "the data set"),
        option("--models", ("small", "large"), "the nets", choices=tuple(MODELS)),
        option("--steps", 300, "of training"),
        option("--search-steps", 100, "of each run of the search"),
        option("--batch-size", 128, "images a step"),
        option("--images", 2000, "test images"),
        option("--lrs", (3e-3, 1e-2, 3e-2), "learning rates to choose from"),
        option("--eps", "1.0", "radius of the certified accuracy"),
        DATA_DIR,
        SEEDS,
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
