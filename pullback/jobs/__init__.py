"""A data set scored into a run folder: sources of images, encoders by name, the serial driver."""

from .serial import Settings, score_images
from .sources import Images, from_array, open_images

__all__ = ["Images", "Settings", "from_array", "open_images", "score_images"]
