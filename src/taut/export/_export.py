"""Models written to files that need no taut, and read back to be proven again."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from taut._sharding import gathers
from taut.export._files import FileModel
from taut.export._freeze import freeze
from taut.export._naming import renamed
from taut.export._sizes import with_taps
from taut.files import write_atomically
from taut.kinds import did_you_mean
from taut.nn import AbstractParametrizedLayer, SpectralConv
from taut.program import Program, ProgramModule, UnprovenError, fixed_size, trace

__all__ = ["SUFFIXES", "Exported", "export", "load"]


class Exported(NamedTuple):
    """A model read from a file.

    Attributes:
        model: a `taut.program.ProgramModule`, made from what the file holds alone.
        input_shape: of one input.

    Example:
        >>> Exported(nn.ReLU(), (3,)).input_shape
        (3,)
    """

    model: nn.Module
    input_shape: tuple[int, ...]


@gathers
def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    input_shape: tuple[int, ...],
    *,
    any_size: bool = False,
) -> Exported:
    """Export a model to a file that runs without taut; the suffix selects the format.

    `.onnx`: standard operators, for onnxruntime and others. `.pt2`: a program of torch.export, for
    `torch.export.load`. `.safetensors`: its tensors, with a `.py` file beside them that holds the
    model as a class of plain torch. The batch is of any size in all three. What was written is read
    back and compared, operation by operation and tensor by tensor, before this returns.

    Convolutions in the frequency domain are written as circular ones with a kernel of the size of
    their input: the same function to rounding, of more products; for small images.

    Args:
        model: from :func:`taut.freeze`, or any other of known operations, in eval mode.
        path: the file; its folder exists.
        input_shape: of one input, without the batch.
        any_size: leave rows and columns of the images open, too; for models that end in a global
            pooling or in an image. (A certificate is of one size all the same.)

    Returns:
        The model as the file has it: certify that one.

    Raises:
        ValueError: if an operation cannot be written, or the ending is unknown.
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
    try:
        settled = _of_any_size(model) if any_size else with_taps(model, tuple(input_shape))
        program = renamed(trace(settled, input_shape, through=True))
    except UnprovenError as error:
        raise ValueError(f"`model` cannot be exported: {error}") from error
    if not program.nodes:
        raise ValueError("`model` must hold layers, and return what the last one computes.")
    program = replace(program, tensors={name: t.cpu() for name, t in program.tensors.items()})
    if any_size:
        _check_sizes(settled, program)
    write(program, path, any_size)
    written = read(path, tuple(input_shape))
    _compare(program, written.program)
    return Exported(written, tuple(input_shape))


def _of_any_size(model: nn.Module) -> nn.Module:
    """The model with plain layers: the others pad by numbers that they compute from the size."""
    own = [m for m in model.modules() if isinstance(m, AbstractParametrizedLayer)]
    if any(m.fills_input for m in own) or any(isinstance(m, SpectralConv) for m in model.modules()):
        raise ValueError(
            "`any_size` must be False: the model has kernels of the size of their input."
        )
    return freeze(model) if own else model


def _check_sizes(model: nn.Module, program: Program) -> None:
    """Refuse a model whose numbers depend on the size of the image, as a file holds those of one.

    What cannot run at another size is refused by the writers.
    """
    channels, *size = program.input_shape
    like = next(iter(program.tensors.values()), torch.zeros((), device="cpu"))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, channels, *(2 * n for n in size), generator=generator, device="cpu")
    x = x.to(like.device, like.dtype if like.is_floating_point() else torch.float32)
    try:
        with torch.no_grad():
            held, expected = ProgramModule(program)(x), model(x)
    except (RuntimeError, ValueError):
        return
    same = held.shape == expected.shape
    if not (same and torch.allclose(held, expected, 1e-3, 1e-4 * float(expected.abs().max()))):
        raise ValueError(
            "`any_size` must be False: the model computes numbers from the size of the image, such "
            "as the factor of a pool, and a file holds those of one size."
        )


