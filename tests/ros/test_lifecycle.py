"""The node's life as `ros2 lifecycle` leads it."""

from __future__ import annotations

from typing import Any

from lifecycle_msgs.msg import TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions

from tests.ros.peers import Peer, eventually

LIDAR = ("-p", "graph:=lidar")


def test_a_node_goes_through_its_states_and_says_so(peer: Peer, robot: Any) -> None:
    events = peer.listen("/tercel/transition_event", TransitionEvent)
    process = robot(*LIDAR, "-p", "autostart:=false")
    assert peer.state("/tercel") == "unconfigured"
    peer.wait_for_publisher("/tercel/transition_event")
    for verb, state in (
        ("configure", "inactive"),
        ("activate", "active"),
        ("deactivate", "inactive"),
        ("activate", "active"),
        ("deactivate", "inactive"),
        ("cleanup", "unconfigured"),
        ("configure", "inactive"),
        ("activate", "active"),
        ("shutdown", "finalized"),
    ):
        assert peer.change("/tercel", verb), process.said()
        assert peer.state("/tercel") == state
        is_there = "/odometry" in dict(peer.node.get_topic_names_and_types())
        assert is_there or state != "active"
    eventually(lambda: len(events) >= 18, "two events for each transition")
    goals = [event.goal_state.label for event in events]
    primary = [goal for goal in goals if goal in ("unconfigured", "inactive", "active", "finalized")]
    assert primary == ["inactive", "active", "inactive", "active", "inactive", "unconfigured", "inactive", "active",
                     "finalized"]  # fmt: skip
    assert process.interrupt() == 0


def test_an_inactive_node_is_silent_and_an_active_one_is_not(peer: Peer, robot: Any) -> None:
    from diagnostic_msgs.msg import DiagnosticArray

    heard = peer.listen("/diagnostics", DiagnosticArray)
    robot(*LIDAR)
    peer.wait_until_active("/tercel")
    eventually(lambda: heard, "diagnostics of an active node")
    assert peer.change("/tercel", "deactivate")
    before = len(heard)
    assert peer.node.count_subscribers("/lidar/points") == 0
    peer.trigger("/tercel/status")
    assert len(heard) <= before + 1
    assert peer.change("/tercel", "activate")
    eventually(lambda: len(heard) > before + 1, "diagnostics again")


def test_autostart_makes_a_node_active_and_an_interrupt_ends_it_cleanly(peer: Peer, robot: Any) -> None:
    process = robot(*LIDAR)
    peer.wait_until_active("/tercel")
    assert process.interrupt() == 0
    said = process.said()
    assert "odometry: 0 received, 0 processed" in said
    assert "Traceback" not in said
    eventually(lambda: "/tercel" not in [f"/{name}" for name in peer.node.get_node_names()], "the node is gone")


def test_a_transition_that_is_not_allowed_is_refused_and_survived(peer: Peer, robot: Any) -> None:
    """rclpy raises in its own service's callback, and answers nobody; the node itself must go on."""
    process = robot(*LIDAR, "-p", "autostart:=false")
    assert peer.state("/tercel") == "unconfigured"
    request = ChangeState.Request()
    request.transition.id = 3  # activate
    client = peer.node.create_client(ChangeState, "/tercel/change_state")
    eventually(client.service_is_ready, "the service")
    client.call_async(request)
    client.call_async(request)
    eventually(lambda: "a callback failed" in process.said(), "the reason in the log")
    assert peer.state("/tercel") == "unconfigured"
    assert peer.change("/tercel", "configure")
    assert peer.change("/tercel", "activate")
    assert process.said().count("a callback failed") == 1


def test_a_graph_without_its_model_stays_unconfigured_until_it_has_one(peer: Peer, robot: Any) -> None:
    process = robot("-p", "graph:=camera", "-p", "models.detector:=missing.onnx", "-p", "autostart:=false")
    assert not peer.change("/tercel", "configure")
    assert peer.state("/tercel") == "unconfigured"
    assert "configure failed: no model at missing.onnx" in process.said()
    verbs = peer.call("/tercel/get_available_transitions", GetAvailableTransitions).available_transitions
    assert "configure" in {verb.transition.label for verb in verbs}


def test_a_node_that_starts_by_itself_and_cannot_ends_with_the_reason(robot: Any) -> None:
    process = robot("-p", "graph:=camera", "-p", "models.detector:=missing.onnx")
    assert process.process.wait(20.0) == 2
    assert "no model at missing.onnx" in process.said()
    assert "Traceback" not in process.said()


def test_a_component_runs_alone_under_its_own_name(peer: Peer, robot: Any) -> None:
    robot(executable="tracker_3d")
    peer.wait_until_active("/tracker_3d")
    topics = dict(peer.node.get_topic_names_and_types())
    assert topics["/tracks"] == ["vision_msgs/msg/Detection3DArray"]
    assert {"/detections", "/odometry"} <= set(topics)
