"""Pages in a real browser: they load nothing, sort, and fit a narrow screen."""

import shutil

import pytest

from bilevel.report import check_page, clean_page, compare_page
from bilevel.report import figures as figure_module
from bilevel.report.fewshot import fewshot_page
from bilevel_claims.page import index_page, run_page
from cases.reports import (
    COMPARISON,
    EPISODES,
    HOSTILE,
    PIXEL,
    UNDRAWN,
    example_cleaning,
    example_fewshot,
    example_records,
    example_report,
    example_run,
)

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip
NARROW, WIDE, HEIGHT = 360, 1400, 900  # pixels
LONG = "a_class_name_without_any_blank_that_is_longer_than_a_telephone_is_wide"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

CURVES: dict[str, bytes] = {f"error_by_{kind}_steps": PIXEL for kind in ("inner", "linear")}

# One page has its figures. The others have a pixel for each: drawing takes most of the time.
PAGES = {
    "clean": lambda: clean_page(example_cleaning()),
    "clean, no images": lambda: clean_page(example_cleaning(image_shape=None, truth=False), UNDRAWN),
    "clean, hostile": lambda: clean_page(
        example_cleaning(classes=[HOSTILE, LONG] * 5, source=LONG, warnings=[HOSTILE, LONG]), UNDRAWN
    ),
    "check": lambda: check_page(example_report(), CURVES),
    "check, hostile": lambda: check_page(example_report(f"{HOSTILE} {LONG}", [f"{HOSTILE} {LONG}"]), CURVES),
    "compare": lambda: compare_page(example_records(diverged=[("soba", 1)]), COMPARISON),
    "compare, hostile": lambda: compare_page(example_records([HOSTILE, LONG]), COMPARISON),
    "reproduce": lambda: run_page(example_run()),
    "reproduce, hostile": lambda: run_page(example_run(text=f"{HOSTILE} {LONG}")),
    "fewshot": lambda: fewshot_page(example_fewshot(), EPISODES),
    "fewshot, hostile": lambda: fewshot_page(
        example_fewshot(20, 5, f"{HOSTILE} {LONG}", dataset=LONG, stopped=f"diverged {HOSTILE} {LONG}"),
        EPISODES,
    ),
}


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    """Open the HTML of a page in a new window, and record its messages and requests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    folder = tmp_path_factory.mktemp("pages")

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)

        def visit(html, width=WIDE):
            path = folder / f"{len(list(folder.iterdir()))}.html"
            path.write_text(html, encoding="utf-8")
            page = browser.new_context(viewport={"width": width, "height": HEIGHT}).new_page()
            page.complaints, page.requests = [], []
            page.on("console", lambda message: page.complaints.append(message.text))
            page.on("pageerror", lambda error: page.complaints.append(str(error)))
            page.on("dialog", lambda dialog: (page.complaints.append("dialog"), dialog.dismiss()))
            page.on("request", lambda request: page.requests.append(request.url))
            page.goto(path.as_uri())
            return page

        yield visit
        browser.close()


@pytest.fixture(scope="module", params=PAGES)
def page(request, visit):
    """Open each page once for all tests; a test sets its width and media."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure_module, "RESOLUTION", 50)
        html = PAGES[request.param]()
    page = visit(html)
    yield page
    page.context.close()


def column(page, table, header):
    """Return the header of a table's column, and a reader of the column's texts."""
    titles = page.locator(f"table[aria-label='{table}'] th").all_inner_texts()
    index = [title.strip() for title in titles].index(header)
    cells = page.locator(f"table[aria-label='{table}'] tbody tr td:nth-child({index + 1})")
    return page.locator(f"table[aria-label='{table}'] th").nth(index), cells.all_inner_texts


def test_page_loads_nothing_and_runs_without_errors(page):
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [page.url]
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.images.length") >= 2
    assert page.title() and page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.compatMode") == "CSS1Compat"


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_page_fits_the_width_of_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": HEIGHT})
    for scheme in ("light", "dark"):
        page.emulate_media(media="screen", color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.complaints == []


def test_page_follows_the_dark_scheme_and_keeps_figures_on_white(page):
    grounds, cards = [], []
    for scheme in ("light", "dark"):
        page.emulate_media(media="screen", color_scheme=scheme)
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        cards.append(page.evaluate("getComputedStyle(document.querySelector('figure img')).backgroundColor"))
    assert grounds[0] != grounds[1]
    assert cards == ["rgb(255, 255, 255)"] * 2


def test_page_prints(page):
    page.emulate_media(media="print", color_scheme="light")
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert page.pdf().startswith(b"%PDF")


def test_numbers_sort_as_numbers_up_then_down(visit):
    page = visit(clean_page(example_cleaning(), UNDRAWN))
    header, read = column(page, "Flagged rows", "row")
    rows = [int(text) for text in read()]
    assert header.get_attribute("aria-sort") is None and rows != sorted(rows)
    for order, expected in (("ascending", sorted(rows)), ("descending", sorted(rows)[::-1])):
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == order
        assert [int(text) for text in read()] == expected
    other, weights = column(page, "Flagged rows", "weight")
    other.get_by_role("button").press("Enter")
    assert header.get_attribute("aria-sort") is None and other.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in weights()] == sorted(float(text) for text in weights())


def test_a_cell_without_a_value_stays_last_and_text_sorts_as_text(visit):
    page = visit(clean_page(example_cleaning(), UNDRAWN))
    header, read = column(page, "Methods compared", "f1")
    for expected in (["0.750", "0.850", "0.945", "–", "–"], ["0.945", "0.850", "0.750", "–", "–"]):
        header.get_by_role("button").click()
        assert read() == expected
    header, read = column(page, "Methods compared", "method")
    header.get_by_role("button").click()
    names = ["Cleaned", "Drop disagreements", "Trained as given", "Trusted rows only", "Truth known"]
    assert read() == names


def test_means_with_deviations_sort_by_the_mean(visit):
    records = example_records(["one", "two", "three"], seeds=2)
    for scale, record in zip((10, 10, 0.9, 0.9, 2, 2), records, strict=True):
        record["history"]["outer_loss"][-1] = scale * (1 + 0.1 * record["seed"])
    page = visit(compare_page(records, COMPARISON))
    header, _ = column(page, "Algorithms compared", "outer loss")
    _, names = column(page, "Algorithms compared", "algorithm")
    header.get_by_role("button").click()
    assert names() == ["two", "three", "one"]


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_the_index_of_claims_fits_and_sorts(visit, width):
    done, hostile = example_run(), example_run(text=f"{HOSTILE} {LONG}")
    runs = [done._replace(seconds=90.0), hostile, hostile._replace(finding=None, failure=LONG, seconds=1.0)]
    page = visit(index_page([*runs, done._replace(finding=None, seconds=None)]), width)
    assert page.complaints == [] and page.evaluate("document.documentElement.scrollWidth") <= width
    if width == WIDE:  # a narrow screen shows cards, without headers to sort by
        header, read = column(page, "Claims", "time")
        header.get_by_role("button").click()
        assert read() == ["1.0 s", "12.3 s", "1 min 30 s", "–"]
