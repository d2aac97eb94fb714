"""What the SLURM executor makes of SLURM's words: commands that are scripts here, for what a real cluster does too rarely."""

from __future__ import annotations

import builtins
import logging
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from regmix_active.config.execution import SlurmConfig
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.execution import slurm_commands
from regmix_active.execution.slurm import SlurmExecutor
from regmix_active.execution.slurm_call import write_end
from regmix_active.execution.slurm_commands import Patience, Seen

pytest.importorskip("submitit", reason="submitit is not installed (pip install 'regmix-active[slurm]')")

PATIENCE = Patience(look=0.01, rarely=0.02, grace=0.1, silence=0.2, stuck=0.05, controller=0.3)


class Cluster:
    """Commands of SLURM's that answer what a test wants, and write down what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("sbatch", "srun", "squeue", "scancel", "scontrol"):
            script = folder / name
            script.write_text(
                f'#!/bin/sh\ncd {folder}\necho "$@" >> {name}.asked\n[ -s {name}.fails ] && {{ cat {name}.fails >&2; exit 1; }}\n'
                f"cat {name}.says 2> /dev/null\nexit 0\n"
            )
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.says("sbatch", "Submitted batch job 7")

    def says(self, name: str, text: str) -> None:
        """Let a command print something."""
        self._put(f"{name}.says", text)

    def fails(self, name: str, text: str) -> None:
        """Let a command fail; with nothing, succeed again."""
        self._put(f"{name}.fails", text)

    def asked(self, name: str) -> list[str]:
        """Arguments of all calls of a command."""
        file = self.folder / f"{name}.asked"
        return file.read_text().splitlines() if file.exists() else []

    def _put(self, name: str, text: str) -> None:
        (self.folder / f"{name}.new").write_text(text)
        (self.folder / f"{name}.new").replace(self.folder / name)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("regmix_active.execution.slurm.PAUSE_SECONDS", 0.01)
    return Cluster(folder)


def nothing(path: str, device: str) -> None:
    """A task."""
    Path(path).with_suffix(".done").write_text(device)


def executor(folder: Path, workers: int = 0, **settings: Any) -> SlurmExecutor:
    return SlurmExecutor(nothing, SlurmConfig(**settings), folder, workers, PATIENCE)


def jobs(folder: Path, n: int) -> list[Path]:
    paths = [folder / f"j{i}.job" for i in range(n)]
    for path in paths:
        path.write_text("")
    return paths


def wait_for(run: SlurmExecutor) -> list[tuple[Path, str | None]]:
    return run.poll(10)


def ends_of(run: SlurmExecutor) -> dict[str, Path]:
    """Where the jobs in the queue will leave their notes, by id."""
    return {each.id: run._file(each.uid, "end") for each in run._elements}


def test_a_note_ends_a_job_whatever_the_queue_says(cluster: Cluster, tmp_path: Path) -> None:
    good, bad, garbled = jobs(tmp_path, 3)
    cluster.says("squeue", "7_0|RUNNING|None\n7_1|RUNNING|None\n7_2|PENDING|Resources\n")
    with executor(tmp_path) as run:
        for job in (good, bad, garbled):
            run.submit(job)
        assert run.poll(0.2) == []
        assert run.running == {good, bad}
        ends = ends_of(run)
        write_end(ends["7_0"], None)
        write_end(ends["7_1"], "ValueError: no")
        ends["7_2"].write_text("{")
        reports = dict(wait_for(run))
        assert reports[good] is None
        assert reports[bad] == "ValueError: no"
        assert "its note cannot be read" in str(reports[garbled])
        assert run.poll() == [], "each is reported once"
    batch = next((tmp_path / "slurm").glob("*_submission.sh")).read_text()
    assert "--array=0-2%3" in batch
    assert "--requeue" in batch
    assert "--time=240" in batch


def test_a_forgotten_job_ends_after_a_grace_and_takes_a_late_note(cluster: Cluster, tmp_path: Path) -> None:
    lost, late = jobs(tmp_path, 2)
    with executor(tmp_path) as run:
        run.submit(lost)
        run.submit(late)
        assert run.poll(0.05) == [], "the queue is empty, but file systems may be slow"
        write_end(ends_of(run)["7_1"], None)
        assert wait_for(run) == [(late, None)]
        [(job, reason)] = wait_for(run)
        assert job == lost
        assert reason == "job 7_0 ended without a result (SLURM says: nothing more)"


def test_a_cancelled_job_may_be_submitted_again(cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hung, other = jobs(tmp_path, 2)
    cluster.says("squeue", "7_0|RUNNING|None\n7_1|RUNNING|None\n")
    with executor(tmp_path) as run:
        run.submit(hung)
        run.submit(other)
        assert run.poll(0.1) == []
        old = ends_of(run)["7_0"]
        cluster.fails("scancel", "scancel: error: Unable to contact slurm controller")
        run.cancel(hung)
        assert run.running == {other}
        assert "scancel: Unable to contact slurm controller; trying again in" in caplog.text
        write_end(old, None)
        cluster.fails("scancel", "")
        cluster.says("sbatch", "Submitted batch job 8")
        cluster.says("squeue", "7_0|RUNNING|None\n7_1|RUNNING|None\n8|RUNNING|None\n")
        run.submit(hung)
        assert run.poll(0.3) == [], "the note of what was cancelled says nothing about the new attempt"
        assert cluster.asked("scancel")[-1] == "--quiet 7_0", "again, because it still runs"
        write_end(ends_of(run)["8"], None)
        assert wait_for(run) == [(hung, None)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("TIMEOUT|TimeLimit", "TIMEOUT, TimeLimit; raise execution.slurm.minutes"),
        ("OUT_OF_MEMORY|OutOfMemory", "raise execution.slurm.memory_gb"),
        ("NODE_FAIL|None", "SLURM says: NODE_FAIL)"),
        ("PENDING|launch failed requeued held", "SLURM gave up starting it (PENDING, launch failed requeued held)"),
    ],
)
def test_reasons(cluster: Cluster, tmp_path: Path, row: str, words: str) -> None:
    [job] = jobs(tmp_path, 1)
    cluster.says("squeue", f"7|{row}\n")
    with executor(tmp_path) as run:
        run.submit(job)
        if "held" not in row:
            log = "submitit INFO (now) - Starting\nsrun: error: it was Killed\n"
            run.poll(0)
            (tmp_path / "slurm" / "7_0_log.err").write_text(log)
        [(ended, reason)] = wait_for(run)
    assert ended == job
    assert words in str(reason)
    if "held" in row:
        assert "--quiet 7" in cluster.asked("scancel")
    else:
        assert str(reason).endswith("7_0_log.err ends: srun: error: it was Killed")


def test_a_preempted_job_that_is_not_requeued_is_submitted_again(cluster: Cluster, tmp_path: Path) -> None:
    [job] = jobs(tmp_path, 1)
    cluster.says("squeue", "7|PREEMPTED|None\n")
    with executor(tmp_path) as run:
        run.submit(job)
        run.poll(0)
        cluster.says("sbatch", "Submitted batch job 8")
        while "8" not in ends_of(run):
            assert run.poll(0.02) == []
        cluster.says("squeue", "8|RUNNING|None\n")
        write_end(ends_of(run)["8"], None)
        assert wait_for(run) == [(job, None)]


def test_silence_ends_a_running_job_but_not_a_waiting_one(cluster: Cluster, tmp_path: Path) -> None:
    silent, alive, waiting = jobs(tmp_path, 3)
    cluster.says("squeue", "7_0|RUNNING|None\n7_1|RUNNING|None\n7_2|PENDING|Priority\n")
    with executor(tmp_path) as run:
        for job in (silent, alive, waiting):
            run.submit(job)
        run.poll(0)
        pulses = {one: end.with_name(end.name.replace(".end.json", ".pulse")) for one, end in ends_of(run).items()}
        for pulse in pulses.values():
            pulse.touch()
        reports: list[tuple[Path, str | None]] = []
        while not reports:
            reports = run.poll(0.05)
            pulses["7_1"].touch()
        [(job, reason)] = reports
        assert job == silent
        assert "no sign of life" in str(reason)
        assert "--quiet 7_0" in cluster.asked("scancel")


def test_workers_limit_all_arrays_together(cluster: Cluster, tmp_path: Path) -> None:
    first, second = jobs(tmp_path, 5)[:3], jobs(tmp_path, 5)[3:]
    with executor(tmp_path, workers=2) as run:
        cluster.says("squeue", "".join(f"7_{i}|PENDING|None\n" for i in range(3)))
        for job in first:
            run.submit(job)
        run.poll(0)
        assert "--array=0-2%2" in next((tmp_path / "slurm").glob("7_submission.sh")).read_text()
        cluster.says("sbatch", "Submitted batch job 8")
        for job in second:
            run.submit(job)
        run.poll(0)
        assert len(cluster.asked("sbatch")) == 1, "there is no room"
        for one in ("7_0", "7_1"):
            write_end(ends_of(run)[one], None)
        assert {path for path, _ in wait_for(run)} == set(first[:2])
        run.poll(0)
        assert "--array=0-1%1" in next((tmp_path / "slurm").glob("8_submission.sh")).read_text()


def test_trouble_is_borne_for_a_while(cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first, second = jobs(tmp_path, 2)
    away = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    cluster.fails("squeue", away)
    with executor(tmp_path) as run:
        run.submit(first)
        assert run.poll(0.1) == []
        assert cluster.asked("sbatch") == [], "it looks for jobs of an earlier driver first"
        cluster.fails("squeue", "")
        cluster.fails("sbatch", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
        time.sleep(0.05)
        assert run.poll(0.1) == []
        cluster.fails("sbatch", "")
        cluster.says("squeue", "7|RUNNING|None\n")
        while not run.running:
            assert run.poll(0.02) == []
        assert "answers again" in caplog.text
        # What it has accepted once it refuses for a reason that passes.
        cluster.fails(
            "sbatch", "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates policy"
        )
        run.submit(second)
        assert run.poll(1.0) == [], "as long as the first runs"
        write_end(ends_of(run)["7"], None)
        assert wait_for(run) == [(first, None)]
        with pytest.raises(ProxyError, match=r"sbatch has failed for .* SLURM says: AssocMaxSubmitJobLimit; .*Job violates"):
            run.poll(5)
    assert any(line.startswith("--quiet --user=") for line in cluster.asked("scancel"))


def test_commands_without_a_configuration_are_no_cluster(cluster: Cluster, tmp_path: Path) -> None:
    cluster.fails(
        "squeue", "squeue: error: fetch_config: DNS SRV lookup failed\nsqueue: fatal: Could not establish a configuration source"
    )
    with executor(tmp_path) as run:
        run.submit(*jobs(tmp_path, 1))
        with pytest.raises(ConfigError, match=r"execution\.executor: .*no SLURM is configured"):
            run.poll(5)


def test_an_array_that_is_too_long_goes_out_in_parts(cluster: Cluster, tmp_path: Path) -> None:
    limited = """#!/bin/sh
