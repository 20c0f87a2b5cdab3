"""dora-rs as a ROS 2 node: a peer that none of us wrote. It sends back, from its own data model, what it receives.

AMENT_PREFIX_PATH=SHARE ROS_DOMAIN_ID=N python tests/scenarios/dora_peer.py KIND CONFIG TYPES

KIND: jazzy or humble (over zenoh, with the session CONFIG) or dds (CONFIG is not read). Messages of /to_dora/t0 come
back as /from_dora/t0, and so on; their values are printed as JSON, one line each. With "services" for TYPES it offers
the service /of_dora (std_srvs/SetBool), and calls /of_ours once and prints the answer. With "latched" it publishes
/latched_of_dora, and prints what comes of /latched_of_ours. Needs Python 3.11.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import dora
import pyarrow as pa

PRINTED_BYTES = 20_000


def make_context(kind: str, config: str) -> Any:
    """A node's context on the wanted wire."""
    if kind == "dds":
        return dora.Ros2Context()
    return dora.Ros2Context(transport=dora.Ros2Transport.zenoh("humble" if kind == "humble" else "rep2016", config))


def main(kind: str, config: str, types: str) -> None:
    """Run until killed."""
    warnings.simplefilter("ignore")
    context = make_context(kind, config)  # must live as long as its nodes
    node = context.new_node("dora_peer", "/peer", dora.Ros2NodeOptions())
    if types == "services":
        serve_and_call(node)
    elif types == "latched":
        latch(node)
    else:
        send_back(node, types)


def latch(node: Any) -> None:
    """A latched publisher, and a reader of another one's latched topic."""
    qos = dora.Ros2QosPolicies(durability=dora.Ros2Durability.TransientLocal, reliable=True, keep_last=1)
    publisher = node.create_publisher(node.create_topic("/latched_of_dora", "std_msgs/String", qos))
    publisher.publish(pa.array([{"data": "old"}]))
    publisher.publish(pa.array([{"data": "new"}]))
    subscription = node.create_subscription(node.create_topic("/latched_of_ours", "std_msgs/String", qos))
    print("ready", flush=True)
    while True:
        values = subscription.next()
        if values is not None:
            print(json.dumps([0, values.to_pylist()[0]]), flush=True)
        time.sleep(0.01)


def serve_and_call(node: Any) -> None:
    """Both ends of a service."""
    qos = dora.Ros2QosPolicies(reliable=True, keep_last=10, max_blocking_time=0.1)
    server = node.create_service_server("/of_dora", "std_srvs/SetBool", qos)
    print("ready", flush=True)
    client = node.create_service_client("/of_ours", "std_srvs/SetBool", qos)
    print(json.dumps([0, client.call(pa.array([{"data": True}])).to_pylist()[0]]), flush=True)
    while True:
        request = server.take_request(timeout_s=0.05)
        if request is not None:
            number, values = request
            wanted = values.to_pylist()[0]["data"]
            server.send_response(number, pa.array([{"success": not wanted, "message": f"dora: was {wanted}"}]))


def send_back(node: Any, types: str) -> None:
    """Publish what comes."""
    qos = dora.Ros2QosPolicies(reliable=True, keep_last=100)
    ways = []
    for i, ros_type in enumerate(types.split(",")):
        name = ros_type.replace("/msg/", "/")
        publisher = node.create_publisher(node.create_topic(f"/from_dora/t{i}", name, qos))
        ways.append((i, node.create_subscription(node.create_topic(f"/to_dora/t{i}", name, qos)), publisher))
    print("ready", flush=True)
    while True:
        idle = True
        for i, subscription, publisher in ways:
            values = subscription.next()
            if values is None:
                continue
            idle = False
            publisher.publish(values)
            if values.nbytes < PRINTED_BYTES:
                print(json.dumps([i, values.to_pylist()[0]]), flush=True)
        if idle:
            time.sleep(0.001)


if __name__ == "__main__":
    main(*sys.argv[1:])
