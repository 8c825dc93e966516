"""BLIP on the accelerator against BLIP on the CPU, with the demo model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import UInt8

from raycap.config import GenerationConfig, ModelConfig, SamplingConfig
from raycap.demo.scenes import draw_scene
from raycap.models import blip
from raycap.models.blip import BlipCaptioner
from raycap.models.sources import DEMO_FOLDER

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator"),
    pytest.mark.skipif(not DEMO_FOLDER.is_dir(), reason="the demo model is not built"),
]
