"""Certificate files: what honest ones say, and that no changed one passes."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import forgery
import taut
from taut._display import rounded_up
from taut.certification import certify, prove, verifier
from taut.cli import main
from taut.program import AbstractOp, Rounding, canonical, op


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Certificates of two nets, with images."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("plain", "orthogonal")}
    return {name: forgery.certified(name, folder, images=6) for name, folder in folders.items()}


@pytest.fixture
def file(saved, tmp_path):
    """A copy of one certificate to tamper with: content, paths, images, model."""
    path, weights, points, _, model = saved["plain"]
    copy = tmp_path / "certificate.json"
    copy.write_bytes(path.read_bytes())
    (tmp_path / "certificate.safetensors").write_bytes(weights.read_bytes())
    return json.loads(copy.read_text()), copy, copy.with_suffix(".safetensors"), points, model


@pytest.mark.parametrize("name", ["plain", "orthogonal"])
def test_honest_certificates_pass(name, saved):
    path, weights, points, _, model = saved[name]
    assert taut.verify(path, weights).bound == json.loads(path.read_text())["bound"]
    assert taut.verify(path, load_file(weights)) == taut.verify(path, model)
    assert "6 images" in verifier.verify(path, weights, points)
    if name == "orthogonal":
        assert taut.verify(path, taut.freeze(model).state_dict()).arithmetic == "float64"


@pytest.mark.parametrize("arithmetic", ["float32", "real"])
def test_other_arithmetics_pass_too(arithmetic, tmp_path):
    path, weights = forgery.honest(forgery.orthogonal(), (2, 8, 8), tmp_path, arithmetic)
    assert taut.verify(path, weights).arithmetic == arithmetic
    assert arithmetic in verifier.verify(path, weights)


@pytest.mark.parametrize("name", forgery.MODELS)
def test_every_operation_is_proven_from_the_file_alone(name, tmp_path):
    for arithmetic in ("float64", "real"):
        path, weights, _, _, model = forgery.certified(name, tmp_path, arithmetic)
        assert taut.verify(path, weights) == taut.verify(path, model)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("share", torch.tensor(0.5))

    def forward(self, x):
        return torch.cat([x + self.share * torch.relu(self.fc(x)), x], 1)


def test_graphs_with_branches_need_no_model(tmp_path):
    model = nn.Sequential(Residual(), nn.Linear(12, 3))
    path, weights = forgery.honest(model, (6,), tmp_path)
    assert taut.verify(path, weights) == taut.verify(path, model)
    assert "float64" in verifier.verify(path, weights)


class Tripled(nn.Module):
    def forward(self, x):
        return 3.0 * x


@op(Tripled)
class TripledOp(AbstractOp):
    proof = "a factor"

    def gains(self, site):
        return (3.0,)

    def rounding(self, site):
        return Rounding(1, 3.0)


def test_layers_of_ones_own_need_the_model(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), Tripled(), nn.Linear(4, 3))
    path, weights = forgery.honest(model, (4,), tmp_path)
    assert taut.verify(path, model).input_shape == (4,)
    with pytest.raises(ValueError, match=r"`1` is a custom.Tripled, .* without the model; pass it"):
        taut.verify(path, weights)
    with pytest.raises(ValueError, match=r"`1` \(custom.Tripled\): this verifier does not know"):
        verifier.verify(path, weights)


def test_precisions_and_names_of_all_kinds_are_verified(tmp_path):
    """Names that attributes of modules have; whole numbers; float16 and float64 side by side."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.program = nn.Parameter(torch.rand(4, dtype=torch.float64))
            self.any_size = nn.Linear(4, 3).double()
            self.register_buffer("shifts", torch.tensor([1, 2, 3, 4]))
            self.register_buffer("halved", torch.rand(1, 4).half())

        def forward(self, x):
            return self.any_size(torch.maximum(x * self.program + self.halved, self.shifts))

    model = Odd()
    path, weights = forgery.honest(model, (4,), tmp_path)
    assert taut.verify(path, weights) == taut.verify(path, model)
    assert "float64" in verifier.verify(path, weights)


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


def node(place, key, value):
    return lambda content: content["graph"]["nodes"][place].__setitem__(key, value)


def args(place, **values):
    return lambda content: content["graph"]["nodes"][place]["args"].update(values)


