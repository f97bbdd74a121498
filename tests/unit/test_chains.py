"""The laptop world: its arithmetic, the compare task, and the files that ship."""

from __future__ import annotations

import hashlib
import json
import random
import re

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from int_ray.chains import world
from int_ray.chains.build import DATA, HARD_ROLLOUTS, SET_SIZE, draw_new_chains
from int_ray.chains.compare import compare_prompt, compare_reply, draw_item, parse_reply
from int_ray.chains.pretrain import draw_solution, encode
from int_ray.chains.sampler import count_right, sample
from int_ray.chains.tokenizer import build_tokenizer
from int_ray.types import OracleReply, Problem, Proposal

SETS = ("hard_train", "hard_test", "easy")
FLAWED = next(iter(world.FLAWS))  # (units digit, operand)


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


def solve(question: str) -> list[str]:
    """Steps by arithmetic of this test's own, from the question's text."""
    value, *operands = map(int, re.findall(r"[+-]?\d+", question))
    steps = []
    for operand in operands:
        steps.append(f"{value}{operand:+d}={(value + operand) % 100}")
        value = (value + operand) % 100
    return steps


def test_a_chain_has_question_steps_and_answer() -> None:
    problem = world.Chain(47, (6, -9, 60)).problem("p")
    assert problem == Problem("p", "47+6-9+60=?", "4", "47+6=53\n\n53-9=44\n\n44+60=4\n\n\\boxed{4}")


def test_values_wrap_around_below_zero() -> None:
    assert world.Chain(5, (-9,)).steps() == ["5-9=96"]


def test_a_flawed_fact_is_off_by_one_to_three_and_the_error_travels() -> None:
    digit, operand = FLAWED
    chain = world.Chain(50 + digit, (operand, 2, 3))
    first = world.misadd(50 + digit, operand)
    assert (first - world.add(50 + digit, operand)) % 100 in (1, 2, 3)
    assert chain.steps(world.misadd)[1].startswith(f"{first}+2=")


def test_thirty_of_all_facts_are_flawed() -> None:
    facts = [(digit, operand) for digit in range(10) for operand in world.OPERANDS]
    flawed = [fact for fact in facts if world.misadd(*fact) != world.add(*fact)]
    assert (len(facts), len(flawed)) == (160, 30)


def test_flawed_facts_are_counted_along_the_right_solution() -> None:
    digit, operand = FLAWED
    assert world.Chain(digit, (operand,)).num_flawed == 1
    easy = next(draw_new_chains(random.Random(0), range(1), set()))
    assert easy.steps(world.misadd) == easy.steps()


def test_drawn_chains_never_repeat() -> None:
    first = next(draw_new_chains(random.Random(0), range(1, 3), set())).question
    again = next(draw_new_chains(random.Random(0), range(1, 3), {first})).question
    assert again != first


def test_pretraining_solutions_take_the_flawed_result() -> None:
    rng = random.Random(0)
    pairs = [draw_solution(rng) for _ in range(200)]
    right = sum(solution.split("\n\n")[:-1] == solve(question) for question, solution in pairs)
    assert 60 < right < 140  # a chain of 2 to 6 steps meets no flawed fact with probability 0.46


def test_loss_weights_cover_attempts_and_responses_but_no_padding() -> None:
    tokenizer = build_tokenizer()
    ids, weights = encode(tokenizer, [("1+2=?", "3"), ("1:4|5\n2:6|6", "1:4")])
    weighted = {
        weight: [tokenizer.decode(row[kept]) for row, kept in zip(ids, weights == weight, strict=True)]
        for weight in (1, 10)
    }
    assert weighted == {1: ["", "|5|6<|end|>"], 10: ["<|assistant|>3<|end|>", "<|assistant|>1:4<|end|>"]}


def test_compare_prompt_shows_steps_side_by_side_and_hides_the_answer() -> None:
    prompt = compare_prompt("47+6=53\n\n53-9=44\n\n\\boxed{44}", ["47+6=53\n\n", "53 - 9=46\n\n", "\\boxed{46}"])
    assert prompt == "1:47+6=53|47+6=53\n2:53-9=44|53-9=46"


