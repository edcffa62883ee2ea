"""Programs as steps of the page: a slow interpreter agrees with torch, operation by operation."""

import numpy as np
import pytest
import torch

import taut
from playground_cases import CASES, made
from taut.playground import lower, lowered
from taut.program import trace


def slow(steps, x: np.ndarray) -> np.ndarray:
    """The steps on one flat image, each as its definition says."""
    values = [x]
    for step in steps.steps:
        held = {k: steps.arrays[v] for k, v in step.items() if k in ("places", "weight", "by")}
        ends = {k: steps.arrays[step[k]] for k in ("slope", "low", "high") if k in step}
        values.append(
            DEFINITIONS[step["op"]](step, held | ends, *(values[i] for i in step["from"]))
        )
        assert len(values[-1]) == step["size"]
    return values[-1]


def matrix_of(step, weight) -> np.ndarray:
    """The dense matrix of a convolution without padding, entry by entry."""
    groups, wide, out = step["groups"], step["wide"], step["out"]
    rows, channels = len(weight) // groups, weight.shape[1]
    dense = np.zeros((len(weight), *out, channels * groups, *wide))
    for place in np.ndindex(*out):
        for tap in np.ndindex(*step["taps"]):
            read = tuple(
                p * s + t * d
                for p, s, t, d in zip(place, step["stride"], tap, step["dilation"], strict=True)
            )
            for r in range(len(weight)):
                for c in range(channels):
                    entry = weight.reshape(len(weight), channels, *step["taps"])[(r, c, *tap)]
                    dense[(r, *place, r // rows * channels + c, *read)] += entry
    return dense.reshape(len(weight) * int(np.prod(out)), -1)


def product(step, held, x):
    dense = matrix_of(step, held["weight"].astype(float))
    return dense.T @ x if step["transposed"] else dense @ x


def ordered(step, held, x):
    y, n = x.copy(), step["group"]
    for start in range(0, step["groups"] * n, n):
        y[start : start + n] = sorted(x[start : start + n], reverse=step["descending"])
    return y


def reduced(step, held, x):
    windows = held["places"].reshape(step["size"], -1)
    parts = [x[window[window >= 0]] for window in windows]
    kinds = {"sum": np.sum, "max": np.max, "squares": lambda part: np.sum(part**2)}
    return np.array([kinds[step["kind"]](part) for part in parts])


DEFINITIONS = {
    "matrix": product,
    "sort": ordered,
    "reduce": reduced,
    "gather": lambda _, held, x: np.append(x, 0.0)[held["places"]],
    "rectify": lambda _, held, x: np.where(x > 0, x, held["slope"] * x),
    "clamp": lambda _, held, x: np.clip(x, held["low"], held["high"]),
    "shift": lambda _, held, x: x + held["by"],
    "scale": lambda _, held, x: x * held["by"],
    "divide": lambda _, held, x: x / held["by"],
    "root": lambda _, held, x: np.sqrt(x),
    "add": lambda step, _, *x: sum(f * v for f, v in zip(step["factors"], x, strict=True)),
    "concat": lambda _, held, *x: np.concatenate(x),
}


@pytest.mark.parametrize("name", CASES)
def test_steps_compute_what_the_model_does(name):
    model, shape = made(name)
    steps = lower(trace(model, shape))
    x = torch.randn(2, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected = model.double()(x).flatten(1).numpy()
    for image, row in zip(x.flatten(1).numpy(), expected, strict=True):
        np.testing.assert_allclose(slow(steps, image), row, rtol=1e-11, atol=1e-12)


def test_gathers_in_a_row_are_one_and_unused_ones_are_dropped():
    model = torch.nn.Sequential(torch.nn.ZeroPad2d(1), torch.nn.PixelUnshuffle(2))
    assert [step["op"] for step in lower(trace(model, (1, 4, 4))).steps] == ["gather"]


def test_an_unknown_operation_is_refused_by_name():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
    with pytest.raises(ValueError, match=r"`1` \(Tanh\) is an operation that the page"):
        lower(trace(model, (4,)))


def test_all_operations_of_the_zoo_are_known():
    for name in ("mnist-small", "fashion-mnist-small"):
        program = trace(taut.load(f"zoo:{name}"), (1, 28, 28))
        assert {node.op for node in program.nodes} <= set(lowered())