rehashed = forgery.rehashed
PADDING = {"mode": "zeros", "left": [1, 1], "right": [1, 1], "extend": [0, 0]}
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
    "version": set_to("version", 3),
    "an old version": set_to("version", 1),
    "arithmetic": set_to("arithmetic", "float32"),
    "no arithmetic": set_to("arithmetic", "exact"),
    "input shape": lambda c: c["input"].__setitem__("shape", [2, 6, 6]),
    "weights hash": set_to("weights_sha256", "0" * 64),
    "graph hash": set_to("graph_sha256", "0" * 64),
    "stride": args(2, stride=[1, 1]),
    "stride, rehashed": rehashed(args(2, stride=[1, 1])),
    "a mode that nobody knows, rehashed": rehashed(args(0, padding=PADDING | {"mode": "mirror"})),
    "another name of zeros, rehashed": rehashed(args(0, padding=PADDING | {"mode": "constant"})),
    "pads, rehashed": rehashed(args(0, padding=PADDING | {"left": [0, 0]})),
    "pads to and fro, rehashed": rehashed(
        args(0, padding=PADDING | {"left": [-1, 1], "extend": [2, 0]})
    ),
    "dilation, rehashed": rehashed(args(0, dilation=[2, 2])),
    "groups, rehashed": rehashed(args(0, groups=2)),
    "another argument, rehashed": rehashed(args(0, transposed=False)),
    "a missing argument, rehashed": rehashed(lambda c: c["graph"]["nodes"][0]["args"].popitem()),
    "no activation, rehashed": rehashed(node(1, "op", "tanh")),
    "no operation, rehashed": rehashed(node(1, "op", "cosh")),
    "another key, rehashed": rehashed(node(1, "proof", "see above")),
    "shape, rehashed": rehashed(node(1, "shape", [1])),
    "a roundabout shape, rehashed": rehashed(node(4, "shape", [-1])),
    "the flattened shape, rehashed": rehashed(node(4, "shape", [96, 1])),
    "a row less": lambda c: c["layers"].pop(3),
    "a row more": lambda c: c["layers"].append(c["layers"][1]),
    "missing key": lambda c: c.pop("layers"),
    "another word": set_to("warranty", "none"),
    "half of what is said of images": lambda c: c.pop("radius"),
    "wrong type": set_to("layers", 3),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_changed_certificates_are_refused(case, file):
    path = edited(file, TAMPERED[case])
    content, _, weights, _, model = file
    tensors, _ = forgery.load_tensors(weights)
    forgery.save_tensors(weights, tensors, {"graph_sha256": content["graph_sha256"]})
    with pytest.raises(verifier.Refused, match=r"^[^\n]+$"):
        verifier.verify(path, weights)
    for against in (weights, model):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            taut.verify(path, against)


def test_a_true_certificate_of_another_net_fits_neither_weights_nor_points(file):
    path = edited(file, rehashed(args(0, padding=PADDING | {"mode": "circular"})))
    content, _, weights, points, model = file
    for check, against in (
        (taut.verify, weights),
        (taut.verify, model),
        (verifier.verify, weights),
    ):
        with pytest.raises(ValueError, match=r"not the certified one|another graph"):
            check(path, against)
    tensors, _ = forgery.load_tensors(weights)
    forgery.save_tensors(weights, tensors, {"graph_sha256": content["graph_sha256"]})
    assert verifier.verify(path, weights)
    with pytest.raises(verifier.Refused, match="image 0"):
        verifier.verify(path, weights, points)


def test_old_certificates_are_told_what_they_lack(file):
    path = edited(file, set_to("version", 1))
    with pytest.raises(
        ValueError, match="version 1: it says nothing of the precision of the images"
    ):
        taut.verify(path, file[2])
    with pytest.raises(ValueError, match="version is 1, not 2: certify the model again"):
        verifier.verify(path, file[2])


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
    with pytest.raises(ValueError, match=r"certificate.safetensors: .*(others|NaN)"):
        verifier.verify(path, weights)
    for against in (weights, tensors):
        with pytest.raises(ValueError, match="weights"):
            taut.verify(path, against)


def test_damaged_weight_files_are_refused(file):
    _, path, weights, _, _ = file
    raw = weights.read_bytes()
    for damaged in (raw[:5], raw[:40], raw[:-1], raw + b"0", b"\xff" * 8 + raw[8:]):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"certificate\.safetensors: "):
            verifier.verify(path, weights)
        with pytest.raises(ValueError, match=r"damaged|weights"):
            taut.verify(path, weights)


def test_missing_files_are_named(file):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        taut.verify(file[1].parent / "nowhere.json", file[2])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        taut.verify(file[1], file[1].parent / "nowhere.safetensors")


def test_a_model_that_went_on_training_is_refused(file):
    """A certificate of a stale weight would be about another net."""
    _, path, _, _, model = file
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 1e-7
    try:
        with pytest.raises(ValueError, match="weights are not the certified ones"):
            taut.verify(path, model)
    finally:
        with torch.no_grad():
            model[0].weight[0, 0, 0, 0] -= 1e-7


