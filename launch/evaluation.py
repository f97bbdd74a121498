"""`int-ray evaluate`: pass@k of one or several checkpoints on every set of evaluate.sets. Nothing is trained."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module

from rich.console import Console
from rich.table import Table
from rich.text import Text

from int_ray.config import Config
from int_ray.config_checks import engine_gpus
from int_ray.config_file import ConfigError, dump_config, load_config
from int_ray.decoding import checkpoints, decoding
from int_ray.evaluation_inputs import EvaluationInputs, check_evaluation, load_evaluation
from int_ray.evaluation_results import Results, headings, rows_by_set
from int_ray.journal import read_json_lines
from int_ray.report.evaluation_page import write_evaluation_report
from int_ray.result_folder import ResultFolder
from launch.console import ConsoleProgress
from launch.preparation import check_folder, import_plugins, journalled_end, report_quarantined, show_settings

WITHOUT_TRAINING = ("schedule=never", "problems.mixed=null", "rollout.mixed=0", "patch.interventions=null")
# What is sampled already depends on these, and on what `check_same` compares.
FIXED = (
    "model.revision",
    "model.dtype",
    "model.max_length",
    "model.chat_template_kwargs",
    "problems.reward",
    "evaluate.n",
    "run.seed",
)
BEGINS = "evaluating"


def run_evaluation(
    path: str, overrides: Sequence[str], *, dry_run: bool, resumed: bool, plugins: Sequence[str] = ()
) -> None:
    """Raises ConfigError for what the user can fix, RunError and KeyboardInterrupt for what `--resume` goes on from."""
    console = Console()
    import_plugins(plugins)
    config = load_config(path, [*overrides, *WITHOUT_TRAINING])
    check_folder(config, BEGINS, FIXED, resumed=resumed)
    check_same(config)
    if dry_run:
        show_settings(config, plan(config), check_evaluation(config), console)
        return
    with ConsoleProgress(console) as progress:
        progress.say(f"Evaluating, without training; everything is written to {config.run.folder}")
        progress.say(f"Decoding: {decoding(config)}")
        progress.say(f"Checking the checkpoints and the problem sets of {path}")
        inputs = load_evaluation(config)
        import_module("actors.evaluator_assembly")  # seconds: here, where a Ctrl-C ends the process at once
        results = asyncio.run(_evaluate(config, inputs, progress))
    show_results(results, console)
    report = write_evaluation_report(config.run.folder)
    for line in (f"Results: {config.run.folder}/results.json and .md", f"Report: {report.resolve().as_uri()}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def check_same(config: Config) -> None:
    """Raises ConfigError where a resumed evaluation would mix the rollouts of two checkpoints, or two decodings."""
    journal = config.run.folder / "journal.jsonl"
    events = read_json_lines(journal) if journal.exists() else []
    mistakes = set()
    for event in (event for event in events if event["event"] == BEGINS):
        if event["decoding"] != asdict(decoding(config)):
            mistakes.add(f"evaluate.decoding: {decoding(config)}, but the evaluation to resume has {event['decoding']}")
        for name, path in checkpoints(config).items():
            was = event["checkpoints"].get(name, path)
            if was != path:
                mistakes.add(f"evaluate.checkpoints.{name}: {path}, but in the evaluation to resume it is {was}")
    if mistakes:
        raise ConfigError([f"{line}; keep it, or choose another run.folder" for line in sorted(mistakes)])


async def _evaluate(config: Config, inputs: EvaluationInputs, progress: ConsoleProgress) -> Results:
    from actors.evaluator_assembly import assemble_evaluator

    folder = ResultFolder(config.run.folder)
    (folder.path / "config.yaml").write_text(dump_config(config))
    folder.journal.write(BEGINS, checkpoints=checkpoints(config), decoding=asdict(decoding(config)))
    sets = {name: loaded.problems for name, loaded in inputs.sets.items()}
    progress.say("Problems: " + ", ".join(f"{name} {len(problems)}" for name, problems in sets.items()))
    report_quarantined(inputs.sets, folder.path, progress)
    with journalled_end(folder, progress):
        async with assemble_evaluator(config, inputs.tokenizers, sets, folder, progress) as evaluator:
            return await evaluator.run()


def plan(config: Config) -> list[tuple[str, str]]:
    """What evaluating takes."""
    return [
        ("checkpoints", ", ".join(f"{name} ({path})" for name, path in checkpoints(config).items())),
        ("problem sets", ", ".join(config.evaluate.sets)),
        ("rollouts per problem", str(config.evaluate.n)),
        ("decoding", str(decoding(config))),
        ("rollout engines", f"{config.rollout.num_engines} x {config.rollout.tensor_parallel_size} device(s)"),
        ("GPUs", str(engine_gpus(config))),
    ]


def show_results(results: Results, console: Console) -> None:
    """One row for each set and checkpoint, and the averages; what a narrow terminal has no room for is in the files."""
    names = headings(results)
    shown = [place for place, name in enumerate(names) if name not in ("problems", "unsolved", "not graded")]
    table = Table(*(names[place] for place in shown), title="Evaluation (95% bootstrap intervals over problems)")
    for rows in rows_by_set(results, digits=2).values():
        for row in rows:
            table.add_row(*(Text(row[place].replace(" [", "\n[")) for place in shown))
        table.add_section()
    console.print(table)
