"""How a rollout engine runs vLLM: environment variables, which come before the import, engine arguments, requests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.engine_client import Sampling
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.training_config import LearnerConfig

if TYPE_CHECKING:
    from vllm import SamplingParams

# vLLM's name of each weight_sync, and the module that its workers import to know it where vLLM itself does not.
TRANSFER_BACKENDS = {"shm": "shm", "ipc": "plain_ipc", "nccl": "closing_nccl"}
WORKER_EXTENSIONS = {
    "shm": "actors.vllm_shm_transfer.RegisterBackend",
    "ipc": "actors.vllm_ipc_transfer.RegisterBackend",
    "nccl": "actors.vllm_nccl_transfer.RegisterBackend",
}


def engine_environment(model: ModelConfig, rollout: RolloutConfig, learner: LearnerConfig) -> dict[str, str]:
    """Variables for the actor; vLLM's own processes inherit them."""
    variables = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        "VLLM_ENGINE_READY_TIMEOUT_S": str(round(rollout.startup_deadline_s)),
        "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "1",  # its workers have nothing to save, and take all of it
        # The tokens of one step are taken in at once, so that they can be counted exactly when decoding is paused.
        "VLLM_V1_OUTPUT_PROC_CHUNK_SIZE": str(rollout.max_num_seqs),
    }
    if Path(model.path).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    if learner.device == "cuda":
        return variables
    # One core is for scheduling and detokenizing. vLLM's own binding puts every engine on the same cores.
    threads = max(1, (len(os.sched_getaffinity(0)) - 1) // rollout.num_engines)
    return variables | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        # Else the first token waits 20 s for a C++ compiler: vLLM compiles the count behind a token's rank.
        "TORCH_COMPILE_DISABLE": "1",
    }


def engine_arguments(model: ModelConfig, rollout: RolloutConfig, learner: LearnerConfig) -> dict[str, Any]:
    """Keyword arguments of vLLM's AsyncEngineArgs."""
    arguments: dict[str, Any] = {
        "model": model.path,
        "revision": model.revision,
        "dtype": model.dtype,
        "trust_remote_code": False,
        "max_model_len": model.max_length,
        "max_num_seqs": rollout.max_num_seqs,
        "tensor_parallel_size": rollout.tensor_parallel_size,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "weight_transfer_config": {"backend": TRANSFER_BACKENDS[learner.weight_sync]},
        "worker_extension_cls": WORKER_EXTENSIONS[learner.weight_sync],
    }
    if rollout.staleness > 0:
        arguments["scheduling_policy"] = "priority"  # the canary goes before the rollouts that are running
    if learner.device == "cuda":
        return arguments | {
            "gpu_memory_utilization": rollout.gpu_memory_utilization,
            "distributed_executor_backend": "mp"
            if rollout.tensor_parallel_size > 1
            else "uni",  # never Ray's: own actors
            "enable_sleep_mode": learner.weight_sync == "ipc" and rollout.sleep,
        }
    return arguments | {
        "enforce_eager": True,
        "enable_chunked_prefill": False,  # it kills a CPU engine whose requests are seeded
        "kv_cache_memory_bytes": int(rollout.kv_cache_gb * 2**30),
    }


def vllm_parameters(sampling: Sampling) -> SamplingParams:
    """A request as vLLM has it: whole answers as token ids, with the log-prob of each sampled token."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.n,
        seed=sampling.seed,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
