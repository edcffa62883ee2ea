"""Classes chosen by name: those that a package exports, or one in a Python file."""

import difflib
import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar, final, get_args, get_origin, get_type_hints

_T = TypeVar("_T")


class SourceFile(NamedTuple):
    """The file that a class was loaded from, as it was executed."""

    name: str
    content: bytes

    @property
    def sha256(self) -> str:
        """Digest of the content."""
        return hashlib.sha256(self.content).hexdigest()


# The kind, FILE.py:NAME, and the file of each class that was loaded from one.
_origins: dict[type, tuple[str, SourceFile]] = {}


def source_file(cls: type) -> SourceFile | None:
    """The file that a class was loaded from; None for a class of taut."""
    return _origins[cls][1] if cls in _origins else None


def exported(namespace: Mapping[str, Any], base: type[_T]) -> dict[str, type[_T]]:
    """The concrete classes derived from `base` in a namespace, by their `kind`.

    Example:
        >>> sorted(exported(vars(taut.losses), taut.losses.AbstractLoss))[:2]
        ['certificate-regularised', 'certified-trades']
    """
    classes = [value for value in namespace.values() if isinstance(value, type)]
    return {
        cls.kind: cls  # pyright: ignore[reportAttributeAccessIssue]
        for cls in classes
        if issubclass(cls, base) and not inspect.isabstract(cls)
    }


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The question "did you mean ...?" with the closest name; empty if no name is close.

    Example:
        >>> did_you_mean("bkop", ["BCOP", "RKO"])
        ' Did you mean BCOP?'
    """
    near = nearest_name(name, names)
    return "" if near is None else f" Did you mean {near}?"


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """The name closest to a misspelt one; None if none is close."""
    spelling = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), spelling, n=1)
    return spelling[close[0]] if close else None


@final
@dataclass(frozen=True)
class Choice(Generic[_T]):
    """A setting whose class is given by its kind or as FILE.py:CLASS.

    Args:
        name: of the setting.
        base: the class that all choices derive from.
        known: the choices that taut offers, by kind.
        instance: whether the value is an instance, a frozen dataclass, or the class itself.
        adapt: makes a choice of what else a file may name, such as a function.
        named: instances by a name of their own, such as sizes of a model.
    """

    name: str
    base: type[_T]
    known: Mapping[str, type[_T]]
    instance: bool = True
    adapt: Callable[[Callable[..., Any]], type[_T]] | None = None
    named: Mapping[str, _T] = field(default_factory=dict)

    def check(self, value: object) -> None:
        """Refuse a value that is not of this setting."""
        cls = type(value) if self.instance else value
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            what = "an instance of" if self.instance else "a class derived from"
            raise ValueError(f"`{self.name}` must be {what} {_path(self.base)}; got {value!r}.")

    def find(self, kind: str, folder: Path = Path()) -> type[_T]:
        """The class of a kind, or of FILE.py:CLASS relative to a folder; the file is executed."""
        if kind in self.known:
            return self.known[kind]
        if kind in self.named:
            return type(self.named[kind])
        if ".py:" not in kind:
            sizes = ", a size of one that `taut list` names" if self.named else ""
            raise ValueError(
                f"`{self.name}` must be one of {', '.join(self.known)}{sizes}, or FILE.py:CLASS; "
                f"got {kind!r}.{did_you_mean(kind, [*self.known, *self.named])}"
            )
        cls, file = _load(kind, folder)
        ours = isinstance(cls, type) and issubclass(cls, self.base)
        if self.adapt is not None and callable(cls) and not ours:
            cls = self.adapt(cls)
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            got = f"the class {cls.__name__}" if isinstance(cls, type) else type(cls).__name__
            raise ValueError(f"{kind} must be a class derived from {_path(self.base)}; got {got}.")
        if inspect.isabstract(cls):
            missing = ", ".join(sorted(cls.__abstractmethods__))  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(f"{kind} must define {missing}, as {_path(self.base)} says.")
        if self.instance and not is_dataclass(cls):
            raise ValueError(f"{kind} must be a dataclass: write @dataclass(frozen=True) above it.")
        if cls not in self.known.values():
            _origins[cls] = (f"{file.name}:{kind.rpartition(':')[2]}", file)
        return cls

    def settings(self, kind: str) -> dict[str, Any]:
        """The settings of a named instance; none for a class."""
        named = self.named.get(kind)
        return {one.name: vars(named)[one.name] for one in _fields(named)}

    def kind_of(self, cls: type[_T]) -> str:
        """The argument of `find` that gives a class, relative to the folder of its file."""
        if cls in _origins:
            return _origins[cls][0]
        kinds = [kind for kind, known in self.known.items() if known is cls]
        if not kinds:
            raise ValueError(
                f"`{self.name}` must be one of {', '.join(self.known)}, or a class that "
                f"taut.training.CHOICES[{self.name!r}].find has read from a file, so that it can "
                f"be stored; got {cls.__qualname__}."
            )
        return kinds[0]


def load_object(source: str, folder: Path = Path()) -> Any:
    """Execute a Python file, and return the object that FILE.py:NAME names.

    Example:
        >>> load_object("nowhere.py:make")
        Traceback (most recent call last):
        FileNotFoundError: There is no file nowhere.py.
    """
    return _load(source, folder)[0]


def _load(source: str, folder: Path) -> tuple[Any, SourceFile]:
    file, _, name = source.rpartition(":")
    path = folder / file
    if not file or not name:
        raise ValueError(f"A name in a file is given as FILE.py:NAME; got {source!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.suffix != ".py":
        raise ValueError(f"{path} must be a Python file, whose name ends in .py.")
    content = path.read_bytes()
    names = vars(_executed(path, content))
    if name not in names:
        public = [known for known in names if not known.startswith("_")]
        raise ValueError(f"{path} defines no {name}.{did_you_mean(name, public)}")
    return names[name], SourceFile(path.name, content)


def _executed(path: Path, content: bytes) -> ModuleType:
    """The module of a file. Equal content gives the same module, so that its classes are equal."""
    name = f"taut_file_{hashlib.sha256(content).hexdigest()[:16]}"
    if name not in sys.modules:
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module  # dataclasses look themselves up there
        try:
            with one_sentence(path):
                exec(compile(content, str(path), "exec"), vars(module))
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def in_file_of(cls: type) -> AbstractContextManager[None]:
    """Context that reports errors in a user's file in one sentence; for taut's classes a no-op."""
    path = vars(sys.modules[cls.__module__]).get("__file__")
    return one_sentence(Path(path)) if cls in _origins and path else nullcontext()


@contextmanager
def one_sentence(path: Path) -> Iterator[None]:
    """Report an error in the user's file as a ValueError with the last line of it involved."""
    try:
        yield
    except SyntaxError as error:
        place = f"{error.filename or path}, line {error.lineno}"
        raise ValueError(f"{place}: not Python ({error.msg}).") from None
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
        place = f"{path}, line {lines[-1]}" if lines else f"{path}"
        text = " ".join(str(error).split())
        ours = bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
        if ours and isinstance(error, ValueError):  # a sentence of taut's
            raise ValueError(f"{place}: {text}") from None
        raise ValueError(f"{place}: {type(error).__name__}{': ' if text else ''}{text}") from None


