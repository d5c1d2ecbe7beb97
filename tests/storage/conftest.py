"""Fixtures of the tests of stores."""

import pytest

from core.storage.s3 import transfer


@pytest.fixture(params=["moto", "radosgw"])
def s3_place(request):
    return request.getfixturevalue(f"{request.param}_place")


@pytest.fixture
def short_parts(monkeypatch):
    """Files from 5 MiB on are sent in parts of 5 MiB, the smallest size that S3 allows."""
    monkeypatch.setattr(transfer, "PART_BYTES", 5 * 2**20)
