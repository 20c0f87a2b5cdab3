"""Writes descriptor.py from open_inference.proto: python -m offload.wire.renew. Only this needs grpcio-tools."""

from __future__ import annotations

import base64
import sys
import tempfile
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE / "descriptor.py"


def rendered() -> str:
    """The text of descriptor.py. Raises UserError without grpcio-tools, RuntimeError where the proto has an error."""
    from tercel.core.errors import require

    protoc = require("grpc_tools.protoc", extra="test")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.bin"
        code = protoc.main(["protoc", f"-I{HERE}", f"--descriptor_set_out={out}", "open_inference.proto"])
        if code:
            raise RuntimeError(f"protoc ended with {code}")
        data = out.read_bytes()
    lines = textwrap.wrap(base64.b64encode(data).decode(), 110)
    body = "\n".join(f'    b"{line}"' for line in lines)
    return (
        '"""What protoc makes of open_inference.proto, a FileDescriptorSet; offload.wire.renew writes it."""\n'
        f"\nBASE64 = (\n{body}\n)\n"
    )


if __name__ == "__main__":
    TARGET.write_text(rendered(), encoding="ascii")
    sys.exit(0)
