"""Certificate files: what honest ones say, and that no changed one passes."""

import ast
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import taut
from taut.certification import certify, prove, verifier
from taut.certification._certificate import canonical, graph_sha256
from taut.cli import main
from taut.linalg.operators import ConvOperator, Padding
from taut.models import ModelConfig, build

VERIFIER = Path(verifier.__file__)


def plain():
    """No layer is orthogonal: zero padding, stride, another padding, a pool-free plain net."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="zeros", bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 12),
        taut.nn.MaxMin(),
        nn.Linear(12, 5),
    )


def orthogonal():
    torch.manual_seed(0)
    return build(ModelConfig("small", input_shape=(2, 8, 8), classes=5)).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Certificates of both nets, with images."""
    folder = tmp_path_factory.mktemp("certificates")
    made = {}
    for name, model in (("plain", plain()), ("orthogonal", orthogonal())):
        x = torch.rand(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))
        result = certify(model, x, model(x).argmax(1), eps=("1/100",))
        assert (result.radius > 0).any()
        made[name] = (*result.save(folder / f"{name}.json"), x, model)
    return made


@pytest.fixture
def file(saved, tmp_path):
    """A copy of one certificate to tamper with: content, paths, images, model."""
    path, weights, x, model = saved["plain"]
    copy = tmp_path / "certificate.json"
    copy.write_bytes(path.read_bytes())
    (tmp_path / "certificate.safetensors").write_bytes(weights.read_bytes())
    return json.loads(copy.read_text()), copy, copy.with_suffix(".safetensors"), x, model


@pytest.mark.parametrize("name", ["plain", "orthogonal"])
def test_honest_certificates_pass(name, saved):
    path, weights, x, model = saved[name]
    assert taut.verify(path, weights).bound == json.loads(path.read_text())["bound"]
    assert taut.verify(path, load_file(weights)) == taut.verify(path, model)
    assert "6 images" in verifier.verify(path, weights, x.numpy())
    if name == "orthogonal":
        assert taut.verify(path, taut.freeze(model).state_dict()).arithmetic == "float64"


@pytest.mark.parametrize("arithmetic", ["float32", "real"])
def test_other_arithmetics_pass_too(arithmetic, tmp_path):
    model = orthogonal()
    path, weights = prove(model, (2, 8, 8), arithmetic=arithmetic).save(tmp_path / "c.json")
    assert taut.verify(path, weights).arithmetic == arithmetic
    assert arithmetic in verifier.verify(path, weights)


def test_graphs_with_branches_pass_with_the_model(tmp_path):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)
            self.register_buffer("share", torch.tensor(0.5))

        def forward(self, x):
            return torch.cat([x + self.share * torch.relu(self.fc(x)), x], 1)

    model = nn.Sequential(Residual(), nn.Linear(12, 3))
    path, weights = prove(model, (6,)).save(tmp_path / "c.json")
    assert taut.verify(path, model).input_shape == (6,)
    with pytest.raises(ValueError, match="without the model"):
        taut.verify(path, weights)
    with pytest.raises((ValueError, KeyError)):
        verifier.verify(path, weights)


def test_known_layers_are_proven_from_the_file(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.2),
        nn.MaxPool2d(2),
        taut.nn.GroupSort(2),
        nn.AvgPool2d(2),
        nn.PixelUnshuffle(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).eval()
    model[1].running_var.uniform_(0.5, 2)
    path, weights = prove(model, (2, 8, 8)).save(tmp_path / "c.json")
    assert taut.verify(path, weights) == taut.verify(path, model)


def edited(file, change):
    content, path, *_ = file
    change(content)
    path.write_text(canonical(content))
    return path


def lower(row, key, by=1e-6):
    def change(content):
        values = content["layers"][row]
        if isinstance(values[key], list):
            values[key][0] *= 1 - by
        else:
            values[key] *= 1 - by
        values["bound"] = max(values["gains"])

    return change


def set_to(key, value):
    return lambda content: content.__setitem__(key, value)


def scale(key, by):
    def change(content):
        value = content[key]
        content[key] = [by * v for v in value] if isinstance(value, list) else by * value

    return change


def operator_of(content, index=0):
    return [n for n in content["graph"]["nodes"] if n["op"] == "affine"][index]["operator"]


def rehashed(change):
    """As a forger would: the graph's own hash fits again."""

    def both(content):
        change(content)
        content["graph_sha256"] = graph_sha256(content["graph"])

    return both


