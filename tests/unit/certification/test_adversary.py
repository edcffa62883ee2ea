"""Models and files that once got a certificate which was false, each by its property."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forgery
import taut
from taut.certification import certify, prove, verifier
from taut.certification._certificate import describe, weights_sha256
from taut.files import load_tensors
from taut.program import AbstractOp, Rounding, UnprovenError, canonical, checked_program, op

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
    path, weights = result.save(tmp_path / "c.json")
    assert taut.verify(path, model).bound == taut.verify(path, weights).bound == alone.bound.value


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
def test_what_is_written_in_place_is_what_later_readers_see(activation):
    """The result is the input's own tensor: the rounding of the activation counts."""
    model = Ignored(activation)
    ops = [node.op for node in prove(model, (4,)).program.nodes]
    assert ops in (["linear", "hardtanh", "linear"], ["linear", "leaky_relu", "linear"])
    plain = nn.Sequential(model.first, activation, model.last)
    assert prove(model, (4,)).composed == prove(plain, (4,)).composed


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


@pytest.mark.parametrize("arithmetic", ["float64", "float32"])
def test_whole_numbers_in_a_graph_are_saved_and_verified(arithmetic, tmp_path):
    model = Permute()
    path, weights = prove(model, (4,), arithmetic=arithmetic).save(tmp_path / "c.json")
    assert json.loads(path.read_text())["weights"]["order"] == {"dtype": "I64", "shape": [4]}
    assert taut.verify(path, model).input_shape == taut.verify(path, weights).input_shape == (4,)
    assert arithmetic in verifier.verify(path, weights)
    model.order.copy_(torch.arange(4))
    with pytest.raises(ValueError, match="weights are not the certified ones"):
        taut.verify(path, model)


def test_eps_with_an_endless_exponent_is_refused_at_once():
    for text in ("1e99999", "1e9_9999", "1e-9_9_9_9_9"):
        with pytest.raises(ValueError, match="`eps`"):
            taut.certify(nn.Linear(2, 2), torch.rand(1, 2), torch.zeros(1).long(), eps=(text,))


class ReLU(nn.Module):
    """Not what its name says."""

    def forward(self, x):
        return 5 * torch.relu(x)


@op(ReLU)
class OtherReLU(AbstractOp):
    proof = "a factor"

    def gains(self, site):
        return (5.0,)

    def rounding(self, site):
        return Rounding(1, 5.0)


def test_a_class_with_a_name_of_torch_is_not_taken_for_it(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), ReLU(), nn.Linear(4, 3))
    path, weights = prove(model, (4,)).save(tmp_path / "c.json")
    assert taut.verify(path, model)
    content = json.loads(path.read_text())
    content["layers"][1].update(gains=[1.0], bound=1.0)  # true of torch's
    path.write_text(canonical(content))
    for check in (verifier.verify, taut.verify):
        with pytest.raises(ValueError, match=r"custom\.ReLU"):
            check(path, weights)


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


# Rounding: numbers that another precision takes for 0 or for infinite.


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


EXTREME = {
    "a divisor that is 0 in float32": (lambda x: (x / 1e-50).clamp(-1e10, 1e10), "divides"),
    "a factor that is infinite in float32": (lambda x: (x * 1e50).clamp(-1e12, 1e12), "overflow"),
    "a slope that is infinite in float32": (lambda x: F.leaky_relu(x, 1e50), "overflow"),
    "an end that is infinite in float32": (lambda x: x.clamp(-1e50, 1e50), "overflow"),
    "a variance that is 0 in float32": (
        lambda x: F.batch_norm(x, torch.zeros(2), torch.full((2,), 1e-42), eps=0.0), "variance"),
    "a variance below 0": (
        lambda x: F.batch_norm(x, torch.zeros(2), torch.full((2,), -0.5), eps=1.0), "variance"),
}  # fmt: skip


@pytest.mark.parametrize("case", EXTREME)
def test_constants_that_a_precision_does_not_hold_are_refused(case):
    function, words = EXTREME[case]
    with pytest.raises(ValueError, match=words):
        prove(Applied(function), (2,), arithmetic="float32")


