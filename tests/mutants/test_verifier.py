"""Mutants of the stand-alone verifier: without one of its demands it accepts some forged file."""

import ast
import copy
import functools
import inspect
import itertools
import tempfile
import types
from pathlib import Path

import pytest
import torch

import forgery
import taut
import unit.certification.test_adversary as adversary
import unit.certification.test_verifier as cases
from mutation import mutate, name_of, survives
from taut.certification import verifier

SOURCE = Path(verifier.__file__).read_text()
DEMANDS = [
    node
    for node in ast.walk(ast.parse(SOURCE))
    if isinstance(node, ast.Expr)
    and isinstance(node.value, ast.Call)
    and isinstance(node.value.func, ast.Name)
    and node.value.func.id == "require"
]


def without(demand):
    """The verifier without one of its demands, line by line as it is."""
    lines = SOURCE.splitlines()
    indent = " " * demand.col_offset
    lines[demand.lineno - 1 : demand.end_lineno] = [indent + "pass"]
    module = types.ModuleType("mutant")
    exec(compile("\n".join(lines), "<mutant of the verifier>", "exec"), vars(module))
    return module


def line_of_refusal(files):
    """The line of the demand that refuses a forged file; None if something else does."""
    try:
        verifier.verify(*files)
    except verifier.Refused as refusal:
        error = refusal
        while error is not None:
            frames = inspect.getinnerframes(error.__traceback__)
            own = [frame for frame in frames if frame.filename == verifier.__file__]
            if own and own[-1].function == "require":
                return own[-2].lineno
            error = error.__context__
        return None
    raise AssertionError(f"a forged file is proven: {files}")


@functools.cache
def honest(name):
    """Content, tensors, points and images of a certificate that holds."""
    path, weights, points, x, _ = forgery.certified(name, tempfile.mkdtemp(), images=6)
    return *forgery.opened(path, weights), points, x


def changed(name, change, folder):
    """The files of a certificate after a change of its content, with hashes that fit."""
    content, tensors, points, _ = honest(name)
    content = copy.deepcopy(content)
    change(content)
    return *forgery.forge(folder, content, tensors), points


def false_claim(name, change, folder):
    """After a change of content and tensors."""
    content, tensors, points, _ = honest(name)
    content = copy.deepcopy(content)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    change(content, tensors)
    return *forgery.forge(folder, content, tensors), points


def other_points(name, change, folder):
    content, tensors, _, x = honest(name)
    points = forgery.points_file(folder, change(x.numpy().copy()))
    return *forgery.forge(folder, content, tensors), points


def as_written(name, change, folder):
    """After a change of the files as they lie there, hashes and all."""
    content, tensors, points, _ = honest(name)
    path, weights = forgery.forge(folder, content, tensors)
    change(path, weights)
    return path, weights, points


def set_keys(**values):
    return lambda content: content.update(values)


def first(kind, /, **changes):
    """Another node of an operation: its keys, or those of its arguments."""

    def change(content):
        node = next(node for node in content["graph"]["nodes"] if node["op"] == kind)
        for key, value in changes.items():
            (node if key in node else node["args"])[key] = value

    return change


def in_words(old, new):
    """Other text in the certificate."""

    def change(path, _):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def in_header(old, new):
    """Other text of the same length in the header of the weights."""

    def change(_, weights):
        data = weights.read_bytes()
        assert old in data
        weights.write_bytes(data.replace(old, new, 1))

    return change


def in_both(old, new):
    def change(path, weights):
        in_words(old, new)(path, weights)
        in_header(old.encode(), new.encode())(path, weights)

    return change


def real(**values):
    """In real numbers, whose rows say nothing of rounding."""

    def change(content):
        for row in content["layers"]:
            for key in verifier.ROUNDING:
                del row[key]
        content.update(arithmetic="real", **values)

    return change


def without_images(content):
    for key in verifier.POINTS:
        del content[key]


def wide_images(content):
    content["images"]["dtype"] = "F64"
    content.update(arithmetic="float32", norm_limit=1.0)


def of_another_class(content):
    content["labels"][0] = (content["labels"][0] + 1) % len(content["pairwise"])
    content.update(clean_accuracy=5 / 6, certified_accuracy={})


def of_a_class_below_0(content):
    for key, value in (("radius", 0.0), ("margin", 0.0)):
        content[key][0] = value
    for key in ("labels", "predictions"):
        content[key][0] -= len(content["pairwise"])
    content.update(certified_accuracy={})


