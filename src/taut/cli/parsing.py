"""Typed functions as commands, with one sentence for every wrong use."""

import contextlib
import inspect
import io
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, final

import tyro

from taut.kinds import did_you_mean

# What tyro calls a value in its help.
_NAMES = {"INT": "a whole number", "FLOAT": "a number", "FRACTION": "a fraction"}


def one_shape(arguments: list[str]) -> list[str]:
    """The arguments, with a shape of several words, 3 32 32, as the one word 3,32,32.

    Example:
        >>> one_shape(["--input-shape", "3", "32", "32", "a.png"])
        ['--input-shape', '3,32,32', 'a.png']
    """
    words: list[str] = []
    for word in arguments:
        flag = words[-2] if len(words) > 1 else ""
        if flag.replace("_", "-") == "--input-shape" and word.isdecimal():
            words[-1] += f",{word}"
        else:
            words.append(word)
    return words


def call(function: Callable[..., Any], name: str, arguments: list[str]) -> None:
    """Call a typed function, whose signature and docstring are the options, with arguments."""
    parser = Parser(_deferred(function), prog=f"taut {name}")
    command = parser.parse(one_shape(arguments))
    with parser.naming_flags():
        command()


@final
class Parser:
    """`tyro.cli`, with its errors in one sentence."""

    def __init__(self, target: Callable[..., Any], prog: str, **options: Any) -> None:
        self.prog = prog
        self._cli = partial(tyro.cli, target, prog=prog, **options)

    def parse(self, arguments: list[str]) -> Any:
        """What the arguments make; a ValueError names the flag that is wrong."""
        printed = io.StringIO()
        try:
            with self.naming_flags(), contextlib.redirect_stderr(printed):
                return self._cli(args=arguments)
        except SystemExit as left:
            if not left.code:
                raise
        raise ValueError(self._sentence(arguments, printed.getvalue()))

    @contextlib.contextmanager
    def naming_flags(self) -> Iterator[None]:
        """Inside, errors name an argument of this command by its flag."""
        try:
            yield
        except (ValueError, FileNotFoundError) as error:
            sentence = self._with_flags(str(error))
            if sentence == str(error):
                raise
            kind = ValueError if isinstance(error, ValueError) else FileNotFoundError
            raise kind(sentence) from error

    def _with_flags(self, sentence: str, part: str = "") -> str:
        if "`" not in sentence:
            return sentence
        # `--lr` rather than `--schedule.lr`, if there are both and the schedule is not the part.
        own = f"--{part.removeprefix('recipe.')}."
        flags = sorted(self._flags(), key=lambda flag: (flag.startswith(own), -flag.count(".")))
        by_name = {re.split(r"[.]|--", flag)[-1].replace("-", "_"): flag for flag in flags}
        return re.sub(r"`(\w+)`", lambda name: f"`{by_name.get(name[1], name[1])}`", sentence)

    def _flags(self) -> dict[str, str]:
        """The flags of the command, each with what tyro calls its value; read from its help."""
        text, flags = io.StringIO(), {}
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            self._cli(args=["--help"])
        for line in _plain(text.getvalue()):
            # What a flag takes is not in small letters; a line of prose goes on in them.
            option = re.match(r"\s*((?:--?[\w.-]+(?:, )?)+)(?: ([^\sa-z].*?))?(?:  |$)", line)
            names = option[1].split(", ") if option else []
            flags |= {name: option[2] or "" for name in names if option and name[:2] == "--"}
        return flags

    def _sentence(self, arguments: list[str], printed: str) -> str:
        """What tyro printed in a box, without the box and its hints."""
        flags = self._flags()
        for flag in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            if flag.replace("_", "-") not in flags:
                hint = did_you_mean(flag, flags) or f" See {self.prog} --help."
                return f"`{self.prog}` has no option {flag}.{hint}"
        lines = _message(printed)
        text = " ".join(" ".join(lines).split())
        if match := re.search(r"[Ii]nvalid choice '(.*?)' for argument '(.*?)'.*\((.*?)\)", text):
            got, flag, choices = match[1], match[2], re.findall(r"'(.*?)'", match[3])
            allowed = ", ".join(choices)
            return f"`{flag}` must be one of {allowed}; got {got!r}.{did_you_mean(got, choices)}"
        if match := re.fullmatch(r"Error parsing (\S+): (.*)", text):
            flag, reason = match[1], match[2]
            if re.match(r"invalid literal|[Cc]ould not (convert|parse|find)|no type match", reason):
                # Of {None}|INT, and of [INT [INT ...]], the number.
                kind = flags.get(flag, "").rpartition("|")[2].lstrip("[").partition(" ")[0]
                expected = _NAMES.get(kind, kind)
                got = " ".join(re.findall(r"'(.*?)'", reason)) or _given(arguments, flag)
                return f"`{flag}` must be {expected}; got {got!r}."
            # The reason may name a setting of what the flag's value makes.
            named = re.sub(r"^`\w+`", f"`{flag}`", reason) if flag.startswith("--") else reason
            return self._with_flags(named, flag)
        if match := re.search(r"Missing value for argument '(.*?)'. Expected (\d+)", text):
            count = "a value" if match[2] == "1" else f"{match[2]} values"
            return f"`{match[1]}` needs {count}; see {self.prog} --help."
        if "Missing from" in text:
            missing = [line.split()[0] for line in lines if re.match(r" {4}\S", line)]
            return f"`{self.prog}` needs {' and '.join(missing)}; see {self.prog} --help."
        if match := re.search(r"Unrecognized options: (.*)", text):
            return f"`{self.prog}` takes no argument {match[1]}; see {self.prog} --help."
        return text


def _given(arguments: list[str], flag: str) -> str:
    """What an option was given on the command line."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else following
    return ""


def _plain(printed: str) -> list[str]:
    """Lines without colours and the frame of a box."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed)
    return [re.sub(r"^│ ?|\s*│?$", "", line) for line in text.splitlines()]


def _message(printed: str) -> list[str]:
    """What a box of tyro says under its title, without the hints under the next rule."""
    title, *lines = _plain(printed)
    if not title.startswith("╭"):
        del lines[0]
    rule = next(i for i, line in enumerate(lines) if re.fullmatch(r"\s*[─-]+", line))
    return textwrap.dedent("\n".join(lines[:rule])).splitlines()


def _deferred(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same signature, for a function that is called later.

    Each argument of the docstring is on one line: tyro keeps line breaks, and wraps once more.
    """

    @wraps(function)
    def defer(*arguments: Any, **options: Any) -> Callable[[], Any]:
        return partial(function, *arguments, **options)

    del defer.__wrapped__  # tyro would read the docstring of that
    defer.__dict__["__signature__"] = inspect.signature(function)
    # Without the indentation of the source, which Python 3.13 leaves out by itself.
    head, args, described = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:\n")
    defer.__doc__ = head + args + re.sub(r"\n {8}", " ", described)
    return defer
