"""`taut train RECIPE --dry-run`: what the first steps of a training gave and needed."""

from pathlib import Path

from taut._display import rounded_up
from taut.training import Device, DryRun, Launch, Recipe, dry_run, is_first_process


def show_dry_run(recipe: Recipe, data_dir: Path | None, device: Device, launch: Launch) -> None:
    """Take two steps and print what they needed."""
    tried = dry_run(recipe, data_dir=data_dir, device=device, launch=launch)
    if is_first_process():
        print("\n".join(f"{name:<14}{value}" for name, value in _rows(recipe, tried).items()))
        print("Nothing was written.")


def _rows(recipe: Recipe, tried: DryRun) -> dict[str, str]:
    train, test = tried.images
    shape = "x".join(map(str, recipe.input_shape))
    steps = tried.steps_per_epoch * recipe.epochs
    duration = _duration(steps * tried.seconds[-1])
    losses = ", ".join(f"{loss:.5g}" for loss in tried.losses)
    memory = "unknown" if tried.memory is None else f"{tried.memory / 2**30:.2f} GiB at most"
    return {
        "data": f"{tried.data}, {train:,} + {test:,} images of {shape}, {recipe.classes} classes",
        "device": tried.device,
        "parameters": f"{tried.parameters:,}",
        "loss": f"{losses}, of {len(tried.losses)} steps of {recipe.batch_size} images",
        "seconds": ", ".join(f"{second:.3g}" for second in tried.seconds),
        "memory": memory,
        "bound": f"{rounded_up(tried.bound, 6)}, proven in {tried.bound_seconds:.2g} s",
        "training": f"{recipe.epochs} epochs, {steps:,} steps: {duration} at the pace "
        "of the last step, without certifying",
    }


def _duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> _duration(90.0), _duration(7200.0)
    ('90 seconds', '2.0 hours')
    """
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
