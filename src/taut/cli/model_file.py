"""A model that a function in a Python file makes, with weights from a file."""

import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from taut._zoo import PREFIX, is_zoo_name, located, manifest
from taut.certification import Arithmetic, Certification, as_rational, certify
from taut.cli.shared import OptionalFolder, OptionalShape, OptionalText, plural, shape_of
from taut.data import load_test
from taut.export import SUFFIXES
from taut.export import load as load_exported
from taut.files import load_state, load_tensors, rounded_tensors, tensors_under
from taut.kinds import did_you_mean, load_object, nearest_name, one_sentence
from taut.training import RECIPE, Device, OpenedRun, check_limit, choose_device

_WEIGHTS = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class ModelFile:
    """Any torch model, in place of a run.

    Args:
        model: FILE.py:FUNCTION that returns the model; the file is executed.
        weights: its state_dict, as .safetensors, .pt or .pth; the model takes the precision of the
            file if its own is lower.
        input_shape: shape of one input, such as 3,32,32.
        data: npz file with test images; without it, certify and export prove only the bound, and
            inspect uses uniform noise in [0, 1].
    """

    model: OptionalText = None
    weights: OptionalFolder = None
    input_shape: OptionalShape = None
    data: OptionalFolder = None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of one input, if it is given."""
        if self.input_shape is None:
            return None
        return shape_of(self.input_shape)

    def load(self) -> tuple[nn.Module, tuple[int, ...]]:
        """The model in eval mode, and the shape of one input."""
        if self.model is None or self.shape is None:
            raise ValueError("`model` needs `input_shape`, such as 3,32,32.")
        return _load_model(self.model, self.weights), self.shape

    def open(self, device: torch.device) -> "OpenedFile":
        """The model with its test images, which are needed."""
        model, shape = self.load()
        if self.data is None or self.model is None:
            raise ValueError("`model` needs `data` here, an npz file with test images.")
        return opened_file(self.model, model, shape, self.data, device)

    def load_exported(self, file: Path) -> tuple[nn.Module, tuple[int, ...]]:
        """The model of a file that `taut export` wrote, and the shape of one input."""
        if self.weights is not None:
            raise ValueError("An exported file has its own weights; leave out --weights.")
        return load_exported(file, self.shape)

    def refuse_beside_run(self) -> None:
        """Refuse options of a model in a file where a run folder is given."""
        if self != NO_FILE:
            raise ValueError(
                "A run folder has its own model and data; leave out the options of files."
            )


NO_FILE = ModelFile()


@dataclass(frozen=True, eq=False)
class OpenedFile:
    """A model of a file with its test images on one device; `OpenedRun` is that of a run.

    Args:
        name: of the model.
        model: in eval mode.
        test: test images.
        labels: theirs.
        data: the file of the images.
    """

    name: str
    model: nn.Module
    test: Tensor
    labels: Tensor
    data: Path

    def radii(self, eps: Sequence[str] = ()) -> tuple[str, ...]:
        """The radii asked for, or those of the literature, in rising order."""
        return radii_of(eps)

    def head(self, limit: int) -> tuple[Tensor, Tensor]:
        """The first `limit` test images and their labels."""
        check_limit(limit)
        return self.test[:limit], self.labels[:limit]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(self.test.shape[1:])

    def certify(
        self,
        eps: Sequence[str],
        arithmetic: Arithmetic = "float64",
        model: nn.Module | None = None,
    ) -> Certification:
        """Certify the model, or another one, on all test images."""
        model = model or self.model
        return certify(model, self.test, self.labels, eps, arithmetic=arithmetic)

    def title(self, count: int | None = None) -> str:
        """The file of the images and how many, all by default."""
        count = len(self.test) if count is None else count
        return f"{self.data.name}, {plural(count, 'test image')}"


def opened_file(
    name: str, model: nn.Module, shape: tuple[int, ...], data: Path, device: torch.device
) -> OpenedFile:
    """A model and the test images of an npz file, in its precision."""
    images, labels = load_test("npz", data, shape=shape)
    if images.shape[1:] != shape:
        given, got = (",".join(map(str, size)) for size in (shape, images.shape[1:]))
        raise ValueError(
            f"`input_shape` must be that of the images in {data}; it is {given}, they are {got}."
        )
    kinds = [p.dtype for p in model.parameters() if p.is_floating_point()] or [torch.float32]
    images = images.to(device, kinds[0])
    return OpenedFile(name, model.to(device), images, labels.to(device), data)


def open_model(
    run: Path | None,
    plain: ModelFile,
    device: Device,
    data_dir: Path | None,
    *,
    files: bool = False,
) -> OpenedRun | OpenedFile:
    """A run, or a model in a file with test images; with `files` also an exported file."""
    name, run = str(run), run if run is None or not files else located(run)
    check_source(run, plain, files=files)
    if run is not None and run.is_dir():
        return OpenedRun.open(run, device=device, data_dir=data_dir)
    if data_dir is not None:
        raise ValueError("`data_dir` is for a run folder; give test images with --data.")
    if run is not None:
        model, shape = plain.load_exported(run)
        if plain.data is None:
            raise ValueError(f"{name} needs `data`, an npz file with test images.")
        return opened_file(name, model, shape, plain.data, choose_device(device))
    return plain.open(choose_device(device))


def open_run(folder: Path, device: Device, data_dir: Path | None) -> OpenedRun:
    """A run, or an error that says what else was given."""
    check_run(folder)
    return OpenedRun.open(folder, device=device, data_dir=data_dir)


def check_source(run: Path | None, plain: ModelFile, *, files: bool = False) -> None:
    """Refuse what is neither a run folder, or exported file if allowed, nor --model, or both."""
    file = ", an exported file" if files else ""
    sources = f"a run folder{file}, or a model with --model FILE.py:FUNCTION"
    if run is None and plain.model is None:
        raise ValueError(f"Give {sources}.")
    if run is not None and plain.model is not None:
        raise ValueError(f"Give {run} or `model`, not both.")
    if run is not None:
        check_run(run, sources, files=files)
        if run.is_dir():
            plain.refuse_beside_run()


def check_run(run: Path, sources: str = "a run folder", *, files: bool = False) -> None:
    """Refuse what is no run folder, and say what to give instead."""
    if is_zoo_name(run):
        raise ValueError(
            f"{run} is a model of the zoo, which `taut certify` and `taut predict` take; give "
            f"{sources}."
        )
    if not run.exists():
        what = "run folder or file" if files else "run folder"
        raise FileNotFoundError(f"There is no {what} {run}.{_near(run, zoo=files)}")
    if run.is_file() and not files:
        raise ValueError(
            f"{run} is a file; give {sources}. `taut certify` and `taut predict` take exported "
            "files, too."
        )
    if run.is_dir() and not (run / RECIPE).is_file():
        exported = [str(file) for file in sorted(run.iterdir()) if file.suffix in SUFFIXES]
        hint = f" It holds {', '.join(exported)}: give that." if files and exported else ""
        raise FileNotFoundError(f"{run} is not a run folder: it has no {RECIPE}.{hint}")


def _near(path: Path, *, zoo: bool) -> str:
    """A question with the file, folder or model of the zoo that is most like a misspelt one."""
    folders = [folder for folder in (Path("runs"), path.parent) if folder.is_dir()]
    sources = {name: f"{PREFIX}{name}" for name in manifest()} if zoo else {}
    sources |= {one.name: str(one) for folder in folders for one in sorted(folder.iterdir())}
    near = nearest_name(path.name, sources)
    return "" if near is None else f" Did you mean {sources[near]}?"


def radii_of(eps: Sequence[str]) -> tuple[str, ...]:
    """The radii asked for, or those of the literature, in rising order."""
    return tuple(sorted(eps or ("36/255", "72/255", "108/255"), key=as_rational))


def _load_model(source: str, weights: Path | None) -> nn.Module:
    make = load_object(source)
    file = Path(source.rpartition(":")[0])
    if not callable(make):
        raise ValueError(f"{source} must be a function that returns a torch.nn.Module.")
    with one_sentence(file):
        model = make()
    if not isinstance(model, nn.Module):
        raise ValueError(f"{source} must return a torch.nn.Module; got {type(model).__name__}.")
    if weights is not None:
        state = _unwrapped(_read_state(weights), model)
        _take_precision(model, state, weights)
        load_state(model, state, weights)
    return model.eval()


def _unwrapped(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state without the prefixes that DistributedDataParallel and torch.compile add."""
    for prefix in ("module.", "_orig_mod."):
        names = {*model.state_dict()}
        if state and not names & {*state} and all(name.startswith(prefix) for name in state):
            state = tensors_under(state, prefix)
    return state


def _take_precision(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Give a model the precision of its weights, if its own would round them."""
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(dtypes) == 1 and rounded_tensors(model, state):
        model.to(dtype=dtypes.pop())
    if rounded := rounded_tensors(model, state):
        name, own = rounded[0], model.state_dict()
        raise ValueError(
            f"{path} does not fit the model, which would round {name}, {state[name].dtype}, to "
            f"{own[name].dtype}."
        )


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.suffix not in _WEIGHTS and not zipfile.is_zipfile(path):
        hint = did_you_mean(path.suffix, _WEIGHTS)
        raise ValueError(f"`weights` must end in {', '.join(_WEIGHTS)}; got {path}.{hint}")
    if path.suffix == ".safetensors":
        return load_tensors(path)[0]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} is damaged, or holds more than tensors ({reason}).") from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        parts = state if isinstance(state, dict) else {}
        inner = [name for name, value in parts.items() if isinstance(value, dict) and value]
        hint = f" Save its {inner[0]!r} alone, if that is one." if inner else ""
        got = ", ".join(map(str, [*parts][:3])) or type(state).__name__
        raise ValueError(f"{path} must hold a state_dict, tensors by name; got {got}.{hint}")
    return state
