"""What a node says that it has, in the terms of Ray's custom resources."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from trtpipe.api.arguments import check_arguments
from trtpipe.backends.base import BACKENDS
from trtpipe.farm.tasks import Offer, own_offer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.config.settings import Settings

#: Of what any number of tasks may use at once.
_PLENTY = 1000.0
_RESOURCE = re.compile(r"(?P<name>[a-z][a-z-]*)-(?P<version>\d[\w.+]*)")
GPU = "gpu-"


def resources_of(offer: Offer) -> dict[str, float]:
    """What a node says that it has, in Ray's terms."""
    found = {f"trtpipe-{offer.trtpipe}": _PLENTY}
    found |= {f"{flavor}-{version or '0'}": _PLENTY for flavor, version in offer.flavors.items()}
    for gpu in offer.gpus:
        found[f"{GPU}{gpu}"] = found.get(f"{GPU}{gpu}", 0.0) + 1.0
    return found


def offer_of(name: str, resources: Mapping[str, float]) -> Offer:
    """What a node has, from what it said."""
    gpus = tuple(each.removeprefix(GPU) for each in resources if each.startswith(GPU))
    found = [match for each in resources if (match := _RESOURCE.fullmatch(each))]
    flavors = {match["name"]: match["version"] for match in found if match["name"] in BACKENDS}
    version = next((match["version"] for match in found if match["name"] == "trtpipe"), "")
    return Offer(name=name, trtpipe=version, flavors=flavors, gpus=gpus)


def resources_text(settings: Settings | None = None) -> str:
    """What ``ray start --resources`` takes on this machine.

    Args:
        settings: default: from the environment.

    Raises:
        InputError: ``settings`` is none.

    Example:
        >>> "trtpipe" in trtpipe.resources_text()
        True
    """
    check_arguments({"settings": settings})
    return json.dumps(resources_of(own_offer(settings)), sort_keys=True)