def with_nan(content, tensors):
    tensors["2.bias"][0] = torch.nan


def in_halves(content, tensors):
    content.update(arithmetic="float32")
    tensors["2.bias"] = tensors["2.bias"].half()


def before_the_first(content, tensors):
    next(tensors[key] for key in tensors if "places" in key)[0] = -1


def another_role(content, tensors):
    node = content["graph"]["nodes"][0]
    node["tensors"] = dict(zip(["middle"], node["tensors"].values(), strict=True))


def three_values(content):
    node = next(node for node in content["graph"]["nodes"] if node["op"] == "maximum")
    node["inputs"] = ["input", "input"]


def smaller_bias(_, weights):
    data = weights.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    weights.write_bytes(data[:start] + bytes(4) + data[start + 4 :])


OTHER = [
    ("matrices", set_keys(format="certificate")),
    ("matrices", set_keys(warranty="forever")),
    ("matrices", set_keys(arithmetic="float16")),
    ("matrices", lambda content: content["graph"].update(comment="none")),
    ("matrices", lambda content: content["graph"].update(output="input")),
    ("matrices", lambda content: content["layers"][0].update(count=2**53)),
    ("matrices", lambda content: content["layers"][0].update(gains=[1e308], bound=1e308)),
    ("matrices", set_keys(norm_limit=1e308)),
    ("matrices", of_another_class),
    ("matrices", of_a_class_below_0),
    ("matrices", without_images),
    ("matrices", first("relu", op="gelu")),
    ("skew exponentials", first("skew_exponential", mode="reflect")),
    ("skew exponentials", first("skew_exponential", inputs=["input"])),
    ("skew exponentials", first("skew_exponential", degree=0)),
    ("skew exponential of signals", first("skew_exponential", degree=2)),
    ("matrices", real()),
    ("matrices", real(error=None, norm_limit=None)),
    ("no matrix", set_keys(pairwise=[[0.0] * 3] * 3)),
    ("no weights", wide_images),
    ("circular", first("conv", padding={"mode": "mirror", "left": [1, 1], "right": [1, 1],
                                        "extend": [0, 0]})),
    ("wrapped", first("conv_transpose", left=[2, 2])),
    ("maximum", three_values),
    ("copies", first("average", divisor=2)),
    ("centred", first("centre", axes=[])),
    ("norms of windows", first("l2_pool", factor=-0.5)),
    ("neighbours", first("Neighbours", count=-4)),
]  # fmt: skip


def of_tensor(kind, role, change):
    """Another tensor of the first node of an operation."""

    def both(content, tensors):
        node = next(node for node in content["graph"]["nodes"] if node["op"] == kind)
        name = node["tensors"][role]
        tensors[name] = change(tensors[name]).contiguous()

    return both


def of_frequencies(role=None, change=None, **claims):
    """Another tensor of a convolution by frequencies, or other claims; the rest allows for both."""

    def both(content, tensors):
        node = next(n for n in content["graph"]["nodes"] if n["op"] == "spectral_conv")
        row = next(r for r in content["layers"] if r["name"] == node["name"])
        row.update(gains=[2.0], bound=2.0, absolutes=[1e6])
        content.update(bound=1e3, error=[1e9, 1e9], norm_limit=1e-9)
        content["pairwise"] = [[1e3 * (i != j) for j in range(3)] for i in range(3)]
        row.update(claims)
        if role:
            tensors[node["tensors"][role]] = change(tensors[node["tensors"][role]])

    return both


def of_rows(name):
    """Constants of pairs by the rows of one matrix, though the outputs are more than that."""

    def both(content, tensors):
        rows = tensors[f"{name}.weight"].flatten(1).double()
        pairs = (rows[:, None] - rows).norm(dim=2) * (1 + 1e-9)
        radius = [0.0] * len(content["radius"])
        content.update(pairwise=pairs.tolist(), radius=radius, certified_accuracy={})

    return both


