"""`taut train`."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from taut.cli.dry_run import show_dry_run
from taut.cli.model_file import check_run
from taut.cli.parsing import Parser, one_shape
from taut.cli.progress import accuracies, show_training
from taut.cli.recipe_file import first_recipe, write_recipe
from taut.cli.shared import OptionalFolder, OptionalNumber, shape_of
from taut.data import Augment, Holdout
from taut.kinds import construct, did_you_mean
from taut.recipes import CLAIMS, RECIPES
from taut.training import (
    CHOICES,
    Device,
    Launch,
    OtherProcessFailed,
    Recipe,
    Run,
    TrainingDiverged,
    TrainingInterrupted,
    is_first_process,
    read_recipe,
    train,
)

_DESCRIPTION = """Train a recipe into a run folder, or continue a stopped run.

    taut train RECIPE [options]     train; all options: taut train RECIPE --help
    taut train RECIPE --dry-run     take two steps, and print time and memory
    taut train --resume RUN         continue RUN with its own settings
    taut train --init FILE.json     write a recipe to edit: taut train --init mine.json --help

RECIPE is a name from `taut list`, or a JSON file like recipe.json of a run folder.

Several GPUs: taut train RECIPE --devices 4, or torchrun --nproc-per-node=4 -m -- taut train RECIPE.

Example: taut train mnist-small --data-dir data/mnist --epochs 10 --run runs/short"""

_INIT_DESCRIPTION = """Write a recipe to edit: {name}.

The shape of the images and the number of classes come from the data: a folder of images by class,
an npz file, or a data set that --dataset names. All other options are written as given.

Example: taut train --init mine.json --data-dir photos --holdout 0.2 --augment crop=4,flip

Example: taut train --init mine.json --data-dir set.npz --model my_net.py:make --epochs 30"""

_RECIPE_DESCRIPTION = """Train a recipe into a run folder: {name}, with these changes.

{claim}

--model, --loss, --schedule and --parametrization take a name of `taut list`, or a class of your
own as FILE.py:CLASS; --model also a function that returns a torch.nn.Module. The file is executed,
and copied into the run folder, where later commands execute it again: it must not need other files.
Options of a chosen class follow its flag, as --loss.eps-train does.

Example: taut train {name} --epochs 2 --run runs/short

Example: taut train {name} --model my_net.py:make --loss my_loss.py:MyLoss"""


_CLASS = "NAME|FILE.py:CLASS"
_Class = Annotated[str, tyro.conf.arg(metavar=_CLASS)]


@dataclass(frozen=True, kw_only=True)
class _Machine:
    data_dir: OptionalFolder = None
    """the folder with the original files of the data set; not needed for embedded data."""

    device: Device = "auto"
    """auto uses a GPU if there is one."""

    devices: int = 1
    """processes on this machine, one per device; they share each batch. torchrun sets it."""

    nodes: int = 1
    """number of machines; start the same command on each."""

    workers: OptionalNumber = None
    """stream images from disk, with this many decoding processes; by default they are in memory."""

    share_weights: bool = False
    """compute each weight in one process, and send it to the other processes."""


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]

    # Read by `_chosen` before the others, which depend on them; here for the help.
    model: _Class
    """the architecture."""

    loss: _Class
    """the training loss."""

    schedule: _Class
    """how the learning rate and Adam's beta1 change over the run."""


@dataclass(frozen=True, kw_only=True)
class _New(_Machine, _Chosen):
    run: OptionalFolder = None
    """the run folder; by default runs/NAME-seedN. A run with the same settings is continued."""

    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """take two steps, print their loss, time and memory, and write nothing."""


@dataclass(frozen=True, kw_only=True)
class _Init(_Chosen):
    data_dir: OptionalFolder = None
    """the images: a folder by class, an npz file, or the files of a data set."""


@dataclass(frozen=True, kw_only=True)
class _Resumed(_Machine):
    resume: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """the run folder to continue; add --data-dir if its data set has moved."""


