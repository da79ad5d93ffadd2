"""labelclimb as a model of HumanSignal's own server, `label-studio-ml` 2.x.

That server makes a new model object for every request, so the object holds nothing: proposals,
versions and events are in the store, behind the same facade as our own HTTP door.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import Callable, Iterable
from typing import Any

from backend import facade, jobs
from backend.credentials import Credentials
from backend.errors import SettingsError
from backend.steps.listening import intake
from backend.steps.projects import UNTRAINED
from backend.web_names import SECRET_HEADER
from backend.wiring import Services

JsonObject = dict[str, Any]
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

UNNAMED = ("", "None")  # what that server makes of a request without a project


def application() -> Any:
    """Return the official server's Flask application with labelclimb as its model.

    Settings come from the environment, as for `labelclimb serve`. Raises SettingsError.
    """
    model = model_class(
        _official("model").LabelStudioMLBase, _official("response").ModelResponse, jobs.services
    )
    own = jobs.services().credentials
    app = _official("api").init_app(model, basic_auth_user=own.user, basic_auth_pass=own.password)
    app.wsgi_app = with_webhook_secret(app.wsgi_app, own)
    return app


def _official(module: str) -> Any:
    try:
        return importlib.import_module(f"label_studio_ml.{module}")
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the official server cannot be run without {error.name}; "
            "pip install 'labelclimb[label-studio-ml]', or run `labelclimb serve` instead"
        ) from error


def model_class(base: Any, response: Callable[..., Any], services: Callable[[], Services]) -> Any:
    """Return the subclass of `base` (LabelStudioMLBase) that answers from our services.

    response: ModelResponse; services: asked at every request.
    """

    class Labelclimb(base):  # type: ignore[misc]  # the base may not be installed
        """Proposes defect masks; trains in labelclimb's own workers."""

        def setup(self) -> None:
            """Take the project in and name the version now shown; raises LabelConfigError."""
            if self.project_id in UNNAMED:
                self.set("model_version", UNTRAINED)
                return
            answer = facade.setup(services(), self.project_id, self.label_config)
            self.set("model_version", answer["model_version"])

        def predict(self, tasks: Any, context: Any = None, **_params: Any) -> Any:
            """Return one prediction per task."""
            project = None if self.project_id in UNNAMED else self.project_id
            found = facade.predict(
                services(),
                tasks,
                project=project,
                label_config=self.label_config,
                context=context,
            )
            return response(predictions=[_whole(row) for row in found])

        def fit(self, event: str, data: JsonObject, **_params: Any) -> JsonObject:
            """Keep the event; a worker of ours learns from it, and trains when it is due."""
            return {"event": intake.receive(services(), {**data, "action": event})}

    return Labelclimb


def _whole(row: JsonObject) -> JsonObject | list[JsonObject]:
    """A proposal that comes later is no prediction: that server knows none without a result."""
    return row if "result" in row else []


def with_webhook_secret(app: Wsgi, credentials: Credentials) -> Wsgi:
    """Let the webhook's secret header stand for basic auth, which Label Studio sends none of there.

    The official server asks for basic auth on every path.
    """
    name = f"HTTP_{SECRET_HEADER.upper().replace('-', '_')}"
    pair = f"{credentials.user}:{credentials.password}".encode()
    basic = f"Basic {base64.b64encode(pair).decode()}"

    def door(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        secret = environ.get(name, "")
        if environ.get("PATH_INFO") == "/webhook" and credentials.allows_webhook(secret):
            environ = {**environ, "HTTP_AUTHORIZATION": basic}
        return app(environ, start_response)

    return door
