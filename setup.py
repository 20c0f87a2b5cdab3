"""Name, packages, entry points and data files: what colcon reads. Dependencies stand in setup.cfg."""

from pathlib import Path

from setuptools import find_packages, setup

DOMAINS = ["tercel", "perception", "registration", "tracking", "offload", "devices"]

setup(
    name="tercel",
    packages=find_packages(include=[pattern for name in DOMAINS for pattern in (name, f"{name}.*")]),
    package_data={"tercel.report": ["*.css", "*.js"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/tercel"]),
        ("share/tercel", ["package.xml"]),
        *(
            (f"share/tercel/launch/{folder}", sorted(str(path) for path in Path("launch", folder).iterdir()))
            for folder in ("graphs", "fleets", "offload", "cloud")
        ),
    ],
    entry_points={"console_scripts": ["tercel = tercel.cli:main"]},
)
