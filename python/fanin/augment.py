"""Changed images for training: `fanin.augment.Rotate(15)` and the others, the reference's."""

from .reference.augment import Compose, Cutout, Flip, Noise, Rotate, Shear, Shift, ZoomCrop

__all__ = ["Compose", "Cutout", "Flip", "Noise", "Rotate", "Shear", "Shift", "ZoomCrop"]
