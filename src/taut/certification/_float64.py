"""The float64 execution of a model's exported weights: the program that a certificate is about."""

import copy
from typing import Any, final

from torch import Tensor, fx, nn

from taut.lipschitz import Affine, Rounding, UnprovenError, rounding_of

__all__ = ["Float64"]


@final
class Float64(fx.Interpreter):
    """Runs a graph in float64 with the weights as they are used, each cast exactly.

    A layer that is an operator and a bias runs as those, whatever its forward does in between: a
    parametrization computes its weight once, in its own precision. All others run as a copy in
    float64. The input is a batch in float64.

    Args:
        graph: of the model, from `taut.lipschitz.trace`.
        lenient: whether layers without a rule for their rounding are let through.

    Example:
        >>> from taut.lipschitz import trace
        >>> model = nn.Sequential(nn.Linear(2, 3))
        >>> Float64(trace(model), lenient=False).run(torch.ones(1, 2).double()).dtype
        torch.float64
    """

    def __init__(self, graph: fx.GraphModule, *, lenient: bool) -> None:
        super().__init__(graph)
        self.extra_traceback = False  # keeps messages to one sentence
        self.lenient = lenient
        self.rules: dict[str, Affine | Rounding | None] = {}
        self.copies: dict[str, nn.Module] = {}
        self.place = ""

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; the same module may stand at several places, on inputs of other sizes."""
        self.place = n.name
        return super().run_node(n)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a layer: as its operator, or as a copy in float64."""
        (x,) = args
        if self.place not in self.rules:
            self.rules[self.place] = self._rule(str(target), tuple(x.shape[1:]))
        rule = self.rules[self.place]
        if isinstance(rule, Affine):
            return rule(x)
        if target not in self.copies:
            self.copies[target] = copy.deepcopy(self.submodules[target]).double()
        return self.copies[target](x)

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Read a tensor of the model."""
        value = super().get_attr(target, args, kwargs)
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    def _rule(self, target: str, shape: tuple[int, ...]) -> Affine | Rounding | None:
        module = self.submodules[target]
        try:
            return rounding_of(module, shape)
        except UnprovenError as error:
            if self.lenient:
                return None
            name = f"`{target}` ({type(module).__name__})"
            raise UnprovenError(f"{name} cannot be certified: {error}.") from error
