"""The shipped cluster files: valid as far as that can be told offline, closed with a token, and without a secret."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from int_ray.config_file import load_config

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "launch/clusters"
FILES = sorted(CLUSTERS.iterdir())
RAY_UP = ["aws", "gcp"]
PINNED_RAY = re.search(r"^ray==(\S+)", (ROOT / "requirements-gpu.lock").read_text(), re.MULTILINE)

STRING, COUNT, TEXTS = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "object"}


def closed(required: list[str], **properties: object) -> dict[str, object]:
    """An object with these fields and no others."""
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


POD = closed(
    ["spec"],
    spec=closed(
        ["containers", "volumes"],
        automountServiceAccountToken={"type": "boolean"},
        securityContext=TEXTS,
        nodeSelector=TEXTS,
        tolerations={"type": "array"},
        volumes={"type": "array"},
        containers={
            "type": "array",
            "minItems": 1,
            "items": closed(
                ["name", "image", "env", "envFrom", "resources"],
                name=STRING,
                image=STRING,
                env={"type": "array", "items": closed(["name", "value"], name=STRING, value=STRING)},
                envFrom={"type": "array"},
                securityContext=TEXTS,
                resources=closed(["requests", "limits"], requests=TEXTS, limits=TEXTS),
                volumeMounts={"type": "array"},
            ),
        },
    ),
)
START = {"type": "object", "additionalProperties": STRING}
# The fields of KubeRay's RayJob (ray.io/v1) that the file uses, with their types.
RAY_JOB = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=TEXTS,
    spec=closed(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=STRING,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
        backoffLimit=COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        activeDeadlineSeconds=COUNT,
        runtimeEnvYAML=STRING,
        rayClusterSpec=closed(
            ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"],
            rayVersion=STRING,
            authOptions=closed(["mode"], mode={"enum": ["token", "disabled"]}),
            enableInTreeAutoscaling={"type": "boolean"},
            autoscalerOptions=closed(
                [],
                version={"enum": ["v1", "v2"]},
                idleTimeoutSeconds=COUNT,
                upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
            ),
            headGroupSpec=closed(["template"], serviceType={"const": "ClusterIP"}, rayStartParams=START, template=POD),
            workerGroupSpecs={
                "type": "array",
                "items": closed(
                    ["groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"],
                    groupName=STRING,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    labels=START,
                    rayStartParams=START,
                    template=POD,
                ),
            },
        ),
    ),
)
# The documented keys of a SkyPilot task that the file uses.
SKY_TASK = closed(
    ["resources", "run"],
    name=STRING,
    workdir=STRING,
    num_nodes={"type": "integer", "minimum": 1},
    resources=closed(
        ["accelerators"],
        accelerators=STRING,
        use_spot={"type": "boolean"},
        disk_size=COUNT,
        job_recovery=closed(
            ["strategy"],
            strategy={"enum": ["FAILOVER", "EAGER_NEXT_REGION"]},
            max_restarts_on_errors=COUNT,
            recover_on_exit_codes={"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
        ),
    ),
    envs={"type": "object", "additionalProperties": STRING},
    secrets={"type": "object", "additionalProperties": {"type": "null"}},
    file_mounts={
        "type": "object",
        "additionalProperties": closed(
            ["name", "store", "mode"],
            name=STRING,
            store={"enum": ["s3", "gcs", "azure", "r2"]},
            mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]},
        ),
    },
    setup=STRING,
    run=STRING,
)


def load(name: str) -> Any:
    return next(yaml.safe_load_all((CLUSTERS / f"{name}.yaml").read_text()))


def job_spec() -> dict[str, Any]:
    return load("kuberay")["spec"]


def shell_of(name: str) -> str:
    """Every shell line of a file."""
    if name == "slurm":
        return (CLUSTERS / "slurm.sh").read_text()
    task = load(name)
    if name == "skypilot":
        return task["setup"] + task["run"]
    keys = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return "\n".join(line for key in keys for line in task.get(f"{key}_commands", []))


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_accepts_the_file(name: str):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(load(name)))


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_refuses_a_typing_error(name: str):
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(load(name) | {"idle_timeout_minuets": 5}))


@pytest.mark.parametrize("name", RAY_UP)
def test_only_rollouts_run_on_spot_nodes(name: str):
    types = load(name)["available_node_types"]
    text = {kind: json.dumps(options["node_config"]).lower() for kind, options in types.items()}
    assert "spot" in text["rollout"] and types["rollout"]["labels"] == {"ray.io/market-type": "spot"}
    assert "spot" not in text["learner"] + text["head"] and "GPU" not in types["head"]["resources"]
    assert types["learner"]["min_workers"] == 1 and types["rollout"]["min_workers"] == 0


@pytest.mark.parametrize("name", RAY_UP)
def test_a_cluster_on_machines_is_closed(name: str):
    settings = load(name)
    for role in ("head", "worker"):
        (start,) = [line for line in settings[f"{role}_start_ray_commands"] if "ray start" in line]
        assert "RAY_AUTH_MODE=token" in start and "RAY_process_group_cleanup_enabled=true" in start
    (head,) = [line for line in settings["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in head
    assert "/home/ubuntu/.ray/auth_token" in settings["file_mounts"]
    assert not settings["provider"].get("security_group")


def test_the_ray_job_has_fields_that_kuberay_knows():
    jsonschema.validate(load("kuberay"), RAY_JOB)


def test_the_ray_job_is_closed_and_its_versions_agree():
    spec = job_spec()
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert PINNED_RAY and cluster["rayVersion"] == PINNED_RAY[1]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert groups["learner"]["labels"] == {"ray.io/market-type": "on-demand"}
    assert groups["rollout"]["labels"] == {"ray.io/market-type": "spot"} and groups["rollout"]["minReplicas"] == 0
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]) == {"HF_HOME", "RAY_JOB_STOP_WAIT_TIME_S"}
    _, policy = yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text())
    assert policy["kind"] == "NetworkPolicy" and policy["spec"]["policyTypes"] == ["Ingress"]


def test_only_labelled_namespaces_reach_the_port_for_metrics_and_nothing_else():
    *_, policy = yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text())
    (own, *others) = policy["spec"]["ingress"]
    assert own == {"from": [{"podSelector": policy["spec"]["podSelector"]}]}
    assert all(rule["from"] and rule["ports"] for rule in others)
    (metrics,) = [rule for rule in others if rule["ports"] == [{"protocol": "TCP", "port": 8080}]]
    (source,) = metrics["from"]
    ((key, value),) = source["namespaceSelector"]["matchLabels"].items()
    assert f"kubectl label namespace monitoring {key}={value}\n" in (ROOT / "docs/watching.md").read_text()


def test_the_ray_job_trains_what_the_command_line_takes():
    python, option, module, command, config, *overrides = shlex.split(job_spec()["entrypoint"])
    assert [python, option, module, command] == ["python", "-m", "launch.cli", "train"]
    assert overrides[-2:] == ["--resume", "auto"]
    load_config(ROOT / Path(config).relative_to("/app"), overrides[:-2])


def test_the_sky_task_has_documented_keys():
    task = load("skypilot")
    jsonschema.validate(task, SKY_TASK)
    assert "RAY_AUTH_TOKEN" in task["secrets"] and "RAY_AUTH_MODE=token" in task["run"]
    assert "--dashboard-host 127.0.0.1" in task["run"] and "ray stop" not in task["run"]
    load_config(ROOT / task["envs"]["CONFIG"])


@pytest.mark.parametrize("name", [*RAY_UP, "skypilot", "slurm"])
def test_the_shell_lines_parse(name: str):
    done = subprocess.run(["bash", "-n"], input=shell_of(name), capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [*RAY_UP, "skypilot", "slurm"])
def test_ray_start_knows_every_option(name: str):
    import click
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in [*parameter.opts, *parameter.secondary_opts]}
    assert isinstance(start, click.Command)
    commands = list(ray_starts(shell_of(name)))
    assert commands
    for command in commands:
        assert not set(re.findall(r"(?<!\S)(--[a-z-]+)", command)) - known, command


def ray_starts(shell: str) -> Iterator[str]:
    """`ray start` with its options; those of `ray symmetric-run` that it hands on."""
    for found in re.findall(r"ray start ((?:[^|;&\n\\]|\\\n)*)", shell):
        yield found
    for found in re.findall(r"ray symmetric-run ((?:[^\\]|\\\n)*?) -- ", shell):
        yield re.sub(r"--address \S+ --min-nodes \S+", "", found)


def test_slurm_runs_one_ray_node_per_machine_and_goes_on_after_a_time_limit():
    text = (CLUSTERS / "slurm.sh").read_text()
    flags = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", text, re.MULTILINE))
    assert flags["ntasks-per-node"] == "1" and flags["signal"].startswith("B:TERM@") and "requeue" in flags
    assert "ray symmetric-run" in text and "--resume auto" in text
    assert not re.search(r"symmetric-run[^\n]*(--head|--port|--block|--node-ip-address)", text)
    assert "RAY_AUTH_MODE=token" in text and "RAY_AUTH_TOKEN_PATH" in text and "umask 077" in text


SLURM_COMMANDS = {
    "srun": 'while [ "$1" != ray ]; do shift; done; while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then echo node1; else echo "$@" >> "$LOG"; fi',
    "getent": "echo 10.0.0.1 STREAM node1",
}
# What a run does, and the exit code that this is for a shell; 247 is what symmetric-run makes of kill -9.
ENDS = {"exit 0": 0, "exit 1": 1, "exit 2": 2, "exit 75": 75, "kill -9 $$": 137, "exit 247": 247}


def write_tools(folder: Path, **bodies: str) -> None:
    folder.mkdir(parents=True)
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)


def start_slurm_script(folder: Path, restarts: int = 0, **commands: str) -> subprocess.Popen[str]:
    """The script itself, with stand-ins for Slurm's commands; `python -m` runs launch.cli's part."""
    tools = folder / ".venv/bin"
    python = f'if [ "$1" = -c ]; then echo 0123abcd; exit; fi; {commands.pop("run", "exit 0")}'
    write_tools(tools, **{**SLURM_COMMANDS, "python": python, **commands})
    environment = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "HOME": str(folder),
        "LOG": str(folder / "log"),
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_NNODES": "1",
    }
    if restarts:  # Slurm does not set it in a job's first start
        environment["SLURM_RESTART_COUNT"] = str(restarts)
    script = ["bash", str(CLUSTERS / "slurm.sh"), "configs/x.yaml", "a=1"]
    return subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def warn_when(there: Path, script: subprocess.Popen[str]) -> str:
    """Slurm's warning as soon as a file is there; returns what the script said until its end."""
    until = time.monotonic() + 20
    while not there.exists():
        assert time.monotonic() < until, f"waited 20 s for {there}"
        time.sleep(0.02)
    script.terminate()
    return script.communicate(timeout=20)[0]


