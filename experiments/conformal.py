"""Coverage and size of conformal sets and intervals, clean and under attack.

Example: python -m experiments.conformal mnist --data-dir DIR --record records/conformal.json

Nets of the shape of Small: of taut and with plain layers, trained for equal CPU seconds of one
thread, and of the zoo. Each image is attacked once for each net and eps, by gradient steps that
raise the score of its label; then 200 random splits into 1,000 calibration points and the rest.
`rotation`: nets that read the angle by which a digit was turned. `cifar10-jpeg75`: a net of the zoo
at the eps of lip-rcp. A run replaces its nets in the record.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from experiments._models import plain_small
from experiments._record import Record, read
from experiments._runner import DATA_DIR, Experiment, option
from experiments._training import steps_of
from taut.attacks._geometry import clip, directions
from taut.certification import Certificate, certified_interval, logit_margin, prove
from taut.conformal import AbstractScore, Logit, Margin, ScoreBounds, Softmax, conformal_threshold
from taut.losses import LossInputs, OffsetCrossEntropy
from taut.models import Small
from taut.nn import scaled

SEED, SPLITS, CALIBRATION, TEST, STEPS = 0, 200, 1000, 2000, 10
EPS, ALPHAS, CIFAR_EPS = (0.25, 0.5, 1.0), (0.1, 0.05), 0.03
SCORES: dict[str, AbstractScore] = {
    "margin": Margin(), "logit": Logit(), "softmax": Softmax(0.1),
}  # fmt: skip
DEGREES, CONSTANT = 45.0, 15.0  # angles are up to it; degrees for each unit of l2
PARTS, NETS = ("mnist", "fashion-mnist", "rotation", "cifar10-jpeg75"), ("taut", "plain", "zoo")
_BATCH = 128

Score = Callable[[Tensor, slice], Tensor]  # of images, which are a part of all
Steps = Iterator[tuple[Tensor, Tensor]]


def work(args: argparse.Namespace, record: Record) -> None:
    if record.path is not None and record.path.is_file():
        record.content = read(record.path)
    nets = {"rotation": NETS[:2], "cifar10-jpeg75": NETS[2:]}.get(args.part, NETS)
    for name in (net for net in nets if net in args.nets):
        torch.manual_seed(SEED)
        measure = angles if args.part == "rotation" else sets
        facts, rows = measure(name, args)
        print(name, facts, flush=True)
        found = {"environment": record.environment(), **facts, "rows": list(rows)}
        record.keep(**{args.part: record.content.get(args.part, {}) | {name: found}})


def sets(name: str, args: argparse.Namespace) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Facts of a classifier, and what its sets cover."""
    images, labels = taut.data.load_test(args.part, args.data_dir)
    images, labels = images[: CALIBRATION + TEST], labels[: CALIBRATION + TEST]
    model, seconds = classifier(name, args)
    certificate = prove(model, tuple(images.shape[1:]))
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    facts = {"accuracy": share(right), "constant": float(certificate.bound), "seconds": seconds}
    scores = SCORES if name == "zoo" else {"margin": Margin()}
    radii = (CIFAR_EPS,) if args.part == "cifar10-jpeg75" else EPS
    return facts, rows_of_sets(model, certificate, images, labels, scores, radii)


def classifier(name: str, args: argparse.Namespace) -> tuple[nn.Module, float | None]:
    """A trained net, and the CPU seconds of its training here."""
    if name == "zoo":
        return taut.load(f"zoo:{args.part}-small"), None
    data = taut.data.load(args.part, args.data_dir)
    steps = steps_of(data.train, _BATCH, 10**9, seed=SEED)
    if name == "plain":
        return trained(plain_small(), F.cross_entropy, steps, args.seconds, lr=1e-3)
    loss = OffsetCrossEntropy(offset=2.2, temperature=0.35)
    net = Small().build((1, 28, 28), 10)
    return trained(net, lambda z, y: loss(LossInputs(z, y)), steps, args.seconds, lr=5e-3)


def rows_of_sets(
    model: nn.Module,
    certificate: Certificate,
    images: Tensor,
    labels: Tensor,
    scores: Mapping[str, AbstractScore],
    radii: Sequence[float],
) -> Iterator[dict[str, Any]]:
    """Coverage and size for each eps, radius of the sets, alpha and score."""

    def lead(x: Tensor, places: slice) -> Tensor:
        return -logit_margin(model(x), labels[places]).float()

    for eps in radii:
        moved = climbed(lead, images, eps)
        for kind, score in scores.items():
            bounds = ScoreBounds(certificate, score)
            above = bounds.above(images).gather(1, labels[:, None])[:, 0]
            for radius in (0.0, eps):
                below = {"clean": bounds.below(images, radius)}
                below["attacked"] = bounds.below(moved, radius)
                for alpha in ALPHAS:
                    found = split_sets(above, below, labels, alpha)
                    yield {"score": kind, "eps": eps, "radius": radius, "alpha": alpha, **found}


def split_sets(
    above: Tensor, below: Mapping[str, Tensor], labels: Tensor, alpha: float
) -> dict[str, Any]:
    """Coverage and mean size over random splits."""
    found: dict[str, list[float]] = {}
    for calibration, test in random_splits(len(labels)):
        threshold = conformal_threshold(above[calibration], str(alpha))
        for kind, scores in below.items():
            members = scores[test] <= threshold
            hits = members.gather(1, labels[test, None])
            found.setdefault(f"coverage {kind}", []).append(share(hits))
            found.setdefault(f"size {kind}", []).append(10 * share(members))
    return summary(found)


