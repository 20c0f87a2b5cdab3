"""The images that a quantization is calibrated and verified with, read one by one; damaged ones are left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.image_files import find_image_files, read_image_file
from perception.images import TensorMaker, bgr_from_image
from perception.labelled import LabelledFolder, in_classes
from perception.model_spec import ModelSpec
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Detections2D, Image

Array = NDArray[Any]

FLAT_DEVIATION = 2.0
"""An image whose pixels deviate by less than this (of 255) shows nothing: a covered lens, a black frame."""


@dataclass(eq=False)
class ImageFiles:
    """Images by path. problems: a line for each that could not be used, filled while reading; flat: how many of the
    images that were read show nothing."""

    paths: list[Path]
    problems: dict[Path, str] = field(default_factory=dict)
    flat: set[Path] = field(default_factory=set)

    def read(self) -> Iterator[Image]:
        """The images that can be read."""
        for path in self.paths:
            try:
                image = read_image_file(path)
                deviation = float(bgr_from_image(image)[::4, ::4].std())
            except Rejected as error:
                self.problems[path] = f"{path.name}: {error}"
                continue
            if deviation < FLAT_DEVIATION:
                self.flat.add(path)
            yield image

    def tensors(self, spec: ModelSpec) -> Iterator[Array]:
        """The network's inputs for them."""
        maker = TensorMaker(spec)
        for image in self.read():
            yield maker(bgr_from_image(image))[0]


def evenly(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of the paths, evenly spread."""
    if len(paths) <= most:
        return list(paths)
    return [paths[index] for index in np.linspace(0, len(paths) - 1, most).round().astype(int)]


def calibration_files(words: Sequence[str | Path], most: int) -> ImageFiles:
    """The calibration images that these files, folders and patterns mean. Raises UserError if there is none."""
    return ImageFiles(evenly(find_image_files(words), most))


def held_out(files: ImageFiles) -> tuple[ImageFiles, ImageFiles]:
    """(for calibration, for verification): every fourth image is kept back; of fewer than eight, all serve for both."""
    if len(files.paths) < 8:
        return files, ImageFiles(list(files.paths))
    kept = files.paths[3::4]
    return ImageFiles([path for path in files.paths if path not in set(kept)]), ImageFiles(kept)


def labelled_images(folder: LabelledFolder, spec: ModelSpec, most: int) -> tuple[list[Image], list[Detections2D]]:
    """At most so many images of a labelled data set, evenly spread, and their truth in the network's classes.

    Raises UserError if none can be read.
    """
    images, truth = [], []
    for index in np.linspace(0, len(folder) - 1, min(most, len(folder))).round().astype(int).tolist():
        try:
            labelled = in_classes(folder[index], spec.class_names)
        except Rejected:
            continue
        images.append(labelled.image)
        truth.append(labelled.truth)
    if not images:
        raise UserError(f"{folder.name}: no labelled image could be read; check the files")
    return images, truth