def test_slurm_warns_the_run_and_queues_the_job_again(tmp_path: Path):
    """The stand-in for the run traps SIGTERM as the real one does (tests/e2e/test_train.py)."""
    started, ready = tmp_path / "started", tmp_path / "ready"
    run = f'trap "exit 75" TERM; echo "$RAY_AUTH_MODE $@" > {started}; touch {ready}; while true; do sleep 0.05; done'
    script = start_slurm_script(tmp_path, run=run)
    assert warn_when(ready, script) == "" and script.returncode == 75
    assert started.read_text() == "token -m launch.cli train configs/x.yaml a=1 --resume auto\n"
    assert (tmp_path / "log").read_text() == "requeue 17\n"
    assert not list(tmp_path.glob(".int-ray-job-*"))  # the token is gone


def test_slurm_fails_if_ray_did_not_start(tmp_path: Path):
    script = start_slurm_script(tmp_path, srun="echo Failed to start Ray")  # exits with 0, as symmetric-run does
    said, _ = script.communicate(timeout=20)
    assert script.returncode == 1 and "error: Ray did not start" in said
    assert not (tmp_path / "log").exists()  # not queued again


def test_slurm_survives_a_warning_before_the_run_has_begun(tmp_path: Path):
    ready = tmp_path / "ready"
    script = start_slurm_script(tmp_path, srun=f"touch {ready}; sleep 1; {SLURM_COMMANDS['srun']}", run="exit 3")
    assert warn_when(ready, script) == "" and script.returncode == 3


