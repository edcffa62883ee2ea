"""Denoise, deblur and inpaint with a denoiser that is proved to be firmly nonexpansive.

Example: python -m experiments.inverse fashion-mnist --data-dir DIR --record records/inverse.json

Two nets of equal width and depth train for the same CPU time of the process, on one thread: the
firmly nonexpansive one, and a DnCNN without a constraint. Both read images scaled to one noise
level. Their noise level in a restoration is chosen from four, each for itself, on images of the
training split. A record that holds other images goes on; what it holds is not measured again, and
trained nets lie in runs/inverse.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import taut
from experiments._record import RECORDS, RUNS, Record, read
from experiments._runner import DATA_DIR, Experiment, option
from experiments._show import COLOURS, GREY, grid, panels, table
from taut.inverse import (
    Blur,
    Denoiser,
    FixedNoise,
    Inpainting,
    LeastSquares,
    Restoration,
    admm,
    averagedness,
    conv_net,
    proximal_gradient,
)
from taut.program import UnprovenError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DATA = {
    "fashion-mnist": "Fashion-MNIST",
    "cifar10-jpeg75": "CIFAR-10 (JPEG q75)",
    "fashion-mnist-subset": "Fashion-MNIST, embedded subset",
}
WIDTH, DEPTH, LEVEL, BATCH, SEED = 32, 5, 0.1, 32, 0
LEVELS = (0.05, 0.1, 0.2)  # of the denoising rows
CHOICES, NOISE, STEP = (0.01, 0.02, 0.05, 0.1), 0.02, 1.0  # of restorations
SHOWN = 80  # points of a curve


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    seconds: float = 240.0  # CPU time of a training
    denoised: int = 200
    chosen_on: int = 6  # images of the training split
    images: int = 10  # to restore
    iterations: int = 60
    followed: int = 2  # of the images, with more iterations
    more: int = 1000
    power: int = 30  # power iterations for the constant found


def work(args: argparse.Namespace, record: Record) -> None:
    sizes = Sizes(seconds=args.seconds)
    about = {"width": WIDTH, "depth": DEPTH, "batch": BATCH, "noise": NOISE, "step": STEP}
    record.resume(vars(sizes) | about)
    torch.set_num_threads(1)
    done = [(row["data"], row["net"]) for row in record.content.get("rows", ())]
    images = taut.data.load(args.data, args.data_dir)
    for name in NETS:
        if (args.data, name) not in done:
            path = RUNS / "inverse" / f"{args.data}-{name}-{args.seconds:g}.pt"
            net, steps = kept(path, name, images, sizes.seconds)
            about = {"data": args.data, "net": name, "steps": steps}
            record.add("rows", about | measured(net.eval(), images, sizes))


class DnCNN(nn.Module):
    """Zhang et al. (2017) without batch norm: the net predicts the noise."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        sizes = [channels, *[WIDTH] * (DEPTH - 1), channels]
        layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(sizes)]
        parts = [part for layer in layers for part in (layer, nn.ReLU())]
        self.net = nn.Sequential(*parts[:-1])

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        ratio = (sigma.reshape(-1, 1, 1, 1) if isinstance(sigma, Tensor) else sigma) / LEVEL
        return x - self.net(x / ratio) * ratio


NETS: dict[str, tuple[Callable[[int], nn.Module], float]] = {
    "taut": (lambda channels: Denoiser(conv_net(channels, WIDTH, DEPTH), LEVEL), 2e-2),
    "DnCNN": (DnCNN, 2e-3),
}
"""Each net, and the learning rate at which it starts."""


def kept(path: Path, name: str, images: taut.data.Dataset, seconds: float) -> tuple[nn.Module, int]:
    """A trained net and its steps: from a file, or trained and written to it."""
    assert isinstance(images.train, taut.data.Split)
    torch.manual_seed(SEED)
    make, rate = NETS[name]
    net = make(images.input_shape[0])
    if path.is_file():
        found = torch.load(path)
        net.load_state_dict(found["state"])
        return net, found["steps"]
    steps = train(net, rate, images.train.images, seconds)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state": net.state_dict(), "steps": steps}, path)
    return net, steps


def train(net: nn.Module, rate: float, images: Tensor, seconds: float) -> int:
    """Train for this CPU time of the process; the number of steps."""
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    start, steps = time.process_time(), 0
    while (share := (time.process_time() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * share)) / 2
        clean = taut.data.to_unit_range(images[torch.randint(len(images), (BATCH,))])
        level = 0.02 + 0.23 * torch.rand(BATCH)
        each = level[:, None, None, None]
        wrong = (net(clean + each * torch.randn_like(clean), level) - clean) / each
        optimiser.zero_grad()
        wrong.square().mean().backward()
        optimiser.step()
        steps += 1
    return steps


