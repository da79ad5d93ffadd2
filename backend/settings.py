"""Every setting: its name in the environment, default, allowed values and meaning.

The only place that reads the environment; `docs/settings.md` is this table, kept so by a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from backend.errors import SettingsError
from backend.records import Weighting
from backend.settings_parts import (
    LONGEST_WAIT_S,
    FolderOrUrl,
    Hosts,
    HttpUrl,
    LogLevel,
    PipelineName,
    StrategyName,
    Weights,
    default_backend_url,
    default_text,
    env_names,
    extra,
    setting,
)

HIDDEN = "(hidden)"


class Settings(BaseSettings):
    """The validated, frozen settings; made by `from_env`, or by field names in tests."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=()
    )

    label_studio_url: HttpUrl = setting(
        "LABEL_STUDIO_URL LABEL_STUDIO_HOST",
        "http://localhost:8080",
        "an http or https address",
        "Address of Label Studio as this machine reaches it.",
    )
    label_studio_api_key: SecretStr | None = setting(
        "LABEL_STUDIO_API_KEY",
        None,
        "a personal access token or a legacy token",
        "Key for Label Studio's API, from its page Account & Settings.",
        secret=True,
    )
    data_dir: Path = setting(
        "DATA_DIR",
        Path("labelclimb-data"),
        "a folder",
        "Folder of the database, images at rest, credentials and trained versions.",
    )
    model_dir: FolderOrUrl = setting(
        "MODEL_DIR",
        lambda above: above["data_dir"] / "models",
        "a folder, or an address like s3://bucket/prefix",
        "Where the trained versions are kept: a folder, or an object store for many machines.",
        shown="DATA_DIR/models",
    )
    max_version_cache_bytes: int = setting(
        "MAX_VERSION_CACHE_BYTES",
        5_000_000_000,
        "bytes, 0 or more",
        "Room in DATA_DIR for versions read from an object store; the longest unused go first.",
        ge=0,
    )
    keep_versions: int = setting(
        "KEEP_VERSIONS",
        20,
        "a number from 1",
        "Newest versions of a project that pruning leaves whole; see operations.md.",
        ge=1,
    )
    database_url: str = setting(
        "DATABASE_URL",
        lambda above: f"sqlite:///{above['data_dir']}/labelclimb.db",
        "sqlite:///file or postgresql://user:password@host/name",
        "The store: SQLite on one machine, PostgreSQL on many.",
        shown="sqlite:///DATA_DIR/labelclimb.db",
        secret=True,
        pattern="^(sqlite|postgres)",
    )
    host: str = setting(
        "HOST",
        "127.0.0.1",
        "an address of this machine",
        "Address that `serve` listens on; see Credentials below before opening it to a network.",
        min_length=1,
    )
    port: int = setting(
        "PORT", 9090, "a number from 1 to 65535", "Port that `serve` listens on.", ge=1, le=65535
    )
    backend_url: HttpUrl = setting(
        "BACKEND_URL",
        default_backend_url,
        "an http or https address",
        "Address at which Label Studio reaches this backend; set it when they share no machine.",
        shown="http://HOST:PORT",
    )
    basic_auth_user: str | None = setting(
        "BASIC_AUTH_USER",
        None,
        "a name without a colon",
        "User that callers must give; made up and kept in DATA_DIR when unset.",
        pattern="^[^:]+$",
    )
    basic_auth_pass: SecretStr | None = setting(
        "BASIC_AUTH_PASS",
        None,
        "a password",
        "Password that callers must give; made up and kept in DATA_DIR when unset.",
        secret=True,
    )
    webhook_secret: SecretStr | None = setting(
        "WEBHOOK_SECRET",
        None,
        "a secret text",
        "Header value that webhooks must carry; made up and kept in DATA_DIR when unset.",
        secret=True,
    )
    redis_host: str | None = setting(
        "REDIS_HOST", None, "a host name", "Redis, when REDIS_URL is not set.", min_length=1
    )
    redis_port: int = setting(
        "REDIS_PORT", 6379, "a number from 1 to 65535", "Port of REDIS_HOST.", ge=1, le=65535
    )
    redis_url: str = setting(
        "REDIS_URL",
        lambda above: f"redis://{above['redis_host'] or 'localhost'}:{above['redis_port']}/0",
        "redis://, rediss:// or unix://",
        "Redis of the job queues. `up` starts its own when neither this nor REDIS_HOST is set, "
        "and commands on the same DATA_DIR use it.",
        shown="redis://REDIS_HOST:REDIS_PORT/0",
        secret=True,
        pattern="^(redis|rediss|unix)://",
    )
    log_level: LogLevel = setting(
        "LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR", "How much is logged."
    )
    device: str = setting(
        "DEVICE",
        "auto",
        "auto, cpu, cuda or cuda:N",
        "Where networks run; auto takes a GPU when there is one.",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
    )
    profile: Literal["cpu", "gpu"] = setting(
        "PROFILE", "cpu", "cpu or gpu", "Size and length of trainings; gpu is the paper's."
    )
    pipeline: PipelineName = setting(
        "PIPELINE",
        "auto",
        "the name of a pipeline",
        "How new versions turn images into masks; auto chooses for each class.",
    )
    train_processes: int = setting(
        "TRAIN_PROCESSES",
        1,
        "a number from 1",
        "Processes that share one training, each on a GPU of its own; see operations.md.",
        ge=1,
    )
    train_timeout_s: int = setting(
        "TRAIN_TIMEOUT_S",
        86_400,
        "seconds, 60 or more",
        "Longest time of one training; one that takes longer is stopped, see operations.md.",
        ge=60,
        le=LONGEST_WAIT_S,
    )
    encoder_weights: Weights = setting(
        "ENCODER_WEIGHTS",
        None,
        "a safetensors file, or hub to let timm download",
        "Pretrained encoder; trainings start from random weights when unset.",
    )
    seed: int = setting(
        "SEED", 0, "a number from 0", "Seed of trainings and strategies.", ge=0, lt=2**32
    )
    strategy: StrategyName = setting(
        "STRATEGY",
        "entropy",
        "the name of a strategy",
        "Order of tasks in newly connected projects.",
    )
    weighting: Weighting = setting(
        "WEIGHTING",
        "off",
        "off, hard_first or curriculum",
        "Finished tasks that trainings look at more often, in newly connected projects: those long "
        "to edit, or first those short and later those long to edit; see strategies.md.",
    )
    train_after: int = setting(
        "TRAIN_AFTER",
        100,
        "a number from 1",
        "New weak labels that start a training, in newly connected projects.",
        ge=1,
    )
    quiet_s: float = setting(
        "QUIET_S",
        30.0,
        "seconds, 0 or more",
        "Pause of the annotators that a training waits for, in newly connected projects.",
        ge=0,
        le=LONGEST_WAIT_S,
        allow_inf_nan=False,
    )
    max_wait_s: float = setting(
        "MAX_WAIT_S",
        900.0,
        "seconds, 0 or more",
        "Longest wait for that pause, in newly connected projects.",
        ge=0,
        le=LONGEST_WAIT_S,
        allow_inf_nan=False,
    )
    rollback: Literal["propose", "auto", "off"] = setting(
        "ROLLBACK",
        "propose",
        "propose, auto or off",
        "What follows when annotators take a new version's proposals clearly less than the former "
        "one's, in newly connected projects; see operations.md.",
    )
    max_regions: int = setting(
        "MAX_REGIONS",
        8,
        "a number from 1 to 1000",
        "Proposed regions per class and image; of more, the smallest are joined into one.",
        ge=1,
        le=1000,
    )
    bulk_trust: float = setting(
        "BULK_TRUST",
        0.25,
        "a number from 0 to 1",
        "Trust in annotations made from predictions in bulk, or unchanged without a known time.",
        ge=0,
        le=1,
        allow_inf_nan=False,
    )
    fast_trust: float = setting(
        "FAST_TRUST",
        0.5,
        "a number from 0 to 1",
        "Trust in annotations that were accepted suspiciously fast; see Trust below.",
        ge=0,
        le=1,
        allow_inf_nan=False,
    )
    fast_accept_s: float = setting(
        "FAST_ACCEPT_S",
        2.0,
        "seconds, 0 or more",
        "An unchanged annotation that took less is suspiciously fast.",
        ge=0,
        allow_inf_nan=False,
    )
    fast_accept_share: float = setting(
        "FAST_ACCEPT_SHARE",
        0.2,
        "a number from 0 to 1",
        "So is one that took less than this share of its annotator's median for unchanged ones.",
        ge=0,
        le=1,
        allow_inf_nan=False,
    )
    fast_accept_run: int = setting(
        "FAST_ACCEPT_RUN",
        10,
        "a number from 0; 0 = no such rule",
        "So are this many in a row that took less than twice FAST_ACCEPT_S each.",
        ge=0,
    )
    reconcile_every_s: float = setting(
        "RECONCILE_EVERY_S",
        300.0,
        "seconds, 1 or more",
        "How often the store is compared with Label Studio, to fetch events that never arrived.",
        ge=1,
        allow_inf_nan=False,
    )
    predict_deadline_s: float = setting(
        "PREDICT_DEADLINE_S",
        10.0,
        "seconds, more than 0",
        "Longest time that an opened task waits for a proposal that is not stored yet.",
        gt=0,
        allow_inf_nan=False,
    )
    max_image_bytes: int = setting(
        "MAX_IMAGE_BYTES", 100_000_000, "bytes, 1 or more", "Larger image files are refused.", ge=1
    )
    max_image_pixels: int = setting(
        "MAX_IMAGE_PIXELS",
        100_000_000,
        "pixels, 1 or more",
        "Images with more pixels are refused before decoding.",
        ge=1,
    )
    max_cache_bytes: int = setting(
        "MAX_CACHE_BYTES",
        5_000_000_000,
        "bytes, 0 or more",
        "Room for downloaded images in DATA_DIR; the longest unused go first.",
        ge=0,
    )
    max_heat_bytes: int = setting(
        "MAX_HEAT_BYTES",
        2_000_000_000,
        "bytes, 10000000 or more",
        "Room for heat maps in DATA_DIR, from which clicks are answered at once; the longest "
        "unused go first.",
        ge=10_000_000,
    )
    allowed_image_hosts: Hosts = setting(
        "ALLOWED_IMAGE_HOSTS",
        (),
        "host, host:port or host=private, separated by commas",
        "Hosts beside Label Studio from which images may be fetched; =private for one on your own "
        "network.",
    )

    @property
    def own_redis(self) -> bool:
        """Say whether nobody named a Redis, so that `up` starts its own."""
        return not {"redis_url", "redis_host"} & self.model_fields_set

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings out of `environ`; empty means unset; raises SettingsError."""
        known = {name for field in cls.model_fields.values() for name in env_names(field)}
        given = {k: v.strip() for k, v in environ.items() if k in known and v.strip()}
        try:
            return cls(**given)  # type: ignore[arg-type]  # validated by pydantic
        except ValidationError as error:
            raise SettingsError("\n".join(_explain(cls, given, error))) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the overridden signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the caller alone: the environment is an argument of `from_env`."""
        return (init_settings,)