def test_whole_numbers_that_are_rounded_are_counted():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("ends", torch.tensor([[2**24 + 1, 2**24 + 3]]))

        def forward(self, x):
            return torch.maximum(x, self.ends)

    certificate = prove(Large(), (2,), arithmetic="float32")
    _, b = certificate.composed.error
    x = torch.zeros(1, 2)
    (ends,) = certificate.program.tensors.values()
    gap = (Large()(x).double() - ends.double()).norm()
    assert 0 < gap <= b


def test_copies_around_one_axis_of_an_image_are_run(tmp_path):
    """torch pads all axes of an image, or none, where pads are copies."""
    model = nn.Sequential(nn.CircularPad2d((1, 1, 0, 0)), nn.Flatten(), nn.Linear(8, 3))
    path, weights = prove(model, (1, 2, 2)).save(tmp_path / "c.json")
    assert taut.verify(path, weights).input_shape == (1, 2, 2)


def test_biases_that_are_broadcast_count_for_each_output():
    class Broadcast(nn.Module):
        def __init__(self, *shape):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 2))
            self.bias = nn.Parameter(torch.full(shape, 3.0))

        def forward(self, x):
            return F.linear(x, self.weight, self.bias)

    for shape in ((), (1,), (4,), (1, 4)):
        certificate = prove(Broadcast(*shape), (2,))
        (layer,) = certificate.layers
        assert 6.0 <= layer.constant < 6.0 + 1e-9
        assert certificate.composed.error[1] >= 6 * 2.0**-53


# What the file says.


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    model[0].weight.data *= 9
    x = torch.rand(4, 6)
    result = certify(model, x, model(x).argmax(1), eps=("1/1000",))
    folder = tmp_path_factory.mktemp("adversary")
    path, weights = result.save(folder / "c.json")
    return json.loads(path.read_text()), load_tensors(weights)[0], forgery.points_file(folder, x)


def tiny_pairs(content):
    content["pairwise"] = [[1e-9 * (i != j) for j in range(5)] for i in range(5)]


def another_last(content, tensors):
    """A matrix with close rows after the one that is returned."""
    tensors["4.weight"] *= 1e-12
    content["graph"]["output"] = "3"
    tiny_pairs(content)


def same_names(content, tensors):
    """The first of two nodes of one name reads the input, the second one all that follows."""
    for entry in (*content["graph"]["nodes"], *content["layers"]):
        entry["name"] = {"0": "4"}.get(entry["name"], entry["name"])
        entry["inputs"] = [{"0": "4"}.get(name, name) for name in entry["inputs"]]
    content["pairwise"] = [[pair / 2 for pair in row] for row in content["pairwise"]]


def named_as_the_input(content, tensors):
    content["graph"]["nodes"][1]["name"] = content["layers"][1]["name"] = "input"


def a_cycle(content, tensors):
    content["graph"]["nodes"][0]["inputs"] = content["layers"][0]["inputs"] = ["1"]


def from_nowhere(content, tensors):
    content["graph"]["nodes"][1]["inputs"] = content["layers"][1]["inputs"] = ["another"]


def jump(content, tensors):
    """An activation that reads the input of the layer before it."""
    inputs = content["graph"]["nodes"][1]["inputs"]
    content["graph"]["nodes"][3]["inputs"] = content["layers"][3]["inputs"] = inputs


def cut_off(content, tensors):
    content["graph"]["output"] = "1"
    content["pairwise"] = None


def no_output(content, tensors):
    content["graph"]["output"] = "5"


def transposed(content, tensors):
    """The last matrix read by columns, which are far apart, and its rows nearly equal."""
    content["graph"]["nodes"][-1]["op"] = "conv_transpose"


def pairs_of_an_activation(content, tensors):
    """An activation comes last and names a matrix whose rows are equal: a radius of 1000."""
    nodes, rows = content["graph"]["nodes"], content["layers"]
    end = {"name": "end", "inputs": [nodes[-1]["name"]]}
    nodes.append({**nodes[1], **end, "tensors": {"weight": "equal"}})
    rows.append({**rows[1], **end})
    content["graph"]["output"], tensors["equal"] = "end", torch.zeros(5, 5)
    content["pairwise"], content["radius"] = [[0.0] * 5] * 5, [1e3] * 4


