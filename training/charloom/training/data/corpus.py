"""Text files as training and validation tokens."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from charloom.bundle import Mask, Normalisation, Tokens, Unit, Vocabulary
from charloom.training.data.documents import Documents, Part, parts
from charloom.training.data.stream import Ints, Stream
from charloom.training.data.survey import Survey, require_room
from charloom.training.data.text_settings import PLAIN, TextSettings
from charloom.training.data.texts import CorpusError, digest_of, name_of, text_files
from charloom.training.data.token_files import read_tokens, smallest_type, write_tokens


@dataclass(frozen=True)
class Corpus:
    """A text, split contiguously: training part first, validation part last."""

    vocabulary: Vocabulary
    train: Stream
    """[N], the first part"""
    validation: Stream
    """[M], the last part"""
    sha256: str
    """Of the file's bytes; of several files, of their digests."""
    characters: int
    name: str
    left_out: int = 0
    """How many files were left out because they are not text, where the settings allow it."""


def read_corpus(
    inputs: Path | Sequence[Path],
    unit: Unit,
    validation_share: float = 0.1,
    vocabulary: Vocabulary | None = None,
    *,
    documents: Documents = Documents.STREAM,
    normalisation: Normalisation = Normalisation.NONE,
    vocabulary_size: int | None = None,
    directory: Path | None = None,
    settings: TextSettings = PLAIN,
    mask: Mask = Mask.NONE,
) -> Corpus:
    """Read text, make (or take) its vocabulary, and split it at about `1 - validation_share`.

    The tokens are written to files in one pass and mapped into memory, whatever their number.

    Args:
        inputs: text files, and folders of them
        unit: what one token is; ignored where a vocabulary is given
        validation_share: how much of the text is the validation part
        vocabulary: to be used instead of one of this text
        documents: what a document is
        normalisation: the Unicode form; ignored where a vocabulary is given
        vocabulary_size: most symbols of a word vocabulary
        directory: where the token files stay for the next run; by default they are deleted with the corpus
        settings: which files of a folder are meant, and their encoding
        mask: which numbers of the text are made alike

    Raises:
        CorpusError: the text cannot be read, or cannot be trained on.
    """
    inputs = [inputs] if isinstance(inputs, Path) else inputs
    (files, skipped), name = text_files(inputs, settings), name_of(inputs)
    sha256 = digest_of(files)
    if (
        directory
        and vocabulary
        and (kept := read_tokens(directory, _facts(sha256, vocabulary, documents, settings, mask)))
    ):
        stream, said = kept
        return Corpus(vocabulary, *stream.split(validation_share), sha256, said["characters"], name, skipped)
    if vocabulary is not None:
        unit, normalisation = vocabulary.unit, vocabulary.normalisation
    survey = _surveyed(files, documents, unit, normalisation, settings, mask)
    if len(survey.symbols) < 2:
        what = f"nothing but {survey.symbols[0]!r}" if survey.symbols else "no documents"
        raise CorpusError(f"{name} has {what}: there is nothing to learn; give a text of different characters")
    if vocabulary is None:
        vocabulary = survey.vocabulary(unit, vocabulary_size, documents=documents is not Documents.STREAM)
    require_room(vocabulary, name, "lower --vocabulary-size, or train with --unit character or byte")
    survey.check(vocabulary, name, "take them out of the text, or train without a given vocabulary")
    facts = _facts(sha256, vocabulary, documents, settings, mask) | {"characters": survey.characters}
    stream = _stream(files, vocabulary, documents, directory, facts, settings, mask)
    return Corpus(vocabulary, *stream.split(validation_share), sha256, survey.characters, name, skipped)


def read_stream(
    inputs: Sequence[Path],
    vocabulary: Vocabulary,
    documents: Documents,
    settings: TextSettings = PLAIN,
    mask: Mask = Mask.NONE,
) -> Stream:
    """All of a text, in terms of a model's vocabulary; arguments as `read_corpus`.

    Raises:
        CorpusError: the text cannot be read, or the vocabulary lacks characters of it.
    """
    files = text_files(inputs, settings).files
    survey = _surveyed(files, documents, vocabulary.unit, vocabulary.normalisation, settings, mask)
    survey.check(vocabulary, name_of(inputs), "take them out of the text")
    if not survey.symbols:
        raise CorpusError(f"{name_of(inputs)} has no documents; give a text that has")
    return _stream(files, vocabulary, documents, None, {}, settings, mask)


def _surveyed(
    files: Sequence[Path],
    documents: Documents,
    unit: Unit,
    normalisation: Normalisation,
    settings: TextSettings,
    mask: Mask,
) -> Survey:
    text = parts(files, documents, uncut=_uncut(unit, normalisation), encoding=settings.encoding, mask=mask)
    return Survey(text, unit, normalisation)


def _uncut(unit: Unit, normalisation: Normalisation) -> bool:
    """Whether it matters where a text is cut."""
    return unit is Unit.WORD or normalisation is not Normalisation.NONE


def _facts(
    sha256: str, vocabulary: Vocabulary, documents: Documents, settings: TextSettings, mask: Mask
) -> dict[str, str]:
    """What the tokens of a text depend on."""
    symbols = json.dumps(vocabulary.to_json(), sort_keys=True).encode()
    facts = {"text": sha256, "vocabulary": hashlib.sha256(symbols).hexdigest(), "documents": documents.value}
    if mask is not Mask.NONE:
        facts["mask"] = mask.value
    return facts if settings.encoding == "utf-8" else facts | {"encoding": settings.encoding}


def _stream(
    files: Sequence[Path],
    vocabulary: Vocabulary,
    documents: Documents,
    directory: Path | None,
    facts: dict[str, Any],
    settings: TextSettings,
    mask: Mask,
) -> Stream:
    """The tokens of files, in `directory`, or in files without a name."""
    uncut = _uncut(vocabulary.unit, vocabulary.normalisation)
    text = parts(files, documents, uncut=uncut, encoding=settings.encoding, mask=mask)
    with tempfile.TemporaryDirectory() as temporary:
        return write_tokens(
            directory or Path(temporary),
            _encoded(text, vocabulary),
            smallest_type(vocabulary.size),
            facts,
            documents=documents is not Documents.STREAM,
        )


def _encoded(text: Iterator[list[Part]], vocabulary: Vocabulary) -> Iterator[tuple[Tokens, Ints]]:
    """Tokens, and the places among them where documents start."""
    start = np.array([vocabulary.start_token])
    for some in text:
        found: list[Tokens] = []
        places: list[int] = []
        count = 0
        for part in some:
            if part.begins:
                places.append(count)
                found.append(start)
            found.append(vocabulary.encode(part.text))
            count += part.begins + len(found[-1])
        if found:
            yield np.concatenate(found), np.array(places, np.int64)
