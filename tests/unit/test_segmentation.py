"""Steps on token ids: lossless for any tokens, cut where the text says so."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_ray.chains.tokenizer import build_tokenizer
from int_ray.prompts import decode_ids
from int_ray.segmentation import MAX_HELD_TOKENS, Segmenter, segment, token_pieces

TOKENIZER = build_tokenizer()
decode = partial(decode_ids, TOKENIZER)
ANY_IDS = st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=60)
KEYWORDS = ("wait", "maybe")


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def texts(text: str, thinking_end: str | None = None) -> list[str]:
    ids = np.array(ids_of(text), np.int32)
    return [step.text for step in Segmenter(decode, KEYWORDS, thinking_end).steps(ids)]


@given(ANY_IDS, st.sampled_from([None, "</think>", "A"]))
def test_steps_hold_every_token_once_whatever_the_ids(ids: list[int], thinking_end: str | None) -> None:
    steps = Segmenter(decode, KEYWORDS, thinking_end).steps(np.array(ids, np.int32))
    assert [token for step in steps for token in ids[step.start : step.end]] == ids
    assert all(step.start < step.end for step in steps)
    assert all(step.replaceable for step in steps[:-1])


@given(st.text(max_size=40))
def test_pieces_of_valid_text_add_up_to_it(text: str) -> None:
    pieces = token_pieces(ids_of(text), decode)
    assert "".join(pieces) == text
    assert len(pieces) == len(ids_of(text))


@given(ANY_IDS)
def test_pieces_of_any_ids_lose_no_readable_text(ids: list[int]) -> None:
    pieces = token_pieces(ids, decode)
    assert "".join(pieces).replace("\ufffd", "") == decode(ids).replace("\ufffd", "")


@given(st.lists(st.sampled_from(["\u20ac", "\U0001f600", "x", "\n\n", "wait "]), min_size=1, max_size=12).map("".join))
def test_steps_of_multi_byte_text_read_as_the_text(text: str) -> None:
    assert "".join(texts(text)) == text


def test_a_character_belongs_to_the_token_that_completes_it() -> None:
    assert token_pieces(ids_of("a\u20acb"), decode) == ["a", "", "", "\u20ac", "b"]


def test_a_token_that_completes_one_character_and_starts_the_next_gets_the_first_one() -> None:
    tokens = [b"\xe4", b"\xb8\xad\xe5", b"\x9b\xbd\xe4", b"\xb8\xad"] + [b"\xe5", b"\x9b\xbd\xe5"] * 20
    pieces = token_pieces(range(len(tokens)), lambda ids: b"".join(tokens[i] for i in ids).decode(errors="replace"))
    assert pieces[:4] == ["", "\u4e2d", "\u56fd", "\u4e2d"]


def test_chinese_without_a_clean_token_boundary_is_not_lost_beyond_the_window() -> None:
    tokens = [b"\xe4", *[b"\xb8\xad\xe4"] * 50, b"\xb8\xad"]
    pieces = token_pieces(range(len(tokens)), lambda ids: b"".join(tokens[i] for i in ids).decode(errors="replace"))
    assert pieces == ["", *["\u4e2d"] * 51]


def test_a_space_that_the_tokenizer_drops_at_the_start_is_kept_inside() -> None:
    tokens = ["_so", "_Wait", ",", "_no"]
    decoded = partial(map, tokens.__getitem__)
    pieces = token_pieces(range(4), lambda ids: "".join(decoded(ids)).replace("_", " ").removeprefix(" "))
    assert pieces == ["so", " Wait", ",", " no"]


def test_byte_fallback_tokens_of_a_long_run_are_read() -> None:
    data = "\u20ac\U0001f600\u4e2d".encode() * 6

    def decode_run(ids: range) -> str:  # as the tokenizers library does: one bad byte spoils its whole run
        run = bytes(data[i] for i in ids)
        try:
            return run.decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(run)

    assert "".join(token_pieces(range(len(data)), decode_run)) == data.decode()


def test_invalid_bytes_never_grow_the_window() -> None:
    widths = []

    def watched(ids: list[int]) -> str:
        widths.append(len(ids))
        return bytes(ids).decode(errors="replace")

    pieces = token_pieces([0xFF] * 500 + [65], watched)
    assert max(widths) <= 2 * MAX_HELD_TOKENS
    assert "".join(pieces) == "\ufffd" * 500 + "A"


def test_a_step_ends_after_a_run_of_blank_lines() -> None:
    assert texts("12+5=17\n\n \n\t\n  17-3=14\nso\n\n14") == ["12+5=17\n\n \n\t\n", "  17-3=14\nso\n\n", "14"]


def test_a_step_starts_before_a_keyword_with_the_blanks_before_it() -> None:
    assert texts("so 3. Wait, 4\n  MAYBE 5") == ["so 3.", " Wait, 4\n", "  MAYBE 5"]


def test_keywords_are_whole_words() -> None:
    assert texts("await the waiting maybes") == ["await the waiting maybes"]


def test_a_keyword_after_a_blank_line_is_one_boundary() -> None:
    assert texts("a\n\nWait b") == ["a\n\n", "Wait b"]


def test_no_keywords_means_blank_lines_only() -> None:
    assert len(segment(["a", " wait", "\n\n", "b"], ())) == 2


@pytest.mark.parametrize(
    ("pieces", "spans"),
    [
        (["a", ".\n\nb", "c"], [(0, 2), (2, 3)]),  # the blank line is inside token 1
        (["a", ". wait", " b"], [(0, 2), (2, 3)]),  # so is the start of the keyword
        (["a", "\n", "\nb", "\n\n", "c"], [(0, 4), (4, 5)]),
        (["a\n\nb", "\n\n", "c"], [(0, 2), (2, 3)]),  # white space alone is no step
    ],
)
def test_a_boundary_inside_a_token_belongs_to_the_earlier_step(pieces: list[str], spans: list[tuple[int, int]]) -> None:
    assert [(step.start, step.end) for step in segment(pieces, KEYWORDS)] == spans


def test_everything_after_the_thinking_part_is_one_step_that_cannot_be_replaced() -> None:
    steps = segment(
        ["<think>", "\n\n", "a", "\n\n", "b", "</think>", "\n\n", "wait", "\n\n", "d"], KEYWORDS, "</think>"
    )
    assert [(step.text, step.replaceable) for step in steps] == [
        ("<think>\n\na\n\n", True),
        ("b", True),
        ("</think>\n\nwait\n\nd", False),
    ]


def test_an_empty_thinking_part_leaves_nothing_to_replace() -> None:
    steps = segment(["<think>", "\n\n", "</think>", "\n\n", "d", "<|end|>"], KEYWORDS, "</think>")
    assert [(step.end, step.text, step.replaceable) for step in steps] == [(6, "<think>\n\n</think>\n\nd", False)]


def test_an_end_token_is_no_step_and_no_text() -> None:
    steps = segment(["a", "\n\n", "b", "\n\n", "<|end|>"], KEYWORDS)
    assert [(step.start, step.end, step.text) for step in steps] == [(0, 2, "a\n\n"), (2, 5, "b\n\n")]


@pytest.mark.parametrize("text", ["\n\n", "  ", "<|end|>"])
def test_a_response_that_says_nothing_is_one_step(text: str) -> None:
    assert len(texts(text)) == 1


def test_no_tokens_no_steps() -> None:
    assert segment([], KEYWORDS) == ()


def test_hostile_white_space_takes_linear_time() -> None:
    text = "\n" + " " * 100_000 + "wait" + "\t" * 100_000
    assert len(segment(list(text), KEYWORDS)) == 1
