"""What a forward may do that a graph does not show: refused by name, or bounded by what it does."""

import dataclasses
import random
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import taut
from taut.program import lipschitz_bound, trace


class Net(nn.Module):
    """A dense layer of norm 1, and a function of its output and the input."""

    def __init__(self, forward):
        super().__init__()
        self.fc, self.function, self.calls = nn.Linear(4, 4), forward, 0
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(4))
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return self.function(self, x)


COUNT = [0]
BYTES = bytearray(8)


class Ours(Tensor):
    """A tensor that multiplies tenfold where it is the weight."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        return 10 * result if func is F.linear else result


def subclassed(m, x):
    return F.linear(x, m.fc.weight.detach().as_subclass(Ours)).as_subclass(Tensor)


def matched(m, x):
    match x.max().item() > 2:
        case True:
            return 50 * m.fc(x)
        case _:
            return m.fc(x)


def asserted(m, x):
    assert (x < 1e6).all()
    return m.fc(x)


def counted(m, x):
    m.calls += 1
    return m.fc(x) * (50 if m.calls > 1000 else 1)


def counted_elsewhere(m, x):
    COUNT[0] += 1
    return m.fc(x) * (50 if COUNT[0] % 2 else 1)


def drifting(m, x):
    m.fc.weight.data.mul_(1.0001)
    return m.fc(x)


def through_numpy(m, x):
    return m.fc(x) + torch.from_numpy(5 * x.detach().numpy())


def through_dlpack(m, x):
    return m.fc(x) + torch.from_numpy(5 * np.from_dlpack(x))


def through_capsule(m, x):
    return m.fc(x) + torch.from_numpy(5 * np.from_dlpack(Capsule(torch.utils.dlpack.to_dlpack(x))))


class Capsule:
    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack__(self, **_):
        return self.capsule

    def __dlpack_device__(self):
        return (1, 0)


def in_a_table(m, x):
    return m.fc(x) * ([1.0] * 100)[x.shape[0]]


def caught(m, x):
    try:
        large = bool(x.max() > 2)
    except Exception:
        large = False
    return m.fc(x) * (50 if large else 1)


def caught_size(m, x):
    try:
        return m.fc(x) * (1 + 100 * (x.shape[0] // 4))
    except Exception:
        return m.fc(x)


def vmapped(m, x):
    return torch.vmap(lambda row: 5 * row)(m.fc(x))


def vmapped_inside(m, x):
    return m.fc(x) + torch.vmap(lambda row: x)(m.fc.weight)[:3].sum(0)


def unseen(m, x):
    with torch._C.DisableTorchFunction():
        return 5 * m.fc(x)


def _times_five(x: Tensor) -> Tensor:
    return 5 * x


with warnings.catch_warnings(action="ignore"):
    scripted = torch.jit.script(_times_five)


BATCH = "size of the batch"
REFUSED = {
    "a batch size in a factor": (lambda m, x: m.fc(x) * (1 + 100 * (x.shape[0] // 4)), BATCH),
    "a batch size times a number": (lambda m, x: m.fc(x) * (1.0 + 1e-9 * x.shape[0]), BATCH),
    "size()": (lambda m, x: m.fc(x) * (1 + x.size(0) // 1000), BATCH),
    "size() of all": (lambda m, x: m.fc(x) * float(x.size()[0]), BATCH),
    "len": (lambda m, x: m.fc(x) * (1 + len(x) // 1000), "__len__"),
    "numel": (lambda m, x: m.fc(x) * (1 + x.numel() // 1000), BATCH),
    "torch.numel": (lambda m, x: m.fc(x) * (1 + torch.numel(x) // 1000), BATCH),
    "nelement": (lambda m, x: m.fc(x) * max(1, x.nelement() - 1000), BATCH),
    "a compared batch size": (lambda m, x: 50 * m.fc(x) if x.shape[0] > 99 else m.fc(x), BATCH),
    "a loop over the batch size": (lambda m, x: sum(m.fc(x) for _ in range(x.shape[0])), BATCH),
    "a tensor of the batch size": (lambda m, x: m.fc(x) * torch.tensor(x.shape[0]), BATCH),
    "a full tensor": (lambda m, x: m.fc(x) * torch.full((4,), x.shape[0] * 1), BATCH),
    "a range": (lambda m, x: m.fc(x) + torch.arange(x.shape[0])[:, None], BATCH),
    "a list by the batch size": (in_a_table, BATCH),
    "alpha": (lambda m, x: torch.add(m.fc(x), x, alpha=x.shape[0]), BATCH),
    "strides": (lambda m, x: m.fc(x) * (1 + x.stride(0) // 100), "stride"),
    "contiguity": (lambda m, x: m.fc(x) * (1 if x.is_contiguous() else 50), "is_contiguous"),
    "an address": (lambda m, x: m.fc(x) * (1 + x.data_ptr() % 2), "data_ptr"),
    "a storage": (lambda m, x: m.fc(x) * (1 + x.untyped_storage().nbytes() // 999), "storage"),
    "requires_grad": (lambda m, x: m.fc(x) * (1 + 9 * x.requires_grad), "requires_grad"),
    "is_leaf": (lambda m, x: m.fc(x) * (1 + 9 * (not x.is_leaf)), "is_leaf"),
    "grad_fn": (lambda m, x: m.fc(x) * (1 if x.grad_fn is None else 9), "grad_fn"),
    "the gradient's mode": (
        lambda m, x: m.fc(x) * (1 + torch.is_grad_enabled()),
        "differs from the program",
    ),
    "a version": (lambda m, x: m.fc(x) * (1 + x._version), "_version"),
    "the largest": (
        lambda m, x: m.fc(x) * (50 if isinstance(x, Tensor) and x.max() > 2 else 1), "__bool__"
    ),
    "item": (lambda m, x: m.fc(x) * x.max().item(), "item"),
    "tolist": (lambda m, x: m.fc(x) * x.tolist()[0][0], "tolist"),
    "float": (lambda m, x: m.fc(x) * float(x.sum()), "__float__"),
    "in": (lambda m, x: m.fc(x) * (1 + (7.0 in x)), "__contains__"),
    "equal": (lambda m, x: m.fc(x) * (1 + torch.equal(x, x * 0)), "equal"),
    "allclose": (lambda m, x: m.fc(x) * (1 + torch.allclose(x, x)), "allclose"),
    "a format": (lambda m, x: m.fc(x) * len(f"{x.sum()}"), "__format__"),
    "match": (matched, "item"),
    "assert": (asserted, "__bool__"),
    "numpy": (through_numpy, "numpy"),
    "dlpack": (through_dlpack, "dlpack"),
    "a capsule": (through_capsule, "constant"),
    "a subclass of weights": (subclassed, "Ours"),
    "random numbers": (lambda m, x: m.fc(x) * (1 + 1e-9 * random.random()), "each call"),
    "a generator": (lambda m, x: m.fc(x) + torch.rand(4, generator=m.generator), "each call"),
    "torch's random numbers": (lambda m, x: m.fc(x) + 1e-9 * torch.rand(4), "random numbers"),
    "time": (lambda m, x: m.fc(x) * (1 + 1e-9 * time.perf_counter()), "each call"),
    "a counter": (counted, "`calls`"),
    "a counter elsewhere": (counted_elsewhere, "each call"),
    "a drift": (drifting, "writes to parameters"),
    "vmap": (vmapped, BATCH),
    "vmap inside": (vmapped_inside, "torch"),
    "disabled overrides": (unseen, "outside of the functions of torch"),
    "a script": (lambda m, x: scripted(m.fc(x)), "outside of the functions of torch"),
    "a slice of the batch": (lambda m, x: m.fc(x)[: x.shape[0]][:2], "batch"),
    "autocast": (lambda m, x: autocast(m, x), "autocast"),
    "a refusal that is caught": (caught, "__bool__"),
    "a size that is caught": (caught_size, BATCH),
    "keywords only": (lambda m, x, *, scale: scale * m.fc(x), "fails on one tensor"),
}  # fmt: skip


def autocast(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        return m.fc(x).float()


@pytest.mark.parametrize("case", REFUSED)
def test_hidden_dependences_are_refused_by_name(case):
    forward, words = REFUSED[case]
    with pytest.raises((NotImplementedError, ValueError), match=words) as caught:
        lipschitz_bound(Net(forward), (4,))
    assert "\n" not in str(caught.value)


class Doubled(nn.Linear):
    """A subclass that changes nothing."""


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad


def parts_in_turn(m, x):
    outputs = []
    for part in m.fc(x).split(2, 1):
        outputs.append(2 * part)
    return torch.cat(outputs, 1)


def per_sample_constant(m, x):
    row = torch.zeros(x.shape[0], 4) + 7
    return torch.cat([m.fc(x), row], 1)


FOLLOWED = {
    "shapes": (lambda m, x: m.fc(x).view(x.shape[0], 2, -1).flatten(1), 1.0),
    "a quotient of sizes": (lambda m, x: m.fc(x).view(x.shape[0], x.numel() // x.shape[0]), 1.0),
    "an assert on shapes": (lambda m, x: m.fc(x) if x.dim() == 2 and x.shape[1] == 4 else x, 1.0),
    "a batch size above 0": (lambda m, x: m.fc(x) if x.shape[0] > 0 else x, 1.0),
    "a flag": (lambda m, x, flag=False: 9 * m.fc(x) if flag else m.fc(x), 1.0),
    "a loop over parts": (parts_in_turn, 2.0),
    "a function of autograd": (lambda m, x: Scaled.apply(m.fc(x)), 3.0),
    "a row for each sample": (per_sample_constant, 1.0),
    "an operation by its name": (lambda m, x: torch.ops.aten.mul.Tensor(m.fc(x), 3.0), 3.0),
    "in place": (lambda m, x: m.fc(x).mul_(3).relu_(), 3.0),
    "a value that nothing needs": (lambda m, x: (x.sum(), x.max(), m.fc(x))[2], 1.0),
    "a checkpoint": (lambda m, x: checkpoint(m.fc, x, use_reentrant=False), 1.0),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLLOWED)
def test_what_depends_on_shapes_alone_is_followed(case):
    forward, norm = FOLLOWED[case]
    assert float(lipschitz_bound(Net(forward), (4,))) == pytest.approx(norm, rel=1e-9)


def test_subclasses_that_change_nothing_are_followed():
    model = nn.Sequential(Doubled(4, 4))
    norm = torch.linalg.matrix_norm(model[0].weight.double(), 2).item()
    assert float(lipschitz_bound(model, (4,))) == pytest.approx(norm)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel]
)
def test_wrappers_are_named_with_the_model_inside(wrap):
    with pytest.raises(NotImplementedError, match=r"pass model\.(module|_orig_mod)"):
        lipschitz_bound(wrap(nn.Linear(2, 2)), (2,))


def test_models_without_numbers_are_refused():
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(NotImplementedError, match="meta"):
        lipschitz_bound(model, (2,))


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        taut.nn.Conv2d(1, 4, 3), taut.nn.MaxMin(), nn.Flatten(), taut.nn.Linear(64, 3)
    ).eval()  # fmt: skip


def certificates(models, x, arithmetic):
    def one(model):
        return taut.certify(model, x, torch.zeros(len(x)).long(), eps=0.1, arithmetic=arithmetic)

    with ThreadPoolExecutor(len(models)) as pool:
        return [result.to_json() for result in pool.map(one, models)]


@pytest.mark.parametrize("arithmetic", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_threads_certify_one_model_and_many(arithmetic):
    x = torch.rand(6, 1, 4, 4)
    calls, switches = nn.Module.__call__, (torch.backends.cudnn.enabled, nn.Linear.__call__)
    threads = threading.active_count()
    models = [net(seed) for seed in range(8)]
    one = certificates([models[0]] * 8, x, arithmetic)
    many = certificates(models, x, arithmetic)
    assert len(set(one)) == 1
    assert many == [certificates([model], x, arithmetic)[0] for model in models]
    assert nn.Module.__call__ is calls
    assert (torch.backends.cudnn.enabled, nn.Linear.__call__) == switches
    assert threading.active_count() <= threads + 8
    assert torch.allclose(models[0](x), models[0](x))


def test_recording_may_be_nested():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            bound = float(lipschitz_bound(self.fc, (3,)))
            return self.fc(x) / bound

    assert float(lipschitz_bound(Asks(), (3,))) == pytest.approx(1.0)


def test_the_program_owns_its_weights():
    model = nn.Linear(2, 2)
    program = trace(model, (2,))
    before = program.tensors["weight"].clone()
    with torch.no_grad():
        model.weight.mul_(5)
    assert torch.equal(program.tensors["weight"], before)


def test_nodes_of_one_name_make_no_program():
    """What is known of a value stands under its name: bounds of two would be those of one."""
    program = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), (2,))
    twice = [dataclasses.replace(node, name="0") for node in program.nodes]
    with pytest.raises(ValueError, match="`nodes` must have names of their own; got '0' twice"):
        dataclasses.replace(program, nodes=tuple(twice))
