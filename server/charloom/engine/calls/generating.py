"""Puts generations on the loom: one that continues a session, several from one state, one that looks ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from charloom.engine.calls.generation import Continuation, Generation, GenerationResult, StateSink
from charloom.engine.calls.price import AUTOMATON, STOP, of_generation
from charloom.engine.calls.reading import Reading
from charloom.engine.calls.requests import GenerationRequest, refuse_fields, within
from charloom.engine.calls.resampling import ResampledText, ResampledTexts
from charloom.engine.calls.starting import GenerationStart, Starting
from charloom.engine.errors import InvalidRequest
from charloom.engine.limits import MOST_PEEKED, Limits
from charloom.engine.loom.jobs import Finish
from charloom.engine.memory_budget import MemoryBudget
from charloom.engine.rates import Rates
from charloom.engine.sessions.sealed_states import SealedStates
from charloom.engine.sessions.seeds import next_seed
from charloom.engine.sessions.session import Session
from charloom.engine.shares import current_share
from charloom.engine.telemetry import current_call


class Generating:
    """Generates with an engine's models.

    Args:
        starting: decides where each call starts
        reading: reads a prompt that several continuations share
        sealed: seals the states that calls ask for
        budget: the memory that calls may use
        limits: of the engine
        rates: how fast callers may go
    """

    def __init__(
        self,
        starting: Starting,
        reading: Reading,
        sealed: SealedStates,
        budget: MemoryBudget,
        limits: Limits,
        rates: Rates,
    ) -> None:
        self._rates = rates
        self._budget = budget
        self._limits = limits
        self._starting = starting
        self._reading = reading
        self._sealed = sealed

    async def generate(self, request: GenerationRequest) -> Generation:
        """Start generating one continuation, which changes its session if the request names one.

        Raises:
            InvalidRequest, ModelNotFound, SessionNotFound, SessionOfAnotherModel, SessionBusy, StalePosition,
            PositionNotKept, SealedState..., StoreUnavailable, Overloaded, Draining: as their names say; nothing has
            changed then.
        """
        start = await self._starting.generation(request)
        writer = start.writer
        if request.resume_position is not None:
            call = current_call()
            call.resumed, call.replayed = True, max(0, start.arrived - start.snapshot.position)
        if writer is None:
            self.hold(start)
            return self.run(start)
        async with writer.given_back_on_error():
            self.hold(start)
            generation = self.run(start, writer)
        writer.on_lost(generation.fail)
        return generation

    async def check(self, request: GenerationRequest) -> None:
        """Check that a text without session could begin now; starts nothing.

        Raises:
            as `generate`.
        """
        start = await self._starting.preview(request)
        with self._budget.held_for(self._needed(start)):
            pass

    async def continuations(self, request: GenerationRequest) -> Sequence[Continuation]:
        """Start generating `n` continuations of one state; a session is not changed.

        Continuation i has the seed `seed + i`, and is the text that `generate` gives with that seed, unless they are
        resampled.

        Raises:
            as `generate`, except SessionBusy.
        """
        if request.return_state:
            raise InvalidRequest("return_state", "it is for one continuation; leave n out")
        if request.resume_position is not None:
            raise InvalidRequest("resume_position", "only one continuation can be resumed; leave n out")
        start = await self._starting.preview(request)
        start = replace(start, snapshot=await self._reading.caught_up(start.model, start.snapshot))
        self.hold(start, request.n)
        asked, prompt = start.checked, start.checked.prompt
        # The prompt is read once for all, unless they must know its tokens.
        if len(prompt) and not start.checked.sampling.penalises:
            snapshot, _ = await self._reading.read(start.model, prompt, start.snapshot)
            start = replace(start, snapshot=snapshot, checked=start.checked.after(prompt))
        if request.resample:
            texts = ResampledTexts(start, asked, request.n, self._rates)
            return [ResampledText(texts, number) for number in range(request.n)]
        generations: list[Generation] = []
        try:
            for number in range(request.n):
                own = replace(start.snapshot, seed=next_seed(start.snapshot.seed, number))
                generations.append(self.run(replace(start, snapshot=own)))
        except Exception:
            for generation in generations:
                generation.cancel()
            raise
        return generations

    async def peek(self, request: GenerationRequest, top: int) -> Generation:
        """Start generating the text of `generate`, with the distribution at each position; a session is not changed.

        Args:
            request: as for `generate`
            top: how many tokens to return at each position; 0: all

        Raises:
            as `generate`, except SessionBusy.
        """
        refuse_fields(request, "n", "resample", "stop", "logprobs", "top_logprobs", "return_state")
        if request.max_tokens is not None:
            within("max_tokens", request.max_tokens, 1, MOST_PEEKED)
        start = await self._starting.preview(replace(request, max_tokens=request.max_tokens or 1))
        size = start.model.vocabulary.size
        within("top", top, 0, size)
        start = replace(start, checked=replace(start.checked, top_logprobs=top or size))
        self.hold(start)
        return self.run(start)

    async def pace(self) -> None:
        """Wait until the present caller owes no tokens."""
        await self._rates.pace(current_share())

    def hold(self, start: GenerationStart, count: int = 1) -> None:
        """Reserve the memory that `count` generations may need, until the end of the call.

        Raises:
            TooMuchMemory: no call may use so much.
            Overloaded: not so much is free now.
        """
        self._budget.hold(self._needed(start, count))

    def _needed(self, start: GenerationStart, count: int = 1) -> int:
        checked = start.checked
        automata = 0 if checked.stops is None else STOP * sum(map(len, checked.stops.patterns))
        if checked.automaton is not None:
            automata += AUTOMATON * checked.automaton.nbytes
        whole = start.request.most_tokens is not None or start.request.resample
        unread = None if whole else self._limits.unread_tokens
        return automata + of_generation(
            start.model.decoder.shape,
            len(checked.prompt),
            checked.max_tokens,
            checked.top_logprobs,
            count,
            unread=unread,
            told=start.request.told,
            learnt=start.snapshot.learnt_bytes,
            behind=start.snapshot.behind,
        )

    def run(self, start: GenerationStart, sink: StateSink | None = None) -> Generation:
        """Put a generation on the loom.

        Args:
            start: where it starts, and what to do
            sink: gets its states

        Raises:
            Overloaded, Draining: as their names say.
        """
        model, checked, snapshot = start.model, start.checked, start.snapshot
        begins = len(checked.prompt) or (checked.automaton is not None and not len(checked.earlier))
        if begins and snapshot.tail:
            snapshot = replace(snapshot, tail=b"")  # a prompt, or a constrained text, begins a new character

        def describe(finish: Finish, session: Session | None) -> GenerationResult:
            earlier_read = len(checked.earlier) - checked.earlier_generated
            state = b""
            if start.request.return_state:
                state, _ = self._sealed.seal(model, finish.snapshot, start.request.tenant)
            if len(checked.earlier):
                generated = finish.generated + checked.earlier_generated
                finish = replace(finish, fed=finish.fed + earlier_read, generated=generated)
            return GenerationResult(
                finish=finish,
                sampling=checked.sampling,
                max_tokens=checked.max_tokens + checked.earlier_generated,
                model=model.name,
                model_digest=model.digest,
                session=session,
                stop=None if finish.stop is None else checked.stop[finish.stop],
                state=state,
            )

        job, meter = checked.job(snapshot, snapshots=sink is not None), self._rates.meter(current_share())
        generation = Generation(model, job, sink, describe, start.arrived, meter)
        if meter is not None:
            meter.spend(snapshot.behind + len(checked.prompt))
        return generation
