"""Name, packages, entry points and data files: what colcon reads. Dependencies stand in setup.cfg."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

DOMAINS = ["tercel", "perception", "registration", "tracking", "offload", "devices"]
EXECUTABLES = runpy.run_path("tercel/ros/executables.py")

setup(
    name="tercel",
    # Not by `attr:` in setup.cfg: there setuptools 66 to 79 print a line that colcon takes for its own data.
    version=runpy.run_path("tercel/__init__.py")["__version__"],
    packages=find_packages(include=[pattern for name in DOMAINS for pattern in (name, f"{name}.*")]),
    package_data={
        "tercel.report": ["*.css", "*.html", "*.js"],
        "perception": ["models/*.yaml", "models/*.onnx"],
        "registration": ["models/*.yaml", "models/*.onnx"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/tercel"]),
        ("share/tercel", ["package.xml"]),
        ("share/tercel/launch", sorted(str(path) for path in Path("launch").glob("*.launch.py"))),
        *(
            (f"share/tercel/{folder}", sorted(str(path) for path in folder.iterdir() if path.is_file()))
            for folder in sorted(Path("launch").iterdir())
            if folder.is_dir() and folder.name != "__pycache__"
        ),
    ],
    entry_points={
        "console_scripts": [
            "tercel = tercel.cli:main",
            *(f"{name} = tercel.ros.node:main" for name in (EXECUTABLES["GRAPH"], *EXECUTABLES["COMPONENTS"])),
        ]
    },
)
