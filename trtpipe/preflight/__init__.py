"""Models from anyone are looked at here first: nothing native has seen a byte of them before they pass."""

from __future__ import annotations

from trtpipe.preflight.budgets import Budgets
from trtpipe.preflight.model import External
from trtpipe.preflight.preflight import Cleared, check_model
from trtpipe.preflight.sealing import digest_model, folder_size, seal_model

__all__ = ["Budgets", "Cleared", "External", "check_model", "digest_model", "folder_size", "seal_model"]