OTHER_TENSORS = [
    ("wrapped head", of_rows("0")),
    ("summed", of_rows("one")),
    ("frequencies", of_frequencies("imag", lambda t: t + 0.1)),
    ("frequencies", of_frequencies("bias", lambda t: t[:1].clone())),
    ("frequencies", of_frequencies(gains=[0.9], bound=0.9)),
    ("frequencies", of_frequencies(gains=[100.0], bound=100.0)),
    ("activations", of_tensor("HouseHolder", "direction", lambda t: t[:1])),
    ("activations", of_tensor("NActivation", "low", lambda t: t[:1])),
    ("activations", of_tensor("LinearSpline", "slopes", lambda t: t[:, :-1])),
    ("neighbours", of_tensor("Neighbours", "points", lambda y: y.reshape(6, 3, 2))),
    ("matrices", with_nan),
    ("matrices", in_halves),
    ("take", before_the_first),
    ("clamp", another_role),
]
WRITTEN = [
    in_words('"version":2', '"version": 2'),
    in_words('"dtype":"F32","shape":[5,6]', '"dtype":"F32","shape":[6,5]'),
    in_header(b'"graph_sha256":"', b'"graph_sha256":"~'),
    in_both("[5,6]", "[6,5]"),
    in_both("[5,6]", "[-5,-6]"),
    lambda _, weights: weights.write_bytes(weights.read_bytes() + b"0"),
    smaller_bias,
]


def fold(content, kind, **values):
    """A fold of the value of an operation from the input, whatever lies between."""
    node = next(node for node in content["graph"]["nodes"] if node["op"] == kind)
    given = {"name": node["name"], "input": "input", "gain": 1e3, "absolute": 1e3, "proof": "none"}
    content["folds"] = [given | values]


def overlapping(content):
    """Both slices hold the same channels."""
    first, second = (n for n in content["graph"]["nodes"] if n["op"] == "slice")
    second["args"].update(first["args"])


FOLDS = [
    ("folded", lambda content: content["folds"][0].update(more=1.0)),
    ("folded", lambda content: content["folds"][0].update(proof=1.0)),
    ("folded", lambda content: fold(content, "add")),
    ("folded", lambda content: fold(content, "relu")),
    ("folded", lambda content: fold(content, "linear")),
    ("folded", lambda content: fold(content, "batch_norm", gain=-1.0)),
    ("folded", lambda content: fold(content, "batch_norm", input="fc")),
    ("folded", lambda content: fold(content, "conv", input="conv")),
    ("split", lambda content: content["folds"][0].update(gain=1.0)),
    ("split", lambda content: content["folds"][0].update(input=content["graph"]["output"])),
    ("split", overlapping),
    ("tokens", lambda content: fold(content, "batch_norm")),
    ("tokens", lambda content: fold(content, "scale")),
    ("upsampled", first("upsample", mode="nearest-exact")),
    ("isometric pads", first("IsometricPad2d", mode="circular")),
    ("isometric pads", first("IsometricPad2d", padding=[5, 2, 0, 1])),
]  # fmt: skip


@functools.cache
def predicted():
    """Content, tensors and points of predictions under weights, which hold."""
    folder = Path(tempfile.mkdtemp())
    weights = torch.tensor([0.5, 2.0, 1.0, 1.0, 1.0, 1.0])
    model, x = forgery.MODELS["matrices"][0]().eval(), torch.rand(2, 6)
    files = taut.predict(model, x, weights=weights).save(folder / "predictions.json")
    return *forgery.opened(*files), forgery.points_file(folder, x)


def false_answer(_, change, folder):
    content, tensors, points = predicted()
    content = copy.deepcopy(content)
    tensors = dict(tensors)
    change(content, tensors)
    return *forgery.forge(folder, content, tensors), points


def at_one_place(key, value):
    return lambda content, _: content[key].__setitem__(0, value)


ANSWERS = [
    lambda content, _: content["changes"].update(more=1.0),
    lambda content, _: content["changes"].update(weights=[-0.5, 2.0, 1.0, 1.0, 1.0, 1.0]),
    lambda content, _: content["changes"].update(bound=content["changes"]["bound"] / 2),
    at_one_place("classes", [1]),
    at_one_place("classes", 7),
    lambda content, _: content["radii"][0].__setitem__(content["classes"][0], 1.0),
]


