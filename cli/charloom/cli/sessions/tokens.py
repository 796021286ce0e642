"""Tokens and how probable they are, for a person."""

from __future__ import annotations

import math
from collections.abc import Sequence

from charloom.client import Alternative, TokenLogprob

_LONGEST_BAR = 40


def table(logprobs: Sequence[TokenLogprob]) -> str:
    """One line for each token: its probability, the same in nats, and the most probable ones, if they are there."""
    rows = [("TOKEN", "PROBABILITY", "NATS", "MOST PROBABLE" if any(token.top for token in logprobs) else "")]
    for token in logprobs:
        others = ", ".join(f"{shown(other)} {math.exp(other.logprob):.2%}" for other in token.top)
        rows.append((shown(token), f"{math.exp(token.logprob):.2%}", f"{abs(token.logprob):.4f}", others))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{token:<{widths[0]}}  {share:>{widths[1]}}  {nats:>{widths[2]}}  {others}".rstrip()
        for token, share, nats, others in rows
    )


def shown(token: Alternative) -> str:
    """On one line, with quotes around it; a byte that is no character of its own as bytes."""
    try:
        return repr(token.symbol.decode())
    except UnicodeDecodeError:
        return repr(token.symbol)


def chart(distribution: TokenLogprob) -> str:
    """One line for each of the most probable tokens, with a bar; the first one's is the longest. The rest has none."""
    shares = [(shown(token), math.exp(token.logprob)) for token in distribution.top]
    longest = max((share for _, share in shares), default=0.0)
    rows = [(token, share, "#" * round(_LONGEST_BAR * share / longest)) for token, share in shares if longest]
    rest = 1.0 - sum(share for _, share in shares)
    if rest >= 0.00005:  # less would be shown as nothing
        rows.append(("others", rest, ""))
    width = max((len(token) for token, _, _ in rows), default=0)
    return "\n".join(f"{token:<{width}}  {share:>7.2%}  {bar}".rstrip() for token, share, bar in rows)
