"""The stand-alone verifier: what it proves of every operation, and what it refuses."""

import ast
import contextlib
import json
import math
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import forgery
import taut
from oracles import dense_operator
from taut.certification import prove, verifier
from taut.linalg.convolution import ConvOperator
from taut.linalg.padding import Padding
from taut.program import canonical

VERIFIER = Path(verifier.__file__)


@pytest.mark.parametrize("name", forgery.MODELS)
def test_every_operation_is_proven_and_run(name, tmp_path):
    path, weights, points, x, model = forgery.certified(name, tmp_path)
    assert "answers of 4 images" in verifier.verify(path, weights, points)
    file = verifier.read_certificate(path)
    runs = verifier.check_graph(file, verifier.read_weights(weights, file))
    shape = forgery.MODELS[name][1]
    expected = prove(model, shape).logits(x).numpy()
    found = [verifier.logits_of(file, runs, image) for image in x.double().numpy()]
    np.testing.assert_allclose(found, expected, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("arithmetic", ["float32", "real"])
@pytest.mark.parametrize("name", forgery.MODELS)
def test_other_arithmetics_are_proven_too(name, arithmetic, tmp_path):
    path, weights, points, _, _ = forgery.certified(name, tmp_path, arithmetic)
    assert arithmetic in verifier.verify(path, weights)
    if arithmetic == "float32":
        assert "answers of 4" in verifier.verify(path, weights, points)
    else:
        with pytest.raises(verifier.Refused, match="real numbers prove no radius"):
            verifier.verify(path, weights, points)


def lowered(row):
    """Rows that claim a little less: each number of a row, one after the other."""
    for key in ("gains", "absolutes"):
        for i, value in enumerate(row[key]):
            if value and (key == "gains" or row["count"]):
                less = [v * (1 - 1e-3 * (i == j)) for j, v in enumerate(row[key])]
                yield {**row, key: less, "bound": max(less) if key == "gains" else row["bound"]}
    if row["constant"]:
        yield {**row, "constant": row["constant"] * (1 - 1e-9)}
    if row["count"]:
        yield {**row, "count": row["count"] - 1}
    yield {**row, "entries": [row["entries"][0], row["entries"][1] + 1]}
    yield {**row, "combine": {"sum": "root", "root": "sum"}[row["combine"]]}


# Their roots take more roundings than any order of theirs has, or bounds that are not tight.
LOOSE = {"batch_norm": {"absolutes", "count"}, "mean": {"absolutes"}, "sum": {"absolutes"},
         "average": {"absolutes", "count"},
         "add": {"absolutes"}, "avg_pool": set(), "clamp": set()}  # fmt: skip


@pytest.mark.parametrize("name", forgery.MODELS)
def test_no_row_may_claim_less(name, tmp_path):
    """Bounds of weights are within 1e-3 of what can be proven; all others have no room at all."""
    path, weights, *_ = forgery.certified(name, tmp_path)
    content = json.loads(path.read_text())
    ops = [node["op"] for node in content["graph"]["nodes"]]
    for place, (op, row) in enumerate(zip(ops, content["layers"], strict=True)):
        for changed in lowered(row):
            key = next(k for k in changed if changed[k] != row[k] and k != "bound")
            if key in LOOSE.get(op, ()):
                continue
            content["layers"][place] = changed
            path.write_text(canonical(content))
            with pytest.raises(verifier.Refused):
                verifier.verify(path, weights)
        content["layers"][place] = row


@pytest.mark.parametrize("op", ["GELU", "Softmax", "SELU"])
def test_what_is_not_known_is_refused_by_name(op, tmp_path):
    model = nn.Sequential(
        nn.Linear(4, 4), {"Softmax": lambda: nn.Softmax(1)}.get(op, getattr(nn, op))()
    )
    path, weights = forgery.honest(model, (4,), tmp_path, "real")
    with pytest.raises(verifier.Refused, match=f"`1` .*{op.lower()}.*does not know the operation"):
        verifier.verify(path, weights)


def test_exponential_sums_are_at_most_1_as_far_as_is_said():
    """Against their moduli on a fine grid; degrees that exceed 1 from the start are refused."""
    for degree in range(1, 17):
        angles = 1j * np.linspace(0, 4, 40001)[1:]
        moduli = np.abs(sum(angles**j / math.factorial(j) for j in range(degree + 1)))
        above = angles.imag[moduli > 1 + 1e-15]
        most = Fraction(above.min()) if degree % 4 in (0, 3) else Fraction(0)
        for share in (Fraction(1, 2), Fraction(999, 1000)):
            assert most == 0 or verifier.calm(degree, (share * most) ** 2)
        beyond = most + Fraction(1, 1000) if most else Fraction(1, 100)
        assert not verifier.calm(degree, beyond**2)


# On its own.


def test_it_is_short_and_needs_numpy_only():
    source = VERIFIER.read_text()
    assert len(source.splitlines()) < 1446
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    allowed = {"argparse", "fractions", "functools", "hashlib", "json", "math", "numpy", "pathlib",
               "re", "sys", "zipfile"}  # fmt: skip
    assert names == allowed


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orthogonal")
    return forgery.certified("orthogonal", folder, images=6)


def run_alone(folder, *arguments):
    copy = folder / "verifier.py"
    copy.write_bytes(VERIFIER.read_bytes())
    command = [sys.executable, "-I", str(copy), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_it_runs_alone(saved, tmp_path):
    path, weights, points, *_ = saved
    done = run_alone(tmp_path, path, weights, points)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Proven: Lipschitz bound")
    assert run_alone(tmp_path, path, weights).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("certificate certificate", 1, "Refused: {0}: "),
        ("weights weights", 1, "Refused: {1}: "),
        ("certificate weights certificate", 1, "Refused: {0}: "),
        ("certificate nowhere", 2, "there is no file nowhere"),
        ("certificate", 2, "the following arguments are required: weights"),
        ("--help", 0, ""),
    ],
)
def test_exit_codes_say_what_happened(arguments, code, words, saved, tmp_path):
    names = {"certificate": saved[0], "weights": saved[1]}
    done = run_alone(tmp_path, *(names.get(a, a) for a in arguments.split()))
    assert done.returncode == code
    assert words.format(*saved) in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1
    if arguments == "--help":
        assert "Example: python verifier.py" in done.stdout
        assert "0 proven, 1 refused, 2 wrong use" in done.stdout


