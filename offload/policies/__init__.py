"""Policies: which task runs where and when. One short file each; `policy.py` says what a policy is."""

from __future__ import annotations

from collections.abc import Callable

from offload.policies.cloud_only import CloudOnly
from offload.policies.d3_kalmia import D3Kalmia
from offload.policies.dedas import Dedas
from offload.policies.dem import Dem
from offload.policies.dems import Dems
from offload.policies.dems_a import DemsA
from offload.policies.edf import Edf
from offload.policies.edf_ec import EdfEc
from offload.policies.gems import Gems
from offload.policies.hpf import Hpf
from offload.policies.policy import Policy, PolicyContext
from offload.policies.sjf import Sjf
from offload.policies.sjf_ec import SjfEc
from offload.policies.tercel import Tercel
from tercel.core.errors import UserError, nearest_hint

POLICIES: dict[str, Callable[[PolicyContext], Policy]] = {
    "edf": Edf,
    "sjf": Sjf,
    "hpf": Hpf,
    "cloud_only": CloudOnly,
    "edf_ec": EdfEc,
    "sjf_ec": SjfEc,
    "dem": Dem,
    "dems": Dems,
    "dems_a": DemsA,
    "gems": Gems,
    "d3_kalmia": D3Kalmia,
    "dedas": Dedas,
    "tercel": Tercel,
}


def make_policy(name: str, context: PolicyContext) -> Policy:
    """A new policy of this name. Raises UserError if there is none."""
    if name not in POLICIES:
        raise UserError(f"there is no policy {name!r}: {nearest_hint(name, POLICIES)}")
    return POLICIES[name](context)
