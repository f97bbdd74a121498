"""Real FSDP2 over gloo: one and two ranks through Ray, and one rank in this process for what needs other settings."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.learner import Learner, LearnerError
from actors.learner_rank import LearnerRank, LearnerSettings
from int_ray.compute import trainer
from int_ray.compute.optimization import Optimization
from int_ray.compute.shards import read_shards
from int_ray.config import ModelConfig
from int_ray.training_config import LearnerConfig, OptimizerConfig, PatchConfig, PatchOptimizerConfig, ReinforceConfig
from int_ray.types import TrainingSample, Update
from tests.factories import tiny_checkpoint

SFT = PatchOptimizerConfig(learning_rate=1e-3, lr_schedule="cosine_with_min_lr", warmup_ratio=0.2)
RL = OptimizerConfig(learning_rate=3e-4, betas=(0.9, 0.99), lr_schedule="cosine_with_min_lr")
TWO_RANKS = {"num_ranks": 2, "micro_batch_tokens": 30, "activation_checkpointing": "selective", "head_chunk": 7}
Weights = dict[str, torch.Tensor]


def settings(checkpoint: Path, learner: Mapping[str, object] | None = None, **reinforce: object) -> LearnerSettings:
    options = {"kl_coef": 0.1, "entropy_coef": 0.01, "optimizer": RL} | reinforce
    learner_options = {"device": "cpu", "micro_batch_tokens": 1000, "deadline_s": 60, **(learner or {})}
    return LearnerSettings(
        model=ModelConfig(path=str(checkpoint), max_length=512, dtype="float32"),
        learner=LearnerConfig.model_validate(learner_options),
        patch=PatchConfig(optimizer=SFT),
        reinforce=ReinforceConfig.model_validate(options),
        temperature=0.6,
        reinforce_updates=10,
        seed=0,
    )


def samples(seed: int, count: int = 7) -> list[TrainingSample]:
    """Random sequences of 8 to 27 tokens, of which all but the first 3 to 6 are trained."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        length, prompt = random.integers(8, 28), random.integers(3, 7)
        mask = (np.arange(length) >= prompt).astype(np.uint8)
        token_ids = random.integers(5, 262, length).astype(np.int32)
        logprobs = (-5 * random.random(length) * mask).astype(np.float32)
        made.append(TrainingSample(token_ids, mask, float(random.normal()), logprobs))
    return made


