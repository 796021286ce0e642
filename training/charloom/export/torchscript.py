"""The decoder as TorchScript: K steps for B rows in one call, sampling included, on any device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from charloom.controls import ENDED
from charloom.export.weights import DecoderWeights
from charloom.network.adaptation import Adaptation
from charloom.network.cells.cell import Matrix
from charloom.network.sampling import allow, penalise, pick, scale


class ScriptedLayer(nn.Module):
    """One step of one layer: the cell's, and what zoneout expects of each state array."""

    __constants__ = ("zoneout",)

    def __init__(self, weights: DecoderWeights, index: int) -> None:
        super().__init__()
        own = {name: torch.from_numpy(array) for name, array in weights.layers[index].items()}
        self.cell = weights.cell.scripted(own, weights.hidden, index == 0)
        self.zoneout = weights.zoneout

    def forward(self, below: Tensor, state: list[Tensor]) -> list[Tensor]:
        """From rows of the table [B, PH] or the h of the layer below [B, H], and the old state, to the new state."""
        made: list[Tensor] = self.cell(below, state)
        for place, share in enumerate(self.zoneout):
            if share > 0:
                made[place] = torch.lerp(made[place], state[place], share)
        return made


class ScriptedDecoder(nn.Module):
    """The network as explicit matrix products; what `decoder.ts` holds.

    Axis letters: K steps, B rows, M of them that learn, A arrays of the cell's state, L layers, H hidden, V vocabulary,
    N alternatives, S numbers that a row has learnt.
    """

    def __init__(self, weights: DecoderWeights) -> None:
        super().__init__()
        # The server reads these four as the decoder's shape.
        self.arrays, self.layers = len(weights.cell.arrays), len(weights.layers)
        self.hidden, self.vocabulary = weights.hidden, weights.vocabulary
        self.ended = ENDED
        self.table, self.head, self.head_bias = map(_constant, (weights.table, weights.head, weights.head_bias))
        self.adaptation = Adaptation(weights.vocabulary)
        self.cells = nn.ModuleList([ScriptedLayer(weights, index) for index in range(len(weights.layers))])

    def forward(
        self,
        token: Tensor,
        state: Tensor,
        forced: Tensor,
        steps: Tensor,
        uniform: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        bias: Tensor,
        repetition: Tensor,
        presence: Tensor,
        frequency: Tensor,
        counts: Tensor,
        next_state: Tensor,
        distance: Tensor,
        automaton: Tensor,
        left: Tensor,
        adaptive_rows: Tensor,
        adaptation: Tensor,
        top: int,
        filtered: bool,
        penalised: bool,
        constrained: bool,
        adaptive: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Run the decoder contract.

        What does not depend on the values of tensors is given apart, so that nothing waits for the device: `top` is N,
        `filtered`, `penalised` and `constrained` say whether any row has filters, penalties or a constraint, `adaptive`
        whether any learns.

        Returns:
            tokens [K, B], logprob [K, B], state [A, L, B, H], top_tokens [K, B, N], top_logprob [K, B, N], taken [B],
            automaton [B], allowed [K, B], adaptation [M, S], and the counts [B, V] after it, for those who go on with
            another call
        """
        parts = list(state.flatten(0, 1).unbind(0))  # the first array of all layers, then the second
        all_tokens: list[Tensor] = []
        all_logprobs: list[Tensor] = []
        all_top_tokens: list[Tensor] = []
        all_top_logprobs: list[Tensor] = []
        all_left: list[Tensor] = []
        taken, size = steps, next_state.size(1)
        for step in range(forced.size(0)):
            going = steps > step
            below = self.table[token]
            new_parts = list(parts)
            for layer, cell in enumerate(self.cells):
                made: list[Tensor] = cell(below, parts[layer :: self.layers])
                below = made[0]
                for array, new in enumerate(made):
                    new_parts[array * self.layers + layer] = new
            logits = torch.addmm(self.head_bias, below, self.head)
            predicted = (logits, logits, logits, logits, logits)  # of the types that TorchScript wants in both branches
            if adaptive:
                predicted = self.adaptation.predict(logits[adaptive_rows], adaptation)
                logits = logits.index_copy(0, adaptive_rows, predicted[0])
            wanted = penalise(logits, counts, repetition, presence, frequency) if penalised else logits
            scaled = scale(wanted + bias, temperature)
            probability_left = torch.zeros_like(temperature)
            after, allowed = next_state, next_state >= 0  # the same
            if constrained:
                after = next_state[automaton]
                allowed = distance[after.long()] < (left - step).unsqueeze(1)
                scaled, probability_left = allow(scaled, allowed, distance[automaton] == 0, temperature == 0)
            sampled = pick(scaled, uniform[step], temperature, top_k, top_p, min_p, filtered)
            next_token = torch.where(forced[step] >= 0, forced[step], sampled)
            if constrained:
                # Past a row's steps nothing may be allowed, and what is picked has no meaning.
                next_token = next_token.clamp(0, size - 1)
                chosen = going & (forced[step] < 0) & (automaton != self.ended)
                ends = chosen & ~allowed.gather(1, next_token.unsqueeze(1)).squeeze(1)
                taken = torch.where(ends, torch.full_like(taken, step), taken)
                reached = after.gather(1, next_token.unsqueeze(1)).squeeze(1).long()
                automaton = torch.where(
                    chosen, torch.where(ends, torch.full_like(reached, self.ended), reached), automaton
                )
                going = going & (automaton != self.ended)
                probability_left = torch.where(chosen, probability_left, torch.zeros_like(probability_left))
            all_left.append(probability_left)
            if adaptive:
                own, place, known, predictions, weight = predicted
                learnt = self.adaptation.learn(
                    adaptation, own, place, known, predictions, weight, next_token[adaptive_rows]
                )
                adaptation = torch.where(going[adaptive_rows].unsqueeze(1), learnt, adaptation)
            for part, new in enumerate(new_parts):
                parts[part] = torch.where(going.unsqueeze(1), new, parts[part])
            if penalised:
                counts = counts.scatter_add(1, next_token.unsqueeze(1), torch.ones_like(counts[:, :1]))
            logprobs = torch.log_softmax(logits, dim=1)
            token = torch.where(going, next_token, token)
            all_tokens.append(token)
            all_logprobs.append(logprobs.gather(1, next_token.unsqueeze(1)).squeeze(1))
            ranked, order = torch.topk(logprobs, top, dim=1)
            all_top_tokens.append(order)
            all_top_logprobs.append(ranked)
        top_tokens, top_logprobs = torch.stack(all_top_tokens), torch.stack(all_top_logprobs)
        tokens, logprob = torch.stack(all_tokens), torch.stack(all_logprobs)
        state = torch.stack(parts).view_as(state)
        allowances = torch.stack(all_left)
        return tokens, logprob, state, top_tokens, top_logprobs, taken, automaton, allowances, adaptation, counts


def build_torchscript(weights: DecoderWeights) -> torch.jit.ScriptModule:
    """Compile the decoder."""
    scripted = torch.jit.script(ScriptedDecoder(weights).eval())
    assert isinstance(scripted, torch.jit.ScriptModule)
    return scripted


def _constant(array: Matrix) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(array), requires_grad=False)
