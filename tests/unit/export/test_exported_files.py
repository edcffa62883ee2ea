"""What was changed in an exported file is seen: it is refused, or read as what it now computes."""

import json
import random
import re
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import taut
from exported_nets import NETS, frozen, in_onnxruntime, inputs, program_files
from taut.export import Exported, export, load


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return program_files(tmp_path_factory)


def onnx_file(name: str, folder: Path) -> tuple[onnx.ModelProto, Path]:
    path = folder / "model.onnx"
    export(frozen(name), path, NETS[name][1])
    return onnx.load(path), path


@pytest.mark.parametrize(
    "name", ["paper", pytest.param("sorting", marks=pytest.mark.slow), "plain"]
)
def test_every_changed_number_of_an_onnx_graph_is_noticed(name, tmp_path):
    """One attribute or index constant after the other is changed by one."""
    original, path = onnx_file(name, tmp_path)
    shape, refused, read = NETS[name][1], 0, 0
    for change in changes(original):
        model = onnx.ModelProto.FromString(original.SerializeToString())
        change(model)
        path.write_bytes(model.SerializeToString())
        try:
            found = load(path).model(inputs(shape))
        except ValueError:
            refused += 1
            continue
        read += 1
        assert torch.allclose(found, in_onnxruntime(path, inputs(shape)), rtol=1e-5, atol=1e-5)
    assert refused > 10
    assert read < refused


def changes(model: onnx.ModelProto):
    for i, node in enumerate(model.graph.node):
        for j, attribute in enumerate(node.attribute):
            if attribute.type == onnx.AttributeProto.INT:
                yield partial(_bump_attribute, i, j, None)
            yield from (partial(_bump_attribute, i, j, k) for k in range(len(attribute.ints)))
        if len(node.input) == 2 and node.op_type in ("Max", "Min", "Concat"):
            yield lambda m, i=i: m.graph.node[i].input.reverse()
        if node.op_type in OTHER:
            yield lambda m, i=i, o=OTHER[node.op_type]: setattr(m.graph.node[i], "op_type", o)
    for i, tensor in enumerate(model.graph.initializer):
        if tensor.data_type == onnx.TensorProto.INT64:
            size = onnx.numpy_helper.to_array(tensor).size
            yield from (partial(_bump_constant, i, k) for k in range(min(4, size)))


OTHER = {"Max": "Min", "Min": "Max", "Relu": "Sigmoid"}


def _bump_attribute(i: int, j: int, k: int | None, m: onnx.ModelProto) -> None:
    attribute = m.graph.node[i].attribute[j]
    if k is None:
        attribute.i += 1
    else:
        attribute.ints[k] += 1


def _bump_constant(i: int, k: int, m: onnx.ModelProto) -> None:
    old = m.graph.initializer[i]
    values = onnx.numpy_helper.to_array(old).copy()
    values.flat[k] += 1 if values.flat[k] < 2**62 else -1
    old.CopyFrom(onnx.numpy_helper.from_array(values, old.name))


def _functions(m):
    """A function that calls itself."""
    node = onnx.helper.make_node("F", ["a"], ["b"], domain="x")
    m.functions.append(onnx.helper.make_function("x", "F", ["a"], ["b"], [node], []))


def _second_output(m):
    m.graph.output.append(m.graph.output[0])


def _external(m):
    m.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def _leave_out(m):
    del m.graph.node[-1]


def _other_domain(m):
    m.graph.node[0].domain = "com.microsoft"


def _other_version(m):
    m.opset_import[0].version = 9


def _wrong_bias(m):
    tensor = next(t for t in m.graph.initializer if t.name.endswith("bias"))
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(1, np.float32), tensor.name))


def _epsilon(m):
    m.graph.node[0].attribute.append(onnx.helper.make_attribute("secret", 3))


def _twice(m):
    """Runtimes differ in which of two constants of one name they take."""
    tensor = m.graph.initializer[0]
    other = onnx.numpy_helper.from_array(9 * onnx.numpy_helper.to_array(tensor), tensor.name)
    m.graph.initializer.append(other)


def _attribute_twice(m):
    node = next(n for n in m.graph.node if n.op_type == "Conv")
    node.attribute.append(onnx.helper.make_attribute("strides", [1, 1]))


def _operators_twice(m):
    m.opset_import.append(onnx.helper.make_opsetid("", 19))


def _property_twice(m):
    m.metadata_props.append(m.metadata_props[0])