def measured(net: nn.Module, images: taut.data.Dataset, sizes: Sizes) -> dict[str, Any]:
    """What a trained net does."""
    assert isinstance(images.train, taut.data.Split)
    assert isinstance(images.test, taut.data.Split)
    denoiser = net if isinstance(net, DnCNN) else taut.freeze(net)
    test = images.test.float_images(slice(sizes.denoised))
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in net.parameters())}
    row["averaged"] = proved(denoiser, images.input_shape)
    row["constant found"] = reflected_constant(denoiser, test[: sizes.images], sizes.power)
    row["denoising"] = {str(level): denoised(denoiser, test, level) for level in LEVELS}
    choice = images.train.float_images(slice(sizes.chosen_on))
    for task, how in itertools.product(TASKS, SOLVERS):
        row[f"{task}, {how}"] = restored(denoiser, choice, test[: sizes.images], task, how, sizes)
    return row


def proved(denoiser: nn.Module, shape: tuple[int, ...]) -> float | None:
    try:
        return averagedness(FixedNoise(denoiser, LEVEL), shape)
    except UnprovenError:
        return None


def reflected_constant(denoiser: nn.Module, images: Tensor, iterations: int) -> float:
    """The largest stretch of 2 D - I that power iteration finds at noisy images: from below."""
    x = images + LEVEL * noise_like(images)

    def reflected(x: Tensor) -> Tensor:
        return 2 * denoiser(x, LEVEL) - x

    pull = torch.func.vjp(reflected, x)[1]
    direction, found = noise_like(x), torch.zeros(())
    for _ in range(iterations):
        direction = direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
        (back,) = pull(direction)
        found = back.flatten(1).norm(dim=1).max()
        direction = torch.func.jvp(reflected, (x,), (back,))[1]
    return float(found.detach())


@torch.no_grad()
def denoised(denoiser: nn.Module, images: Tensor, level: float) -> float:
    return psnr(denoiser(images + level * noise_like(images), level), images)


def psnr(images: Tensor, clean: Tensor) -> float:
    """The mean over images, of pixels clipped to [0, 1]."""
    wrong = (images.clamp(0, 1).nan_to_num(0.5) - clean).square().flatten(1).mean(1)
    return float(-10 * wrong.log10().mean())


def noise_like(images: Tensor) -> Tensor:
    return torch.randn(images.shape, generator=torch.Generator().manual_seed(SEED + 1))


def blurred(shape: tuple[int, ...]) -> nn.Module:
    x = torch.arange(-3.0, 4.0)
    line = torch.exp(-x.square() / (2 * 1.2**2))
    return Blur(torch.outer(line, line) / line.sum() ** 2)


def masked(shape: tuple[int, ...]) -> nn.Module:
    random = torch.Generator().manual_seed(SEED)
    return Inpainting(torch.rand(shape[-2:], generator=random) < 0.5)


TASKS = {"deblurring": blurred, "inpainting": masked}
SOLVERS: dict[str, Callable[..., Restoration]] = {
    "proximal gradient": proximal_gradient,
    "ADMM": admm,
}


def restored(
    denoiser: nn.Module, choice: Tensor, images: Tensor, task: str, how: str, sizes: Sizes
) -> dict[str, Any]:
    """The noise level chosen, and what comes of it on other images."""
    physics = TASKS[task](images.shape)
    solve = partial(SOLVERS[how], denoiser, step=STEP, proved=not isinstance(denoiser, DnCNN))

    def run(y: Tensor, sigma: float, iterations: int) -> Restoration:
        return solve(LeastSquares(physics, y), y, sigma=sigma, iterations=iterations)

    y = physics(choice) + NOISE * noise_like(choice)
    tried = {s: psnr(run(y, s, sizes.iterations).image, choice) for s in CHOICES}
    sigma = max(tried, key=lambda sigma: tried[sigma])
    y = physics(images) + NOISE * noise_like(images)
    early, late = run(y, sigma, sizes.iterations), run(y[: sizes.followed], sigma, sizes.more)
    clean, before = images[: sizes.followed], early.image[: sizes.followed]
    residuals = late.residuals
    grew = residuals[1:] > residuals[:-1] + 1e-5  # float32 on images of norm up to 30
    return {
        "sigma": sigma,
        "measured psnr": psnr(y, images),
        "psnr": psnr(early.image, images),
        "change of psnr": psnr(late.image, clean) - psnr(before, clean),
        "residuals that grew": int(grew.sum()),
        "first residual": float(residuals[0].mean()),
        "last residual": float(residuals[-1].mean()),
        "curve": curve(residuals.mean(1)),
        "pictures": {
            "clean": pixels(images[0]), "measured": pixels(y[0]), "restored": pixels(late.image[0])
        },
    }  # fmt: skip


