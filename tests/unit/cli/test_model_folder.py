"""What `charloom serve` takes from a folder of models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from charloom.bundle import Bundle
from charloom.cli import CommandError
from charloom.cli.serving.folder import bundles_of_folder, bundles_of_others
from charloom.server.settings import ServerSettings


def test_an_empty_folder_will_do_only_beside_other_bundles(bundle: Bundle, tmp_path: Path) -> None:
    settings = ServerSettings(model_folder=tmp_path)
    assert bundles_of_folder(settings, empty=True) == []
    with pytest.raises(CommandError, match="has no complete version of any model"):
        bundles_of_folder(settings, empty=False)
    shutil.copytree(bundle.path, tmp_path / "small" / "1")
    assert bundles_of_folder(settings, empty=False) == [tmp_path / "small" / "1"]


def test_a_bundle_in_the_place_of_a_model_or_of_the_folder_is_told(bundle: Bundle, tmp_path: Path) -> None:
    mine = tmp_path / "models" / "mine"
    shutil.copytree(bundle.path, mine)
    with pytest.raises(CommandError) as refused:
        bundles_of_folder(ServerSettings(model_folder=tmp_path / "models"), empty=False)
    assert f"{mine} is a bundle itself; move its files to {mine / '1'}, or serve it with" in str(refused.value)
    with pytest.raises(CommandError, match=f"it is a bundle itself; serve it with `charloom serve {mine}`"):
        bundles_of_folder(ServerSettings(model_folder=mine), empty=False)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="--model-folder is not a folder"):
        bundles_of_folder(ServerSettings(model_folder=tmp_path / "none"), empty=True)
    assert bundles_of_folder(ServerSettings(), empty=True) == []


def test_trusted_keys_that_cannot_be_read_are_told(bundle: Bundle, tmp_path: Path) -> None:
    models = tmp_path / "models"
    settings = ServerSettings(model_folder=models, trusted_keys=tmp_path / "none.pem")
    shutil.copytree(bundle.path, models / "small" / "1")
    with pytest.raises(CommandError, match=r"cannot read .*none\.pem"):
        bundles_of_folder(settings, empty=True)
    with pytest.raises(CommandError, match=r"cannot read .*none\.pem"):
        bundles_of_others([models / "small" / ".2"], settings)


def test_a_version_that_serves_and_is_gone_is_the_newest_one_of_its_model(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, model = ServerSettings(model_folder=tmp_path / "models"), tmp_path / "models" / "small"
    given = tmp_path / "given"
    shutil.copytree(bundle.path, model / "1")
    assert bundles_of_others([given, model / "1"], settings) == [given, model / "1"]
    assert bundles_of_others([given, model / ".2"], settings) == [given, model / "1"]
    assert f"{model / '.2'} serves and is not there any more" in caplog.text
    assert bundles_of_others([model.parent / "other" / "1"], settings) == [model.parent / "other" / "1"]