def shadowed_variance(_, change, folder):
    """A variance of the name that the weights of changes have, which are larger."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3)).eval()
    model[0].running_var.fill_(0.01)
    x = torch.rand(2, 6)
    files = taut.predict(model, x, weights=torch.ones(6)).save(folder / "predictions.json")
    content, tensors = forgery.opened(*files)
    tensors["changes."] = tensors.pop("0.running_var")
    content["graph"]["nodes"][0]["tensors"]["running_var"] = "changes."
    gain = 1.1e2 * torch.linalg.matrix_norm(model[1].weight.double(), 2).item()
    fold = {"input": "changes.", "gain": gain, "absolute": 10 * gain, "proof": "none"}
    fold["name"] = content["graph"]["output"]
    changes = {"weights": [1e4] * 6, "folds": [fold], "bound": gain, "pairwise": None}
    radii = [[None if r is None else 0.0 for r in row] for row in content["radii"]]
    content.update(changes=changes, radii=radii)
    return *forgery.forge(folder, content, tensors), forgery.points_file(folder, x)


def forgeries():
    """Ways to write files that must be refused: who writes them, from which certificate, how."""
    yield shadowed_variance, "norm", None
    yield from ((false_answer, "predictions", change) for change in ANSWERS)
    yield from ((false_claim, "matrices", change) for change in adversary.FALSE.values())
    yield from ((false_claim, *case) for case in (*adversary.ARGUMENTS.values(), *OTHER_TENSORS))
    yield from ((changed, *case) for case in (*cases.HUGE.values(), *OTHER))
    yield from ((changed, *case) for case in FOLDS)
    yield from ((changed, *case) for case in cases.FALSE_RESIDUALS.values())
    yield from ((changed, "orthogonal", change) for change in cases.CLAIMS.values())
    yield from ((other_points, "orthogonal", change) for change in cases.TYPES.values())
    yield from ((as_written, "matrices", change) for change in WRITTEN)
    places = [cases.put("certified_accuracy", eps)(0.0) for eps in cases.EPS]
    yield from ((changed, "plain", change) for change in [*places, *wrong_numbers()])
    for name in forgery.MODELS:
        yield from ((changed, name, change) for change in lower_rows(honest(name)[0]))


def wrong_numbers():
    for place, value in itertools.product(cases.PLACES, cases.VALUES.values()):
        large = place in cases.MODEST and isinstance(value, int) and value > 1
        if not large and place != "weights' shape":  # of which `forge` takes care
            yield cases.PLACES[place](value)


def lower_rows(content):
    for place, (node, row) in enumerate(
        zip(content["graph"]["nodes"], content["layers"], strict=True)
    ):
        for lower in cases.lowered(row):
            key = next(k for k in lower if lower[k] != row[k] and k != "bound")
            if key not in cases.LOOSE.get(node["op"], ()):
                yield lambda c, place=place, lower=lower: c["layers"].__setitem__(place, lower)


LIMITS = {
    "0 < len(size) <= 3 and max(size) <= 64",
    "n <= 2 ** 16",
    "math.prod(grid) * kernel.size <= 2 ** 37",
    "math.prod(kernel) * math.prod(out) <= 2 ** 33",
    "entries <= 2 ** 28",
    "graph['output'] in runs",
    "spans[name] == [begin, end] and end <= len(data)",
    "all((len(shape) == len(self.shape) for shape in self.inputs))",
    "max(g, a, base + lost) <= most / 4",
    "x.size * math.prod(scale_factor) <= 2 ** 26",
    "shapes[node['inputs'][0]] == shape and shape",
    "by.shape[-1 if last else 0] == by.size",
    "math.prod(size) * math.prod(out) <= 2 ** 22",
    "absolute <= 10 * degree",
    "min(out) > 0 and math.prod(out) <= 2 ** 26",
    "near or step.row['count'] >= 2 ** 60",
    "not far.any()",  # by a file of tests/unit/certification/test_folds.py
}
"""Reached by no forged file of a size for tests, or only behind another demand."""

SPARE = {
    "len(places) == 1",
    "kind in SLOPES",
    "name in nodes",
    "p.shape == q.shape == column and min(p.min(), q.min()) > 0",
    "fold['absolute'] >= 0 and room >= 0",
    "at in nodes and len(nodes[at]['inputs']) == 1",
    "0 <= 2 * n * u <= 1",
    "[*made.shape] == step.shape and np.isfinite(made).all()",
    "all((type(n) is int and n > 0 for n in shape))",
    "all((type(n) is int and n >= 0 for n in shape))",
    "bias.shape == (outputs,)",
    "exact",
    "inside",
    "file['arithmetic'] in FORMATS",
    "graph == file['graph_sha256']",
    "held.shape == () or 1 in (factors[0], constant)",
    "mode in PADDINGS",
    "role",
    "len(step.inputs) + len(held) == 2",
    "len(step.tensors) == (factor is None)",
    "math.prod(shape) <= 2 ** 26",
    "min(k, s, d) > 0 and min(a, b) >= 0",
    "name not in shapes and set(node) == NODE",
    "not inverse or least >= Q(1, 2 ** 126)",
    "np.isfinite(values).all()",
    "set(row) == ROW | (set() if real else ROUNDING)",
    "step.inputs[0] == [len(w), *size] == [len(bias), *size]",
    "step.op in OPERATIONS",
    "type(degree) is int and 0 < degree <= 32",
    "sum((shape[axis] for shape in shapes)) == step.shape[axis]",
    "v >= 0 and eps >= 0 and (v + eps >= Q(1, 2 ** 100))",
}
"""What another demand refuses as well, or an error, in other words."""


def condition(demand):
    """What is demanded."""
    return ast.unparse(demand.value.args[0])


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Forged files by the line of the demand that refuses them."""
    folder, found = tmp_path_factory.mktemp("forged"), {}
    for place, (write, name, change) in enumerate(forgeries()):
        (folder / str(place)).mkdir()
        files = write(name, change, folder / str(place))
        found.setdefault(line_of_refusal(files), []).append(files)
    return found


