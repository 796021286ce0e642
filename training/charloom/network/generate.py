"""Generation in its plainest form: one row, one step at a time.

It is the oracle that the exported decoders are tested against, and what shows a sample while training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from charloom.controls import Effect, controls
from charloom.network.model import CharLSTM
from charloom.network.sampling import choose


@torch.no_grad()
def generate(
    model: CharLSTM,
    prompt: Sequence[int],
    uniforms: Sequence[float],
    *,
    start_token: int,
    never: int | None = None,
    **asked: float,
) -> list[int]:
    """Feed `prompt` after `start_token` from the zero state, then sample one token per uniform number, but not `never`.

    Args:
        model: in float32, on the CPU; it is left in evaluation mode
        prompt: tokens
        uniforms: in [0, 1 - 2^-23]
        start_token: what the zero state goes on from
        never: a token that is not sampled
        asked: controls that scale or filter, by their option; the others of these are neutral

    Returns:
        The sampled tokens, as many as there are `uniforms`.
    """
    filters = controls(Effect.FILTERS)
    used = [*controls(Effect.SCALES), *filters]
    if unknown := asked.keys() - {control.option for control in used}:
        raise TypeError(f"generate() has no control {', '.join(sorted(unknown))}")
    values = {one.name: torch.tensor([one.type(asked.get(one.option, one.neutral))]) for one in used}
    filtered = any(values[control.name].item() != control.neutral for control in filters)
    model.eval()
    bias = torch.zeros(1, model.vocabulary_size)
    if never is not None:
        bias[:, never] = -torch.inf
    state = model.zero_state(1)
    logits, state = model(torch.tensor([[start_token, *prompt]]), state)
    tokens: list[int] = []
    for uniform in uniforms:
        last = logits[:, -1].float()
        token = choose(last, torch.tensor([uniform]), bias=bias, filtered=filtered, **values)
        tokens.append(int(token))
        logits, state = model(token.unsqueeze(1), state)
    return tokens