grep -q "array=0-[2-9]" "$1" && { echo "sbatch: error: Batch job submission failed: Invalid job array specification" >&2; exit 1; }
n=$(cat %s 2> /dev/null | wc -l); echo >> %s
echo "Submitted batch job $n"
"""
    (cluster.folder / "sbatch").write_text(limited.replace("%s", str(tmp_path / "count")))
    with executor(tmp_path) as run:
        for job in jobs(tmp_path, 7):
            run.submit(job)
        run.poll(0)
        assert sorted(ends_of(run)) == ["0", "1", "2", "3", "4", "5", "6"]


def test_a_silent_controller_makes_no_job_silent(cluster: Cluster, tmp_path: Path) -> None:
    [job] = jobs(tmp_path, 1)
    cluster.says("squeue", "7|RUNNING|None\n")
    with executor(tmp_path) as run:
        run.submit(job)
        run.poll(0)
        [end] = ends_of(run).values()
        end.with_name(end.name.replace(".end.json", ".pulse")).touch()
        while not run.running:
            run.poll(0.02)
        cluster.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
        assert run.poll(PATIENCE.silence * 1.2) == []


def test_settings_that_slurm_will_never_grant(cluster: Cluster, tmp_path: Path) -> None:
    [job] = jobs(tmp_path, 1)
    cluster.says("squeue", "7|PENDING|PartitionTimeLimit\n")
    with executor(tmp_path) as run:
        run.submit(job)
        with pytest.raises(ConfigError, match=r"execution\.slurm\.partition, execution\.slurm\.minutes: .* PartitionTimeLimit"):
            run.poll(5)


def test_jobs_of_an_sbatch_that_was_given_up_are_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    [job] = jobs(tmp_path, 1)
    cluster.says("squeue", "7|RUNNING|None\n9_1|RUNNING|None\n9_2|COMPLETED|None\n")
    with executor(tmp_path) as run:
        run.submit(job)
        run.poll(0.2)
        assert cluster.asked("scancel")[0] == "--quiet 7 9_1", "an earlier driver's, before anything is submitted"
        assert cluster.asked("scancel")[1] == "--quiet 9_1"


def test_other_settings_do_not_take_jobs_over(cluster: Cluster, tmp_path: Path) -> None:
    [job] = jobs(tmp_path, 1)
    cluster.says("squeue", "7|PENDING|Priority\n")
    killed = executor(tmp_path, minutes=10)
    killed.submit(job)
    killed.poll(0)
    before = cluster.asked("scancel")
    with executor(tmp_path):
        pass
    assert cluster.asked("scancel") == before, "who submitted nothing ends nothing: the jobs may be those of the study's owner"
    cluster.says("sbatch", "Submitted batch job 8")
    same, other = executor(tmp_path, minutes=10), executor(tmp_path, minutes=20)
    same.submit(job)
    same.poll(0)
    assert [each.id for each in same._elements] == ["7"]
    other.submit(job)
    other.poll(0)
    assert [each.id for each in other._elements] == ["8"]
    assert cluster.asked("scancel")[-1] == "--quiet 7"


def test_what_is_missing_is_said(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, remedy in (("mem", "execution.slurm.memory_gb"), ("job_name", "leave it out")):
        with pytest.raises(ConfigError, match=rf"execution\.slurm\.options\.{key.replace('_', '-')}: .*{remedy}"):
            executor(tmp_path, options={key: "x"})
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="no SLURM here"):
        executor(tmp_path)
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "submitit":
            raise ImportError("No module named 'submitit'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'regmix-active\[slurm\]'"):
        executor(tmp_path)


@pytest.mark.parametrize(
    ("reason", "hopeless"),
    [
        *(
            (reason, False)
            for reason in ("Resources", "Priority", "JobHeldUser", "AssocGrpCpuLimit", "AssocMaxJobsLimit", "BeginTime")
        ),
        *((reason, False) for reason in ("QOSMaxCpuPerUserLimit", "AssocGrpCPURunMinutesLimit", "Nodes required are DOWN")),
        *((reason, True) for reason in ("PartitionNodeLimit", "BadConstraints", "AssocGrpCPUMinutesLimit", "InvalidAccount")),
        *((reason, True) for reason in ("AssocMaxWallDurationPerJobLimit", "QOSMaxGRESPerJob", "PartitionConfig")),
    ],
)
def test_reasons_that_pass_and_reasons_that_do_not(reason: str, hopeless: bool) -> None:
    assert Seen("PENDING", reason).hopeless == hopeless
    assert not Seen("RUNNING", reason).hopeless


def test_the_environment_of_jobs() -> None:
    given = {"PATH": "p", "PGPASSWORD": "x", "REGMIX_ACTIVE_STORAGE": "y", "SLURM_CONF": "c", "SLURM_MEM_PER_NODE": "1"}
    assert slurm_commands.environment(given | {"SQUEUE_STATES": "PD", "SBATCH_ACCOUNT": "a"}) == {
        "PATH": "p",
        "SLURM_CONF": "c",
        "SBATCH_ACCOUNT": "a",
    }
