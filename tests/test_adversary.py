"""Models and files that once got a certificate which was false, each by its property."""

import json

import pytest
import torch
from torch import nn

import taut
from taut.certification import certify, prove, verifier
from taut.certification._certificate import canonical, describe, graph_sha256, weights_sha256
from taut.deploy import export, load
from taut.deploy.plain import _module, _step
from taut.deploy.plan import Plan
from taut.files import load_tensors, save_tensors
from taut.lipschitz import NormBound, Rounding, UnprovenError, register, register_rounding

# What the model computes.


class TwoHeads(nn.Module):
    """Returns one head; another one, with rows that are closer, comes after it."""

    def __init__(self, scale=1e-3):
        super().__init__()
        self.head, self.auxiliary = nn.Linear(4, 3), nn.Linear(4, 3)
        self.auxiliary.weight.data *= scale

    def forward(self, x):
        logits = self.head(x)
        self.auxiliary(x)
        return logits


def test_pairs_of_logits_are_those_of_the_head_that_is_returned(tmp_path):
    torch.manual_seed(0)
    model, x = TwoHeads(), torch.rand(5, 4)
    labels = model(x).argmax(1)
    result = certify(model, x, labels)
    alone = certify(model.head, x, labels)
    assert torch.equal(result.radius, alone.radius)
    path, _ = result.save(tmp_path / "c.json")
    assert taut.verify(path, model).bound == alone.bound.value