# Norms.


def operators():
    """Kernels of many kinds, on lines, planes and volumes, with the arguments of their torus."""
    generator = torch.Generator().manual_seed(0)
    for i in range(60):
        mode, d = "zeros" if i % 2 else "circular", (1, 2, 2, 1, 2, 3)[i % 6]
        k, stride = (1 + i % 4, 1 + i // 4 % 3, 2)[:d], (1 + i % 3, 1 + i // 3 % 2, 1)[:d]
        size = tuple(s * max(3, n) - i % 5 // 4 for s, n in zip(stride, k, strict=True))
        dilation = (1 + i // 7 % 2,) * d
        out, inside = 1 + i % 5, 1 + (i // 2) % 4
        kernel = torch.randn(out, inside, *k, generator=generator, dtype=torch.float64)
        left = tuple((n - 1) // 2 for n in k)
        right = tuple(i % 3 * (n // 2) for n in k)
        try:
            op = ConvOperator(
                kernel * 10.0 ** (i % 7 - 3), size, stride, dilation, 1, Padding(mode, left, right)
            )
        except ValueError:  # no output is left
            continue
        axes = zip(size, k, stride, dilation, left, right, op.output_size, strict=True)
        yield op, (op.kernel.numpy(), [*axes], mode)


def test_no_bound_below_the_norm_is_accepted_and_any_a_bit_above_is():
    count = 0
    for op, arguments in operators():
        dense = dense_operator(op, (op.in_channels, *op.input_size))
        norm = torch.linalg.matrix_norm(dense, 2).item()
        moduli = torch.linalg.matrix_norm(dense.abs(), 2).item()
        kernel, torus, q = verifier.on_torus(*arguments)

        def proves(bound, kernel=kernel, torus=torus, q=q):
            return verifier.norms_hold(kernel, torus, verifier.Q(bound) ** 2 / q, verifier.Q(1))[0]

        def covers(bound, kernel=kernel, torus=torus, q=q):
            return verifier.norms_hold(kernel, torus, verifier.Q(1), verifier.Q(bound) ** 2 / q)[1]

        assert not proves(norm * (1 - 1e-9))
        assert not covers(moduli * (1 - 1e-9))
        top = math.sqrt(q * max(np.linalg.eigvalsh(g).max() for g in verifier.grams(kernel, torus)))
        assert top >= norm * (1 - 1e-12)
        if arguments[2] == "circular" and all(out * s == n for n, _, s, *_, out in arguments[1]):
            assert top <= norm * (1 + 1e-9)
            count += 1
        assert proves(max(top, norm) * (1 + 1e-7))
        assert covers(1e9 * moduli)
    assert count > 10


def test_peaks_between_the_points_of_the_grid_are_seen():
    kernel = np.array([-1.2069, -0.2092, 0.2112, 1.2323])  # found by search
    squares = {
        n: np.abs(np.exp(2j * np.pi * np.outer(range(n), range(4)) / n) @ kernel) ** 2
        for n in (32, 3200)
    }
    mean, norm = (kernel**2).sum(), math.sqrt(squares[3200].max())
    on_grid = math.sqrt(mean + np.abs(squares[32] - mean).max())
    assert on_grid < norm * 0.995
    kernel = kernel.reshape(1, 1, 4)
    for bound, proven in (((on_grid + norm) / 2, False), (norm * (1 + 1e-6), True)):
        assert (
            verifier.norms_hold(kernel, [3200], verifier.Q(bound) ** 2, verifier.Q(81))[0] == proven
        )


def test_windows_that_are_none_are_refused():
    for change in ({"stride": [-1, -1]}, {"stride": [0, 1]}, {"kernel": [0, 1]}, {"left": [-1, 0]}):
        arguments = {
            "kernel": [1, 1],
            "stride": [1, 1],
            "dilation": [1, 1],
            "left": [0, 0],
        } | change
        with pytest.raises(verifier.Refused, match="windows are none"):
            verifier.outputs([4, 4], right=[0, 0], **arguments)
    for mode in ("constant", "mirror"):
        with pytest.raises(verifier.Refused, match="not known"):
            verifier.on_torus(np.ones((1, 1, 3)), [(4, 3, 1, 1, 1, 1, 4)], mode)


def test_a_torus_of_the_input_is_too_small_for_zero_padding():
    """FFT at N = n: the alternating kernel is larger under zero padding than on that torus."""
    tap = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    kernel = torch.outer(tap, tap)[None, None] / 9
    for n in (5, 7, 9):
        op = ConvOperator(kernel, (n, n), padding=Padding("zeros", (1, 1), (1, 1)))
        norm = torch.linalg.matrix_norm(dense_operator(op, (1, n, n)), 2).item()
        naive = torch.fft.fft2(kernel, (n, n)).abs().max().item()
        assert naive < norm * 0.99
        k, torus, q = verifier.on_torus(kernel.numpy(), [(n, 3, 1, 1, 1, 1, n)] * 2, "zeros")
        assert (torus, q) == ([n + 1, n + 1], 1)
        assert not verifier.norms_hold(k, torus, verifier.Q(naive) ** 2, verifier.Q(100))[0]


# Points.


def test_the_error_is_taken_off_each_margin(saved, tmp_path):
    """A radius that leaves no room for the error is refused."""
    path, weights, points, x, _ = saved
    content = json.loads(path.read_text())
    (a, b), at = content["error"], int(np.argmax(content["radius"]))
    error = a * x[at].norm().item() + b
    slope = max(max(row) for row in content["pairwise"])
    content["certified_accuracy"] = {}
    for taken, passes in ((1.9, True), (1.4, False)):  # of the 4 taken off 2 must stay
        content["radius"][at] += taken * error / slope
        (tmp_path / "c.json").write_text(canonical(content))
        if passes:
            assert verifier.verify(tmp_path / "c.json", weights, points)
        else:
            with pytest.raises(verifier.Refused, match=f"radius .* of image {at} is not proven"):
                verifier.verify(tmp_path / "c.json", weights, points)


TYPES = {
    "the same bytes as int32": lambda x: x.view(np.int32),
    "big-endian": lambda x: x.astype(">f4"),
    "the same bytes as big-endian": lambda x: x.view(">f4"),
    "float64": lambda x: x.astype(float),
    "half": lambda x: x.astype(np.float16),
    "another shape": lambda x: x.reshape(6, 2, 4, 16),
    "transposed": lambda x: x.swapaxes(2, 3),
    "Fortran order": lambda x: np.asfortranarray(x),
    "the same bytes in Fortran order": lambda x: x.reshape(8, 8, 2, 6).T,
    "fewer": lambda x: x[:5],
    "more": lambda x: np.concatenate([x, x[:1]]),
    "objects": lambda x: x.astype(object),
    "bytes": lambda x: x.view("S4"),
    "records": lambda x: x.view([("a", "<f4")]),
    "another number": lambda x: np.nextafter(
        x, 2, where=np.arange(x.size).reshape(x.shape) == 0, out=x.copy()
    ),
    "one image for another": lambda x: x[::-1].copy(),
}


@pytest.mark.parametrize("case", TYPES)
def test_points_of_another_type_are_refused(case, saved, tmp_path):
    path, weights, _, x, _ = saved
    points = forgery.points_file(tmp_path, TYPES[case](x.numpy().copy()))
    with pytest.raises(
        verifier.Refused, match=r"points.npz: (its images must be|image . is another)"
    ):
        verifier.verify(path, weights, points)


def test_files_without_images_are_refused(saved, tmp_path):
    path, weights, _, x, _ = saved
    points = forgery.points_file(tmp_path, None, x_test=x.numpy())
    with pytest.raises(verifier.Refused, match=r"points.npz: .*images.npy"):
        verifier.verify(path, weights, points)
    (tmp_path / "points.npz").write_bytes(points.read_bytes()[:300])
    with pytest.raises(verifier.Refused, match=r"points.npz: "):
        verifier.verify(path, weights, points)


CLAIMS = {
    "clean accuracy": lambda c: c.update(clean_accuracy=c["clean_accuracy"] - 1 / 6),
    "a better answer": lambda c: (
        c["predictions"].__setitem__(0, (c["labels"][0] + 1) % 5), c["radius"].__setitem__(0, 0.0),
        c.update(clean_accuracy=5 / 6, certified_accuracy={}),
    ),
    "another label": lambda c: (
        c["labels"].__setitem__(0, (c["labels"][0] + 1) % 5),
        c["predictions"].__setitem__(0, (c["predictions"][0] + 1) % 5),
    ),
    "certified accuracy": lambda c: c["certified_accuracy"].update({"1/1000": 0.5}),
    "a margin": lambda c: c["margin"].__setitem__(0, c["margin"][0] + 1e-9),
    "no margin": lambda c: c["margin"].__setitem__(0, None),
    "a radius": lambda c: c["radius"].__setitem__(0, c["radius"][0] * (1 + 1e-6)),
    "a radius below 0": lambda c: c["radius"].__setitem__(0, -c["radius"][0]),
    "a hash": lambda c: c["images"]["sha256"].__setitem__(0, "0" * 64),
    "two images for one another": lambda c: c["images"]["sha256"].reverse(),
    "another precision": lambda c: c["images"].update(dtype="I32"),
    "fewer margins": lambda c: c["margin"].pop(),
    "fewer hashes": lambda c: c["images"]["sha256"].pop(),
    "no images": lambda c: [c[k].clear() for k in ("labels", "predictions", "margin", "radius")]
    and c["images"]["sha256"].clear(),
}  # fmt: skip


@pytest.mark.parametrize("case", CLAIMS)
def test_claims_about_images_must_hold(case, saved, tmp_path):
    path, weights, points, *_ = saved
    copy = tmp_path / "certificate.json"
    copy.write_bytes(path.read_bytes())
    forgery.rewritten(copy, CLAIMS[case])
    with pytest.raises(verifier.Refused):
        verifier.verify(copy, weights, points)


def test_a_mean_along_no_axes_is_refused(tmp_path):
    """For torch it is the mean of the batch."""
    path, weights, *_ = forgery.certified("centred", tmp_path)
    content, tensors = forgery.opened(path, weights)
    next(n for n in content["graph"]["nodes"] if n["op"] == "centre")["args"].update(axes=[])
    with pytest.raises(verifier.Refused, match="no axes"):
        verifier.verify(*forgery.forge(tmp_path, content, tensors))


class Strided(nn.Module):
    """A sandwich with a stride on both sides, written out."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv1d(2, 4, 3, 2, 1, bias=False)
        self.outer = nn.ConvTranspose1d(4, 3, 2, 2, bias=False)
        self.factors = nn.Parameter(torch.rand(4, 1) + 0.5)

    def forward(self, x):
        return self.outer((self.inner(x) * self.factors).relu() * self.factors)


def test_sandwiches_with_two_strides_are_proven(tmp_path):
    torch.manual_seed(0)
    model = Strided()
    certificate = prove(model, (2, 8))
    assert [node.op for node in certificate.program.nodes] == ["sandwich"]
    verifier.verify(*certificate.save(tmp_path / "certificate.json"))
    for seed in range(20):
        x = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed))
        jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0].flatten(), x)
        norm = torch.linalg.matrix_norm(jacobian.flatten(1), 2).item()
        assert 0 < norm < certificate.bound.value


def test_half_precision_images_are_read(tmp_path):
    """A model without weights takes images of any precision; float32 programs round float64."""
    from taut.certification import certify

    x = torch.tensor([[1.0, 0.25], [0.5, 2.0]])
    for dtype, array in (
        (torch.float16, x.half().numpy()),
        (torch.bfloat16, x.bfloat16().view(torch.int16).numpy().view(np.uint16)),
        (torch.float64, x.double().numpy()),
    ):
        result = certify(nn.ReLU(), x.to(dtype), torch.tensor([0, 1]))
        path, weights = result.save(tmp_path / "c.json")
        points = forgery.points_file(tmp_path, array)
        assert "answers of 2 images" in verifier.verify(path, weights, points)
    with pytest.raises(ValueError, match="must not be float64"):
        certify(nn.ReLU(), x.double(), torch.tensor([0, 1]), arithmetic="float32")
    forgery.rewritten(path, lambda c: c.update(arithmetic="float32"))
    with pytest.raises(verifier.Refused):
        verifier.verify(path, weights, points)


def test_biases_count_towards_the_norm_limit(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias.fill_(1e37)
        model[2].weight.fill_(1.0)
    path, weights = forgery.honest(model, (4,), tmp_path, "float32")
    assert "float32" in verifier.verify(path, weights)
    forgery.rewritten(path, lambda c: c.update(norm_limit=c["norm_limit"] * 1.001))
    with pytest.raises(verifier.Refused, match="norm limit"):
        verifier.verify(path, weights)


# Numbers that are none, and files that would take forever.


def put(*keys):
    """A place in a certificate, to be filled."""

    def change(value):
        def both(content):
            place = content
            for key in keys[:-1]:
                place = place[key]
            place[keys[-1]] = value

        return both

    return change


PLACES = {
    "bound": put("bound"), "radius": put("radius", 0), "error": put("error", 0),
    "norm limit": put("norm_limit"), "gain": put("layers", 0, "gains", 0),
    "row's bound": put("layers", 0, "bound"), "moduli": put("layers", 0, "absolutes", 0),
    "constant": put("layers", 0, "constant"), "count": put("layers", 0, "count"),
    "entries": put("layers", 0, "entries", 0), "pair": put("pairwise", 0, 1),
    "label": put("labels", 0), "prediction": put("predictions", 0), "margin": put("margin", 0),
    "accuracy": put("clean_accuracy"), "certified": put("certified_accuracy", "1/1000"),
    "shape": put("input", "shape", 0), "node's shape": put("graph", "nodes", 0, "shape", 0),
    "stride": put("graph", "nodes", 0, "args", "stride", 0),
    "groups": put("graph", "nodes", 0, "args", "groups"), "version": put("version"),
    "weights' shape": put("weights", "0.bias", "shape", 0),
}  # fmt: skip
VALUES = {
    "text": "1e-999999999", "a digit": "1", "truth": True, "none": None, "a list": [1.0],
    "an object": {"float": "inf"}, "a giant": 10**4000, "below 0": -1, "nearly none": 5e-324,
    "far too many": 2**62,
}  # fmt: skip
MODEST = {
    "bound",
    "error",
    "gain",
    "row's bound",
    "moduli",
    "constant",
    "count",
    "pair",
    "norm limit",
}
"""What may claim less than is proven, if the rest is composed of it: a large bound is no lie."""


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("place", PLACES)
def test_numbers_that_are_none_are_refused_at_once(place, value, saved_plain, tmp_path):
    path, weights, points, *_ = saved_plain
    copy = tmp_path / "certificate.json"
    copy.write_bytes(path.read_bytes())
    change = PLACES[place](VALUES[value])
    forgery.rewritten(copy, forgery.rehashed(change))
    rewrite_header(weights, tmp_path, json.loads(copy.read_text())["graph_sha256"])
    start = time.process_time()
    if place in MODEST and isinstance(VALUES[value], int) and VALUES[value] > 1:
        with contextlib.suppress(verifier.Refused):
            verifier.verify(copy, tmp_path / "w.safetensors", points)
    else:
        with pytest.raises(verifier.Refused, match=r"certificate.json: |w.safetensors: "):
            verifier.verify(copy, tmp_path / "w.safetensors", points)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        taut.verify(copy, tmp_path / "w.safetensors")
    assert time.process_time() - start < 5


@pytest.fixture(scope="module")
def saved_plain(tmp_path_factory):
    return forgery.certified("plain", tmp_path_factory.mktemp("plain"))


def rewrite_header(weights, folder, graph):
    from taut.files import load_tensors, save_tensors

    save_tensors(folder / "w.safetensors", load_tensors(weights)[0], {"graph_sha256": graph})


EPS = ["1e999999999", "1e-999999999", "1e_9_9_9_9_9", "1/0", "-1", "nan", "inf", "x", "",
       "1" * 5000, "0x10", "1e99999/3", "9" * 300 + "e9999"]  # fmt: skip


@pytest.mark.parametrize("eps", EPS, ids=lambda eps: eps[:20])
def test_distances_that_are_none_are_refused_at_once(eps, saved_plain, tmp_path):
    path, weights, points, *_ = saved_plain
    copy = tmp_path / "certificate.json"
    copy.write_bytes(path.read_bytes())
    forgery.rewritten(copy, lambda c: c["certified_accuracy"].update({eps: 0.0}))
    start = time.process_time()
    with pytest.raises(verifier.Refused, match=r"certificate.json: "):
        verifier.verify(copy, weights, points)
    assert time.process_time() - start < 5


TEXTS = {
    "NaN": lambda t: t.replace('"clean_accuracy":1.0', '"clean_accuracy":NaN'),
    "infinite": lambda t: t.replace('"clean_accuracy":1.0', '"clean_accuracy":1e999'),
    "an endless exponent": lambda t: t.replace('accuracy":1.0', 'accuracy":1e-999999999'),
    "too many digits": lambda t: t.replace('"version":2', '"version":' + "2" * 9999),
    "deep nesting": lambda t: t.replace('"version":2', '"version":' + "[" * 99999 + "]" * 99999),
    "no end": lambda t: t[:-1],
    "a name twice": lambda t: t.replace('"version":2', '"version":2,"version":2'),
    "spaces": lambda t: t.replace('"version":2', '"version": 2'),
    "another key": lambda t: t.replace('"version":2', '"version":2,"warranty":"forever"'),
    "a list": lambda t: "[]",
    "nothing": lambda t: "",
    "no text": lambda t: "\x00\x01",
    "half of a character": lambda t: t.replace('"taut-certificate"', '"\\ud800"'),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_texts_that_are_no_certificate_are_refused(case, saved_plain, tmp_path):
    path, weights, *_ = saved_plain
    changed = TEXTS[case](path.read_text().strip())
    assert changed != path.read_text().strip()
    copy = tmp_path / "certificate.json"
    copy.write_text(changed)
    done = run_alone(tmp_path, copy, weights)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Refused: {copy}: ")
    assert done.stderr.count("\n") == 1
    with pytest.raises(ValueError, match="ertificate"):
        taut.verify(copy, weights)


def huge(key, value):
    """The first operation of `key`, with an argument that would take all memory."""

    def change(content):
        node = next(n for n in content["graph"]["nodes"] if key in n["args"])
        node["args"][key] = value

    return forgery.rehashed(change)


FAR = {"mode": "zeros", "left": [10**12], "right": [2], "extend": [0]}
HUGE = {
    "repeats": ("repeat", huge("repeats", [10**6, 10**6])),
    "pads": ("pad", huge("left", [0, 10**12])),
    "pads of a convolution": ("strided conv", huge("padding", FAR)),
    "pads and steps": (
        "strided conv", lambda c: (huge("stride", [10**12])(c), huge("padding", FAR)(c)),
    ),
    "pads of a pool": ("average pool", huge("padding", [10**12])),
    "windows": ("average pool", huge("kernel_size", [10**12])),
    "an input": ("plain", lambda c: c["input"].update(shape=[2, 10**9, 10**9])),
    "a shape": ("plain", forgery.rehashed(
        lambda c: c["graph"]["nodes"][4].update(shape=[10**18]))),
}  # fmt: skip


@pytest.mark.parametrize("case", HUGE)
def test_huge_shapes_are_refused_before_they_are_made(case, tmp_path):
    name, change = HUGE[case]
    path, weights, *_ = forgery.certified(name, tmp_path)
    forgery.rewritten(path, change)
    rewrite_header(weights, tmp_path, json.loads(path.read_text())["graph_sha256"])
    for check in (verifier.verify, taut.verify):
        start = time.process_time()
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            check(path, tmp_path / "w.safetensors")
        assert time.process_time() - start < 5


def test_gains_have_no_slack(tmp_path):
    """Many times a little less would be much less."""
    model = nn.Sequential(nn.Linear(3, 3), *(nn.ReLU() for _ in range(200)), nn.Linear(3, 2))
    path, weights = forgery.honest(model, (3,), tmp_path)
    assert verifier.verify(path, weights)
    assert taut.verify(path, weights)

    def lower(content):
        for row in content["layers"][1:-1]:
            row.update(gains=[1 - 2.0**-41], bound=1 - 2.0**-41)

    forgery.rewritten(path, lower)
    with pytest.raises(verifier.Refused, match="claims less"):
        verifier.verify(path, weights)
    with pytest.raises(ValueError, match="`1` is smaller"):
        taut.verify(path, weights)


def of_node(place, change):
    """A change of the arguments of a node."""
    return lambda content: change(content["graph"]["nodes"][place]["args"])


def moved(args):
    """The convolution reads one position further on, its adjoint does not."""
    sides = args["inner"]["padding"]
    sides["left"][0], sides["right"][0] = sides["left"][0] + 1, sides["right"][0] - 1


FALSE_RESIDUALS = {
    "another function": (
        "residuals",
        of_node(3, lambda args: args["activation"].update(op="abs", args={})),
    ),
    "a slope below 0": (
        "residuals",
        of_node(2, lambda args: args["activation"]["args"].update(negative_slope=-1.0)),
    ),
    "ends the wrong way round": (
        "residuals",
        of_node(3, lambda args: args["activation"]["args"].update(min_val=1.0, max_val=-1.0)),
    ),
    "a moved convolution": ("residuals", of_node(3, moved)),
    "zeros for the convolution": (
        "residuals",
        of_node(3, lambda args: args["inner"]["padding"].update(mode="zeros")),
    ),
    "a left that nothing reads": (
        "residuals",
        of_node(2, lambda args: args["outer"].update(left=[1, 1], padding=[0, 0])),
    ),
    "another adjoint": (
        "residuals",
        of_node(3, lambda args: args["outer"].update(left=[0, 0])),
    ),
    "copies at the border": (
        "residuals",
        of_node(2, lambda args: args["inner"]["padding"].update(mode="replicate")),
    ),
    "a larger factor": ("residuals", of_node(2, lambda args: args.update(factor=3.0))),
    "two factors": ("residuals", of_node(0, lambda args: args.update(factor=0.5))),
    "a factor below 0": ("residuals", of_node(2, lambda args: args.update(factor=-2.0))),
    "two dilations": ("sandwiches", of_node(3, lambda args: args["inner"].update(dilation=[1, 2]))),
    "two tori": (
        "sandwiches",
        of_node(0, lambda args: args["inner"]["padding"].update(extend=[0, 3])),
    ),
}


@pytest.mark.parametrize("change", FALSE_RESIDUALS)
def test_residuals_that_are_none_are_refused(change, tmp_path):
    name, forged = FALSE_RESIDUALS[change]
    path, weights, *_ = forgery.certified(name, tmp_path)
    content, tensors = forgery.opened(path, weights)
    forged(content)
    with pytest.raises(verifier.Refused):
        verifier.verify(*forgery.forge(tmp_path, content, tensors))


@pytest.mark.parametrize("rows", [4, 6, 8, 12])
@pytest.mark.parametrize("make", [nn.Linear, lambda n, k: nn.Conv1d(n, k, 1)])
def test_norms_that_are_proven_without_room_are_confirmed(rows, make, tmp_path):
    """Of rank 1, so that the bound is the norm but for a rounding."""
    torch.manual_seed(0)
    layer = make(2 * rows, rows).double()
    with torch.no_grad():
        layer.weight.copy_((torch.randn(rows, 1) * torch.randn(2 * rows)).view_as(layer.weight))
    shape = (2 * rows,) if layer.weight.ndim == 2 else (2 * rows, 3)
    verifier.verify(*map(str, forgery.honest(nn.Sequential(layer, nn.ReLU()), shape, tmp_path)))
