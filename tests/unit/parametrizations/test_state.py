"""State that cannot go wrong: for every method, the state dict is all there is."""

import copy
import io
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint_sequential

import taut
from taut.parametrizations import methods
from thinning import one_in

METHODS = sorted(methods())
SHAPE = (1, 6, 6)


def net(name: str) -> nn.Sequential:
    method = methods()[name]
    if method.matrices_only:
        return nn.Sequential(
            nn.Flatten(),
            taut.nn.Linear(36, 8, parametrization=method),
            taut.nn.MaxMin(),
            taut.nn.Linear(8, 3, parametrization=method),
        )
    return nn.Sequential(
        taut.nn.Conv2d(1, 4, 3, parametrization=method),
        taut.nn.MaxMin(),
        # ECO takes multiples of its kernel size alone
        taut.nn.Conv2d(4, 3, 6 if method is taut.ECO else 4, 2, parametrization=method),
        taut.nn.GroupSort(3),
        nn.Flatten(),
        taut.nn.Linear(27, 3, parametrization=method),
    )


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def fresh(name: str, state: dict[str, Tensor]) -> nn.Sequential:
    model = net(name)
    model.load_state_dict(state)
    return model


def same(y: Tensor, expected: Tensor) -> bool:
    """To rounding: kernels choose the order of their sums by where a tensor lies in memory."""
    return torch.allclose(y, expected, rtol=0, atol=2e-6)


class Training:
    """A model with the optimiser that was made before its first forward."""

    def __init__(self, name: str) -> None:
        self.model = net(name)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.5)
        self.steps = 0

    def step(self) -> None:
        self.optimiser.zero_grad()
        self.model(images(self.steps)).square().sum().backward()
        self.optimiser.step()
        self.steps += 1
        taut.parametrizations.update_(self.model, self.steps)


def _forward(training: Training) -> None:
    with torch.no_grad():
        training.model(images())


def _inference(training: Training) -> None:
    with torch.inference_mode():
        training.model(images())


def _cached(training: Training) -> None:
    with torch.no_grad(), taut.cached():
        training.model(images())
        training.model(images())


def _load(training: Training) -> None:
    state = {k: v * 0.9 + 0.01 for k, v in training.model.state_dict().items()}
    training.model.load_state_dict(load_safetensors(save_safetensors(state)))


def _there_and_back(training: Training) -> None:
    training.model.double().float()


def _copy_trains(training: Training) -> None:
    twin = copy.deepcopy(training.model)
    twin(images()).sum().backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)


def _frozen(training: Training) -> None:
    for parameter in taut.freeze(training.model, SHAPE).parameters():
        parameter.zero_()


OPERATIONS = {
    "step": Training.step,
    "step in eval": lambda t: (t.model.eval(), t.step()),
    "train": lambda t: t.model.train(),
    "eval": lambda t: t.model.eval(),
    "forward": _forward,
    "inference": _inference,
    "cached": _cached,
    "load": _load,
    "load in eval": lambda t: (t.model.eval(), _load(t)),
    "double and back": _there_and_back,
    "copy trains": _copy_trains,
    "retract": lambda t: taut.retract_(t.model),
    "freeze": _frozen,
}


CONTEXTS = (None, taut.cached)
CASES = [(name, CONTEXTS[(i + j) % 2]) for i, name in enumerate(METHODS) for j in range(2)]


@pytest.mark.parametrize(("name", "context"), one_in(2, CASES))
def test_after_any_operations_a_fresh_model_of_the_state_does_the_same(name, context):
    """Nothing is stale, hidden or lost, whatever came before, inside `cached` too."""
    torch.manual_seed(1)
    training = Training(name)
    keys = {k: v.shape for k, v in training.model.state_dict().items()}
    order = [list(OPERATIONS)[i] for _ in range(2) for i in torch.randperm(len(OPERATIONS))]
    with torch.random.fork_rng(), (context or torch.enable_grad)():
        for operation in order:
            OPERATIONS[operation](training)
            state = training.model.state_dict()
            assert {k: v.shape for k, v in state.items()} == keys, operation
            with torch.no_grad():
                found, expected = training.model(images()), fresh(name, state)(images())
            assert same(found, expected), operation
            assert same(training.model.train()(images()), training.model.eval()(images()))


@pytest.mark.parametrize("name", METHODS)
def test_an_optimiser_made_before_the_first_forward_trains_everything(name):
    training = Training(name)
    learned = {n: p.clone() for n, p in training.model.named_parameters() if p.requires_grad}
    keys = list(training.model.state_dict())
    training.step()
    for n, parameter in training.model.named_parameters():
        if n in learned:
            assert parameter.grad is not None, n
            assert not torch.equal(parameter, learned[n]), n
    assert keys == list(training.model.state_dict())
    assert learned


