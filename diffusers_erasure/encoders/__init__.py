"""Erased text encoders that drop into any Stable Diffusion pipeline. Importing this room registers them."""

from .entry import EncoderErasure
from .robust import RobustEncoder, RobustEncoderWithProjection

__all__ = ["EncoderErasure", "RobustEncoder", "RobustEncoderWithProjection"]
