"""Wasserstein GANs: a generator against an orthogonal critic, or against WGAN-GP's."""

import csv
import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from experiments.wgan.generators import Generator, sample
from experiments.wgan.heuristics import gradient_penalty, unconstrained
from taut.data import generator as random_of
from taut.files import (
    load_tensors,
    optimiser_state,
    optimiser_tensors,
    save_tensors,
    tensors_under,
    write_atomically,
)
from taut.parametrizations import methods
from taut.wasserstein import after_step, critics, measure_critic

CONFIG, STATE, MODEL, HISTORY, GRIDS = (
    "wgan.json",
    "state.safetensors",
    "generator.safetensors",
    "history.csv",
    "samples",
)
WGAN_GP = "WGAN-GP"
HistoryRow = dict[str, int | float]

_GRID = 8


@final
@dataclass(frozen=True, kw_only=True)
class WGAN:
    """All settings of one adversarial training.

    Args:
        shape: channels, height and width of an image.
        critic: name of a parametrization, for the paper's critic made of it, or "WGAN-GP" for an
            unconstrained one under a gradient penalty.
        steps: of the generator.
        critic_steps: of the critic for each.
        batch_size: images a step.
        lr: of Adam for the generator, with betas 0.5 and 0.999.
        critic_lr: of Adam for the critic. An orthogonal one bears a higher rate than WGAN-GP's,
            for which the founding paper takes 2e-4 on both sides.
        penalty: weight of WGAN-GP's penalty.
        width: channels of the generator before its last convolution.
        critic_width: channels of the critic's first convolution.
        latent: numbers of noise an image.
        every: steps between two checkpoints, each with a row of the history and a grid of samples.
        seed: decides weights, order and noise.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> WGAN(shape=(1, 28, 28)).critic
        'BCOP'
    """

    shape: tuple[int, int, int]
    critic: str = "BCOP"
    steps: int = 2000
    critic_steps: int = 5
    batch_size: int = 64
    lr: float = 1e-3
    critic_lr: float = 5e-3
    penalty: float = 50.0
    width: int = 32
    critic_width: int = 16
    latent: int = 64
    every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.critic not in (*methods(), WGAN_GP):
            names = ", ".join((*methods(), WGAN_GP))
            raise ValueError(f"`critic` must be one of {names}; got {self.critic!r}.")
        counts = "steps", "critic_steps", "batch_size", "width", "critic_width", "latent", "every"
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("lr", "critic_lr", "penalty"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"`{name}` must be a positive number; got {getattr(self, name)}.")
        if self.seed < 0:
            raise ValueError(f"`seed` must be at least 0; got {self.seed}.")

    def build_critic(self) -> nn.Sequential:
        """The critic, drawn from torch's global random generator."""
        if self.critic == WGAN_GP:
            return unconstrained(self.shape, width=self.critic_width)
        return critics.dcgan(self.shape, width=self.critic_width, parametrization=self.critic)

    def build_generator(self) -> Generator:
        """The generator, drawn from torch's global random generator."""
        return Generator(self.shape, latent=self.latent, width=self.width)


