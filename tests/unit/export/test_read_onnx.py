"""ONNX files of other writers: what is read computes what onnxruntime does, or is refused."""

import re

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import taut
from exported_nets import in_onnxruntime, inputs
from taut.export import load

FLOAT = TensorProto.FLOAT
RANDOM = np.random.default_rng(0)


def numbers(*shape, kind=np.float32):
    return RANDOM.standard_normal(shape).astype(kind)


def written(path, nodes, constants, shape, *, opset=17, batch="batch", functions=(), kind=FLOAT):
    """A file of nodes (operator, inputs, options), each of which reads the one before as "x"."""
    made, last = [], "input"
    for i, (op, names, options) in enumerate(nodes):
        options = dict(options)
        outputs = [f"y{i}", *options.pop("more", [])]
        named = [last if name == "x" else name for name in names]
        made.append(helper.make_node(op, named, outputs, f"node{i}", **options))
        last = options.pop("last", outputs[0])
    graph = helper.make_graph(
        made,
        "net",
        [helper.make_tensor_value_info("input", kind, [batch, *shape])],
        [helper.make_tensor_value_info(last, kind, None)],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    domains = {f.domain for f in functions}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


IMAGE, SIGNAL, FLAT = (3, 8, 7), (3, 9), (6,)
KERNEL = {"w": numbers(4, 3, 3, 3), "b": numbers(4)}
TURNED = {"w": numbers(3, 4, 3, 3), "b": numbers(4)}


def one(op, *names, constants=None, shape=IMAGE, **options):
    return [(op, ["x", *names], options)], constants or {}, shape


def fixed(case, batch):
    """The case in a file for batches of one size."""
    return (*case, (batch,))


def conv(**options):
    return one("Conv", "w", "b", constants=KERNEL, **options)


def turned(**options):
    return one("ConvTranspose", "w", "b", constants=TURNED, **options)


def resized(scales=None, sizes=None, **options):
    held = {}
    if scales:
        held["s"] = np.array(scales, np.float32)
    if sizes:
        held["n"] = np.array(sizes, np.int64)
    names = ["", "s"] if scales else ["", "", "n"]
    return one("Resize", *names, constants=held, shape=(2, 5, 4), **options)


CASES = {
    "conv": conv(pads=[1, 0, 2, 1]),
    "conv same upper": conv(auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv same lower": conv(auto_pad="SAME_LOWER", strides=[2, 3]),
    "conv valid": conv(auto_pad="VALID", dilations=[2, 1]),
    "conv 1-d": one("Conv", "w", constants={"w": numbers(2, 3, 4)}, shape=SIGNAL, pads=[2, 1]),
    "conv 3-d": one(
        "Conv", "w", constants={"w": numbers(2, 1, 2, 2, 2)}, shape=(1, 4, 3, 4), strides=[2, 1, 2]
    ),
    "transposed": turned(strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 0]),
    "transposed unevenly": turned(strides=[2, 3], pads=[0, 1, 2, 0]),
    "transposed to a shape": turned(strides=[2, 2], output_shape=[16, 15]),
    "transposed to an odd shape": turned(strides=[2, 2], output_shape=[16, 14]),
    "transposed same upper": turned(strides=[2, 2], auto_pad="SAME_UPPER"),
    "transposed same lower": turned(strides=[2, 2], auto_pad="SAME_LOWER"),
    "max pool": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "max pool up": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "max pool padded up": one(
        "MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0], ceil_mode=1
    ),
    "max pool same upper": one(
        "MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "max pool same lower": one(
        "MaxPool", kernel_shape=[3, 2], strides=[2, 1], auto_pad="SAME_LOWER"
    ),
    "max pool valid": one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID"),
    "max pool behind": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 1]),
    "average pool": one("AveragePool", kernel_shape=[2, 3], strides=[2, 2]),
    "average pool counted": one(
        "AveragePool", kernel_shape=[2, 3], pads=[1, 0, 0, 2], count_include_pad=1
    ),
    "global average": one("GlobalAveragePool"),
    "global maximum": one("GlobalMaxPool"),
    "gemm": one("Gemm", "w", "b", constants={"w": numbers(6, 4), "b": numbers(4)}, shape=FLAT),
    "gemm scaled": one(
        "Gemm", "w", "b", constants={"w": numbers(4, 6), "b": numbers(1, 1)}, shape=FLAT,
        alpha=0.5, beta=2.0, transB=1,
    ),
    "gemm without bias": one("Gemm", "w", constants={"w": numbers(6, 2)}, shape=FLAT, alpha=2.0),
    "matrix": one("MatMul", "w", constants={"w": numbers(7, 4)}),
    "a copy of a weight": (
        [("Identity", ["w"], {}), ("MatMul", ["input", "x"], {})], {"w": numbers(7, 4)}, IMAGE
    ),
    "matrix from the left": (
        [("MatMul", ["w", "x"], {})], {"w": numbers(4, 8)}, IMAGE
    ),
    "pad": one("Pad", "p", "v", constants={
        "p": np.array([0, 0, 1, -1, 0, 1, 2, 0]), "v": np.float32(0.5)}),
    "pad edges": one("Pad", "p", constants={"p": np.array([0, 0, 1, 0, 0, 0, 2, 3])}, mode="edge"),
    "pad reflections": one(
        "Pad", "p", constants={"p": np.array([0, 0, 1, 2, 0, 0, 0, 1])}, mode="reflect"
    ),
    "resize nearest": resized([1, 1, 2, 3], coordinate_transformation_mode="asymmetric",
                              nearest_mode="floor"),
    "resize to sizes": fixed(
        resized(sizes=[2, 2, 7, 4], coordinate_transformation_mode="asymmetric",
                nearest_mode="floor"), 2,
    ),
    "resize half pixels": resized([1, 1, 2, 0.5]),
    "resize half pixels up": resized([1, 1, 1.5, 2], nearest_mode="round_prefer_ceil"),
    "resize ceil": resized([1, 1, 1.5, 2], nearest_mode="ceil",
                           coordinate_transformation_mode="align_corners"),
    "transpose and flatten": (
        [("Transpose", ["x"], {"perm": [0, 2, 3, 1]}), ("Flatten", ["x"], {"axis": -3})], {}, IMAGE
    ),
    "flatten all": one("Flatten"),
    "reshape": one("Reshape", "n", constants={"n": np.array([0, -1, 7])}),
    "reshape and zeros": one(
        "Reshape", "n", constants={"n": np.array([-1, 24, 7])}, allowzero=1
    ),
    "squeeze": (
        [("Unsqueeze", ["x", "a"], {}), ("Squeeze", ["x", "c"], {})],
        {"a": np.array([1, -1]), "c": np.array([1])}, FLAT,
    ),
    "means": one("ReduceMean", axes=[2, 3], keepdims=0),
    "sums": one("ReduceSum", "a", constants={"a": np.array([-1])}),
    "split": (
        [("Split", ["x"], {"axis": 2, "more": ["z"]}), ("Sub", ["x", "z"], {})], {}, IMAGE
    ),
    "split by sizes": (
        [("Split", ["x", "n"], {"axis": 3, "more": ["z"]}),
         ("Concat", ["z", "x", "z"], {"axis": 3})],
        {"n": np.array([3, 4])}, IMAGE,
    ),
    "slices": one("Slice", "s", "e", "a", "t", constants={
        "s": np.array([1, -6]), "e": np.array([2**31 - 1, -1]), "a": np.array([2, -1]),
        "t": np.array([2, 1])}),
    "slices of the batch": one("Slice", "s", "e", constants={
        "s": np.array([0, 1]), "e": np.array([2**31 - 1, 3])}),
    "back to front": one("Slice", "s", "e", "a", "t", constants={
        "s": np.array([-1]), "e": np.array([-(2**63)]), "a": np.array([2]), "t": np.array([-1])}),
    "gather": one("Gather", "i", constants={"i": np.array([2, -1, 0])}, axis=2),
    "gather one": one("Gather", "i", constants={"i": np.array(-2)}, axis=1),
    "gather more axes": one("Gather", "i", constants={"i": np.array([[0, 1], [3, -4]])}, axis=-1),
    "gather behind a transposition": (
        [("Transpose", ["x"], {"perm": [2, 0, 1, 3]}), ("GatherND", ["x", "i"], {}),
         ("Transpose", ["x"], {"perm": [1, 2, 0, 3]})],
        {"i": np.array([[4], [0]])}, IMAGE,
    ),
    "tile": one("Tile", "n", constants={"n": np.array([1, 2, 1, 3])}),
    "expand": (
        [("Expand", ["x", "n"], {})], {"n": np.array([1, 3, 8, 5])}, (1, 8, 1),
    ),
    "sum of three": one("Sum", "a", "x", constants={"a": numbers(1, 3, 1, 1)}),
    "mean of two": one("Mean", "a", constants={"a": numbers(8, 1)}),
    "largest of three": (
        [("Relu", ["x"], {}), ("Max", ["x", "input", "a"], {})], {"a": numbers(3, 1, 7)}, IMAGE
    ),
    "smallest with a number": one("Min", "a", constants={"a": np.float32(0.25)}),
    "number minus x": (
        [("Sub", ["a", "x"], {}), ("Div", ["x", "b"], {})],
        {"a": np.float32(0.25), "b": numbers(3, 1, 1)}, IMAGE,
    ),
    "clip": one("Clip", "", "h", constants={"h": np.float32(0.25)}),
    "clip by arrays of one": one(
        "Clip", "l", "h", constants={"l": np.float32(-0.5), "h": np.float32(0.25)}
    ),
    "prelu": one("PRelu", "a", constants={"a": numbers(3, 1, 1)}),
    "prelu of one slope": one("PRelu", "a", constants={"a": numbers(1)}),
    "leaky": one("LeakyRelu", alpha=0.25),
    "hard sigmoid": one("HardSigmoid", alpha=0.25),
    "other selu": one("Selu", alpha=1.5, gamma=0.5),
    "softmax": one("Softmax", axis=1),
    "depth to space": one("DepthToSpace", blocksize=2, shape=(8, 3, 2)),
    "depth to space by columns": one(
        "DepthToSpace", blocksize=2, shape=(8, 3, 2), mode="CRD"
    ),
    "space to depth": one("SpaceToDepth", blocksize=2, shape=(3, 4, 6)),
    "batch norm": one(
        "BatchNormalization", "s", "b", "m", "v", epsilon=0.01,
        constants={"s": numbers(3), "b": numbers(3), "m": numbers(3), "v": numbers(3) ** 2},
    ),
    "dropout": (
        [("Dropout", ["x", "r"], {"more": ["mask"]}), ("Identity", ["x"], {})],
        {"r": np.float32(0.25)}, IMAGE,
    ),
    "half precision weights": (
        [("Cast", ["h"], {"to": FLOAT}), ("Conv", ["input", "y0"], {})],
        {"h": numbers(2, 3, 2, 2).astype(np.float16)}, IMAGE,
    ),
    "constants in nodes": (
        [("Constant", [], {"value_float": 0.5}), ("Mul", ["input", "y0"], {}),
         ("Constant", [], {"value_ints": [2, 3]}), ("ReduceSum", ["y1", "y2"], {})], {}, IMAGE,
    ),
    "shapes": (
        [("Shape", ["x"], {}), ("Gather", ["x", "zero"], {}), ("Unsqueeze", ["x", "zeros"], {}),
         ("Concat", ["x", "rest"], {"axis": 0}), ("Reshape", ["input", "x"], {})],
        {"zero": np.array(0), "zeros": np.array([0]), "rest": np.array([-1])}, IMAGE,
    ),
    "computed sizes": (
        [("Shape", ["x"], {"start": 2}), ("Div", ["x", "two"], {}), ("Sub", ["x", "one"], {}),
           ("Equal", ["x", "two"], {}), ("Where", ["x", "one", "y2"], {}),
           ("Concat", ["keep", "x"], {"axis": 0}), ("Slice", ["input", "zeros", "x"], {})],
        {"two": np.array([2]), "one": np.array([1]), "zeros": np.zeros(4, np.int64),
         "keep": np.array([2**62, 3])}, IMAGE,
    ),
    "a constant of a shape": (
        [("ConstantOfShape", ["n"], {"value": helper.make_tensor("v", FLOAT, [1], [0.5])}),
         ("Mul", ["input", "x"], {})],
        {"n": np.array([3, 1, 1])}, IMAGE,
    ),
    "arithmetic of constants": (
        [("Sqrt", ["v"], {}), ("Div", ["s", "x"], {}), ("Reshape", ["x", "n"], {}),
         ("Mul", ["input", "x"], {})],
        {"v": numbers(3) ** 2 + 1, "s": numbers(3), "n": np.array([1, 3, 1, 1])}, IMAGE,
    ),
    "a constant beside the signal": fixed(
        one("Concat", "c", constants={"c": numbers(1, 2, 8, 7)}, axis=1), 1
    ),
    "a batch of one": (
        [("Reshape", ["x", "n"], {}), ("Expand", ["x", "m"], {})],
        {"n": np.array([1, 1, -1]), "m": np.array([1, 2, 1])}, IMAGE, (1,),
    ),
    "a batch of four": fixed(one("Reshape", "n", constants={"n": np.array([4, 3, 56])}), 4),
}  # fmt: skip