def main(arguments: list[str]) -> None:
    """Parse and train: the options are the fields of the recipe, with its values as defaults."""
    if not arguments:
        raise ValueError(
            "`taut train` needs a recipe, or --resume RUN; see `taut list` and `taut train --help`."
        )
    arguments = one_shape(arguments)
    if arguments[0] == "--init":
        _init(arguments[1:])
        return
    if arguments[0].startswith("-"):
        parser = Parser(_Resumed, "taut train", description=_DESCRIPTION)
        options = parser.parse(arguments)
        check_run(options.resume)
        recipe, folder = Run.open(options.resume).recipe, options.resume
    else:
        recipe, rest = _chosen(find_recipe(arguments[0]), arguments[1:])
        claim = CLAIMS.get(arguments[0], "A recipe of your own.")
        description = _RECIPE_DESCRIPTION.format(name=arguments[0], claim=claim)
        parser = _recipe_parser(_New, recipe, f"taut train {arguments[0]}", description)
        options = parser.parse(rest)
        recipe = options.recipe
        folder = options.run or Path("runs", f"{recipe.name}-seed{recipe.seed}")
        if options.dry_run:
            with parser.naming_flags():
                show_dry_run(recipe, options.data_dir, options.device, _launch(options))
            return
    with parser.naming_flags():
        _train(recipe, folder, options)


def _init(arguments: list[str]) -> None:
    """Write a recipe instead of training one."""
    if not arguments or arguments[0].startswith("-"):
        raise ValueError("`--init` needs the name of a new file, such as mine.json.")
    path, rest = Path(arguments[0]), arguments[1:]
    helped = {"-h", "--help"} & {*rest}
    try:
        recipe = first_recipe(path, ["--dataset", "folder"] if helped else rest)
    except ValueError as error:
        raise ValueError(str(error).replace("`dataset`", "`--dataset`")) from None
    recipe, rest = _chosen(recipe, rest)
    description = _INIT_DESCRIPTION.format(name=path)
    parser = _recipe_parser(_Init, recipe, f"taut train --init {path}", description)
    options = parser.parse(rest)
    shaped = any(word.replace("_", "-").startswith("--input-shape") for word in rest)
    if any(word.partition("=")[0] == "--classes" for word in rest):
        raise ValueError("`--classes` comes from the data; leave it out.")
    with parser.naming_flags():
        write_recipe(path, options.recipe, options.data_dir, shaped=shaped)


def _recipe_parser(target: type, recipe: Recipe, prog: str, description: str) -> Parser:
    """A parser whose options are the fields of a recipe, with its values as defaults."""
    return Parser(
        target,
        prog,
        description=description,
        default=target(recipe=recipe, **_kinds(recipe)),
        config=(tyro.conf.AvoidSubcommands,),
        registry=_registry(),
    )


def _chosen(recipe: Recipe, arguments: list[str]) -> tuple[Recipe, list[str]]:
    """The recipe with the classes that --model, --loss, ... name, and the other arguments."""
    rest, words, before = [], iter(arguments), recipe
    for word in words:
        flag, equals, kind = word.partition("=")
        name = flag.removeprefix("--")
        if not flag.startswith("--") or name not in CHOICES:
            rest.append(word)
            continue
        kind = kind if equals else next(words, "")
        if not kind or kind.startswith("-"):
            raise ValueError(f"`{flag}` needs a value; see `taut list`.")
        try:
            cls, settings = CHOICES[name].find(kind), CHOICES[name].settings(kind)
        except ValueError as error:
            raise ValueError(str(error).replace(f"`{name}`", f"`{flag}`")) from None
        if not CHOICES[name].instance:
            recipe = replace(recipe, **{name: cls})
        elif settings or type(vars(recipe)[name]) is not cls:
            recipe = replace(recipe, **{name: construct(cls, settings, settings)})
    asked = any(word.partition("=")[0] == "--parametrization" for word in arguments)
    if not asked and before.parametrization is before.model.method:
        recipe = replace(recipe, parametrization=recipe.model.method)
    return recipe, rest


def _kinds(recipe: Recipe) -> dict[str, Any]:
    """What the help shows as the default of --model, --loss and --schedule."""
    return {
        name: choice.kind_of(type(vars(recipe)[name]))
        for name, choice in CHOICES.items()
        if choice.instance
    }


def _registry() -> ConstructorRegistry:
    """How tyro shows and reads what is no plain value."""
    methods = CHOICES["parametrization"]
    rules = (
        _word(lambda kind: get_origin(kind) is type, _CLASS, type, methods.find, methods.kind_of),
        _word(
            lambda kind: get_origin(kind) is tuple and get_args(kind) == (int, int, int),
            "N,N,N", tuple, _image_shape, lambda value: ",".join(map(str, value)),
        ),
        _word(
            lambda kind: kind == Holdout | None, "FRACTION", Holdout | None,
            lambda word: None if word == "none" else Holdout(float(word)),
            lambda value: "none" if value is None else str(value.fraction),
        ),
        _word(
            lambda kind: kind == Augment | None, "{none|crop=N,flip,...}", Augment | None,
            _augment, _augment_text,
        ),
    )  # fmt: skip
    registry = ConstructorRegistry()
    for rule in rules:
        registry.primitive_rule(rule)
    return registry


