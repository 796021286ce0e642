from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from charloom.bundle import TRANSCRIPT, ByteVocabulary, CharacterVocabulary, ChatTemplate, Manifest, write_manifest
from charloom.bundle.chat import Turn
from tests.unit.bundle.test_manifest import MANIFEST

TEMPLATE = ChatTemplate(
    system=Turn(before="<", after=">"),
    user=Turn(before="U", after="|"),
    assistant=Turn(before="A", after="."),
    stop=("|",),
)


def test_messages_become_a_text_that_the_assistant_goes_on_from() -> None:
    assert TEMPLATE.prompt([("system", "be"), ("user", "hi"), ("assistant", "yes"), ("user", "so")]) == (
        "<be>Uhi|Ayes.Uso|A"
    )


def test_the_assistants_last_message_goes_on() -> None:
    assert TEMPLATE.prompt([("user", "hi"), ("assistant", "ye.")]) == "Uhi|Aye."


def test_a_transcript_names_who_speaks() -> None:
    prompt = TRANSCRIPT.prompt([("system", "A play."), ("user", "Hello.")])
    assert prompt == "A play.\n\nUser: Hello.\nAssistant: "


def test_what_a_vocabulary_lacks_around_messages_is_told_with_its_place() -> None:
    """What a text stops at need not be there."""
    assert TEMPLATE.problem(ByteVocabulary()) is None
    assert TEMPLATE.problem(CharacterVocabulary(sorted("<>UA|."))) is None
    assert TEMPLATE.model_copy(update={"stop": ("#",)}).problem(CharacterVocabulary(sorted("<>UA|."))) is None
    problem = TEMPLATE.problem(CharacterVocabulary(sorted("<>UA.")))
    assert problem is not None
    assert problem.startswith("user.after is '|', and 1 character(s) are not in the model's vocabulary: '|' (U+007C)")


def test_templates_are_checked() -> None:
    told = json.loads(TEMPLATE.model_dump_json())
    for wrong in (
        told | {"tool": told["user"]},
        told | {"stop": [""]},
        told | {"user": {"before": "x" * 257, "after": ""}},
    ):
        with pytest.raises(ValidationError):
            ChatTemplate.model_validate(wrong)


def test_a_manifest_without_a_template_is_written_as_before_there_were_any(tmp_path: Path) -> None:
    def written(manifest: Manifest) -> dict[str, object]:
        kept = write_manifest(tmp_path, manifest)
        content = (tmp_path / "manifest.json").read_text("utf-8")
        assert Manifest.model_validate_json(content) == kept
        found = json.loads(content)
        assert isinstance(found, dict)
        return found

    assert "chat" not in written(MANIFEST)
    assert written(MANIFEST.model_copy(update={"chat": TEMPLATE}))["chat"] == json.loads(TEMPLATE.model_dump_json())
