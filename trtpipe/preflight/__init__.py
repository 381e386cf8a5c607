"""Checks on models from untrusted sources, before any native library reads them."""

from __future__ import annotations

from trtpipe.preflight.checks import Cleared, check_model
from trtpipe.preflight.model import Budgets, External
from trtpipe.preflight.sealing import digest_model, folder_size, seal_model

__all__ = ["Budgets", "Cleared", "External", "check_model", "digest_model", "folder_size", "seal_model"]