def load(path: str | os.PathLike[str], input_shape: tuple[int, ...] | None = None) -> Exported:
    """Load an exported model from its file; no code in the file is executed or unpickled.

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
    model = read(path, input_shape)
    return Exported(model, model.input_shape)


Write = Callable[[Program, Path, bool], None]
Read = Callable[[Path, tuple[int, ...] | None], ProgramModule]


def _format(path: Path) -> tuple[Write, Read]:
    if path.suffix not in SUFFIXES:
        hint = did_you_mean(path.suffix, SUFFIXES)
        if path.suffix in (".pt", ".pth") and path.is_file():
            hint = " Weights alone are no model: make it in a Python file, and load them there."
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}.{hint}")
    return SUFFIXES[path.suffix]


def _compare(program: Program, written: Program) -> None:
    """Refuse a file whose operations, tensors or numbers are others than those of the model."""
    program, written = fixed_size(program), fixed_size(written)
    number, other = ({n.name: i for i, n in enumerate(p.nodes)} for p in (program, written))
    same = len(program.nodes) == len(written.nodes)
    for a, b in zip(program.nodes, written.nodes, strict=False):
        same = same and (a.op, a.shape) == (b.op, b.shape) and _alike(a.args, b.args)
        same = same and [number.get(i) for i in a.inputs] == [other.get(i) for i in b.inputs]
        same = (
            same
            and a.tensors.keys() == b.tensors.keys()
            and all(
                _alike(program.tensors[a.tensors[role]], written.tensors[b.tensors[role]])
                for role in a.tensors
            )
        )
        if not same:
            raise ValueError(
                f"The written file differs from `model` in `{a.name}` ({a.op}) than `model`."
            )
    if not same or number.get(program.output) != other.get(written.output):
        raise ValueError("The written file does not compute the same function as `model`.")


def _alike(a: Any, b: Any) -> bool:
    """Equal, numbers to the precision of float32, which files hold them in."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, float):
        return a == b or bool(np.float32(a) == np.float32(b))
    return a == b


def _write_onnx(program: Program, path: Path, any_size: bool) -> None:
    from taut.export._onnx import onnx_of

    model = onnx_of(program, any_size=any_size)
    write_atomically(path, model.SerializeToString(deterministic=True))


def _read_onnx(path: Path, input_shape: tuple[int, ...] | None) -> ProgramModule:
    from taut.export._onnx_file import model_of_onnx

    return _recorded(path, *model_of_onnx(path, input_shape))


def _write_torch(program: Program, path: Path, any_size: bool) -> None:
    from taut.export._torch_file import save_torch

    save_torch(program, path, any_size=any_size)


def _read_torch(path: Path, input_shape: tuple[int, ...] | None) -> ProgramModule:
    from taut.export._torch_file import model_of_torch

    return _recorded(path, *model_of_torch(path, input_shape))


def _recorded(path: Path, model: FileModel, input_shape: tuple[int, ...]) -> ProgramModule:
    """The program of a model that a file holds: reading it is recording it."""
    try:
        return ProgramModule(renamed(trace(model, input_shape)), any_size=model.any_size)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, MemoryError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} cannot be read as a model: {reason}.") from None


def _write_plain(program: Program, path: Path, any_size: bool) -> None:
    from taut.export._plain_file import save_plain

    save_plain(program, path)


def _read_plain(path: Path, input_shape: tuple[int, ...] | None) -> ProgramModule:
    from taut.export._plain_file import program_of_tensors

    return ProgramModule(program_of_tensors(path, input_shape))


SUFFIXES: dict[str, tuple[Write, Read]] = {
    ".onnx": (_write_onnx, _read_onnx),
    ".pt2": (_write_torch, _read_torch),
    ".safetensors": (_write_plain, _read_plain),
}