@final
@dataclass(frozen=True)
class WGANRun:
    """The folder of an adversarial training.

    Args:
        path: the folder.
        config: its settings.

    Example:
        >>> WGANRun.open("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: nowhere is no folder of a generator: it has no wgan.json.
    """

    path: Path
    config: WGAN

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "WGANRun":
        """The run in a folder.

        Raises:
            FileNotFoundError: if the folder holds none.
            ValueError: if its settings are damaged.
        """
        folder = Path(path)
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(f"{folder} is no folder of a generator: it has no {CONFIG}.")
        try:
            values = json.loads((folder / CONFIG).read_text())
            return cls(folder, WGAN(**values | {"shape": tuple(values["shape"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{folder / CONFIG} is damaged: {error}") from None

    def generator(self) -> Generator:
        """The trained generator, in eval mode.

        Raises:
            FileNotFoundError: if none has been saved yet.
            ValueError: if the file is damaged.
        """
        tensors, _ = load_tensors(self.path / MODEL)
        with torch.random.fork_rng(devices=[]):
            built = self.config.build_generator()
        try:
            built.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{self.path / MODEL} does not fit {CONFIG} ({reason}).") from None
        return built.eval()

    def sample(self, count: int, *, seed: int = 0) -> Float[Tensor, "count c h w"]:
        """New images."""
        return sample(self.generator(), count, random_of("generated", seed))

    def history(self) -> list[HistoryRow]:
        """One row a checkpoint: step, what the critic claims of a batch, and its proved part."""
        path = self.path / HISTORY
        if not path.is_file():
            return []
        rows = csv.DictReader(io.StringIO(path.read_text()))
        return [{k: int(v) if k == "step" else float(v) for k, v in row.items()} for row in rows]


def train_wgan(
    config: WGAN,
    images: Float[Tensor, "n c h w"],
    folder: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, HistoryRow], None] = lambda step, row: None,
) -> WGANRun:
    """Train a generator into a folder, from its last checkpoint if it has one.

    The folder holds the settings, the generator, the state to resume, a row a checkpoint, and grids
    of samples, of the same noise each time. On one device a resumed training is bitwise the one
    that was never stopped.

    Args:
        config: all settings.
        images: real ones, in [0, 1].
        folder: made if it is not there.
        device: where to.
        on_progress: called at each checkpoint with the step and the row of the history.

    Returns:
        The run.

    Raises:
        ValueError: if the images are not of the shape, or the folder holds something else.
        RuntimeError: if a loss is not finite; the last checkpoint is as it was.

    Example:
        >>> import tempfile
        >>> config = WGAN(shape=(1, 8, 8), steps=2, batch_size=4, every=1, width=2, critic_width=2)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     run = train_wgan(config, torch.rand(8, 1, 8, 8), place)
        ...     [row["step"] for row in run.history()]
        [1, 2]
    """
    if tuple(images.shape[1:]) != config.shape or not len(images):
        raise ValueError(
            f"`images` must be of shape (n, {', '.join(map(str, config.shape))}), n >= 1; "
            f"got {tuple(images.shape)}."
        )
    run = _prepare(config, Path(folder))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        trainer = _WGANTrainer(run, images.to(device))
    trainer.train(on_progress)
    return run


def _prepare(config: WGAN, folder: Path) -> WGANRun:
    if (folder / CONFIG).is_file():
        run = WGANRun.open(folder)
        if run.config != config:
            raise ValueError(f"{folder} holds a training of other settings; nothing was changed.")
        return run
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is neither empty nor the folder of a generator.")
    (folder / GRIDS).mkdir(parents=True, exist_ok=True)
    content = json.dumps(asdict(config), indent=2) + "\n"
    write_atomically(folder / CONFIG, content.encode())
    return WGANRun(folder, config)


@final
class _WGANTrainer:
    def __init__(self, run: WGANRun, images: Tensor) -> None:
        self.run, self.config, self.images = run, run.config, images
        self.generator = self.config.build_generator().to(images.device).train()
        self.critic = self.config.build_critic().to(images.device)
        adam = torch.optim.Adam
        self.optimisers: dict[str, Any] = {
            "generator": adam(self.generator.parameters(), self.config.lr, (0.5, 0.999)),
            "critic": adam(self.critic.parameters(), self.config.critic_lr, (0.5, 0.999)),
        }
        self.step, self.rows = 0, run.history()
        if (run.path / STATE).is_file():
            self._load()

    def train(self, tell: Callable[[int, HistoryRow], None]) -> None:
        config = self.config
        while self.step < config.steps:
            random = random_of("wgan", config.seed, self.step)
            claimed = 0.0
            for turn in range(config.critic_steps):
                claimed = self._critic_step(random, self.step * config.critic_steps + turn + 1)
            self._generator_step(random)
            self.step += 1
            if self.step % config.every == 0 or self.step == config.steps:
                row = self._checkpoint(claimed)
                tell(self.step, row)

    def _critic_step(self, random: torch.Generator, step: int) -> float:
        places = torch.randint(len(self.images), (self.config.batch_size,), generator=random)
        real = self.images[places.to(self.images.device)]
        with torch.no_grad():
            fake = self.generator(self._noise(random))
        high, low = self.critic(torch.cat([real, fake])).flatten().split(len(real))
        value = high.mean() - low.mean()
        loss = -value
        if self.config.critic == WGAN_GP:
            between = torch.rand(len(real), generator=random).to(real)
            penalty = gradient_penalty(self.critic, real, fake, between)
            loss = loss + self.config.penalty * penalty
        self._descend("critic", loss)
        after_step(self.critic, step)
        return value.item()

    def _generator_step(self, random: torch.Generator) -> None:
        self._descend("generator", -self.critic(self.generator(self._noise(random))).mean())

    def _noise(self, random: torch.Generator) -> Tensor:
        noise = torch.randn(self.config.batch_size, self.config.latent, generator=random)
        return noise.to(self.images.device)

    def _descend(self, name: str, loss: Tensor) -> None:
        if not bool(loss.isfinite()):
            raise RuntimeError(f"The {name}'s loss is not finite after {self.step} steps.")
        optimiser = self.optimisers[name]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def _checkpoint(self, claimed: float) -> HistoryRow:
        bound = float(measure_critic(self.critic, self.config.shape).bound)
        row = {"step": self.step, "claimed": claimed, "bound": bound, "proved": claimed / bound}
        self.rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        path = self.run.path
        shown = sample(self.generator, _GRID**2, random_of("grid", self.config.seed))
        write_atomically(path / GRIDS / f"{self.step:06}.png", grid(shown))
        # Rows first: a state never speaks of a step whose row could be missing.
        write_atomically(path / HISTORY, text.getvalue().encode())
        save_tensors(path / STATE, self._state(), {"step": str(self.step)})
        save_tensors(path / MODEL, self.generator.state_dict(), {"step": str(self.step)})
        return row

    def _state(self) -> dict[str, Tensor]:
        parts = {"generator": self.generator, "critic": self.critic}
        tensors = {
            f"{name}.{key}": value
            for name, part in parts.items()
            for key, value in part.state_dict().items()
        }
        for name, optimiser in self.optimisers.items():
            tensors |= optimiser_tensors(optimiser, f"adam.{name}.")
        return tensors

    def _load(self) -> None:
        path = self.run.path / STATE
        tensors, metadata = load_tensors(path)
        try:
            for name, part in (("generator", self.generator), ("critic", self.critic)):
                part.load_state_dict(tensors_under(tensors, f"{name}."))
                state = optimiser_state(tensors_under(tensors, f"adam.{name}."))
                optimiser = self.optimisers[name]
                groups = optimiser.state_dict()["param_groups"]
                optimiser.load_state_dict({"state": state, "param_groups": groups})
            self.step = int(metadata["step"])
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} does not fit the settings of its run ({reason}).") from None
        self.rows = [row for row in self.rows if row["step"] <= self.step]


def grid(images: Float[Tensor, "n c h w"]) -> bytes:
    """Images side by side as a PNG, eight a row, one pixel between them.

    Example:
        >>> grid(torch.zeros(3, 1, 4, 4))[1:4]
        b'PNG'
    """
    from PIL import Image

    rows = math.ceil(len(images) / _GRID)
    _, channels, height, width = images.shape
    sheet = torch.ones(rows * (height + 1) - 1, _GRID * (width + 1) - 1, channels)
    for i, image in enumerate(images.detach().cpu().clamp(0, 1)):
        top, left = i // _GRID * (height + 1), i % _GRID * (width + 1)
        sheet[top : top + height, left : left + width] = image.permute(1, 2, 0)
    pixels = (sheet * 255).round().to(torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(buffer, format="PNG")
    return buffer.getvalue()
