"""The page of a review in a real browser: headless Chromium, and the real server."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from raycap import schema
from raycap.config import StorageConfig
from raycap.storage.stores import open_store
from tests.support.browser import chromium
from tests.support.outputs import row, write_output
from tests.support.report_samples import scene_captions
from tests.support.reviewed import served

pytestmark = pytest.mark.slow

NUM_SCENES = 30
PHONE = {"width": 360, "height": 780}
DESKTOP = {"width": 1280, "height": 900}
HOSTILE = (
    '</script><script>window.ran=1</script>"><img src=x onerror="window.ran=2">'
    "<svg onload=window.ran=3><a href='javascript:window.ran=4'>go</a>\u202e"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@dataclass
class Opened:
    """A page, with what it said and asked for."""

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def captions(self) -> list[str]:
        """The captions of the cards, in order."""
        return self.page.locator(".card .caption").all_inner_texts()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def is_saved(self, text: str) -> None:
        """Wait until the page has said so to a screen reader."""
        expect(self.page.get_by_role("status").filter(has_text=text).first).to_be_visible()

    @property
    def text(self) -> str:
        return self.page.get_by_label("Caption", exact=True).input_value()


expect.set_options(timeout=30_000)  # the first picture starts a process, on busy cores

Open = Callable[..., Opened]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Give `open(address, size=..., **options)` of a browser window of its own."""
    contexts = []

    def start(address: str, size: dict[str, int] = DESKTOP, **options: Any) -> Opened:
        context = browser.new_context(viewport=size, **options)  # type: ignore[arg-type]
        contexts.append(context)
        view = Opened(context.new_page())
        view.page.on("console", lambda message: view.messages.append(message.text))
        view.page.on("pageerror", lambda error: view.messages.append(str(error)))
        view.page.on("request", lambda request: view.requests.append(request.url))
        view.page.goto(address)
        view.page.wait_for_selector(".card")
        return view

    yield start
    for context in contexts:
        context.close()


Serve = Callable[..., str]


@pytest.fixture
def serving() -> Iterator[Serve]:
    """Give `serve(output, ...)`, which gives the address of its page."""
    with ExitStack() as stack:

        def serve(*outputs: str | Path, **settings: Any) -> str:
            return stack.enter_context(served(*outputs, **settings))[0].address

        yield serve


@pytest.fixture
def scenes(tmp_path: Path) -> str:
    return scene_captions(tmp_path, NUM_SCENES)


def write(folder: Path, *rows: dict[str, Any]) -> str:
    return write_output(open_store(str(folder / "output"), StorageConfig()), list(rows))


def test_everything_works_by_keyboard(scenes: str, serving: Serve, opened: Open) -> None:
    view = opened(serving(scenes))
    before = view.captions
    view.press("j", "j", "a")
    view.is_saved("Approved.")
    view.press("k", "Enter")
    expect(view.page.get_by_role("heading", name="scene-000001.jpg")).to_be_visible()
    view.press("e", "Control+a")
    view.page.keyboard.type("written by hand")
    view.press("Control+Enter")
    view.is_saved("Saved.")
    expect(view.page.get_by_role("heading", name="scene-000002.jpg")).to_be_visible()
    assert view.text == before[2]
    view.press("Escape", "x")
    view.is_saved("Rejected.")
    view.press("Escape")
    expect(view.page.locator(".card").first).to_be_visible()
    assert view.captions[:3] == [before[0], "written by hand", before[2]]
    states = view.page.locator(".card").evaluate_all("cards => cards.map(it => it.dataset.review)")
    assert states[:4] == ["", "edited", "rejected", ""]
    view.press("u", "u", "u")  # the rejection, the text, the approval
    expect(view.page.locator("[data-counts]")).to_have_text("33 of 33 unreviewed")
    assert view.captions == before
    view.press("?")
    expect(view.page.get_by_role("dialog", name="Keys")).to_be_visible()
    assert view.messages == []


def test_an_unsaved_text_is_kept_and_never_lost_silently(
    scenes: str, serving: Serve, opened: Open
) -> None:
    view = opened(serving(scenes))
    view.press("j", "e")
    view.page.get_by_label("Caption", exact=True).fill("a draft")
    view.press("Escape", "x")
    view.is_saved("The text is not saved")
    before = view.page.locator("[data-id]").last
    view.press("j")
    expect(before).to_have_text("scene-000001.jpg")
    view.press("k")
    text = view.page.get_by_label("Caption", exact=True)
    expect(text).to_have_value("a draft")
    view.page.get_by_role("button", name="Discard changes").click()
    expect(text).to_have_value("a medium red triangle on a plain background")
    expect(view.page.get_by_role("button", name="Save")).to_be_disabled()


