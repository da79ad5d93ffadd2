"""An S3 server on this machine (moto's), which keeps its objects in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import boto3
import fsspec
from moto.server import ThreadedMotoServer

BUCKET = "models"


@dataclass(frozen=True)
class S3Server:
    """environment: what clients need to reach it; the variables are those of AWS."""

    url: str
    environment: Mapping[str, str]
    bucket: str = BUCKET


@contextmanager
def running() -> Iterator[S3Server]:
    """Give a running server with an empty bucket until the block ends."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ).create_bucket(Bucket=BUCKET)
        # It remembers the address of a server that this process used before.
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield S3Server(url, environment)
    finally:
        server.stop()
