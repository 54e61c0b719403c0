"""Pages in a real browser: they load nothing, sort, and fit a narrow screen."""

import csv
import functools
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from bilevel.report import check_page, clean_page, compare_page
from bilevel.report import figures as figure_module
from bilevel.report.fewshot import fewshot_page
from bilevel_claims.page import index_page, run_page
from cases.reports import (
    CLEANINGS,
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
NARROW, MIDDLE, USUAL, WIDE, HEIGHT = 360, 700, 1200, 1400, 900  # pixels
LONG = "a_class_name_without_any_blank_that_is_longer_than_a_telephone_is_wide"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

CURVES: dict[str, bytes] = {f"error_by_{kind}_steps": PIXEL for kind in ("inner", "linear")}

# One page has its figures. The others have a pixel for each: drawing takes most of the time.
PAGES = {
    "clean": lambda: clean_page(example_cleaning()),
    "clean, hostile": lambda: clean_page(
        example_cleaning(
            classes=[HOSTILE, LONG] * 5,
            source=LONG,
            warnings=[HOSTILE, LONG],
            command=LONG,
            paragraph=LONG,
            model=LONG,
            models={LONG: 0.5},
            data="table",
        ),
        UNDRAWN,
    ),
    **{
        f"clean, {name}": functools.partial(
            lambda options: clean_page(example_cleaning(**options), UNDRAWN), kind
        )
        for name, kind in CLEANINGS.items()
    },
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


# Elements that are wider than what holds them, besides those in a box that scrolls.
SPILLING = """
[...document.querySelectorAll("body *")]
  .filter((part) => !part.closest(".scroll table, .subject > *, pre, select, .sheet"))
  .filter((part) => part.getBoundingClientRect().right > part.parentElement.getBoundingClientRect().right + 1)
  .map((part) => part.outerHTML.slice(0, 200))
"""
# Tables that do not show all their columns.
CUT = """
[...document.querySelectorAll(".scroll")]
  .filter((box) => box.scrollWidth > box.clientWidth)
  .map((box) => [box.querySelector("table").ariaLabel, box.scrollWidth, box.clientWidth])
"""


@pytest.mark.parametrize("width", [NARROW, MIDDLE, USUAL, WIDE])
def test_page_fits_the_width_of_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": HEIGHT})
    for scheme in ("light", "dark"):
        page.emulate_media(media="screen", color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(SPILLING) == []
    assert page.complaints == []


@pytest.mark.parametrize("width", [USUAL, WIDE])
def test_no_column_is_cut(page, width):
    page.set_viewport_size({"width": width, "height": HEIGHT})
    page.emulate_media(media="screen", color_scheme="light")
    assert page.evaluate(CUT) == []


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
    other, probabilities = column(page, "Flagged rows", "probability")
    other.get_by_role("button").press("Enter")
    assert header.get_attribute("aria-sort") is None and other.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in probabilities()] == sorted(float(text) for text in probabilities())


def test_a_cell_without_a_value_stays_last_and_text_sorts_as_text(visit):
    page = visit(clean_page(example_cleaning(), UNDRAWN))
    header, read = column(page, "Methods compared", "f1")
    known = ["0.646", "0.750", "0.850", "0.861", "0.945"]
    for expected in ([*known, "–", "–"], [*known[::-1], "–", "–"]):
        header.get_by_role("button").click()
        assert read() == expected
    header, read = column(page, "Methods compared", "method")
    header.get_by_role("button").click()
    names = ["Cleaned", "Confident learning", "Disagreement", "Influence", "Trained as given"]
    assert read() == [*names, "Trusted rows only", "Truth known"]


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


# Review mode

NAMES = ['a "quoted", name', "two\nlines", " blank ", "=1+1", "é", HOSTILE, "5", "b", "c", "d"]


def reviewing(visit, listed="flagged", **options):
    """Open a page, and return it with its review and a reader of the panel."""
    chosen: dict[str, Any] = {"classes": NAMES} | options
    cleaning = example_cleaning(**chosen)
    page = visit(clean_page(cleaning, UNDRAWN))
    return cleaning, page, page.locator(f"#review-{listed}")


def rows_of(review):
    """Return the rows of the data, and the decisions, in the order of the table."""
    rows = review.locator("tbody tr")
    numbers = [int(text) for text in rows.locator("td:first-child").all_inner_texts()]
    return numbers, [text.partition(":")[0] for text in rows.locator(".decision").all_inner_texts()]


def current(review):
    return int(review.locator("tr.current").get_attribute("data-row"))


def downloaded(page, review):
    with page.expect_download() as waiting:
        review.locator("[data-do=download]").click()
    text = Path(waiting.value.path()).read_bytes().decode("utf-8")
    return waiting.value.suggested_filename, list(csv.DictReader(io.StringIO(text, newline="")))


def test_rows_are_reviewed_with_the_mouse_and_downloaded(visit):
    cleaning, page, review = reviewing(visit)
    numbers, _ = rows_of(review)
    assert current(review) == numbers[0]
    review.locator("[data-do=accept]").click()
    review.locator("[data-do=reject]").click()
    # Neither the given nor the suggested class of the third row.
    third = numbers[2]
    other = next(c for c in range(10) if c not in (cleaning.given[third], cleaning.suggested[third]))
    review.locator("select").select_option(str(other))
    review.locator("tbody tr").nth(5).click()
    assert current(review) == numbers[5]
    review.locator("[data-do=accept]").click()
    assert rows_of(review)[1][:7] == ["accept", "reject", "relabel", "", "", "accept", ""]
    assert "4 of 86 decided: 2 accepted, 1 rejected, 1 relabelled" in review.inner_text()
    name, lines = downloaded(page, review)
    assert name == "reviewed.csv"
    assert list(lines[0]) == ["row", "given", "suggested", "decision", "checked_label"]
    decided = [numbers[place] for place in (0, 1, 2, 5)]
    assert [int(line["row"]) for line in lines] == decided
    assert [line["decision"] for line in lines] == ["accept", "reject", "relabel", "accept"]
    for column in ("given", "suggested"):
        assert [line[column] for line in lines] == [NAMES[getattr(cleaning, column)[row]] for row in decided]
    labels = [
        cleaning.suggested[decided[0]],
        cleaning.given[decided[1]],
        other,
        cleaning.suggested[decided[3]],
    ]
    assert [line["checked_label"] for line in lines] == [NAMES[label] for label in labels]
    assert page.complaints == []


def test_rows_are_reviewed_with_the_keyboard(visit):
    cleaning, page, review = reviewing(visit, classes=[f"class {number}" for number in range(10)])
    numbers, _ = rows_of(review)
    review.locator(".panel").focus()
    for keys, place in (("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0), ("ArrowUp", 0), ("j", 1)):
        page.keyboard.press(keys)
        assert current(review) == numbers[place]
    page.keyboard.press("a")
    page.keyboard.press("R")  # with caps lock
    fourth = numbers[3]
    free = next(c for c in range(9) if c not in (cleaning.given[fourth], cleaning.suggested[fourth]))
    page.keyboard.press(str(free + 1))
    # The class that a key chooses may be the suggested or the given one.
    page.keyboard.press(str(int(cleaning.suggested[numbers[4]]) + 1))
    assert rows_of(review)[1][:5] == ["", "accept", "reject", "relabel", "accept"]
    for expected, place in ((["accept", "reject", "relabel", ""], 4), (["accept", "reject", "", ""], 3)):
        page.keyboard.press("u")
        assert rows_of(review)[1][1:5] == expected and current(review) == numbers[place]
    page.keyboard.press("Control+a")  # keys of the browser stay its own
    assert rows_of(review)[1][1:5] == ["accept", "reject", "", ""]
    _, lines = downloaded(page, review)
    assert [(int(line["row"]), line["decision"]) for line in lines] == [
        (numbers[1], "accept"),
        (numbers[2], "reject"),
    ]


def test_keys_outside_the_review_do_nothing(visit):
    _, page, review = reviewing(visit)
    page.locator("h1").click()
    page.keyboard.press("a")
    assert set(rows_of(review)[1]) == {""}


def test_digits_choose_classes_of_that_name(visit):
    cleaning, page, review = reviewing(visit, classes=[str(digit) for digit in range(10)])
    numbers, _ = rows_of(review)
    review.locator(".panel").focus()
    for place in range(3):
        page.keyboard.press("037"[place])
    _, lines = downloaded(page, review)
    assert [line["checked_label"] for line in lines] == ["0", "3", "7"]
    assert [int(line["row"]) for line in lines] == numbers[:3]


def test_every_row_can_be_decided_and_the_progress_is_kept(visit):
    _, page, review = reviewing(visit, rows=30)
    numbers, _ = rows_of(review)
    review.locator(".panel").focus()
    for _ in numbers[:-1]:
        page.keyboard.press("a")
    page.reload()
    review = page.locator("#review-flagged")
    assert rows_of(review) == (numbers, ["accept"] * (len(numbers) - 1) + [""])
    assert current(review) == numbers[-1]
    review.locator(".panel").focus()
    page.keyboard.press("r")
    assert f"{len(numbers)} of {len(numbers)} decided" in review.inner_text()
    # Without a step to undo, `u` clears the decision of the current row.
    page.reload()
    page.locator("#review-flagged .panel").focus()
    page.keyboard.press("u")
    assert rows_of(page.locator("#review-flagged"))[1].count("") == 1
    assert page.complaints == []


def test_another_run_starts_afresh(visit):
    _, page, review = reviewing(visit)
    review.locator("[data-do=accept]").click()
    path = Path(page.url.removeprefix("file://")).with_name("again.html")
    for threshold, kept in ((0.5, True), (0.9, False)):
        html = clean_page(example_cleaning(classes=NAMES, threshold=threshold), UNDRAWN)
        path.write_text(html, encoding="utf-8")
        page.goto(path.as_uri())
        assert ("accept" in rows_of(page.locator("#review-flagged"))[1]) == kept


def test_a_browser_that_keeps_nothing_can_still_review(visit):
    _, page, _ = reviewing(visit)
    page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }});")
    page.reload()
    review = page.locator("#review-flagged")
    review.locator("[data-do=accept]").click()
    assert "does not keep the decisions" in review.inner_text()
    assert len(downloaded(page, review)[1]) == 1 and page.complaints == []


def test_sorting_keeps_decisions_and_moves_in_the_new_order(visit):
    _, page, review = reviewing(visit)
    numbers, _ = rows_of(review)
    review.locator("[data-do=accept]").click()
    column(page, "Flagged rows", "row")[0].get_by_role("button").click()
    order, decisions = rows_of(review)
    assert order == sorted(numbers) and decisions[order.index(numbers[0])] == "accept"
    at = order.index(current(review))
    review.locator("[data-do=next]").click()
    assert current(review) == order[at + 1]


@pytest.mark.parametrize("data", [None, "table", "text"])
@pytest.mark.parametrize("image_shape", [None, (8, 8)])
def test_the_panel_shows_image_text_and_columns_of_the_row(visit, data, image_shape):
    cleaning, page, review = reviewing(visit, data=data, image_shape=image_shape)
    review.locator("[data-do=next]").click()
    row, subject = current(review), review.locator(".subject")
    assert subject.locator("img").count() == (image_shape is not None)
    if data is not None:
        for name in ("id", "age" if data == "table" else "text"):
            value = str(cleaning.columns[name][row])
            assert value in subject.inner_text()


def test_rows_to_check_are_decided_on_the_page(visit):
    cleaning, page, review = reviewing(visit, listed="to_check", trusted=0)
    numbers, _ = rows_of(review)
    assert cleaning.to_check is not None and numbers == cleaning.to_check.tolist()
    for row in numbers:
        same = cleaning.given[row] == cleaning.suggested[row]
        assert current(review) == row
        assert review.locator("[data-do=accept]").is_visible() == (not same)
        review.locator("[data-do=reject]").click()
    name, lines = downloaded(page, review)
    assert name == "checked.csv" and {line["decision"] for line in lines} == {"reject"}
    assert [line["checked_label"] for line in lines] == [NAMES[cleaning.given[row]] for row in numbers]
    # The two reviews of a page are apart.
    assert set(rows_of(page.locator("#review-flagged"))[1]) == {""}
