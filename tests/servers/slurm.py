"""A real SLURM of one node on loopback: munged, slurmctld and slurmd of Debian's packages, in a folder of their own."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

START_SECONDS = 30.0

CPUS = 8
"""What the node says it has: SLURM takes five seconds to end a job that does not want to, and gives its place away only then."""

CONF = """
ClusterName=regmix
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# Besides the life of a credential, this is how long SLURM lets a requeued job wait (120 s unless said).
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=1
InactiveLimit=0
MinJobAge={min_job_age}
SlurmctldTimeout=30
SlurmdTimeout=60
MessageTimeout=5
{more}
SlurmdParameters=config_overrides
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes=localhost Default=YES PriorityTier=1 MaxTime=60 State=UP
PartitionName=high Nodes=localhost PriorityTier=10 PreemptMode=OFF MaxTime=60 State=UP
PartitionName=short Nodes=localhost PriorityTier=1 MaxTime=2 State=UP
"""


class SlurmUnavailableError(Exception):
    """SLURM cannot be started here; says why."""


@dataclass
class SlurmServer:
    """The running servers.

    Attributes:
        folder: Where everything of theirs lies.
        environment: Variables that SLURM's commands need.
    """

    folder: Path
    environment: Mapping[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start ``munged``, ``slurmctld`` or ``slurmd``."""
        munge = self.folder / "munge"
        arguments = {
            "munged": [
                *("--foreground", "--force", f"--socket={munge}/socket", f"--key-file={munge}/key", f"--pid-file={munge}/pid"),
                *(f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--num-threads=2"),
            ],
            "slurmctld": ["-D", "-i"],
            "slurmd": ["-D"],
        }[name]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [binary(name), *arguments], env=dict(os.environ) | dict(self.environment), stdout=log, stderr=log
            )

    def stop(self, name: str, kill: bool = False) -> None:
        """End one of them; `kill`: with SIGKILL."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def ask(self, *command: str) -> str:
        """What a command of SLURM's answers; the text of an error included."""
        return subprocess.run(
            command,
            env=dict(os.environ) | dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        ).stdout

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until jobs can run."""
        end = time.monotonic() + seconds
        while not self.ask("sinfo", "--noheader", "--format=%T", "--partition=low").strip().startswith(("idle", "mix", "alloc")):
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            if dead or time.monotonic() > end:
                raise SlurmUnavailableError(f"SLURM does not start ({', '.join(dead) or 'no idle node'}):\n{self.logs()}")
            time.sleep(0.1)

    def steps(self) -> list[psutil.Process]:
        """The processes of jobs, and the slurmstepd above them."""
        found, ours = [], f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                # Read as it is: slurmstepd's begins with holes, since it writes its title there, and psutil stops at the first.
                variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                job = any(each.startswith(b"SLURM_JOB_ID=") for each in variables)
                if ours in variables and (job or process.name() == "slurmstepd"):
                    found.append(process)
        return found

    def logs(self) -> str:
        """The last lines of all logs."""
        return "\n".join(f"{path.name}: " + "\n  ".join(path.read_text().splitlines()[-8:]) for path in self.folder.glob("*.log"))

    def close(self) -> None:
        """End all jobs and servers."""
        # Without its controller and its daemon SLURM starts nothing new while we end what runs.
        for name in [name for name in self.processes if name != "munged"]:
            self.stop(name, kill=True)
        while steps := self.steps():
            for process in steps:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(steps, 1)
        for name in list(self.processes):
            self.stop(name, kill=True)


def binary(name: str) -> str:
    """Path of a server; those of Debian are in folders that a user's PATH lacks."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        raise SlurmUnavailableError(f"{name} is not installed (Debian: slurm-wlm and munge)")
    return found


@contextlib.contextmanager
def slurm_server(min_job_age: int = 300, more: str = "") -> Iterator[SlurmServer]:
    """Start it, wait until jobs can run, and end it.

    Args:
        min_job_age: Seconds for which SLURM remembers a job that has ended (2 or more).
        more: Further lines of slurm.conf.

    Raises:
        SlurmUnavailableError: If it cannot run here.
    """
    for name in ("munged", "slurmctld", "slurmd"):
        binary(name)
    for name in ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo"):
        if shutil.which(name) is None:
            raise SlurmUnavailableError(f"{name} is not installed (Debian: slurm-client)")
    # Not below pytest's folder: sockets have short names.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(mode=0o755)
        key = folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        controller, node = _free_ports(2)
        conf = folder / "slurm.conf"
        conf.write_text(
            CONF.format(
                host=socket.gethostname(),
                controller=controller,
                node=node,
                user=pwd.getpwuid(os.getuid()).pw_name,
                folder=folder,
                min_job_age=min_job_age,
                cpus=CPUS,
                more=more,
            )
        )
        server = SlurmServer(folder, {"SLURM_CONF": str(conf)})
        try:
            server.start("munged")
            end = time.monotonic() + START_SECONDS
            while not (folder / "munge" / "socket").exists():
                if server.processes["munged"].poll() is not None or time.monotonic() > end:
                    raise SlurmUnavailableError(f"munged does not start:\n{server.logs()}")
                time.sleep(0.02)
            server.start("slurmctld")
            server.start("slurmd")
            server.wait_until_ready()
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
