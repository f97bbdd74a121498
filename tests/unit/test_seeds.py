"""Seeds: stable across processes, different for everything that names a group."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_ray.seeds import sample_seed
from int_ray.types import Purpose

NO_PREFIX = np.array([], np.int32)
BASE = (0, Purpose.TRAIN, 3, 2, "p7", NO_PREFIX, 0)


def test_seed_is_the_same_in_every_process() -> None:
    assert sample_seed(*BASE) == 6_516_840_933_190_805_810


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, 1), (1, Purpose.EVALUATE), (2, 4), (3, 3), (4, "p8"), (5, np.array([0], np.int32)), (6, 1)],
)
def test_every_part_of_the_name_changes_the_seed(position: int, value: object) -> None:
    other = list(BASE)
    other[position] = value
    assert sample_seed(*other) != sample_seed(*BASE)


def test_problem_id_and_prefix_do_not_run_into_each_other() -> None:
    prefix = np.array([0x22, 0], np.int32)
    assert sample_seed(0, Purpose.TRAIN, 0, 0, 'p"', NO_PREFIX) != sample_seed(0, Purpose.TRAIN, 0, 0, "p", prefix)


def test_prefix_dtype_does_not_matter() -> None:
    wide, narrow = np.array([5, 6], np.int64), np.array([5, 6], np.int32)
    assert sample_seed(*BASE[:5], wide) == sample_seed(*BASE[:5], narrow)


@given(st.integers(0, 2**40), st.integers(0, 1000), st.text(), st.lists(st.integers(0, 2**31 - 1), max_size=8))
def test_seed_fits_63_bits(run_seed: int, round_: int, problem_id: str, prefix: list[int]) -> None:
    seed = sample_seed(run_seed, Purpose.TRAIN, round_, 0, problem_id, np.array(prefix, np.int32))
    assert 0 <= seed < 2**63


def test_seeds_of_a_large_run_are_distinct() -> None:
    seeds = {sample_seed(0, Purpose.TRAIN, r, r, f"p{p}", NO_PREFIX) for r in range(100) for p in range(100)}
    assert len(seeds) == 10_000