def _explain(
    settings: type[Settings], given: Mapping[str, str], error: ValidationError
) -> list[str]:
    """One line per wrong setting: name, value unless secret, wanted, why, fix."""
    fields = {name: f for f in settings.model_fields.values() for name in env_names(f)}
    problems = error.errors(include_url=False, include_context=False)
    wrong = {p["loc"][0]: p["msg"] for p in problems if p["loc"][0] in fields}
    lines = []
    for alias, why in wrong.items():
        field = fields[str(alias)]
        name = next(name for name in env_names(field) if name in given)
        value = HIDDEN if extra(field, "secret") else repr(given[name])
        reason = why.removeprefix("Value error, ")
        lines.append(
            f"{name}={value} cannot be used ({reason}); wanted: {extra(field, 'wanted')}; "
            f"correct it, or unset it for the default: {default_text(field)}"
        )
    return lines


def documentation_rows() -> list[str]:
    """Return the rows of the table in docs/settings.md, one per setting."""
    rows = []
    for field in Settings.model_fields.values():
        name, *others = env_names(field)
        also = f" (also `{'`, `'.join(others)}`)" if others else ""
        wanted = extra(field, "wanted")
        rows.append(
            f"| `{name}`{also} | {wanted} | `{default_text(field)}` | {field.description} |"
        )
    return rows