def _word(
    fits: Callable[[Any], bool], metavar: str, values: Any, read: Callable[[str], Any],
    text: Callable[[Any], str],
) -> Callable[[PrimitiveTypeInfo], PrimitiveConstructorSpec | None]:  # fmt: skip
    """The rule of a type whose values are one word."""

    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if not fits(info.type):
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda words: read(words[0]),
            is_instance=lambda value: isinstance(value, values),
            str_from_instance=lambda value: [text(value)],
        )

    return rule


def _image_shape(text: str) -> tuple[int, ...]:
    shape = shape_of(text)
    if len(shape) != 3:
        raise ValueError(
            f"`input_shape` must be channels, height and width, such as 3,32,32; got {text!r}."
        )
    return shape


_AUGMENT: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "crop": ("crop_padding", int),
    "flip": ("flip", bool),
    "resized-crop": ("resized_crop", float),
    "randaugment": ("randaugment", int),
    "magnitude": ("magnitude", float),
    "cutout": ("cutout", int),
    "mixup": ("mixup", float),
}


def _augment(text: str) -> Augment | None:
    """Read "none", or what `_augment_text` writes."""
    if text == "none":
        return None
    settings = {"crop_padding": 0, "flip": False}
    for part in text.split(","):
        word, equals, value = part.partition("=")
        try:
            if word not in _AUGMENT or (word == "flip") == bool(equals):
                raise ValueError
            name, kind = _AUGMENT[word]
            settings[name] = kind(value or True)
        except ValueError:
            raise ValueError(
                "`augment` must be none, or some of flip, crop=4, resized-crop=0.08, "
                "randaugment=2, magnitude=9, cutout=8 and mixup=0.2 with commas between; got "
                f"{text!r}."
            ) from None
    if "magnitude" in settings and not settings.get("randaugment"):
        raise ValueError(f"`augment` takes magnitude only with randaugment; got {text!r}.")
    try:
        return Augment(**settings)
    except ValueError as error:
        message = str(error)
        for word, (name, _) in _AUGMENT.items():
            message = message.replace(f"`{name}`", word)
        raise ValueError(f"`augment` cannot be {text!r}: {message}") from None


def _augment_text(value: Augment | None) -> str:
    """What `_augment` reads."""
    if value is None:
        return "none"
    parts = [f"crop={value.crop_padding}", *["flip"] * value.flip]
    parts += [f"resized-crop={value.resized_crop:g}"] if value.resized_crop else []
    if value.randaugment:
        parts += [f"randaugment={value.randaugment}", f"magnitude={value.magnitude:g}"]
    parts += [f"cutout={value.cutout}"] if value.cutout else []
    parts += [f"mixup={value.mixup:g}"] if value.mixup else []
    return ",".join(parts)


def _train(recipe: Recipe, folder: Path, options: _Machine) -> None:
    first = is_first_process()
    try:
        with show_training(recipe.epochs) if first else nullcontext() as on_progress:
            run = train(
                recipe,
                folder,
                data_dir=options.data_dir,
                device=options.device,
                launch=_launch(options),
                on_progress=on_progress,
            )
    except (TrainingInterrupted, TrainingDiverged, OtherProcessFailed):
        if first:
            raise
        return  # the first process says so, and its exit code is the one that counts
    if first:
        print(_summary(run))


def _launch(options: _Machine) -> Launch:
    return Launch(options.devices, options.nodes, options.workers, options.share_weights)


def find_recipe(name: str) -> Recipe:
    """A published recipe by name, or one from a JSON file."""
    if name in RECIPES:
        return RECIPES[name]
    if name.endswith(".json"):
        return read_recipe(Path(name))
    hint = did_you_mean(name, RECIPES)
    if Path(name).exists():
        hint = f" The name of the file {name} must end in .json."
    raise ValueError(
        f"There is no recipe {name!r}; give a name of `taut list`, or a .json file.{hint}"
    )


def _summary(run: Run) -> str:
    judged = {"test set": run.test_accuracy()}
    if run.recipe.validation:
        judged = {"validation": run.history()[-1], **judged}
    parts = []
    for name, row in judged.items():
        if row is not None:
            certified = {eps: row[f"certified_accuracy_{eps}"] for eps in run.recipe.eps}
            parts.append(f"{accuracies(row['clean_accuracy'], certified)} ({name}, %)")
    return f"{run.path}: {'; '.join(parts)}"