def construct(cls: Callable[..., _T], values: Mapping[str, Any], settings: Iterable[str]) -> _T:
    """Build an instance from named settings; unknown and missing ones raise an error.

    Example:
        >>> construct(taut.losses.HingeKR, {"alhpa": 1.0}, ["alpha"])
        Traceback (most recent call last):
        ValueError: `alhpa` is no setting of HingeKR; it has alpha. Did you mean alpha?
    """
    settings = sorted(settings)
    for name in values:
        if name not in settings:
            has = f"it has {', '.join(settings)}" if settings else "it has none"
            raise ValueError(
                f"`{name}` is no setting of {cls.__name__}; {has}.{did_you_mean(name, settings)}"
            )
    _check_types(cls, values)
    for one in _fields(cls):
        if one.init and one.default is one.default_factory is MISSING and one.name not in values:
            raise ValueError(f"{cls.__name__} needs `{one.name}`; got none.")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{cls.__name__} cannot be made of {dict(values)}: {error}.") from None


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _check_types(cls: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Refuse a setting whose annotation is a plain type, or a tuple of one, and that has another.

    >>> _check_types(taut.losses.HingeKR, {"alpha": "high"})
    Traceback (most recent call last):
    ValueError: `alpha` must be a number; got 'high'.
    """
    try:
        hints = get_type_hints(cls)
    except Exception:  # annotations of a user's class that nothing resolves
        return
    for name, value in values.items():
        kind = hints.get(name)
        if kind in _KINDS and not _is_plain(value, kind):
            raise ValueError(f"`{name}` must be {_KINDS[kind]}; got {value!r}.")
        item: Any = next(iter(get_args(kind)), None) if get_origin(kind) is tuple else None
        if item not in (int, float) or not isinstance(value, tuple):
            continue
        wrong = [part for part in value if not _is_plain(part, item)]
        if wrong:
            each = _KINDS[item].partition(" ")[2]
            raise ValueError(f"`{name}` must be a list of {each}s; got {wrong[0]!r} in it.")


def _fields(cls: Any) -> tuple[Field[Any], ...]:
    return fields(cls) if is_dataclass(cls) else ()


def _is_plain(value: Any, kind: Any) -> bool:
    """Whether a value is of a plain type: a whole number is a number, true is none."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _path(cls: type) -> str:
    """Where a package exports a class."""
    parts = [part for part in cls.__module__.split(".") if not part.startswith("_")]
    return ".".join([*parts, cls.__name__])
