from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from backend import credentials
from backend import settings as settings_module
from backend.errors import SettingsError
from backend.settings import Settings

DOCUMENT = Path(__file__).parents[1] / "docs" / "settings.md"


def read(**environ: str) -> Settings:
    return Settings.from_env(environ)


def test_nothing_set_gives_a_backend_for_this_machine_alone() -> None:
    settings = read()
    assert (settings.host, settings.port) == ("127.0.0.1", 9090)
    assert settings.label_studio_url == "http://localhost:8080"
    assert settings.backend_url == "http://127.0.0.1:9090"
    assert settings.database_url == "sqlite:///labelclimb-data/labelclimb.db"
    assert settings.model_dir == Path("labelclimb-data/models")
    assert settings.redis_url == "redis://localhost:6379/0"
    assert settings.own_redis
    assert settings.pipeline == "auto"


def test_the_environment_is_the_argument_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1234")
    monkeypatch.setenv("DEVICE", "nonsense")
    assert read().port == 9090
    assert read(PORT="81", UNRELATED="x", port="82").port == 81


def test_settings_below_follow_those_above() -> None:
    settings = read(DATA_DIR="/var/lib/lc", HOST="10.0.0.5", PORT="80", REDIS_HOST="cache")
    assert settings.database_url == "sqlite:////var/lib/lc/labelclimb.db"
    assert settings.model_dir == Path("/var/lib/lc/models")
    assert settings.backend_url == "http://10.0.0.5:80"
    assert settings.redis_url == "redis://cache:6379/0"
    assert not settings.own_redis
    assert read(HOST="0.0.0.0").backend_url == "http://127.0.0.1:9090"
    assert read(HOST="fd00::1").backend_url == "http://[fd00::1]:9090"
    assert read(REDIS_URL="unix:///tmp/r", REDIS_HOST="cache").redis_url == "unix:///tmp/r"


def test_label_studio_host_is_another_name_for_its_url() -> None:
    assert read(LABEL_STUDIO_HOST="https://ls.example/").label_studio_url == "https://ls.example"
    both = read(LABEL_STUDIO_HOST="http://b", LABEL_STUDIO_URL="http://a")
    assert both.label_studio_url == "http://a"


def test_empty_means_unset_as_compose_files_have_it() -> None:
    assert read(PORT="", WEBHOOK_SECRET=" ", ENCODER_WEIGHTS="") == read()


def test_lists_levels_and_files(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.touch()
    settings = read(
        ALLOWED_IMAGE_HOSTS=" A.example, b.example ,",
        LOG_LEVEL="debug",
        ENCODER_WEIGHTS=str(weights),
    )
    assert settings.allowed_image_hosts == ("a.example", "b.example")
    assert settings.log_level == "DEBUG"
    assert settings.encoder_weights == str(weights)
    assert read(ENCODER_WEIGHTS="hub").encoder_weights == "hub"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("PORT", "http", "a number from 1 to 65535"),
        ("PORT", "0", "a number from 1 to 65535"),
        ("LABEL_STUDIO_HOST", "ls.example", "an http or https address"),
        ("DEVICE", "gpu", "auto, cpu, cuda or cuda:N"),
        ("PROFILE", "tpu", "cpu or gpu"),
        ("LOG_LEVEL", "LOUD", "DEBUG, INFO, WARNING or ERROR"),
        ("STRATEGY", "nonsense", "the name of a strategy"),
        ("PIPELINE", "nonsense", "the name of a pipeline"),
        ("QUIET_S", "nan", "seconds, 0 or more"),
        ("MAX_IMAGE_PIXELS", "-1", "pixels, 1 or more"),
        ("ENCODER_WEIGHTS", "/no/such/file", "a safetensors file"),
        ("SEED", "-3", "a number from 0"),
        ("BASIC_AUTH_USER", "a:b", "a name without a colon"),
    ],
)
def test_a_wrong_value_is_said_with_name_value_type_and_fix(
    name: str, value: str, wanted: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        read(**{name: value})
    text = str(raised.value)
    assert f"{name}='{value}'" in text
    assert wanted in text
    assert "unset" in text


def test_all_wrong_values_are_said_at_once() -> None:
    with pytest.raises(SettingsError, match=r"(?s)PORT=.*PROFILE="):
        read(PORT="x", PROFILE="x")


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_a_wrong_address_with_a_password_is_not_repeated(name: str) -> None:
    with pytest.raises(SettingsError, match=name) as raised:
        read(**{name: "ftp://me:hunter2@host"})
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_no_secret_is_shown() -> None:
    secrets = {
        "LABEL_STUDIO_API_KEY": "hunter2",
        "BASIC_AUTH_PASS": "hunter2",
        "WEBHOOK_SECRET": "hunter2",
        "DATABASE_URL": "postgresql://me:hunter2@host/db",
        "REDIS_URL": "redis://:hunter2@host",
    }
    settings = read(**secrets)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)
    assert settings.webhook_secret is not None
    assert settings.webhook_secret.get_secret_value() == "hunter2"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read().port = 1  # type: ignore[misc]


def test_tests_may_use_field_names(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, port=1)
    assert settings.database_url == f"sqlite:///{tmp_path}/labelclimb.db"
    with pytest.raises(ValidationError, match="nonsense"):
        Settings(nonsense=1)  # type: ignore[call-arg]


ALL = {"BASIC_AUTH_USER": "u", "BASIC_AUTH_PASS": "p", "WEBHOOK_SECRET": "s"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_this_machine_alone_needs_no_chosen_credentials(host: str) -> None:
    credentials.require_for_network(read(HOST=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "backend.example"])
@pytest.mark.parametrize("missing", sorted(ALL))
def test_a_network_needs_all_credentials(host: str, missing: str) -> None:
    given = {name: value for name, value in ALL.items() if name != missing}
    credentials.require_for_network(read(HOST=host, **ALL))
    with pytest.raises(SettingsError, match=missing):
        credentials.require_for_network(read(HOST=host, **given))


def test_the_documentation_has_exactly_one_row_per_setting() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    assert rows == settings_module.documentation_rows()