def case_of(name, path):
    nodes, constants, shape, *fixed = CASES[name]
    batch = fixed[0][0] if fixed else "batch"
    return written(path / "net.onnx", nodes, constants, shape, batch=batch), shape, batch


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_computes_what_onnxruntime_does(name, tmp_path):
    path, shape, batch = case_of(name, tmp_path)
    model, said = load(path)
    x = inputs(shape)[:batch] if isinstance(batch, int) else inputs(shape)
    assert said == shape
    assert torch.allclose(model(x), in_onnxruntime(path, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_bounds_of_what_is_read_hold(name, tmp_path):
    """The largest singular value of the Jacobian, at points where all may happen."""
    path, shape, _ = case_of(name, tmp_path)
    model, _ = load(path)
    bound, model = float(taut.lipschitz_bound(model, shape)), model.double()
    for x in inputs(shape)[:3].double():
        jacobian = torch.autograd.functional.jacobian(lambda v: model(v[None])[0].flatten(), x)
        slope = torch.linalg.matrix_norm(jacobian.flatten(1), 2).item()
        assert slope <= bound * (1 + 1e-9)


def test_axes_are_inputs_since_their_opset(tmp_path):
    for opset, names, options in ((13, [], {"axes": [2]}), (18, ["a"], {}), (23, ["a"], {})):
        nodes = [("ReduceMean", ["x", *names], {"keepdims": 0, **options})]
        held = {"a": np.array([2])} if names else {}
        path = written(tmp_path / "net.onnx", nodes, held, IMAGE, opset=opset)
        model, shape = load(path)
        assert torch.allclose(model(inputs(shape)), inputs(shape).mean(2), atol=1e-6)


REFUSED = {
    "all axes": (one("ReduceMean", keepdims=0), "mixes the samples"),
    "squeezed without axes": (one("Squeeze"), "it needs whole numbers"),
    "the batch transposed": (one("Transpose", perm=[1, 0, 2, 3]), "no value of the graph"),
    "the batch flattened": (one("Flatten", axis=0), "all but the batch"),
    "a jump": (one("ThresholdedRelu"), "operator without a reader"),
    "slopes along rows": (
        one("PRelu", "a", constants={"a": numbers(7)}), "slopes must be those of the channels",
    ),
    "two signals": (one("Mul", "x"), "a product of two signals"),
    "a number over the signal": (
        ([("Div", ["a", "x"], {})], {"a": np.float32(1)}, IMAGE), "divide the signal by constants",
    ),
    "half precision": (one("Cast", to=10), "another precision"),
    "two precisions": (
        one("Mul", "a", constants={"a": numbers(7, kind=np.float64)}), "more than one precision",
    ),
    "real and whole numbers": (
        one("Max", "a", constants={"a": np.array([1])}), "both real and whole",
    ),
    "an axis that is none": (one("Flatten", axis=5), "an axis 5 of 4"),
    "an axis of more entries": (
        one("Squeeze", "a", constants={"a": np.array([2])}), "must have one entry",
    ),
    "a slope that is no number": (one("LeakyRelu", alpha=float("nan")), "is not finite"),
    "a step over the image": (
        one("Conv", "w", constants=KERNEL, strides=[2**40, 1]), "larger than the padded image",
    ),
    "windows behind the image": (
        one("MaxPool", kernel_shape=[2, 2], strides=[3, 8], pads=[0, 0, 0, 9], ceil_mode=1),
        "begin in the image",
    ),
    "uneven averages": (
        one("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]), "or count what it pads",
    ),
    "other channels": (
        resized(sizes=[2, 3, 7, 4], coordinate_transformation_mode="asymmetric",
                nearest_mode="floor"), "size of the batch",
    ),
    "a giant pad": (
        one("Pad", "p", constants={"p": np.array([0, 0, 0, 2**40, 0, 0, 0, 0])}), "at most",
    ),
    "a giant constant": (
        ([("ConstantOfShape", ["n"], {}), ("Mul", ["input", "x"], {})],
         {"n": np.array([2**40])}, IMAGE), "at most",
    ),
    "a giant image": (resized([1, 1, 1e6, 1e6]), "at most"),
    "a giant repetition": (
        one("Tile", "n", constants={"n": np.array([1, 2**30, 2**30, 1])}), "at most",
    ),
    "a division by 0": (
        ([("Shape", ["x"], {"start": 1}), ("Div", ["x", "a"], {}), ("Reshape", ["input", "x"], {})],
         {"a": np.array([0])}, IMAGE), "by positive ones",
    ),
    "arithmetic with the batch": (
        ([("Shape", ["x"], {}), ("Add", ["x", "a"], {}), ("Reshape", ["input", "x"], {})],
         {"a": np.array([1])}, IMAGE), "size of the batch",
    ),
    "an attribute of ours": (one("Reshape", "n", constants={"n": np.array([0, -1])}, batch=1),
                             "has the attribute batch"),
    "a tensor of words": (
        one("Mul", "a", constants={"a": np.array(["a"], dtype=object)}), "a kind that is not read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_proven_is_refused_in_one_sentence(name, tmp_path):
    (nodes, constants, shape), message = REFUSED[name]
    path = written(tmp_path / "net.onnx", nodes, constants, shape)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_functions_of_a_file_are_inlined(tmp_path):
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Fold", ["a"], ["c"], body, opsets)
    path = tmp_path / "net.onnx"
    written(path, [("Fold", ["x"], {"domain": "own"})], {}, FLAT, functions=[function])
    model, shape = load(path)
    assert torch.equal(model(inputs(shape)), -inputs(shape).relu())


def test_a_file_of_float64_is_read_as_such(tmp_path):
    weight = numbers(4, 6, kind=np.float64)
    nodes = [("Gemm", ["x", "w"], {"transB": 1})]
    path = written(tmp_path / "net.onnx", nodes, {"w": weight}, FLAT, kind=TensorProto.DOUBLE)
    model, shape = load(path)
    bound = float(taut.lipschitz_bound(model, shape))
    assert bound == pytest.approx(np.linalg.norm(weight, 2), rel=1e-9)
    assert model(inputs(shape).double()).dtype == torch.float64


# Weights in a file of their own.


def beside(tmp_path, change=lambda entries: None, size=None):
    """A file whose weights lie beside it, with what it says of them changed."""
    weight = numbers(4, 6)
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    path = written(folder / "net.onnx", [("Gemm", ["x", "w"], {"transB": 1})], {"w": weight}, FLAT)
    data = b"\0" * 8 + weight.tobytes()
    (folder / "net.data").write_bytes(data[: len(data) if size is None else size])
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    entries = {"location": "net.data", "offset": "8", "length": str(weight.nbytes)}
    change(entries)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path, weight


def test_weights_beside_the_file_are_read(tmp_path):
    path, weight = beside(tmp_path)
    assert torch.equal(load(path).model(torch.eye(6)), torch.from_numpy(weight.T))
    assert taut.load(path)(torch.eye(6)).shape == (6, 4)


OUTSIDE = {
    "another folder": ({"location": "../secret.data"}, "no file in the model's folder"),
    "an absolute path": ({"location": "/etc/passwd"}, "no file in the model's folder"),
    "a drive": ({"location": "C:\\secret.data"}, "no file in the model's folder"),
    "no name": ({"location": ""}, "no file in the model's folder"),
    "missing": ({"location": "other.data"}, "lies in other.data, which is not in"),
    "a folder": ({"location": "."}, "which is not in"),
    "a link": ({"location": "link.data"}, "leads out of the model's folder"),
    "a linked folder": ({"location": "linked/secret.data"}, "leads out of the model's folder"),
    "before the file": ({"offset": "-8"}, "in whole numbers"),
    "behind the file": ({"offset": "16"}, "ends at byte 112 of net.data, which has 104"),
    "another length": ({"length": "95"}, "needs 96 bytes"),
    "an endless offset": ({"offset": "9" * 40}, "in whole numbers"),
    "an unknown word": ({"basepath": "/"}, "says `basepath`"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_of_the_folder_is_read(name, tmp_path):
    changed, message = OUTSIDE[name]
    path, _ = beside(tmp_path, lambda entries: entries.update(changed))
    (tmp_path / "secret.data").write_bytes(bytes(200))
    (path.parent / "link.data").symlink_to(tmp_path / "secret.data")
    (path.parent / "linked").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_weights_that_are_cut_off_are_refused(tmp_path):
    path, _ = beside(tmp_path, size=100)
    with pytest.raises(ValueError, match=r"ends at byte 104 of net\.data, which has 100"):
        load(path)


def test_sizes_below_0_are_refused(tmp_path):
    path, _ = beside(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].dims[0] = -4
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="has a size below 0"):
        load(path)
    model.graph.initializer[0].dims[0] = 2**40
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"needs 26388279066624 bytes of net\.data"):
        load(path)
