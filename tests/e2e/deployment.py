"""The services of docker-compose.yml as processes of this machine, beside a real Label Studio.

Each has its command, its environment and its health check from the file; only addresses differ.
PostgreSQL and S3 are real servers, and Redis runs with the file's command.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from backend.errors import QueueError
from backend.processes import running
from backend.processes.supervisor import Child, free_port
from backend.queueing.embedded_redis import embedded_server
from backend.queueing.queues import Queues
from backend.settings import Settings
from backend.wiring import Services, build
from tests import compose_file
from tests.e2e.label_studio_server import LabelStudioServer
from tests.postgresql_server import PostgresqlServer
from tests.registry.s3_server import S3Server

HEALTHY_WITHIN_S = 240.0
PARTS = ("api", "events", "publish", "train", "scheduler")
QUICK = {"TRAIN_AFTER": "10", "QUIET_S": "3", "PREDICT_DEADLINE_S": "60", "OMP_NUM_THREADS": "1"}


class Deployment:
    """What would run in containers; `services` are the test's own view of store and files."""

    def __init__(
        self,
        folder: Path,
        label_studio: LabelStudioServer,
        postgresql: PostgresqlServer,
        s3: S3Server,
    ) -> None:
        redis, api = free_port(0), free_port(0)
        database = urlsplit(postgresql.new_database()).path
        self._chosen = {
            name: "chosen" for name, how in compose_file.variables().items() if how == ":?"
        }
        self._chosen["LABEL_STUDIO_API_KEY"] = label_studio.token
        self._chosen["MODEL_DIR"] = f"s3://{s3.bucket}/deployment"
        self._content = compose_file.read(self._chosen)
        self._s3 = s3.environment
        self._redis_port, self._api_port = str(redis), str(api)
        self._data = folder / "data"
        self._addresses = {
            "@postgres:5432/labelclimb": f"@127.0.0.1:{postgresql.port}{database}",
            "@redis:6379": f"@127.0.0.1:{redis}",
            self.backend_url: f"http://127.0.0.1:{api}",
            "http://label-studio:8080": label_studio.url,
            "0.0.0.0": "127.0.0.1",
            "/data": str(self._data),
        }

    @property
    def backend_url(self) -> str:
        """Our address for Label Studio as the file has it."""
        address: str = compose_file.ours(self._content)["api"]["environment"]["BACKEND_URL"]
        return address

    def environment(self, part: str) -> dict[str, str]:
        """Return the whole environment of a part."""
        given = compose_file.ours(self._content)[part]["environment"]
        inherited = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        here = {key: self._here(value) for key, value in given.items()}
        return {**inherited, **here, **QUICK, **self._s3, "PORT": self._api_port}

    def redis(self) -> Child:
        """Return Redis with the file's command; only its port is another."""
        program = embedded_server(self._data)[0][0]
        command = self._content["services"]["redis"]["command"]
        return Child(
            "redis",
            [program, *command[1:], "--bind", "127.0.0.1", "--port", self._redis_port],
            {},
            ready=self._redis_answers,
        )

    def part(self, name: str) -> Child:
        """Return one of our services, ready when its own health check says so."""
        command = compose_file.ours(self._content)[name]["command"]
        return Child(
            name,
            [*running.labelclimb(), *command],
            self.environment(name),
            ready=lambda: self.complaint(name) is None,
            deadline_s=HEALTHY_WITHIN_S,
        )

    def complaint(self, name: str) -> str | None:
        """Run a service's health check as the engine does; None when it is healthy."""
        kind, program, *arguments = compose_file.ours(self._content)[name]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "labelclimb")
        done = subprocess.run(
            [*running.labelclimb(), *arguments],
            env=self.environment(name),
            capture_output=True,
            text=True,
            check=False,
        )
        return None if done.returncode == 0 else done.stdout + done.stderr

    def services(self) -> Services:
        """Return a view of the same store and files; the caller closes it."""
        return build(Settings.from_env(self.environment("api")))

    def _here(self, value: str) -> str:
        for there, here in self._addresses.items():
            value = value.replace(there, here)
        return value

    def _redis_answers(self) -> bool:
        try:
            Queues(self.environment("api")["REDIS_URL"]).ping()
        except QueueError:
            return False
        return True
