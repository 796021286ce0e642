"""What a person at the terminal is told, and what not."""

from __future__ import annotations

import warnings

import pytest

from charloom.cli.main import main


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
def test_nobody_is_told_that_torch_retires_torchscript(category: type[Warning]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(SystemExit):
            main(["--version"])
        warnings.warn("`torch.jit.load` is deprecated. Please switch to `torch.export`.", category, stacklevel=1)
        warnings.warn("something else is deprecated", category, stacklevel=1)
    assert [str(warning.message) for warning in told] == ["something else is deprecated"]
