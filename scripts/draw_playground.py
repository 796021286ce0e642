"""Take the pictures of docs/playground.md: the page in a real browser, light and dark. Needs chromium (extra: dev).

python scripts/draw_playground.py [FOLDER]
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from charloom.models import BUNDLED_MODEL
from charloom.server.open_runtime import open_models
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
SIZE = {"width": 1180, "height": 800}
COLOURS = 128
"""Of each picture: a page has few, and its file is then a third."""
BEGINNING = "JULIET:\nO Romeo, Romeo! wherefore"


def caret(page: Page, first: int, end: int | None = None) -> None:
    """Put the caret somewhere, or select a part."""
    page.locator("#text").evaluate(
        "(area, [first, end]) => { area.focus(); area.setSelectionRange(first, end) }", [first, end or first]
    )
    page.keyboard.press("Shift")


def go_on(page: Page, length: int) -> None:
    """Have the model write."""
    page.fill("#length", str(length))
    page.click("#go")
    expect(page.locator("#status")).to_contain_text("characters more")


def take(page: Page, file: Path) -> None:
    """Keep what the page looks like."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(file, optimize=True)


def draw(page: Page, scheme: str, folder: Path) -> None:
    """All views, each to a picture in the folder."""
    page.wait_for_selector("body[data-ready]")
    page.fill("#seed", "4")
    page.locator("#text").press_sequentially(BEGINNING)
    go_on(page, 430)
    caret(page, len(BEGINNING) + 1)
    take(page, folder / f"playground-notebook-{scheme}.png")

    page.click("#tab-cells")
    expect(page.locator("#units button")).to_have_count(14)
    text = page.locator("#text").input_value()
    name = text.index("\n\n", 60) + 2
    caret(page, name, text.index("\n", name) + 1)
    expect(page.locator("#units-told")).to_contain_text("by correlation")
    page.locator("#units button").first.click()
    page.mouse.move(1, 1)
    take(page, folder / f"playground-cells-{scheme}.png")
    page.locator("#units button").first.click()

    page.click("#tab-tree")
    page.fill("#length", "150")
    caret(page, 76)
    page.click("#branch")
    expect(page.locator("#status")).to_contain_text("3 branches")
    take(page, folder / f"playground-tree-{scheme}.png")

    page.locator("#branches .open").first.click()
    page.click("#tab-live")
    page.locator("#speed").fill("100")
    page.locator("#rewind").fill("150")
    expect(page.locator("#status")).to_contain_text("Back at")
    for count, temperature in ((260, "1.2"), (400, "0.3"), (520, None)):
        if page.locator("#run").inner_text() == "Run":
            page.click("#run")
        page.locator(f"#mirror [data-piece='{count}']").wait_for(state="attached")
        if temperature:
            page.locator("#temperature").fill(temperature)
    take(page, folder / f"playground-live-{scheme}.png")
    page.click("#run")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    settings = ServerSettings(grace_seconds=0, http_port=0)
    with running_server(open_models([BUNDLED_MODEL], settings), settings) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport=SIZE, color_scheme=scheme)  # type: ignore[arg-type]
            page = context.new_page()
            page.goto(f"http://{server.http_address}/")
            draw(page, scheme, folder)
        browser.close()
