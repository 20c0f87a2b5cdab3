"""What a component is: a class with typed ports and handlers, and nothing that varies between hosts.

    class Counter(Component):
        Config = CounterConfig
        cloud = Input(PointCloud)
        count = Output(Detections3D)

        @on(cloud)
        def step(self, cloud: PointCloud) -> dict[str, Message]:
            return {"count": ...}

A component has no clock, thread, socket, file, environment variable or global counter. A handler is called with one
message of each port that it names, and returns a message for each output port that has something to say (an empty
mapping: nothing). A plain `def` computes; an `async def` may also await `self.models.infer(...)`. To refuse a
message, raise `Rejected(reason)`: the host counts it. One component's handlers never run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from tercel.core.errors import UserError, nearest_hint
from tercel.core.messages import Array, Message

Outputs = Mapping[str, Message]
H = TypeVar("H", bound=Callable[..., Any])


class Models(Protocol):
    """Where a component sends its tensors. It never learns where the network ran."""

    async def infer(self, model: str, tensor: np.ndarray, *, deadline_ns: int | None = None) -> list[np.ndarray]:
        """All outputs of the named model, in the model's order. Raises Rejected if no answer can be had."""
        ...


@dataclass
class Input:
    """An input port. queue "latest" keeps the newest `depth` messages (sensors); "all" keeps every one (commands).

    `late` says what becomes of a message whose stamp is not after the one before it on the same port: "reject"
    (counted), or "accept" where the component orders messages itself.
    """

    message_type: type[Message]
    queue: Literal["latest", "all"] = "latest"
    depth: int = 4
    late: Literal["reject", "accept"] = "reject"
    name: str = field(default="", init=False)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


@dataclass
class Output:
    """An output port."""

    message_type: type[Message]
    name: str = field(default="", init=False)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


@dataclass(frozen=True)
class HandlerSpec:
    """Which inputs a handler takes, in argument order, and how far apart their stamps may be."""

    function: str
    inputs: tuple[str, ...]
    tolerance_ns: int


def on(*inputs: Input, tolerance_ms: float = 0.0) -> Callable[[H], H]:
    """Mark a handler. With several inputs the host pairs messages whose stamps differ by at most tolerance_ms."""
    if not inputs:
        raise TypeError("on() needs at least one input port")

    def mark(function: H) -> H:
        function._tercel_on = (inputs, round(tolerance_ms * 1e6))  # type: ignore[attr-defined]
        return function

    return mark


class Component:
    """Base of all components; see the module's docstring."""

    Config: ClassVar[type]
    inputs: ClassVar[dict[str, Input]] = {}
    outputs: ClassVar[dict[str, Output]] = {}
    handlers: ClassVar[tuple[HandlerSpec, ...]] = ()
    live_settings: ClassVar[frozenset[str]] = frozenset()
    """The config's fields that a host may change between two calls, by setting `self.config`; the others want a new
    component."""

    def __init__(self, config: Any = None, models: Models | None = None) -> None:
        self.config = self.Config() if config is None else config
        self.models = models

    def counters(self) -> Mapping[str, int]:
        """What it has counted so far beside messages, by name, the first the sum of the others.

        The host collects it when the component is done.
        """
        return {}

    def map_points_m(self) -> Array | None:
        """The map that it has built, (N, 3) float, for people to look at or save; None for one that builds none."""
        return None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        members = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
        cls.inputs = {n: v for n, v in members.items() if isinstance(v, Input)}
        cls.outputs = {n: v for n, v in members.items() if isinstance(v, Output)}
        cls.handlers = tuple(
            HandlerSpec(n, tuple(port.name for port in v._tercel_on[0]), v._tercel_on[1])
            for n, v in members.items()
            if hasattr(v, "_tercel_on")
        )
        used = [name for handler in cls.handlers for name in handler.inputs]
        if sorted(used) != sorted(cls.inputs):
            raise TypeError(f"{cls.__name__}: every input needs exactly one handler; inputs {sorted(cls.inputs)}")


def config_from_mapping(config_type: type, values: Mapping[str, Any], *, where: str) -> Any:
    """Build a component's frozen config dataclass from a graph file's mapping.

    Raises UserError, naming `where`, for an unknown key (with the nearest known one) or a value it refuses.
    """
    known = {f.name: f for f in fields(config_type)}
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}; {nearest_hint(str(key), known)}")
    hints = get_type_hints(config_type)
    prepared = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for key, value in prepared.items():
        if not _fits(value, hints[key]):
            raise UserError(f"{where}: {key}: {_name(hints[key])} is wanted, not {value!r}")
    try:
        return config_type(**prepared)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a graph file can stand where the config has this type. True for types it does not know."""
    if hint in (int, float):
        number = isinstance(value, int) or (hint is float and isinstance(value, float))
        return number and not isinstance(value, bool) and not abs(value) >= 2**31  # NaN is for __post_init__ to refuse
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and (arguments[-1] is not ... or all(_fits(v, arguments[0]) for v in value))
    return True


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
