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
    """One line for each of the most probable tokens, with a bar; the first one's is the longest."""
    shares = [(shown(token), math.exp(token.logprob)) for token in distribution.top]
    rest = 1.0 - sum(share for _, share in shares)
    if rest >= 0.00005:  # shown as 0.01% or more
        shares.append(("others", rest))
    width = max((len(token) for token, _ in shares), default=0)
    longest = max((math.exp(token.logprob) for token in distribution.top), default=1.0)
    return "\n".join(
        f"{token:<{width}}  {share:>7.2%}  {_bar(min(share / longest, 1.0) if longest else 0.0)}".rstrip()
        for token, share in shares
    )


def _bar(part: float) -> str:
    return "#" * round(part * _LONGEST_BAR)
