"""`charloom export RUN BUNDLE`, and `charloom export --from OLD NEW`."""

from __future__ import annotations

import argparse
import re
import shlex
import unicodedata
from pathlib import Path

from pydantic import ValidationError

from charloom.bundle import Bundle, BundleError, ChatTemplate, DecoderKind, Manifest, read_bundle
from charloom.cli import CommandError
from charloom.cli.flags import explain
from charloom.cli.problems import words_of
from charloom.cli.training.classifier_export import classifier_to_export
from charloom.cli.training.threads import add_threads_flag, use_threads
from charloom.export import ExportError, export_bundle, export_classifier, export_from_bundle
from charloom.models import BUNDLED_MODEL, bundle_path
from charloom.training.checkpoint import load_trained
from charloom.training.data.texts import CorpusError
from charloom.training.files import CheckpointError
from charloom.training.run_directory import CLASSIFIER_FILE, load_losses, load_validation

_KINDS = ",".join(kind.value for kind in DecoderKind)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "run_directory",
        metavar="RUN",
        type=Path,
        help="directory of a run of `charloom train` or `charloom classify train`; with --from, of a bundle, "
        f"or {BUNDLED_MODEL.name}, the bundled one",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="directory to make")
    parser.add_argument(
        "--from",
        dest="from_bundle",
        action="store_true",
        help="RUN is a bundle: write its model, the matrices as they are and under the same name, in the form that "
        "this version writes",
    )
    parser.add_argument("--name", help="name of the model (default: made from that of the directory)")
    parser.add_argument(
        "--decoders", help=f"which decoders to write (default: {_KINDS}; with --from, those that the bundle has)"
    )
    parser.add_argument(
        "--weights",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also write weights.safetensors (default: yes)",
    )
    parser.add_argument(
        "--inspector",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also write inspector.onnx, for `charloom inspect` (default: yes; never of a classifier)",
    )
    parser.add_argument(
        "--chat-template",
        metavar="FILE",
        type=Path,
        help="JSON with what stands around each message of a conversation, for a model that has learnt to converse",
    )
    parser.add_argument(
        "--follows",
        metavar="BUNDLE",
        type=Path,
        action="append",
        default=[],
        help="a bundle of the same symbols whose place the new one takes: sessions of it can be moved to the new model "
        "by servers that never had the old one (`charloom sessions move`); can be given several times",
    )
    add_threads_flag(parser)


def name_of(bundle: Path) -> str:
    """A model's name from that of its directory: accents dropped, and a dash for what no name may have.

    Raises:
        CommandError: nothing of the directory's name is left.
    """
    plain = unicodedata.normalize("NFKD", bundle.resolve().name).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-")[:64]
    if not name:
        raise CommandError(
            f"no name of a model can be made of {bundle.resolve().name!r}; give one with --name "
            "(ASCII letters, digits, '.', '_' and '-')"
        )
    return name


def _kinds(told: str) -> list[DecoderKind]:
    try:
        return [DecoderKind(kind) for kind in told.split(",")]
    except ValueError as problem:
        raise CommandError(f"--decoders {told}: {problem}; choose from {_KINDS}") from problem


def _chat(file: Path | None) -> ChatTemplate | None:
    if file is None:
        return None
    try:
        return ChatTemplate.model_validate_json(file.read_bytes())
    except ValidationError as problem:
        error = problem.errors()[0]
        place = ".".join(str(part) for part in error["loc"])
        said = f"{place}: {error['msg'].removeprefix('Value error, ')}".removeprefix(": ")
        raise CommandError(f"--chat-template {file}: {said}") from problem


def _follows(arguments: argparse.Namespace) -> list[Bundle]:
    return [read_bundle(bundle_path(path)) for path in arguments.follows]


def _from_classifier(arguments: argparse.Namespace, decoders: list[DecoderKind] | None) -> Manifest:
    if arguments.chat_template is not None:
        raise CommandError("--chat-template is for language models; a classifier writes nothing")
    if arguments.follows:
        raise CommandError("--follows is for language models; a classifier has no sessions")
    return export_classifier(
        classifier_to_export(arguments.run_directory),
        arguments.bundle,
        name=arguments.name or name_of(arguments.bundle),
        decoders=list(DecoderKind) if decoders is None else decoders,
        include_weights=arguments.weights,
        tell=print,
    )


def _from_run(arguments: argparse.Namespace, decoders: list[DecoderKind] | None) -> Manifest:
    run_directory: Path = arguments.run_directory
    if (run_directory / CLASSIFIER_FILE).is_file():
        return _from_classifier(arguments, decoders)
    if run_directory == Path(BUNDLED_MODEL.name) and not run_directory.exists():
        raise CommandError(f"{run_directory} is the bundled model, not the directory of a run; add --from")
    trained = load_trained(run_directory)
    return export_bundle(
        trained,
        load_validation(run_directory, trained.vocabulary.size),
        arguments.bundle,
        name=arguments.name or name_of(arguments.bundle),
        decoders=list(DecoderKind) if decoders is None else decoders,
        include_weights=arguments.weights,
        include_inspector=arguments.inspector,
        windows=load_losses(run_directory, trained.step).get("windows-256"),
        chat=_chat(arguments.chat_template),
        follows=_follows(arguments),
        tell=print,
    )


def _from_bundle(arguments: argparse.Namespace, decoders: list[DecoderKind] | None) -> Manifest:
    return export_from_bundle(
        read_bundle(bundle_path(arguments.run_directory)),
        arguments.bundle,
        name=arguments.name,
        decoders=decoders,
        include_weights=arguments.weights,
        include_inspector=arguments.inspector,
        chat=_chat(arguments.chat_template),
        follows=_follows(arguments),
        tell=print,
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the bundle of a run's best weights, or of another bundle's model."""
    use_threads(arguments)
    decoders = None if arguments.decoders is None else _kinds(arguments.decoders)
    try:
        manifest = (_from_bundle if arguments.from_bundle else _from_run)(arguments, decoders)
    except ValidationError as problem:
        raise CommandError(explain(problem)) from problem
    except (ExportError, CheckpointError, CorpusError, BundleError, OSError) as problem:
        raise CommandError(words_of(problem)) from problem
    size = sum(entry.bytes for entry in manifest.files.values())
    print(f"wrote {arguments.bundle}: {', '.join(manifest.files)} ({size / 1e6:.1f} MB), digest {manifest.digest[:12]}")
    print(f"next: charloom serve {shlex.quote(str(arguments.bundle))}")
    return 0