def _numbers_twice(m):
    tensor = next(t for t in m.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    tensor.float_data.extend([0.0] * onnx.numpy_helper.to_array(tensor).size)


def _more_axes(m):
    """Multiplying by an array of one number and five axes makes one batch of all."""
    factor = np.ones((1,) * 5, np.float32)
    m.graph.initializer.append(onnx.numpy_helper.from_array(factor, "factor"))
    first, name = m.graph.node[0], m.graph.input[0].name
    first.input[0] = "many"
    m.graph.node.insert(0, onnx.helper.make_node("Mul", [name, "factor"], ["many"]))


def _overload(m):
    m.graph.node[0].overload = "mine"


ONNX_DAMAGE = {
    "a constant twice": (_twice, "is there twice"),
    "an attribute twice": (_attribute_twice, "`strides` is there twice"),
    "operators twice": (_operators_twice, "the set of operators `` is there twice"),
    "a property twice": (_property_twice, "the property `input_shape` is there twice"),
    "numbers twice": (_numbers_twice, "has its numbers twice"),
    "a factor with axes": (_more_axes, "it broadcasts over the batch"),
    "an overload": (_overload, "operator without a reader"),
    "functions": (_functions, "call those before them"),
    "two outputs": (_second_output, "must have one"),
    "numbers elsewhere": (_external, "has its numbers twice"),
    "a missing layer": (_leave_out, "no value of the graph"),
    "another domain": (_other_domain, "operator without a reader"),
    "another version": (_other_version, "operators must be of ONNX"),
    "a bias of one number": (_wrong_bias, "expected bias to be 1-dimensional"),
    "an unknown attribute": (_epsilon, "has the attribute secret"),
}


@pytest.mark.parametrize("case", ONNX_DAMAGE)
def test_strange_onnx_files_are_refused_by_name(case, tmp_path):
    model, path = onnx_file("paper", tmp_path)
    damage, message = ONNX_DAMAGE[case]
    damage(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors"])
def test_damaged_files_are_named(suffix, tmp_path, programs):
    path = tmp_path / f"model{suffix}"
    if suffix == ".pt2":
        path.write_bytes((programs / "paper.pt2").read_bytes())
    else:
        export(frozen("paper"), path, NETS["paper"][1])
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\x80\x05" + whole[:100], whole[50:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            load(path)


def changed_program(source: Path, target: Path, member: str, change) -> None:
    """The archive with the JSON of one member changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(member):
                values = json.loads(content)
                change(values)
                content = json.dumps(values).encode()
            new.writestr(name, content)


def _as_pickle(config):
    next(iter(config["config"].values()))["use_pickle"] = True


def _strided(config):
    metas = (entry["tensor_meta"] for entry in config["config"].values())
    next(meta for meta in metas if len(meta["strides"]) > 1)["strides"].reverse()


def _larger(config):
    next(iter(config["config"].values()))["tensor_meta"]["sizes"][0]["as_int"] = 17


def _below_0(config):
    next(iter(config["config"].values()))["tensor_meta"]["sizes"][0]["as_int"] = -17


def _version(model):
    model["schema_version"]["major"] = 1


def _operator(model):
    nodes = model["graph_module"]["graph"]["nodes"]
    next(n for n in nodes if "maximum" in n["target"])["target"] = "torch.ops.aten.fmax.default"


def _argument(model):
    node = model["graph_module"]["graph"]["nodes"][-1]
    node["inputs"].append({"name": "other", "arg": {"as_int": 2}, "kind": 1})


def _numbers_of_another(config):
    """Torch reads numbers that two names share in the precision of the first."""
    (_, first), (_, second), *_ = config["config"].items()
    second["path_name"] = first["path_name"]


def _returned(model):
    """Another value than the signature says: torch runs the graph."""
    graph = model["graph_module"]["graph"]
    graph["outputs"][0]["as_tensor"]["name"] = first_value(graph["nodes"])


def first_value(nodes):
    """The first tensor that a graph computes."""
    values = (out for node in nodes for out in node["outputs"])
    return next(out["as_tensor"]["name"] for out in values if "as_tensor" in out)


def _swapped(model):
    inputs = model["graph_module"]["graph"]["inputs"]
    inputs[0], inputs[1] = inputs[1], inputs[0]


def _left_out(model):
    """Without `padding` torch takes the dilation, by its place, for the padding."""
    nodes = model["graph_module"]["graph"]["nodes"]
    node = next(n for n in nodes if "conv2d" in n["target"])
    kept = [entry for entry in node["inputs"] if entry["name"] in ("input", "weight", "bias")]
    stride = {"name": "stride", "arg": {"as_ints": [2, 2]}, "kind": 1}
    dilation = {"name": "dilation", "arg": {"as_ints": [1, 1]}, "kind": 1}
    node["inputs"] = [*kept, stride, dilation]


def _argument_twice(model):
    node = model["graph_module"]["graph"]["nodes"][-1]
    node["inputs"].append(node["inputs"][0])


def _elsewhere(model):
    """A buffer that is not persistent lies among the constants, where it is not."""
    spec = model["graph_module"]["signature"]["input_specs"][0]
    ((_, content),) = spec.items()
    name = content.pop("parameter_name")
    spec.clear()
    spec["buffer"] = {**content, "buffer_name": name, "persistent": False}


PROGRAM_DAMAGE = {
    "numbers of another": ("model_weights_config.json", _numbers_of_another, "of another shape"),
    "another output": ("model.json", _returned, "other inputs or outputs"),
    "swapped weights": ("model.json", _swapped, "other inputs or outputs"),
    "an argument left out": ("model.json", _left_out, "other arguments"),
    "an argument twice": ("model.json", _argument_twice, "twice"),
    "a weight elsewhere": ("model.json", _elsewhere, "no plain tensor of the file"),
    "a pickle": ("model_weights_config.json", _as_pickle, "no plain tensor of the file"),
    "strides": ("model_weights_config.json", _strided, "not in their order"),
    "a size": ("model_weights_config.json", _larger, "not as many numbers"),
    "a size below 0": ("model_weights_config.json", _below_0, "a size below 0"),
    "a version": ("model.json", _version, "of the format"),
    "an operator": ("model.json", _operator, "operator without a reader"),
    "an argument": ("model.json", _argument, "other arguments"),
}


@pytest.mark.parametrize("case", PROGRAM_DAMAGE)
def test_strange_programs_are_refused_by_name(case, tmp_path, programs):
    member, change, message = PROGRAM_DAMAGE[case]
    changed_program(programs / "paper.pt2", tmp_path / "model.pt2", member, change)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(tmp_path / "model.pt2")
    assert "model.pt2" in str(caught.value)


def test_a_changed_module_is_refused_and_never_run(tmp_path):
    path = tmp_path / "model.safetensors"
    export(frozen("paper"), path, NETS["paper"][1])
    module = tmp_path / "model.py"
    module.write_text(module.read_text() + "\nraise SystemExit\n")
    with pytest.raises(ValueError, match=r"model\.py is not the module .*: it was changed"):
        load(path)
    module.unlink()
    assert load(path).input_shape == NETS["paper"][1]  # the tensors say all that is to be proven


def test_places_of_what_was_sorted_are_no_values(tmp_path, programs):
    """Both formats name them; torch would let them stand for an earlier value of that name."""

    def reuse(model):
        nodes = model["graph_module"]["graph"]["nodes"]
        sort = next(n for n in nodes if "sort" in n["target"])
        sort["outputs"][1]["as_tensor"]["name"] = first_value(nodes)

    changed_program(programs / "sorting.pt2", tmp_path / "model.pt2", "model.json", reuse)
    with pytest.raises(ValueError, match="is made twice"):
        load(tmp_path / "model.pt2")
    model, path = onnx_file("sorting", tmp_path)
    sort = next(n for n in model.graph.node if n.op_type == "TopK")
    sort.output[1] = model.graph.node[0].output[0]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="is made twice"):
        load(path)


MEMBERS = {
    "a member twice": (lambda root: f"{root}/models/model.json", "twice"),
    "a second folder": (lambda root: "other/models/other.json", "it must hold one folder"),
    "weights of old": (lambda root: f"{root}/data/weights/model.pt", "torch would take"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", MEMBERS)
def test_archives_with_something_else_that_torch_may_load_are_refused(case, tmp_path, programs):
    name, message = MEMBERS[case]
    path = tmp_path / "model.pt2"
    path.write_bytes((programs / "paper.pt2").read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.namelist()[0]
        content = archive.read(f"{first.partition('/')[0]}/models/model.json")
        archive.writestr(name(first.partition("/")[0]), content)
    with pytest.raises(ValueError, match=message):
        load(path)


def loaded(path: Path) -> tuple[Exported | None, str]:
    try:
        return load(path), ""
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors"])
def test_flipped_bits_and_cut_files_are_refused_or_change_nothing_unseen(
    suffix, tmp_path, programs
):
    """Of ONNX, which has no checksum, what is read computes what onnxruntime computes."""
    shape, path = NETS["paper"][1], tmp_path / f"model{suffix}"
    if suffix == ".pt2":
        path.write_bytes((programs / "paper.pt2").read_bytes())
    else:
        export(frozen("paper"), path, shape)
    whole, draw, x = path.read_bytes(), random.Random(0), inputs(shape)
    expected = load(path).model(x)
    for trial in range(60):
        content = bytearray(whole)
        place = draw.randrange(len(whole))
        if trial % 4:
            content[place] ^= 1 << draw.randrange(8)
        else:
            del content[place:]
        path.write_bytes(content)
        found, reason = loaded(path)
        if found is None:
            assert str(path) in reason
            assert "\n" not in reason
            continue
        if suffix == ".onnx":
            expected = in_onnxruntime(path, x)
        assert torch.allclose(found.model(x), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_have_no_bound(value, tmp_path):
    model, path = onnx_file("paper", tmp_path)
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    numbers = onnx.numpy_helper.to_array(tensor).copy()
    numbers.flat[0] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(numbers, tensor.name))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"finite|NaN|nan"):
        taut.lipschitz_bound(*load(path))
