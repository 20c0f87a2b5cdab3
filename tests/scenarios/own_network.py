"""A network of a process's own, in which nothing can leave the machine: Linux's network namespace.

python tests/scenarios/own_network.py ARGUMENTS   (runs python ARGUMENTS there; exit code NOT_ALLOWED if it cannot)

It has the one interface lo, with the address ADDRESS: there are DDS implementations that send nothing to 127.0.0.1.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

ADDRESS = "10.77.0.1"
NOT_ALLOWED = 77
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_SET_FLAGS, _SET_ADDRESS = 0x8914, 0x8916
_UP = 1
_REQUEST = struct.Struct("16sHH4s16x")  # ifreq with a sockaddr_in: family, port, address


def enter() -> None:
    """Put this process and its children to come into a new network. It must have one thread only.

    Raises OSError where the machine does not allow it.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_USER | _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "no network of its own")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for request, *values in (
            (_SET_FLAGS, b"lo", _UP, 0, bytes(4)),
            (_SET_ADDRESS, b"lo:1", socket.AF_INET, 0, socket.inet_aton(ADDRESS)),
        ):
            fcntl.ioctl(any_socket, request, _REQUEST.pack(*values))


if __name__ == "__main__":
    try:
        enter()
    except OSError:
        sys.exit(NOT_ALLOWED)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])  # noqa: S606
