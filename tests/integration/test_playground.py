"""The page at / of the HTTP port, in a real browser, used as people use it: by keyboard, mouse, and what is shown."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Route, expect

from charloom.bundle import Bundle
from charloom.client import Client
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.http.page import FOLDER
from charloom.server.identity.key_file import KeyFileEditor, made, utc_now
from charloom.server.identity.scopes import Scope
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.integration.browser import PATIENCE_MS, launched
from tests.integration.http_client import client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


class Visit:
    """Opens pages, and keeps what goes wrong in them."""

    def __init__(self, browser: Browser) -> None:
        self.said: list[str] = []
        """On the console, errors and breaches of the policy among it; refusals of the server are kept apart."""
        self.refusals: list[int] = []
        self.elsewhere: list[str] = []
        """What was asked of another server."""
        self.contexts: list[BrowserContext] = []
        self._browser = browser

    def __call__(self, server: Server, fragment: str = "", *, ready: bool = True, **options: Any) -> Page:
        address = f"http://{server.http_address}/"
        context = self._browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        self.contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
        page = context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda problem: self.said.append(str(problem)))
        page.on("request", lambda request: self._request(request.url, address))
        page.on("response", lambda answer: self._response(answer.status))
        page.goto(address + fragment)
        if ready:
            page.wait_for_selector("body[data-ready]")
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if not message.text.startswith("Failed to load resource: the server responded with a status of"):
            self.said.append(message.text)

    def _request(self, url: str, address: str) -> None:
        if not url.startswith(address):
            self.elsewhere.append(url)

    def _response(self, status: int) -> None:
        if status >= 400:
            self.refusals.append(status)


@pytest.fixture
def opened(browser: Browser) -> Iterator[Visit]:
    visit = Visit(browser)
    try:
        yield visit
        assert (visit.said, visit.elsewhere, visit.refusals) == ([], [], [])
    finally:
        for context in visit.contexts:
            context.close()


def text_of(page: Page) -> str:
    return page.locator("#text").input_value()


def write(page: Page, beginning: str, length: int = 60, seed: int = 7, temperature: str = "0.7") -> str:
    """Type a beginning and go on; the whole text."""
    page.fill("#seed", str(seed))
    page.fill("#length", str(length))
    page.locator("#temperature").fill(temperature)
    page.locator("#text").press_sequentially(beginning)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_have_text(re.compile("characters more"))
    return text_of(page)


def place_caret(page: Page, number: int) -> None:
    """With the keyboard, from the beginning of the text."""
    page.locator("#text").focus()
    page.keyboard.press("Control+Home")
    for _ in range(number):
        page.keyboard.press("ArrowRight")


def test_the_notebook_writes_what_the_sdk_writes_and_colours_it_by_surprisal(
    opened: Visit, http_server: Server
) -> None:
    page = opened(http_server)
    text = write(page, "The def")
    with Client(http_server.address) as sdk:
        assert text == "The def" + sdk.complete("The def", max_tokens=60, seed=7, temperature=0.7).text
        scored = sdk.score(text, top_logprobs=3)
    bits = [-token.logprob / np.log(2) for token in scored.logprobs]
    expect(page.locator("#figures")).to_contain_text(f"{len(text)} characters · {np.mean(bits):.2f} bits each")
    lows = [0, 1, 2, 3, 4, 6, 8]
    spans = page.locator("#mirror [data-piece]")
    assert "".join(spans.all_text_contents()) == text
    for span, value in zip(spans.all(), bits, strict=True):
        shown = re.search(r"\bs(\d)", span.get_attribute("class") or "")
        assert shown is not None
        low = int(shown[1])
        assert lows[low] - 1e-3 <= value < [*lows[1:], np.inf][low] + 1e-3
    assert page.locator("#mirror .typed[data-piece]").count() == len("The def")


def test_another_character_can_be_chosen_and_the_text_goes_on_from_there(opened: Visit, http_server: Server) -> None:
    page = opened(http_server)
    text = write(page, "The def")
    place_caret(page, 20)
    expect(page.locator("#here")).to_contain_text("21: ")
    assert page.locator("#mirror .meant").get_attribute("data-piece") == "20"
    page.keyboard.press("Alt+ArrowDown")
    options = page.locator("#alternatives button")
    with Client(http_server.address) as sdk:
        top = sdk.score(text, top_logprobs=12).logprobs[20].top
    labels = [option.get_attribute("aria-label") or "" for option in options.all()]
    assert len(labels) == 10
    for label, other in zip(labels, top, strict=False):
        name = {"\n": "line break", " ": "space"}.get(other.text, other.text)
        assert label.startswith(f"{name}, ")
    expect(options.first).to_be_focused()
    page.keyboard.press("ArrowDown")
    other = next(one.text for one in top[1:])
    if text[20] == other:
        page.keyboard.press("ArrowUp")
        other = top[0].text
    page.keyboard.press("Enter")
    expect(page.locator("#text")).not_to_have_value(text)
    expect(page.locator("#status")).to_have_text(re.compile("characters more"))
    changed = text_of(page)
    with Client(http_server.address) as sdk:
        kept = text[:20] + other
        assert changed == kept + sdk.complete(kept, max_tokens=60, seed=7, temperature=0.7).text
    assert page.locator("#text").evaluate("area => area.selectionStart") == 20
    page.locator("#mirror [data-piece='5']").hover(force=True)
    expect(page.locator("#here")).to_contain_text("6: “e”")


def test_what_is_typed_is_scored_and_what_the_model_lacks_is_named(opened: Visit, http_server: Server) -> None:
    page = opened(http_server)
    page.locator("#text").press_sequentially("The")
    expect(page.locator("#mirror [data-piece]")).to_have_count(3)
    expect(page.locator("#here")).to_have_text("What comes next")
    expect(page.locator("#alternatives button")).to_have_count(10)
    page.keyboard.press("Control+Home")
    page.keyboard.press("x")
    expect(page.locator("#mirror [data-piece]")).to_have_count(4)
    page.locator("#text").fill("snow \u2603")
    expect(page.locator("#status.wrong")).to_contain_text("change them")
    # The text is read for its colours, and by then perhaps for what stands beside it.
    assert opened.refusals in ([400], [400, 400])
    opened.refusals.clear()


def test_a_link_and_the_copied_programs_make_the_same_text(
    opened: Visit, http_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    page = opened(http_server)
    page.fill("#bias-character", "e")
    page.locator("#bias").fill("-2.5")
    write(page, 'It\'s "a"\n', length=30)
    page.locator("#text").press("Control+End")
    page.keyboard.type(" and")
    text = write(page, "", length=20, temperature="1.2")
    place_caret(page, 3)

    def copied(form: str) -> str:
        page.click(f"[data-copy={form}]")
        expect(page.locator("#status")).to_contain_text("Copied")
        expect(page.locator(f"[data-copy={form}]")).to_have_class("copied")
        return str(page.evaluate("navigator.clipboard.readText()"))

    link = copied("link")
    other = opened(http_server, link.partition("/#")[2].join(("#", "")))
    expect(other.locator("#text")).to_have_value(text)
    expect(other.locator("#mirror .meant")).to_have_attribute("data-piece", "3")
    assert other.locator("#temperature").input_value() == "1.2"
    assert (other.locator("#bias-character").input_value(), other.locator("#bias").input_value()) == ("e", "-2.5")

    exec(compile(copied("python").replace("127.0.0.1:50051", http_server.address), "copied", "exec"), {})
    assert capsys.readouterr().out == f"{text}\n"
    for _ in range(2):  # it leaves nothing behind
        done = subprocess.run(["bash", "-ec", copied("curl")], capture_output=True, text=True, timeout=60, check=True)
        told = re.findall(r'"text": ?"((?:[^"\\]|\\.)*)"', done.stdout)
        assert "".join(json.loads(f'"{part}"') for part in told) == text


def test_a_long_typed_text_is_told_from_what_the_model_writes(opened: Visit, http_server: Server) -> None:
    page = opened(http_server)
    typed = ("The def statement is a " * 44)[:1000]
    page.fill("#seed", "7")
    page.fill("#length", "10")
    page.locator("#text").fill(typed)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_have_text(re.compile("characters more"))
    assert page.locator("#mirror .typed[data-piece]").count() == len(typed)
    page.click("[data-copy=link]")
    expect(page.locator("#status")).to_contain_text("Copied")
    link = str(page.evaluate("navigator.clipboard.readText()"))
    assert re.findall(r"&([tg])=([\w+]+)", link) == [("t", typed.replace(" ", "+")), ("g", "10")]


def holding(page: Page) -> list[str]:
    """Let calls that write text wait until the page breaks them off; returns their prompts, as they come."""
    prompts: list[str] = []

    def hold(route: Route) -> None:
        body = json.loads(route.request.post_data or "{}")
        if body.get("stream"):
            prompts.append(body["prompt"])
        else:
            route.continue_()

    page.route("**/v1/completions", hold)
    return prompts


def go_to(page: Page, fragment: str) -> None:
    """Open another link in the page."""
    page.evaluate("fragment => { location.hash = fragment; }", fragment)


def stop(page: Page) -> None:
    """Stop, and the text can be edited again."""
    page.click("#stop")
    expect(page.locator("#stop")).to_be_disabled()
    expect(page.locator("#go")).to_be_enabled()


def test_stop_ends_branches(opened: Visit, http_server: Server) -> None:
    page = opened(http_server)
    text = write(page, "The def", length=20)
    holding(page)
    page.click("#tab-tree")
    page.click("#branch")
    expect(page.locator("#branches li")).to_have_count(4)
    stop(page)
    expect(page.locator("#status")).to_have_text(f"3 branches from character {len(text)}.")
    expect(page.locator("#text")).to_have_value(text)


def test_stop_and_another_link_end_the_text_of_a_link(opened: Visit, http_server: Server) -> None:
    page = opened(http_server)
    prompts = holding(page)
    with page.expect_request("**/v1/completions"):
        go_to(page, "#t=a&g=20,seed:7&t=b&g=20,seed:7")
    with page.expect_event("requestfailed"), page.expect_request("**/v1/completions"):
        go_to(page, "#t=The+&g=20,seed:7&t=c&g=20,seed:7")
    stop(page)
    expect(page.locator("#status")).to_have_text("Stopped after 0 characters.")
    assert prompts == ["a", "The "]
    page.unroute("**/v1/completions")
    go_to(page, "#t=The+&g=20,seed:7")
    with Client(http_server.address) as sdk:
        expect(page.locator("#text")).to_have_value("The " + sdk.complete("The ", max_tokens=20, seed=7).text)


def test_a_link_to_a_long_text_asks_and_writes_it_in_several_calls(opened: Visit, http_server: Server) -> None:
    page = opened(http_server)
    fragment = "#t=The+&g=4100,seed:7,temperature:0.7"
    asked = "This link has the model write 4,100 characters. Stop ends it at any time. Write them?"
    said: list[str] = []

    def answer(yes: bool, dialog: Dialog) -> None:
        said.append(dialog.message)
        dialog.accept() if yes else dialog.dismiss()

    page.once("dialog", partial(answer, False))
    go_to(page, fragment)
    expect(page.locator("#status")).to_have_text("The 4,100 characters of the link were not written.")
    expect(page.locator("#text")).to_have_value("")
    page.once("dialog", partial(answer, True))
    go_to(page, f"{fragment},top_p:1")
    with Client(http_server.address) as sdk:
        text = sdk.complete("The ", max_tokens=4100, seed=7, temperature=0.7).text
    expect(page.locator("#text")).to_have_value(f"The {text}")
    assert said == [asked, asked]


def test_only_a_refusal_that_a_key_can_change_asks_for_one(opened: Visit, http_server: Server) -> None:
    page = opened(http_server)
    for code, shown in (("tenant_not_allowed", False), ("scope_missing", True)):
        told = json.dumps({"error": {"message": f"it is {code}", "code": code}})
        page.route("**/v1/models", partial(Route.fulfill, status=403, body=told))
        go_to(page, f"#{code}")
        expect(page.locator("#status.wrong")).to_have_text(f"it is {code}")
        assert page.locator("#door").is_visible() == shown
        page.unroute("**/v1/models")
    assert opened.refusals == [403, 403]
    opened.refusals.clear()


def test_the_tree_keeps_branches_as_sessions(opened: Visit, http_server: Server) -> None:
    page = opened(http_server)
    text = write(page, "The def")
    page.click("#tab-tree")
    place_caret(page, 15)
    expect(page.locator("#branch-place")).to_contain_text("before character 16")
    page.fill("#length", "25")
    page.click("#branch")
    expect(page.locator("#status")).to_have_text("3 branches from character 15.")
    expect(page.locator("#branches li")).to_have_count(4)
    prefix = text[:15]
    titles = [one.get_attribute("title") or "" for one in page.locator("#branches .open").all()]
    ids = [title.removeprefix("session ") for title in titles]
    with Client(http_server.address) as sdk:
        expected = [prefix + sdk.complete(prefix, max_tokens=25, seed=8 + i, temperature=0.7).text for i in range(3)]
        assert set(ids) <= {found.id for found in sdk.sessions()}
    for number, wanted in enumerate([text, *expected]):
        page.locator("#branches .open").nth(number).click()
        expect(page.locator("#text")).to_have_value(wanted)
    columns = page.locator("#comparison article")
    expect(columns).to_have_count(2)
    page.locator("#branches .compare").nth(3).check()
    expect(columns).to_have_count(3)
    common = next(number for number, found in enumerate(zip(*expected, strict=False)) if len(set(found)) > 1)
    expect(page.locator("#comparison h2")).to_have_text(f"The same up to character {common}")
    assert all(wanted[common:] in told for wanted, told in zip(expected, columns.all_text_contents(), strict=True))
    page.locator("#branches .forget").nth(3).click()
    expect(page.locator("#branches li")).to_have_count(3)
    expect(page.locator("#status")).to_contain_text("Deleted branch")
    with Client(http_server.address) as sdk:
        assert ids[3] not in {found.id for found in sdk.sessions()}


def test_a_branch_whose_session_cannot_be_deleted_is_not_told_as_deleted(opened: Visit, http_server: Server) -> None:
    page = opened(http_server)
    write(page, "The def", length=20)
    page.click("#tab-tree")
    page.click("#branch")
    expect(page.locator("#status")).to_contain_text("3 branches")
    told = json.dumps({"error": {"message": "the store is away", "code": "store_unavailable"}})
    page.route("**/v1/sessions/*", partial(Route.fulfill, status=503, body=told))
    page.locator("#branches .forget").nth(3).click()
    expect(page.locator("#status.wrong")).to_have_text("the store is away")
    assert opened.refusals == [503]
    opened.refusals.clear()


def test_another_model_begins_without_the_units_of_the_one_before(opened: Visit, http_server: Server) -> None:
    page = opened(http_server)
    write(page, "The def ")
    page.click("#tab-cells")
    page.locator("#units button").first.click()
    expect(page.locator("#activation-legend")).to_be_visible()
    page.route("**/v1/inspect", lambda route: None)  # never answered
    page.locator("#model").dispatch_event("change")
    expect(page.locator("#units button")).to_have_count(0)
    expect(page.locator("#map-units li")).to_have_count(0)
    expect(page.locator("#surprisal-legend")).to_be_visible()
    page.locator("#heat").hover(position={"x": 30, "y": 40})
    page.locator("#text").hover()


def test_the_cells_that_follow_a_part_of_the_text_are_found(opened: Visit, http_server: Server) -> None:
    page = opened(http_server)
    text = write(page, "The def ")
    page.click("#tab-cells")
    expect(page.locator("#units button")).to_have_count(14)
    assert page.locator("#layer option").all_text_contents() == ["0", "1"]  # as in the SDK
    place_caret(page, 4)
    page.keyboard.down("Shift")
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    page.keyboard.up("Shift")
    expect(page.locator("#units-told")).to_contain_text("characters 5 to 13")
    with Client(http_server.address) as sdk:
        cell = np.asarray(sdk.inspect(text, layers=[1]).layers[1].cell)
    chosen = np.zeros(len(text))
    chosen[4:13] = 1
    correlations = np.array([np.corrcoef(column, chosen)[0, 1] for column in cell.T])
    for button, unit in zip(page.locator("#units button").all(), np.argsort(-abs(correlations)), strict=False):
        label = (button.get_attribute("aria-label") or "").replace("\u2212", "-")
        found = re.fullmatch(r"Unit (\d+), correlation ([-+][\d.]+)", label)
        assert found is not None
        assert float(found[2]) == pytest.approx(correlations[int(found[1])], abs=0.0051)
        assert abs(correlations[int(found[1])]) == pytest.approx(abs(correlations[unit]), abs=1e-4)
    page.locator("#units button").first.click()
    expect(page.locator("#mirror [data-piece='6']")).to_have_class(re.compile(r"\ba-?\d"))
    expect(page.locator("#activation-legend")).to_be_visible()
    expect(page.locator("#activation-name")).to_have_text(re.compile(r"unit \d+ of layer 1, c"))
    drawn = "canvas => new Set(canvas.getContext('2d').getImageData(0, 25, canvas.width, 100).data).size"
    assert page.locator("#heat").evaluate(drawn) > 10
    page.locator("#layer").select_option("0")
    page.locator("#array").select_option("forget")
    expect(page.locator("#units button")).to_have_count(14)
    page.click("#go")  # the map grows with the text
    expect(page.locator("#status")).to_have_text(re.compile("characters more"))
    expect(page.locator("#heat")).to_have_css("width", f"{11 * (len(text) + 60)}px")


def test_a_running_text_takes_new_settings_at_a_marked_place_and_goes_back(
    opened: Visit, http_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    page = opened(http_server)
    page.fill("#seed", "3")
    page.locator("#text").press_sequentially("The ")
    page.click("#tab-live")
    page.locator("#speed").fill("100")
    page.click("#run")
    expect(page.locator("#mirror [data-piece='40']")).to_be_attached()
    page.locator("#temperature").focus()
    page.keyboard.press("End")
    expect(page.locator("#changes li")).to_have_count(1)
    place = int(page.locator("#changes b").inner_text())
    assert "temperature 0.7 → 2" in page.locator("#changes li").inner_text()
    expect(page.locator(f"#mirror [data-piece='{place + 20}']")).to_be_attached()
    page.click("#run")
    expect(page.locator("#status")).to_contain_text("Stopped at character")
    text = text_of(page)
    assert "changed" in (page.locator(f"#mirror [data-piece='{place}']").get_attribute("class") or "")
    page.click("[data-copy=python]")
    expect(page.locator("#status")).to_contain_text("Copied")
    program = str(page.evaluate("navigator.clipboard.readText()"))
    exec(compile(program.replace("127.0.0.1:50051", http_server.address), "copied", "exec"), {})
    assert capsys.readouterr().out == f"{text}\n"

    page.locator("#rewind").fill("20")
    expect(page.locator("#mirror [data-piece='20']")).to_have_class(re.compile("ahead"))
    expect(page.locator("#status")).to_contain_text("Back at character 20")
    assert text_of(page) == text
    page.click("#run")
    expect(page.locator("#mirror [data-piece='60']")).to_be_attached()
    page.click("#run")
    expect(page.locator("#status")).to_contain_text("Stopped at character")
    assert text_of(page)[:20] == text[:20]
    expect(page.locator("#changes b").first).to_have_text("20")


def test_a_server_that_asks_who_calls_is_given_the_key(
    opened: Visit, bundle: Bundle, decoder: Decoder, tmp_path: Path
) -> None:
    key, known = made("shop", tuple(Scope), utc_now(), None)
    with KeyFileEditor(tmp_path / "keys.json").editing(create=True) as file:
        file.content = file.content.model_copy(update={"keys": (known,)})
    settings = ServerSettings(grace_seconds=0, http_port=0, keys=tmp_path / "keys.json")
    with running_server([(bundle, decoder)], settings) as server:
        page = opened(server, ready=False)
        expect(page.locator("#door")).to_be_visible()
        page.fill("#key", f"{key[:-1]}?")
        page.keyboard.press("Enter")
        expect(page.locator("#status.wrong")).to_contain_text("ask the server's operator for a key")
        page.fill("#key", key)
        page.keyboard.press("Enter")
        expect(page.locator("#door")).to_be_hidden()
        text = write(page, "The ")
        with Client(server.address, token=key) as sdk:
            assert text == "The " + sdk.complete("The ", max_tokens=60, seed=7, temperature=0.7).text
        page.click("[data-copy=python]")
        expect(page.locator("#status")).to_contain_text("Copied")
        program = str(page.evaluate("navigator.clipboard.readText()"))
        assert 'token=os.environ["CHARLOOM_KEY"]' in program
        kept = page.evaluate("[Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
        assert kept == [[key], [], ""]
        assert key not in page.url + program + page.content()
        assert set(opened.refusals) == {401}
        opened.refusals.clear()


def test_it_fits_a_phone_and_the_dark_and_nothing_moves(opened: Visit, http_server: Server) -> None:
    page = opened(http_server, viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=2)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    before = page.locator("#go").bounding_box()
    write(page, "The def", length=600)
    page.evaluate("scrollTo(0, 0)")
    heights = "() => ['text', 'mirror'].map((id) => document.getElementById(id).scrollHeight)"
    assert len(set(page.evaluate(heights))) == 1  # what is drawn breaks its lines where the textarea does
    assert page.locator("#go").bounding_box() == before
    for view in ("tree", "cells", "live", "notebook"):
        page.click(f"#tab-{view}")
        expect(page.locator("#work")).to_have_attribute("aria-labelledby", f"tab-{view}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_everything_has_a_name_and_the_tabs_a_keyboard(opened: Visit, http_server: Server) -> None:
    page = opened(http_server)
    write(page, "The ", length=20)
    page.locator("#tab-notebook").focus()
    for view in ("tree", "cells", "live", "notebook"):
        page.keyboard.press("ArrowRight")
        expect(page.locator(f"#tab-{view}")).to_be_focused()
        expect(page.locator("[role=tab][aria-selected=true]")).to_have_attribute("data-view", view)
        tree = page.locator("body").aria_snapshot()
        controls = re.findall(r"- (button|textbox|slider|spinbutton|combobox|checkbox|tab)\b(.*)", tree)
        assert len(controls) > 10
        assert [control for control in controls if not control[1].startswith(' "')] == []


def test_the_page_needs_nothing_from_elsewhere_and_says_so(http_server: Server) -> None:
    files = [file for file in resources.files("charloom.server.http").joinpath(FOLDER).iterdir() if file.is_file()]
    assert {"index.html", "main.js", "page.css"} <= {file.name for file in files}
    with client(http_server) as api:
        for path in ["", *(f"play/{file.name}" for file in files)]:
            answer = api.get(f"/{path}")
            assert answer.status_code == 200
            assert answer.headers["content-security-policy"].startswith("default-src 'self';")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[\w.]+\.\w+", _code(answer.text)) == []
        assert api.get("/play/nothing.js").status_code == 404


def _code(text: str) -> str:
    """Without comments of a line, whose slashes look like an address."""
    return re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)


def test_a_setting_turns_it_off(bundle: Bundle, decoder: Decoder) -> None:
    settings = ServerSettings(grace_seconds=0, http_port=0, playground=False)
    with running_server([(bundle, decoder)], settings) as server, client(server) as api:
        assert (api.get("/").status_code, api.get("/play/main.js").status_code) == (404, 404)
        assert api.get("/v1/models").status_code == 200


def test_the_command_serves_the_page_and_ends_in_order() -> None:
    command = [sys.executable, "-m", "charloom.cli.main", "play", "--no-browser", "--http-port", "0", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        found = re.match(r"the playground is at (http://127\.0\.0\.1:\d+/) ", running.stdout.readline())
        try:
            assert found is not None
            assert "<title>Charloom playground</title>" in httpx.get(found[1], timeout=60).text
            assert httpx.get(f"{found[1]}v1/models", timeout=60).json()["data"][0]["id"] == "shakespeare"
        finally:
            running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
