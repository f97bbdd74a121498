"""One FSDP2 rank of the learner. Its public methods are collective: all ranks call them, in step."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch
from transformers import AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from actors import learner_state
from actors.learner_state import Snapshot
from actors.weight_senders import WeightSender
from int_ray.compute.loading import compute_dtype, load_model, make_policy, make_reference
from int_ray.compute.optimization import Optimization
from int_ray.compute.policy import Policy
from int_ray.compute.sharding import join_ranks
from int_ray.compute.trainer import LearnerSettings, Trainer
from int_ray.errors import RunError
from int_ray.types import Logprobs, TokenIds, Update, UpdateBatches


class LearnerRank:
    """Its shard of the policy, of the KL reference and of the optimizer."""

    def __init__(self, settings: LearnerSettings, rank: int, init_method: str) -> None:
        self.settings = settings
        self.is_main = rank == 0
        self.mesh = join_ranks(settings.learner, rank, init_method)
        self.dtype = compute_dtype(settings.model, settings.learner.device)
        torch.manual_seed(settings.seed)
        disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(settings.model.path, revision=settings.model.revision)
        base = settings.model.path
        self.trainer = Trainer(self._load_policy(base), self._load_reference(base), settings, self.mesh)
        self.reference_is_base = True
        self.sender: WeightSender | None = None
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._written: Future[None] = self._writer.submit(lambda: None)  # the last checkpoint
        # Collecting all that was imported would stall an update by a tenth of a second every now and then.
        gc.freeze()

    def patch(self, batches: UpdateBatches) -> Update:
        """Supervised fine-tuning, one optimizer update per batch (paper, section 4.2); a new RL phase follows."""
        update = self.trainer.patch(batches)
        self._make_room()
        self.reference_is_base = self.reference_is_base and self.settings.reinforce.kl_reference == "base"
        return update

    def reinforce(self, batches: UpdateBatches) -> Update:
        """GRPO, one optimizer update per batch (paper, section 4.3)."""
        update = self.trainer.reinforce(batches)
        self._make_room()
        return update

    def logprobs(self, token_ids: TokenIds, temperature: float) -> Logprobs:
        """Log-prob of every token given those before it; 0 for the first. [T]"""
        return self.trainer.logprobs(token_ids, temperature)

    def logprobs_of(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        """The same of several sequences."""
        return self.trainer.logprobs_of(sequences, temperature)

    def open_weight_sender(self, sender: WeightSender) -> None:
        """Set how `send_weights` brings the weights to the engines."""
        if self.sender is not None:
            self.sender.close()
        self.sender = sender

    def send_weights(self) -> object:
        """Send the current weights; returns what the sender returns."""
        if self.sender is None:
            raise RunError("no weight sender: call open_weight_sender first")
        return self.sender.send(self.trainer.policy.model, self.is_main)

    def save(self, folder: Path) -> None:
        """Copy everything `load` needs, and write it into an existing empty folder meanwhile (see learner_state.py)."""
        wait([self._written])  # two copies at a time would be too many; how it ended the receipt has told
        trainer, model = self.trainer, self.trainer.policy.model
        snapshot = Snapshot(self.mesh.get_rank(), self.mesh.size())
        snapshot.add_model(model, folder)
        if trainer.reference is not None and not self.reference_is_base:
            snapshot.add_model(trainer.reference.model, learner_state.reference_folder(folder))
        if trainer.optimization is not None:
            snapshot.add_moments(trainer.optimization.adamw, model, folder)
        if self.is_main:
            phase = None if trainer.optimization is None else trainer.optimization.state()
            snapshot.add_json(
                {"num_reinforced": trainer.num_reinforced, "phase": phase}, learner_state.counters(folder)
            )
            snapshot.add(lambda: self.tokenizer.save_pretrained(folder))
        self._written = self._writer.submit(snapshot.write, folder)

    def load(self, folder: Path) -> None:
        """Continue exactly from what `save` wrote; the number of ranks may differ."""
        self._let_go()
        state = learner_state.load_state(folder)
        saved_reference = learner_state.reference_folder(folder)
        self.reference_is_base = not saved_reference.exists()
        reference = self.settings.model.path if self.reference_is_base else str(saved_reference)
        trainer = Trainer(self._load_policy(str(folder)), self._load_reference(reference), self.settings, self.mesh)
        trainer.num_reinforced = state["num_reinforced"]
        if (phase := state["phase"]) is not None:
            optimizer = self.settings.reinforce.optimizer
            trainer.optimization = Optimization(trainer.policy, optimizer, phase["num_updates"])
            learner_state.load_moments(trainer.optimization.adamw, trainer.policy.model, folder)
            trainer.optimization.restore(phase)
        self.trainer = trainer
        self._make_room()
        gc.freeze()

    def reset(self, settings: LearnerSettings) -> None:
        """Begin anew from the base model; model and learner in `settings` are those that this rank was built with."""
        self._let_go()
        self.settings = settings
        torch.manual_seed(settings.seed)
        base = settings.model.path
        self.trainer = Trainer(self._load_policy(base), self._load_reference(base), settings, self.mesh)
        self.reference_is_base = True
        self._make_room()
        gc.freeze()

    def _let_go(self) -> None:
        """End the present trainer: two of them would not fit."""
        gc.unfreeze()  # its layers are in reference cycles, which a collection must be allowed to see
        del self.trainer
        gc.collect()
        self._make_room()

    def _make_room(self) -> None:
        """Give back what torch keeps for its next tensors, where an engine wants to wake on the same GPU."""
        if self.settings.learner.weight_sync == "ipc":
            torch.cuda.empty_cache()

    def _load_policy(self, path: str) -> Policy:
        model = load_model(path, self.settings.model, torch.float32)
        return make_policy(model, self.settings.learner, self.dtype, self.mesh)

    def _load_reference(self, path: str) -> Policy | None:
        """The KL reference, or None without a KL term."""
        if self.settings.reinforce.kl_coef == 0:
            return None
        model = load_model(path, self.settings.model, self.dtype)
        return make_reference(model, self.settings.learner, self.dtype, self.mesh)
