"""Sixty methods with hard names on four tasks: the whole report, in every format, still to be read."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from synthetic import ENVIRONMENT, cell, latency, save_predictions

from reports import write
from results.frame import Frame, from_records
from results.record import WorkloadRecord
from results.store import RunFolder

HARD = (
    "with a space",
    "名前 模型",
    "Łódź ümläut",
    r"\input{x} $x^2$ #1 ~{}_^",
    "<script>alert(1)</script>",
    "a & b | c % d",
    "\"quoted\" 'name'",
    "🚀 rocket",
    "a name that is a good deal longer than any name of a method should ever be",
    "method[layers=3,learning_rate=5e-05]",
)
METHODS = (*HARD, *(f"method-{number}" for number in range(60 - len(HARD))))
TASKS = ("cola", "mrpc", "rte", "sst2")
SIZES = [(batch, length) for batch in (1, 8) for length in (32, 128)]
SECONDS = 120  # of processor time: five times what an idle machine takes


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> Frame:
    folder = RunFolder(tmp_path_factory.mktemp("sixty"))
    cells = [cell(label, task, seed) for label in ("teacher", *METHODS) for task in TASKS for seed in (1, 2)]
    for one in cells:
        save_predictions(folder, one, rows=100)
    grid = [WorkloadRecord(name=f"b{b}xl{n}", batch_size=b, length=n) for b, n in SIZES]
    timings = [
        latency(one, workload=workload, speed=1 + (index % 37) / 20)
        for index, one in enumerate(cells)
        if one.label != "teacher" and one.identity.seed == 1 and one.task == "cola"
        for workload in grid
    ]
    return from_records([*cells, *timings], environments={ENVIRONMENT.id: ENVIRONMENT}, folder=folder)


@pytest.fixture(scope="module")
def report(sixty: Frame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report"
    started = time.process_time()
    write(sixty, out, "Sixty methods")
    assert time.process_time() - started < SECONDS
    return out


@pytest.mark.slow
def test_every_method_has_its_row_in_every_table(report: Path) -> None:
    for table in ("main", "comparison", "latency", "cost"):
        rows = list(csv.reader((report / "tables" / f"{table}.csv").open(encoding="utf-8")))[1:]
        assert set(METHODS) <= {row[0] for row in rows}, table


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_every_table_compiles(report: Path, tmp_path: Path) -> None:
    tables = sorted((report / "tables").glob("*.tex"))
    assert len(tables) >= 5
    for table in tables:
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", str(table)]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        text = run.stdout.decode("utf-8", "replace")
        assert run.returncode == 0, (table.name, text[-2000:])
        assert "Overfull \\hbox" not in text, f"{table.name} does not fit its page"
        assert "Overfull \\vbox" not in text, f"{table.name} is longer than its page"


@pytest.mark.slow
def test_every_figure_is_there_and_no_larger_than_three_pages(report: Path) -> None:
    figures = sorted((report / "figures").glob("*.svg"))
    assert {figure.stem for figure in figures} >= {"pareto", "retained", "seeds", "speedup", "training"}
    for figure in figures:
        size = re.search(rb'width="([\d.]+)pt" height="([\d.]+)pt"', figure.read_bytes())
        assert size is not None
        width, height = (float(points) / 72 for points in size.groups())
        assert width <= 6.8
        assert height <= 3 * 9.7, figure.name


@pytest.mark.browser
def test_the_page_sorts_filters_and_switches_sixty_methods(report: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if shutil.which("chromedriver") is None or shutil.which("chromium") is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    rows = (
        "return [...document.querySelectorAll('section[aria-labelledby=table-main] tr[data-method]')]"
        ".filter((row) => !row.hidden).map((row) => row.dataset.method)"
    )
    drawn = "[...document.querySelectorAll('#plots .point')].map((one) => one.getAttribute('href'))"
    points = f"return new Set({drawn}).size"
    try:
        browser.get((report / "report.html").as_uri())
        assert set(browser.execute_script(rows)) == {"teacher", *METHODS}
        before = browser.execute_script(rows)
        browser.find_element("css selector", "section[aria-labelledby=table-main] thead button").click()
        after = browser.execute_script(rows)
        assert after != before
        assert sorted(after) == sorted(before)
        browser.find_element("id", "filter").send_keys("模型")
        assert browser.execute_script(rows) == ["名前 模型"]
        browser.find_element("id", "filter").clear()
        browser.find_element("id", "filter").send_keys(" ")
        assert browser.execute_script(points) == 61
        script = (
            "const box = document.querySelectorAll('input[name=method]')[5]; box.click(); return box.checked"
        )
        assert browser.execute_script(script) is False
        assert browser.execute_script(points) == 60
        assert len(browser.execute_script(rows)) == 60
        assert browser.get_log("browser") == []
    finally:
        browser.quit()
