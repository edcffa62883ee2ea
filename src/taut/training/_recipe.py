"""A training run as data: everything that decides its result, and nothing about where it runs."""

import dataclasses
import itertools
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, final, get_args

from torch import nn

from taut._arguments import (
    check_fields,
    each,
    is_number,
    not_negative,
    positive,
    shape_of_image,
    switch,
    unit_share,
    whole,
)
from taut.certification import as_rational
from taut.data import Augment, Holdout, is_published, names
from taut.kinds import (
    Choice,
    SourceFile,
    construct,
    did_you_mean,
    exported,
    in_file_of,
    source_file,
)
from taut.losses import AbstractImageLoss, AbstractLoss, MultiMargin
from taut.losses import kinds as losses
from taut.models import AbstractModel, Small, configurations, model_of
from taut.models import kinds as models
from taut.parametrizations import AbstractParametrization, methods
from taut.training import _schedules
from taut.training._recipe_versions import current_form, json_object
from taut.training._schedules import AbstractSchedule, Constant, OneCycle

Precision = Literal["32-true", "bf16-mixed"]
OptimizerName = Literal["adam", "sgd", "stiefel-adam", "stiefel-sgd", "schedule-free"]

CHOICES: dict[str, Choice] = {
    "model": Choice("model", AbstractModel, models(), adapt=model_of, named=configurations()),
    "loss": Choice("loss", AbstractLoss, losses()),
    "schedule": Choice("schedule", AbstractSchedule, exported(vars(_schedules), AbstractSchedule)),
    "parametrization": Choice(
        "parametrization", AbstractParametrization, methods(), instance=False
    ),
}
"""The settings of a recipe whose class is found by kind or as FILE.py:CLASS."""

_SHARE = 0.1  # of the training images of a published data set