def angles(name: str, args: argparse.Namespace) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Facts of a regressor, and what its intervals for the angle of a digit cover."""
    data = taut.data.load("mnist", args.data_dir)
    generator = torch.Generator().manual_seed(SEED)

    def turned(images: Tensor) -> tuple[Tensor, Tensor]:
        degrees = DEGREES * (2 * torch.rand(len(images), 1, generator=generator) - 1)
        return rotated(images, degrees), degrees

    images, degrees = turned(data.test.float_images()[: CALIBRATION + TEST])
    steps = (turned(x) for x, _ in steps_of(data.train, _BATCH, 10**9, seed=SEED))
    net = plain_small(1) if name == "plain" else scaled(Small().build((1, 28, 28), 1), CONSTANT)
    lr = 1e-3 if name == "plain" else 5e-3
    model, seconds = trained(net, F.l1_loss, steps, args.seconds, lr=lr)
    found = certified_interval(model, images, 0)
    off = (found.prediction - degrees)[:, 0]
    facts = {
        "error": float(off.abs().mean()),
        "constant": float(found.constants),
        "seconds": seconds,
    }
    return facts, rows_of_angles(model, images, degrees, off, facts["constant"])


def rows_of_angles(
    model: nn.Module, images: Tensor, degrees: Tensor, off: Tensor, constant: float
) -> Iterator[dict[str, Any]]:
    """Coverage and width for each eps, radius of the intervals and alpha."""
    for eps in EPS:
        moved = climbed(lambda x, part: off[part].sign().float() * model(x)[:, 0], images, eps)
        errors = {"clean": off.abs()}
        errors["attacked"] = (model(moved).detach().double() - degrees)[:, 0].abs()
        for radius, alpha in itertools.product((0.0, eps), ALPHAS):
            found = split_intervals(errors, constant * radius, alpha)
            yield {"eps": eps, "radius": radius, "alpha": alpha, **found}


def split_intervals(errors: Mapping[str, Tensor], room: float, alpha: float) -> dict[str, Any]:
    """Coverage and width over random splits, with room for an attack."""
    found: dict[str, list[float]] = {}
    for calibration, test in random_splits(len(errors["clean"])):
        half = conformal_threshold(errors["clean"][calibration], str(alpha)) + room
        for kind, error in errors.items():
            found.setdefault(f"coverage {kind}", []).append(share(error[test] <= half))
        found.setdefault("width", []).append(2 * half)
    return summary(found)


def random_splits(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(SPLITS):
        order = torch.randperm(count, generator=generator)
        yield order[:CALIBRATION], order[CALIBRATION:]


def summary(found: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {key: {"mean": mean(values), "std": stdev(values)} for key, values in found.items()}


def share(hits: Tensor) -> float:
    return float(hits.double().mean())


def trained(
    model: nn.Sequential,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: Steps,
    seconds: float,
    *,
    lr: float,
) -> tuple[nn.Module, float]:
    """The frozen model after this many CPU seconds of one thread, and the seconds."""
    optimiser, start = torch.optim.Adam(model.parameters(), lr), time.process_time()
    spent = 0.0
    for step, (inputs, targets) in enumerate(steps, 1):
        optimiser.param_groups[0]["lr"] = lr * min(1.0, 2 * (1 - spent / seconds))
        optimiser.zero_grad()
        loss(model(inputs), targets).backward()
        optimiser.step()
        if step % 16 == 0:
            taut.retract_(model)
        if (spent := time.process_time() - start) >= seconds:
            break
    return taut.freeze(model.eval()), spent


def climbed(score: Score, images: Tensor, eps: float) -> Tensor:
    """Images in [0, 1] within eps of the given ones: the one of largest score on a climb."""
    found = []
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        origin = moved = best = images[part]
        radius = torch.full((len(origin),), eps, dtype=torch.float64)
        most = torch.full((len(origin),), -torch.inf)
        for step in range(STEPS + 1):
            leaf = moved.clone().requires_grad_()
            value = score(leaf, part)
            higher = value.detach() > most
            most = torch.where(higher, value.detach(), most)
            best = torch.where(higher.reshape(-1, 1, 1, 1), moved, best)
            if step < STEPS:
                (slope,) = torch.autograd.grad(value.sum(), leaf)
                moved = clip(moved + 4 * eps / STEPS * directions(slope), origin, radius)
        found.append(best)
    return torch.cat(found)


def rotated(images: Tensor, degrees: Tensor) -> Tensor:
    """Images turned about their middle."""
    turns = degrees[:, 0] * (torch.pi / 180)
    cos, sin, zero = turns.cos(), turns.sin(), torch.zeros_like(turns)
    maps = torch.stack([cos, -sin, zero, sin, cos, zero], 1).reshape(-1, 2, 3)
    grids = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grids, align_corners=False).clamp(0, 1)


EXPERIMENT = Experiment(
    "conformal",
    __doc__,
    work,
    (
        option("part", choices=PARTS),
        option("--nets", NETS, "which nets", choices=NETS),
        option("--seconds", 25.0, "CPU seconds that each net is trained for"),
        DATA_DIR,
    ),
    threads=1,
)

if __name__ == "__main__":
    EXPERIMENT.main()
