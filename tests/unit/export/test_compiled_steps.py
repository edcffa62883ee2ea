"""Steps of compiled programs: memory that is written part by part, rows of several samples."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from taut.export import load
from taut.export._torch_memory import Memory, Rows, run_step
from taut.program import trace

aten = torch.ops.aten


def step(function, *args, batch=1):
    return run_step(function, list(args), {}, batch)


def written_round(x, left, right):
    """A circular pad of the last axis, as compilers write it."""
    n = x.shape[-1]
    wide = step(aten.empty.memory_format, [1, *x.shape[1:-1], n + left + right])
    axis = x.dim() - 1
    for start, stop, part in (
        (left, left + n, None), (0, left, (n, n + left)), (n + left, n + left + right,
                                                            (left, left + right)),
    ):  # fmt: skip
        place = step(aten.slice.Tensor, wide, axis, start, stop)
        source = x if part is None else step(aten.slice.Tensor, wide, axis, *part)
        copied = step(aten.copy.default, place, source)
        wide = step(aten.slice_scatter.default, wide, copied, axis, start, stop)
    return wide


@pytest.mark.parametrize(("left", "right"), [(1, 1), (2, 1), (0, 3)])
def test_memory_written_round_is_a_circular_pad(left, right):
    x = torch.randn(5, 2, 3, 4)
    expected = F.pad(x, (left, right, 0, 0), "circular")
    assert torch.equal(written_round(x, left, right).value(), expected)


def test_a_kernel_behind_it_has_its_norm():
    """One axis after the other are lists of places, which become the padding of the kernel."""

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 3)

        def forward(self, x):
            return self.conv(written_round(x, 1, 1).value())

    model, same = Written(), nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular")
    same.load_state_dict(model.conv.state_dict())
    assert [node.op for node in trace(model, (2, 6)).nodes] == ["conv"]
    bounds = [float(taut.lipschitz_bound(m, (2, 6))) for m in (model, same)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-12)


def test_memory_that_nothing_was_written_to_is_not_read():
    blank = step(aten.empty.memory_format, [1, 2, 4])
    with pytest.raises(ValueError, match="nothing was written to"):
        step(aten.relu.default, blank)
    half = step(aten.slice_scatter.default, blank, torch.ones(3, 2, 2), 2, 0, 2)
    with pytest.raises(ValueError, match="nothing was written to"):
        half.value()
    with pytest.raises(ValueError, match="two values"):
        step(aten.slice_scatter.default, half, torch.ones(3, 2, 2), 2, 2, 4)
    with pytest.raises(ValueError, match="as many entries"):
        step(aten.copy.default, blank, torch.ones(3, 2, 2))
    with pytest.raises(ValueError, match="of the samples"):
        step(aten.empty.memory_format, [4, 2], batch=1)


def test_entries_out_of_order_are_taken_one_by_one():
    x = torch.randn(3, 2, 3)
    places = torch.tensor([[5, 0, 1], [1, 2, 4]])
    assert torch.equal(Memory(x, places).value(), x.flatten(1)[:, places])


@pytest.mark.parametrize("batch", [1, 2])
def test_rows_of_samples_go_through_a_matrix(batch):
    x, matrix, bias = torch.randn(4, 3, 5), torch.randn(5, 2), torch.randn(2)
    rows = step(aten.reshape.default, x, [3 * batch, 5], batch=batch)
    assert isinstance(rows, Rows)
    rows = step(aten.relu.default, step(aten.addmm.default, bias, rows, matrix), batch=batch)
    found = step(aten.reshape.default, rows, [batch, 6], batch=batch)
    expected = (x @ matrix + bias).relu().flatten(1)
    assert torch.allclose(found, expected, atol=1e-6)
    for function, args in ((aten.cat.default, ([rows],)), (aten.sum.dim_IntList, (rows, [0]))):
        with pytest.raises((ValueError, RuntimeError, TypeError)):
            step(function, *args, batch=batch).shape  # noqa: B018


class Two(nn.Module):
    def forward(self, x):
        return x.relu(), x.tanh()


def saved(model, x, path):
    torch.export.save(torch.export.export(model.eval(), (x,)), path)
    return path


def test_two_outputs_and_half_precision_are_refused_in_one_sentence(tmp_path):
    path = saved(Two(), torch.zeros(1, 3), tmp_path / "two.pt2")
    with pytest.raises(ValueError, match=r"it has 2 outputs \(relu, tanh\) and must have one"):
        load(path)
    path = saved(nn.Linear(3, 2).half(), torch.zeros(1, 3).half(), tmp_path / "half.pt2")
    with pytest.raises(ValueError, match=r"its input is float16 and must be float32; export"):
        load(path)
    with pytest.raises(ValueError, match=r"must return one tensor.*returns one of them"):
        taut.lipschitz_bound(Two(), (3,))
