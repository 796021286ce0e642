"""What adaptive rows have learnt and learn, in torch; `charloom.engine.decoding.adaptation` states it in NumPy.

Written in the subset that TorchScript compiles, because the exported decoder runs it. No two sums of it depend on the
order in which a device adds.

Axis letters: M rows, V vocabulary, N contexts, D tokens of the longest one, S numbers of a state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from charloom.controls.adaptation import (
    BIAS_RATE,
    BUCKETS,
    COEFFICIENTS,
    LEVELS,
    ORDERS,
    TRUSTS,
    WEIGHT_RATE,
    layout,
)


class Adaptation(nn.Module):
    """The rule, for a vocabulary of some size."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.sizes = list(layout(vocabulary))
        self.contexts, self.buckets, self.trusts, self.levels = len(ORDERS), BUCKETS, TRUSTS, LEVELS
        self.weight_rate, self.bias_rate = WEIGHT_RATE, BIAS_RATE
        self.coefficients = nn.Parameter(torch.tensor(COEFFICIENTS), requires_grad=False)

    def predict(self, logits: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What comes next.

        Args:
            logits: [M, V] of the network
            state: [M, S]

        Returns:
            The logits with all that is added [M, V]; then what `learn` has to know, [M, N] each: where the contexts
            stand in the state, whether something is known of them, the tokens that they predict, and their weights.
        """
        seen, weights, bias, history = torch.split(state, self.sizes, dim=1)
        contexts = torch.arange(self.contexts, device=state.device)
        place = (history.long().unsqueeze(1) * self.coefficients).sum(2) % self.buckets + contexts * self.buckets
        entry = seen.gather(1, place).long()
        known = (entry > 0).float()
        code = (entry - 1).clamp(min=0)
        token = torch.div(code, self.trusts, rounding_mode="floor")
        improbable = -torch.log_softmax(logits, dim=1).gather(1, token)
        level = improbable.floor().clamp(max=self.levels - 1).long()
        weight = (contexts * self.trusts + code % self.trusts) * self.levels + level
        added = weights.gather(1, weight) * known
        result = logits + bias if bias.size(1) > 0 else logits
        for context in range(self.contexts):
            result = result.scatter_add(1, token[:, context : context + 1], added[:, context : context + 1])
        return result, place, known, token, weight

    def learn(
        self,
        state: Tensor,
        logits: Tensor,
        place: Tensor,
        known: Tensor,
        token: Tensor,
        weight: Tensor,
        chosen: Tensor,
    ) -> Tensor:
        """The state [M, S] after the tokens that came, [M], by what `predict` gave."""
        seen, weights, bias, history = torch.split(state, self.sizes, dim=1)
        came = chosen.unsqueeze(1)
        probability = torch.softmax(logits, dim=1)
        right = (token == came).float() * known
        wrong = probability.gather(1, token) * known
        weights = weights.scatter_add(1, weight, (right - wrong) * self.weight_rate)
        if bias.size(1) > 0:
            missing = torch.zeros_like(probability).scatter(1, came, 1.0) - probability
            bias = bias + missing * self.bias_rate
        seen = seen.scatter(1, place, (1 + self.trusts * came).float() + right)
        history = torch.cat([(came + 1).float(), history[:, :-1]], dim=1)
        return torch.cat([seen, weights, bias, history], dim=1)
