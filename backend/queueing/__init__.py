"""RQ and Redis: all that knows of them."""
