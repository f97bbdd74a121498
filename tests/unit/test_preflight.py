from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from int_ray.config import Config, ModelConfig
from int_ray.config_file import ConfigError, parse_config
from int_ray.model_checks import require_trainable
from int_ray.preflight import is_local, length_check, load_inputs, load_tokenizer
from int_ray.prompts import encode_prompt
from int_ray.types import Problem
from tests.factories import tiny_checkpoint

ROWS = [{"problem": "1+2=?", "answer": "3"}, {"problem": "1+2=?"}, {"problem": "1+2" * 60, "answer": "3"}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def config(folder: Path, model: Path, *, max_length: int = 128, **changes: object) -> Config:
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return parse_config(
        {
            "schedule": "never",
            "model": {"path": str(model), "dtype": "float32", "max_length": max_length},
            "problems": {"train": str(data), "reward": "exact"},
            "rollout": {"max_tokens": 64, "batch_size": 1},
            "reinforce": {"mini_batch_size": 1},
            "learner": {"device": "cpu", "weight_sync": "shm"},
            "run": {"folder": "unused"},
        }
        | changes
    )


def mistakes(settings: Config) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_inputs(settings)
    return caught.value.problems


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_good_rows_are_loaded_and_bad_ones_quarantined_with_reasons(tmp_path: Path, model: Path):
    inputs = load_inputs(config(tmp_path, model))
    assert [problem.question for problem in inputs.problems.problems] == ["1+2=?"]
    assert [row.row for row in inputs.problems.quarantined] == [2, 3]
    assert "'answer' is missing" in inputs.problems.quarantined[0].reason
    assert "too long" in inputs.problems.quarantined[1].reason


def test_a_folder_that_is_no_model(tmp_path: Path):
    (line,) = mistakes(config(tmp_path, tmp_path))
    assert line == f"model.path: {tmp_path} is not a model folder: it has no config.json"


def test_a_model_without_a_tokenizer(tmp_path: Path, model: Path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    (line,) = mistakes(config(tmp_path, model))
    assert line.startswith(f"model.path: no tokenizer could be loaded from {model}")


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", unreachable)
    with pytest.raises(ConfigError) as failure:
        load_tokenizer(ModelConfig(path="somebody/some-model", dtype="float32", max_length=64))
    (line,) = failure.value.problems
    assert "set the path to a local folder" in line and line.endswith("(We couldn't connect to the hub.)")


def test_a_tokenizer_without_a_chat_template(tmp_path: Path, model: Path):
    (model / "chat_template.jinja").unlink()
    (line,) = mistakes(config(tmp_path, model))
    assert "has no chat template; add chat_template.jinja" in line


def test_a_head_size_that_the_cpu_engine_does_not_support(tmp_path: Path, model: Path):
    edit(model / "config.json", head_dim=40)
    (line,) = mistakes(config(tmp_path, model))
    assert "attention heads of 40; the CPU engine supports 32, 64" in line


def test_a_context_longer_than_the_model_has(tmp_path: Path, model: Path):
    (line,) = mistakes(config(tmp_path, model, max_length=1024))
    assert line == "model.max_length: 1024 exceeds the model's own limit of 512"


def test_a_model_that_can_be_served_but_not_trained(tmp_path: Path, model: Path):
    settings = config(tmp_path, model)
    require_trainable(settings)
    gemma = {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "sliding_window": 64}
    kinds = ["sliding_attention", "full_attention"]
    edit(model / "config.json", **gemma, layer_types=kinds, final_logit_softcapping=30.0, attn_logit_softcapping=50.0)
    load_inputs(settings)
    with pytest.raises(ConfigError) as caught:
        require_trainable(settings)
    assert caught.value.problems == (
        "model.path: gemma2 has attn_logit_softcapping, sliding_attention; the learner knows full causal attention "
        "only",
        "model.path: gemma2 has final_logit_softcapping; the learner knows logits without changes only",
    )


def test_every_unusable_source_is_reported(tmp_path: Path, model: Path):
    (tmp_path / "empty.jsonl").touch()
    sets = {"a": str(tmp_path / "absent.jsonl"), "b": str(tmp_path / "empty.jsonl")}
    lines = mistakes(config(tmp_path, model, evaluate={"sets": sets}))
    assert [line.split(": ")[0] for line in lines] == ["evaluate.sets.a", "evaluate.sets.b"]


def test_data_that_the_run_cannot_use_as_configured(tmp_path: Path, model: Path):
    lines = mistakes(config(tmp_path, model, schedule="plateau", rollout={"max_tokens": 64, "batch_size": 2}))
    assert lines[0].startswith("rollout.batch_size: 2 exceeds the 1 usable problems")
    assert lines[1].startswith("problems.columns.solution: no row") and "oracle.kind = exact" in lines[1]


def oracle(folder: Path, model: Path, schedule: str = "plateau", **settings: object) -> Config:
    run = {"folder": "unused", "ray_address": "auto"}
    return config(folder, model, schedule=schedule, oracle=settings, run=run)


def test_a_model_is_demanded_also_where_the_keys_are_elsewhere(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (line,) = mistakes(oracle(tmp_path, model, kind="openai"))
    assert line == "oracle.openai.model: required for this kind of oracle, but not set"


def test_a_password_in_an_address_is_refused_also_where_no_oracle_is_asked(tmp_path: Path, model: Path):
    (line,) = mistakes(oracle(tmp_path, model, "never", openai={"base_url": "https://me:canary@gateway/v1"}))
    assert line.startswith("oracle.openai.base_url: ") and "canary" not in line


def test_model_and_data_mistakes_come_together(tmp_path: Path, model: Path):
    (model / "model.safetensors").unlink()
    lines = mistakes(config(tmp_path, model, evaluate={"sets": {"a": str(tmp_path / "absent.jsonl")}}))
    assert "has no *.safetensors" in lines[0] and lines[1].startswith("evaluate.sets.a: ")


def test_what_counts_as_a_hub_name(tmp_path: Path):
    assert not is_local("Qwen/Qwen3-4B-Instruct-2507")
    assert is_local("data/absent.jsonl") and is_local("./a/b") and is_local(str(tmp_path)) and is_local("absent")


def test_training_data_is_cleared_of_what_the_evaluation_asks(tmp_path: Path, model: Path):
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps({"problem": " 1 + 2 = ", "answer": "3"}) + "\n")
    (line,) = mistakes(config(tmp_path, model, evaluate={"sets": {"test": str(held_out)}}))
    assert "none of 1 problems is left" in line and "the same question as '1' of evaluate.sets.test" in line
    problems = {"train": str(tmp_path / "rows.jsonl"), "reward": "exact", "decontaminate": False}
    inputs = load_inputs(config(tmp_path, model, evaluate={"sets": {"test": str(held_out)}}, problems=problems))
    assert len(inputs.problems.problems) == 1


def test_an_evaluation_set_may_be_the_training_data_itself(tmp_path: Path, model: Path):
    train = str(tmp_path / "." / "rows.jsonl")
    inputs = load_inputs(config(tmp_path, model, evaluate={"sets": {"train_itself": train}}))
    assert inputs.problems.problems == inputs.evaluation_sets["train_itself"].problems


def test_long_questions_are_found_without_tokenizing_short_ones(tmp_path: Path, model: Path):
    settings = config(tmp_path, model)
    tokenizer = load_inputs(settings).tokenizer
    check = length_check(settings, tokenizer, settings.rollout.max_tokens)
    room = settings.model.max_length - settings.rollout.max_tokens
    for question in ("1" * length for length in range(1, 80)):
        prompt = encode_prompt(tokenizer, Problem("p", question, "1"), {})
        assert check(Problem("p", question, "1")) == (len(prompt) > room)
