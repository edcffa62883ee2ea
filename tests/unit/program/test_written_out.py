"""What is written out by hand, or by an exporter, has the bound of the operation that it is."""

import pytest
import torch
from torch import nn

import taut
from oracles import dense_operator
from taut.program import replay, trace


class Written(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("a", torch.randn(3, 4, generator=generator, dtype=torch.float64))

    def forward(self, x):
        return self.function(x, self.a)


PARTS = {
    "halves swapped": lambda x, _: torch.cat([x[:, 2:], x[:, :2]], 1),
    "halves as they were": lambda x, _: torch.cat([x[:, :2], x[:, 2:]], 1),
    "copies": lambda x, _: torch.cat([x[:, 1:3], x, x[:, 2:]], 1),
    "steps": lambda x, _: torch.cat([x[..., ::2], x[..., 1::2], x[..., :1]], 2),
    "round": lambda x, _: torch.cat([x[..., -2:], x, x[..., :1]], 2),
    "chunks": lambda x, _: torch.cat(x.chunk(2, 1)[::-1], 1),
    "a part of the whole": lambda x, _: torch.cat([x[:, :1], x[:, 3:]], 1),
}


@pytest.mark.parametrize("name", PARTS)
def test_joined_slices_have_the_norm_of_their_matrix(name):
    model, shape = Written(PARTS[name]), (4, 5)
    x = torch.randn(2, *shape, dtype=torch.float64)
    assert torch.equal(replay(trace(model, shape), x), model(x))
    norm = torch.linalg.matrix_norm(dense_operator(model, shape), 2).item()
    assert float(taut.lipschitz_bound(model, shape)) == pytest.approx(norm, rel=1e-9)


def test_slices_of_other_axes_or_values_are_no_list_of_places():
    for function in (
        lambda x, _: torch.cat([x[:, :, 1:], x[:, :, :4]], 1),
        lambda x, _: torch.cat([x[:, :2], -x[:, 2:]], 1),
    ):
        model = Written(function)
        assert "concat" in [node.op for node in trace(model, (4, 5)).nodes]
        norm = torch.linalg.matrix_norm(dense_operator(model, (4, 5)), 2).item()
        assert float(taut.lipschitz_bound(model, (4, 5))) >= norm * (1 - 1e-12)


def test_a_matrix_may_stand_on_the_left():
    model, shape = Written(lambda x, a: a @ x), (2, 4, 5)
    x = torch.randn(2, *shape, dtype=torch.float64)
    assert torch.allclose(replay(trace(model, shape), x), model(x), rtol=1e-12)
    norm = torch.linalg.matrix_norm(dense_operator(model, shape), 2).item()
    assert float(taut.lipschitz_bound(model, shape)) == pytest.approx(norm, rel=1e-9)


def test_an_average_with_a_divisor_of_its_own_keeps_its_axes():
    model = Written(
        lambda x, _: nn.functional.avg_pool2d(x.unsqueeze(2), (1, 3), divisor_override=2).squeeze(2)
    )
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    program = trace(model, (4, 9))
    assert torch.equal(replay(program, x), model(x))
    norm = torch.linalg.matrix_norm(dense_operator(model, (4, 9)), 2).item()
    assert float(taut.lipschitz_bound(model, (4, 9))) == pytest.approx(norm, rel=1e-9)