def an_activation_with_weights(content, tensors):
    content["graph"]["nodes"][1]["tensors"] = {"weight": "2.weight"}


def one_row_with_five_biases(content, tensors):
    """Each of five outputs is the product with that row: root 5 of its norm."""
    tensors["0.weight"] = tensors["0.weight"][:1].contiguous()
    content["layers"][0]["gains"] = [1.01 * tensors["0.weight"].norm().item()]
    content["layers"][0]["bound"] = content["layers"][0]["gains"][0]


def bias_without_a_name(content, tensors):
    tensors[""] = torch.full((5,), 1e5)
    content["graph"]["nodes"][-1]["tensors"]["bias"] = ""
    content["layers"][-1]["constant"] = 0.0


def bias_of_another_length(content, tensors):
    tensors["4.bias"] = torch.full((1,), 1e3)


def bias_by_another_role(content, tensors):
    """Nobody adds it, so that the row need not count it."""
    roles = content["graph"]["nodes"][-1]["tensors"]
    roles["shift"] = roles.pop("bias")
    content["layers"][-1]["constant"] = 0.0


def roles_exchanged(content, tensors):
    roles = content["graph"]["nodes"][-1]["tensors"]
    roles["weight"], roles["bias"] = roles["bias"], roles["weight"]


def no_weight(content, tensors):
    del content["graph"]["nodes"][-1]["tensors"]["weight"]


def whole_weights(content, tensors):
    tensors["2.weight"] = torch.zeros(5, 5, dtype=torch.int64)


def unread_tensor(content, tensors):
    tensors["notes"] = torch.ones(3)


def unread_node(content, tensors):
    nodes, rows = content["graph"]["nodes"], content["layers"]
    nodes.insert(2, {**nodes[1], "name": "aside"})
    rows.insert(2, {**rows[1], "name": "aside"})


def of_node(index, key, value):
    return lambda content, tensors: content["graph"]["nodes"][index].__setitem__(key, value)


def of_row(key, value):
    return lambda content, tensors: content["layers"][0].__setitem__(key, value)


def without_rounding(content, tensors):
    for row in content["layers"]:
        for key in ("absolutes", "constant", "count", "entries"):
            row.pop(key)
    content["error"] = [0.0, 0.0]


def without_first(content, tensors):
    graph = content["graph"]
    graph["nodes"].pop(0)
    content["layers"].pop(0)
    graph["input"] = "0"
    content["input"]["shape"] = [5]


def another_type(content, tensors):
    """The label of a row in other words than that of its node."""
    content["graph"]["nodes"][0]["type"] = "Orthogonal"


