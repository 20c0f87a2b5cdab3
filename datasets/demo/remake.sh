#!/bin/sh
# Remakes demo.mcap, byte for byte: remake.sh TERCEL OUTPUT. `make demo-recording` calls it.
set -eu
exec "$1" world street --seed 12 --output "$2" \
    --set duration_s=10 --set lidar_rate_hz=5 --set lidar_columns=900 --set range_step_m=0.0078125 \
    --set camera_rate_hz=5 --set camera_width_px=400 --set camera_height_px=250 --set jpeg_quality=85 \
    --set include_depth=false --set gps_rate_hz=1
