"""The launchers: which exit codes start a job again, the arguments of every host, and manifests of the documented form."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from launch import local

ROOT = Path(__file__).parents[2]
AGAIN, NEVER = (42, 75, 134, 137, 143), (0, 1, 64, 65, 66, 74, 76, 78)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("code, restarts", [*((c, 0) for c in (*AGAIN, *NEVER)), (75, 19), (75, 20)])
def test_a_job_goes_back_into_the_queue_after_the_codes_that_resume(tmp_path, code, restarts):
    script(tmp_path / "srun", f"exit {code}")
    script(tmp_path / "scontrol", f'echo "$@" > {tmp_path / "asked"}')
    path = f"{tmp_path}:{os.environ['PATH']}"
    job = {"PATH": path, "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    done = subprocess.run(["bash", "launch/slurm.sh", "--config=x"], cwd=ROOT, env=job, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    asked = (tmp_path / "asked").read_text().strip() if (tmp_path / "asked").exists() else ""
    assert asked == ("requeue 7" if code in AGAIN and restarts < 20 else "")


def test_a_task_of_a_comparison_passes_the_signal_on_and_is_started_again(tmp_path):
    stopped = f'trap "exit 42" TERM; echo "$@" > {tmp_path / "words"}; while :; do sleep 0.05; done'
    python, scontrol = script(tmp_path / "python", stopped), f'echo "$@" > {tmp_path / "asked"}'
    script(tmp_path / "scontrol", scontrol)
    job = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "PYTHON": str(python)}
    with subprocess.Popen(["bash", "launch/compare.sh", "brats_compare"], cwd=ROOT, env=job) as task:
        while not (tmp_path / "words").exists():
            time.sleep(0.05)
        task.send_signal(signal.SIGTERM)
        assert task.wait(20) == 42
    assert (tmp_path / "words").read_text() == "-m jaxseg compare brats_compare\n"
    assert (tmp_path / "asked").read_text() == "requeue 7\n"


@pytest.mark.parametrize("signalled", [False, True])
def test_every_host_gets_its_number_and_the_highest_code_is_returned(tmp_path, signalled):
    ssh = script(tmp_path / "ssh", 'cd /; exec bash -c "$2"')  # a host that is this one
    each = f'echo "$PWD $@" > {tmp_path}/host${{!#}}'
    ends = 'trap "exit 42" TERM; while :; do sleep 0.05; done' if signalled else 'case "${!#}" in *1) exit 75;; esac'
    jaxseg = script(tmp_path / "jaxseg", f"{each}; {ends}")
    environment = {**os.environ, "SSH": str(ssh), "JAXSEG": str(jaxseg), "PORT": "99"}
    command = ["bash", "launch/ssh.sh", "a,b,c", "train", "my config", "--workdir=/x"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True) as launched:
        if signalled:
            while len(list(tmp_path.glob("host*"))) < 3:
                time.sleep(0.05)
            launched.send_signal(signal.SIGTERM)
        assert launched.wait(30) == (42 if signalled else 75)
    for i in range(3):
        told = (tmp_path / f"host--process_id={i}").read_text()
        assert told == f"{ROOT} train my config --workdir=/x --coordinator=a:99 --num_processes=3 --process_id={i}\n"


def test_the_local_launcher_ends_the_others_and_says_as_a_shell_does_which_signal_ended_one():
    killed, waiting = (subprocess.Popen(["bash", "-c", text]) for text in ("kill -KILL $$", "sleep 60"))
    assert local._watch([killed, waiting], grace=0.1) == 137
    assert waiting.returncode == -signal.SIGKILL


def only(content: dict, *keys: str) -> dict:
    """The content, which has no other keys (Kubernetes drops what it does not know)."""
    assert content.keys() <= set(keys), content.keys() - set(keys)
    return content


@pytest.mark.parametrize("name", ["kubernetes", "compare", "jobset"])
def test_a_manifest_has_documented_fields_alone_and_ends_for_good_after_the_codes_that_never_resume(name):
    whole = [d for d in yaml.safe_load_all((ROOT / f"launch/{name}.yaml").read_text()) if d["kind"] != "Service"][0]
    only(whole, "apiVersion", "kind", "metadata", "spec")
    job = whole["spec"]
    if name == "jobset":
        assert (whole["apiVersion"], whole["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
        only(whole["spec"], "failurePolicy", "replicatedJobs", "network", "successPolicy", "startupPolicy", "suspend")
        policy = only(whole["spec"]["failurePolicy"], "maxRestarts", "rules", "restartStrategy")
        (rule,) = policy["rules"]
        only(rule, "name", "action", "onJobFailureReasons", "targetReplicatedJobs")
        assert rule["name"] and rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]
        (replicated,) = whole["spec"]["replicatedJobs"]
        job = only(only(replicated, "name", "replicas", "template")["template"], "metadata", "spec")["spec"]
        host = f"{whole['metadata']['name']}-{replicated['name']}-0-0.{whole['metadata']['name']}:8476"
        assert {"name": "JAXSEG_COORDINATOR", "value": host} in job["template"]["spec"]["containers"][0]["env"]
    else:
        assert (whole["apiVersion"], whole["kind"]) == ("batch/v1", "Job")
    limits = ("backoffLimit", "backoffLimitPerIndex", "maxFailedIndexes")
    only(job, "completions", "parallelism", "completionMode", "podFailurePolicy", "template", *limits)
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # which a podFailurePolicy needs
    (codes,) = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert codes["values"] == [64, 65, 66, 76, 78] and codes["operator"] == "In"
    mounted = {m["name"] for m in job["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert mounted == {v["name"] for v in job["template"]["spec"]["volumes"]}
