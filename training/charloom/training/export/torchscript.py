"""The decoder as TorchScript: K steps for B rows in one call, sampling included, on any device.

Knows: torch operations and the decoder contract. Does not know: training, files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from charloom.training.export.weights import DecoderWeights
from charloom.training.sampling import choose, penalise


class ScriptedDecoder(nn.Module):
    """The network as explicit matrix products; what `decoder.ts` holds.

    Axis letters: K steps, B rows, L layers, H hidden, V vocabulary, N alternatives.
    """

    def __init__(self, weights: DecoderWeights) -> None:
        super().__init__()
        self.layers = weights.layers
        self.hidden = weights.hidden
        self.vocabulary = weights.vocabulary
        self.table = nn.Parameter(torch.from_numpy(weights.table), requires_grad=False)
        self.head = nn.Parameter(torch.from_numpy(weights.head), requires_grad=False)
        self.head_bias = nn.Parameter(torch.from_numpy(weights.head_bias), requires_grad=False)
        self.matrices = nn.ParameterList(
            [
                nn.Parameter(torch.from_numpy(m), requires_grad=False)
                for m in (weights.recurrent, *[m for m, _ in weights.upper])
            ]
        )
        self.biases = nn.ParameterList(
            [
                nn.Parameter(torch.from_numpy(b), requires_grad=False)
                for b in (weights.table[0] * 0, *[b for _, b in weights.upper])
            ]
        )

    def forward(
        self,
        token: Tensor,
        h: Tensor,
        c: Tensor,
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
        top: int,
        filtered: bool,
        penalised: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Run the decoder contract.

        What does not depend on the values of tensors is given apart, so that nothing waits for the device: `top` is N,
        `filtered` and `penalised` say whether any row has filters or penalties.

        Returns:
            tokens [K, B], logprob [K, B], h [L, B, H], c [L, B, H], top_tokens [K, B, N], top_logprob [K, B, N], and
            the counts [B, V] after it, for those who go on with another call
        """
        hs = list(h.unbind(0))
        cs = list(c.unbind(0))
        all_tokens: list[Tensor] = []
        all_logprobs: list[Tensor] = []
        all_top_tokens: list[Tensor] = []
        all_top_logprobs: list[Tensor] = []
        for step in range(forced.size(0)):
            active = (steps > step).unsqueeze(1)
            below = self.table[token]
            for layer, (matrix, bias_of_layer) in enumerate(zip(self.matrices, self.biases)):  # noqa: B905
                if layer == 0:
                    gates = torch.addmm(below, hs[0], matrix)
                else:
                    gates = torch.addmm(bias_of_layer, torch.cat([below, hs[layer]], dim=1), matrix)
                i, f, o = torch.sigmoid(gates[:, : 3 * self.hidden]).chunk(3, dim=1)
                c_new = f * cs[layer] + i * torch.tanh(gates[:, 3 * self.hidden :])
                below = o * torch.tanh(c_new)
                hs[layer] = torch.where(active, below, hs[layer])
                cs[layer] = torch.where(active, c_new, cs[layer])
            logits = torch.addmm(self.head_bias, below, self.head)
            wanted = penalise(logits, counts, repetition, presence, frequency) if penalised else logits
            sampled = choose(wanted, uniform[step], temperature, top_k, top_p, min_p, bias, filtered)
            next_token = torch.where(forced[step] >= 0, forced[step], sampled)
            if penalised:
                counts = counts.scatter_add(1, next_token.unsqueeze(1), torch.ones_like(counts[:, :1]))
            logprobs = torch.log_softmax(logits, dim=1)
            token = torch.where(active.squeeze(1), next_token, token)
            all_tokens.append(token)
            all_logprobs.append(logprobs.gather(1, next_token.unsqueeze(1)).squeeze(1))
            ranked, order = torch.topk(logprobs, top, dim=1)
            all_top_tokens.append(order)
            all_top_logprobs.append(ranked)
        top_tokens, top_logprobs = torch.stack(all_top_tokens), torch.stack(all_top_logprobs)
        tokens, logprob = torch.stack(all_tokens), torch.stack(all_logprobs)
        return tokens, logprob, torch.stack(hs), torch.stack(cs), top_tokens, top_logprobs, counts


def build_torchscript(weights: DecoderWeights) -> torch.jit.ScriptModule:
    """Compile the decoder."""
    scripted = torch.jit.script(ScriptedDecoder(weights).eval())
    assert isinstance(scripted, torch.jit.ScriptModule)
    return scripted