def start(config: LearnerSettings) -> Iterator[Learner]:
    learner = asyncio.run(Learner.start(config))
    yield learner
    learner.close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def initial(one_rank: Learner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fresh learner saves: loading it resets one."""
    folder = tmp_path_factory.mktemp("initial")
    save(one_rank, folder)
    return folder


@pytest.fixture(scope="module")
def one_rank(ray_cluster: None, checkpoint: Path) -> Iterator[Learner]:
    yield from start(settings(checkpoint))


@pytest.fixture(scope="module")
def two_ranks(ray_cluster: None, checkpoint: Path) -> Iterator[Learner]:
    """Its micro-batches are small, too, one to three samples instead of all, and it recomputes activations."""
    yield from start(settings(checkpoint, TWO_RANKS))


def save(learner: Learner, folder: Path) -> None:
    async def whole() -> None:
        await learner.save(folder)
        await learner.saved(folder)

    asyncio.run(whole())


def weights(learner: Learner, folder: Path) -> Weights:
    folder.mkdir(exist_ok=True)
    save(learner, folder)
    return dict(read_shards(folder, "model"))


def run(learner: Learner, initial: Path, phase: str, batches: list[list[TrainingSample]]) -> Update:
    """One phase from the initial weights."""
    asyncio.run(learner.load(initial))
    return asyncio.run(learner.patch(batches) if phase == "patch" else learner.reinforce(batches))


def assert_same(ours: Weights, theirs: Weights, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("phase", ["patch", "reinforce"])
def test_ranks_and_micro_batches_do_not_change_the_update(
    phase: str, one_rank: Learner, two_ranks: Learner, initial: Path, tmp_path: Path
) -> None:
    batches = [samples(1), samples(2, count=1), samples(3, count=4)]  # the middle one leaves a rank without samples
    one, two = (run(learner, initial, phase, batches) for learner in (one_rank, two_ranks))
    assert one.num_updates == two.num_updates == 3
    assert two.metrics == pytest.approx(one.metrics, abs=1e-5)
    moved = weights(one_rank, tmp_path / "one")
    assert_same(moved, weights(two_ranks, tmp_path / "two"), 1e-5)
    assert any(
        (moved[name] - before).abs().max() > 2e-4 for name, before in load_file(initial / "model.safetensors").items()
    )


@pytest.mark.parametrize("phase", ["patch", "reinforce"])
def test_sample_order_does_not_change_the_update(phase: str, two_ranks: Learner, initial: Path, tmp_path: Path) -> None:
    batch = samples(1)
    first = run(two_ranks, initial, phase, [batch])
    before = weights(two_ranks, tmp_path / "first")
    second = run(two_ranks, initial, phase, [batch[::-1]])
    assert second.metrics == pytest.approx(first.metrics, abs=1e-5)
    assert_same(weights(two_ranks, tmp_path / "second"), before, 1e-5)


def test_patch_lowers_the_loss_and_trains_no_masked_token(one_rank: Learner, initial: Path, tmp_path: Path) -> None:
    batch = samples(1)
    update = run(one_rank, initial, "patch", [batch] * 5)
    assert update.num_updates == 5
    trained = weights(one_rank, tmp_path / "trained")
    again = asyncio.run(one_rank.patch([batch]))
    assert again.metrics["patch/loss"] < update.metrics["patch/loss"] - 0.1
    # An end token after what is cloned, outside the mask: nothing may change.
    ended = [
        TrainingSample(np.append(sample.token_ids, np.int32(1)), np.append(sample.loss_mask, np.uint8(0)))
        for sample in batch
    ]
    run(one_rank, initial, "patch", [ended] * 5)
    assert_same(weights(one_rank, tmp_path / "ended"), trained, 1e-6)


def test_patch_loss_is_the_mean_over_cloned_tokens(two_ranks: Learner, initial: Path) -> None:
    batch = samples(4)
    update = run(two_ranks, initial, "patch", [batch])
    model = AutoModelForCausalLM.from_pretrained(initial, dtype=torch.float32)
    losses = []
    for sample in batch:
        ids = torch.from_numpy(sample.token_ids.astype(np.int64))
        with torch.no_grad():
            logprobs = model(ids[None]).logits[0, :-1].log_softmax(1).gather(1, ids[1:, None])[:, 0]
        losses += (-logprobs[torch.from_numpy(sample.loss_mask[1:]).bool()]).tolist()
    assert update.metrics["patch/loss"] == pytest.approx(np.mean(losses), abs=1e-5)


def test_reinforce_metrics(two_ranks: Learner, initial: Path) -> None:
    metrics = run(two_ranks, initial, "reinforce", [samples(1)] * 8).metrics
    assert metrics["reinforce/clip_fraction"] > 0  # later updates are off the policy that sampled
    assert metrics["reinforce/approx_kl"] != 0
    assert 4 < metrics["reinforce/entropy"] < np.log(262)
    assert metrics["reinforce/rollout_mismatch"] > 1  # random log-probs here
    assert metrics["reinforce/grad_norm"] > 0
    single = run(two_ranks, initial, "reinforce", [samples(1)]).metrics
    assert single["reinforce/clip_fraction"] == single["reinforce/approx_kl"] == 0


def test_a_reset_learner_begins_anew_with_other_settings(
    two_ranks: Learner, checkpoint: Path, initial: Path, tmp_path: Path
) -> None:
    base = load_file(initial / "model.safetensors")
    run(two_ranks, initial, "patch", [samples(1)] * 2)
    asyncio.run(two_ranks.reinforce([samples(2)]))
    still = settings(checkpoint, TWO_RANKS, optimizer=OptimizerConfig(learning_rate=1e-12))
    asyncio.run(two_ranks.reset(still))
    assert_same(weights(two_ranks, tmp_path / "reset"), base, 0.0)
    assert not (tmp_path / "reset" / "learner" / "optimizer.safetensors").exists()
    asyncio.run(two_ranks.reinforce([samples(2)]))
    assert_same(weights(two_ranks, tmp_path / "still"), base, 1e-9)  # the other learning rate
    asyncio.run(two_ranks.reset(settings(checkpoint, TWO_RANKS)))
    again, fresh = asyncio.run(two_ranks.reinforce([samples(2)])), run(two_ranks, initial, "reinforce", [samples(2)])
    assert again.metrics == pytest.approx(fresh.metrics, abs=1e-6)


def test_logprobs_of_several_sequences_are_those_of_each(two_ranks: Learner, initial: Path) -> None:
    asyncio.run(two_ranks.load(initial))
    sequences = [sample.token_ids for sample in samples(3)]
    together = asyncio.run(two_ranks.logprobs_of(sequences, 1.0))
    for token_ids, logprobs in zip(sequences, together, strict=True):
        np.testing.assert_allclose(logprobs, asyncio.run(two_ranks.logprobs(token_ids, 1.0)), atol=1e-5)


def test_saved_model_in_plain_transformers_has_the_learners_logprobs(
    two_ranks: Learner, initial: Path, tmp_path: Path
) -> None:
    run(two_ranks, initial, "patch", [samples(1)] * 3)
    weights(two_ranks, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.arange(10, 30)
    with torch.no_grad():
        logprobs = (model(ids[None]).logits[0] / 0.6).log_softmax(1)[:-1].gather(1, ids[1:, None])[:, 0]
    ours = asyncio.run(two_ranks.logprobs(ids.numpy().astype(np.int32), temperature=0.6))
    assert ours[0] == 0
    np.testing.assert_allclose(ours[1:], logprobs.numpy(), atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template
    assert model.config.architectures == ["Qwen3ForCausalLM"]
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert shards == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.safetensors"))]
    assert max(sizes) < 0.6 * sum(sizes)


def test_a_loaded_learner_continues_identically(
    one_rank: Learner, two_ranks: Learner, initial: Path, tmp_path: Path
) -> None:
    run(two_ranks, initial, "patch", [samples(1)])
    asyncio.run(two_ranks.reinforce([samples(2)]))
    saved = tmp_path / "saved"
    weights(two_ranks, saved)
    straight = asyncio.run(two_ranks.reinforce([samples(3), samples(4)]))
    expected = weights(two_ranks, tmp_path / "straight")
    asyncio.run(two_ranks.load(saved))
    resumed = asyncio.run(two_ranks.reinforce([samples(3), samples(4)]))
    assert resumed.metrics == straight.metrics
    assert_same(weights(two_ranks, tmp_path / "resumed"), expected, 0)
    asyncio.run(one_rank.load(saved))  # on another number of ranks
    asyncio.run(one_rank.reinforce([samples(3), samples(4)]))
    assert_same(weights(one_rank, tmp_path / "other"), expected, 1e-5)


def test_a_patch_starts_a_new_phase_with_a_new_reference(two_ranks: Learner, initial: Path, tmp_path: Path) -> None:
    moved = run(two_ranks, initial, "reinforce", [samples(1), samples(2)])
    assert moved.metrics["reinforce/ref_kl"] > 0
    assert not (initial / "learner" / "reference").exists()
    asyncio.run(two_ranks.patch([samples(3)]))
    patched = weights(two_ranks, tmp_path)
    assert not list((tmp_path / "learner").glob("optimizer*"))
    assert_same(dict(read_shards(tmp_path / "learner" / "reference", "model")), patched, 0)
    assert asyncio.run(two_ranks.reinforce([samples(1)])).metrics["reinforce/ref_kl"] == 0


def test_a_gradient_that_is_not_finite_is_skipped(two_ranks: Learner, initial: Path, tmp_path: Path) -> None:
    poison = [TrainingSample(samples(1)[0].token_ids, samples(1)[0].loss_mask, advantage=np.nan), *samples(2)]
    update = run(two_ranks, initial, "reinforce", [poison])
    assert (update.num_updates, update.metrics["reinforce/skipped_updates"]) == (0, 1)
    assert update.skipped and not update.changed_weights and update.not_finite == (0,)
    assert_same(weights(two_ranks, tmp_path / "poisoned"), load_file(initial / "model.safetensors"), 0)
    asyncio.run(two_ranks.reinforce([samples(1)]))
    after = weights(two_ranks, tmp_path / "after")
    run(two_ranks, initial, "reinforce", [samples(1)])
    assert_same(after, weights(two_ranks, tmp_path / "clean"), 0)


def test_a_sample_over_the_budget_is_an_error_that_the_learner_survives(
    two_ranks: Learner, initial: Path, tmp_path: Path
) -> None:
    asyncio.run(two_ranks.load(initial))
    before = load_file(initial / "model.safetensors")
    long = TrainingSample(np.arange(5, 45, dtype=np.int32), np.arange(40, dtype=np.uint8) > 5)
    with pytest.raises(ValueError, match=r"sample 0 has 40 tokens, more than learner.micro_batch_tokens = 30"):
        asyncio.run(two_ranks.patch([samples(1), [long]]))
    assert_same(weights(two_ranks, tmp_path), before, 0)  # not even the first batch was trained
    assert run(two_ranks, initial, "patch", [samples(1)]).num_updates == 1


def test_late_and_dead_ranks_are_named(ray_cluster: None) -> None:
    class StubbornRank:
        def patch(self, batches: object) -> None:
            os._exit(1)

        def reinforce(self, batches: object) -> None:
            time.sleep(30)

    ranks = [ray.remote(num_cpus=0)(StubbornRank).remote() for _ in range(2)]
    with pytest.raises(LearnerError, match="learner rank 0, 1 did not finish reinforce within 1 s"):
        asyncio.run(Learner(ranks, deadline_s=1, undo=ExitStack()).reinforce([]))
    dying = [ray.remote(num_cpus=0)(StubbornRank).remote()]
    with pytest.raises(LearnerError, match=r"a learner rank died during patch: .*"):
        asyncio.run(Learner(dying, deadline_s=120, undo=ExitStack()).patch([]))
    for rank in ranks:
        ray.kill(rank)


def pid_of(learner: Learner, rank: int) -> int:
    handle: Any = learner.ranks[rank]
    return ray.get(handle.__ray_call__.remote(lambda self: os.getpid()))


def test_a_learner_whose_rank_died_starts_anew_from_a_checkpoint(
    ray_cluster: None, checkpoint: Path, initial: Path, tmp_path: Path
) -> None:
    learner = asyncio.run(Learner.start(settings(checkpoint, {"num_ranks": 2, "micro_batch_tokens": 30})))
    try:
        run(learner, initial, "patch", [samples(1)])
        saved = weights(learner, tmp_path / "saved")
        asyncio.run(learner.reinforce([samples(2)]))
        expected = weights(learner, tmp_path / "expected")
        pids = [pid_of(learner, rank) for rank in range(2)]

        async def lose() -> None:
            working = asyncio.create_task(learner.reinforce([samples(3)] * 200))
            await asyncio.sleep(0.5)
            os.kill(pids[1], signal.SIGKILL)
            await working

        with pytest.raises(LearnerError, match=r"a learner rank (died during|failed in) reinforce: "):
            asyncio.run(lose())
        asyncio.run(learner.restart(tmp_path / "saved"))
        _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=60)
        assert not alive and learner.starts == 2
        assert_same(weights(learner, tmp_path / "restarted"), saved, 0)
        asyncio.run(learner.reinforce([samples(2)]))
        assert_same(weights(learner, tmp_path / "again"), expected, 0)
    finally:
        learner.close()


def test_what_changes_after_a_snapshot_is_not_in_it(one_rank: Learner, initial: Path, tmp_path: Path) -> None:
    async def save_and_train() -> None:
        await one_rank.load(initial)
        await one_rank.save(tmp_path)
        await one_rank.patch([samples(1)] * 3)
        await one_rank.saved(tmp_path)

    asyncio.run(save_and_train())
    assert_same(dict(read_shards(tmp_path, "model")), dict(read_shards(initial, "model")), 0)


def test_a_disk_that_fails_is_told(two_ranks: Learner, initial: Path, tmp_path: Path) -> None:
    async def save_into_a_folder_that_goes() -> None:
        await two_ranks.save(tmp_path)
        await two_ranks.saved(tmp_path)

    asyncio.run(two_ranks.load(initial))
    (tmp_path / "model-00002-of-00002.safetensors").mkdir()
    with pytest.raises(IsADirectoryError):
        asyncio.run(save_into_a_folder_that_goes())


def test_a_model_that_is_not_there_is_named(ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match=r"a learner rank died during start: .*nowhere"):
        asyncio.run(Learner.start(settings(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("schedule", "rates"), [("constant", [0, 0.5, 1, 1]), ("cosine_with_min_lr", [0, 0.5, 1, 0.55])]
)
def test_schedule_and_its_warm_up_count_updates(schedule: str, rates: list[float]) -> None:
    model = torch.nn.Linear(2, 1)
    config = OptimizerConfig(learning_rate=1.0, lr_schedule=schedule, warmup_ratio=0.5)
    optimization = Optimization(model, config, num_updates=4)
    seen = []
    for value in [1.0, np.nan, 1.0, 1.0, 1.0]:
        model(torch.full((1, 2), value)).sum().backward()
        rate = optimization.adamw.param_groups[0]["lr"]
        if np.isfinite(optimization.update(loss=0.0)):  # a skipped update does not move the schedule
            seen.append(rate)
    assert seen == pytest.approx(rates)


@contextmanager
def in_process(config: LearnerSettings, folder: Path) -> Iterator[LearnerRank]:
    """A single rank without Ray, for settings of its own."""
    rank = LearnerRank(config, rank=0, init_method=f"file://{folder / 'meet'}")
    yield rank
    torch.distributed.destroy_process_group()
    (folder / "meet").unlink(missing_ok=True)


def test_sequence_mean_does_not_depend_on_micro_batches(checkpoint: Path, tmp_path: Path) -> None:
    metrics = []
    for budget in (1000, 30):
        options = settings(checkpoint, {"micro_batch_tokens": budget}, loss_mean="sequence")
        with in_process(options, tmp_path) as rank:
            metrics.append(rank.reinforce([samples(1), samples(2)]).metrics)
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-5)


def test_reference_can_stay_the_base(checkpoint: Path, tmp_path: Path) -> None:
    with in_process(settings(checkpoint, kl_reference="base"), tmp_path) as rank:
        rank.patch([samples(1)] * 5)
        assert rank.reinforce([samples(2)]).metrics["reinforce/ref_kl"] > 1e-3


def test_untied_embeddings_and_no_reference(tmp_path: Path) -> None:
    untied = tiny_checkpoint(tmp_path / "untied", tied=False)
    saved = tmp_path / "saved"
    saved.mkdir()
    with in_process(settings(untied, kl_coef=0.0), tmp_path) as rank:
        assert "reinforce/ref_kl" not in rank.reinforce([samples(1)]).metrics
        rank.save(saved)
        rank._written.result()  # pyright: ignore
        logprobs = rank.logprobs(np.arange(9, dtype=np.int32), 1.0)
        rank.load(saved)
        assert rank.logprobs(np.arange(9, dtype=np.int32), 1.0).tolist() == logprobs.tolist()
    before, after = (load_file(folder / "model.safetensors") for folder in (untied, saved))
    assert before.keys() == after.keys()
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])


def in_process_weights(rank: LearnerRank) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in rank.trainer.policy.model.named_parameters()}


@pytest.mark.parametrize("mean", ["token", "sequence"])
def test_leaving_out_dead_samples_changes_neither_loss_nor_weights(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mean: str
) -> None:
    dead = [replace(sample, advantage=0.0) for sample in samples(5)]
    batches = [[*samples(1), *dead], dead, [*dead[:2], *samples(2)]]  # the middle one moves by momentum alone
    options = settings(checkpoint, kl_coef=0.0, entropy_coef=0.0, loss_mean=mean)
    with in_process(options, tmp_path) as rank:
        skipping = rank.reinforce(batches)
        skipped_weights = in_process_weights(rank)
        assert rank.trainer._share(dead, [], mean).micro_batches == [[]]  # pyright: ignore
    monkeypatch.setattr(trainer, "_effective", lambda batch, config: list(batch))
    with in_process(options, tmp_path) as rank:
        computing = rank.reinforce(batches)
        assert_same(skipped_weights, in_process_weights(rank), 1e-6)
    assert skipping.num_updates == computing.num_updates == 3
    for name in ("loss", "grad_norm"):
        assert skipping.metrics[f"reinforce/{name}"] == pytest.approx(computing.metrics[f"reinforce/{name}"], abs=1e-6)


def test_dead_samples_are_computed_where_kl_or_entropy_needs_them(checkpoint: Path) -> None:
    dead = [replace(sample, advantage=0.0) for sample in samples(5)]
    left = [
        len(trainer._effective([*samples(1), *dead], settings(checkpoint, kl_coef=kl, entropy_coef=entropy).reinforce))
        for kl, entropy in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.1))
    ]
    assert left == [7, 14, 14]


def sampled_by(rank: LearnerRank, shift: float) -> list[TrainingSample]:
    """Samples with the policy's own log-probs, off by `shift`."""
    made = []
    for sample in samples(1):
        logprobs = (rank.logprobs(sample.token_ids, 0.6) + np.float32(shift)) * sample.loss_mask
        made.append(replace(sample, rollout_logprobs=logprobs))
    return made


def test_the_engines_logprobs_can_be_the_ratios_denominator(checkpoint: Path, tmp_path: Path) -> None:
    with in_process(settings(checkpoint, old_logprobs="engine"), tmp_path) as rank:
        metrics = rank.reinforce([sampled_by(rank, shift=0.1)]).metrics
    assert metrics["reinforce/approx_kl"] == pytest.approx(0.1, abs=1e-4)  # old - policy
    assert metrics["reinforce/rollout_mismatch"] == pytest.approx(0.1, abs=1e-4)


def test_importance_weights_are_capped(checkpoint: Path, tmp_path: Path) -> None:
    with in_process(settings(checkpoint, importance_cap=2.0), tmp_path) as rank:
        near = rank.reinforce([sampled_by(rank, shift=-np.log(1.5))]).metrics
    with in_process(settings(checkpoint, importance_cap=2.0), tmp_path) as rank:
        far = rank.reinforce([sampled_by(rank, shift=-np.log(5.0))]).metrics
    assert (near["reinforce/importance_weight"], near["reinforce/importance_clipped"]) == pytest.approx((1.5, 0))
    assert (far["reinforce/importance_weight"], far["reinforce/importance_clipped"]) == pytest.approx((2.0, 1))


@pytest.mark.parametrize("option", [{"old_logprobs": "engine"}, {"importance_cap": 2.0}])
def test_unknown_engine_logprobs_are_an_error_where_they_are_needed(
    checkpoint: Path, tmp_path: Path, option: dict[str, object]
) -> None:
    with in_process(settings(checkpoint, **option), tmp_path) as rank:
        unknown = replace(samples(1)[0], rollout_logprobs=None)
        with pytest.raises(ValueError, match="need the engine's log-prob of every trained token"):
            rank.reinforce([samples(2), [unknown]])


def test_old_logprobs_are_computed_for_later_updates_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_process(settings(checkpoint, kl_coef=0.0), tmp_path) as rank:
        passes = []
        policy = rank.trainer.policy
        monkeypatch.setattr(
            policy, "logprobs", lambda *batch: passes.append(1) or type(policy).logprobs(policy, *batch)
        )
        rank.reinforce([samples(1)])
        assert len(passes) == 0
        rank.reinforce([samples(1), samples(2), samples(3)])
        assert len(passes) == 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_compiled_layers_train_the_same(checkpoint: Path, tmp_path: Path, checkpointing: str) -> None:
    found = []
    for compiled in (False, True):
        options = {"compile": compiled, "activation_checkpointing": checkpointing, "micro_batch_tokens": 60}
        with in_process(settings(checkpoint, options), tmp_path) as rank:
            rank.patch([samples(1)])
            found.append(in_process_weights(rank))
    assert_same(found[1], found[0], 1e-5)