def proven(module, files):
    """Whether a verifier proves the files, or the first two of them."""
    for given in (files, files[:2]):
        try:
            module.verify(*given)
        except module.Refused:
            continue
        return True
    return False


@pytest.mark.parametrize("demand", DEMANDS, ids=condition)
def test_without_a_demand_a_forged_file_is_proven(demand, refused):
    lines = range(demand.lineno, demand.end_lineno + 1)
    files = [found for line in lines for found in refused.get(line, ())]
    assert bool(files) != (condition(demand) in LIMITS)
    survives = not any(proven(without(demand), found) for found in files)
    assert survives == (condition(demand) in {*LIMITS, *SPARE})


def check_half_an_error():
    """A bound that is a little too small is refused, and half of either part of the error."""
    folder = Path(tempfile.mkdtemp())
    bound, (a, b) = (honest("matrices")[0][key] for key in ("bound", "error"))
    for claim in ({"bound": bound * (1 - 1e-9)}, {"error": [a / 2, b]}, {"error": [a, b / 2]}):
        with pytest.raises(verifier.Refused):
            verifier.verify(*changed("matrices", set_keys(**claim), folder)[:2])


def check_norm_limit():
    cases.test_biases_count_towards_the_norm_limit(Path(tempfile.mkdtemp()))


def check_margins():
    saved = forgery.certified("orthogonal", tempfile.mkdtemp(), images=6)
    cases.test_the_error_is_taken_off_each_margin(saved, Path(tempfile.mkdtemp()))


V = verifier
FORMULAS = {
    cases.test_no_bound_below_the_norm_is_accepted_and_any_a_bit_above_is: [
        (V, "twiddles", "parts[0] - parts[2]", "parts[0] + parts[2]"),
        (V, "grams", "symbol.conj()", "symbol"),
        (V, "on_torus", "-(-out * s // n)", "1"),
        (V, "perron", "(turned @ (a @ v) / v).max()", "(turned @ (a @ v) / v).min()"),
    ],
    cases.test_peaks_between_the_points_of_the_grid_are_seen: [
        (V, "norms_hold", 'Q("1.0823923")', "Q(1)"),
    ],
    cases.test_a_torus_of_the_input_is_too_small_for_zero_padding: [
        (V, "on_torus", 'n + max(left, right) if mode == "zeros" else n', "n"),
    ],
    cases.test_exponential_sums_are_at_most_1_as_far_as_is_said: [
        (V, "calm", "b if v > 0 else a", "a"),
        (V, "calm", "(-1) ** (abs(i - j) // 2)", "1"),
        (V, "calm", "c[first:]", "c"),
    ],
    check_half_an_error: [
        (V, "compose", "g * bound", "g * bound / 2"),
        (V, "compose", "(g + k) * d0 + k * r0", "g * d0"),
        (V, "compose", "(g + k) * d1 + k * r1", "g * d1"),
    ],
    check_norm_limit: [(V, "compose", "max(g, a) * (r1 + d1)", "0")],
    check_margins: [(V, "check_point", "gap - wrong >", "gap >")],
}


def test_formulas_hold_without_mutants():
    for check in FORMULAS:
        check()


@pytest.mark.parametrize(
    ("check", "mutant"), [(c, m) for c, mutants in FORMULAS.items() for m in mutants], ids=name_of
)
def test_another_formula_is_noticed(check, mutant):
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch, *mutant)
        assert not survives([check])
