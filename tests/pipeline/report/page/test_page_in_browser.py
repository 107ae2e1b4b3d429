"""The page in a real browser: tables, figures, clips, sound, themes, keyboard, and what axe finds."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from looked_at import CLASSES, GONE, HARMFUL_CLIP, looked_at_set, trained
from pages import read_page

from avfuse.pipeline.cli.main import avfuse

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed"),
    pytest.mark.slow,
]
SECONDS = 240


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Path:
    """The page of a run over a small data set with real media, and with names that look like markup."""
    folder = tmp_path_factory.mktemp("work")
    manifest = looked_at_set(folder / "cache", media)
    run = trained(folder / "cache", manifest, folder / "runs/tones/all", ["audio", "video", "crossattn"])
    command = ["report", run.folder, "-o", folder / "page.html", "--cache", folder / "cache"]
    CliRunner().invoke(avfuse, [str(each) for each in command], catch_exceptions=False, standalone_mode=False)
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator["api.Browser"]:
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--disable-gpu"]
        opened = playwright.chromium.launch(executable_path=BROWSER, args=options, timeout=SECONDS * 1000)
        yield opened
        opened.close()


class Seen:
    """A page that is open, what it asked the network for, and what went wrong in it."""

    def __init__(self, browser: "api.Browser", file: Path, width: int = 1280, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.requests: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.goto(file.as_uri(), wait_until="commit")
        self.page.wait_for_selector("html[data-ready=true]")

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Playwright's own waiting for a script's value needs `eval`, which the page forbids."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < deadline
            self.page.wait_for_timeout(50)

    def ids(self) -> list[str]:
        """Clips in the list."""
        found: list[str] = self.page.eval_on_selector_all(".clip-item", "all => all.map(one => one.dataset.clip)")
        return found

    def cells(self, table: str, column: int) -> list[str]:
        selector = f"#{table} tbody tr > :nth-child({column})"
        found: list[str] = self.page.eval_on_selector_all(selector, "all => all.map(one => one.textContent)")
        return found


@pytest.fixture(scope="module")
def opened(browser: "api.Browser", file: Path) -> Iterator[Seen]:
    seen = Seen(browser, file)
    yield seen
    seen.context.close()


@pytest.fixture
def seen(opened: Seen) -> Seen:
    """No clip is open, nothing is filtered."""
    opened.page.evaluate("document.getElementById('filters').reset()")
    opened.page.dispatch_event("#filters", "input")
    if opened.page.is_visible("#clip"):
        opened.page.click("#clip button[aria-label='Close the clip']")
    return opened


def test_a_table_is_sorted_by_mouse_and_by_keyboard(seen: Seen) -> None:
    page = seen.page
    header = page.locator("#table-results thead th", has_text="parameters")
    numbers = [int(text.replace(",", "")) for text in seen.cells("table-results", 9)]
    header.click()
    api.expect(header).to_have_attribute("aria-sort", "ascending")
    assert [int(text.replace(",", "")) for text in seen.cells("table-results", 9)] == sorted(numbers)
    header.locator("[role=button]").focus()
    page.keyboard.press("Enter")
    api.expect(header).to_have_attribute("aria-sort", "descending")
    assert [int(text.replace(",", "")) for text in seen.cells("table-results", 9)] == sorted(numbers)[::-1]


def test_a_table_is_searched_and_saved_as_csv(seen: Seen) -> None:
    page = seen.page
    search = page.locator("section[aria-labelledby=results] input[type=search]").first
    search.fill("cross")
    assert seen.cells("table-results", 1) == ["crossattn"]
    search.fill("")
    with page.expect_download() as download:
        page.locator("section[aria-labelledby=results] button", has_text="CSV").click()
    assert download.value.suggested_filename == "tones-results.csv"
    text = Path(download.value.path()).read_text()
    assert '"crossattn"' in text
    assert len(text.strip().splitlines()) == 4


def test_clips_are_filtered_and_counted_aloud(seen: Seen, file: Path) -> None:
    page = seen.page
    count = page.locator("#clip-count")
    assert count.get_attribute("aria-live") == "polite"
    assert count.inner_text() == "12 of 12 clips"
    page.select_option("#filter-class", label=CLASSES[1])
    assert len(seen.ids()) == 4
    assert count.inner_text() == "4 of 12 clips"
    page.fill("#filter-text", "nothing is called that")
    assert seen.ids() == []
    page.fill("#filter-text", "")
    page.select_option("#filter-class", "")
    page.select_option("#filter-row", label="video")
    page.select_option("#filter-verdict", "right")
    right = seen.ids()
    page.select_option("#filter-verdict", "wrong")
    assert len(right) + len(seen.ids()) == 12
    page.select_option("#filter-verdict", "")
    page.check("#filter-disagree")
    clips = read_page(file).islands["explorer"]["clips"]
    disputed = [each["id"] for each in clips if len({row[0][0][0] for row in each["top"]}) > 1]
    assert seen.ids() == disputed
    assert len(disputed) < 12


def test_a_clip_is_opened_by_mouse_and_its_sound_plays(seen: Seen) -> None:
    page = seen.page
    page.fill("#filter-text", "img src=x")
    page.click(".clip-item")
    assert page.inner_text("#clip-title") == HARMFUL_CLIP
    assert page.locator("#clip .frames img").count() == 8
    assert page.locator("#clip .images img").count() == 6
    assert page.locator("#clip .guesses").count() >= 3
    loaded = "all => all.every(one => one.complete && one.naturalWidth > 0)"
    pictures = page.locator("#clip .frames img, #clip .images img, #clip .map img")
    seen.wait_until(lambda: pictures.evaluate_all(loaded))
    page.eval_on_selector("#clip audio", "one => { one.muted = true; return one.play(); }")
    seen.wait_until(lambda: page.eval_on_selector("#clip audio", "one => one.currentTime") > 0.1)
    assert page.eval_on_selector("#clip audio", "one => one.duration") == pytest.approx(2, abs=0.15)
    page.select_option("#clip select", "attention")
    assert page.locator("#clip .cards >> nth=1").locator(".panel").count() >= 1


def test_clips_are_walked_through_by_keyboard(seen: Seen) -> None:
    page = seen.page
    ids = seen.ids()
    page.locator(".clip-item").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.inner_text("#clip-title") == ids[1]
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#clip-title") == ids[2]
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#clip-title") == ids[1]
    page.keyboard.press("Escape")
    assert page.is_hidden("#clip")
    assert page.evaluate("document.activeElement.dataset.clip") == ids[1]


def test_of_a_clip_whose_file_is_gone_the_rest_is_shown(seen: Seen) -> None:
    seen.page.fill("#filter-text", GONE)
    seen.page.click(".clip-item")
    assert "not found" in seen.page.inner_text("#clip .note")
    assert seen.page.locator("#clip .guesses").count() >= 3


def test_rows_are_switched_off_and_on_in_the_learning_curves(seen: Seen) -> None:
    page = seen.page
    visible = "[...document.getElementById('figure-curves-loss').data].filter(one => one.visible !== false).length"
    before = page.evaluate(visible)
    button = page.locator("#curve-switches button", has_text="video")
    button.focus()
    page.keyboard.press("Space")
    assert button.get_attribute("aria-pressed") == "false"
    assert page.evaluate(visible) < before
    page.keyboard.press("Space")
    assert page.evaluate(visible) == before


def test_figures_of_other_rows_are_chosen_and_tell_their_numbers(seen: Seen) -> None:
    page = seen.page
    page.select_option("#confusion-row", label="audio")
    shown = page.evaluate("[...document.getElementById('figure-confusion-0').data].map(one => one.visible)")
    assert shown == [True, False, False]
    page.click(".plot[data-figure='confusion-0'] summary")
    page.wait_for_selector(".plot[data-figure='confusion-0'] tbody tr")
    names = page.eval_on_selector_all(
        ".plot[data-figure='confusion-0'] tbody th", "all => all.map(one => one.textContent)"
    )
    assert names[0] == CLASSES[0]
    page.select_option("#gains-before", label="crossattn")
    page.select_option("#gains-after", label="audio")
    backwards = seen.cells("table-gains", 5)
    page.select_option("#gains-before", label="audio")
    page.select_option("#gains-after", label="crossattn")
    turned = [text.translate(str.maketrans("+−", "−+")) for text in seen.cells("table-gains", 5)]
    assert sorted(backwards) == sorted(turned)
    assert "From audio to crossattn" in page.inner_text("#gains-words")


def test_figures_follow_the_theme(seen: Seen) -> None:
    page = seen.page
    colours = (
        "[getComputedStyle(document.body).backgroundColor, document.querySelector('#figure-scores text').style.fill]"
    )
    light = page.evaluate(colours)
    page.click("#theme")
    seen.wait_until(lambda: page.evaluate(colours)[1] != light[1])
    dark = page.evaluate(colours)
    assert dark[0] != light[0]
    page.click("#theme")
    seen.wait_until(lambda: page.evaluate(colours) == light)


def test_the_first_thing_that_takes_focus_skips_to_the_content(browser: "api.Browser", file: Path) -> None:
    seen = Seen(browser, file)
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen.page.keyboard.press("Enter")
    assert seen.page.evaluate("location.hash") == "#content"
    seen.context.close()


@pytest.mark.parametrize("width", [360, 1920])
def test_the_page_is_no_wider_than_the_window(browser: "api.Browser", file: Path, width: int) -> None:
    seen = Seen(browser, file, width=width)
    seen.page.click(".clip-item")
    for summary in seen.page.locator("main summary").all():
        if summary.is_visible():
            summary.click()
    assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    seen.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: "api.Browser", file: Path, scheme: str) -> None:
    seen = Seen(browser, file, scheme=scheme)
    seen.page.click(".clip-item")
    found = axe.Axe().run(seen.page).response["violations"]
    serious = {
        each["id"]: [node["html"][:120] for node in each["nodes"]][:3]
        for each in found
        if each["impact"] in ("serious", "critical")
    }
    assert serious == {}
    seen.context.close()


def test_it_prints_without_its_buttons(seen: Seen) -> None:
    page = seen.page
    page.emulate_media(media="print")
    assert page.is_hidden("#theme")
    assert page.is_hidden("#filters")
    assert page.is_visible("#table-results")
    page.emulate_media(media="screen")
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_nothing_was_fetched_and_nothing_went_wrong(opened: Seen, file: Path) -> None:
    """Last: of all that the tests above did."""
    fetched = [url for url in opened.requests if not url.startswith(("data:", "blob:"))]
    assert fetched == [file.as_uri()]
    assert opened.wrong == []
    assert opened.page.evaluate("window.harm") is None
