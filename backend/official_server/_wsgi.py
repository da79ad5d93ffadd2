"""labelclimb on HumanSignal's own server: what `label-studio-ml start` and gunicorn run."""

from __future__ import annotations

import argparse
import logging

from backend import sdk_adapter

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

app = sdk_adapter.application()


def main() -> None:
    """Serve with Flask's own server, for trying it out; gunicorn takes `_wsgi:app`."""
    parser = argparse.ArgumentParser(description="labelclimb on the official ML backend server")
    parser.add_argument("-p", "--port", type=int, default=9090)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("-d", "--debug", action="store_true")
    parser.add_argument("--log-level", choices=LEVELS, default="INFO")
    parser.add_argument("--check", action="store_true", help="stop once the model can be made")
    options = parser.parse_args()
    logging.basicConfig(level=options.log_level)
    if not options.check:
        app.run(host=options.host, port=options.port, debug=options.debug)


if __name__ == "__main__":
    main()
