"""A recurrent layer over whole sequences: its weights, the way through time, and what reaches into the recurrence.

The equations of one step are those of a cell: each module of this package has a subclass of `Layer` with its own.
Weight drop, zoneout and resets inside a sequence are the same for all of them.

Axis letters: B rows, T time, X inputs, H hidden, P products that are stacked in one matrix, A state arrays.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from charloom.network.dropout import dropout, keep_mask

V = TypeVar("V")


@dataclass(frozen=True)
class Step(Generic[V]):
    """What one step of a layer makes, in whatever its equations are written: tensors, arrays, names in a graph."""

    state: tuple[V, ...]
    """[B, H] each: the state arrays after the step, in the cell's order; the first is h"""
    gates: tuple[V, ...]
    """[B, H] each, in the cell's order, behind their sigmoid or tanh"""


class LayerOutput(NamedTuple):
    """What a layer gives back."""

    outputs: Tensor
    """[B, T, H]: h after each step"""
    state: tuple[Tensor, ...]
    """A arrays [B, H], after the last step"""


class Layer(nn.Module):
    """Weights of one layer and the way through time; a subclass has the equations of one step.

    Parameters: `weight_ih` [PH, X], Xavier per product; `weight_hh` [PH, H], orthogonal per product; `bias` [PH], 0.

    Args:
        input_size: X
        hidden_size: H
        weight_drop: dropout on `weight_hh`, one mask per sequence
        zoneout: of each state array, the share of its values that a step leaves as they were
    """

    products: ClassVar[int] = 4
    """P"""
    fused: ClassVar[bool] = False
    """Whether torch has a kernel for whole sequences, which is used where nothing reaches into the steps."""

    def __init__(self, input_size: int, hidden_size: int, weight_drop: float, zoneout: tuple[float, ...]) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_drop, self.zoneout = weight_drop, zoneout
        self.weight_ih = nn.Parameter(torch.empty(self.products * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(self.products * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(self.products * hidden_size))
        for product in self.weight_ih.data.chunk(self.products):
            nn.init.xavier_uniform_(product)
        for product in self.weight_hh.data.chunk(self.products):
            nn.init.orthogonal_(product)

    def forward(self, x: Tensor, state: Sequence[Tensor], resets: Tensor | None = None) -> LayerOutput:
        """Read x [B, T, X].

        Args:
            x: inputs
            state: A arrays [B, H], before the first step
            resets: [B, T], true where the state is zero before a step; None = nowhere
        """
        recurrent = dropout(self.weight_hh, self.weight_drop, self.training)  # Merity et al., 2017: "weight drop"
        return self._stepwise(x, state, recurrent, resets)

    @torch.no_grad()
    def steps(self, x: Tensor, state: Sequence[Tensor]) -> list[Step[Tensor]]:
        """What `forward` does in evaluation mode, laid open: its T steps, with the gates."""
        steps: list[Step[Tensor]] = []
        self._stepwise(x, state, self.weight_hh, None, steps)
        return steps

    def _stepwise(
        self,
        x: Tensor,
        state: Sequence[Tensor],
        recurrent: Tensor,
        resets: Tensor | None,
        steps: list[Step[Tensor]] | None = None,
    ) -> LayerOutput:
        """Step by step in torch operations; torch differentiates them, the weights' gradient is taken at the end."""
        inputs, base = self._prepared(linear(x, self.weight_ih).transpose(0, 1))
        history: list[Tensor] = []
        base = _RecurrentGradient.apply(base, recurrent, history)  # type: ignore[no-untyped-call]
        weight = recurrent.detach().to(base.dtype).t()
        state = tuple(state)
        dtype = state[-1].dtype
        unreset = None if resets is None else (~resets).to(dtype).t().unsqueeze(2).unbind(0)
        zoneout = _Zoneout(self, len(base), state[0]) if any(self.zoneout) else None
        outputs: list[Tensor] = []
        for number, (below, from_base) in enumerate(zip(inputs.unbind(0), base.unbind(0), strict=True)):
            if unreset is not None:
                state = tuple(part * unreset[number] for part in state)
            h = state[0]
            history.append(h.detach())
            product = torch.addmm(from_base, h.to(base.dtype), weight).to(dtype)
            made = self.step(product, below, state)
            state = made.state if zoneout is None else zoneout(number, state, made.state)
            outputs.append(state[0])
            if steps is not None:
                steps.append(Step(state, made.gates))
        return LayerOutput(torch.stack(outputs, dim=1), state)

    def _prepared(self, products: Tensor) -> tuple[Tensor, Tensor]:
        """Split the inputs' products [T, B, PH]: what `step` reads as `inputs`, and what `weight_hh` h is added to."""
        base = products + self.bias.to(products.dtype)
        return base, base

    @abstractmethod
    def step(self, product: Tensor, inputs: Tensor, state: tuple[Tensor, ...]) -> Step[Tensor]:
        """The equations of one step.

        Args:
            product: [B, PH], the recurrent product, added to its base
            inputs: as `_prepared` made it, of one step
            state: A arrays [B, H], before the step
        """

    # From trained parameters to one step of a decoder, in float64.

    def of_inputs(self, x: Tensor) -> Tensor:
        """What inputs [N, X] add in a step, biases included, [N, PH]: a decoder's first layer looks it up."""
        return x @ self.ordered(self.weight_ih).T + self.ordered(self.bias)

    def folded(self, first: bool) -> dict[str, Tensor]:
        """What a decoder multiplies and adds in one step, by name; this is one product of [h below, own h].

        Args:
            first: whether it is the decoder's first layer, to which `of_inputs` comes in place of x and `bias`
        """
        if first:
            return {"matrix": self.ordered(self.weight_hh).T}
        both = torch.cat([self.ordered(self.weight_ih), self.ordered(self.weight_hh)], dim=1)
        return {"matrix": both.T, "bias": self.ordered(self.bias)}

    def ordered(self, parameter: Tensor) -> Tensor:
        """A stacked parameter with its products in the order that decoders have; here the one they have already."""
        return double(parameter)


def double(parameter: Tensor) -> Tensor:
    """The values of a parameter in float64, on the CPU."""
    return parameter.detach().cpu().double()


class _Zoneout:
    """Some values of the state keep what they were (Krueger et al., 2017); in evaluation each is mixed as expected."""

    def __init__(self, layer: Layer, steps: int, like: Tensor) -> None:
        self._shares = layer.zoneout
        self._updated: list[tuple[Tensor, ...]] | None = None
        if layer.training:
            shape = torch.Size((steps, *like.shape))
            self._updated = [keep_mask(shape, share, like.device).unbind(0) for share in self._shares]

    def __call__(self, step: int, old: Sequence[Tensor], new: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if self._updated is None:
            return tuple(torch.lerp(n, o, share) for n, o, share in zip(new, old, self._shares, strict=True))
        return tuple(torch.where(mask[step], n, o) for mask, n, o in zip(self._updated, new, old, strict=True))


class _RecurrentGradient(torch.autograd.Function):
    """Passes its input on, and on the way back takes the gradient of the recurrent weights for all steps at once.

    The steps themselves multiply with weights that are cut off from the graph: the gradient of `base` [T, B, PH] is
    that of their products, and one large product with the inputs h of all steps, `history`, T small ones less.
    """

    @staticmethod
    def forward(ctx: Any, base: Tensor, weight: Tensor, history: list[Tensor]) -> Tensor:
        ctx.history, ctx.dtype = history, weight.dtype
        return base.view_as(base)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden = torch.stack(ctx.history).to(gradient.dtype)
        return gradient, (gradient.flatten(0, 1).t() @ hidden.flatten(0, 1)).to(ctx.dtype), None
