"""The checks of calls refuse what those of jaxtyping refuse, and no more."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, Int, TypeCheckError, config
from torch import Tensor

import type_checks
from taut.certification._radius import logit_margin


def product(a: Float[Tensor, "*b m n"], b: Float[Tensor, "*b n k"]) -> Float[Tensor, "*b m k"]:
    return a @ b if a.numel() != 1 else a.new_zeros(1, 9)


def either(x: Float[Tensor, "n"] | Int[Tensor, "2"] | None, *rest: int, kind: "str" = "") -> int:
    return len(rest) if kind != "wrong" else "1"


def later(x: "Unknown", n: list[int]) -> "Unknown":
    return x


def numbers(n: int) -> Iterator[Float[Tensor, "n"]]:
    yield torch.zeros(n)


def nested(x: Float[Tensor, "n"]) -> Float[Tensor, "n n"]:
    return product(x[:, None], x[None, :])  # whose n is 1


@dataclass
class Pair:
    a: Float[Tensor, "n"]
    b: Float[Tensor, "n"]


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


CALLS = [
    (product, (zeros(2, 3), zeros(3, 4)), {}, True),
    (product, (zeros(5, 2, 3), zeros(5, 3, 4)), {}, True),
    (product, (zeros(5, 2, 3), zeros(3, 4)), {}, False),
    (product, (zeros(2, 3), zeros(4, 4)), {}, False),
    (product, (zeros(2, 3), zeros(3, 4, dtype=torch.int64)), {}, False),
    (product, (zeros(1, 1), zeros(1, 4)), {}, False),  # the result
    (product, (zeros(2, 3),), {"b": zeros(3, 1)}, True),
    (product, ([[1.0]], zeros(3, 1)), {}, False),
    (either, (None, 1, 2), {}, True),
    (either, (zeros(7), 1), {"kind": "a"}, True),
    (either, (zeros(2, dtype=torch.int64),), {}, True),
    (either, (zeros(3, dtype=torch.int64),), {}, False),
    (either, (None, 1, "2"), {}, False),
    (either, (None,), {"kind": 1}, False),
    (either, (None,), {"kind": "wrong"}, False),
    (later, (3, [1]), {}, True),
    (later, (3, ["1"]), {}, False),
    (numbers, (3,), {}, True),
    (numbers, ("3",), {}, False),
    (nested, (zeros(3),), {}, True),
    (Pair, (zeros(3), zeros(3)), {}, True),
    (Pair, (zeros(3), zeros(4)), {}, False),
    (Pair, (), {"a": zeros(3), "b": 3}, False),
]  # fmt: skip


def passes(decorator, fn, args, kwargs):
    if fn is Pair:
        fn = dataclass(type("Pair", (), {"__annotations__": Pair.__annotations__}))
    try:
        decorator(typechecker=beartype)(fn)(*args, **kwargs)
    except TypeCheckError:
        return False
    return True


@pytest.mark.parametrize(("fn", "args", "kwargs", "expected"), CALLS)
def test_calls_are_refused_as_by_jaxtyping(fn, args, kwargs, expected):
    assert passes(type_checks._jaxtyped, fn, args, kwargs) == expected
    assert passes(type_checks.jaxtyped, fn, args, kwargs) == expected


def test_calls_of_the_package_are_checked():
    with pytest.raises(TypeCheckError):
        logit_margin(zeros(3, 2), zeros(4, dtype=torch.int64))


def test_checks_can_be_turned_off(monkeypatch):
    monkeypatch.setattr(config, "jaxtyping_disable", True)
    checked = type_checks.jaxtyped(typechecker=beartype)(product)
    assert checked(zeros(1, 1), zeros(1, 4)).shape == (1, 9)
