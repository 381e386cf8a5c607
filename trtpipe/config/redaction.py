"""Commands and addresses without the secrets that they may carry."""

from __future__ import annotations

import re

#: Secrets that commands and addresses may carry -> what is written instead.
_SECRETS = (
    (re.compile(r"(?<=://)[^/@\s]+@"), ""),
    (re.compile(r"(?<=\w)\?[^\s]*(?:sig|token|key|secret|password|credential)[^\s]*", re.I), "?(removed)"),
    (re.compile(r"AGE-SECRET-KEY-[0-9A-Z-]+", re.I), "(removed)"),
    (re.compile(r"\b((?:pin-value|passw(?:or)?d|token|secret|api[-_]?key)\s*[=:]\s*)[^\s;&]+", re.I), r"\1(removed)"),
    (re.compile(r"\b(?:hf|ghp|gho|ghs|glpat|github_pat|sk)[-_][A-Za-z0-9_-]{16,}|\bAKIA[0-9A-Z]{16}\b"), "(removed)"),
)  # fmt: skip


def without_secrets(text: str) -> str:
    """The same text; what looks like a secret is taken out.

    Example:
        >>> without_secrets("build https://me:word@host/net.onnx --note token=abc")
        'build https://host/net.onnx --note token=(removed)'
    """
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
