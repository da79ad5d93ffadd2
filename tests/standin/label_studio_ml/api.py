"""Stands for the Flask application: its paths, what it reads of a body, and what it answers."""

from __future__ import annotations

import hmac
from typing import Any

from flask import Flask, jsonify, request

EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "START_TRAINING")


def init_app(
    model_class: Any, basic_auth_user: str | None = None, basic_auth_pass: str | None = None
) -> Flask:
    app = Flask(__name__)

    @app.before_request
    def check_auth() -> Any:
        given = request.authorization
        if basic_auth_user is None or basic_auth_pass is None:
            return None
        if given is None or given.username != basic_auth_user:
            return "Unauthorized", 401
        same = hmac.compare_digest(given.password or "", basic_auth_pass)
        return None if same else ("Unauthorized", 401)

    @app.get("/")
    @app.get("/health")
    def health() -> Any:
        return jsonify({"status": "UP", "model_class": model_class.__name__})

    @app.get("/metrics")
    def metrics() -> Any:
        return jsonify({})

    @app.post("/setup")
    def setup() -> Any:
        data = request.json
        project = data.get("project").split(".", 1)[0]
        model = model_class(project, label_config=data.get("schema"))
        return jsonify({"model_version": model.get("model_version")})

    @app.post("/predict")
    def predict() -> Any:
        data = request.json
        project = str(data.get("project")).split(".", 1)[0]
        params = data.get("params", {})
        context = params.pop("context", {})
        model = model_class(project, label_config=data.get("label_config"))
        answer = model.predict(data.get("tasks"), context=context, **params)
        return jsonify({"results": answer.predictions})

    @app.post("/webhook")
    def webhook() -> Any:
        data = request.json
        event = data.pop("action")
        if event not in EVENTS:
            return jsonify({"status": "Unknown event"}), 200
        project = data["project"]
        model = model_class(str(project["id"]), label_config=project["label_config"])
        return jsonify({"result": model.fit(event, data), "status": "ok"}), 201

    return app
