"""The models that come with charloom."""

from pathlib import Path

BUNDLED_MODEL = Path(__file__).parent / "shakespeare"
"""The bundle that is served when none is named."""
