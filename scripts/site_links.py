"""A hook of MkDocs: the README is the site's first page, and links to what is not in docs/ become names of files."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

README = Path(__file__).resolve().parent.parent / "README.md"
LINK = re.compile(r"(?<!!)\[([^]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the README as index.md."""
    text = README.read_text("utf-8").replace("](docs/", "](").replace('src="docs/', 'src="')
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Name what a link leads to where it is not part of the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def named(link: re.Match[str]) -> str:
        words, target = link[1], posixpath.normpath(posixpath.join(folder, link[2]))
        inside = files.get_file_from_path(target) is not None
        if inside:
            return link[0]
        path = posixpath.normpath(posixpath.join("docs", target)) if page.file.src_uri != "index.md" else target
        if not (README.parent / path).exists():
            return link[0]  # MkDocs says that it is broken
        return f"{words} (`{path}`)" if path not in words else words

    return LINK.sub(named, markdown)
