"""A message on its way in: bytes until somebody wants to know, then decoded once for all who read its topic."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tercel.core.errors import Rejected
from tercel.core.messages import Image, Message
from tercel.ros import convert
from tercel.ros.layouts import image_for_ports
from tercel.ros.transport import Data

WRONG_TYPE = "message is of another type"


class Arrival:
    """One message from outside. on_rejected: told once why it is none. Any thread may ask."""

    def __init__(self, ros_type: str, data: Data, on_rejected: Callable[[str], None]) -> None:
        self._ros_type = ros_type
        self._data: Data | None = data
        self._on_rejected = on_rejected
        self._lock = threading.Lock()
        self._message: Message
        self._image: Message | None = None
        self._reason: str | None = None

    def message_for(self, wanted: type[Message]) -> Message:
        """As a message of that type; pixels that components know, where pixels are wanted. Raises Rejected."""
        with self._lock:
            try:
                message = self._decoded()
                if wanted is Image:
                    self._image = message = self._image or image_for_ports(message)
            except Rejected as rejection:
                if self._reason is None:
                    self._reason = str(rejection)
                    self._on_rejected(self._reason)
                raise
        if not isinstance(message, wanted):
            raise Rejected(WRONG_TYPE)
        return message

    def _decoded(self) -> Message:
        if self._reason is not None:
            raise Rejected(self._reason)
        if self._data is not None:
            self._message, self._data = convert.decode(self._ros_type, self._data), None
        return self._message
