"""Models written to files that need no taut, and read back to be proven again."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from taut.deploy.describe import plan_of
from taut.deploy.plan import PlainModel, Plan
from taut.files import write_atomically

__all__ = ["SUFFIXES", "Exported", "export", "load"]


class Exported(NamedTuple):
    """A model that was read from a file.

    Attributes:
        model: of plain modules, made from what the file holds alone.
        input_shape: of one input.

    Example:
        >>> Exported(nn.ReLU(), (3,)).input_shape
        (3,)
    """

    model: nn.Module
    input_shape: tuple[int, ...]


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    input_shape: tuple[int, ...],
    *,
    any_size: bool = False,
) -> Exported:
    """Write a model to a file that runs without taut; the ending of the name says which.

    `.onnx`: standard operators, for onnxruntime and others. `.pt2`: a program of torch.export, for
    `torch.export.load`. `.safetensors`: its tensors, with a `.py` file beside them that holds the
    model as a class of plain torch. The batch is of any size in all three. What was written is read
    back and compared with the model before this returns.

    Args:
        model: from :func:`taut.freeze`, or any other of plain layers, in eval mode.
        path: the file; its folder exists.
        input_shape: of one input, without the batch.
        any_size: leave rows and columns of the images open, too; for models that end in a global
            pooling or in an image. (A certificate is of one size all the same.)

    Returns:
        The model as the file has it: certify that one.

    Raises:
        ValueError: if a layer cannot be written, or the ending is unknown.
        ImportError: for ONNX, if the extra is not installed.

    Example:
        >>> import tempfile
        >>> model = taut.freeze(nn.Sequential(nn.Flatten(), taut.nn.Linear(4, 2))).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = export(model, Path(folder, "model.safetensors"), (1, 2, 2))
        >>> float(taut.lipschitz_bound(*exported)) < 1 + 1e-6
        True
    """
    path = Path(path)
    write, read = _format(path)
    if any_size and len(input_shape) != 3:
        raise ValueError(f"`any_size` is for images, (channels, rows, columns); got {input_shape}.")
    plan = plan_of(model, input_shape)
    write(plan, path, any_size)
    found = read(path, tuple(input_shape))
    exported = PlainModel(found)
    _compare(model, exported, plan)
    return Exported(exported, tuple(input_shape))


def load(path: str | os.PathLike[str], input_shape: tuple[int, ...] | None = None) -> Exported:
    """Read an exported model back, from its file alone; nothing in the file is run or unpickled.

    Args:
        path: a file that :func:`export` wrote, or another of the same operators.
        input_shape: of one input, if another than the file says or if it says none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is damaged or holds anything that is not understood.

    Example:
        >>> load("nowhere.onnx")
        Traceback (most recent call last):
        FileNotFoundError: There is no file nowhere.onnx.
    """
    path = Path(path)
    _, read = _format(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    plan = read(path, input_shape)
    try:
        return Exported(PlainModel(plan), plan.input_shape)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a model: {error}") from None


Write = Callable[[Plan, Path, bool], None]
Read = Callable[[Path, tuple[int, ...] | None], Plan]


def _format(path: Path) -> tuple[Write, Read]:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"`path` must end in {', '.join(SUFFIXES)}; got {path}.")
    return SUFFIXES[path.suffix]


def _compare(model: nn.Module, exported: nn.Module, plan: Plan) -> None:
    """Refuse a file that computes something else than the model."""
    dtype = next((tensor.dtype for tensor in plan.tensors.values()), torch.float32)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, *plan.input_shape, generator=generator, dtype=dtype)
    device = next((p.device for p in model.parameters()), x.device)
    with torch.no_grad():
        expected, found = model(x.to(device)).cpu(), exported(x)
    scale = expected.abs().max().item() + 1e-30
    tolerance = 1e4 * torch.finfo(dtype).eps
    if expected.shape != found.shape or not (expected - found).abs().max() <= tolerance * scale:
        raise ValueError("The file that was written computes something else than `model`.")


def _write_onnx(plan: Plan, path: Path, any_size: bool) -> None:
    from taut.deploy.to_onnx import onnx_of

    write_atomically(path, onnx_of(plan, any_size=any_size).SerializeToString(deterministic=True))


def _read_onnx(path: Path, input_shape: tuple[int, ...] | None) -> Plan:
    from taut.deploy.from_onnx import plan_of_onnx

    return plan_of_onnx(path, input_shape)


def _write_program(plan: Plan, path: Path, any_size: bool) -> None:
    import io

    from taut.deploy.to_torch import program_of

    buffer = io.BytesIO()
    shape = {"input_shape": ",".join(map(str, plan.input_shape))}
    torch.export.save(program_of(plan, any_size=any_size), buffer, extra_files=shape)
    write_atomically(path, buffer.getvalue())


def _read_program(path: Path, input_shape: tuple[int, ...] | None) -> Plan:
    from taut.deploy.from_torch import plan_of_program

    return plan_of_program(path, input_shape)


def _write_plain(plan: Plan, path: Path, any_size: bool) -> None:
    from taut.deploy.plain import save_plain

    save_plain(plan, path)


def _read_plain(path: Path, input_shape: tuple[int, ...] | None) -> Plan:
    from taut.deploy.plain import plan_of_tensors

    return plan_of_tensors(path, input_shape)


SUFFIXES: dict[str, tuple[Write, Read]] = {
    ".onnx": (_write_onnx, _read_onnx),
    ".pt2": (_write_program, _read_program),
    ".safetensors": (_write_plain, _read_plain),
}
