"""Sweeps: each job ends alone, what is finished is not run again, and a table stands at the end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_lab import FAST, Children, ask, config_folder

from eigenzoo.errors import ConfigError
from eigenzoo.harness.sweep import expand, swept

ROOT = Path(__file__).resolve().parents[2]
PLAIN = "experiment=s4d_digits scale=smoke"


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Children:
    monkeypatch.chdir(tmp_path)
    return Children(monkeypatch)


def sweep_folder() -> Path:
    return max(Path("runs/sweeps").iterdir())


def test_the_table_has_the_swept_keys_as_columns(children, capsys):
    answer = ask(f"train -m {PLAIN} model.init=lin,inv seed=0,1", capsys)
    assert answer.code == 0, answer.err
    assert len(children.calls) == 4 and "sweep of 4 jobs" in answer.out and "job 4 of 4" in answer.out
    table = answer.out.split("\n\n")[-1]
    assert re.search(r"^model.init +test/accuracy", table) and "seed" not in table
    assert re.search(r"^lin +0.9050 ± 0.0071 \(2\)", table, re.M) and "++" not in answer.out
    assert re.search(r"^inv +0.9050", table, re.M) and "HYDRA" not in answer.out + answer.err


def test_a_failing_job_is_told_and_the_others_are_kept(children, capsys):
    children.codes[1] = 3
    answer = ask(f"train -m {PLAIN} seed=0,1", capsys)
    assert answer.code == 1 and len(children.calls) == 2
    assert "failed: seed=1: exit code 3" in answer.out and "0.9000" in answer.out


def test_a_fault_that_only_building_finds_fails_its_job_alone(children, capsys):
    answer = ask(f"train -m {PLAIN} model.dim=4,four", capsys)
    assert answer.code == 1 and "failed: model.dim=four: exit code 2" in answer.out
    assert "wants a whole number here, not 'four'" in answer.err or "model.dim" in answer.err


def test_given_again_it_runs_only_what_is_missing(children, capsys):
    ask(f"train -m {PLAIN} seed=0,1", capsys)
    answer = ask(f"train -m {PLAIN} seed=1,2", capsys)
    assert answer.code == 0 and len(children.calls) == 3
    assert answer.out.count("finished before") == 1 and "(2)" in answer.out


def test_stopped_the_remaining_jobs_do_not_start(children, capsys):
    children.codes[1] = 143
    answer = ask(f"train -m {PLAIN} seed=0,1,2", capsys)
    assert answer.code == 143 and len(children.calls) == 2
    assert (
        "cancelled: seed=1: stopped before its end" in answer.out
        and "cancelled: seed=2: not run" in answer.out
    )
    again = ask(f"train -m {PLAIN} seed=0,1", capsys)
    assert again.code == 0 and len(children.calls) == 3


def test_the_keyboard_s_interrupt_between_two_jobs_stops_it(children, capsys, monkeypatch):
    def interrupt(of, line, output, run=children.call):
        code = run(of, line, output)
        os.kill(os.getpid(), signal.SIGINT)
        return code

    children.call, before = interrupt, signal.getsignal(signal.SIGINT)
    answer = ask(f"train -m {PLAIN} seed=0,1", capsys)
    assert answer.code == 143 and len(children.calls) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_folder_of_one_s_own_may_be_swept(children, capsys, tmp_path):
    quick = {"defaults": ["s4d_digits", "_self_"], "experiment_name": "quick", **FAST}
    own = config_folder(tmp_path / "my.own", experiment__quick=quick)
    answer = ask(f"train -m experiment=quick,s4d_digits scale=smoke --config-dir {own}", capsys)
    assert answer.code == 0, answer.err
    assert [line[:2] for line in children.calls] == [["--config-dir", str(own)]] * 2
    assert re.search(r"^quick +0.9", answer.out, re.M)


@pytest.mark.parametrize(
    "node",
    [
        {"callbacks": {"x": {"_target_": "os.system", "command": "true"}}},
        {"launcher": {"_target_": "subprocess.Popen"}},
        {"job_logging": {"handlers": {"x": {"class": "subprocess.Popen", "args": "true"}}}},
        {"hydra_logging": {"handlers": {"x": {"()": "os.system"}}}},
    ],
)
def test_a_config_cannot_have_hydra_run_a_program(node, children, capsys, tmp_path):
    evil = {"defaults": ["s4d_digits", "_self_"], "experiment_name": "evil", "hydra": node}
    own = config_folder(tmp_path / "own", experiment__evil=evil)
    for experiments in ("evil", "s4d_digits,evil"):
        answer = ask(f"train -m experiment={experiments} seed=0,1 --config-dir {own}", capsys)
        assert answer.code == 2 and "is nothing that a config may run" in answer.err
        assert children.calls == []


def test_the_sweep_s_folder_can_be_named_and_used_again(children, capsys):
    for jobs in (2, 1):
        seeds = ",".join(map(str, range(jobs)))
        assert ask(f"train -m {PLAIN} seed={seeds} hydra.sweep.dir=here", capsys).code == 0
    assert sorted(p.name for p in Path("here").glob("job*")) == ["job0.json"]
    assert json.loads(Path("here/job0.json").read_text())["code"] == 0


@pytest.mark.parametrize(("words", "sentence"), [
    ("model.inti=lin,inv modle.dim=1", "model.inti: eigenzoo.models.ssm.SequenceModel takes no such argument"),
    ("modle.init=lin,inv", "config: modle.init: no such key at the root of the config; did you mean 'model'?"),
    ("model=s4d,s44", "model=s44: model: there is no 's44'"),
    ("scale=smoke,tiny", "no scale 'tiny'"),
    ("seed=0,[1", "config: "),
    ("launcher=jobilb seed=0,1", "did you mean 'joblib'"),
])  # fmt: skip
def test_a_fault_of_composition_is_told_before_any_job(words, sentence, children, capsys):
    answer = ask(f"train -m experiment=s4d_digits {words}", capsys)
    assert answer.code == 2 and children.calls == [] and sentence in answer.err
    assert "Traceback" not in answer.err and not Path("runs").exists()


def test_expand_numbers_like_hydra():
    jobs = expand(["experiment=s4d_digits", "model.init=lin,inv", "seed=range(2)", "hydra.launcher.n_jobs=2"])
    assert [job[1:] for job in jobs] == [
        [f"++model.init={init}", f"seed={seed}"] for init in ("lin", "inv") for seed in (0, 1)
    ]
    assert swept(["model.init=lin,inv", "seed=0,1", "model.dim=4"]) == ["model.init", "seed"]
    with pytest.raises(ConfigError):
        expand(["seed=[0,1"])


def test_nested_values_may_be_swept():
    values = "{_target_: eigenzoo.models.ssm.DiagonalInit, name: lin, imag_scale: 0.1}"
    jobs = expand([f"model.init=lin,{values}"])
    assert len(jobs) == 2 and "imag_scale:0.1" in jobs[1][0]


def test_slurm_composes(capsys):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from eigenzoo.harness import schema

    schema.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(schema.config_dir()), version_base="1.3"):
        cfg = compose("train", ["launcher=submitit_slurm"], return_hydra_config=True)
    assert cfg.hydra.launcher._target_.endswith("SlurmLauncher")
    assert cfg.hydra.launcher.signal_delay_s > 0


def small(folder: Path, *words: str) -> list[str]:
    model = ["model.dim=4", "model.depth=1", "model.layer.state_dim=4", "data.batch_size=300", "trainer=cpu"]
    return [sys.executable, str(ROOT / "train.py"), "-m", *PLAIN.split(), *model, f"run_dir={folder}", *words]


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers(tmp_path, launcher):
    words = [f"launcher={launcher}", *(["hydra.launcher.n_jobs=2"] if launcher == "joblib" else [])]
    done = subprocess.run(
        small(tmp_path, "seed=0,1", "model.init=lin,foo", *words), capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert re.search(r"^lin +0\.\d+ ± 0\.\d+ \(2\)", done.stdout, re.M)
    assert done.stdout.count("model.init=foo: exit code 2") == 2


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["launcher=joblib", "hydra.launcher.n_jobs=2"]])
def test_a_signal_stops_the_children_resumably(tmp_path, words):
    line = small(tmp_path, "seed=0,1", "trainer.max_epochs=400", *words)
    sweep = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wanted = 2 if words else 1
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(tmp_path.glob("s4d_digits-*/metrics.jsonl"))) < wanted:
        time.sleep(0.2)
    sweep.send_signal(signal.SIGTERM)
    out, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 143 and "the same command goes on" in out, out
    folders = list(tmp_path.glob("s4d_digits-*"))
    assert len(folders) == wanted and all((f / "last.ckpt").exists() for f in folders)
    assert all(json.loads((f / "state.json").read_text())["status"] == "Interrupted" for f in folders)
