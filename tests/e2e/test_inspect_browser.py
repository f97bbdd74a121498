"""The page of `int-ray inspect` in a real browser: readable at every width, and its script narrows the list down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from int_ray.report.inspection import write_inspection
from tests.browser import DESKTOP, PHONE, chromium, opened, overflow

if TYPE_CHECKING:
    from playwright.sync_api import Browser


HOSTILE = "<script>alert(1)</script><img src=https://example.com/x onerror=alert(1)> \u202e" + "x" * 300


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def row(index: int) -> dict[str, Any]:
    """Three interventions a problem: one kept, one that did not help, one that leaks the answer."""
    status, reason, right = [("kept", None, 3), ("unhelpful", None, 0), ("refused", "leak", None)][index % 3]
    return {
        "status": status,
        "reason": reason,
        "problem_id": f"p{index // 3}",
        "question": f"Question {index // 3}?",
        "answer": "14",
        "solution": "12+5=17\n\n17-3=14",
        "attempt_seed": index,
        "attempt_ids": [1] * 40,
        "steps": [f"step {number} of attempt {index} {HOSTILE if index == 0 else ''}\n\n" for number in range(1, 31)],
        "category": ("high", "execution", None)[index % 3],
        "location": 12,
        "first_error": 11,
        "content": f"corrected {index}",
        "intervention_ids": [1] * 5,
        "num_correct": right,
        "num_graded": None if right is None else 4,
        "continuations": [{"outcome": "correct", "text": f"so it goes on {HOSTILE}"}] if right else [],
        "log": HOSTILE,
    }


def page_of(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps(row(index)) + "\n" for index in range(count)))
    return write_inspection(path)[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(tmp_path_factory.mktemp("inspect") / "small.jsonl", 30)


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_an_opened_intervention_fits_every_width(browser: Browser, small: Path, width: int):
    with opened(browser, small, width) as page:
        boxes = [figure.bounding_box() for figure in page.locator("svg").all()]
        assert len(boxes) == 3
        for box in boxes:
            assert box is not None and box["width"] > 200 and box["x"] >= 0 and box["x"] + box["width"] <= width
        item = page.locator("#i1")
        assert not item.locator(".inside").is_visible()
        item.locator("summary").first.click()
        assert item.locator("del").inner_text().startswith("step 12 of attempt 0")
        assert item.locator("ins").inner_text() == "corrected 0"
        assert item.get_by_text("first error", exact=True).first.is_visible()
        for fold in item.locator(".inside summary").all():
            fold.click()
        assert item.get_by_text("so it goes on").is_visible() and item.get_by_text("⟨U+202E⟩").last.is_visible()
        assert item.get_by_text("step 30 of attempt 0").is_visible()
        assert overflow(page) <= 0


def test_the_list_narrows_down(browser: Browser, small: Path):
    with opened(browser, small, DESKTOP) as page:

        def shown() -> int:
            count = page.locator(".item:visible").count()
            assert page.locator("#shown").inner_text() == f"{count} shown"
            return count

        assert shown() == 30
        page.select_option("#status", "refused")
        assert shown() == 10
        page.fill("#problem", "p3")
        assert shown() == 1 and page.locator(".problem:visible").count() == 1
        page.select_option("#status", "")
        assert shown() == 3
        page.fill("#problem", "")
        page.select_option("#reason", "leak")
        page.fill("#words", "CORRECTED 2")  # those that leak: 2, 20, 23, 26, 29
        assert shown() == 5
        page.select_option("#reason", "")
        page.fill("#words", "question 4?")
        assert shown() == 3
        page.fill("#words", "nowhere to be found")
        assert shown() == 0
        page.fill("#words", "")
        page.get_by_role("button", name="open all").click()
        assert page.locator(".inside:visible").count() == 30
        page.get_by_role("button", name="close all").click()
        assert page.locator(".inside:visible").count() == 0


def test_without_script_everything_is_there_to_read(browser: Browser, small: Path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(small.as_uri())
    assert page.locator(".item").count() == 30 and not page.locator("#filter").is_visible()
    page.locator("#i30 > summary").click()
    assert page.locator("#i30 .inside").is_visible()
    context.close()


def test_three_thousand_interventions_stay_usable(browser: Browser, tmp_path: Path):
    path = page_of(tmp_path / "many.jsonl", 3000)
    assert path.stat().st_size < 30e6
    with opened(browser, path, DESKTOP) as page:
        page.fill("#problem", "p999")
        page.locator(".item:visible > summary").last.click()
        assert page.locator(".inside:visible ins").inner_text() == "corrected 2999"
        page.fill("#problem", "")
        page.fill("#words", "corrected 1234")
        assert page.locator("#shown").inner_text() == "1 shown"
        assert overflow(page) <= 0