@pytest.mark.parametrize("run", ENDS)
def test_slurm_queues_a_job_again_on_75_and_on_death_by_a_signal(tmp_path: Path, run: str):
    script = start_slurm_script(tmp_path, run=run)
    script.communicate(timeout=20)
    assert script.returncode == ENDS[run]
    assert (tmp_path / "log").exists() == (run in ("exit 75", "kill -9 $$", "exit 247"))


@pytest.mark.parametrize(
    ("run", "restarts", "again"),
    [("kill -9 $$", 19, True), ("kill -9 $$", 20, False), ("exit 75", 20, True), ("kill -TERM $$", 0, False)],
)
def test_slurm_does_not_queue_again_for_ever_nor_what_scancel_ends(
    tmp_path: Path, run: str, restarts: int, again: bool
):
    start_slurm_script(tmp_path, restarts, run=run).communicate(timeout=20)
    assert (tmp_path / "log").exists() == again


def run_sky_job(folder: Path, run: str) -> tuple[int, int]:
    """Exit code of the first node's `run` and how often it started the driver; waits for no port."""
    driver = f'echo "$RAY_ADDRESS $*" >> "$LOG"; {run}'
    write_tools(folder / "int-ray/bin", python=driver, ray="exec /bin/sleep 60", sleep="exit 0")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "LOG": str(folder / "log"),
        "SKYPILOT_NODE_IPS": "127.0.0.1",
        "SKYPILOT_NODE_RANK": "0",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        **load("skypilot")["envs"],
    }
    done = subprocess.run(["bash", "-c", load("skypilot")["run"]], env=environment, capture_output=True, timeout=30)
    drivers = (folder / "log").read_text().splitlines()
    assert all(line.startswith("127.0.0.1:6479 -m launch.cli train ") for line in drivers)
    assert all(line.endswith(" --resume auto") for line in drivers)
    return done.returncode, len(drivers)


