"""What `ros2 run tercel NAME` knows: the name of each component's executable, and its class.

setup.py reads this table without importing the suite, so it must stay free of imports.
"""

COMPONENTS = {
    "lidar_odometry": "registration.lidar_odometry.LidarOdometry",
    "lidar_inertial_odometry": "registration.lidar_inertial_odometry.LidarInertialOdometry",
    "lidar_obstacles": "perception.lidar_obstacles.LidarObstacleDetector",
    "camera_detector": "perception.camera_detector.CameraDetector",
    "temporal_detector": "perception.temporal_detector.TemporalDetector",
    "temporal_detector_by_tracks": "perception.temporal_detector.TemporalDetectorByTracks",
    "tracker_2d": "tracking.components.Tracker2D",
    "tracker_2d_sort": "tracking.components.Sort",
    "tracker_2d_bytetrack": "tracking.components.ByteTrack",
    "tracker_2d_ocsort": "tracking.components.OcSort",
    "tracker_2d_by_image": "tracking.stabilised.Tracker2DByImage",
    "tracker_2d_by_odometry": "tracking.stabilised.Tracker2DByOdometry",
    "tracker_3d": "tracking.components.Tracker3D",
    "tracker_3d_boxes": "tracking.components.BoxTracker3D",
    "tracker_3d_ab3dmot": "tracking.components.Ab3dmot",
    "world_fusion": "tracking.fusion.WorldFusion",
    "cooperative_fusion": "tracking.fusion.CooperativeFusion",
    "predictor_2d": "tracking.predictor.Predictor2D",
    "predictor_3d": "tracking.predictor.Predictor3D",
    "sampling_policy_2d": "tracking.sampling_policy.SamplingPolicy2D",
    "sampling_policy_3d": "tracking.sampling_policy.SamplingPolicy3D",
    "image_gate": "tracking.sampling_policy.ImageGate",
    "cloud_gate": "tracking.sampling_policy.CloudGate",
}
GRAPH = "graph_host"  # a whole graph in one process; its parameter `graph` says which
