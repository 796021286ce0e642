"""One recurrent layer over whole sequences, of three kinds, with the regularisers that reach into the recurrence.

    LSTMLayer        the plain cell; runs in torch's fused kernel where nothing reaches into its steps
    PeepholeLayer    gates that see the cell state (Gers and Schmidhuber, 2000)
    LayerNormLayer   normalised products and cell state (Ba, Kiros and Hinton, 2016)

Knows: the equations of the cells, weight drop, zoneout, resets inside a sequence. Does not know: embeddings, losses.

Axis letters: B rows, T time, X inputs, H hidden. Stacked parameters hold the gates in the order i, f, g, o.
`charloom.lab.reference` has the same cells from first principles; the tests hold the two together.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from charloom.bundle import CellKind
from charloom.network.config import ModelConfig
from charloom.network.dropout import dropout, kept

ARRAYS = ("h", "c")
"""What a cell carries from step to step."""
GATES = ("input", "forget", "candidate", "output")
"""Of every cell, in the order of the stacked parameters."""
EPSILON = 1e-5
"""Added to the variance in layer normalisation."""


class LayerOutput(NamedTuple):
    """What a layer gives back."""

    outputs: Tensor
    """[B, T, H]: h after each step"""
    h: Tensor
    """[B, H], after the last step"""
    c: Tensor
    """[B, H], after the last step"""


class Step(NamedTuple):
    """One step of a layer, each [B, H]."""

    h: Tensor
    """after the step"""
    c: Tensor
    """after the step"""
    i: Tensor
    """input gate, in (0, 1): how much is added"""
    f: Tensor
    """forget gate, in (0, 1): how much of the cell state stays"""
    g: Tensor
    """candidate, in (-1, 1): what is added"""
    o: Tensor
    """output gate, in (0, 1): how much is shown"""


class Layer(nn.Module):
    """Weights of one layer and the way through time; a subclass has the equations of one step.

    Parameters: `weight_ih` [4H, X], Xavier per gate; `weight_hh` [4H, H], orthogonal per gate; `bias` [4H], 1 for the
    forget gate and otherwise 0.
    """

    def __init__(self, input_size: int, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.hidden_size = hidden
        self.weight_drop = config.weight_drop
        self.zoneout_cell, self.zoneout_hidden = config.zoneout_cell, config.zoneout_hidden
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        for gate in self.weight_ih.data.chunk(4):
            nn.init.xavier_uniform_(gate)
        for gate in self.weight_hh.data.chunk(4):
            nn.init.orthogonal_(gate)
        self.bias.data[hidden : 2 * hidden] = 1.0

    def forward(self, x: Tensor, h: Tensor, c: Tensor, resets: Tensor | None = None) -> LayerOutput:
        """Read x [B, T, X] from the state h, c [B, H].

        Args:
            x: inputs
            h, c: the state before the first step
            resets: [B, T], true where the state is zero before a step; None = nowhere
        """
        recurrent = dropout(self.weight_hh, self.weight_drop, self.training)  # Merity et al., 2017: "weight drop"
        return self._stepwise(x, h, c, recurrent, resets)

    @torch.no_grad()
    def steps(self, x: Tensor, h: Tensor, c: Tensor) -> list[Step]:
        """What `forward` does in evaluation mode, laid open: its T steps, with the gates."""
        steps: list[Step] = []
        self._stepwise(x, h, c, self.weight_hh, None, steps)
        return steps

    def _stepwise(
        self,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        recurrent: Tensor,
        resets: Tensor | None,
        steps: list[Step] | None = None,
    ) -> LayerOutput:
        """Step by step in torch operations; torch differentiates them, the weights' gradient is taken at the end."""
        inputs, base = self._prepared(linear(x, self.weight_ih).transpose(0, 1))
        history: list[Tensor] = []
        base = _RecurrentGradient.apply(base, recurrent, history)  # type: ignore[no-untyped-call]
        weight = recurrent.detach().to(base.dtype).t()
        kept = None if resets is None else (~resets).to(h.dtype).t().unsqueeze(2).unbind(0)
        zoneout = _Zoneout(self, len(base), h) if self.zoneout_cell or self.zoneout_hidden else None
        outputs: list[Tensor] = []
        for step, (below, from_base) in enumerate(zip(inputs.unbind(0), base.unbind(0), strict=True)):
            if kept is not None:
                h, c = h * kept[step], c * kept[step]
            history.append(h.detach())
            product = torch.addmm(from_base, h.to(base.dtype), weight).to(c.dtype)
            made = self.step(product, below, c)
            h, c = (made.h, made.c) if zoneout is None else zoneout(step, h, c, made.h, made.c)
            outputs.append(h)
            if steps is not None:
                steps.append(made._replace(h=h, c=c))
        return LayerOutput(torch.stack(outputs, dim=1), h, c)

    def _prepared(self, products: Tensor) -> tuple[Tensor, Tensor]:
        """Of the inputs' products [T, B, 4H]: what `step` gets beside, and what each recurrent product is added to."""
        base = products + self.bias.to(products.dtype)
        return base, base

    @abstractmethod
    def step(self, product: Tensor, inputs: Tensor, c: Tensor) -> Step:
        """The equations of one step.

        Args:
            product: [B, 4H], the recurrent product, added to its base
            inputs: [B, 4H], as `_prepared` made it
            c: [B, H], the cell state before the step
        """


