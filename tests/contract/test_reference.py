"""The reference says what the sources say, and the documents make a site without a broken link."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import charloom.client
import charloom.local
from tests.contract.test_architecture import ROOT


def test_the_reference_is_up_to_date() -> None:
    command = [sys.executable, ROOT / "scripts" / "generate-reference", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_reference_of_the_sdk_has_every_public_name_and_no_private_one() -> None:
    page = (ROOT / "docs/reference/sdk.md").read_text("utf-8")
    for package in (charloom.client, charloom.local):
        shown = rf"^(?:### (?:{package.__name__}\.)?|\| `)%s(?:$|`)"
        assert [name for name in package.__all__ if not re.search(shown % name, page, re.M)] == []
    signatures = re.findall(r"^```python\n(?:await |with )?(\w+\(.*?)^```", page, re.M | re.S)
    assert len(signatures) > 50
    assert [name for code in signatures for name in re.findall(r"\b_\w+|\b[A-Z]+_TIMEOUT\b", code)] == []
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S), re.M)
    places = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
    assert len(places) == len(set(places))
    assert set(re.findall(r"\]\(#(.*?)\)", page)) <= set(places)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_document_is_a_page_of_the_site(site: Path) -> None:
    for document in (ROOT / "docs").rglob("*.md"):
        name = document.relative_to(ROOT / "docs").with_suffix("")
        page = site / (name.parent if name.name == "README" else name) / "index.html"
        assert page.exists(), document
    assert "<h1" in (site / "deploying" / "index.html").read_text("utf-8")


def test_links_from_a_readme_lead_to_pages_and_name_what_is_none(site: Path) -> None:
    deploying = (site / "deploying" / "index.html").read_text("utf-8")
    assert '<a href="../processes/">several' in deploying
    assert "<code>deploy/scale_out.py</code>" in deploying
    assert '<a href="../deploying/">more replicas</a>' in (site / "troubleshooting" / "index.html").read_text("utf-8")


def test_every_picture_of_the_site_is_in_it(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    found = 0
    for page in pages:
        if page.name == "404.html":
            continue
        for source in re.findall(r'<img[^>]* src="([^":]+)"', page.read_text("utf-8")):
            assert (page.parent / source).exists(), (page, source)
            found += 1
    assert found
