"""Every argument of the convolutions against every other: values, norms, and what is refused."""

import functools
import itertools
import math
import re
from functools import partial

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

import taut
from convolution_cases import (
    FACTORS,
    case_of,
    complete,
    crossed,
    name_of,
    pairwise,
)
from convolution_layers import PLAIN, layer_of, matrix_of, set_raw_
from convolution_oracles import Case, isometry, keeps_isometry, only_shifts, promise
from oracles import dense_operator

PERIODIC = FACTORS | {"padding": ["same"], "mode": ["circular"], "output_padding": [0]}
ROWS = [*pairwise(FACTORS, complete), *pairwise(PERIODIC, complete)]
TABLE = [pytest.param(values, id=name_of(values)) for values in ROWS]
CROSSED = list(itertools.product((1, 2, 3), (False, True)))


@functools.cache
def built(case: Case, raw: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """A layer with such raw tensors, and the matrix of its weight by index arithmetic."""
    layer = layer_of(case, taut.BCOP, dtype=dtype)
    set_raw_(layer.parametrization, raw)
    return layer, matrix_of(case, layer.weight)


def check_values(case: Case, layer: nn.Module, matrix: Tensor) -> None:
    shape = (case.c_in, *case.size)
    torch.testing.assert_close(dense_operator(layer, shape), matrix, rtol=0, atol=1e-11)
    x = torch.randn(2, *shape, dtype=torch.float64)
    with torch.no_grad():
        y = layer(x)
    bias = layer.bias.detach().reshape(-1, *[1] * case.axes)
    expected = (x.flatten(1) @ matrix.T).reshape(y.shape) + bias
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-11)


def check_norms(case: Case, matrix: Tensor, below: float, above: float) -> None:
    s = torch.linalg.svdvals(matrix)
    assert s.max() <= 1 + above
    if keeps_isometry(case):
        assert s.min() >= 1 - below


@pytest.mark.parametrize("values", TABLE)
def test_layers_compute_the_slow_convolution(values):
    case = case_of(values)
    check_values(case, *built(case, values["raw"], torch.float64))


@pytest.mark.parametrize("values", TABLE)
def test_singular_values(values):
    case = case_of(values)
    for dtype, below, above in [(torch.float64, 1e-9, 1e-9), (torch.float32, 1e-5, 3e-6)]:
        check_norms(case, built(case, values["raw"], dtype)[1], below, above)


@pytest.mark.parametrize("values", TABLE)
def test_layers_say_what_their_operator_is(values):
    case = case_of(values)
    assert built(case, values["raw"], torch.float64)[0].isometry == promise(case)


@pytest.mark.slow
@pytest.mark.parametrize(("axes", "transposed"), CROSSED)
def test_all_values_of_all_arguments(axes, transposed):
    for values in itertools.islice(crossed(axes, transposed), None, None, axes**2):
        case = case_of(values)
        layer, matrix = built.__wrapped__(case, values["raw"], torch.float64)
        check_values(case, layer, matrix)
        check_norms(case, matrix, 1e-9, 1e-9)
        assert layer.isometry == promise(case)


def test_table_covers_all_pairs_of_values():
    """Each pair that some layer has, by going through all layers."""
    names = [name for name in FACTORS if name != "raw"]
    plain = {name: range(len(FACTORS[name])) for name in names}
    index = [{name: FACTORS[name].index(values[name]) for name in names} for values in ROWS]
    covered = {pair for row in index for pair in itertools.combinations(row.items(), 2)}
    assert sum(values["raw"] == "huge" for values in ROWS) > 10
    generator = torch.Generator().manual_seed(0)
    for _ in range(8_000):
        draws = torch.rand(len(names), generator=generator).tolist()
        row = {n: int(u * len(plain[n])) for n, u in zip(names, draws, strict=True)}
        pairs = set(itertools.combinations(row.items(), 2))
        if not pairs <= covered:
            assert not complete({name: FACTORS[name][i] for name, i in row.items()} | {"raw": None})