class LSTMLayer(Layer):
    """The plain cell: gates i, f, o and candidate g from one product."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor, resets: Tensor | None = None) -> LayerOutput:
        if resets is not None and not bool(resets[:, 1:].any()):
            kept = (~resets[:, :1]).to(h.dtype)
            h, c, resets = h * kept, c * kept, None
        if resets is not None or self.zoneout_cell or self.zoneout_hidden:
            return super().forward(x, h, c, resets)
        recurrent = dropout(self.weight_hh, self.weight_drop, self.training)
        weights = [self.weight_ih, recurrent, self.bias, torch.zeros_like(self.bias)]
        outputs, h, c = torch.lstm(  # the function that nn.LSTM calls: oneDNN on a CPU, cuDNN on a GPU
            x, (h.unsqueeze(0), c.unsqueeze(0)), weights, True, 1, 0.0, self.training, False, True
        )
        return LayerOutput(outputs, h.squeeze(0), c.squeeze(0))

    def step(self, product: Tensor, inputs: Tensor, c: Tensor) -> Step:
        i, f, g, o = product.chunk(4, dim=1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c = f * c + i * g
        return Step(o * torch.tanh(c), c, i, f, g, o)


class PeepholeLayer(Layer):
    """The gates i and f also see the cell state before the step, o the one after it, each value only its own.

    The peepholes `see` [3, H], of i, f and o, start at zero, where the cell is the plain one.
    """

    def __init__(self, input_size: int, config: ModelConfig) -> None:
        super().__init__(input_size, config)
        self.see = nn.Parameter(torch.zeros(3, config.hidden_size))

    def step(self, product: Tensor, inputs: Tensor, c: Tensor) -> Step:
        i, f, g, o = product.chunk(4, dim=1)
        see_i, see_f, see_o = self.see
        i, f, g = torch.sigmoid(i + see_i * c), torch.sigmoid(f + see_f * c), torch.tanh(g)
        c = f * c + i * g
        o = torch.sigmoid(o + see_o * c)
        return Step(o * torch.tanh(c), c, i, f, g, o)


class LayerNormLayer(Layer):
    """The two products are normalised, each over all gates at once, and the cell state on its way to h.

    As in the supplement to the paper; `bias` is added after the normalisation. Shifts of the products are in `bias`,
    so that the norms have gains only: `gain_ih`, `gain_hh` [4H]; the cell's has `gain_c` and `shift_c` [H].
    """

    def __init__(self, input_size: int, config: ModelConfig) -> None:
        super().__init__(input_size, config)
        hidden = config.hidden_size
        self.gain_ih, self.gain_hh = nn.Parameter(torch.ones(4 * hidden)), nn.Parameter(torch.ones(4 * hidden))
        self.gain_c, self.shift_c = nn.Parameter(torch.ones(hidden)), nn.Parameter(torch.zeros(hidden))

    def _prepared(self, products: Tensor) -> tuple[Tensor, Tensor]:
        normed = layer_norm(products.to(self.bias.dtype), self.gain_ih.shape, self.gain_ih, self.bias, EPSILON)
        return normed, torch.zeros((), dtype=products.dtype, device=products.device).expand_as(products)

    def step(self, product: Tensor, inputs: Tensor, c: Tensor) -> Step:
        i, f, g, o = (inputs + layer_norm(product, self.gain_hh.shape, self.gain_hh, None, EPSILON)).chunk(4, dim=1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c = f * c + i * g
        seen = layer_norm(c, self.gain_c.shape, self.gain_c, self.shift_c, EPSILON)
        return Step(o * torch.tanh(seen), c, i, f, g, o)


LAYERS: dict[CellKind, type[Layer]] = {
    CellKind.LSTM: LSTMLayer,
    CellKind.PEEPHOLE: PeepholeLayer,
    CellKind.LAYER_NORM: LayerNormLayer,
}


class _Zoneout:
    """Some values of h and c keep what they were (Krueger et al., 2017); in evaluation each is mixed as expected."""

    def __init__(self, layer: Layer, steps: int, like: Tensor) -> None:
        self._shares = (layer.zoneout_hidden, layer.zoneout_cell)
        self._updated: list[tuple[Tensor, ...]] | None = None
        if layer.training:
            shape = torch.Size((steps, *like.shape))
            self._updated = [kept(shape, share, like.device).unbind(0) for share in self._shares]

    def __call__(self, step: int, h: Tensor, c: Tensor, h_new: Tensor, c_new: Tensor) -> tuple[Tensor, Tensor]:
        if self._updated is None:
            of_h, of_c = self._shares
            return torch.lerp(h_new, h, of_h), torch.lerp(c_new, c, of_c)
        of_h_new, of_c_new = self._updated
        return torch.where(of_h_new[step], h_new, h), torch.where(of_c_new[step], c_new, c)


class _RecurrentGradient(torch.autograd.Function):
    """Passes its input on, and on the way back takes the gradient of the recurrent weights for all steps at once.

    The steps themselves multiply with weights that are cut off from the graph: the gradient of `base` [T, B, 4H] is
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
