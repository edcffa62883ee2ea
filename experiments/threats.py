"""Certify models of the zoo against other threats than l2, and attack each by that very threat.

Example: python -m experiments.threats --data-dir DIR --record records/threats.json

DIR holds a folder for each data set. Beside each model stands a plain net of the same shape, with
ReLU and cross-entropy, trained for as many CPU seconds on one thread as the model takes with its
recipe, or for the most allowed. The record keeps what is finished; the next command adds to it.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

import taut
from experiments._models import plain_small
from experiments._record import RECORDS, ROOT, RUNS, Record, read
from experiments._runner import DATA_DIR, Experiment, option, tracked
from experiments._show import COLOURS, GREY, grid, markdown, number, panels
from experiments._threat_attacks import survived
from experiments._training import steps_of
from taut import threats
from taut.training import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD = RECORDS / "threats.json"
_BATCH, _LR = 128, 1e-3
_SEARCHED = 3  # threats with parameters are measured on one in this many images


class ZooNet(NamedTuple):
    """A model of the zoo, and the plain net beside it."""

    data: str
    plain: Callable[[], nn.Sequential]
    share: int = 1  # measured on one in this many images


def plain_wide() -> nn.Sequential:
    layers = [
        nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(64, 64, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 120), nn.ReLU(),
    ]  # fmt: skip
    return nn.Sequential(*layers, nn.Linear(120, 120), nn.ReLU(), nn.Linear(120, 10))


NETS = {
    "mnist-small": ZooNet("mnist", plain_small),
    "fashion-mnist-small": ZooNet("fashion-mnist", plain_small),
    "mnist-wide": ZooNet("mnist", plain_wide, share=3),
}


def patch() -> Tensor:
    """Eight by eight pixels in the middle."""
    mask = torch.zeros(28, 28)
    mask[10:18, 10:18] = 1
    return mask


def weights() -> Tensor:
    """A quarter for pixels of the border, one for the others."""
    values = torch.full((28, 28), 0.25)
    values[4:24, 4:24] = 1
    return values


THREATS: dict[str, tuple[threats.AbstractThreat, tuple[float, ...]]] = {
    "l2": (threats.L2(), (0.5, 1.0, 1.58)),
    "l2, an 8x8 patch": (threats.Mask(patch()), (0.5, 1.0, 1.58)),
    "l2, less at the border": (threats.WeightedL2(weights()), (0.5, 1.0, 1.58)),
    "linf": (threats.Linf(), (0.01, 0.03, 0.1)),
    "l1": (threats.L1(), (0.5, 1.0, 1.58)),
    "pixels": (threats.L0(), (1, 2, 3)),
    "brightness": (threats.Brightness(limit=0.32), (0.1, 0.2, 0.3)),
    "contrast": (threats.Contrast(limit=0.62), (0.2, 0.4, 0.6)),
    "shift, pixels": (threats.Translation(limit=1.05), (0.25, 0.5, 1.0)),
    "rotation, degrees": (threats.Rotation(limit=15.5), (5.0, 10.0, 15.0)),
}


def work(args: argparse.Namespace, record: Record) -> None:
    torch.set_num_threads(1)  # CPU seconds are those of one thread
    record.resume({"images": args.images, "seconds": args.seconds})
    for name in tracked(args.nets or list(NETS), "models"):
        net = NETS[name]
        place = args.data_dir / net.data if args.data_dir else None
        images, labels = taut.data.load_test(net.data, place)
        count = args.images // net.share
        judge(record, name, "taut", taut.load(f"zoo:{name}"), images[:count], labels[:count])
        state = RUNS / "threats" / f"{name}.pt"
        if name not in [row["net"] for row in record.content.get("plain", ())]:
            data = taut.data.load(net.data, place)
            record.add("plain", trained(name, data, args.seconds, state))
        plain = net.plain()
        plain.load_state_dict(torch.load(state, weights_only=True)["model"])
        judge(record, name, "plain", plain.eval(), images[:count], labels[:count])


def judge(
    record: Record, name: str, kind: str, model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    """Add a row for each threat that has none."""
    rows = record.content.get("rows", ())
    known = [row["threat"] for row in rows if (row["net"], row["kind"]) == (name, kind)]
    for threat, (kind_of, _) in THREATS.items():
        if threat not in known:
            searched = isinstance(kind_of, threats.AbstractTransformation)
            count = len(images) // (_SEARCHED if searched else 1)
            row = {"net": name, "kind": kind, "threat": threat, "images": count}
            record.add("rows", row | measured(model, images[:count], labels[:count], threat))


def measured(model: nn.Module, images: Tensor, labels: Tensor, name: str) -> dict[str, Any]:
    """Certified accuracy and accuracy under attack at each size, in percent."""
    threat, sizes = THREATS[name]
    begin = time.process_time()
    found = threats.certify(model, images, labels, threat, sizes)
    seconds = time.process_time() - begin
    begin = time.process_time()
    attacked = survived(model, images, labels, threat, sizes)
    return {
        "unit": threat.unit,
        "clean": 100 * found.clean_accuracy,
        "sizes": list(sizes),
        "certified": [100 * share for share in found.certified_accuracy.values()],
        "attacked": [100 * share for share in attacked],
        "curve": [100 * (found.radius > t).double().mean().item() for t in ticks(sizes)],
        "proof": found.proof,
        "certify_seconds": seconds,
        "attack_seconds": time.process_time() - begin,
    }


def ticks(sizes: Sequence[float]) -> list[float]:
    """Sizes of the curve of certified accuracy, up to the largest."""
    return [sizes[-1] * i / 40 for i in range(41)]


def trained(name: str, data: taut.data.Dataset, most: float, path: Path) -> dict[str, Any]:
    """Train the plain net for the CPU seconds of the model, or the most allowed; resumes."""
    folder = ROOT / "zoo" / name
    recipe = Recipe.from_json((folder / "recipe.json").read_text(), folder)
    torch.manual_seed(0)
    plain = NETS[name].plain()
    optimiser = torch.optim.Adam(plain.parameters(), lr=_LR)
    state: dict[str, Any] = {"seconds": 0.0, "steps": 0}
    if path.is_file():
        state = torch.load(path, weights_only=True)
        plain.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    else:
        steps = recipe.epochs * -(-len(data.train) // recipe.batch_size)
        state["equal"] = steps * step_seconds(recipe, data)
        path.parent.mkdir(parents=True, exist_ok=True)
    budget = min(state["equal"], most)
    while state["seconds"] < budget:
        begin = time.process_time()
        for images, labels in steps_of(data.train, _BATCH, 100, seed=state["steps"]):
            spent = state["seconds"] + time.process_time() - begin
            for group in optimiser.param_groups:
                group["lr"] = _LR * max(0.0, 1 - spent / budget)
            optimiser.zero_grad()
            nn.functional.cross_entropy(plain(images), labels).backward()
            optimiser.step()
        state["steps"] += 100
        state["seconds"] += time.process_time() - begin
        state |= {"model": plain.state_dict(), "optimiser": optimiser.state_dict()}
        torch.save(state, path)
    with torch.no_grad():
        parts = data.test.float_images().split(500)
        right = torch.cat([plain(x).argmax(1) for x in parts]) == data.test.labels
    return {
        "net": name,
        "clean": 100 * right.double().mean().item(),
        "bound": float(taut.lipschitz_bound(plain.eval(), data.input_shape)),
        "seconds": state["seconds"],
        "model_seconds": state["equal"],
        "epochs": state["steps"] * _BATCH / len(data.train),
    }


def step_seconds(recipe: Recipe, data: taut.data.Dataset, steps: int = 15) -> float:
    """CPU seconds of a training step of the recipe, in float32 on one thread."""
    torch.manual_seed(0)
    model = recipe.build_model().train()
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    seconds = []
    for images, labels in steps_of(data.train, recipe.batch_size, steps, seed=0):
        begin = time.process_time()
        optimiser.zero_grad()
        recipe.loss(model(images), labels).backward()
        optimiser.step()
        seconds.append(time.process_time() - begin)
    return median(seconds[3:])


def threats_table() -> str:
    """A line for each model, threat and size."""
    rows = {(r["net"], r["threat"], r["kind"]): r for r in read(RECORD).get("rows", ())}
    shown = []
    for (net, threat, kind), row in rows.items():
        plain = rows.get((net, threat, "plain"))
        for place, size in enumerate(row["sizes"] if kind == "taut" else ()):
            values = [row["certified"][place], row["attacked"][place]]
            values += [None, None] if plain is None else [
                plain["attacked"][place], plain["certified"][place]
            ]  # fmt: skip
            first = (net, str(row["images"]), threat) if not place else ("", "", "")
            shown.append((*first, f"{size:g}", *(number(value, form=".1f") for value in values)))
    header = ("model", "images", "threat", "size", "certified", "under attack")
    return markdown((*header, "plain net, under attack", "plain net, certified"), shown)


def plain_table() -> str:
    """The plain nets: what they are and for how long they train."""
    rows = [
        (
            row["net"], f"{row['model_seconds']:.0f}", f"{row['seconds']:.0f}",
            f"{row['epochs']:.0f}", f"{row['clean']:.1f}",
            f"{row['bound']:.0f}",
        )
        for row in read(RECORD).get("plain", ())
    ]  # fmt: skip
    header = (
        *("beside", "CPU seconds of its training", "of the plain net's", "epochs of that"),
        *("clean, all test images", "Lipschitz bound"),
    )
    return markdown(header, rows)


TABLES = {"threats": threats_table, "threats-plain": plain_table}


def figure() -> "Figure":
    """A patch with its radius, and accuracies over the size of four threats."""
    rows = {(r["net"], r["kind"], r["threat"]): r for r in read(RECORD).get("rows", ())}
    chosen = ("linf", "brightness", "shift, pixels", "rotation, degrees")
    chosen = [threat for threat in chosen if ("mnist-small", "plain", threat) in rows]
    drawing, axes = panels(1, 1 + len(chosen), (3 + 2.5 * len(chosen), 2.9))
    _draw_patch(axes[0])
    for place, threat in zip(axes[1:], chosen, strict=True):
        for colour, kind in ((COLOURS[0], "taut"), (GREY, "plain")):
            row = rows["mnist-small", kind, threat]
            label = f"{kind}: certified"
            place.plot(ticks(row["sizes"]), row["curve"], color=colour, label=label)
            points = [(0.0, row["clean"]), *zip(row["sizes"], row["attacked"], strict=True)]
            label = f"{kind}: under attack"
            place.plot(*zip(*points, strict=True), "o--", color=colour, markersize=4, label=label)
        place.set_ylim(-3, 103)
        place.set_xlabel(rows["mnist-small", "taut", threat]["unit"])
        grid(place, f"{threat.split(',')[0]}, mnist-small")
    if chosen:
        axes[1].set_ylabel("accuracy, %")
        axes[-1].legend(frameon=False, fontsize=7, loc="center right")
    return drawing


def _draw_patch(axes: Any) -> None:
    """A digit, the patch, and how far its pixels may move; beside it the radius of all pixels."""
    import numpy as np
    from matplotlib.patches import Rectangle

    content = np.load(ROOT / "zoo" / "mnist-small" / "points.npz")
    images = torch.from_numpy(content["images"])[:1]
    model = taut.load("zoo:mnist-small")
    labels = model(images).argmax(1)
    radius = threats.certify(model, images, labels, threats.Mask(patch())).radius.item()
    axes.imshow(1 - images[0, 0], cmap="gray", vmin=0, vmax=1)
    axes.add_patch(Rectangle((9.5, 9.5), 8, 8, fill=False, color=COLOURS[1], linewidth=1.6))
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"{labels.item()} for any change in the patch\nup to {radius:.2f}", fontsize=8)


EXPERIMENT = Experiment(
    "threats",
    __doc__,
    work,
    (
        option("--nets", (), "models of the zoo; left out: all", choices=list(NETS), metavar="NET"),
        option("--images", 1000, "how many test images, the first ones; a third for mnist-wide"),
        option("--seconds", 60.0, "CPU seconds of a plain net, at most"),
        DATA_DIR,
    ),
    threads=1,
)

if __name__ == "__main__":
    EXPERIMENT.main()