@pytest.mark.parametrize("name", METHODS)
def test_averages_are_models_of_averaged_state(name):
    """EMA and mean: the weights are computed from what was averaged, under their guarantee."""
    training = Training(name)
    ema = AveragedModel(training.model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    mean = AveragedModel(training.model)
    expected, sums, parameters = {}, {}, dict(training.model.named_parameters())
    for number in range(3):
        training.step()
        ema.update_parameters(training.model)
        mean.update_parameters(training.model)
        for key, value in training.model.state_dict().items():
            old = expected.get(key, value.clone())
            expected[key] = 0.8 * old + 0.2 * value
            sums[key] = sums.get(key, 0) + value / 3 if key in parameters else value
        assert number + 1 == ema.n_averaged
    for averaged, state in ((ema, expected), (mean, sums)):
        oracle = fresh(name, {k: v.clone() for k, v in state.items()})
        close = {k: torch.allclose(v, oracle.state_dict()[k], atol=1e-6)
                 for k, v in averaged.module.state_dict().items() if k in parameters}  # fmt: skip
        assert all(close.values()), close
        if methods()[name].guarantee != "none":
            assert float(taut.lipschitz_bound(averaged.module.eval(), (1, 6, 6))) < 1 + 1e-5
            assert torch.allclose(averaged(images()), oracle(images()), atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_precision_follows_the_model(name):
    model = net(name)
    single = model(images())
    double = model.double()(images().double())
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-5)
    assert all(t.dtype == torch.float64 for t in model.state_dict().values())
    model.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    assert model(images().double()).dtype == torch.float64


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_checkpointed_activations_give_the_same_gradients(name, reentrant):
    model, x = net(name), images().requires_grad_()
    tensors = [x, *(p for p in model.parameters() if p.requires_grad)]
    expected = torch.autograd.grad(model(x).square().sum(), tensors)
    for tensor in tensors:
        tensor.grad = None
    y = checkpoint_sequential(model, 2, x, use_reentrant=reentrant)
    y.square().sum().backward()
    for tensor, gradient in zip(tensors, expected, strict=True):
        assert torch.allclose(tensor.grad, gradient, atol=1e-5)


@pytest.mark.parametrize("context", [None, taut.cached])
@pytest.mark.parametrize("name", METHODS)
def test_accumulated_gradients_are_those_of_the_whole_batch(name, context):
    model, x = net(name), images()
    learned = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(model(x).square().sum(), learned)
    with (context or torch.enable_grad)():
        with torch.no_grad():
            model(x)  # a weight that was read without gradients first
        for part in x.split(1):
            model(part).square().sum().backward()
    for parameter, gradient in zip(learned, expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_frozen_models_are_plain_copies_of_the_function(name, training):
    state = Training(name)
    state.step()
    model = state.model.train(training)
    before = copy.deepcopy(model.state_dict())
    frozen, twin = taut.freeze(model, SHAPE), taut.freeze(copy.deepcopy(model), SHAPE)
    assert frozen.training == training
    buffer = io.BytesIO()
    torch.save(frozen, buffer)
    buffer.seek(0)
    for plain in (frozen, twin, torch.load(buffer, weights_only=False)):
        assert (plain(images()) - model(images())).abs().max() < 1e-6
        assert not [m for m in plain.modules() if "parametrization" in type(m).__module__]
        assert not any("raw" in key for key in plain.state_dict())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


COMPILED = """
import sys, taut
heavy = {"onnx", "onnxruntime", "foolbox", "autoattack", "matplotlib", "tyro", "lightning_fabric"}
assert not heavy & {name.partition(".")[0] for name in sys.modules}, heavy & set(sys.modules)
import torch
from test_state import Training, images
torch.manual_seed(0)
for name in {names}:
    torch.compiler.reset()  # there is a limit to how many models one function is compiled for
    training = Training(name)
    compiled = torch.compile(training.model, fullgraph=True, backend="eager")
    for mode in (True, False):
        training.model.train(mode)
        assert torch.allclose(compiled(images()), training.model(images()), atol=1e-6), name
        training.step()
    assert torch.allclose(compiled(images()), training.model(images()), atol=1e-6), name
"""


FEW = ["AOL", "BCOP", "BRO", "OSSN", "SVCM"]
OTHERS = sorted({*METHODS} - {*FEW, "ECO", "LOT", "SpectralQR"})  # those are like BRO and Cayley


@pytest.mark.parametrize("names", [FEW, pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_compiled_models_follow_every_step(names):
    """In a process of its own: torch.compile cannot see through the shape checks of the tests."""
    command = [sys.executable, "-c", COMPILED.replace("{names}", repr(names))]
    paths = os.pathsep.join(filter(None, [__file__.rpartition("/")[0], *sys.path]))
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_cuda_graphs_replay_the_frozen_model_and_the_eval_one(name):
    x = images().cuda()
    model = net(name).cuda().eval()
    for captured in (model, taut.freeze(model, SHAPE)):
        with torch.no_grad():
            expected = captured(x)
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                for _ in range(3):
                    captured(x)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = captured(x)
            y.zero_()
            graph.replay()
        assert torch.allclose(y, expected, atol=1e-5)
