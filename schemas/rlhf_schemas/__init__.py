"""The records of an RLHF run: what goes into each stage, and what PPO writes. Needs pydantic and nothing else."""

from collections.abc import Mapping
from types import MappingProxyType

from rlhf_schemas.base import Message, Record
from rlhf_schemas.preference import PreferenceRecord
from rlhf_schemas.prompt import PromptRecord
from rlhf_schemas.rollout import RolloutRecord
from rlhf_schemas.sft import SFTRecord

RECORDS: Mapping[str, type[Record]] = MappingProxyType(
    {"sft": SFTRecord, "preference": PreferenceRecord, "prompt": PromptRecord, "rollout": RolloutRecord}
)
"""Record kind -> its class."""

__all__ = ["RECORDS", "Message", "PreferenceRecord", "PromptRecord", "Record", "RolloutRecord", "SFTRecord"]
