"""The first work that is done with a file of a bundle: in bounded time, its results checked before they are used.

A graph is a program, and a foreign one need not end. Nothing can stop it, so it is run in a thread beside, and who
asked is told when its time is over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

from charloom.bundle import Bundle, BundleError, DecoderKind
from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs, Shape
from charloom.engine.decoding.invariance import is_batch_invariant
from charloom.engine.decoding.step_cost import StepCost, clock_of

SECONDS = 20.0
"""What the smallest piece of work may take: loading libraries from a slow disk, capturing graphs on a busy machine."""
SECONDS_PER_STEP = 0.1
"""What each step of each row may take on top, on the CPU; the largest networks that can be trained take a tenth."""
BYTES_PER_SECOND = 1e7
"""How fast a file is opened at least."""

Result = TypeVar("Result")
Allow = Callable[[float], None]
"""Told, before each piece of work, how many seconds it may take."""
Pace = Callable[[float], None]
"""Told, after each piece of work on the CPU, how many seconds it took; it may wait some seconds."""


def at_once(seconds: float) -> None:
    """The pace of work for which nobody has to make room."""


class BundleStuck(BundleError):
    """A file of a bundle does not come to an end. Its thread goes on until the process ends, which is what to do, with
    `os._exit`: a thread that is inside a library lets no interpreter end in order.
    """


def in_time(bundle: Bundle, file: str, failure: str, work: Callable[[Allow], Result]) -> Result:
    """Do some work with a file of a bundle in a thread of its own.

    Args:
        bundle: the bundle
        file: the file's name
        failure: what an error says of the file, for example "is not a decoder"
        work: is given an `Allow`; before it calls that, it has `SECONDS` and what its size takes to be read

    Raises:
        BundleStuck: a piece of the work took longer than was allowed.
        BundleError: the work failed, with an error of any kind.
    """
    began, allowed = time.monotonic(), SECONDS + (bundle.path / file).stat().st_size / BYTES_PER_SECOND
    done: Future[Result] = Future()

    def allow(seconds: float) -> None:
        nonlocal began, allowed
        began, allowed = time.monotonic(), seconds

    def run() -> None:
        try:
            done.set_result(work(allow))
        except BaseException as problem:
            done.set_exception(problem)

    thread = threading.Thread(target=run, name=f"first steps of {file}", daemon=True)
    thread.start()
    while not done.done():
        thread.join(max(began + allowed - time.monotonic(), 0.0))
        if thread.is_alive() and time.monotonic() >= began + allowed:
            raise BundleStuck(bundle.path, f"the file {file} did not come to an end within {allowed:.3g} s")
    try:
        return done.result()
    except BundleError:
        raise
    except Exception as problem:  # the runtimes raise many kinds of errors for a file that they cannot use
        said = str(problem) or type(problem).__name__
        raise BundleError(bundle.path, f"the file {file} {failure}: {said}") from problem


class FirstSteps(NamedTuple):
    """What the first steps of a decoder show."""

    cost: StepCost
    batch_invariant: bool


def first_steps(bundle: Bundle, decoder: Decoder, most_rows: int, pace: Pace = at_once) -> FirstSteps:
    """Let a decoder take its first steps.

    Args:
        bundle: whose decoder it is
        decoder: just opened
        most_rows: of a batch
        pace: of its calls

    Raises:
        BundleStuck: a call did not end in time.
        BundleError: a call failed, or gave what is none of a decoder's outputs.
    """

    def work(allow: Allow) -> FirstSteps:
        watched = _Watched(decoder, allow, pace if decoder.device == "cpu" else at_once)
        return FirstSteps(StepCost.measured(watched, clock_of(decoder.device)), is_batch_invariant(watched, most_rows))

    return in_time(bundle, DecoderKind(decoder.kind).file, "fails in its first steps", work)


class _Watched:
    """A decoder whose calls have limited time, and whose outputs are looked at."""

    def __init__(self, decoder: Decoder, allow: Allow, pace: Pace) -> None:
        self._decoder, self._allow, self._pace = decoder, allow, pace
        self.shape, self.lacks = decoder.shape, decoder.lacks

    def run(self, inputs: Inputs) -> Outputs:
        steps, rows = inputs.forced.shape
        self._allow(SECONDS + SECONDS_PER_STEP * steps * rows)
        began = time.monotonic()
        outputs = self._decoder.run(inputs)
        check_outputs(outputs, steps, rows, self.shape)
        self._allow(SECONDS)
        self._pace(time.monotonic() - began)
        return outputs


def check_outputs(outputs: Outputs, steps: int, rows: int, shape: Shape) -> None:
    """See that the outputs for `steps` steps of `rows` rows are what the contract has.

    Raises:
        ValueError: one has another size, or there is a token that the vocabulary lacks.
    """
    sizes: dict[str, tuple[int, ...]] = dict.fromkeys(("tokens", "logprob", "allowed"), (steps, rows))
    sizes |= {"state": (*shape[:2], rows, shape.hidden), "taken": (rows,), "automaton": (rows,)}
    sizes["adaptation"] = (rows, *outputs.adaptation.shape[1:])
    for name, array in outputs._asdict().items():
        size, wanted = array.shape, sizes.get(name, (steps, rows, *array.shape[2:]))
        if size != wanted:
            raise ValueError(f"its output {name} has size {size}, where the contract has {wanted}")
    if not 0 <= outputs.tokens.min() <= outputs.tokens.max() < shape.vocabulary:
        raise ValueError(f"it writes tokens outside of its {shape.vocabulary} symbols")
