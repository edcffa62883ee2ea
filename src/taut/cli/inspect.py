"""`taut inspect`."""

from collections.abc import Sequence

from taut.cli.shared import Device, RunFolder, open_run, show_table
from taut.report import LayerInspection, inspect_layers, save_inspection

_BLOCKS = " ▁▂▃▄▅▆▇█"


def inspect(run: RunFolder, *, limit: int = 200, device: Device = "auto") -> None:
    """Show the singular values of every layer and the gradient norm by depth.

    Writes inspection.png into the run folder. The gradient norm is that of the margin at a layer's
    input over that at the logits: 1 where the layers above lose nothing.

    Example: taut inspect runs/demo

    Args:
        run: the run folder.
        limit: take gradients on the first so many test images.
        device: auto takes a GPU if there is one.
    """
    opened = open_run(run, device)
    layers = inspect_layers(opened.model, *opened.head(limit))
    names = ("layer", "input", "smallest", "largest", "values 0 to 1.2", "gradient")
    show_table(
        f"{opened.run.recipe.name}: singular values, gradient norm",
        names,
        [_row(x) for x in layers],
    )
    target = save_inspection(opened.run.path / "inspection.png", layers)
    print(f"Wrote {target}")


def _row(layer: LayerInspection) -> tuple[str, ...]:
    shape = "x".join(map(str, layer.input_shape))
    gradient = f"{layer.gradient_norm:.4f}"
    if layer.spectrum is None:
        return (layer.name, shape, "-", "-", "", gradient)
    low, high = float(layer.spectrum.min()), float(layer.spectrum.max())
    bars = text_histogram(layer.histogram())
    return (layer.name, shape, f"{low:.7f}", f"{high:.7f}", bars, gradient)


def text_histogram(counts: Sequence[int]) -> str:
    """Draw counts as a row of blocks; what is not zero shows.

    Example:
        >>> text_histogram([0, 1, 100])
        ' ▁█'
    """
    most = max(counts, default=0)
    return "".join(_BLOCKS[-(-8 * count // most)] if count else " " for count in counts)
