"""Generation in its plainest form: one row, one step at a time.

It is the oracle that the exported decoders are tested against, and what shows a sample while training.
Knows: `CharLSTM` and the sampling contract. Does not know: batches, serving.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from charloom.network.model import CharLSTM, State
from charloom.network.sampling import choose


@torch.no_grad()
def generate(
    model: CharLSTM,
    prompt: Sequence[int],
    uniforms: Sequence[float],
    *,
    start_token: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    never: int | None = None,
) -> list[int]:
    """Feed `prompt` after `start_token` from the zero state, then sample one token per uniform number, but not `never`.

    Returns:
        The sampled tokens, as many as there are `uniforms`.
    """
    was_training = model.training
    model.eval()
    bias = torch.zeros(1, model.vocabulary_size)
    if never is not None:
        bias[:, never] = -torch.inf
    heat, ranks, mass, ratio = (torch.tensor([value]) for value in (temperature, top_k, top_p, min_p))
    filtered = top_k > 0 or top_p < 1 or min_p > 0
    state: State = model.zero_state(1)
    logits, state = model(torch.tensor([[start_token, *prompt]]), state)
    tokens: list[int] = []
    for uniform in uniforms:
        token = choose(logits[:, -1].float(), torch.tensor([uniform]), heat, ranks, mass, ratio, bias, filtered)
        tokens.append(int(token))
        logits, state = model(token.unsqueeze(1), state)
    model.train(was_training)
    return tokens