class Clamp(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("ends", torch.full((1, 9), -5.0))

    def forward(self, x):
        return torch.clamp(x, min=self.ends)


def test_a_clamp_that_spreads_its_input_counts_each_copy():
    bound = float(taut.lipschitz_bound(Clamp(), (1,)))
    x = torch.rand(1, 1, dtype=torch.float64)
    moved = (Clamp()(x + 1) - Clamp()(x)).norm().item()
    assert moved <= bound < 3 + 1e-9


class Sum(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.head, self.dtype = nn.Linear(4, 8), dtype

    def forward(self, x):
        return self.head(x).unflatten(1, (2, 4)).sum(2, dtype=self.dtype)


@pytest.mark.parametrize("arithmetic", ["float64", "float32"])
def test_sums_in_a_precision_of_their_own_have_no_proof_of_rounding(arithmetic):
    with pytest.raises(UnprovenError, match="dtype"):
        prove(Sum(torch.float16), (4,), arithmetic=arithmetic)
    assert prove(Sum(None), (4,), arithmetic=arithmetic).composed.error[0] > 0


class Ignored(nn.Module):
    """An activation in place whose result nobody reads, but whose input is read again."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.activation, self.last = nn.Linear(4, 4), activation, nn.Linear(4, 2)

    def forward(self, x):
        hidden = self.first(x)
        self.activation(hidden)
        return self.last(hidden)


@pytest.mark.parametrize(
    "activation", [nn.Hardtanh(1e6, 2e6, inplace=True), nn.LeakyReLU(0.3, inplace=True)]
)
def test_rounding_that_later_readers_do_not_see_is_refused(activation):
    with pytest.raises(UnprovenError, match="`inplace` must be False"):
        prove(Ignored(activation), (4,))


@pytest.mark.parametrize("arithmetic", ["float64", "float32", "real"])
def test_images_are_certified_as_they_were_given(arithmetic):
    torch.manual_seed(0)
    dtype = torch.float32 if arithmetic == "float32" else torch.float64
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)).to(dtype)
    x = torch.randn(3, 4, dtype=dtype)
    before = x.clone()
    result = certify(model, x, torch.zeros(3).long(), arithmetic=arithmetic)
    assert torch.equal(x, before)
    plain = certify(nn.Sequential(nn.ReLU(), model[1]), before, torch.zeros(3).long())
    assert result.images_sha256 == plain.images_sha256


class Permute(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))

    def forward(self, x):
        return self.head(x[:, self.order])


def test_whole_numbers_in_a_graph_are_saved_and_verified(tmp_path):
    model = Permute()
    path, _ = prove(model, (4,)).save(tmp_path / "c.json")
    assert json.loads(path.read_text())["weights"]["order"] == {"dtype": "I64", "shape": [4]}
    assert taut.verify(path, model).input_shape == (4,)
    model.order.copy_(torch.arange(4))
    with pytest.raises(ValueError, match="weights are not the ones"):
        taut.verify(path, model)


def test_eps_with_an_endless_exponent_is_refused_at_once():
    for text in ("1e99999", "1e9_9999", "1e-9_9_9_9_9"):
        with pytest.raises(ValueError, match="`eps`"):
            taut.certify(nn.Linear(2, 2), torch.rand(1, 2), torch.zeros(1).long(), eps=(text,))


class ReLU(nn.Module):
    """Not what its name says."""

    def forward(self, x):
        return 5 * torch.relu(x)


def test_a_class_with_a_name_of_torch_is_not_taken_for_it(tmp_path):
    register(ReLU)(lambda module, shape: NormBound(5.0, "a factor"))
    register_rounding(ReLU)(lambda module, shape: Rounding(1, 5.0))
    model = nn.Sequential(nn.Linear(4, 4), ReLU(), nn.Linear(4, 3))
    path, weights = prove(model, (4,)).save(tmp_path / "c.json")
    assert taut.verify(path, model)
    content = json.loads(path.read_text())
    content["layers"][1].update(gains=[1.0], bound=1.0)  # true of torch's
    path.write_text(canonical(content))
    for check in (verifier.verify, taut.verify):
        with pytest.raises((ValueError, LookupError)):
            check(path, weights)


# What the file says.


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    model[0].weight.data *= 9
    x = torch.rand(4, 6)
    result = certify(model, x, model(x).argmax(1), eps=("1/1000",))
    path, weights = result.save(tmp_path_factory.mktemp("adversary") / "c.json")
    return json.loads(path.read_text()), load_tensors(weights)[0], x


def written(folder, content, tensors):
    """The file with a graph of one's own: both hashes are made to fit."""
    content["graph_sha256"] = graph_sha256(content["graph"])
    path, weights = folder / "c.json", folder / "c.safetensors"
    path.write_text(canonical(content))
    save_tensors(weights, tensors, {"graph_sha256": content["graph_sha256"]})
    return path, weights


def tiny_pairs(content):
    content["pairwise"] = [[1e-9 * (i != j) for j in range(5)] for i in range(5)]


def another_last(content, tensors):
    """A matrix with close rows after the one that is returned."""
    tensors["4.weight"] *= 1e-12
    content["graph"]["output"] = "_3"
    tiny_pairs(content)


def same_names(content, tensors):
    """The first of two nodes of one name reads the input, the second one all that follows."""
    for entry in (*content["graph"]["nodes"], *content["layers"]):
        entry["name"] = {"_0": "_4"}.get(entry["name"], entry["name"])
        entry["inputs"] = [{"_0": "_4"}.get(name, name) for name in entry["inputs"]]
    content["pairwise"] = [[pair / 2 for pair in row] for row in content["pairwise"]]


def second_input(content, tensors):
    nodes = content["graph"]["nodes"]
    nodes.insert(2, {**nodes[0], "name": "again", "shape": [[6]]})


def transposed(content, tensors):
    """The last matrix read by columns, which are far apart, and its rows nearly equal."""
    content["graph"]["nodes"][-1]["op"] = "adjoint"


@pytest.mark.parametrize("change", [another_last, same_names, second_input, transposed])
def test_graphs_that_no_model_has_are_refused(change, honest, tmp_path):
    content = json.loads(json.dumps(honest[0]))
    tensors = {name: tensor.clone() for name, tensor in honest[1].items()}
    change(content, tensors)
    content["weights_sha256"] = weights_sha256(tensors)
    path, weights = written(tmp_path, content, tensors)
    with pytest.raises(ValueError, match=r"twice|matrix times a vector"):
        taut.verify(path, weights)


def without_rounding(content):
    for row in content["layers"]:
        for key in ("absolutes", "constant", "count", "entries"):
            row.pop(key)
    content["error"] = [0.0, 0.0]


def without_input(content):
    graph = content["graph"]
    graph["nodes"].pop(0)
    content["layers"].pop(0)
    graph["input"] = graph["nodes"][0]["name"]
    content["input"]["shape"] = [5]


def of_row(key, value):
    return lambda content: content["layers"][0].__setitem__(key, value)


FALSE = {
    "rows without rounding": without_rounding,
    "a first layer for an input": without_input,
    "the bound of a row": of_row("bound", 0.1),
    "the name of a row": of_row("name", "other"),
    "the type of a row": of_row("type", "Conv2d"),
    "what a row reads": of_row("inputs", ["other"]),
    "another space": lambda content: content["input"].update(space="linf ball"),
    "another precision": lambda content: content["weights"]["0.bias"].update(dtype="F64"),
    "another shape": lambda content: content["weights"]["0.bias"].update(shape=[50]),
    "certified accuracy": lambda content: content["certified_accuracy"].update({"9": 0.25}),
    "certified accuracy below 0": lambda content: content["certified_accuracy"].update({"-1": 1.0}),
}


@pytest.mark.parametrize("case", FALSE)
def test_false_claims_are_refused_by_both(case, honest, tmp_path):
    content, tensors, x = json.loads(json.dumps(honest[0])), *honest[1:]
    path, weights = written(tmp_path, content, tensors)
    assert verifier.verify(path, weights, x.numpy())
    assert taut.verify(path, weights)
    FALSE[case](content)
    path, weights = written(tmp_path, content, tensors)
    with pytest.raises((ValueError, LookupError)):
        verifier.verify(path, weights, x.numpy())
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        taut.verify(path, weights)


def pairs_of_an_activation(content, tensors):
    """An activation comes last and names a matrix whose rows are equal: a radius of 1000."""
    nodes, rows = content["graph"]["nodes"], content["layers"]
    nodes.append({**nodes[2], "name": "end", "inputs": [nodes[-1]["name"]], "weight": "equal"})
    rows.append({**rows[1], "name": "end", "inputs": nodes[-1]["inputs"]})
    content["graph"]["output"], tensors["equal"] = "end", torch.zeros(5, 5)
    content["pairwise"], content["radius"] = [[0.0] * 5] * 5, [1e3] * 4


def adjoint_by_the_name_of_relu(content, tensors):
    """What the graph calls the adjoint of an operator is no activation, whatever its type."""
    first = content["graph"]["nodes"][1]
    content["graph"]["nodes"][2].update(op="adjoint", weight=first["weight"], bias=None)
    content["graph"]["nodes"][2]["operator"] = first["operator"]


def one_row_with_five_biases(content, tensors):
    """Each of five outputs is the product with that row: root 5 of its norm."""
    tensors["0.weight"] = tensors["0.weight"][:1].contiguous()
    content["layers"][0]["gains"] = [1.01 * tensors["0.weight"].norm().item()]
    content["layers"][0]["bound"] = content["layers"][0]["gains"][0]


def bias_without_a_name(content, tensors):
    tensors[""] = torch.full((5,), 1e5)
    content["graph"]["nodes"][-1]["bias"] = ""
    content["layers"][-1]["constant"] = 0.0


def of_node(index, key, value):
    return lambda content, tensors: content["graph"]["nodes"][index].__setitem__(key, value)


def of_operator(key, value):
    """Of the first matrix, and of one that is 0, whose norm needs no proof."""

    def change(content, tensors):
        for node in content["graph"]["nodes"][1::2]:
            node["operator"][key] = value
        tensors["2.weight"] *= 0

    return change


GRAPHS = {
    "pairs of an activation": pairs_of_an_activation,
    "an adjoint by the name of ReLU": adjoint_by_the_name_of_relu,
    "one row with five biases": one_row_with_five_biases,
    "a bias without a name": bias_without_a_name,
    "a matrix with groups": of_operator("groups", 5),
    "a padding that nobody knows": of_operator("padding", "mirror"),
    "another shape": of_node(2, "shape", [[7]]),
    "a second input": of_node(2, "op", "placeholder"),
    "a function": of_node(2, "op", "call_function"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_that_say_something_else_are_refused_by_both(case, honest, tmp_path):
    content, x = json.loads(json.dumps(honest[0])), honest[2]
    tensors = {name: tensor.clone() for name, tensor in honest[1].items()}
    GRAPHS[case](content, tensors)
    tensors = dict(sorted(tensors.items()))
    content.update(weights=describe(tensors), weights_sha256=weights_sha256(tensors))
    path, weights = written(tmp_path, content, tensors)
    images = x.numpy() if case == "pairs of an activation" else ()
    with pytest.raises((ValueError, LookupError)):
        verifier.verify(path, weights, images)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        taut.verify(path, weights)


def test_a_float32_run_of_float64_weights_is_refused_by_both(tmp_path):
    """It would be the run of other weights, which are rounded."""
    path, weights = prove(nn.Linear(3, 2), (3,), arithmetic="float32").save(tmp_path / "c.json")
    assert verifier.verify(path, weights)
    tensors = {name: tensor.double() for name, tensor in load_tensors(weights)[0].items()}
    content = json.loads(path.read_text())
    content.update(weights=describe(tensors), weights_sha256=weights_sha256(tensors))
    path, weights = written(tmp_path, content, tensors)
    with pytest.raises(LookupError):
        verifier.verify(path, weights)
    with pytest.raises(ValueError, match="must be float32"):
        taut.verify(path, weights)


@pytest.mark.parametrize("key", ["clean_accuracy", "predictions", "shape"])
def test_claims_about_images_and_shapes_are_refused(key, honest, tmp_path):
    content = json.loads(json.dumps(honest[0]))
    if key == "shape":
        content["input"]["shape"] = [-1]
    else:
        content[key] = 2.0 if key == "clean_accuracy" else [-1] * len(content["labels"])
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        taut.verify(*written(tmp_path, content, honest[1]))


def test_verifier_refuses_pairs_below_rows_so_small_that_squares_underflow(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    model.weight.data *= 1e-170
    model.bias.data *= 1e-170
    path, weights = prove(model, (4,)).save(tmp_path / "c.json")
    assert verifier.verify(path, weights)
    content = json.loads(path.read_text())
    content["pairwise"] = [[pair / 2 for pair in row] for row in content["pairwise"]]
    path.write_text(canonical(content))
    with pytest.raises(ValueError, match="two classes"):
        verifier.verify(path, weights)


def test_a_plan_says_nothing_that_its_python_file_does_not(tmp_path):
    model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))
    exported = tmp_path / "model.safetensors"
    export(model, exported, (1, 4, 4))
    tensors, header = load_tensors(exported)
    content = json.loads(header["plan"])
    content["steps"][0]["args"]["divisor_override"] = 1000
    save_tensors(exported, tensors, {**header, "plan": json.dumps(content)})
    steps = tuple(_step(entry) for entry in content["steps"])
    with pytest.raises(ValueError, match="cannot be read as a model"):
        load(exported)
    with pytest.raises(ValueError, match="other arguments"):
        _module(Plan(steps, tensors, "input", (1, 4, 4)))


def test_a_roll_along_the_batch_is_refused():
    """Batches of 1, 2, 3 or 6 samples do not show it."""

    class Rolled(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x.roll(6, 0))

    with pytest.raises(NotImplementedError, match="roll"):
        taut.lipschitz_bound(Rolled().eval(), (4,))