FALSE = {
    "rows without rounding": without_rounding,
    "a first layer for an input": without_first,
    "the bound of a row": of_row("bound", 0.1),
    "the name of a row": of_row("name", "other"),
    "the type of a row": of_row("type", "Conv2d"),
    "what a row reads": of_row("inputs", ["other"]),
    "a proof that is no text": of_row("proof", {"by": "me"}),
    "gains of two inputs": of_row("gains", [99.0, 0.0]),
    "no gains": of_row("gains", []),
    "another type of a node": another_type,
    "another space": lambda c, t: c["input"].update(space="linf ball"),
    "another key of the input": lambda c, t: c["input"].update(units="pixels"),
    "software that is no text": lambda c, t: c["software"].update(torch=2.0),
    "certified accuracy": lambda c, t: c["certified_accuracy"].update({"9": 0.25}),
    "certified accuracy below 0": lambda c, t: c["certified_accuracy"].update({"-1": 1.0}),
    "clean accuracy": lambda c, t: c.update(clean_accuracy=0.5),
    "predictions that are no class": lambda c, t: c.update(predictions=[-1] * 4),
    "a radius above the margin": lambda c, t: c["radius"].__setitem__(0, c["margin"][0]),
    "a margin of a wrong answer": lambda c, t: (
        c["labels"].__setitem__(0, (c["labels"][0] + 1) % 5), c["radius"].__setitem__(0, 0.0),
        c.update(clean_accuracy=0.75, certified_accuracy={}),
    ),
    "fewer margins": lambda c, t: c["margin"].pop(),
    "a shape below 0": lambda c, t: c["input"].update(shape=[-1]),
    "a shape with a truth": lambda c, t: c["input"].update(shape=[6, True]),
    "another last matrix": another_last,
    "a name twice": same_names,
    "a node that is called as the input": named_as_the_input,
    "a cycle": a_cycle,
    "a value from nowhere": from_nowhere,
    "a jump": jump,
    "an output before the end": cut_off,
    "an output that is not there": no_output,
    "a transposed head": transposed,
    "pairs of an activation": pairs_of_an_activation,
    "an activation with weights": an_activation_with_weights,
    "one row with five biases": one_row_with_five_biases,
    "a bias without a name": bias_without_a_name,
    "a bias of another length": bias_of_another_length,
    "a bias by another role": bias_by_another_role,
    "exchanged roles": roles_exchanged,
    "no weight": no_weight,
    "whole numbers for weights": whole_weights,
    "a tensor that nobody reads": unread_tensor,
    "a node that nobody reads": unread_node,
    "a shape of nobody": of_node(1, "shape", [7]),
    "no shape": of_node(1, "shape", "5"),
    "an argument": of_node(1, "args", {"slope": 0.0}),
    "arguments of a matrix": of_node(0, "args", {"groups": 5}),
    "a list of arguments": of_node(0, "args", []),
    "no inputs": of_node(1, "inputs", []),
    "two inputs": of_node(1, "inputs", ["0", "0"]),
    "a name that is no text": of_node(1, "name", ["1"]),
    "an operation that is no text": of_node(1, "op", ["relu"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FALSE)
def test_false_claims_are_refused_by_both(case, honest, tmp_path):
    content, points = json.loads(json.dumps(honest[0])), honest[2]
    tensors = {name: tensor.clone() for name, tensor in honest[1].items()}
    path, weights = forgery.forge(tmp_path, content, tensors)
    assert verifier.verify(path, weights, points)
    assert taut.verify(path, weights)
    FALSE[case](content, tensors)
    path, weights = forgery.forge(tmp_path, content, tensors)
    with pytest.raises(verifier.Refused, match=r"^[^\n]+$"):
        verifier.verify(path, weights, points)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        taut.verify(path, weights)


def of(name, **changes):
    """Arguments of the first node of an operation."""

    def change(content, tensors):
        node = next(n for n in content["graph"]["nodes"] if n["op"] == name)
        node["args"].update(changes)

    return name, change


def parts_twice(content, tensors):
    """A value twice, that counts once."""
    nodes = content["graph"]["nodes"]
    node = next(n for n in nodes if n["op"] == "concat")
    node["args"]["parts"] = [0, "part1", 0]


def held_twice(content, tensors):
    node = next(n for n in content["graph"]["nodes"] if n["op"] == "concat")
    node["args"]["parts"] = [0, "part1", "part1", 1]


def spread_constant(content, tensors):
    """A constant whose broadcasting copies the value."""
    name = next(n for n in content["graph"]["nodes"] if n["op"] == "add")["tensors"]["constant"]
    tensors[name] = tensors[name].expand(2, 4, 6).contiguous()


def places_beyond(content, tensors):
    name = next(n for n in content["graph"]["nodes"] if n["op"] == "take")["tensors"]["index"]
    tensors[name][0] = 9


def copies_of_one(content, tensors):
    name = next(n for n in content["graph"]["nodes"] if n["op"] == "take")["tensors"]["index"]
    tensors[name][:] = 1


def number_and_tensor(content, tensors):
    node = next(n for n in content["graph"]["nodes"] if n["op"] == "scale")
    node["args"]["factor"] = 1.0


def tiny_divisor(content, tensors):
    name = next(n for n in content["graph"]["nodes"] if n["op"] == "divide")["tensors"]["divisor"]
    tensors[name].view(-1)[0] = 1e-9


def no_divisor(content, tensors):
    name = next(n for n in content["graph"]["nodes"] if n["op"] == "divide")["tensors"]["divisor"]
    tensors[name].view(-1)[0] = 0


def swapped_ends(content, tensors):
    node = next(n for n in content["graph"]["nodes"] if n["op"] == "hardtanh")
    node["args"].update(min_val=node["args"]["max_val"], max_val=5.0)


ARGUMENTS = {
    "a value twice": ("concat", parts_twice),
    "a constant twice": ("concat", held_twice),
    "the axis of the batch": ("concat", of("concat", axis=-1)[1]),
    "another axis": ("concat", of("concat", axis=0)[1]),
    "a constant that spreads": ("add", spread_constant),
    "a factor of two": ("add", of("add", factors=[2.0])[1]),
    "a factor that is true": ("add", of("add", factors=[True])[1]),
    "factors for nobody": ("add", of("add", factors=[1.0, 1.0])[1]),
    "a text for a constant": ("add", of("add", constant="0.5")[1]),
    "factor and number": ("subtract from a tensor", of("add", constant=3.0)[1]),
    "two values, the first with a factor": ("residual", of("add", factors=[0.5, 1.0])[1]),
    "two values and a constant": ("residual", of("add", constant=1.0)[1]),
    "places beyond the end": ("take", places_beyond),
    "copies of one place": ("take", copies_of_one),
    "a factor twice": ("scale", number_and_tensor),
    "a divisor that is small": ("divide", tiny_divisor),
    "a divisor that is 0": ("divide", no_divisor),
    "a step back": ("slice", of("slice", step=-1)[1]),
    "no step": ("slice", of("slice", step=0)[1]),
    "a start beyond the end": ("slice", of("slice", start=9)[1]),
    "half a start": ("slice", of("slice", start=0.5)[1]),
    "more repeats": ("repeat", of("repeat", repeats=[4, 3])[1]),
    "no repeats": ("repeat", of("repeat", repeats=[0, 3])[1]),
    "pads that cut off": ("pad", of("pad", left=[0, -1], right=[0, 4])[1]),
    "another value": ("pad", of("pad", value=5.0)[1]),
    "a mode without a value": ("pad round", of("pad", value=1e-3)[1]),
    "another mode": ("pad", of("pad", mode="reflect")[1]),
    "axes that are one": ("permute", of("permute", axes=[0, 0])[1]),
    "axes of the batch": ("flip", of("flip", axes=[-1])[1]),
    "a text for an axis": ("roll", of("roll", axis="1")[1]),
    "another order": ("sort", of("sort", descending="no")[1]),
    "another axis of a sort": ("sort", of("sort", axis=2)[1]),
    "an axis of a mean": ("mean", of("mean", axes=[0])[1]),
    "the batch of a mean": ("mean", of("mean", axes=[-1])[1]),
    "no axes of a mean": ("mean", of("mean", axes=[])[1]),
    "groups that do not divide": ("strided conv", of("conv", groups=3)[1]),
    "a text for groups": ("strided conv", of("conv", groups="2")[1]),
    "steps of two axes": ("strided conv", of("conv", stride=[2, 2])[1]),
    "steps back": ("strided conv", of("conv", stride=[-2])[1]),
    "a window less": ("average pool", of("avg_pool", kernel_size=[2])[1]),
    "another divisor": ("average pool", of("avg_pool", divisor=4)[1]),
    "no divisor": ("average pool", of("avg_pool", divisor=0)[1]),
    "a whole image": ("average pool", of("avg_pool", whole=True)[1]),
    "windows that overlap": ("max pool", of("max_pool", stride=[1])[1]),
    "padding alone": ("max pool", of("max_pool", padding=[9])[1]),
    "the other way": ("max pool", of("max_pool", ceil_mode=False)[1]),
    "a slope": ("branches", of("leaky_relu", negative_slope=-3.0)[1]),
    "another eps": ("branches", of("batch_norm", eps=-0.4)[1]),
    "ends in disorder": ("hardtanh", swapped_ends),
    "larger groups": ("circular", of("GroupSort", group_size=0)[1]),
    "groups with a point": ("circular", of("GroupSort", group_size=3.0)[1]),
    "blocks": ("blocks", of("pixel_unshuffle", factor=3)[1]),
    "more of the output": ("transposed", of("conv_transpose", output_padding=[0, 1])[1]),
    "pads of a transposed one": ("transposed", of("conv_transpose", padding=[-1, 1])[1]),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_say_something_else_are_refused_by_both(case, tmp_path):
    name, change = ARGUMENTS[case]
    path, weights, points, *_ = forgery.certified(name, tmp_path)
    content, tensors = forgery.opened(path, weights)
    change(content, tensors)
    path, weights = forgery.forge(tmp_path, content, tensors)
    with pytest.raises(verifier.Refused, match=r"^[^\n]+$"):
        verifier.verify(path, weights, points)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        taut.verify(path, weights)


def test_kinds_of_another_package_are_not_made_from_files():
    """A file may name any module of taut; it is made from its own arguments, or refused."""
    graph = {
        "input": "input", "output": "0",
        "nodes": [{"name": "0", "op": "Distance", "type": "Distance", "inputs": ["input"],
                   "args": {"sign": 1.0}, "tensors": {"centre": "centre", "unit": "unit"},
                   "shape": [1]}],
    }  # fmt: skip
    tensors = {"centre": torch.zeros(3), "unit": torch.ones(())}
    program = checked_program(graph, (3,), tensors)
    assert [node.op for node in program.nodes] == ["Distance"]
    graph["nodes"][0]["args"]["sign"] = 2.0
    with pytest.raises(ValueError, match="`sign`"):
        checked_program(graph, (3,), tensors)


def test_a_float32_run_of_float64_weights_is_refused_by_both(tmp_path):
    """It would be the run of other weights, which are rounded."""
    path, weights = prove(nn.Linear(3, 2), (3,), arithmetic="float32").save(tmp_path / "c.json")
    assert verifier.verify(path, weights)
    content, tensors = forgery.opened(path, weights)
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    path, weights = forgery.forge(tmp_path, content, wide)
    with pytest.raises(verifier.Refused, match="a float32 program rounds"):
        verifier.verify(path, weights)
    with pytest.raises(ValueError, match="must be float32"):
        taut.verify(path, weights)


def test_pairs_below_rows_so_small_that_squares_underflow_are_refused(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    model.weight.data *= 1e-170
    model.bias.data *= 1e-170
    path, weights = prove(model, (4,)).save(tmp_path / "c.json")
    assert verifier.verify(path, weights)
    forgery.rewritten(
        path, lambda c: c.update(pairwise=[[pair / 2 for pair in row] for row in c["pairwise"]])
    )
    with pytest.raises(ValueError, match="two classes"):
        verifier.verify(path, weights)
    with pytest.raises(ValueError, match="two classes"):
        taut.verify(path, weights)


def test_a_safetensors_header_with_a_name_twice_is_refused(tmp_path):
    path, weights = forgery.honest(nn.Linear(2, 2), (2,), tmp_path)
    raw = weights.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    text = raw[8:start].rstrip()
    name = b'"bias":{"data_offsets":[0,8],"dtype":"F32","shape":[2]}'
    assert name in text
    twice = text.replace(name, name + b"," + name.replace(b"[0,8]", b"[8,16]"))
    for changed in (twice, text.replace(b"[2]", b"[-2]"), text.replace(b"[0,8]", b"[0,9]")):
        weights.write_bytes(len(changed).to_bytes(8, "little") + changed + raw[start:])
        for check in (taut.verify, verifier.verify):
            with pytest.raises(ValueError, match="safetensors"):
                check(path, weights)


def test_weights_sha256_is_that_of_the_description(tmp_path):
    tensors = {"a": torch.ones(2), "b": torch.arange(3)}
    assert describe(tensors)["b"] == {"dtype": "I64", "shape": [3]}
    assert weights_sha256(tensors) != weights_sha256({"a": torch.ones(1, 2), "b": torch.arange(3)})
