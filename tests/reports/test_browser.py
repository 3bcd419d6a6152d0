"""The page in a real browser: it sorts, filters, redraws, needs no network and can be used by everyone.

Needs Chromium with its driver. ``SCREENSHOTS`` names a folder in which pictures of the page are kept to be looked at.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import ENVIRONMENT, campaign, cell, save_predictions

from reports import write
from results.frame import from_records
from results.record import CellRecord
from results.store import RunFolder

pytestmark = pytest.mark.browser
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
if shutil.which("chromedriver") is None or shutil.which("chromium") is None:
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
selenium_axe_python = pytest.importorskip(
    "selenium_axe_python", reason="selenium-axe-python is not installed"
)
pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed")
HARD = "<script>alert('a_b & c%')</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    records = [
        *campaign(tasks=("cola", "reviews")),
        cell(HARD, task="reviews", status="failed", reason='<b>"no"</b>'),
    ]
    for record in records:
        if isinstance(record, CellRecord) and record.status == "done":
            save_predictions(RunFolder(folder), record)
    frame = from_records(records, environments={ENVIRONMENT.id: ENVIRONMENT}, folder=RunFolder(folder))
    return write(frame, folder / "report", f"Campaign {HARD}")[0]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Any, page: Path) -> Any:
    chromium.get_log("browser")
    chromium.get_log("performance")
    _size(chromium, 1440, 900)
    chromium.get(page.as_uri())
    return chromium


def _size(browser: Any, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def main_rows(browser: Any) -> list[str]:
    """Return the methods of the main table that can be seen, from top to bottom."""
    rows = browser.find_elements(By.CSS_SELECTOR, "section[aria-labelledby=table-main] tr[data-method]")
    return [row.get_attribute("data-method") for row in rows if row.is_displayed()]


def headings(browser: Any) -> list[str]:
    found = browser.find_elements(By.CSS_SELECTOR, "section[aria-labelledby=table-main] thead th")
    return [heading.text.rstrip(" ↕↑↓").replace("\n", " ") for heading in found if heading.is_displayed()]


def points(browser: Any) -> list[str]:
    found = browser.find_elements(By.CSS_SELECTOR, "#plots .point")
    return [point.get_attribute("aria-label").partition(":")[0] for point in found]


def click(browser: Any, selector: str) -> None:
    browser.find_element(By.CSS_SELECTOR, selector).click()


def test_nothing_is_logged_and_nothing_is_fetched(browser: Any, page: Path) -> None:
    assert browser.get_log("browser") == []
    urls = {
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    }
    assert urls <= {page.as_uri()}


def test_a_hard_name_is_shown_and_not_run(browser: Any) -> None:
    assert browser.title == f"Campaign {HARD}"
    assert HARD in main_rows(browser)
    assert browser.find_element(By.TAG_NAME, "h1").text == f"Campaign {HARD}"


def test_a_heading_sorts_its_column_both_ways_and_leaves_what_has_no_number_last(browser: Any) -> None:
    button = browser.find_elements(By.CSS_SELECTOR, "section[aria-labelledby=table-main] thead button")
    speed = next(one for one in button if one.text == "speed-up")
    speed.click()
    fastest_first = main_rows(browser)
    assert fastest_first[0] == "finetune"
    assert fastest_first[-1] == HARD
    speed.click()
    assert main_rows(browser)[:-1] == fastest_first[:-1][::-1]
    assert main_rows(browser)[-1] == HARD
    assert speed.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"


def test_a_filter_keeps_the_rows_and_points_that_match(browser: Any) -> None:
    browser.find_element(By.ID, "filter").send_keys("BERT")
    assert main_rows(browser) == ["moebert", "distilbert"]
    assert set(points(browser)) == {"moebert", "distilbert"}
    assert browser.find_element(By.ID, "shown").text.startswith("2 of 6 methods")


def test_switching_a_method_off_redraws_the_plot_and_its_front(browser: Any) -> None:
    before = browser.find_element(By.CSS_SELECTOR, "#plots .front").get_attribute("points")
    number = main_rows(browser).index("moebert")
    click(browser, f"input[name=method][value='{number}']")
    assert "moebert" not in points(browser)
    assert "moebert" not in main_rows(browser)
    assert browser.find_element(By.CSS_SELECTOR, "#plots .front").get_attribute("points") != before


def test_switching_a_task_off_hides_its_columns_blocks_and_panel(browser: Any) -> None:
    assert len(browser.find_elements(By.CSS_SELECTOR, "#plots svg")) == 2
    click(browser, "input[name=task][value='0']")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#plots svg")) == 1
    assert "cola accuracy" not in headings(browser)
    assert "reviews accuracy" in headings(browser)
    blocks = browser.find_elements(By.CSS_SELECTOR, "tbody[data-task=cola]")
    assert blocks
    assert not any(block.is_displayed() for block in blocks)


def test_another_cost_moves_the_points(browser: Any) -> None:
    place = "#plots .point g"
    before = browser.find_element(By.CSS_SELECTOR, place).get_attribute("transform")
    browser.find_element(By.ID, "cost").send_keys("mult")
    assert "multiply-adds" in browser.find_element(By.CSS_SELECTOR, "#plots svg").get_attribute("aria-label")
    assert browser.find_elements(By.CSS_SELECTOR, place)[1].get_attribute("transform") != before


def test_a_number_opens_its_records_and_escape_closes_them(browser: Any) -> None:
    link = browser.find_element(By.CSS_SELECTOR, "tr[data-method=moebert] a[data-cells]")
    link.send_keys(Keys.ENTER)
    dialog = browser.find_element(By.ID, "record")
    assert dialog.is_displayed()
    assert cell("moebert", task="cola").id in dialog.text
    assert "learning_rate" in dialog.text
    dialog.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


def test_a_speed_up_opens_its_timings(browser: Any) -> None:
    link = browser.find_element(By.CSS_SELECTOR, "section[aria-labelledby=table-latency] td a[data-cells]")
    ids = link.get_attribute("data-cells").split()
    link.send_keys(Keys.ENTER)
    dialog = browser.find_element(By.ID, "record")
    for word in (*ids, "speedup_low", "baseline_p50_ms"):
        assert word in dialog.text
    dialog.send_keys(Keys.ESCAPE)


def test_a_method_leads_to_its_card(browser: Any) -> None:
    click(browser, "tr[data-method=moebert] th a")
    card = browser.find_element(By.CSS_SELECTOR, ":target")
    assert card.get_attribute("open") is not None
    assert card.find_element(By.TAG_NAME, "summary").text.startswith("moebert")


def test_the_records_can_be_taken_away_as_csv(browser: Any, page: Path) -> None:
    link = browser.find_element(By.CSS_SELECTOR, "a[download='records.csv']")
    script = "return new TextDecoder().decode(Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)))"
    text = browser.execute_script(script, link.get_attribute("href").partition(",")[2])
    assert text == (page.parent / "records.csv").read_text(encoding="utf-8")
    assert len(list(csv.DictReader(io.StringIO(text)))) == 31


def test_the_keyboard_reaches_the_controls_in_order(browser: Any) -> None:
    reached = []
    for _ in range(30):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        active = browser.switch_to.active_element
        reached.append(
            active.get_attribute("id") or active.get_attribute("name") or active.get_attribute("class")
        )
        if reached[-1] == "method":
            active.send_keys(Keys.SPACE)
            break
    assert reached[0] == "skip"
    assert reached.index("theme") < reached.index("filter") < reached.index("method")
    assert browser.find_element(By.ID, "shown").text.startswith("5 of 6")


def test_the_theme_can_be_turned(browser: Any) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = browser.execute_script(colour)
    click(browser, "#theme")
    assert browser.execute_script(colour) != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_no_serious_violation_and_no_sideways_scrolling(browser: Any, width: int, scheme: str) -> None:
    axe = Path(selenium_axe_python.__file__).parent / "axe-core" / "axe.min.js"
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    _size(browser, width, 900)
    browser.execute_script("for (const card of document.querySelectorAll('details')) card.open = true")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_script(axe.read_text(encoding="utf-8"))
    script = "const done = arguments[0]; axe.run({ resultTypes: ['violations'] }).then(done)"
    found = [
        (violation["id"], violation["nodes"][0]["html"])
        for violation in browser.execute_async_script(script)["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
    assert found == []
    if folder := os.environ.get("SCREENSHOTS"):
        _size(browser, width, browser.execute_script("return document.documentElement.scrollHeight"))
        Path(folder).mkdir(exist_ok=True)
        assert browser.save_screenshot(str(Path(folder) / f"report-{width}-{scheme}.png"))


PAPER = {"paperWidth": 11.69, "paperHeight": 8.27, "preferCSSPageSize": True, "printBackground": True}
BETWEEN_MARGINS = 1031  # CSS pixels of a landscape A4 page between the page's own margins


def printed(browser: Any) -> bytes:
    return base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", PAPER)["data"])


def test_it_prints_every_word_of_every_table_figure_and_card_inside_the_pages(browser: Any) -> None:
    document = printed(browser)
    if folder := os.environ.get("SCREENSHOTS"):
        (Path(folder) / "report.pdf").write_bytes(document)
    places: list[tuple[float, float, float]] = []
    text = ""
    for sheet in pypdf.PdfReader(io.BytesIO(document)).pages:
        width, height = float(sheet.mediabox.width), float(sheet.mediabox.height)
        assert width > height, "a page lies on its side, as wide tables need"

        def place(piece: str, cm: Any, tm: Any, *_: Any, width: float = width) -> None:
            if piece.strip():
                places.append((tm[4] * cm[0] + tm[5] * cm[2] + cm[4], width, len(piece)))

        text += sheet.extract_text(visitor_text=place)
    assert all(20 < x < width - 20 for x, width, _ in places), "something stands outside the margins"
    glued = "".join(unicodedata.normalize("NFKC", text).split())  # a ligature is its letters
    wanted = browser.execute_script(
        "return [...document.querySelectorAll('table.data th, table.data td, main .caption, .note, dt, dd')]"
        ".map((one) => one.textContent)"
    )
    words = {word for one in wanted for word in one.replace("\xa0↕", "").split()}
    assert len(words) > 200
    assert sorted(word for word in words if word not in glued) == []
    for control in (
        "Filter methods",
        "Dark or light",
        "Skip to the tables",
        "records.csv",
        "methods, 2 of 2",
        "↕",
    ):
        assert "".join(control.split()) not in glued
    assert browser.execute_script(
        "return [...document.querySelectorAll('details')].every((card) => card.open)"
    )


def test_no_column_is_cut_off_on_paper(browser: Any) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    _size(browser, BETWEEN_MARGINS, 700)
    wide = browser.execute_script(
        "return [...document.querySelectorAll('table.data, figure svg')]"
        ".filter((one) => one.getBoundingClientRect().right > innerWidth + 1)"
        ".map((one) => one.closest('section').getAttribute('aria-labelledby'))"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert wide == []


def test_dark_prints_as_light(browser: Any) -> None:
    light = printed(browser)
    media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.execute_script("document.documentElement.dataset.theme = 'dark'")
    colours = "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    assert browser.execute_script(colours) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    dark = printed(browser)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    one, other = (pypdf.PdfReader(io.BytesIO(document)) for document in (light, dark))
    assert len(one.pages) == len(other.pages)
    for sheet, twin in zip(one.pages, other.pages, strict=True):
        assert sheet.get_contents().get_data() == twin.get_contents().get_data()