def curve(residuals: Tensor) -> list[tuple[int, float]]:
    """Points of a curve, evenly spaced on a logarithmic axis."""
    last = len(residuals)
    places = sorted({round(last ** (i / (SHOWN - 1))) for i in range(SHOWN)})
    return [(k, float(f"{float(residuals[k - 1]):.4g}")) for k in places]


def pixels(image: Tensor) -> str:
    """Channels last, one byte each, in hexadecimal."""
    return bytes((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).flatten().tolist()).hex()


def picture(text: str) -> Tensor:
    """The square image of `pixels`."""
    values = torch.tensor(list(bytes.fromhex(text)))
    channels = 1 if math.isqrt(len(values)) ** 2 == len(values) else 3
    side = math.isqrt(len(values) // channels)
    return values.reshape(side, side, channels).expand(-1, -1, 3)


def _rows() -> list[dict[str, Any]]:
    return read(RECORDS / "inverse.json").get("rows", [])


def denoising_table() -> str:
    columns = {
        "images": "{images}",
        "denoiser": "{net}",
        "steps": "{steps:,}",
        "proved averaged": "{averaged}",
        "constant of 2D - I, found": "{constant found:.2f}",
    } | {f"PSNR at {level}": f"{{denoising[{level}]:.2f}}" for level in LEVELS}
    rows = (
        row
        | {"images": DATA[row["data"]]}
        | {"averaged": "no" if row["averaged"] is None else f"{row['averaged']:g}"}
        for row in _rows()
    )
    return table(rows, columns)


def restoration_table() -> str:
    columns = {
        "images": "{images}", "task": "{task}", "iteration": "{how}", "denoiser": "{net}",
        "measured": "{measured psnr:.2f}", "restored": "{psnr:.2f}",
        "by 1,000 iterations": "{change of psnr:+.2f}", "last residual": "{last residual:.1e}",
        "residuals that grew": "{residuals that grew:,}",
    }  # fmt: skip
    parts = itertools.product(dict.fromkeys(row["data"] for row in _rows()), TASKS, SOLVERS)
    shown = (
        row[f"{task}, {how}"] | {"images": DATA[data], "task": task, "how": how, "net": row["net"]}
        for data, task, how in parts
        for row in _rows()
        if row["data"] == data
    )
    return table(shown, columns)


TABLES = {"denoising": denoising_table, "restoration": restoration_table}


def inverse() -> "Figure":
    """Measured images, what each denoiser makes of them, and the residuals."""
    first = _rows()[0]["data"]
    rows = {row["net"]: row for row in _rows() if row["data"] == first}
    count = 2 + len(rows)
    widths = (*[1] * count, 2.2)
    figure, axes = panels(2, count + 1, (10.5, 4.4), width_ratios=widths)
    for task in TASKS:
        results = {net: row[f"{task}, proximal gradient"]["pictures"] for net, row in rows.items()}
        shown = next(iter(results.values()))
        pictures = {"clean": shown["clean"], "measured": shown["measured"]}
        pictures |= {net: result["restored"] for net, result in results.items()}
        for name, text in pictures.items():
            place = axes.pop(0)
            place.imshow(picture(text))
            place.set_axis_off()
            place.set_title(name, fontsize=9)
        _curves(axes.pop(0), rows, task)
    return figure


def _curves(place: Any, rows: dict[str, dict[str, Any]], task: str) -> None:
    lines = itertools.product(
        zip(rows, COLOURS, strict=False), zip(SOLVERS, ("-", "--"), strict=True)
    )
    for (net, colour), (how, style) in lines:
        points = rows[net][f"{task}, {how}"]["curve"]
        place.plot(*zip(*points, strict=True), style, color=colour, label=f"{net}, {how}")
    place.set(xscale="log", yscale="log", xlabel="iteration")
    place.set_ylabel("residual", color=GREY)
    place.legend(frameon=False, fontsize=6)
    grid(place, task.capitalize())


EXPERIMENT = Experiment(
    "inverse",
    __doc__,
    work,
    (
        option("data", choices=list(DATA)),
        DATA_DIR,
        option("--seconds", Sizes.seconds, "CPU time of each training"),
    ),
    threads=1,
)

if __name__ == "__main__":
    EXPERIMENT.main()
