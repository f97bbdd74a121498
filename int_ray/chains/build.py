"""Rebuilds everything that ships in `data/`: `python -m int_ray.chains.build`. Deterministic on one machine."""

from __future__ import annotations

import argparse
import json
import platform
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
import transformers
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from int_ray.chains import pretrain, sampler
from int_ray.chains.compare import draw_item
from int_ray.chains.tokenizer import build_tokenizer
from int_ray.chains.world import FLAWS, Chain, draw_problem_chain
from int_ray.types import Problem

DATA = Path(__file__).parent / "data"
THREADS = 2  # another count rounds sums differently and so builds another model
SEEDS = {"pretrain": 0, "problems": 1, "sampling": 2, "compare": 3, "easy_train": 4}
SET_SIZE = 64
EASY_TRAIN_SIZE = 256
HARD_ROLLOUTS = 128  # a problem is hard when none of so many is right
MEASURED_ROLLOUTS = 32
COMPARE_ITEMS = 512
CHUNK = 8  # problems sampled at once


@dataclass(frozen=True, slots=True)
class Base:
    """The base model with its tokenizer, and where its measurements report progress."""

    model: Qwen3ForCausalLM
    tokenizer: PreTrainedTokenizerFast
    progress: Progress

    def count_right(self, problems: Sequence[Problem], n: int) -> list[int]:
        """How many of `n` rollouts are right, per problem."""
        return sampler.count_right(self.model, self.tokenizer, problems, n)

    def pass_at_1(self, name: str, problems: Sequence[Problem]) -> float:
        """Share of right rollouts, freshly sampled."""
        task = self.progress.add_task(f"measure {name}", total=len(problems))
        right = 0
        for start in range(0, len(problems), CHUNK):
            right += sum(self.count_right(problems[start : start + CHUNK], MEASURED_ROLLOUTS))
            self.progress.advance(task, CHUNK)
        return right / len(problems) / MEASURED_ROLLOUTS

    def compare_accuracy(self) -> float:
        """Share of held-out compare items with location and step right, sampled once."""
        rng = random.Random(SEEDS["compare"])
        prompts, replies = zip(*(draw_item(rng) for _ in range(COMPARE_ITEMS)), strict=True)
        answers = sampler.sample(self.model, self.tokenizer, prompts, 1)
        return sum(answer == [reply] for answer, reply in zip(answers, replies, strict=True)) / COMPARE_ITEMS


def draw_new_chains(rng: random.Random, num_flawed: range, taken: set[str]) -> Iterator[Chain]:
    """Endless chains whose right solutions use as many flawed facts as `num_flawed` allows. Adds to `taken`."""
    while True:
        chain = draw_problem_chain(rng, num_flawed)
        if chain.question not in taken:
            taken.add(chain.question)
            yield chain


def draw_hard(base: Base, name: str, chains: Iterator[Chain]) -> list[Problem]:
    """The first chains that the base never solves, as problems."""
    task = base.progress.add_task(f"choose {name}", total=SET_SIZE)
    hard: list[Chain] = []
    while len(hard) < SET_SIZE:
        candidates = [next(chains) for _ in range(CHUNK)]
        counts = base.count_right([chain.problem("candidate") for chain in candidates], HARD_ROLLOUTS)
        hard += [chain for chain, right in zip(candidates, counts, strict=True) if right == 0]
        base.progress.update(task, completed=min(len(hard), SET_SIZE))
    return as_problems(name, hard[:SET_SIZE])


def draw_sets(base: Base) -> dict[str, list[Problem]]:
    """The problem sets; no question appears twice."""
    rng = random.Random(SEEDS["problems"])
    taken: set[str] = set()
    hard, easy = draw_new_chains(rng, range(1, 3), taken), draw_new_chains(rng, range(1), taken)
    easy_train = draw_new_chains(random.Random(SEEDS["easy_train"]), range(1), taken)
    return {
        "hard_train": draw_hard(base, "hard_train", hard),
        "hard_test": draw_hard(base, "hard_test", hard),
        "easy": as_problems("easy", [next(easy) for _ in range(SET_SIZE)]),
        "easy_train": as_problems("easy_train", [next(easy_train) for _ in range(EASY_TRAIN_SIZE)]),
    }


def as_problems(name: str, chains: Sequence[Chain]) -> list[Problem]:
    """Problems named after their set, such as `easy-07`."""
    return [chain.problem(f"{name}-{index:02d}") for index, chain in enumerate(chains)]


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """One JSON object a line: id, problem, answer, solution."""
    rows = [{"id": p.id, "problem": p.question, "answer": p.answer, "solution": p.solution} for p in problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")


def train_base(progress: Progress) -> Base:
    """Pretrains the base model."""
    tokenizer = build_tokenizer()
    task = progress.add_task("pretrain", total=pretrain.ITERATIONS)

    def advance(loss: float) -> None:
        progress.update(task, advance=1, description=f"pretrain (loss {loss:.3f})")

    return Base(pretrain.pretrain(tokenizer, SEEDS["pretrain"], advance), tokenizer, progress)


def describe(base: Base, sets: dict[str, list[Problem]], folder: Path) -> dict[str, object]:
    """What BUILD.json holds: how the data came about, what the base can do, and the hash of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "BUILD.json")
    return {
        "seeds": SEEDS,
        "threads": THREADS,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "flawed_facts": len(FLAWS),
        "parameters": base.model.num_parameters(),
        "pretrain_iterations": pretrain.ITERATIONS,
        "hard_means": f"0 of {HARD_ROLLOUTS} rollouts right, T {sampler.TEMPERATURE}, top-p {sampler.TOP_P}",
        "base_pass_at_1": {name: base.pass_at_1(name, problems) for name, problems in sets.items()},
        "base_compare_accuracy": base.compare_accuracy(),
        "sha256": {file.relative_to(folder).as_posix(): sha256(file.read_bytes()).hexdigest() for file in files},
    }


def build(folder: Path, progress: Progress) -> None:
    """Writes the base model, the problem sets and BUILD.json. About twelve minutes on two cores."""
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    base = train_base(progress)
    torch.manual_seed(SEEDS["sampling"])
    sets = draw_sets(base)
    base.model.save_pretrained(folder / "base")
    build_tokenizer().save_pretrained(folder / "base")  # a new one: the used one would save its padding
    for name, problems in sets.items():
        write_problems(folder / f"{name}.jsonl", problems)
    (folder / "BUILD.json").write_text(json.dumps(describe(base, sets, folder), indent=2) + "\n", encoding="ascii")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m int_ray.chains.build", description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA, metavar="FOLDER", help="default: %(default)s")
    columns = TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as progress:
        build(parser.parse_args().out, progress)


if __name__ == "__main__":
    main()
