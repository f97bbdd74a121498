"""The report of a run in a real browser: every figure drawn, nothing wider than the screen, nothing asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from int_ray.report.run_page import write_report
from int_ray.report.several import write_comparison
from tests.browser import DESKTOP, PHONE, chromium, opened, overflow
from tests.experiments import write_arm_run
from tests.run_folders import write_run
from tests.unit.test_claims import FREED, write_experiment

if TYPE_CHECKING:
    from playwright.sync_api import Browser


HOSTILE = "<script>alert(1)</script></title><img src=https://example.com/x onerror=alert(1)> \u202e" + "x" * 300


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose texts are long and attack the page."""
    return write_report(write_run(tmp_path_factory.mktemp("browser") / "run", text=HOSTILE))


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_report_is_whole_at_every_width(browser: Browser, report: Path, width: int):
    with opened(browser, report, width) as page:
        assert overflow(page) <= 0
        boxes = [figure.bounding_box() for figure in page.locator("svg").all()]
        assert len(boxes) == 12
        for box in boxes:
            assert box is not None and box["width"] > 200 and box["height"] > 80
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
        drawn = "all => all.filter(one => one.getBBox().width > 0).length"
        assert page.locator("svg path, svg text").evaluate_all(drawn) > 100
        assert page.locator("h1").inner_text() == "Stuck, then freed by a patch."
        assert page.locator("del").first.is_visible() and page.locator("ins").first.is_visible()
        page.locator("summary", has_text="Settings").click()
        assert page.locator("pre", has_text="mini_batch_size").is_visible()
        assert overflow(page) <= 0


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Over three arms with two seeds each, one of them with texts that attack the page."""
    folder = write_experiment(tmp_path_factory.mktemp("browser") / "compare")
    write_arm_run(folder / "seed-2/int", "int", 2, FREED, text=HOSTILE)
    return write_comparison([folder], folder / "report.html")


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_a_page_over_several_runs_is_whole_at_every_width(browser: Browser, comparison: Path, width: int):
    with opened(browser, comparison, width) as page:
        assert overflow(page) <= 0
        boxes = [figure.bounding_box() for figure in page.locator("svg").all()]
        assert len(boxes) > 6
        for box in boxes:
            assert box is not None and box["width"] > 200 and box["height"] > 80
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
        ends = page.locator("svg", has_text="distillation").first.locator("text").all_text_contents()
        assert {"standard RL", "distillation", "InT"} <= set(ends)
        assert page.locator(".badge", has_text="reproduced").first.is_visible()


def test_the_helper_notices_requests_and_errors(browser: Browser, tmp_path: Path):
    path = tmp_path / "bad.html"
    path.write_text("<img src='file:///nowhere.png'><script>throw Error('loud')</script>")
    with (
        pytest.raises(AssertionError, match=r"nowhere\.png[\s\S]*loud|loud[\s\S]*nowhere\.png"),
        opened(browser, path, PHONE),
    ):
        pass
