"""Servers that several modules use; each is started when it is first asked for."""

import pytest

from tests.services import servers

BUCKET = "rnr"


@pytest.fixture(scope="session")
def database():
    with servers.postgres() as database:
        yield database


@pytest.fixture(scope="session")
def store():
    """S3, with a bucket of that name."""
    with servers.s3() as store:
        store.client().create_bucket(Bucket=BUCKET)
        yield store


@pytest.fixture(scope="session")
def tracking(database, store):
    """MLflow's address: records in PostgreSQL, files in S3; its clients know neither password."""
    with servers.mlflow(database, f"s3://{BUCKET}/mlflow", **store.environment) as address:
        yield address
