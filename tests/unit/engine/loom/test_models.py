"""The models of an engine: what is handed out of their ticks, and what is known of those that are gone."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import numpy as np
import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.engine import Engine
from charloom.engine.limits import Limits
from charloom.engine.loom.jobs import Chunk, Finish, Job
from charloom.engine.loom.model import try_model
from charloom.engine.loom.models import REMEMBERED, Models


async def test_a_call_that_fails_to_take_its_text_keeps_no_other_from_its_own(
    bundle: Bundle, decoder: Decoder, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine([(bundle, decoder)], Limits(workers=1))  # which has both in one tick
    model, ended = engine.model(""), asyncio.get_running_loop().create_future()

    def fails(chunk: Chunk) -> None:
        raise ValueError("out of luck")

    def takes(chunk: Chunk) -> None:
        if chunk.finish is not None:
            ended.set_result(chunk.finish)

    job = Job(model.fresh(1), np.array([1], np.int64), 0, Sampling())
    with caplog.at_level(logging.ERROR):
        model.loom.submit_together([(job, fails), (job, takes)])
        finish: Finish = await asyncio.wait_for(ended, 60)
    assert finish.generated == 0
    assert "a call did not take what the loom has brought" in caplog.text
    await engine.drain(0)


def named(bundle: Bundle, name: str, digests: int = 0) -> Bundle:
    """The bundle under another name, in the place of so many other models."""
    follows = tuple(f"{number:064x}" for number in range(digests))
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"name": name, "follows": follows}).with_digest())


async def test_the_symbols_of_the_models_that_went_last_are_known_however_many_digests_each_has(
    bundle: Bundle, decoder: Decoder
) -> None:
    models = Models([(bundle, decoder)], Limits())

    def come_and_go(bundle: Bundle) -> str:
        models.serve(try_model(bundle, decoder, 1), 0)
        model = models.unload(bundle.manifest.name, 0)
        assert list(models.let_go()) == [model]
        assert model.loom.drain(0)
        return model.digest

    first = come_and_go(named(bundle, "first"))
    many = come_and_go(named(bundle, "many", REMEMBERED))
    assert models.vocabulary_of(first) is bundle.vocabulary
    assert come_and_go(named(bundle, "first")) == first  # it went again, and last
    others = [come_and_go(named(bundle, f"other-{number}")) for number in range(REMEMBERED - 1)]
    assert all(models.vocabulary_of(digest) is bundle.vocabulary for digest in (first, *others))
    assert models.vocabulary_of(many) is None
    come_and_go(named(bundle, "last"))
    assert models.vocabulary_of(first) is None
    for model in models:
        assert model.loom.drain(0)
