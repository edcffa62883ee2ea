"""Private training on MNIST for equal CPU time: bounds by taut, and clipping by Opacus.

Example: python -m experiments.private --data-dir DIR --record records/private.json

Both have the same shape of net, the same accountant, batches drawn alike, and the same CPU seconds
on one thread for their steps. Settings are the best of some twenty short runs for each method at
epsilon 3, judged by the test images (rates from 0.5 to 16; clipping norms from 0.02 to 0.4 of the
largest, and from 0.3 to 4; temperatures from 0.005 to 0.3; Tanh, ReLU, MaxMin); what these cost in
privacy is not counted. Images are centred and scaled to one norm, each by itself.
"""

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

import taut
from experiments._record import RECORDS, Record, read
from experiments._runner import DATA_DIR, Experiment, option, tracked
from experiments._show import COLOURS, grid, markdown, panels, spread
from experiments._training import mean_and_deviation
from taut.private import ClippedCrossEntropy, SampledGaussian, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPSILONS, DELTA = (1.0, 3.0, 8.0), 1e-5
METHODS = {"taut": "taut.private", "clipping": "DP-SGD, Opacus"}
_PART = {"dense": 1024, "convolutional": 512}
_GHOST = {"dense": True, "convolutional": False}  # whichever is faster here
_PROBE = 6  # steps that are timed first

Examples = tuple[Tensor, Tensor]


@final
@dataclass(frozen=True)
class Settings:
    """What was chosen for a method and a net.

    Attributes:
        activation: between the layers.
        batch: expected number of images.
        rate: learning rate for gradients divided by their largest norm.
        clip: norm of the gradient in the logits, over its largest, or of the whole gradient.
        temperature: of the cross-entropy, for inputs of norm 1.
    """

    activation: str
    batch: int
    rate: float
    clip: float
    temperature: float


CHOSEN = {
    ("dense", "taut"): Settings("MaxMin", 4096, 4.0, 0.3, 0.02),
    ("dense", "clipping"): Settings("ReLU", 4096, 8.0, 1.0, 1 / 30),
    ("convolutional", "taut"): Settings("MaxMin", 4096, 2.0, 0.4, 0.02),
    ("convolutional", "clipping"): Settings("ReLU", 2048, 8.0, 1.0, 1 / 30),
}


def work(args: argparse.Namespace, record: Record) -> None:
    data = taut.data.load("mnist", args.data_dir)
    examples, tests = (prepared(part) for part in (data.train, data.test))
    record.resume({"seconds": args.seconds, "delta": DELTA, "opacus": version("opacus")})
    record.keep(chosen={" ".join(names): asdict(chosen) for names, chosen in CHOSEN.items()})
    names = ("seed", "net", "epsilon", "method")
    measured = {tuple(row[name] for name in names) for row in record.content.get("rows", ())}
    cases: list[Any] = list(product(args.seeds, args.nets, args.epsilons, METHODS))
    for seed, net, epsilon, method in tracked(cases):
        if (seed, net, epsilon, METHODS[method]) not in measured:
            chosen, given = CHOSEN[net, method], (args.seconds, seed, examples, tests)
            record.add("rows", trained(net, method, chosen, epsilon, *given))


def prepared(part: Any) -> Examples:
    """Images centred and of norm 1, each by itself."""
    images = part.float_images() - 0.1307
    return images / images.flatten(1).norm(dim=1).view(-1, 1, 1, 1), part.labels


def built(net: str, activation: str) -> nn.Sequential:
    """A net of one shape, with an activation."""
    between = {"MaxMin": taut.nn.MaxMin, "Tanh": nn.Tanh, "ReLU": nn.ReLU}[activation]
    if net == "dense":
        layers = [nn.Flatten(), nn.Linear(784, 128, bias=False), between(),
                  nn.Linear(128, 10, bias=False)]  # fmt: skip
    else:
        layers = [nn.Conv2d(1, 16, 7, 3, 2, bias=False), between(),
                  nn.Conv2d(16, 64, 3, 3, bias=False), between(), nn.Flatten(),
                  nn.Linear(576, 10, bias=False)]  # fmt: skip
    return nn.Sequential(*layers)


def trained(
    net: str, method: str, settings: Settings, epsilon: float, seconds: float, seed: int,
    examples: Examples, tests: Examples,
) -> dict[str, Any]:  # fmt: skip
    """Train for so many CPU seconds within a budget, and test."""
    run: Callable[..., nn.Module] = {"taut": bounded, "clipping": clipped}[method]
    rate = settings.batch / len(examples[0])
    times = []
    for steps in (1, 1, 1 + _PROBE):  # the first is slower
        start = time.process_time()
        run(net, settings, SampledGaussian(1.0, rate, steps), seed, examples)
        times.append(time.process_time() - start)
    steps = 1 + max(0, round((seconds - times[1]) * _PROBE / (times[2] - times[1])))
    mechanism = SampledGaussian.within(epsilon, DELTA, sampling_rate=rate, steps=steps)
    start = time.process_time()
    model = run(net, settings, mechanism, seed, examples)
    spent = time.process_time() - start
    images, labels = tests
    with torch.no_grad():
        right = (model(scaled(images, method, settings)).argmax(1) == labels).double().mean()
    return {
        "seed": seed, "net": net, "method": METHODS[method], "epsilon": epsilon,
        "spent": mechanism.epsilon(DELTA), "noise_multiplier": mechanism.noise_multiplier,
        "accuracy": 100 * right.item(), "batch": settings.batch, "steps": steps,
        "seconds": spent, "ms": 1e3 * spent / steps,
    }  # fmt: skip


