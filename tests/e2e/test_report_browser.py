"""The page in a real browser: headless Chromium, from a file, without a network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Locator, Page

from raycap import schema
from raycap.reporting.report import report
from raycap.results.training import ATTENTION
from tests.support.browser import chromium
from tests.support.dataset_samples import scene_dataset
from tests.support.outputs import failed, row
from tests.support.report_samples import (
    Sample,
    scene_captions,
    scene_sample,
    score_row,
    write_captions,
    write_sample,
)
from tests.support.search_samples import write_search
from tests.support.study_samples import write_study_sample
from tests.support.training_samples import (
    picture,
    training_history,
    write_calibration_sample,
    write_run,
)

pytestmark = pytest.mark.slow

NUM_SCENES = 60
NUM_AT_ONCE = 24
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
HOSTILE = (
    '</script><script>window.ran=1</script>"><img src=x onerror="window.ran=2">'
    "<svg onload=window.ran=3><a href='javascript:window.ran=4'>go</a>"
)

Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def sample(folder: Path) -> Sample:
    return scene_sample(folder / "sample", NUM_SCENES)


@pytest.fixture(scope="module")
def evaluation(folder: Path, sample: Sample) -> Path:
    report([sample.folder], folder / "evaluation.html")
    return folder / "evaluation.html"


@pytest.fixture(scope="module")
def everything(folder: Path, sample: Sample) -> Path:
    """A page of everything: captions that cannot all be shown, training runs, and more."""
    paths = [
        str(sample.folder),
        scene_captions(folder / "captions", 30),
        scene_dataset(folder / "dataset", 30),
        write_study_sample(folder / "studied"),
        write_run(folder / "runs" / "first"),
        write_run(folder / "runs" / "second", training_history(40, 30), kind="transformer"),
        write_calibration_sample(folder / "calibrated").output,
        write_search(folder / "searched"),
    ]
    (folder / "runs" / "first" / ATTENTION).write_bytes(picture(1108, 600))
    report(paths, folder / "everything.html")
    return folder / "everything.html"


@dataclass
class Opened:
    """A page, with what it said and asked for."""

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def cards(self) -> list[str]:
        """The ids of the images that are shown, in order."""
        return self.page.locator(".example:visible .id").all_inner_texts()

    def tab(self, name: str) -> Locator:
        return self.page.locator(".tabs").get_by_role("button", name=name)


Open = Callable[..., Opened]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    contexts = []

    def start(file: Path, size: dict[str, int] = DESKTOP, **options: Any) -> Opened:
        context = browser.new_context(viewport=size, offline=True, **options)  # type: ignore[arg-type]
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.on("console", lambda message: opened.messages.append(message.text))
        opened.page.on("pageerror", lambda error: opened.messages.append(str(error)))
        opened.page.on("dialog", lambda dialog: opened.messages.append(dialog.message))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.goto(file.as_uri())
        return opened

    yield start
    for context in contexts:
        context.close()


def scores(sample: Sample, system: int) -> dict[str, float]:
    """CIDEr-D of a system's captions by image id."""
    return {
        item[schema.IMAGE_ID]: item[schema.CIDER_D]
        for item in sample.rows[system]
        if item[schema.CIDER_D] is not None
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_a_page_opens_without_a_message_or_a_request(
    everything: Path, opened: Open, scheme: Scheme, size: dict[str, int]
) -> None:
    view = opened(everything, size, color_scheme=scheme)
    view.page.wait_for_load_state("networkidle")
    assert view.messages == []
    assert [url for url in view.requests if not url.startswith("data:")] == [everything.as_uri()]
    broken = (
        "Array.from(document.images).filter(i => !i.alt || !i.complete || !i.naturalWidth).length"
    )
    assert view.page.evaluate(broken) == 0


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(everything: Path, opened: Open, width: int) -> None:
    view = opened(everything, {"width": width, "height": 800})
    for button in view.page.locator(".tabs button", has_text="All").all():
        button.click()
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width
    view.page.evaluate("document.querySelectorAll('details').forEach((it) => (it.open = true))")
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width


def test_long_names_do_not_widen_a_phones_page(folder: Path, opened: Open) -> None:
    long = "a" * 300
    rows = [score_row(f"{long}.jpg", None, long, [long]), score_row("b", None, None, [long])]
    write_sample(folder / "long", [long, f"{long}2"], [rows, rows], tokenizer=long)
    output = write_captions(
        folder / "long-captions", [row(long, long), failed(f"{long}2")], source=long
    )
    report([folder / "long", output], folder / "long.html")
    view = opened(folder / "long.html", PHONE)
    assert view.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_tabs_show_the_best_and_the_worst_of_a_system(
    evaluation: Path, sample: Sample, opened: Open
) -> None:
    view = opened(evaluation)
    assert view.tab("Random").get_attribute("aria-pressed") == "true"
    for system in (0, 1):
        view.page.get_by_label("System").select_option(str(system))
        of = scores(sample, system)
        ranked = sorted(of.values())
        view.tab("Best").click()
        assert view.tab("Random").get_attribute("aria-pressed") == "false"
        assert [of[name] for name in view.cards] == ranked[::-1][: len(view.cards)]
        view.tab("Worst").click()
        assert [of[name] for name in view.cards] == ranked[: len(view.cards)]
        assert len(view.cards) == NUM_AT_ONCE


def test_the_failed_tab_shows_images_without_a_caption(
    evaluation: Path, sample: Sample, opened: Open
) -> None:
    view = opened(evaluation)
    view.tab("Failed").click()
    expected = {item[schema.IMAGE_ID] for item in sample.rows[1] if not item[schema.CAPTION]}
    assert set(view.cards) == expected
    assert view.page.get_by_text("failed: decode_failed").first.is_visible()


def test_the_filter_finds_words_in_captions_references_and_ids(
    evaluation: Path, opened: Open
) -> None:
    view = opened(evaluation)
    view.tab("All").click()
    view.page.get_by_label("Filter").fill("STAR  yellow")
    texts = view.page.locator(".example:visible .said").all_text_contents()
    assert texts
    assert all("star" in text and "yellow" in text for text in texts)
    assert view.page.locator("output").inner_text() == f"{len(texts)} of {NUM_SCENES} images"
    view.page.get_by_label("Filter").fill("scene-000007")
    assert view.cards == ["scene-000007.jpg"]
    view.page.get_by_label("Filter").fill("no such words")
    assert view.cards == []
    assert view.page.get_by_text("No image matches").is_visible()
    view.page.get_by_label("Filter").fill("")
    assert len(view.cards) == NUM_AT_ONCE


def test_images_are_sorted_by_score_length_and_id(
    evaluation: Path, sample: Sample, opened: Open
) -> None:
    view = opened(evaluation)
    view.tab("All").click()
    order = view.page.get_by_label("Sort by")
    direction = view.page.locator("[data-direction]")
    assert direction.is_disabled()
    lengths = {item[schema.IMAGE_ID]: item[schema.NUM_TOKENS] for item in sample.rows[0]}
    for label, of in (("CIDEr-D", scores(sample, 0)), ("Length", lengths)):
        order.select_option(label)
        shown = [of[name] for name in view.cards]
        assert shown == sorted(of.values(), reverse=True)[:NUM_AT_ONCE]
        direction.click()
        assert direction.inner_text() == "Low to high"
        assert [of[name] for name in view.cards] == sorted(of.values())[:NUM_AT_ONCE]
    order.select_option("image id")
    assert view.cards == sorted(scores(sample, 0))[:NUM_AT_ONCE]


def test_images_without_a_score_come_last_both_ways(evaluation: Path, opened: Open) -> None:
    view = opened(evaluation)
    view.page.get_by_label("System").select_option("1")
    view.tab("Failed").click()
    failed_ones = set(view.cards)
    view.tab("All").click()
    view.page.get_by_label("Sort by").select_option("CIDEr-D")
    for _ in range(2):
        while view.page.locator("[data-more]").is_visible():
            view.page.locator("[data-more]").click()
        assert set(view.cards[-len(failed_ones) :]) == failed_ones
        view.page.locator("[data-direction]").click()


def test_more_images_are_shown_on_demand(evaluation: Path, opened: Open) -> None:
    view = opened(evaluation)
    view.tab("All").click()
    before = view.cards
    assert len(before) == NUM_AT_ONCE
    more = view.page.locator("[data-more]")
    assert more.inner_text() == f"Show more ({NUM_SCENES - NUM_AT_ONCE} left)"
    more.focus()
    view.page.keyboard.press("Enter")
    assert len(view.cards) == 2 * NUM_AT_ONCE
    assert view.cards[:NUM_AT_ONCE] == before
    focused = view.page.evaluate("document.activeElement.querySelector('.id').textContent")
    assert focused == view.cards[NUM_AT_ONCE]


def test_everything_works_by_keyboard(evaluation: Path, opened: Open) -> None:
    view = opened(evaluation)
    keyboard = view.page.keyboard
    keyboard.press("Tab")
    assert view.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert view.page.locator(".skip").bounding_box()["y"] >= 0  # type: ignore[index]
    keyboard.press("Enter")
    assert view.page.evaluate("document.activeElement.id") == "main"
    reached = []
    for _ in range(60):
        keyboard.press("Tab")
        reached.append(view.page.evaluate("document.activeElement.textContent.trim()"))
        if reached[-1].startswith("Worst"):
            break
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert view.page.evaluate(outline) == "solid"
    keyboard.press("Space")
    assert view.tab("Worst").get_attribute("aria-pressed") == "true"
    view.page.get_by_label("Filter").focus()
    keyboard.type("circle")
    assert all("circle" in text for text in view.page.locator(".example:visible").all_inner_texts())
    view.page.get_by_label("Sort by").focus()
    keyboard.type("Length")
    assert view.page.get_by_label("Sort by").input_value() == schema.NUM_TOKENS
    keyboard.press("Tab")
    keyboard.press("Enter")
    assert view.page.locator("[data-direction]").inner_text() == "Low to high"


def test_galleries_of_one_page_are_apart(everything: Path, opened: Open) -> None:
    view = opened(everything)
    first, second, third = view.page.locator("[data-gallery]").all()
    first.get_by_label("Filter").fill("no such words")
    assert first.locator(".example:visible").count() == 0
    assert second.locator(".example:visible").count() == NUM_AT_ONCE
    third.get_by_role("button", name="test").click()
    assert third.locator(".example:visible").count() == 3
    second.get_by_role("button", name="Failed").click()
    reasons = second.locator(".placeholder:visible span").all_inner_texts()
    assert len(reasons) == 3
    assert "empty: 0 bytes" in reasons
    assert any("z-other.jpg: no such file" in reason for reason in reasons)


def test_nothing_of_the_content_is_ever_run(folder: Path, opened: Open) -> None:
    rows = [score_row(HOSTILE, None, HOSTILE, [HOSTILE, HOSTILE])]
    write_sample(folder / "hostile", [HOSTILE, f"{HOSTILE}2"], [rows, rows], tokenizer=HOSTILE)
    bad = failed("b") | {schema.ERROR_CODE: HOSTILE, schema.ERROR_MESSAGE: HOSTILE}
    output = write_captions(
        folder / "hostile-captions", [row(HOSTILE, HOSTILE), bad], model={"name": HOSTILE}
    )
    report([folder / "hostile", output], folder / "hostile.html")
    view = opened(folder / "hostile.html")
    view.page.wait_for_load_state("networkidle")
    assert view.page.evaluate("window.ran") is None
    assert view.messages == []
    assert view.page.locator("a[href^=javascript]").count() == 0
    assert view.page.locator(".caption").first.inner_text() == HOSTILE
    assert view.page.locator(".gap .who").first.inner_text() == HOSTILE


def test_the_policy_keeps_others_scripts_styles_and_requests_out(
    evaluation: Path, opened: Open
) -> None:
    view = opened(evaluation)
    view.page.evaluate(
        """async () => {
            const script = document.createElement("script");
            script.textContent = "window.ran = 1";
            const style = document.createElement("style");
            style.textContent = "body { display: none }";
            document.body.append(script, style);
            window.blocked = [];
            document.addEventListener("securitypolicyviolation", (event) =>
                window.blocked.push(event.effectiveDirective));
            const image = new Image();
            image.src = "https://example.org/pixel.png";
            await fetch("https://example.org/").catch(() => null);
            await new Promise((resolve) => setTimeout(resolve, 100));
        }"""
    )
    assert view.page.evaluate("window.ran") is None
    assert view.page.evaluate("getComputedStyle(document.body).display") != "none"
    assert {"connect-src", "img-src"} <= set(view.page.evaluate("window.blocked"))


def test_a_page_is_whole_without_scripts(evaluation: Path, opened: Open) -> None:
    view = opened(evaluation, java_script_enabled=False)
    assert len(view.cards) == NUM_SCENES
    assert not view.page.locator(".toolbar").is_visible()


LUMINANCE = """([selector, property]) => {
    const channels = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const luminance = (rgb) => rgb
        .map((value) => value / 255)
        .map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
    const element = document.querySelector(selector);
    let under = element;
    while (getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)") {
        under = under.parentElement;
    }
    const fore = luminance(channels(getComputedStyle(element)[property]));
    const back = luminance(channels(getComputedStyle(under).backgroundColor));
    return (Math.max(fore, back) + 0.05) / (Math.min(fore, back) + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_lines_stand_out_in_both_schemes(
    everything: Path, opened: Open, scheme: Scheme
) -> None:
    view = opened(everything, color_scheme=scheme)
    view.page.locator(".tabs button", has_text="Failed").nth(1).click()
    texts = [".caption", ".summary li", ".inner a", ".note", ".marks dt", ".absence", ".who"]
    texts += ['.tabs button[aria-pressed="true"]', ".facts dt", ".placeholder"]
    for selector in texts:
        assert view.page.evaluate(LUMINANCE, [selector, "color"]) >= 4.5, selector
    # WCAG 1.4.11: 3 to 1 for what a graphic needs to be understood.
    assert view.page.evaluate(LUMINANCE, [".plot .fill-text", "fill"]) >= 4.5
    for number in range(2):
        selector = f".gap.system-{number} .stroke-system"
        assert view.page.evaluate(LUMINANCE, [selector, "stroke"]) >= 3
    assert view.page.evaluate(LUMINANCE, [".plot .stroke-people", "stroke"]) >= 3
    for number in range(2):
        selector = f".chart .stroke-line-{number}"
        assert view.page.evaluate(LUMINANCE, [selector, "stroke"]) >= 3


def test_curves_show_their_marks(everything: Path, opened: Open) -> None:
    view = opened(everything)
    loss = view.page.get_by_role("img", name="Loss", exact=False).last
    widths = "(svg) => Array.from(svg.querySelectorAll('use'), (it) => it.getBBox().width)"
    # 40 epochs are a line without dots; the ring of the best one is the widest of its marks.
    shown = loss.evaluate(widths)
    assert shown
    assert max(shown) >= 10
    assert "rgb" in loss.locator(".stroke-line-1").first.evaluate(
        "it => getComputedStyle(it).stroke"
    )
    assert loss.get_by_text("overfitting from epoch 31").is_visible()


def test_tables_wider_than_a_phone_scroll_by_keyboard(everything: Path, opened: Open) -> None:
    view = opened(everything, PHONE)
    table = view.page.get_by_role("region", name="Best epoch of each run")
    assert table.evaluate("it => it.scrollWidth > it.clientWidth")
    table.focus()
    view.page.keyboard.press("End")
    for _ in range(3):
        view.page.keyboard.press("ArrowRight")
    view.page.wait_for_function("it => it.scrollLeft > 0", arg=table.element_handle())


def test_a_printed_page_has_no_controls(evaluation: Path, opened: Open) -> None:
    view = opened(evaluation)
    view.page.emulate_media(media="print")
    for selector in (".toolbar", ".more", ".inner"):
        assert not view.page.locator(selector).is_visible()
    assert view.page.locator("table.scores").is_visible()
