"""What tests of several folders share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults import TrainingRun


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A run that nothing happened to; others must end as it did."""
    from tests.faults import UNDISTURBED_ITERATIONS, undisturbed_run

    return undisturbed_run(tmp_path_factory.mktemp("undisturbed"), UNDISTURBED_ITERATIONS)