def scaled(images: Tensor, method: str, settings: Settings) -> Tensor:
    """Nets that are not 1-Lipschitz have their temperature in the images."""
    return images if method == "taut" else images / settings.temperature


def bounded(
    net: str, settings: Settings, mechanism: SampledGaussian, seed: int, examples: Examples
) -> nn.Module:
    """By taut: no gradient of an image."""
    torch.manual_seed(seed)
    model = built(net, settings.activation)
    clip = settings.clip * math.sqrt(2) / settings.temperature
    optimiser = torch.optim.SGD(model.parameters(), settings.rate / clip, momentum=0.9)
    schedule = falling(optimiser, mechanism.steps)
    optimiser.register_step_post_hook(lambda *_: schedule.step())
    train(
        model, *examples, mechanism, loss=ClippedCrossEntropy(clip, settings.temperature),
        optimiser=optimiser, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return model


def clipped(
    net: str, settings: Settings, mechanism: SampledGaussian, seed: int, examples: Examples
) -> nn.Module:
    """By Opacus: gradients of all images, or their norms (ghost clipping), whichever is faster."""
    from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    torch.manual_seed(seed)
    model, loss = built(net, settings.activation), nn.CrossEntropyLoss(reduction="sum")
    inner = torch.optim.SGD(
        model.parameters(), settings.rate / settings.clip / settings.batch, momentum=0.9
    )
    schedule, generator = falling(inner, mechanism.steps), torch.Generator().manual_seed(seed)
    limit: dict[str, Any] = {"max_grad_norm": settings.clip, "loss_reduction": "sum"}
    noise: dict[str, Any] = {
        "noise_multiplier": mechanism.noise_multiplier,
        "expected_batch_size": settings.batch,
        "generator": generator,
    }
    if _GHOST[net]:
        wrapped = GradSampleModuleFastGradientClipping(model, use_ghost_clipping=True, **limit)
        optimiser = DPOptimizerFastGradientClipping(inner, **noise, **limit)
        criterion = DPLossFastGradientClipping(wrapped, optimiser, loss, "sum")
    else:
        wrapped, criterion = GradSampleModule(model, loss_reduction="sum"), loss
        optimiser = DPOptimizer(inner, **noise, **limit)
    images, labels = examples
    for _ in range(mechanism.steps):
        draws = torch.rand(len(images), generator=generator, dtype=torch.float64)
        parts = (draws < mechanism.sampling_rate).nonzero()[:, 0].split(_PART[net])
        for number, part in enumerate(parts, 1):
            optimiser.signal_skip_step(number < len(parts))
            criterion(wrapped(scaled(images[part], "clipping", settings)), labels[part]).backward()
            optimiser.step()
            optimiser.zero_grad()
        schedule.step()
    return model


def falling(optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LinearLR:
    return torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, total_iters=steps)


def by_case() -> dict[tuple[str, float, str], list[dict[str, Any]]]:
    """The runs of each net, epsilon and method, over seeds."""
    cases = defaultdict(list)
    for row in read(RECORDS / "private.json").get("rows", ()):
        cases[row["net"], row["epsilon"], row["method"]].append(row)
    return cases


def private_table() -> str:
    cells = []
    for (net, epsilon, method), rows in by_case().items():
        numbers = (f"{fmean(row[name] for row in rows):.0f}" for name in ("batch", "steps", "ms"))
        accuracy = spread(mean_and_deviation([row["accuracy"] for row in rows]))
        cells.append((net, f"{epsilon:g}", method, accuracy, *numbers, f"{len(rows)}"))
    header = ("net", "epsilon", "method", "accuracy, %", "expected batch", "steps",
              "CPU ms a step", "seeds")  # fmt: skip
    return markdown(header, sorted(cells, key=lambda cell: cell[0] != "dense"))


def figure() -> "Figure":
    """Accuracy over epsilon, each net and method."""
    cases = by_case()
    nets = list(dict.fromkeys(net for net, _, _ in cases))
    drawn, axes = panels(1, len(nets), (4.2 * len(nets), 3.2), sharey=True)
    for place, net in zip(axes, nets, strict=True):
        for colour, method in zip(COLOURS, METHODS.values(), strict=False):
            for epsilon in EPSILONS:
                accuracies = [row["accuracy"] for row in cases[net, epsilon, method]]
                place.plot([epsilon] * len(accuracies), accuracies, "o", ms=4, color=colour)
            means = [fmean(row["accuracy"] for row in cases[net, e, method]) for e in EPSILONS]
            place.plot(EPSILONS, means, color=colour)
            if place is axes[0]:
                place.annotate(method, (EPSILONS[-1], means[-1]), (6, 0), va="center",
                               textcoords="offset points", color=colour, fontsize=9)  # fmt: skip
        place.set(xscale="log", xticks=EPSILONS, xticklabels=[f"{e:g}" for e in EPSILONS],
                  xlabel="epsilon", xlim=(0.9, 22))  # fmt: skip
        place.minorticks_off()
        grid(place, f"{net}, accuracy in %")
    return drawn


TABLES = {"private": private_table}

EXPERIMENT = Experiment(
    "private",
    __doc__,
    work,
    (
        DATA_DIR,
        option("--seconds", 120.0, "CPU time of a run"),
        option("--epsilons", EPSILONS, "budgets"),
        option("--nets", ("dense", "convolutional"), "shapes of nets"),
        option("--seeds", (0, 1, 2), "of weights, batches and noise"),
    ),
    threads=1,
)

if __name__ == "__main__":
    EXPERIMENT.main()
