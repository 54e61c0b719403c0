"""The pages in a real browser: they load nothing, run without an error, sort, and fit a telephone."""

import shutil

import pytest

from bilevel.report import clean_page, compare_page
from bilevel.report.fewshot import fewshot_page
from bilevel_claims.page import index_page, run_page
from cases.reports import HOSTILE, example_cleaning, example_fewshot, example_records, example_run

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip
LONG = "a_class_name_without_any_blank_that_is_longer_than_a_telephone_is_wide"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium on the path")

PAGES = {
    "clean": lambda: clean_page(example_cleaning()),
    "clean, texts": lambda: clean_page(example_cleaning(image_shape=None, texts=True, truth=False)),
    "clean, hostile": lambda: clean_page(
        example_cleaning(classes=[HOSTILE, LONG] * 5, source=LONG, warnings=[HOSTILE, LONG])
    ),
    "compare": lambda: compare_page(example_records(diverged=[("soba", 1)])),
    "compare, hostile": lambda: compare_page(example_records([HOSTILE, LONG])),
    "reproduce": lambda: run_page(example_run()),
    "reproduce, hostile": lambda: run_page(example_run(text=f"{HOSTILE} {LONG}")),
    "fewshot": lambda: fewshot_page(example_fewshot()),
    "fewshot, hostile": lambda: fewshot_page(
        example_fewshot(20, 5, f"{HOSTILE} {LONG}", dataset=LONG, stopped=f"diverged {HOSTILE} {LONG}")
    ),
}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=PAGES)
def address(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(PAGES[request.param](), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def visit(browser):
    """Opens an address in a fresh window of a given width; its complaints and requests are in the lists."""
    contexts = []

    def visit(address, width=1400, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.requests = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (page.complaints.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()


def column(page, table, header):
    """Index, header cell, and a reader of the texts of a column of a table."""
    place = page.locator(f"table[aria-label='{table}'] th").all_inner_texts()
    index = [title.strip() for title in place].index(header)
    cells = page.locator(f"table[aria-label='{table}'] tbody tr td:nth-child({index + 1})")
    return page.locator(f"table[aria-label='{table}'] th").nth(index), cells.all_inner_texts


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_page_loads_quietly_and_fits(visit, address, width, scheme):
    page = visit(address, width, color_scheme=scheme)
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [address]
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.images.length") >= 3
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.title() and page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.compatMode") == "CSS1Compat"


def test_page_follows_the_dark_scheme_and_keeps_figures_on_white(visit, address):
    ground = "getComputedStyle(document.body).backgroundColor"
    card = "getComputedStyle(document.querySelector('figure img')).backgroundColor"
    light, dark = (visit(address, color_scheme=scheme) for scheme in ("light", "dark"))
    assert light.evaluate(ground) != dark.evaluate(ground)
    assert light.evaluate(card) == dark.evaluate(card) == "rgb(255, 255, 255)"


def test_numbers_sort_as_numbers_up_then_down(visit, tmp_path):
    (tmp_path / "page.html").write_text(PAGES["clean"](), encoding="utf-8")
    page = visit((tmp_path / "page.html").as_uri())
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


def test_a_cell_without_a_value_stays_last_and_text_sorts_as_text(visit, tmp_path):
    (tmp_path / "page.html").write_text(PAGES["clean"](), encoding="utf-8")
    page = visit((tmp_path / "page.html").as_uri())
    header, read = column(page, "Methods compared", "f1")
    for expected in (["0.850", "0.945", "–", "–"], ["0.945", "0.850", "–", "–"]):
        header.get_by_role("button").click()
        assert read() == expected
    header, read = column(page, "Methods compared", "method")
    header.get_by_role("button").click()
    assert read() == ["Cleaned", "Drop disagreements", "Trained as given", "Trusted rows only"]


def test_spreads_sort_by_their_mean(visit, tmp_path):
    records = example_records(["one", "two", "three"], seeds=2)
    for scale, record in zip((10, 10, 0.9, 0.9, 2, 2), records, strict=True):
        record["final"]["outer_loss"] = scale * (1 + 0.1 * record["seed"])
    (tmp_path / "page.html").write_text(compare_page(records), encoding="utf-8")
    page = visit((tmp_path / "page.html").as_uri())
    header, _ = column(page, "Algorithms compared", "outer loss")
    _, names = column(page, "Algorithms compared", "algorithm")
    header.get_by_role("button").click()
    assert names() == ["two", "three", "one"]


@pytest.mark.parametrize("width", [360, 1400])
def test_the_index_of_claims_fits_and_sorts(visit, tmp_path, width):
    done, hostile = example_run(), example_run(text=f"{HOSTILE} {LONG}")
    runs = [done._replace(seconds=90.0), hostile, hostile._replace(finding=None, failure=LONG, seconds=1.0)]
    (tmp_path / "page.html").write_text(
        index_page([*runs, done._replace(finding=None, seconds=None)]), encoding="utf-8"
    )
    page = visit((tmp_path / "page.html").as_uri(), width)
    assert page.complaints == [] and page.evaluate("document.documentElement.scrollWidth") <= width
    if width > 700:  # a telephone shows cards, without the headers to sort by
        header, read = column(page, "Claims", "time")
        header.get_by_role("button").click()
        assert read() == ["1.0 s", "12.3 s", "1 min 30 s", "–"]


def test_the_page_prints(visit, address):
    page = visit(address)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert page.pdf().startswith(b"%PDF")
