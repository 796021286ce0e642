"""The model bundle: the contract between training and serving. Needs numpy and pydantic, no torch."""

from charloom.bundle.chat import TRANSCRIPT, ChatTemplate, Role
from charloom.bundle.errors import SHOWN_UNKNOWNS, BundleError, UnknownSymbol, UnknownSymbolsError
from charloom.bundle.json_file import parse_json
from charloom.bundle.label_head import LabelHead, read_label_head, write_label_head
from charloom.bundle.manifest import (
    INSPECTOR_FILE,
    LABEL_HEAD_FILE,
    MANIFEST_FILE,
    MOST_EARLIER,
    SCHEMA_VERSION,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    Cell,
    CellKind,
    DecoderKind,
    FileEntry,
    Labelling,
    LabelScores,
    Manifest,
    Task,
)
from charloom.bundle.masking import Mask, Masked
from charloom.bundle.reader import Bundle, read_bundle, sha256_of
from charloom.bundle.vocabulary import (
    ByteVocabulary,
    CharacterVocabulary,
    MarkedText,
    Normalisation,
    TextDecoder,
    Tokens,
    Unit,
    Vocabulary,
)
from charloom.bundle.vocabulary_file import (
    DEFAULT_WORDS,
    read_vocabulary,
    too_large,
    vocabulary_of,
    write_vocabulary,
)
from charloom.bundle.words import WordRule, WordVocabulary, split_words
from charloom.bundle.writer import file_entry, write_manifest

__all__ = [
    "DEFAULT_WORDS",
    "INSPECTOR_FILE",
    "LABEL_HEAD_FILE",
    "MANIFEST_FILE",
    "MOST_EARLIER",
    "SCHEMA_VERSION",
    "SHOWN_UNKNOWNS",
    "TRANSCRIPT",
    "VOCABULARY_FILE",
    "WEIGHTS_FILE",
    "Bundle",
    "BundleError",
    "ByteVocabulary",
    "Cell",
    "CellKind",
    "CharacterVocabulary",
    "ChatTemplate",
    "DecoderKind",
    "FileEntry",
    "LabelHead",
    "LabelScores",
    "Labelling",
    "Manifest",
    "MarkedText",
    "Mask",
    "Masked",
    "Normalisation",
    "Role",
    "Task",
    "TextDecoder",
    "Tokens",
    "Unit",
    "UnknownSymbol",
    "UnknownSymbolsError",
    "Vocabulary",
    "WordRule",
    "WordVocabulary",
    "file_entry",
    "parse_json",
    "read_bundle",
    "read_label_head",
    "read_vocabulary",
    "sha256_of",
    "split_words",
    "too_large",
    "vocabulary_of",
    "write_label_head",
    "write_manifest",
    "write_vocabulary",
]
