"""Requests and responses of ROS 2 services as CDR bytes, for hosts that offer or call them over any transport.

    request = make_request("std_srvs/srv/SetBool", data=True)
    answer = read_response("std_srvs/srv/SetBool", transport.call("/recorder/start", ..., request, timeout_s=1.0))

A message inside one is made by `make`: make("rcl_interfaces/msg/ParameterValue", type=2, integer_value=3).
"""

from __future__ import annotations

from typing import Any

from tercel.core.errors import Rejected
from tercel.ros.srv_definitions import SERVICES
from tercel.ros.store import STORE, make

__all__ = ["SERVICES", "make", "make_request", "make_response", "read_request", "read_response"]

Data = bytes | bytearray | memoryview


def make_request(srv_type: str, **fields: Any) -> bytes:
    """CDR of a request. Raises KeyError for an unknown service, TypeError for an unknown field."""
    return _write(f"{srv_type}_Request", fields)


def make_response(srv_type: str, **fields: Any) -> bytes:
    """CDR of a response. Raises KeyError for an unknown service, TypeError for an unknown field."""
    return _write(f"{srv_type}_Response", fields)


def read_request(srv_type: str, data: Data) -> Any:
    """A request as rosbags' dataclass. Raises Rejected if it does not decode."""
    return _read(f"{srv_type}_Request", data)


def read_response(srv_type: str, data: Data) -> Any:
    """A response as rosbags' dataclass. Raises Rejected if it does not decode."""
    return _read(f"{srv_type}_Response", data)


def _write(ros_type: str, fields: dict[str, Any]) -> bytes:
    return bytes(STORE.serialize_cdr(make(ros_type, **fields), ros_type))


def _read(ros_type: str, data: Data) -> Any:
    try:
        return STORE.deserialize_cdr(memoryview(data), ros_type)
    except Exception:  # the decoder is generated code: a damaged message can raise anything
        raise Rejected(f"{ros_type.rsplit('/', 1)[1]} does not decode") from None