# The oracles against torch

_ARGUMENTS = [  # mode, padding: what torch's layers have, too
    ("zeros", (1, 2, 0)),
    ("zeros", "valid"),
    ("circular", (1, 1, 1)),
    ("reflect", (1, 2, 1)),
    ("replicate", (2, 1, 1)),
]


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(("mode", "padding"), _ARGUMENTS)
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 2), ((2, 1, 3), (1, 3, 2))])
def test_slow_convolution_is_that_of_torch(axes, mode, padding, stride, dilation):
    stride, dilation = (n if isinstance(n, tuple) else (n,) * 3 for n in (stride, dilation))
    size = (6, 6, 6) if mode == "circular" or axes == 1 else (5, 7, 3)
    kernel = (3, 2, 1) if mode != "circular" else (3, 3, 3)
    padding = padding if padding == "valid" else padding[:axes]
    case = Case(
        2, 4, kernel[:axes], stride[:axes], size[:axes], padding, dilation[:axes], 2, mode
    )  # fmt: skip
    torchs = PLAIN[False, axes](
        2, 4, case.kernel, case.stride, padding, case.dilation, 2, False, mode, dtype=torch.float64
    )
    matrix = matrix_of(case, torchs.weight)
    factors = torch.ones(case.size, dtype=torch.float64)
    for axis, line in enumerate(case.lines()):
        shape = [-1 if i == axis else 1 for i in range(axes)]
        factors *= torch.tensor(line.factors(), dtype=torch.float64).reshape(shape)
    found = dense_operator(lambda x: torchs(x * factors), (2, *case.size))
    torch.testing.assert_close(found, matrix)
    if mode in ("reflect", "replicate"):
        pads = [p for pair in zip(padding[::-1], padding[::-1], strict=True) for p in pair]
        x = torch.randn(1, 2, *case.size, dtype=torch.float64)
        padded = nn.functional.pad(x * factors, pads, mode)
        torch.testing.assert_close(padded.norm(), x.norm())


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    ("stride", "dilation", "padding", "more"),
    [(1, 1, 0, 0), (2, 1, 1, 1), (3, 2, 1, 0), (3, 1, 2, 2), (2, 3, 0, 1)],
)
def test_slow_transposed_convolution_is_that_of_torch(axes, stride, dilation, padding, more):
    sizes = [(n,) * axes for n in (3, stride, 3, padding, dilation)]
    case = Case(4, 2, *sizes, 2, "zeros", True, (more,) * axes)
    torchs = PLAIN[True, axes](
        4, 2, 3, stride, padding, more, 2, False, dilation, dtype=torch.float64
    )  # fmt: skip
    found = dense_operator(torchs, (4, *case.size))
    torch.testing.assert_close(found, matrix_of(case, torchs.weight))


# Which convolutions are orthogonal

LINES = [  # taps, stride, dilation
    (k, s, d) for k, s, d in itertools.product((1, 2, 3, 5), (1, 2, 3, 4), (1, 2, 3))
]
CHANNELS = [  # in and out of a group, groups
    (c_in, c_out, 3 if (c_in + c_out) % 3 == 2 else 1)
    for c_in, c_out in itertools.product((1, 2), (1, 2, 3, 4, 6, 8, 9))
]
PLANES = [  # kernel size, stride, dilation
    ((3, 3), (2, 2), (1, 1)),
    ((3, 2), (2, 1), (1, 2)),
    ((1, 3), (2, 2), (1, 1)),
    ((4, 2), (2, 2), (1, 2)),
    ((3, 3), (4, 1), (2, 1)),
    ((3, 2, 2), (2, 2, 1), (1, 1, 1)),
    ((2, 2, 1), (2, 1, 2), (1, 3, 1)),
]
GEOMETRIES = [((k,), (s,), (d,)) for k, s, d in LINES] + PLANES