@pytest.mark.parametrize("run", ENDS)
def test_sky_starts_a_run_again_after_death_by_a_signal_and_nothing_else_but_75(tmp_path: Path, run: str):
    code, drivers = run_sky_job(tmp_path, run)
    assert code == ENDS[run] and drivers == (6 if ENDS[run] > 128 else 1)
    recovery = load("skypilot")["resources"]["job_recovery"]
    started_anew = code in recovery["recover_on_exit_codes"] or recovery.get("max_restarts_on_errors", 0) > 0
    assert (code != 0 and started_anew) == (code == 75)


def test_sky_goes_on_to_the_end_after_one_death_by_a_signal(tmp_path: Path):
    died = tmp_path / "died"
    assert run_sky_job(tmp_path, f"[ -e {died} ] || {{ touch {died}; kill -9 $$; }}; exit 0") == (0, 2)


SECRET = re.compile(
    r"(?i)(?:key|token|secret|password)\w*\s*[:=]\s*[\"']?[A-Za-z0-9+/_-]{16,}|AKIA[0-9A-Z]{16}|hf_\w{20}"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_holds_a_secret(path: Path):
    assert not SECRET.findall(path.read_text())


def test_the_search_for_secrets_finds_some():
    assert SECRET.search("GEMINI_API_KEY=AbCdEfGhIjKlMnOpQrSt") and SECRET.search("auth_token: 0123456789abcdef0123")


def test_the_image_copies_what_exists():
    text = (CLUSTERS / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    assert re.search(r"^USER ray$", text, re.MULTILINE)