# What JSON groups as the data, with the name of the data set as its kind.
_DATA = ("input_shape", "classes", "holdout", "validation", "resize", "draft")


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of one training run.

    Args:
        name: what reports and run folders call it.
        dataset: a name that `taut.data.load` knows.
        input_shape: channels, height and width of an image.
        classes: number of classes.
        holdout: what to test on, for images by class that come without a test split.
        validation: share of the training images, drawn by the seed, that each epoch is judged on
            instead of trained on; the test images are looked at once, at the end. 0 trains on all
            and judges each epoch on the test images, as published recipes do. Left out, 0.1 for
            the data sets that taut knows by name, 0 for all others.
        resize: whether to bring images by class to `input_shape`, scaled until they cover it and
            cropped around the middle; if not, all must have it.
        draft: whether JPEG files are decoded at 1/2, 1/4 or 1/8 of their size where that covers
            what is needed: several times as fast for large pictures, and other pixels.
        model: the architecture.
        parametrization: the method of its layers, a class; dense layers use its `dense_as`.
            Left out, that of the architecture.
        loss: the training loss.
        optimizer: "adam" is torch's AdamW, "sgd" its SGD with momentum; "stiefel-adam" and
            "stiefel-sgd", those of :mod:`taut.optim`, keep the parameters of orthogonal layers
            orthonormal, so that `retract_every` does not matter; "schedule-free" is AdamW of the
            package schedulefree, which averages parameters instead of lowering the learning rate,
            needs the schedule "constant", and does not retract.
        lr: peak learning rate.
        schedule: how the learning rate and momentum (Adam's beta1) move over the run.
        epochs: passes over the training set.
        batch_size: images per step.
        accumulate: parts in which each process computes its share of a batch, one after the other;
            gradients add up to those of the batch if the loss is a mean over images.
        warmup: epochs, also a fraction, in which the learning rate rises from 0 to the schedule's.
        weight_decay: decoupled, as in AdamW, or added to the gradient, as in SGD; of parameters
            with two or more dimensions, but not of raw tensors whose size changes no weight;
            refused if there are no others.
        clip_norm: largest l2 norm of all gradients of a step together; 0 for no limit.
        ema: decay of the moving average of the parameters, which is then the model that is
            evaluated, certified and saved; 0 for none.
        retract_every: steps from one `taut.retract_` to the next, which keeps parameters
            near-orthonormal; 0 for never.
        precision: "bf16-mixed" runs layers in bfloat16 where torch's autocast does; their weights
            are computed in float32 all the same, and what is certified is the net without autocast.
        channels_last: whether images, and so activations, are laid out with channels last.
        compile: whether `torch.compile` compiles the model for training.
        augment: random crops, flips and colours, or None.
        seed: decides initial weights, order and augmentation.
        eps: l2 radii, each a number or a fraction as text, at which test images are certified.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> recipe = Recipe(name="mine", dataset="mnist", epochs=3)
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
    """

    name: str
    dataset: str
    input_shape: tuple[int, int, int] = (1, 28, 28)
    classes: int = 10
    holdout: Holdout | None = None
    validation: float = None  # pyright: ignore[reportAssignmentType]
    resize: bool = False
    draft: bool = False
    model: AbstractModel = field(default_factory=Small)
    parametrization: type[AbstractParametrization] = None  # pyright: ignore[reportAssignmentType]
    loss: AbstractLoss = field(default_factory=MultiMargin)
    optimizer: OptimizerName = "adam"
    lr: float = 5e-3
    schedule: AbstractSchedule = field(default_factory=OneCycle)
    epochs: int = 10
    batch_size: int = 128
    accumulate: int = 1
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    ema: float = 0.0
    retract_every: int = 16
    precision: Precision = "32-true"
    channels_last: bool = False
    compile: bool = False
    augment: Augment | None = None
    seed: int = 0
    eps: tuple[str, ...] = ("0.3", "1.58")

    def __post_init__(self) -> None:
        if self.parametrization is None and isinstance(self.model, AbstractModel):
            object.__setattr__(self, "parametrization", self.model.method)
        self._check_data()
        for name, choice in CHOICES.items():
            choice.check(vars(self)[name])
        check_fields(self, switch, "channels_last", "compile")
        self._check_numbers()
        self._check_pictures()
        for name, kind in (("precision", Precision), ("optimizer", OptimizerName)):
            allowed, value = get_args(kind), vars(self)[name]
            if value not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}; got {value!r}.")
        if self.optimizer == "schedule-free":
            self._check_schedule_free()
        check_fields(self, each, "eps", check=_check_eps)

    def _check_data(self) -> None:
        for name in ("name", "dataset"):
            if not isinstance(vars(self)[name], str):
                raise ValueError(f"`{name}` must be a text; got {vars(self)[name]}.")
        if self.dataset not in names() and not self.dataset.startswith("hub:"):
            raise ValueError(
                f"`dataset` must be one of {', '.join(names())}; got {self.dataset!r}."
                f"{did_you_mean(self.dataset, names())}"
            )
        if self.validation is None:
            object.__setattr__(self, "validation", _SHARE if is_published(self.dataset) else 0.0)
        check_fields(self, shape_of_image, "input_shape")
        check_fields(self, switch, "resize", "draft")
        for name, part in (("holdout", Holdout), ("augment", Augment)):
            if not isinstance(vars(self)[name], part | None):
                raise ValueError(
                    f"`{name}` must be None or of taut.data.{part.__name__}; got "
                    f"{vars(self)[name]!r}."
                )

    def _check_schedule_free(self) -> None:
        if not isinstance(self.schedule, Constant):
            raise ValueError(
                f"`optimizer` schedule-free needs the schedule constant; got {self.schedule.kind}."
            )
        if self.ema:
            raise ValueError(
                f"`ema` must be 0 with the optimizer schedule-free, which averages; got {self.ema}."
            )

    def _check_numbers(self) -> None:
        least = {"classes": 2, "epochs": 1, "batch_size": 1, "accumulate": 1, "seed": 0}
        for name, bound in (least | {"retract_every": 0}).items():
            check_fields(self, whole, name, least=bound)
        if self.seed >= 2**63:
            raise ValueError(f"`seed` must be below 2^63; got {self.seed}.")
        check_fields(self, positive, "lr")
        check_fields(self, not_negative, "weight_decay", "clip_norm")
        if not (is_number(self.warmup) and 0 <= self.warmup <= self.epochs):
            raise ValueError(
                f"`warmup` must be from 0 to {self.epochs}, the epochs; got {self.warmup}."
            )
        check_fields(self, not_negative, "warmup")
        check_fields(self, unit_share, "ema", "validation", one=False)
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"`accumulate` must be at most {self.batch_size}, the batch size; "
                f"got {self.accumulate}."
            )

    def _check_pictures(self) -> None:
        if self.draft and not self.resize:
            raise ValueError("`draft` needs `resize`, which says how large pictures must be.")
        changed = self.augment is not None and self.augment.changes_pictures
        mixes = self.augment is not None and self.augment.mixup > 0
        if mixes and (self.loss.compares_classes or not isinstance(self.loss, AbstractImageLoss)):
            raise ValueError(
                "`augment` with mixup needs a loss of single images, which compares no classes; "
                f"got {type(self.loss).__name__}."
            )
        if changed and self.input_shape[0] not in (1, 3):
            raise ValueError(
                "`augment` with a resized crop or RandAugment needs images of 1 or 3 channels; "
                f"got {self.input_shape[0]}."
            )

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """The shape that images are brought to; None if they have their own."""
        return self.input_shape if self.resize else None

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The Python files that define its classes; none for classes of taut.

        Raises:
            ValueError: if two files have one name.
        """
        used = (self.parametrization, *map(type, (self.model, self.loss, self.schedule)))
        files = sorted({file for cls in used if (file := source_file(cls)) is not None})
        for file, after in itertools.pairwise(files):
            if file.name == after.name:
                raise ValueError(f"Files must have different names; two are called {file.name}.")
        return tuple(files)

    def build_model(self) -> nn.Module:
        """The model, freshly initialised from torch's global seed."""
        with in_file_of(type(self.model)):
            return self.model.build(
                self.input_shape, self.classes, parametrization=self.parametrization
            )

    def to_json(self) -> str:
        """The recipe as indented JSON that `from_json` reads back.

        Raises:
            ValueError: if a class is neither one of taut nor loaded from a file, or a setting of
                it is no JSON value.
        """
        values: dict[str, Any] = {"name": self.name, "data": {"kind": self.dataset}}
        for name in _names(type(self)):
            value = vars(self)[name]
            if name in CHOICES:
                values[name] = _encoded(CHOICES[name], value)
            elif name in _DATA:
                values["data"][name] = _plain(value)
            elif name != "dataset":
                values[name] = _plain(value)
        try:
            return json.dumps(values, indent=2) + "\n"
        except TypeError as error:
            raise ValueError(f"A recipe must hold plain values: {error}.") from None

    @classmethod
    def from_json(cls, text: str, folder: Path = Path()) -> "Recipe":
        """The recipe that `to_json` wrote; Python files that it names are executed.

        Args:
            text: a JSON object; fields left out take their default. A `claim` is for readers.
            folder: what the paths of Python files are relative to.

        Raises:
            ValueError: if the text is no recipe; the message says why.
            FileNotFoundError: if a Python file is missing.
        """
        values = current_form(_parsed(text))
        values.pop("claim", None)
        for name, choice in CHOICES.items():
            if name in values:
                values[name] = _decoded(choice, values[name], folder)
        if "data" not in values:
            raise ValueError("`data` must name the data set; got none.")
        data = _settings("data", values.pop("data"))
        for name in data.keys() - {"kind", *_DATA}:
            raise ValueError(f"`{name}` is no setting of data; it has {', '.join(_DATA)}.")
        values |= {"dataset": data.pop("kind"), **data}
        for name, part in (("augment", Augment), ("holdout", Holdout)):
            if values.get(name) is not None:
                values[name] = construct(part, json_object(name, values[name]), _names(part))
        for name in ("eps", "input_shape"):
            if not isinstance(values.get(name, ()), tuple):
                raise ValueError(f"`{name}` must be a JSON list; got {values[name]!r}.")
        return construct(cls, values, _names(cls))


def _parsed(text: str) -> dict[str, Any]:
    try:
        return _tuples(json_object("recipe", json.loads(text)))
    except RecursionError:
        raise ValueError("The recipe is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}.") from None


def _encoded(choice: Choice, value: Any) -> dict[str, Any]:
    """A class or an instance as its kind, its settings and the digest of its file."""
    cls = type(value) if choice.instance else value
    file = source_file(cls)
    values = {"kind": choice.kind_of(cls)} | ({} if file is None else {"sha256": file.sha256})
    return values | (_encoded_settings(value) if choice.instance else {})


def _encoded_settings(value: Any) -> dict[str, Any]:
    """The settings of an instance; a loss among them as it is encoded itself."""
    settings = {one.name: vars(value)[one.name] for one in fields(value)}
    losses = {n: _encoded(CHOICES["loss"], v) for n, v in settings.items() if _is_loss(v)}
    return dataclasses.asdict(value) | losses


def _is_loss(value: Any) -> bool:
    return isinstance(value, AbstractLoss)


def _decoded(choice: Choice, value: Any, folder: Path) -> Any:
    values = _settings(choice.name, value)
    kind, digest = values.pop("kind"), values.pop("sha256", None)
    cls = choice.find(kind, folder)
    file = source_file(cls)
    if digest is not None and (file is None or file.sha256 != digest):
        raise ValueError(f"{kind} has changed since the recipe was written.")
    if choice.instance:
        values = choice.settings(kind) | values
        inner = {one.name for one in fields(cls) if _is_loss(_default(one))}
        losses = {n: _decoded(choice, values[n], folder) for n in inner & values.keys()}
        return construct(cls, values | losses, _names(cls))
    if values:
        raise ValueError(f"`{choice.name}` has a kind and no settings; got {', '.join(values)}.")
    return cls


def _settings(name: str, value: Any) -> dict[str, Any]:
    """The kind and the settings of a part, which may be its kind alone."""
    values = {"kind": value} if isinstance(value, str) else dict(json_object(name, value))
    if not isinstance(values.get("kind"), str):
        raise ValueError(f"`{name}` must have a `kind`, a text; got {value!r}.")
    return values


def _default(one: dataclasses.Field[Any]) -> Any:
    made = one.default_factory
    return one.default if made is dataclasses.MISSING else made()


def _names(cls: Any) -> list[str]:
    return [one.name for one in fields(cls)]


def _tuples(value: Any) -> Any:
    """A JSON value with its lists as tuples, which can be compared and hashed."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if isinstance(value, Augment | Holdout) else value


def _check_eps(name: str, eps: str) -> str:
    try:
        # As a number of double precision, too: attacks and charts take it as one.
        positive = isinstance(eps, str) and float(as_rational(eps)) > 0
    except (ValueError, OverflowError):
        positive = False
    if not positive:
        raise ValueError(
            f'`{name}` must be a positive number as text, such as "1.58" or "36/255"; got {eps!r}.'
        )
    return eps