def periodic(geometry, channels, transposed=False) -> Case:
    """A layer on a periodic domain that the stride divides."""
    kernel, stride, dilation = geometry
    (c_in, c_out), groups = channels[:2][:: -1 if transposed else 1], channels[2]
    size = (1,) * len(kernel) if transposed else tuple({3: 3}.get(s, 4) for s in stride)
    size = tuple(12 if len(kernel) == 1 else n for n in size)
    return Case(
        c_in * groups, c_out * groups, kernel, stride, size, "same", dilation, groups,
        transposed=transposed,
    )  # fmt: skip


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_rule_of_existence_is_the_rank_of_a_generic_operator(geometry):
    """Orthonormal rows are independent; where they can be, no rule of ours forbids them."""
    generator = torch.Generator().manual_seed(0)
    for channels in CHANNELS:
        case = periodic(geometry, channels)
        shape = (case.c_out, case.c_in // case.groups, *case.kernel)
        matrix = matrix_of(case, torch.randn(shape, generator=generator, dtype=torch.float64))
        rank, (rows, columns) = int(torch.linalg.matrix_rank(matrix)), matrix.shape
        kinds = {(True, True): "both", (True, False): "rows", (False, True): "columns"}
        assert isometry(case) == kinds.get((rank == rows, rank == columns), "neither"), channels


def numbers(*sizes) -> set[str]:
    return {str(n) for size in sizes for n in (size if isinstance(size, tuple) else (size,))}


def check_refusal(case: Case, message: str) -> None:
    """One line with the channels, of the layer or of a group, the kernel and the stride."""
    written = set(re.findall(r"\d+", message))
    assert message.endswith(".")
    assert "\n" not in message
    for channels in (case.c_in, case.c_out):
        assert written & numbers(channels, channels // case.groups), message
    if only_shifts(case):  # of whatever kernel
        assert numbers(case.groups) <= written, message
        return
    assert numbers(case.kernel) <= written, message
    steps = tuple(s // math.gcd(s, d) for s, d in zip(case.stride, case.dilation, strict=True))
    assert numbers(case.stride) <= written or numbers(steps) <= written, message


def layer_or_refusal(case: Case):
    """A layer without numbers, or the sentence by which it is refused."""
    try:
        return layer_of(case, device="meta"), ""
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_refused_exactly_where_no_orthogonal_convolution_exists(geometry, transposed):
    for channels in CHANNELS:
        case = periodic(geometry, channels, transposed)
        shift = only_shifts(case)
        layer, sentence = layer_or_refusal(case)
        if layer is None:
            assert shift or isometry(case) == "neither", (channels, sentence)
            check_refusal(case, sentence)
        else:
            assert not shift, channels
            assert layer.isometry == isometry(case) != "neither", channels


@pytest.mark.parametrize("method", [taut.BCOP, taut.BCOPFixed])
@pytest.mark.parametrize(
    ("axes", "stride", "dilation", "groups"),
    [(1, 1, 1, 1), (2, 1, 1, 1), (3, 1, 2, 1), (2, 2, 2, 3), (1, 3, 3, 2)],
)
def test_single_channels_are_refused_where_only_shifts_are_orthogonal(
    axes, stride, dilation, groups, method
):
    sizes = [(n,) * axes for n in (3, stride, 6)]
    case = Case(groups, groups, *sizes, "same", (dilation,) * axes, groups)
    assert only_shifts(case)
    name = "groups" if groups > 1 else "in_channels"
    with pytest.raises(ValueError, match=f"^`{name}` .*only shifts.*taut.AOL") as found:
        layer_of(case, method)
    check_refusal(case, str(found.value))
    assert layer_of(case, taut.AOL).weight.count_nonzero() > groups


def test_single_channels_are_taken_where_there_is_more_to_train():
    for kernel, stride, dilation in ((1, 1, 1), (3, 2, 1), (2, 2, 1), (3, 2, 3)):
        case = Case(1, 1, (kernel,), (stride,), (12,), "same", (dilation,))
        layers = [layer_of(case, dtype=torch.float64) for _ in range(2)]
        for layer, raw in zip(layers, ("gaussian", "rank-deficient"), strict=True):
            set_raw_(layer.parametrization, raw)
            check_norms(case, matrix_of(case, layer.weight), 1e-9, 1e-9)
        if kernel > 1:
            assert not torch.allclose(*(layer.weight.abs() for layer in layers))


# Arguments that do not go together


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    ("transposed", "arguments", "message"),
    [
        (True, {"padding_mode": "reflect"}, "`padding_mode`.*'reflect'"),
        (True, {"padding_mode": "replicate"}, "`padding_mode`.*'replicate'"),
        (True, {"padding_mode": "reflect", "padding": 1}, "`padding_mode`.*'reflect'"),
        (True, {"padding": 0}, "`padding`.*'circular'.*0"),
        (True, {"padding": 1, "stride": 2}, "`padding`.*'circular'.*1"),
        (
            True,
            {"padding": 0, "padding_mode": "zeros", "output_padding": 2, "stride": 2},
            "`output_padding`.*2",
        ),
        (True, {"output_padding": 1, "stride": 2}, "`output_padding`.*1"),
        (False, {"padding": 2}, "`padding`.*2"),
        (False, {"padding": 3, "dilation": 2}, "`padding`.*3"),
        (False, {"padding": -1, "padding_mode": "zeros"}, "`padding`.*-1"),
        (False, {"padding": "full"}, "`padding`.*'full'"),
        (False, {"padding_mode": "constant"}, "`padding_mode`.*'constant'"),
        (False, {"dilation": 0}, "`dilation`.*0"),
        (True, {"dilation": (1, 1, 1, 1)}, r"`dilation`.*\(1, 1, 1, 1\)"),
        (False, {"stride": 0}, "`stride`.*0"),
        (False, {"groups": 3}, "`groups`.*3.*4"),
        (True, {"groups": 0}, "`groups`.*0"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(axes, transposed, arguments, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    kind = type(layer_of(Case(4, 4, (1,) * axes, (1,) * axes, (1,) * axes, transposed=transposed)))
    with pytest.raises(ValueError, match=f"^{message}.*") as found:
        kind(4, 4, 3, **arguments)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_inputs_of_another_shape_are_refused(axes, transposed):
    case = Case(4, 4, (3,) * axes, (1,) * axes, (1,) * axes, transposed=transposed)
    layer, image = layer_of(case), (5,) * axes
    for fits in ((4, *image), (2, 4, *image), (0, 4, *image)):
        assert layer(torch.zeros(fits)).shape == fits
    for shape in ((3, *image), (2, 3, *image), image, (1, 2, 4, *image), (1, 4, *image[1:], 0)):
        with pytest.raises(ValueError, match=r"^`input` must have shape .*4, ") as found:
            layer(torch.zeros(shape))
        assert str(found.value).endswith(f"got {shape}.")
    with pytest.raises(
        ValueError, match=r"^`input_shape` does not fit the model at `1` \(Conv.*`input`"
    ):
        taut.lipschitz_bound(nn.Sequential(nn.Identity(), layer), (3, *image))


@pytest.mark.parametrize("method", ["BCOP", None, taut.Orthogonal(4, 4)])
def test_what_is_no_class_of_parametrizations_is_refused(method, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    message = f"`parametrization` must be a class .*; got {re.escape(repr(method))}"
    for make in (partial(taut.nn.Linear, 4, 4), partial(taut.nn.ConvTranspose1d, 4, 4, 3)):
        with pytest.raises(ValueError, match=message):
            make(parametrization=method)


def test_layers_print_what_their_parametrization_does_not():
    sizes = {"padding": 1, "padding_mode": "zeros"}
    shown = repr(taut.nn.ConvTranspose2d(8, 8, 3, 2, output_padding=1, dilation=2, **sizes))
    for argument in ("output_padding=(1, 1)", "padding=(1, 1)", "stride=(2, 2)", "dilation=(2, 2)"):
        assert argument in shown