def test_two_windows_never_overwrite_each_other(scenes: str, serving: Serve, opened: Open) -> None:
    mine = opened(serving(scenes, by="ada"))
    theirs = opened(serving(scenes, by="bob"))
    for view in (mine, theirs):
        view.press("j", "e")
        expect(view.page.get_by_label("Caption", exact=True)).to_be_focused()
    theirs.page.get_by_label("Caption", exact=True).fill("what bob says")
    theirs.page.get_by_role("button", name="Save").click()
    theirs.is_saved("Saved.")
    mine.page.get_by_label("Caption", exact=True).fill("what ada says")
    mine.press("Control+Enter")
    conflict = mine.page.get_by_role("alert")
    expect(conflict).to_contain_text("bob changed this caption meanwhile")
    expect(conflict).to_contain_text("what bob says")
    expect(conflict).to_contain_text("what ada says")
    mine.page.get_by_role("button", name="Save mine instead").click()
    mine.is_saved("Saved.")
    # And the other way round: bob looks at his own text, and approves what is no longer there.
    theirs.press("a")
    expect(theirs.page.get_by_role("alert")).to_contain_text("what ada says")
    theirs.page.get_by_role("button", name="Keep theirs").click()
    assert theirs.text == "what ada says"
    theirs.page.get_by_text("History").click()
    expect(theirs.page.locator(".history li")).to_have_count(2)


def test_a_conflict_with_another_window_of_the_same_reviewer_says_so(
    scenes: str, serving: Serve, opened: Open
) -> None:
    address = serving(scenes)
    first, second = opened(address), opened(address)
    for view in (first, second):
        view.press("j", "e")
        expect(view.page.get_by_label("Caption", exact=True)).to_be_focused()
    for view, text in ((second, "there"), (first, "here")):
        view.page.get_by_label("Caption", exact=True).fill(text)
        view.page.get_by_role("button", name="Save", exact=True).click()
    expect(first.page.get_by_role("alert")).to_contain_text("in another window")
    first.page.get_by_role("button", name="Save this instead").click()
    first.is_saved("Saved.")
    # What a person wrote has no log-probability, and is not the model's.
    expect(first.page.locator("[data-single] [data-marks]")).not_to_contain_text("log-probability")
    expect(second.page.locator("[data-single] [data-facts]")).not_to_contain_text("model")


def test_find_and_replace_is_shown_first_and_undone_at_once(
    scenes: str, serving: Serve, opened: Open
) -> None:
    view = opened(serving(scenes))
    before = view.captions
    view.page.get_by_label("Search").fill("background")
    num_found = sum("background" in caption for caption in before)
    expect(view.page.locator("[data-count]")).to_have_text(f"{num_found} images")
    found = view.captions
    view.press("Escape", "r")
    view.page.get_by_label("Find", exact=True).fill("background")
    view.page.get_by_label("Replace with").fill("backdrop")
    view.press("Enter")
    view.is_saved(f"{num_found} of {num_found} captions change.")
    expect(view.page.locator(".changes li")).to_have_count(num_found)
    assert view.captions == found
    view.page.get_by_role("button", name=f"Replace in {num_found} captions").click()
    view.is_saved(f"Replaced in {num_found} captions")
    expect(view.page.locator(".card .caption").first).to_contain_text("backdrop")
    assert view.captions == [caption.replace("background", "backdrop") for caption in found]
    view.press("u")
    view.is_saved(f"Undone: {num_found} captions.")
    expect(view.page.locator(".card .caption").first).to_contain_text("background")
    assert view.captions == found
    view.page.locator("[data-open]").first.focus()
    view.press("x")
    view.is_saved("Rejected.")
    view.press("r")
    expect(view.page.get_by_label("Find", exact=True)).to_be_focused()
    view.press("Enter")
    view.is_saved(
        f"{num_found - 1} of {num_found} captions change. 1 rejected caption is left out."
    )


