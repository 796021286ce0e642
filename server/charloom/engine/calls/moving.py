"""Moves a session to another model, or to the present version of its own, by reading the session's text again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from charloom.bundle import UnknownSymbolsError
from charloom.engine.calls.reading import Reading
from charloom.engine.calls_in_progress import CallsInProgress
from charloom.engine.clock import utc_now
from charloom.engine.errors import InvalidRequest, SessionOfAnotherModel
from charloom.engine.loom.model import Model
from charloom.engine.loom.models import Models
from charloom.engine.sessions.checks import require_position
from charloom.engine.sessions.session import History, Key, Session
from charloom.engine.sessions.sessions import Sessions


class Moving:
    """Moves sessions.

    Args:
        models: the models of the engine
        sessions: the sessions to move
        reading: reads the texts with the new models
        calls: admits the calls
    """

    def __init__(self, models: Models, sessions: Sessions, reading: Reading, calls: CallsInProgress) -> None:
        self._models = models
        self._sessions = sessions
        self._reading = reading
        self._calls = calls

    async def move(
        self, key: Key, name: str = "", *, skip_unknown: bool = False, expected_position: int | None = None
    ) -> Session:
        """Move a session to another model, which reads the session's kept text from the zero state.

        The bytes of an unfinished last character are left out. The seed stays.

        Args:
            key: of the session
            name: of the new model; empty: the model of the same name, else the default one
            skip_unknown: leave out characters that the new model lacks
            expected_position: the position that the session must have; None: any

        Returns:
            The session; unchanged if the new model can continue its state as it is.

        Raises:
            ModelNotFound, SessionNotFound, SessionBusy, StalePosition, StoreUnavailable, QuotaExceeded, Overloaded,
                Draining: as their names say.
            InvalidRequest: the new model lacks a character, or cannot learn although the session does.
            SessionOfAnotherModel: the vocabulary of the session's model is not known here.
        """
        await self._calls.begin()
        writer = await self._sessions.acquire(key)
        async with writer.given_back_on_error():
            session = writer.session
            require_position(session, expected_position)
            model = self._model(session, name)
            moved = session
            if not model.goes_on_with(session.model_digest, adaptive=session.adaptive):
                moved = await self._moved(session, model, skip_unknown)
        return await writer.close_with(moved.renewed(utc_now()))

    def _model(self, session: Session, name: str) -> Model:
        if not name and self._models.loaded(session.model) is not None:
            name = session.model
        return self._models.named(name)

    async def _moved(self, session: Session, model: Model, skip_unknown: bool) -> Session:
        vocabulary = self._models.vocabulary_of(session.model_digest)
        if vocabulary is None:
            its = f"{session.model} ({session.model_digest[:12]})"
            raise SessionOfAnotherModel(session.id, its, f"{model.name} ({model.digest[:12]})", absent=True)
        try:
            tokens = model.vocabulary.encode(session.history.text(vocabulary), skip_unknown=skip_unknown)
        except UnknownSymbolsError as problem:
            raise InvalidRequest(
                "model",
                f'{problem}; choose another, or skip them: unknown_characters="skip", or --skip-unknown of the command',
            ) from problem
        if session.adaptive and not model.learns:
            raise InvalidRequest(
                "model",
                f"session {session.id!r} is adaptive, and the model {model.name!r} was exported before sessions could "
                "learn; export it again (charloom export --from OLD NEW), or choose another",
            )
        start = after = model.fresh(session.snapshot.seed, adaptive=session.adaptive)
        history = History.fresh(model.decoder.shape, model.bundle.manifest.start_token, adaptive=session.adaptive)
        if len(tokens):
            after = await self._reading.read_priced(model, np.asarray(tokens), start)
            history = history.grown(tokens.tolist(), [start, after], self._reading.limits.rewind_tokens)
        moved = session.changed(utc_now(), after, history)
        return replace(moved, model=model.name, model_digest=model.digest)
