"""One Ray for all tests of this folder, which reaches moto's S3."""

import os
from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="session")
def ray_session(s3_server: str) -> Iterator[None]:
    """Start a local Ray whose workers find the S3 server in their environment."""
    env = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RAY_AUTH_MODE": "disabled",  # on loopback; keeps a token out of the home folder
        "RAY_USAGE_STATS_ENABLED": "0",
        "GOMP_SPINCOUNT": "1000",  # as of raycap.cluster.start
    }
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
