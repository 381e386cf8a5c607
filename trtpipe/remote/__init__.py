"""Objects that several machines share: a bucket of an object store, or a folder; and leases on names in it."""

from trtpipe.remote.bucket import Blob, Bucket, Denied, Listed, Unreachable
from trtpipe.remote.lease import Lease
from trtpipe.remote.urls import check_url, open_bucket

__all__ = ["Blob", "Bucket", "Denied", "Lease", "Listed", "Unreachable", "check_url", "open_bucket"]
