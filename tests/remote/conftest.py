"""Buckets of both kinds."""

from fixtures_remote import bucket, s3, server, url  # noqa: F401