def test_another_graph_with_the_same_weights_is_refused(file):
    _, path, _, _, model = file
    other = nn.Sequential(*list(model)[:3], nn.LeakyReLU(), *list(model)[4:])
    with pytest.raises(ValueError, match=r"not the certified one|another graph"):
        taut.verify(path, other)


def test_frozen_models_have_certificates_of_the_same_weights(tmp_path):
    frozen = taut.freeze(forgery.orthogonal())
    certificate = prove(frozen, (2, 7, 8))
    path, weights = certificate.save(tmp_path / "c.json")
    assert taut.verify(path, weights) == taut.verify(path, frozen)
    assert "float64" in verifier.verify(path, weights)
    own = prove(forgery.orthogonal(), (2, 7, 8)).content()
    assert certificate.content()["weights_sha256"] == own["weights_sha256"]
    assert certificate.content()["bound"] == own["bound"]


def test_equal_models_have_equal_certificates():
    first, second = (prove(forgery.plain(), (2, 8, 8)).to_json() for _ in range(2))
    assert first == second


def test_another_machine_confirms_what_is_rounded_otherwise(tmp_path):
    """Its own proofs may come out a little larger: bounds in files leave room for that."""
    path, weights, *_ = forgery.certified("plain", tmp_path)
    before = json.loads(path.read_text())["layers"]
    with pytest.MonkeyPatch.context() as patch:
        original = torch.linalg.cholesky_ex
        patch.setattr(torch.linalg, "cholesky_ex", lambda m: original(m * (1 + 2.0**-48)))
        assert prove(forgery.plain(), (2, 8, 8)).content()["layers"] != before
        assert taut.verify(path, weights)


def test_everything_in_the_file_survives_the_round_trip(saved):
    path, _, _, x, model = saved["plain"]
    content = json.loads(path.read_text())
    result = certify(model, x, model(x).argmax(1), eps=("1/1000", 0.05))
    assert content["radius"] == result.radius.tolist()
    assert content["pairwise"] == result.bound.pairwise.tolist()
    assert content["error"] == list(result.certificate.composed.error)
    assert content["arithmetic"] == "float64"
    assert set(content["software"]) == {"taut", "torch"}
    assert content["layers"][0]["count"] == 2 * 9 + 2


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
    assert f"Lipschitz bound in l2: {rounded_up(bound)}" in out
    assert "Arithmetic float64" in out
    assert "Linear" in out
    assert taut.verify(folder / "c.json", folder / "c.safetensors").bound == bound


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_weights_that_torch_saved_are_read(suffix, net, capsys):
    folder, layers = net
    torch.save(layers.state_dict(), folder / f"w{suffix}")
    source = ("--model", f"{folder}/net.py:make", "--input-shape", "3,4,4", "--weights")
    code, out, err = cli(capsys, *source, folder / f"w{suffix}")
    assert (code, err) == (0, "")
    assert rounded_up(prove(layers, (3, 4, 4)).bound) in out
    content = (folder / f"w{suffix}").read_bytes()
    for wrong, words in (
        (layers, "holds more than tensors"),
        ({"model": layers.state_dict()}, "must hold a state_dict"),
        (content[:200], "is damaged"),
    ):
        path = folder / f"wrong{suffix}"
        path.write_bytes(wrong) if isinstance(wrong, bytes) else torch.save(wrong, path)
        code, _, err = cli(capsys, *source, path)
        assert (code, err.count("\n")) == (2, 1)
        assert str(path) in err
        assert words in err
    assert "no file" in cli(capsys, *source, folder / f"gone{suffix}")[2]


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
        ((), "an exported file, or a model"),
        (("--model", "{}/net.py:make"), "--input-shape"),
        (("--model", "{}/net.py:make", "--input-shape", "3,x"), "`--input-shape`"),
        (("--model", "{}/net.py:make", "--input-shape", "3,0,4"), "`--input-shape`"),
        (("--model", "{}/net.py:make", "--input-shape", "3,5,5"), "does not fit"),
        (("--model", "{}/none.py:make", "--input-shape", "3,4,4"), "no file"),
        (("--model", "{}/net.py:value", "--input-shape", "3,4,4"), "net.py:value must be"),
        (("--model", "{}/net.py", "--input-shape", "3,4,4"), "FILE.py:NAME"),
        (("--model", "{}/tanh.py:make", "--input-shape", "3,4,4"), "Tanh"),
        (("--model", "{}/net.py:make", "--input-shape", "3,4,4", "--eps", "0.1"), "--data"),
        (("--model", "{}/net.py:make", "--weights", "{}/no.safetensors", "--input-shape", "3,4,4"),
         "no file"),
        (("{}", "--model", "{}/net.py:make"), "or `--model`, not both"),
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