TAMPERED = {
    "gain of a convolution": lower(0, "gains", 1e-5),
    "gain of a strided convolution": lower(2, "gains", 1e-5),
    "gain of an activation": lower(1, "gains"),
    "gain of the head": lower(7, "gains", 1e-5),
    "moduli": lower(0, "absolutes", 1e-3),
    "count": lambda c: c["layers"][5].__setitem__("count", 90),
    "negative count": lambda c: c["layers"][1].__setitem__("count", -10),
    "bias norm": lower(0, "constant"),
    "negative constant": lambda c: c["layers"][1].__setitem__("constant", -1.0),
    "sizes": lambda c: c["layers"][0].__setitem__("entries", [1, 1]),
    "Lipschitz bound": scale("bound", 0.999999),
    "error": scale("error", 0.999999),
    "negative error": scale("error", -1e9),
    "norm limit": scale("norm_limit", 1.000001),
    "pairwise": lambda c: c["pairwise"][0].__setitem__(1, c["pairwise"][0][1] * 0.999999),
    "pairwise of fewer classes": lambda c: c["pairwise"].pop(),
    "format": set_to("format", "other"),
    "version": set_to("version", 2),
    "arithmetic": set_to("arithmetic", "float32"),
    "no arithmetic": set_to("arithmetic", "exact"),
    "input shape": lambda c: c["input"].__setitem__("shape", [2, 6, 6]),
    "weights hash": set_to("weights_sha256", "0" * 64),
    "graph hash": set_to("graph_sha256", "0" * 64),
    "stride": lambda c: operator_of(c, 1).__setitem__("stride", [1, 1]),
    "stride, rehashed": rehashed(lambda c: operator_of(c, 1).__setitem__("stride", [1, 1])),
    "padding, rehashed": rehashed(lambda c: operator_of(c).__setitem__("padding", "circular")),
    "pads, rehashed": rehashed(lambda c: operator_of(c).__setitem__("left", [0, 0])),
    "dilation, rehashed": rehashed(lambda c: operator_of(c).__setitem__("dilation", [2, 2])),
    "input size, rehashed": rehashed(lambda c: operator_of(c).__setitem__("input_size", [2, 2])),
    "no activation, rehashed": rehashed(
        lambda c: c["graph"]["nodes"][2].__setitem__("type", "Tanh")
    ),
    "an adjoint, rehashed": rehashed(lambda c: c["graph"]["nodes"][2].__setitem__("op", "adjoint")),
    "shape, rehashed": rehashed(lambda c: c["graph"]["nodes"][2].__setitem__("shape", [[1]])),
    "padding of a matrix, rehashed": rehashed(
        lambda c: operator_of(c, 2).__setitem__("padding", "mirror")
    ),
    "a row less": lambda c: c["layers"].pop(3),
    "missing key": lambda c: c.pop("layers"),
    "wrong type": set_to("layers", 3),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_changed_certificates_are_refused(case, file):
    path = edited(file, TAMPERED[case])
    _, _, weights, _, model = file
    refused = (ValueError, KeyError, TypeError, IndexError)  # main turns all into a sentence
    with pytest.raises(refused):
        verifier.verify(path, weights)
    for against in (weights, model):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            taut.verify(path, against)


POINTS = {
    "radius": lambda c: c["radius"].__setitem__(0, c["radius"][0] * (1 + 1e-6) + 1e-9),
    "label": lambda c: c["labels"].__setitem__(0, (c["labels"][0] + 1) % 5),
    "label below 0": lambda c: c["labels"].__setitem__(0, -1),
    "hash": lambda c: c["images_sha256"].__setitem__(0, "0" * 64),
    "fewer": lambda c: c["radius"].pop(),
}


@pytest.mark.parametrize("case", POINTS)
def test_changed_points_are_refused_by_the_verifier(case, file):
    x, weights = file[3], file[2]
    path = edited(file, POINTS[case])
    with pytest.raises((ValueError, IndexError)):
        verifier.verify(path, weights, x.numpy())


def test_other_images_are_refused(file):
    _, path, weights, x, _ = file
    other = x.clone()
    other[0, 0, 0, 0] = torch.nextafter(other[0, 0, 0, 0], torch.tensor(2.0))
    for images in (other, x.reshape(6, 2, 4, 16), x[:5], x.transpose(2, 3)):
        with pytest.raises(ValueError, match=r"images are others|zip"):
            verifier.verify(path, weights, images.contiguous().numpy())


def nudge(tensors):
    tensors["0.weight"].view(-1)[0] *= 1 + 2**-23


def swap(tensors):
    tensors["0.weight"] = tensors["0.weight"].flip(0).contiguous()


def rename(tensors):
    tensors["bias"] = tensors.pop("0.bias")


def widen(tensors):
    tensors["0.weight"] = tensors["0.weight"].double()


WEIGHTS = {
    "one ulp": nudge,
    "swapped channels": swap,
    "missing tensor": lambda t: t.pop("7.bias"),
    "another tensor": lambda t: t.__setitem__("extra", torch.ones(1)),
    "another name": rename,
    "another precision": widen,
    "another shape": lambda t: t.__setitem__("7.bias", t["7.bias"].reshape(5, 1)),
    "NaN": lambda t: t["0.weight"].fill_(math.nan),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_changed_weights_are_refused(case, file):
    content, path, weights, _, _ = file
    tensors = load_file(weights)
    WEIGHTS[case](tensors)
    save_file(tensors, weights, {"graph_sha256": content["graph_sha256"]})
    with pytest.raises(ValueError, match=r"others|NaN"):
        verifier.verify(path, weights)
    for against in (weights, tensors):
        with pytest.raises(ValueError, match="weights"):
            taut.verify(path, against)


def test_damaged_weight_files_are_refused(file):
    _, path, weights, _, _ = file
    raw = weights.read_bytes()
    for damaged in (raw[:5], raw[:40], raw[:-1], raw + b"0", b"\xff" * 8 + raw[8:]):
        weights.write_bytes(damaged)
        with pytest.raises((ValueError, KeyError, UnicodeDecodeError)):
            verifier.verify(path, weights)
        with pytest.raises(ValueError, match=r"damaged|weights"):
            taut.verify(path, weights)


def test_json_that_is_not_canonical_is_refused(file):
    content, path, weights, _, _ = file
    text = canonical(content)
    for damaged in (
        text[:-1],
        text.replace('"version":1', '"version":1,"version":1'),
        text.replace('"version":1', '"version": 1'),
        text.replace('"clean_accuracy":1.0', '"clean_accuracy":NaN'),
        text.replace('"clean_accuracy":1.0', '"clean_accuracy":1e999'),
        "[]",
        "",
    ):
        assert damaged != text
        path.write_text(damaged)
        with pytest.raises((ValueError, TypeError)):
            verifier.verify(path, weights)
        with pytest.raises(ValueError, match="certificate"):
            taut.verify(path, weights)
    with pytest.raises(FileNotFoundError):
        taut.verify(path.parent / "nowhere.json", weights)


def test_a_model_that_went_on_training_is_refused(file):
    """A certificate of a stale weight would be about another net."""
    _, path, _, _, model = file
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 1e-7
    try:
        with pytest.raises(ValueError, match="weights are not the ones"):
            taut.verify(path, model)
    finally:
        with torch.no_grad():
            model[0].weight[0, 0, 0, 0] -= 1e-7


def test_another_graph_with_the_same_weights_is_refused(file):
    _, path, _, _, model = file
    other = nn.Sequential(*list(model)[:4], nn.Identity(), *list(model)[4:])
    with pytest.raises(ValueError, match="another graph"):
        taut.verify(path, other)


def test_frozen_models_have_certificates_of_the_same_weights(tmp_path):
    frozen = taut.freeze(orthogonal())
    certificate = prove(frozen, (2, 7, 8))
    path, weights = certificate.save(tmp_path / "c.json")
    assert taut.verify(path, weights) == taut.verify(path, frozen)
    assert "float64" in verifier.verify(path, weights)
    own = prove(orthogonal(), (2, 7, 8)).content()
    assert certificate.content()["weights_sha256"] == own["weights_sha256"]
    assert certificate.content()["bound"] == own["bound"]


def test_equal_models_have_equal_certificates():
    first, second = (prove(plain(), (2, 8, 8)).to_json() for _ in range(2))
    assert first == second


def test_everything_in_the_file_survives_the_round_trip(saved):
    path, _, x, model = saved["plain"]
    content = json.loads(path.read_text())
    result = certify(model, x, model(x).argmax(1), eps=("1/100",))
    assert content["radius"] == result.radius.tolist()
    assert content["pairwise"] == result.bound.pairwise.tolist()
    assert content["error"] == list(result.certificate.composed.error)
    assert content["arithmetic"] == "float64"
    assert set(content["software"]) == {"taut", "torch"}
    assert content["layers"][0]["count"] == 2 * 9 + 2


# The verifier on its own.


def test_verifier_is_short_and_needs_numpy_only():
    source = VERIFIER.read_text()
    assert len(source.splitlines()) < 250
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert names == {"json", "math", "sys", "fractions", "hashlib", "pathlib", "numpy"}


def test_verifier_runs_alone(saved, tmp_path):
    path, weights, x, _ = saved["orthogonal"]
    copy = tmp_path / "verifier.py"
    copy.write_bytes(VERIFIER.read_bytes())
    points = tmp_path / "points.npz"
    np.savez(points, images=x.numpy())
    command = [sys.executable, "-I", str(copy), str(path), str(weights), str(points)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Proven: Lipschitz bound")
    wrong = subprocess.run([*command[:3], str(path), str(path)], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("Refused")
    assert "Traceback" not in wrong.stderr


def operators():
    """Kernels of many kinds, on lines and planes, with their operator and its plain form."""
    generator = torch.Generator().manual_seed(0)
    for i in range(48):
        mode, d = "zeros" if i % 2 else "circular", 1 + (i % 5 > 0)
        k, stride = (1 + i % 4, 1 + i // 4 % 3)[:d], (1 + i % 3, 1 + i // 3 % 2)[:d]
        size = tuple(s * max(3, n) for s, n in zip(stride, k, strict=True))
        out, inside = 1 + i % 5, 1 + (i // 2) % 4
        kernel = torch.randn(out, inside, *k, generator=generator, dtype=torch.float64)
        kernel *= 10.0 ** (i % 7 - 3)
        left = tuple((n - 1) // 2 for n in k)
        right = tuple(n // 2 if s == 1 else (n - 1) // 2 for n, s in zip(k, stride, strict=True))
        op = ConvOperator(kernel, size, stride, padding=Padding(mode, left, right))
        plain = {
            "input_size": [*size], "stride": [*stride], "dilation": [1] * d, "groups": 1,
            "padding": mode, "left": [*left], "right": [*right], "extend": [0] * d,
        }  # fmt: skip
        yield op, plain


def test_verifier_accepts_no_bound_below_the_norm_and_any_a_bit_above():
    for op, plain_op in operators():
        size = op.shape[1]
        eye = torch.eye(size, dtype=torch.float64).reshape(size, -1, *op.input_size)
        dense = op(eye).reshape(size, -1)
        norm = torch.linalg.matrix_norm(dense, 2).item()
        moduli = torch.linalg.matrix_norm(dense.abs(), 2).item()
        kernel, torus = verifier.on_torus(plain_op, op.kernel.numpy(), op.output_size)
        wide = moduli * 2 + 1e-9
        assert not verifier.prove_norms(kernel, torus, norm * (1 - 1e-9), wide)
        grams = verifier.grams(kernel, torus)
        top = math.sqrt(max(np.linalg.eigvalsh(g).max() for g in grams))
        assert top >= norm * (1 - 1e-12)
        if plain_op["padding"] == "circular":
            assert top <= norm * (1 + 1e-9)
        assert verifier.prove_norms(kernel, torus, max(top, norm) * (1 + 1e-7), 1e9)


def test_verifier_sees_peaks_between_the_points_of_its_grid():
    kernel = np.array([-1.2069, -0.2092, 0.2112, 1.2323])  # found by search
    squares = {
        n: np.abs(np.exp(2j * np.pi * np.outer(range(n), range(4)) / n) @ kernel) ** 2
        for n in (32, 3200)
    }
    mean, norm = (kernel**2).sum(), math.sqrt(squares[3200].max())
    on_grid = math.sqrt(mean + np.abs(squares[32] - mean).max())
    assert on_grid < norm * 0.995
    bound = (on_grid + norm) / 2
    assert not verifier.prove_norms(kernel.reshape(1, 1, 4, 1), [3200, 1], bound, 9.0)
    assert verifier.prove_norms(kernel.reshape(1, 1, 4, 1), [3200, 1], norm * (1 + 1e-6), 9.0)


def test_verifier_takes_the_rounding_off_each_margin(saved, tmp_path):
    """A radius that leaves no room for the error is refused."""
    path, weights, x, _ = saved["orthogonal"]
    content = json.loads(path.read_text())
    (a, b), at = content["error"], int(np.argmax(content["radius"]))
    error = a * x[at].norm().item() + b
    slope = max(max(row) for row in content["pairwise"])
    for taken, passes in ((1.9, True), (1.4, False)):  # of the 4 taken off 2 must stay
        content["radius"][at] += taken * error / slope
        (tmp_path / "c.json").write_text(canonical(content))
        if passes:
            verifier.verify(tmp_path / "c.json", weights, x.numpy())
        else:
            with pytest.raises(ValueError, match="radius"):
                verifier.verify(tmp_path / "c.json", weights, x.numpy())


def test_verifier_refuses_a_torus_without_points():
    plain_op = {
        "input_size": [4, 4], "stride": [-1, -1], "dilation": [1, 1], "groups": 1,
        "padding": "zeros", "left": [0, 0], "right": [0, 0], "extend": [0, 0],
    }  # fmt: skip
    with pytest.raises(ValueError, match="not known"):
        verifier.on_torus(plain_op, np.ones((1, 1, 1, 1)), [4, 4])


def test_verifier_knows_that_a_torus_of_the_input_is_too_small_for_zero_padding():
    """FFT at N = n: the alternating kernel is larger under zero padding than on that torus."""
    tap = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    kernel = torch.outer(tap, tap)[None, None] / 9
    for n in (5, 7, 9):
        op = ConvOperator(kernel, (n, n), padding=Padding("zeros", (1, 1), (1, 1)))
        dense = op(torch.eye(n * n, dtype=torch.float64).reshape(-1, 1, n, n)).reshape(n * n, -1)
        norm = torch.linalg.matrix_norm(dense, 2).item()
        naive = torch.fft.fft2(kernel, (n, n)).abs().max().item()
        assert naive < norm * 0.99
        plain_op = {
            "input_size": [n, n], "stride": [1, 1], "dilation": [1, 1], "groups": 1,
            "padding": "zeros", "left": [1, 1], "right": [1, 1], "extend": [0, 0],
        }  # fmt: skip
        k, torus = verifier.on_torus(plain_op, kernel.numpy(), [n, n])
        assert torus == [n + 1, n + 1]
        assert not verifier.prove_norms(k, torus, naive, 10.0)


def test_verifier_counts_biases_towards_the_norm_limit(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias.fill_(1e37)
        model[2].weight.fill_(1.0)
    path, weights = prove(model, (4,), arithmetic="float32").save(tmp_path / "c.json")
    assert "float32" in verifier.verify(path, weights)
    content = json.loads(path.read_text())
    content["norm_limit"] *= 1.001
    path.write_text(canonical(content))
    with pytest.raises(ValueError, match="norm limit"):
        verifier.verify(path, weights)


def test_verifier_runs_the_same_net(saved):
    for path, weights, x, model in saved.values():
        content = json.loads(path.read_text())
        tensors = verifier.read_weights(weights, content)
        z = x.numpy().astype(float)
        for node in content["graph"]["nodes"][1:]:
            z = verifier.run(node, z, tensors)
        expected = prove(model, (2, 8, 8)).logits(model, x)
        np.testing.assert_allclose(z, expected.numpy(), atol=1e-13)


def test_verifier_takes_signals_of_one_dimension(tmp_path):
    """Circular, zero and no padding, and a stride."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(3, 4, 5),
        taut.nn.MaxMin(),
        nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.Conv1d(6, 4, 4, stride=3, padding=2),
        nn.Flatten(),
        nn.Linear(20, 3),
    )
    x = torch.rand(5, 3, 16)
    result = certify(model, x, model(x).argmax(1), eps=())
    path, weights = result.save(tmp_path / "line.json")
    assert (result.radius > 0).all()
    assert "5 images" in verifier.verify(path, weights, x.numpy())
    content = json.loads(path.read_text())
    tensors, z = verifier.read_weights(weights, content), x.numpy().astype(float)
    for node in content["graph"]["nodes"][1:]:
        z = verifier.run(node, z, tensors)
    np.testing.assert_allclose(z, result.certificate.logits(model, x).numpy(), atol=1e-13)
    content["layers"][2]["gains"][0] *= 0.9
    content["layers"][2]["bound"] = content["layers"][2]["gains"][0]
    path.write_text(canonical(content))
    with pytest.raises(ValueError, match="norm"):
        verifier.verify(path, weights)


# The command line.

NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.{activation}(), nn.Linear(8, 3))

value = 3
"""


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NET.replace("{activation}", "ReLU"))
    (tmp_path / "tanh.py").write_text(NET.replace("{activation}", "Tanh"))
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3))
    save_file(layers.state_dict(), tmp_path / "w.safetensors")
    return tmp_path, layers


def cli(capsys, *arguments):
    code = main(["certify", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_any_plain_model_is_certified_from_the_command_line(net, capsys):
    folder, layers = net
    options = ("--model", f"{folder}/net.py:make", "--weights", folder / "w.safetensors")
    code, out, err = cli(capsys, *options, "--input-shape", "3,4,4", "--output", folder / "c.json")
    assert code == 0, err
    bound = float(prove(layers, (3, 4, 4)).bound)
    assert f"Lipschitz bound in l2: {bound:.9g}" in out
    assert "Arithmetic float64" in out
    assert "Linear" in out
    assert taut.verify(folder / "c.json", folder / "c.safetensors").bound == bound


def test_images_of_a_plain_model_are_certified(net, capsys):
    folder, layers = net
    images = np.random.default_rng(0).integers(0, 255, (20, 3, 4, 4), dtype=np.uint8)
    x = torch.from_numpy(images).float() / 255
    labels = layers(x).argmax(1).numpy()
    labels[:3] = [0, 1, 2]
    arrays = {f"{a}_{p}": v for p in ("train", "test") for a, v in (("x", images), ("y", labels))}
    np.savez(folder / "d.npz", **arrays)
    code, out, err = cli(
        capsys, "--model", f"{folder}/net.py:make", "--weights", folder / "w.safetensors",
        "--input-shape", "3,4,4", "--data", folder / "d.npz", "--eps", "0.01",
    )  # fmt: skip
    assert code == 0, err
    assert "20 test images" in out
    assert "0.01" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "run folder, or a model"),
        (("--model", "{}/net.py:make"), "--input-shape"),
        (("--model", "{}/net.py:make", "--input-shape", "3,x"), "`input_shape`"),
        (("--model", "{}/net.py:make", "--input-shape", "3,0,4"), "`input_shape`"),
        (("--model", "{}/net.py:make", "--input-shape", "3,5,5"), "does not fit"),
        (("--model", "{}/none.py:make", "--input-shape", "3,4,4"), "no file"),
        (("--model", "{}/net.py:value", "--input-shape", "3,4,4"), "no function value"),
        (("--model", "{}/net.py", "--input-shape", "3,4,4"), "FILE.py:FUNCTION"),
        (("--model", "{}/tanh.py:make", "--input-shape", "3,4,4"), "Tanh"),
        (("--model", "{}/net.py:make", "--input-shape", "3,4,4", "--eps", "0.1"), "--data"),
        (("--model", "{}/net.py:make", "--weights", "{}/no.safetensors", "--input-shape", "3,4,4"),
         "no file"),
        (("{}", "--model", "{}/net.py:make"), "run folder, or a model"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_sentence(arguments, words, net, capsys):
    code, _, err = cli(capsys, *(a.replace("{}", str(net[0])) for a in arguments))
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


def test_smooth_nets_are_certified_in_real_numbers(net, capsys):
    code, out, _ = cli(
        capsys, "--model", f"{net[0]}/tanh.py:make", "--input-shape", "3,4,4",
        "--arithmetic", "real",
    )  # fmt: skip
    assert code == 0
    assert "Arithmetic real" in out


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import torch\nimport nowhere_at_all\n", "line 2: ModuleNotFoundError: No module named"),
        ("def make():\n    return 1 +\n", "line 2: not Python (invalid syntax)"),
        ("def make():\n    return open('no such file')\n", "line 2: FileNotFoundError"),
        ("def make():\n    import json\n    json.loads('{')\n", "line 3: JSONDecodeError"),
        ("def make():\n    raise SystemExit\n", "line 2: SystemExit"),
        ("def make(width):\n    return width\n", ": TypeError: make() missing 1 required"),
        (
            "def make():\n    raise ValueError('first\\nsecond')\n",
            "line 2: ValueError: first second",
        ),
    ],
)
def test_what_fails_in_the_file_of_a_model_is_named_with_its_line(source, words, tmp_path, capsys):
    file = tmp_path / "broken.py"
    file.write_text(source)
    code, out, err = cli(capsys, "--model", f"{file}:make", "--input-shape", "3,4,4")
    assert (code, out) == (2, "")
    assert str(file) in err
    assert words in err
    assert err.count("\n") == 1
