"""Models of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from tests.matrix.inputs import BOXES, IMAGE, IMAGE_CLASS, LARGE_IMAGE_CLASS, SEGMENTS, SIDE
from tests.matrix.subject import Subject
from tests.matrix.subjects.making import VISION, config, whole

CONVOLUTIONS: dict[str, Any] = {
    "num_channels": 3, "embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic",
}  # fmt: skip


def _classifier(name: str, inputs: Any = IMAGE_CLASS, **sizes: Any) -> Subject:
    return whole(name, f"{name}ForImageClassification", f"{name}Config", {**VISION, **sizes}, inputs)


def _detector(name: str, model: str, configured: Callable[[], Any], *configs: str) -> Subject:
    """A model that finds boxes, with a loss of the user's: that of the library needs scipy."""

    def build(first: bool) -> Any:
        original = getattr(transformers, model)

        class Detector(original):
            def forward(self, pixel_values: torch.Tensor, labels: Any, boxes: torch.Tensor) -> Any:
                found = super().forward(pixel_values)
                loss = nn.functional.cross_entropy(found.logits[:, 0], labels)
                return {"loss": loss + (found.pred_boxes - boxes).abs().mean()}

        return Detector(configured())

    return Subject(name, build, BOXES, tuple(f"transformers.{one}" for one in (model, *configs)))


def _yolos() -> Any:
    return config("YolosConfig", **{**VISION, "image_size": [SIDE, SIDE], "num_detection_tokens": 4})


def _detr() -> Any:
    return config(
        "DetrConfig", use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, d_model=16,
        backbone_config=config("ResNetConfig", **CONVOLUTIONS, out_features=["stage2"]), encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        num_queries=4,
    )  # fmt: skip


IMAGES = (
    whole("ViT", "ViTForImageClassification", "ViTConfig", VISION, IMAGE_CLASS, killed=True),
    _classifier("DeiT"),
    _classifier("Beit"),
    _classifier("Dinov2"),
    whole(
        "Dinov2WithRegisters", "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig",
        VISION, IMAGE_CLASS,
    ),
    whole(
        "ViTMAE", "ViTMAEForPreTraining", "ViTMAEConfig",
        {
            **VISION, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 16,
        },
        IMAGE,
    ),
    whole(
        "Swin", "SwinForImageClassification", "SwinConfig",
        {"image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
        IMAGE_CLASS,
    ),
    whole(
        "ConvNext", "ConvNextForImageClassification", "ConvNextConfig",
        {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2, "patch_size": 2}, IMAGE_CLASS,
    ),
    whole("ResNet", "ResNetForImageClassification", "ResNetConfig", CONVOLUTIONS, IMAGE_CLASS),
    whole(
        "RegNet", "RegNetForImageClassification", "RegNetConfig",
        {**CONVOLUTIONS, "layer_type": "y", "groups_width": 8}, IMAGE_CLASS,
    ),
    whole(
        "MobileNetV2", "MobileNetV2ForImageClassification", "MobileNetV2Config",
        {"image_size": 2 * SIDE, "depth_multiplier": 0.1, "min_depth": 8, "depth_divisible_by": 4}, LARGE_IMAGE_CLASS,
    ),
    whole(
        "Segformer", "SegformerForSemanticSegmentation", "SegformerConfig",
        {
            "num_encoder_blocks": 1, "depths": [1], "sr_ratios": [1], "hidden_sizes": [16], "patch_sizes": [3],
            "strides": [2], "num_attention_heads": [2], "mlp_ratios": [2], "decoder_hidden_size": 16,
        },
        SEGMENTS,
    ),
    _detector("Detr", "DetrForObjectDetection", _detr, "DetrConfig", "ResNetConfig"),
    _detector("YOLOS", "YolosForObjectDetection", _yolos, "YolosConfig"),
)  # fmt: skip
