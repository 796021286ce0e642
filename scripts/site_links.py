"""A hook of MkDocs: READMEs are pages of the site too, and links to what is not in it become names of files."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
READMES = {"index.md": "README.md", "deploying.md": "deploy/README.md"}
"""Pages of the site that are not in docs/, with the file that each of them is."""
PAGES = {file: page for page, file in READMES.items()}
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the READMEs."""
    for page, file in READMES.items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead each link to the page that a file of the repository is, or name the file where it is none."""
    here = page.file.src_uri
    source = READMES.get(here, f"docs/{here}")

    def led(link: re.Match[str]) -> str:
        mark, words, target, place = link[1], link[2], link[3], link[4] or ""
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        on_site = PAGES.get(file, file.removeprefix("docs/"))
        if files.get_file_from_path(on_site) is not None:
            return f"{mark}[{words}]({posixpath.relpath(on_site, posixpath.dirname(here) or '.')}{place})"
        if not (ROOT / file).exists():
            return link[0]  # MkDocs says that it is broken
        return f"{words} (`{file}`)" if file not in words else words

    return LINK.sub(led, markdown)
