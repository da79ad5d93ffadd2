"""Every setting: its name in the environment, default, allowed values and meaning.

The only place that reads the environment; `docs/settings.md` is this table, kept so by a test.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

import models.base
import strategies.base
from backend.errors import SettingsError
from backend.labelstudio.hosts import AllowedHost

HIDDEN = "(hidden)"
LONGEST_WAIT_S = 31_536_000.0  # a year


def _setting(
    names: str,
    default: Any,
    wanted: str,
    meaning: str,
    *,
    shown: str | None = None,
    secret: bool = False,
    **limits: Any,
) -> Any:
    """Describe a setting; a callable default gets the settings above it, `shown` documents it."""
    made = {"default_factory": default} if callable(default) else {"default": default}
    extra: Any = {"wanted": wanted, "shown": shown, "secret": secret}
    aliases = AliasChoices(*names.split())
    return Field(
        validation_alias=aliases,
        description=meaning,
        json_schema_extra=extra,
        repr=not secret,
        **made,
        **limits,
    )


def _http_url(value: Any) -> Any:
    parts = urlsplit(str(value))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http(s) address")
    return str(value).rstrip("/")


def _one_of(names: Callable[[], tuple[str, ...]]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value not in names():
            raise ValueError(f"known: {', '.join(names())}")
        return value

    return check


def _hosts(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    entries = tuple(host.strip().lower() for host in value.split(",") if host.strip())
    for entry in entries:
        AllowedHost.parse(entry)
    return entries


def _weights(value: Any) -> Any:
    if value is None or value == "hub" or Path(str(value)).is_file():
        return value
    raise ValueError("no such file")


def _folder_or_url(value: Any) -> Any:
    return value if "://" in str(value) else Path(value)


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


HttpUrl = Annotated[str, BeforeValidator(_http_url)]
Weights = Annotated[str | None, BeforeValidator(_weights)]
FolderOrUrl = Annotated[Path | str, BeforeValidator(_folder_or_url)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_hosts)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]
StrategyName = Annotated[str, BeforeValidator(_one_of(strategies.base.names))]
PipelineName = Annotated[str, BeforeValidator(_one_of(models.base.names))]


def _default_backend_url(above: dict[str, Any]) -> str:
    host = "127.0.0.1" if above["host"] in ("0.0.0.0", "::") else above["host"]  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{above['port']}"


class Settings(BaseSettings):
    """The validated, frozen settings; made by `from_env`, or by field names in tests."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=()
    )

    label_studio_url: HttpUrl = _setting(
        "LABEL_STUDIO_URL LABEL_STUDIO_HOST",
        "http://localhost:8080",
        "an http or https address",
        "Address of Label Studio as this machine reaches it.",
    )
    label_studio_api_key: SecretStr | None = _setting(
        "LABEL_STUDIO_API_KEY",
        None,
        "a personal access token or a legacy token",
        "Key for Label Studio's API, from its page Account & Settings.",
        secret=True,
    )
    data_dir: Path = _setting(
        "DATA_DIR",
        Path("labelclimb-data"),
        "a folder",
        "Folder of the database, images at rest, credentials and trained versions.",
    )
    model_dir: FolderOrUrl = _setting(
        "MODEL_DIR",
        lambda above: above["data_dir"] / "models",
        "a folder, or an address like s3://bucket/prefix",
        "Where the trained versions are kept: a folder, or an object store for many machines.",
        shown="DATA_DIR/models",
    )
    max_version_cache_bytes: int = _setting(
        "MAX_VERSION_CACHE_BYTES",
        5_000_000_000,
        "bytes, 0 or more",
        "Room in DATA_DIR for versions read from an object store; the longest unused go first.",
        ge=0,
    )
    keep_versions: int = _setting(
        "KEEP_VERSIONS",
        20,
        "a number from 1",
        "Newest versions of a project that pruning leaves whole; see operations.md.",
        ge=1,
    )
    database_url: str = _setting(
        "DATABASE_URL",
        lambda above: f"sqlite:///{above['data_dir']}/labelclimb.db",
        "sqlite:///file or postgresql://user:password@host/name",
        "The store: SQLite on one machine, PostgreSQL on many.",
        shown="sqlite:///DATA_DIR/labelclimb.db",
        secret=True,
        pattern="^(sqlite|postgres)",
    )
    host: str = _setting(
        "HOST",
        "127.0.0.1",
        "an address of this machine",
        "Address that `serve` listens on; see Credentials below before opening it to a network.",
        min_length=1,
    )
    port: int = _setting(
        "PORT", 9090, "a number from 1 to 65535", "Port that `serve` listens on.", ge=1, le=65535
    )
    backend_url: HttpUrl = _setting(
        "BACKEND_URL",
        _default_backend_url,
        "an http or https address",
        "Address at which Label Studio reaches this backend; set it when they share no machine.",
        shown="http://HOST:PORT",
    )
    basic_auth_user: str | None = _setting(
        "BASIC_AUTH_USER",
        None,
        "a name without a colon",
        "User that callers must give; made up and kept in DATA_DIR when unset.",
        pattern="^[^:]+$",
    )
    basic_auth_pass: SecretStr | None = _setting(
        "BASIC_AUTH_PASS",
        None,
        "a password",
        "Password that callers must give; made up and kept in DATA_DIR when unset.",
        secret=True,
    )
    webhook_secret: SecretStr | None = _setting(
        "WEBHOOK_SECRET",
        None,
        "a secret text",
        "Header value that webhooks must carry; made up and kept in DATA_DIR when unset.",
        secret=True,
    )
    redis_host: str | None = _setting(
        "REDIS_HOST", None, "a host name", "Redis, when REDIS_URL is not set.", min_length=1
    )
    redis_port: int = _setting(
        "REDIS_PORT", 6379, "a number from 1 to 65535", "Port of REDIS_HOST.", ge=1, le=65535
    )
    redis_url: str = _setting(
        "REDIS_URL",
        lambda above: f"redis://{above['redis_host'] or 'localhost'}:{above['redis_port']}/0",
        "redis://, rediss:// or unix://",
        "Redis of the job queues. `up` starts its own when neither this nor REDIS_HOST is set, "
        "and commands on the same DATA_DIR use it.",
        shown="redis://REDIS_HOST:REDIS_PORT/0",
        secret=True,
        pattern="^(redis|rediss|unix)://",
    )
    log_level: LogLevel = _setting(
        "LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR", "How much is logged."
    )
    device: str = _setting(
        "DEVICE",
        "auto",
        "auto, cpu, cuda or cuda:N",
        "Where networks run; auto takes a GPU when there is one.",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
    )
    profile: Literal["cpu", "gpu"] = _setting(
        "PROFILE", "cpu", "cpu or gpu", "Size and length of trainings; gpu is the paper's."
    )
    pipeline: PipelineName = _setting(
        "PIPELINE",
        "auto",
        "the name of a pipeline",
        "How new versions turn images into masks; auto chooses for each class.",
    )
    encoder_weights: Weights = _setting(
        "ENCODER_WEIGHTS",
        None,
        "a safetensors file, or hub to let timm download",
        "Pretrained encoder; trainings start from random weights when unset.",
    )
    seed: int = _setting(
        "SEED", 0, "a number from 0", "Seed of trainings and strategies.", ge=0, lt=2**32
    )
    strategy: StrategyName = _setting(
        "STRATEGY",
        "entropy",
        "the name of a strategy",
        "Order of tasks in newly connected projects.",
    )
    train_after: int = _setting(
        "TRAIN_AFTER",
        100,
        "a number from 1",
        "New weak labels that start a training, in newly connected projects.",
        ge=1,
    )
    quiet_s: float = _setting(
        "QUIET_S",
        30.0,
        "seconds, 0 or more",
        "Pause of the annotators that a training waits for, in newly connected projects.",
        ge=0,
        le=LONGEST_WAIT_S,
        allow_inf_nan=False,
    )
    max_wait_s: float = _setting(
        "MAX_WAIT_S",
        900.0,
        "seconds, 0 or more",
        "Longest wait for that pause, in newly connected projects.",
        ge=0,
        le=LONGEST_WAIT_S,
        allow_inf_nan=False,
    )
    max_regions: int = _setting(
        "MAX_REGIONS",
        8,
        "a number from 1 to 1000",
        "Proposed regions per class and image; of more, the smallest are joined into one.",
        ge=1,
        le=1000,
    )
    bulk_trust: float = _setting(
        "BULK_TRUST",
        0.25,
        "a number from 0 to 1",
        "Trust in annotations made from predictions in bulk, or unchanged without a known time.",
        ge=0,
        le=1,
        allow_inf_nan=False,
    )
    fast_trust: float = _setting(
        "FAST_TRUST",
        0.5,
        "a number from 0 to 1",
        "Trust in annotations that were accepted suspiciously fast; see Trust below.",
        ge=0,
        le=1,
        allow_inf_nan=False,
    )
    fast_accept_s: float = _setting(
        "FAST_ACCEPT_S",
        2.0,
        "seconds, 0 or more",
        "An unchanged annotation that took less is suspiciously fast.",
        ge=0,
        allow_inf_nan=False,
    )
    fast_accept_share: float = _setting(
        "FAST_ACCEPT_SHARE",
        0.2,
        "a number from 0 to 1",
        "So is one that took less than this share of its annotator's median for unchanged ones.",
        ge=0,
        le=1,
        allow_inf_nan=False,
    )
    fast_accept_run: int = _setting(
        "FAST_ACCEPT_RUN",
        10,
        "a number from 0; 0 = no such rule",
        "So are this many in a row that took less than twice FAST_ACCEPT_S each.",
        ge=0,
    )
    reconcile_every_s: float = _setting(
        "RECONCILE_EVERY_S",
        300.0,
        "seconds, 1 or more",
        "How often the store is compared with Label Studio, to fetch events that never arrived.",
        ge=1,
        allow_inf_nan=False,
    )
    predict_deadline_s: float = _setting(
        "PREDICT_DEADLINE_S",
        10.0,
        "seconds, more than 0",
        "Longest time that an opened task waits for a proposal that is not stored yet.",
        gt=0,
        allow_inf_nan=False,
    )
    max_image_bytes: int = _setting(
        "MAX_IMAGE_BYTES", 100_000_000, "bytes, 1 or more", "Larger image files are refused.", ge=1
    )
    max_image_pixels: int = _setting(
        "MAX_IMAGE_PIXELS",
        100_000_000,
        "pixels, 1 or more",
        "Images with more pixels are refused before decoding.",
        ge=1,
    )
    max_cache_bytes: int = _setting(
        "MAX_CACHE_BYTES",
        5_000_000_000,
        "bytes, 0 or more",
        "Room for downloaded images in DATA_DIR; the longest unused go first.",
        ge=0,
    )
    max_heat_bytes: int = _setting(
        "MAX_HEAT_BYTES",
        2_000_000_000,
        "bytes, 10000000 or more",
        "Room for heat maps in DATA_DIR, from which clicks are answered at once; the longest "
        "unused go first.",
        ge=10_000_000,
    )
    allowed_image_hosts: Hosts = _setting(
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


def env_names(field: FieldInfo) -> tuple[str, ...]:
    """Return a setting's names in the environment, the preferred one first."""
    alias = field.validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else ()


def _extra(field: FieldInfo, key: str) -> Any:
    extra = field.json_schema_extra
    return extra.get(key) if isinstance(extra, dict) else None


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
        value = HIDDEN if _extra(field, "secret") else repr(given[name])
        reason = why.removeprefix("Value error, ")
        lines.append(
            f"{name}={value} cannot be used ({reason}); wanted: {_extra(field, 'wanted')}; "
            f"correct it, or unset it for the default: {default_text(field)}"
        )
    return lines


def default_text(field: FieldInfo) -> str:
    """Return a setting's default as the documentation shows it."""
    if shown := _extra(field, "shown"):
        return str(shown)
    if field.default in (None, ()):
        return "unset"
    return str(field.default)


def documentation_rows() -> list[str]:
    """Return the rows of the table in docs/settings.md, one per setting."""
    rows = []
    for field in Settings.model_fields.values():
        name, *others = env_names(field)
        also = f" (also `{'`, `'.join(others)}`)" if others else ""
        wanted = _extra(field, "wanted")
        rows.append(
            f"| `{name}`{also} | {wanted} | `{default_text(field)}` | {field.description} |"
        )
    return rows


def unset_credentials(settings: Settings) -> tuple[str, ...]:
    """Return the names of the credentials that nobody chose."""
    chosen = {
        "BASIC_AUTH_USER": settings.basic_auth_user,
        "BASIC_AUTH_PASS": settings.basic_auth_pass,
        "WEBHOOK_SECRET": settings.webhook_secret,
    }
    return tuple(name for name, value in chosen.items() if not value)


def require_credentials_for_network(settings: Settings) -> None:
    """Refuse to listen beyond this machine with credentials unset; raises SettingsError."""
    unset = unset_credentials(settings)
    if unset and not is_loopback(settings.host):
        raise SettingsError(
            f"HOST={settings.host!r} can be reached from the network, but "
            f"{', '.join(unset)} is unset; set it, or HOST=127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Say whether an address to listen on can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
