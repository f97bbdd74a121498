"""What holds for the whole tree: nothing runs code that it reads, every cluster is closed, names stay in the folder."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.run_folder import RunFolder
from int_ray.config_file import ConfigError, load_config
from int_ray.metrics import evaluate_set
from tests.factories import group

ROOT = Path(__file__).parents[2]
SOURCES = [path for package in ("int_ray", "actors", "launch") for path in sorted((ROOT / package).rglob("*.py"))]
TEMPLATES = sorted((ROOT / "int_ray/report/templates").glob("*.html"))
CLUSTER_FILES = [path for path in sorted((ROOT / "launch/clusters").iterdir()) if path.suffix in (".yaml", ".sh")]

RUNS_CODE = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "cloudpickle.load",
    "cloudpickle.loads",
    "marshal.loads",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}
OFF = {"trust_remote_code", "allow_pickle", "shell"}  # only ever False
OPENS_DOORS = re.compile(r"INSECURE_SERIALIZATION|VLLM_SERVER_DEV_MODE|0\.0\.0\.0")


def findings(source: str) -> Iterator[str]:
    """What a file does that could run what it reads, or lets strangers in."""
    for node in ast.walk(ast.parse(source)):
        options: dict[object, ast.expr] = {}
        if isinstance(node, ast.Call):
            options = {keyword.arg: keyword.value for keyword in node.keywords}
            if ast.unparse(node.func) in RUNS_CODE:
                yield ast.unparse(node.func)
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            options = {key.value: value for key, value in pairs if isinstance(key, ast.Constant)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and OPENS_DOORS.search(node.value):
            yield node.value
        yield from (f"{name}={ast.unparse(options[name])}" for name in OFF & options.keys() if not_off(options[name]))


def not_off(value: ast.expr) -> bool:
    return not (isinstance(value, ast.Constant) and value.value is False)


def test_nothing_runs_what_it_reads_or_opens_a_door():
    found = {str(path.relative_to(ROOT)): list(findings(path.read_text())) for path in SOURCES}
    assert len(found) > 100 and not {path: what for path, what in found.items() if what}


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(answer)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "options = {'trust_remote_code': config.trust}",
        "subprocess.run(command, shell=True)",
        "os.environ['VLLM_ALLOW_INSECURE_SERIALIZATION'] = '1'",
        "serve(host='0.0.0.0')",
    ],
)
def test_the_search_finds_what_it_is_for(source: str):
    assert list(findings(source))


@pytest.mark.parametrize("path", CLUSTER_FILES, ids=lambda path: path.name)
def test_every_cluster_file_turns_the_token_on(path: Path):
    text = path.read_text()
    assert re.search(r"RAY_AUTH_MODE=token|authOptions: \{mode: token\}|authOptions:\n\s+mode: token", text)
    assert not OPENS_DOORS.search(text)


def test_every_page_has_the_strict_policy_and_loads_nothing():
    base = (ROOT / "int_ray/report/templates/base.html").read_text()
    assert "Content-Security-Policy" in base and "default-src 'none'" in base
    for path in TEMPLATES:
        text = path.read_text().replace("<script>{{ script|safe }}</script>", "")  # the policy names it by its hash
        is_page = "<html" in text or "<body" in text
        assert path.name == "base.html" or not is_page, f"{path.name} has to extend base.html"
        assert not re.search(r"\|\s*safe\b|autoescape false|\son\w+=[\"']|(?:src|href)=[\"']?https?:", text), path.name


OUTSIDE = ["../evil", "/evil", "a/b", "..", ".", "", ".hidden", "a\\b/../c", "a\n", "a b"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("setting", ["evaluate.sets", "evaluate.checkpoints"])
def test_names_that_become_paths_cannot_leave_the_folder(setting: str, name: str):
    quoted = '"' + name.replace("\\", "\\\\").replace("\n", "\\n") + '"'
    with pytest.raises(ConfigError, match="choose a name of letters"):
        load_config(ROOT / "configs/quickstart.yaml", [f"{setting}={{{quoted}: int_ray/chains/data/easy.jsonl}}"])


def test_ids_and_texts_of_problems_never_become_paths(tmp_path: Path):
    evil = "../../evil"
    asked = group("cw")
    asked = replace(asked, problem=replace(asked.problem, id=evil, question=evil, answer=evil))
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.rollouts(1, [asked])
    folder.evaluation(1, "hard", [asked], evaluate_set([asked], (1,), 0))
    folder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run"]
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
