"""What each tracker is compared with: its own defaults, and settings for each kind of data.

Those of the peers come from a search for the highest HOTA, one setting after another: "mot15" on all of MOT15-train, on
which they are then measured, which favours them; "simulated" on a stream of 50 objects from another seed. It had 34 to
40 trials for each, for boxmot's slow ones 8 to 14, for its SFSORT on MOT15 21. Norfair has no default for the distance;
0.7 is its examples'. Ours: "mot15" was chosen on the first of MOT15_HALVES, "simulated" by such a search, of about 100
trials because there are more settings, on the peers' stream.
"""

from __future__ import annotations

from typing import Any

Settings = dict[str, dict[str, Any]]

PEERS: dict[str, Settings] = {
    "filterpy SORT": {
        "default": {},
        "mot15": {"max_age": 15, "min_hits": 1, "min_score": 0.7},
        "simulated": {"max_age": 4, "min_hits": 1, "min_score": 0.4, "iou_threshold": 0.2},
    },
    "roboflow SORT": {
        "default": {},
        "mot15": {"lost_track_buffer": 60, "track_activation_threshold": 0.9, "minimum_consecutive_frames": 2},
        "simulated": {
            "minimum_consecutive_frames": 2,
            "minimum_iou_threshold": 0.1,
            "lost_track_buffer": 20,
            "track_activation_threshold": 0.5,
        },
    },
    "roboflow ByteTrack": {
        "default": {},
        "mot15": {"track_activation_threshold": 0.8, "minimum_iou_threshold": 0.2, "high_conf_det_threshold": 0.8},
        "simulated": {"lost_track_buffer": 10, "track_activation_threshold": 0.5, "high_conf_det_threshold": 0.5},
    },
    "roboflow OC-SORT": {
        "default": {},
        "mot15": {
            "lost_track_buffer": 60,
            "high_conf_det_threshold": 0.8,
            "minimum_consecutive_frames": 1,
            "direction_consistency_weight": 0.1,
        },
        "simulated": {
            "lost_track_buffer": 10,
            "high_conf_det_threshold": 0.4,
            "minimum_consecutive_frames": 1,
            "minimum_iou_threshold": 0.2,
        },
    },
    "roboflow C-BIoU": {
        "default": {},
        "mot15": {
            "lost_track_buffer": 60,
            "track_activation_threshold": 0.9,
            "minimum_consecutive_frames": 3,
            "buffer_ratio_first": 0.0,
        },
        "simulated": {
            "track_activation_threshold": 0.5,
            "high_conf_det_threshold": 0.3,
            "buffer_ratio_first": 0.5,
            "buffer_ratio_second": 0.3,
            "lost_track_buffer": 10,
        },
    },
    "norfair": {
        "default": {"distance_threshold": 0.7},
        "mot15": {"distance_threshold": 0.8, "matched_only": True, "initialization_delay": 1, "min_score": 0.6},
        "simulated": {"distance_threshold": 0.9, "initialization_delay": 1, "hit_counter_max": 8, "min_score": 0.4},
    },
    "boxmot ByteTrack": {
        "default": {},
        "mot15": {"track_thresh": 0.8, "track_buffer": 10},
        "simulated": {"match_thresh": 0.9, "track_buffer": 10},
    },
    "boxmot OC-SORT": {
        "default": {},
        "mot15": {"det_thresh": 0.7, "min_hits": 1},
        "simulated": {"max_age": 15, "min_hits": 1},
    },
    "boxmot SFSORT": {
        "default": {},
        "mot15": {"central_timeout": 10, "high_th": 0.8, "match_th_first": 0.5, "new_track_th": 0.8},
        "simulated": {"new_track_th": 0.8, "match_th_second": 0.5, "marginal_timeout": 10, "central_timeout": 10},
    },
}

OURS: dict[str, Settings] = {
    "tercel": {
        "default": {},
        "mot15": {"start_score": 0.85, "confirm_score": 0.99, "max_tentative_age_s": 0.2, "coast_s": 0.05},
        "simulated": {
            "min_score": 0.5,
            "start_score": 0.5,
            "confirm_score": 0.8,
            "coast_s": 0.07,
            "max_age_s": 0.2,
            "max_tentative_age_s": 0.05,
            "min_iou": 0.2,
            "measurement_noise_scales": 0.02,
            "acceleration_noise_scales": 2.0,
            "shown_place_gain": 0.0,
            "shown_size_gain": 0.0,
        },
    },
    "sort": {"default": {}},
    "bytetrack": {"default": {}},
    "ocsort": {"default": {}},
}

MOT15_HALVES = {
    "tuned on": ("ADL-Rundle-6", "ETH-Bahnhof", "ETH-Sunnyday", "KITTI-17", "PETS09-S2L1", "TUD-Campus"),
    "other": ("ADL-Rundle-8", "ETH-Pedcross2", "KITTI-13", "TUD-Stadtmitte", "Venice-2"),
}
