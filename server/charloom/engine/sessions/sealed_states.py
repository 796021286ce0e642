"""Exports states of the loaded models as sealed tokens, and imports them again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import SealedStateCorrupt, SealedStateOfAnotherModel
from charloom.engine.limits import Limits
from charloom.engine.loom.model import Model
from charloom.engine.loom.models import Models
from charloom.engine.sessions.checks import require_time_to_live
from charloom.engine.sessions.sealing import SealedState, Sealer


class Unsealed(NamedTuple):
    """The contents of a token, with the loaded model that can continue it."""

    model: Model
    snapshot: Snapshot
    exact: bool
    """Whether its text continues bit for bit here, because the same kind of decoder made it."""


class SealedStates:
    """Seals and unseals states.

    Args:
        sealer: encrypts and decrypts
        models: the loaded models
        limits: bounds the time for which a token is valid
    """

    def __init__(self, sealer: Sealer, models: Models, limits: Limits) -> None:
        self._sealer = sealer
        self._models = models
        self._limits = limits

    def seal(
        self, model: Model, snapshot: Snapshot, tenant: str, time_to_live: timedelta | None = None
    ) -> tuple[bytes, datetime]:
        """Make a token of a state; returns it with its expiry.

        Raises:
            InvalidRequest: the time to live is out of range.
        """
        state = SealedState(snapshot, model.name, model.digest, _decoder_of(model))
        return self._sealer.seal(state, tenant, require_time_to_live(time_to_live, self._limits))

    def unseal(self, token: bytes, tenant: str) -> Unsealed:
        """Read the state in a token.

        Raises:
            SealedStateCorrupt, SealedStateVersion, SealedStateExpired, SealedStateOfAnotherTenant,
            SealedStateOfAnotherModel, ModelRetired: as their names say.
        """
        state = self._sealer.open(token, tenant)
        model = self._models.with_digest(state.model_digest, adaptive=state.snapshot.learnt is not None)
        if model is None:
            self._models.require_not_retired("the state", state.model, state.model_digest, "begin again")
            raise SealedStateOfAnotherModel(state.model, state.model_digest)
        if problem := state.snapshot.misfit(model.decoder.shape):
            raise SealedStateCorrupt(problem)
        return Unsealed(model, state.snapshot, state.decoder == _decoder_of(model))


def _decoder_of(model: Model) -> str:
    return f"{model.decoder.kind} {model.decoder.device}"
