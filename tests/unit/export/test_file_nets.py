"""Files that torch's exporters write of many nets have the bounds of the nets."""

import random
import shutil

import onnx
import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import taut
from experiments._file_nets import EXPORTERS, NETS, made
from exported_nets import in_onnxruntime, run
from taut._display import rounded_up
from taut.cli import main
from taut.export import load
from taut.program import READS, verifiable_bound

WRITE = """
import sys
sys.path.insert(0, "..")
from pathlib import Path
from experiments._file_nets import write_all
write_all(Path(sys.argv[1]), sys.argv[2:])
"""
ALWAYS = (
    "strided conv net", "resnet", "paper", "maxmin", "selected", "wavenet", "unet upsampled",
    "buffers", "shuffled", "mlp silu", "signals", "circular", "tokens", "reflected", "mlp prelu",
    "mlp gelu",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made_in = tmp_path_factory.mktemp("nets")
    run(WRITE, made_in, *ALWAYS)
    return made_in


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory):
    made_in = tmp_path_factory.mktemp("all")
    run(WRITE, made_in, *NETS)
    return made_in


def file_of(folder, name, number):
    (path,) = (p for p in (folder / name / str(number)).iterdir() if p.suffix in (".onnx", ".pt2"))
    return path


def check(folder, name, number):
    path = file_of(folder, name, number)
    model, shape = made(name)
    read, said = load(path)
    assert said == shape
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(read(x), model(x), rtol=1e-4, atol=1e-5)
    bound, found = (float(taut.lipschitz_bound(m, shape)) for m in (model, read))
    norms = any("BatchNorm" in type(module).__name__ for module in model.modules())
    if norms:  # folded into the layer before by some
        assert slope(model, x[0]) <= found * (1 + 1e-6)
        # Decomposed, a norm is factors that are not all composed with the layer before.
        most = float(taut.lipschitz_bound(model, shape, passes=())) if number == 3 else bound
        assert found <= most * (1 + 1e-6)
    else:
        # Numbers of GELU that were rounded, with a sharper proof.
        assert found == pytest.approx(bound, rel=1e-5 if name == "mlp gelu" else 1e-9)


def slope(model, x):
    """The norm of the Jacobian at a point."""
    wide = model.double()
    jacobian = torch.autograd.functional.jacobian(lambda v: wide(v[None])[0].flatten(), x.double())
    return torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2).item()


@pytest.mark.parametrize("number", range(len(EXPORTERS)), ids=list(EXPORTERS))
@pytest.mark.parametrize("name", ALWAYS)
def test_a_file_has_the_bound_of_its_net(folder, name, number):
    check(folder, name, number)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("number", range(len(EXPORTERS)), ids=list(EXPORTERS))
@pytest.mark.parametrize("name", [name for name in NETS if name not in ALWAYS])
def test_files_of_all_nets_have_their_bounds(whole_folder, name, number):
    check(whole_folder, name, number)


@pytest.mark.parametrize("number", [0, 1])
def test_a_folded_batch_norm_is_bounded_as_the_layer_that_it_became(folder, number):
    model, shape = made("signals")
    model[0], model[1] = fuse_conv_bn_eval(model[0], model[1]), nn.Identity()
    bound = float(taut.lipschitz_bound(model, shape))
    found = float(taut.lipschitz_bound(*load(file_of(folder, "signals", number))))
    assert found == pytest.approx(bound, rel=1e-6)


def taut_command(capsys, *arguments):
    """Exit code, output and errors of a command."""
    code = main(list(map(str, arguments)))
    return code, *capsys.readouterr()


def test_taut_certify_takes_what_torch_writes(folder, capsys, tmp_path):
    """Weights lie beside the file, as torch writes them; without them one sentence says so."""
    path = file_of(folder, "strided conv net", 0)
    code, out, err = taut_command(capsys, "certify", path)
    model, shape = made("strided conv net")
    assert (code, err) == (0, "")
    assert f"Lipschitz bound in l2: {rounded_up(verifiable_bound(model, shape))}" in out
    alone = shutil.copy(path, tmp_path / "net.onnx")
    code, out, err = taut_command(capsys, "certify", alone)
    assert code == 2
    assert "lies in net.onnx.data, which is not in" in err
    assert len(err.strip().splitlines()) <= 2


def test_a_frozen_maxmin_is_read_as_one(folder):
    for number in range(len(EXPORTERS)):
        read, shape = load(file_of(folder, "maxmin", number))
        assert [node.op for node in read.program.nodes] == ["linear", "MaxMin", "linear"]
        assert float(taut.lipschitz_bound(read, shape)) <= 1 + 1e-5


def test_taut_load_takes_them(folder):
    for number in range(len(EXPORTERS)):
        assert taut.load(file_of(folder, "maxmin", number))(torch.zeros(1, 8)).shape == (1, 4)


def changed(model, draw):
    """One number, name or operator of a graph changed."""
    node, kind = draw.choice(model.graph.node), draw.randrange(4)
    wholes = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT64]
    if kind == 0 and node.attribute:
        attribute = draw.choice(node.attribute)
        attribute.i += draw.choice([-1, 1, 2**40])
        if attribute.ints:
            attribute.ints[draw.randrange(len(attribute.ints))] += draw.choice([-1, 1, 2**40])
        attribute.f = draw.choice([0.0, -1.0, float("nan"), float("inf")])
    elif kind == 1 and wholes:
        tensor = draw.choice(wholes)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values.flat[draw.randrange(max(1, values.size))] += draw.choice([-1, 1, 2, 2**40])
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    elif kind == 2 and node.input:
        others = [name for other in model.graph.node for name in (*other.output, *other.input)]
        node.input[draw.randrange(len(node.input))] = draw.choice(others)
    else:
        node.op_type = draw.choice(sorted(READS))


def bounded(path):
    """The model of a file with a bound, and its shape; or why there is none."""
    try:
        read, shape = load(path)
        taut.lipschitz_bound(read, shape)
    except ValueError as error:
        return None, (), str(error)
    return read, shape, ""


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["maxmin", "paper", "shuffled", "unet upsampled", "wavenet"])
def test_changed_files_are_refused_in_one_sentence_or_compute_what_they_say(
    folder, name, number, tmp_path
):
    """What onnxruntime refuses at the size at hand is not compared."""
    original, draw = onnx.load(file_of(folder, name, number)), random.Random(number + 7)
    path, refused, compared = tmp_path / "net.onnx", 0, 0
    for _ in range(25):
        model = onnx.ModelProto.FromString(original.SerializeToString())
        changed(model, draw)
        path.write_bytes(model.SerializeToString())
        read, shape, reason = bounded(path)
        assert "\n" not in reason
        if read is None:
            refused += 1
            continue
        x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
        try:
            expected = in_onnxruntime(path, x)
        except Exception:  # of onnxruntime, which has many
            continue
        compared += 1
        assert torch.allclose(read(x), expected, rtol=1e-3, atol=1e-4, equal_nan=True)
    assert refused > 3
    assert refused + compared > 10
