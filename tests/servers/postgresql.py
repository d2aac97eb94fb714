"""A real PostgreSQL on loopback, from Debian's binaries, in a temporary folder: started, restarted and killed at will.

with running() as server:
    open_storage(server.url())
    server.restart("immediate")
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import quote

ROLE, PASSWORD = "driver", "s3cret/p:ss@word"

Mode = Literal["smart", "fast", "immediate"]
SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


def why_not() -> str | None:
    """Why no server can run here; None if one can. The reason for a skip."""
    if _programs() is None:
        return "PostgreSQL's server programs are not installed (Debian: postgresql)"
    if os.geteuid() == 0 and _user() is None:
        return "PostgreSQL refuses to run as root, and there is no user postgres"
    return None


class Server:
    """One cluster. It stops with :meth:`stop`, or with the context of :func:`running`."""

    def __init__(self, folder: Path) -> None:
        """Make a cluster in an empty folder; it is not started.

        Args:
            folder: Where; it must be reachable for the user that the server runs as.
        """
        programs = _programs()
        assert programs is not None
        self.folder, self._programs = folder, programs
        self._user = _user() if os.geteuid() == 0 else None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if self._user is not None:
            shutil.chown(folder, self._user)
            shutil.chown(secret, self._user)
        self._run("initdb", "-D", str(folder / "data"), "-U", ROLE, "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8")
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", *, password: bool = True, port: int | None = None) -> str:
        """Storage URL of a database."""
        secret = f":{quote(PASSWORD, safe='')}" if password else ""
        return f"postgresql://{ROLE}{secret}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start, and wait until it lets clients in."""
        # A crash of the server alone loses nothing that it handed to the system, so the disk need not be waited for.
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data"), *options]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, user=self._user, cwd=self.folder, start_new_session=True
            )
        end = time.monotonic() + 60
        while subprocess.run(self._ready, capture_output=True, check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"PostgreSQL did not start:\n{(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self, mode: Mode = "fast") -> None:
        """Stop; `immediate` is a crash, from which the next start recovers."""
        self._end(SIGNALS[mode])

    def kill(self) -> None:
        """SIGKILL the server's main process; what it served dies a moment later."""
        self._end(signal.SIGKILL)
        # The others hold the memory of the cluster until they notice.
        end = time.monotonic() + 10
        while time.monotonic() < end and subprocess.run(self._ready, capture_output=True, check=False).returncode != 2:
            time.sleep(0.05)

    def restart(self, mode: Mode = "immediate", pause: float = 0.0) -> None:
        """Stop, stay away for `pause` seconds, start."""
        self.stop(mode)
        time.sleep(pause)
        for attempt in range(20):
            try:
                return self.start()
            except RuntimeError:
                if attempt == 19:
                    raise
                time.sleep(0.25)

    @contextlib.contextmanager
    def restarting(self, every: float, mode: Mode = "immediate", pause: float = 0.0) -> Iterator[list[float]]:
        """Restart again and again in the background; yields the times at which it did."""
        times: list[float] = []
        done = threading.Event()

        def again() -> None:
            while not done.wait(every):
                self.restart(mode, pause)
                times.append(time.monotonic())

        thread = threading.Thread(target=again)
        thread.start()
        try:
            yield times
        finally:
            done.set()
            thread.join()

    def sql(self, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run statements, each for itself; rows of the last one."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements[:-1]:
                connection.execute(statement.encode())
            cursor = connection.execute(statements[-1].encode())
            return list(cursor.fetchall()) if cursor.description is not None else []

    def end_connections(self, where: str = "state = 'idle'") -> int:
        """`pg_terminate_backend` on clients' connections; returns how many there were."""
        rows = self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND {where}"
        )
        return len(rows)

    @property
    def _ready(self) -> list[str]:
        return [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, user=self._user, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr}")


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A started server, gone afterwards with all that it held."""
    # Not in pytest's folders: those belong to one user.
    folder = Path(tempfile.mkdtemp(prefix="regmix-postgresql-"))
    try:
        server = Server(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    """Folder of the newest server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    elsewhere = shutil.which("initdb")
    return Path(elsewhere).resolve().parent if elsewhere else None


def _user() -> str | None:
    import pwd

    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return None