def test_the_address_keeps_filter_page_and_image(
    tmp_path: Path, serving: Serve, opened: Open
) -> None:
    rows = [row(f"{place:05d}.jpg", f"caption {place}") for place in range(10_000)]
    view = opened(serving(write(tmp_path, *rows)))
    assert "token" not in view.page.url
    expect(view.page.locator("[data-count]")).to_have_text("10,000 images")
    view.page.get_by_label("Page", exact=False).last.fill("209")
    view.press("Enter")
    expect(view.page.locator(".card .caption").last).to_have_text("caption 9999")
    assert len(view.captions) == 10_000 - 208 * 48
    view.page.get_by_label("Search").fill("9998")
    expect(view.page.locator("[data-count]")).to_have_text("1 image")
    view.page.get_by_role("button", name="Edit 09998.jpg").click()
    expect(view.page.get_by_role("heading", name="09998.jpg")).to_be_visible()
    view.page.reload()
    expect(view.page.get_by_role("heading", name="09998.jpg")).to_be_visible()
    view.page.go_back()
    expect(view.page.locator("[data-count]")).to_have_text("1 image")


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen_and_nothing_comes_from_elsewhere(
    scenes: str, serving: Serve, opened: Open, size: dict[str, int], scheme: str
) -> None:
    address = serving(scenes)
    view = opened(address, size, color_scheme=scheme)
    width = "document.documentElement.scrollWidth"
    view.page.get_by_text("More filters").click()
    assert view.page.evaluate(width) <= size["width"]
    view.page.locator("[data-open]").first.click()
    expect(view.page.locator("[data-single] img")).to_be_visible()
    assert view.page.evaluate(width) <= size["width"]
    view.press("r")
    assert view.page.evaluate(width) <= size["width"]
    # The reasons of the images that cannot be shown are answers with status 404.
    assert [text for text in view.messages if "404" not in text] == []
    base = address.partition("?")[0]
    assert all(url.startswith((base, "data:")) for url in view.requests)


def test_long_and_hostile_texts_are_only_text(tmp_path: Path, serving: Serve, opened: Open) -> None:
    long = "a" * 400
    kept = {schema.ALTERNATIVES: [{schema.CAPTION: HOSTILE, schema.LOGPROB: -1.0}]}
    rows = [row(HOSTILE, HOSTILE, **kept), row(f"{long}.jpg", long)]
    bad = row("z", "") | {schema.CAPTION: None, schema.STATUS: "failed"}
    bad |= {schema.ERROR_CODE: HOSTILE, schema.ERROR_MESSAGE: HOSTILE}
    view = opened(serving(write(tmp_path, *rows, bad), by=HOSTILE[:60]), PHONE)
    assert view.captions[0] == HOSTILE
    view.page.locator("[data-open]").first.click()
    view.page.get_by_label("Caption", exact=True).fill(f"{HOSTILE}!")
    view.press("Control+Enter", "Escape", "k")
    view.page.get_by_text("History").click()
    assert view.text == f"{HOSTILE}!"
    expect(view.page.locator("[data-single] .beside")).to_contain_text("window.ran=1")
    assert view.page.evaluate("window.ran") is None
    assert view.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert view.page.locator("a[href^=javascript], svg, [onerror]").count() == 0


def test_an_image_that_cannot_be_read_has_a_placeholder(
    tmp_path: Path, serving: Serve, opened: Open
) -> None:
    gone = row("gone.jpg", source_uri=str(tmp_path / "gone.jpg"))
    view = opened(serving(write(tmp_path, gone)))
    expect(view.page.locator(".card .placeholder")).to_contain_text("no such file")


def test_all_controls_have_names_and_states_are_told(
    scenes: str, serving: Serve, opened: Open
) -> None:
    view = opened(serving(scenes))
    nameless = """() => [...document.querySelectorAll("button, input, select, textarea, img")]
        .filter((it) => it.checkVisibility())
        .filter((it) => !(it.ariaLabel || it.textContent.trim() || it.labels?.length
            || it.hasAttribute("alt") || it.closest("label")))
        .map((it) => it.outerHTML)"""
    view.page.get_by_text("More filters").click()
    assert view.page.evaluate(nameless) == []
    view.page.get_by_role("button", name="Open scene-000000.jpg").click()
    assert view.page.evaluate(nameless) == []
    expect(view.page.get_by_role("img", name="Image scene-000000.jpg")).to_be_visible()
    view.page.get_by_role("button", name="Approve", exact=True).click()
    view.is_saved("Approved.")
    assert view.page.get_by_role("banner").count() == view.page.get_by_role("main").count() == 1
    view.press("Escape")
    expect(view.page.get_by_role("button", name="Open scene-000001.jpg")).to_be_focused()
    assert view.page.get_by_role("search").is_visible()