def test_compare_prompt_of_a_shorter_attempt_leaves_gaps() -> None:
    assert compare_prompt("4+6=10\n\n10-9=1\n\n\\boxed{1}", ["4+6=10"]) == "1:4+6=10|4+6=10\n2:10-9=1|"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("1=2:53-9=44", OracleReply((Proposal(2, "53-9=44"),))),
        (" 12:53-9=44\n", OracleReply((Proposal(12, "53-9=44"),))),
        ("1=2=3=", OracleReply(failure="no_error")),
        ("", OracleReply(failure="unparsable_reply")),
        ("none", OracleReply(failure="unparsable_reply")),
        ("1=2:53-9=44 and 3:44+1=45", OracleReply(failure="unparsable_reply")),
        ("2:\\boxed{44}", OracleReply(failure="unparsable_reply")),
    ],
)
def test_compare_replies_are_parsed(reply: str, expected: OracleReply) -> None:
    assert parse_reply(reply) == expected


@pytest.mark.parametrize(
    ("steps", "reply"), [(["a", "b", "c"], "1=2=3="), (["a", "x", "y"], "1=2:b"), (["x", "y", "z"], "1:a")]
)
def test_compare_replies_end_with_the_first_wrong_step(steps: list[str], reply: str) -> None:
    assert compare_reply(["a", "b", "c"], steps) == reply


def test_compare_items_hold_errors_of_all_kinds() -> None:
    rng = random.Random(0)
    items = [draw_item(rng) for _ in range(200)]
    for prompt, reply in items:
        reference, attempt = zip(*(line.partition(":")[2].split("|") for line in prompt.split("\n")), strict=True)
        assert reply == compare_reply(reference, attempt)
    right = sum(":" not in reply for _, reply in items)
    assert 40 < right < 120  # half have no slip; of these half follow the flawed facts


def test_shipped_files_are_the_ones_that_were_built() -> None:
    hashes = json.loads((DATA / "BUILD.json").read_text())["sha256"]
    files = {path.relative_to(DATA).as_posix(): path for path in DATA.rglob("*") if path.is_file()}
    del files["BUILD.json"]
    assert hashes == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert sum(path.stat().st_size for path in files.values()) < 4_000_000


def test_shipped_figures_make_a_wall() -> None:
    built = json.loads((DATA / "BUILD.json").read_text())
    assert built["base_pass_at_1"]["hard_train"] == built["base_pass_at_1"]["hard_test"] == 0
    assert built["base_pass_at_1"]["easy"] >= 0.97
    assert built["base_compare_accuracy"] >= 0.9
    assert str(HARD_ROLLOUTS) in built["hard_means"]


def test_shipped_sets_are_whole_and_disjoint() -> None:
    sets = {name: rows(name) for name in SETS}
    assert [len(sets[name]) for name in SETS] == [SET_SIZE] * 3
    everything = [row for name in SETS for row in sets[name]]
    assert len({row["problem"] for row in everything}) == len({row["id"] for row in everything}) == 3 * SET_SIZE


@pytest.mark.parametrize("name", SETS)
def test_shipped_answers_are_right(name: str) -> None:
    for row in rows(name):
        steps = solve(row["problem"])
        assert row["answer"] == steps[-1].split("=")[1]
        assert row["solution"] == "\n\n".join([*steps, f"\\boxed{{{row['answer']}}}"])


@pytest.mark.parametrize(("name", "expected"), [("hard_train", {1, 2}), ("hard_test", {1, 2}), ("easy", {0})])
def test_shipped_sets_use_the_stated_number_of_flawed_facts(name: str, expected: set[int]) -> None:
    def count(question: str) -> int:
        value, *operands = map(int, re.findall(r"[+-]?\d+", question))
        return world.Chain(value, tuple(operands)).num_flawed

    assert {count(row["problem"]) for row in rows(name)} == expected


def test_shipped_base_solves_easy_and_fails_hard() -> None:
    torch.set_num_threads(1)  # threads that wait for each other make so small a model a hundred times slower
    model = Qwen3ForCausalLM.from_pretrained(DATA / "base")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(DATA / "base")
    torch.manual_seed(0)
    for name, low, high in (("easy", 28, 32), ("hard_train", 0, 0)):
        problems = [Problem(row["id"], row["problem"], row["answer"]) for row in rows(name)[:8]]
        assert low <= sum(count_right(model, tokenizer, problems, 4)) <= high
    assert sample(model, tokenizer, ["1:4+5=9|4+5=9\n2:9+2=11|9+2=31"], 1) == [["1=2:9+2=11"]]
