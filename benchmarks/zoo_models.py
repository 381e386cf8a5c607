"""Architectures as their packages define them, small, with random weights: timm's, transformers' and some by hand.

``load(name)`` gives what a factory of trtpipe's returns, ``feeds(name, seed, count)`` inputs by name. Packages and
weights: none is downloaded; the versions of the packages are those of ``zoo_requirements.txt``.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
import zoo_hand
from torch import nn

#: model of timm -> edge of its square images, and what makes it smaller
_TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "beit_base_patch16_224": (96, {"img_size": 96, "depth": 2, "embed_dim": 192, "num_heads": 3}),
    "cait_xxs24_224": (96, {"img_size": 96, "depth": 3}),
    "coat_lite_tiny": (96, {"img_size": 96}),
    "convit_tiny": (96, {"img_size": 96, "depth": 3}),
    "deit3_small_patch16_224": (96, {"img_size": 96, "depth": 3}),
    "eva02_tiny_patch14_224": (112, {"img_size": 112, "depth": 4}),
    "gmlp_ti16_224": (96, {"img_size": 96}),
    "maxvit_pico_rw_256": (128, {"img_size": 128}),
    "mixer_s32_224": (96, {"img_size": 96}),
    "resmlp_12_224": (96, {"img_size": 96}),
    "sequencer2d_s": (96, {"img_size": 96}),
    "swin_tiny_patch4_window7_224": (
        112, {"img_size": 112, "depths": (1, 1, 2, 1), "embed_dim": 48, "num_heads": (2, 4, 8, 16)},
    ),
    "swinv2_tiny_window8_256": (
        128, {"img_size": 128, "depths": (1, 1, 2, 1), "embed_dim": 48, "num_heads": (2, 4, 8, 16)},
    ),
    "tnt_s_patch16_224": (96, {"img_size": 96, "depth": 3}),
    "vit_relpos_small_patch16_224": (96, {"img_size": 96, "depth": 3}),
    "vit_tiny_patch16_224": (96, {"img_size": 96, "depth": 4}),
    "xcit_nano_12_p16_224": (96, {"img_size": 96, "depth": 3}),
    "botnet26t_256": (128, {"img_size": 128}),
    **dict.fromkeys(("csatv2", "inception_v3", "shvit_s1"), (128, {})),
    "crossvit_9_240": (240, {}),
    **dict.fromkeys(
        ("efficientformer_l1", "efficientformerv2_s0", "efficientvim_m1", "efficientvit_m0", "gcvit_xxtiny",
         "hiera_tiny_224", "levit_128s", "coatnet_nano_rw_224", "mvitv2_tiny", "nest_tiny", "pit_ti_224",
         "swiftformer_xs", "tiny_vit_5m_224", "twins_svt_small", "visformer_tiny", "vitamin_small_224", "volo_d1_224"),
        (224, {}),
    ),
    **dict.fromkeys(
        ("eca_resnext26ts", "gcresnext26ts", "repvgg_a0", "mobileone_s0", "convnext_atto", "convnextv2_atto",
         "cs3darknet_focus_s", "cspresnet50", "davit_tiny", "densenet121", "dla46_c", "dpn48b", "edgenext_xx_small",
         "efficientnet_b0", "efficientnet_lite0", "efficientnetv2_rw_t", "mixnet_s", "mobilenetv2_050", "mnasnet_050",
         "spnasnet_100", "tinynet_e", "efficientvit_b0", "fasternet_t0", "fastvit_t8", "focalnet_tiny_srf",
         "ghostnet_050", "hardcorenas_a", "hgnetv2_b0", "hrnet_w18_small", "iformer_t", "inception_next_atto",
         "lcnetv2_small", "mambaout_femto", "poolformer_s12", "caformer_s18", "mobilenetv3_small_100",
         "mobilenetv4_conv_small", "mobilevit_xxs", "mobilevitv2_050", "nfnet_l0", "pvt_v2_b0", "rdnet_tiny",
         "regnety_002", "repghostnet_050", "repvit_m0_9", "res2net50_26w_4s", "resnest14d", "resnet18", "resnet26t",
         "seresnext26d_32x4d", "resnetv2_18", "rexnet_100", "selecsls42b", "skresnet18", "starnet_s050",
         "ese_vovnet19b_dw", "xception41", "nextvit_small"),
        (96, {}),
    ),
}  # fmt: skip

#: settings of transformers' configurations, where a configuration has them
_SMALL: Mapping[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 200,
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_key_value_heads": 2, "n_embd": 64, "n_layer": 2, "n_head": 4,
    "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128,
    "embedding_size": 64, "head_dim": 16, "image_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "max_position_embeddings": 64, "num_labels": 5,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """The inputs of a model: name -> what it holds, and its shape.

    What it holds: ``image`` (smooth, normalized), ``sound`` (tones and noise at 16 kHz), ``tokens``, ``mask`` (ones,
    then zeros), ``box`` (corners of 0 to 20), ``lengths``, or ``normal`` noise.
    """

    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    positional: bool = False


TOKENS = ("tokens", (1, 16))
_TEXT = Kind({"input_ids": TOKENS, "attention_mask": ("mask", (1, 16))})
_IDS = Kind({"input_ids": TOKENS})
_PAIR = Kind({**_TEXT.inputs, "decoder_input_ids": ("tokens", (1, 8))})
_IMAGE = Kind({"pixel_values": ("image", (1, 3, 64, 64))})
_SOUND = Kind({"input_values": ("sound", (1, 4000))})
_STAGES = {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1]}
_HEADS = {**_STAGES, "num_attention_heads": [1, 2, 4, 4], "decoder_hidden_size": 64}
_CONVOLUTIONS = {"conv_dim": (32,) * 7}


@dataclass(frozen=True)
class Pretrained:
    """A class of transformers', its inputs, and what its configuration has beyond the settings above; of those with
    ``None``, the configuration's own default.
    """

    inputs: Kind
    settings: Mapping[str, Any] = field(default_factory=dict)


_HF: dict[str, Pretrained] = {
    **dict.fromkeys(
        ("BertModel", "RobertaForSequenceClassification", "DistilBertForTokenClassification", "AlbertModel",
         "ElectraForPreTraining", "DebertaV2Model", "MPNetModel", "SqueezeBertModel", "CamembertForMaskedLM",
         "ModernBertModel", "ConvBertModel", "NystromformerModel",
         "GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
         "GemmaForCausalLM", "Gemma2ForCausalLM", "GPTNeoXForCausalLM", "BloomForCausalLM", "T5EncoderModel",
         "CLIPTextModel"),
        Pretrained(_TEXT),
    ),
    **dict.fromkeys(("FNetModel", "MambaForCausalLM", "SiglipTextModel"), Pretrained(_IDS)),
    **dict.fromkeys(
        ("T5ForConditionalGeneration", "BartModel", "MarianMTModel", "PegasusModel"), Pretrained(_PAIR)
    ),
    **dict.fromkeys(
        ("ViTModel", "ViTForImageClassification", "DeiTForImageClassification", "BeitModel", "MobileViTModel",
         "MobileNetV2ForImageClassification", "PoolFormerForImageClassification", "SuperPointForKeypointDetection",
         "CLIPVisionModel", "SiglipVisionModel", "VitDetModel", "TextNetForImageClassification"),
        Pretrained(_IMAGE),
    ),
    "XLMRobertaForQuestionAnswering": Pretrained(_TEXT, {"num_labels": 2}),
    "FunnelModel": Pretrained(
        _TEXT, {"block_sizes": [1, 1, 1], "d_head": 16, "d_inner": 128, "num_hidden_layers": None}
    ),
    "MobileBertModel": Pretrained(_TEXT, {"true_hidden_size": 64, "intra_bottleneck_size": 64}),
    "LongformerModel": Pretrained(_TEXT, {"attention_window": 8}),
    "BigBirdModel": Pretrained(_TEXT, {"attention_type": "original_full"}),
    "OPTForCausalLM": Pretrained(_TEXT, {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    **dict.fromkeys(
        ("PhiForCausalLM", "OlmoForCausalLM", "StableLmForCausalLM"), Pretrained(_TEXT, {"num_key_value_heads": 4})
    ),
    "MixtralForCausalLM": Pretrained(_TEXT, {"num_local_experts": 2}),
    "ResNetForImageClassification": Pretrained(
        _IMAGE, {**_STAGES, "embedding_size": 32, "hidden_sizes": [32, 64, 96, 128]}
    ),
    "SegformerForSemanticSegmentation": Pretrained(
        _IMAGE, {"num_attention_heads": [1, 2, 5, 8], "decoder_hidden_size": 64, "num_hidden_layers": None}
    ),
    "GLPNForDepthEstimation": Pretrained(_IMAGE, _HEADS),
    "YolosForObjectDetection": Pretrained(_IMAGE, {"image_size": [64, 64], "num_detection_tokens": 10}),
    "Dinov2Model": Pretrained(Kind({"pixel_values": ("image", (1, 3, 56, 56))}), {"image_size": 56, "patch_size": 14}),
    "EfficientNetForImageClassification": Pretrained(
        _IMAGE,  # with the usual range of initial weights its outputs are exactly 0
        {"width_coefficient": 0.5, "depth_coefficient": 0.3, "hidden_dim": 640, "initializer_range": 0.2},
    ),
    "RegNetForImageClassification": Pretrained(
        _IMAGE, {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "groups_width": 16}
    ),
    "FocalNetForImageClassification": Pretrained(_IMAGE, {"embed_dim": 24, "depths": [1, 1]}),
    **dict.fromkeys(("Wav2Vec2ForCTC", "HubertModel", "WavLMModel"), Pretrained(_SOUND, _CONVOLUTIONS)),
    "SEWModel": Pretrained(_SOUND),
    "ASTModel": Pretrained(Kind({"input_values": ("normal", (1, 128, 128))}), {"max_length": 128}),
    "PatchTSTForPrediction": Pretrained(
        Kind({"past_values": ("normal", (1, 32, 2))}),
        {"context_length": 32, "prediction_length": 8, "num_input_channels": 2},
    ),
    "LayoutLMModel": Pretrained(Kind({**_TEXT.inputs, "bbox": ("box", (1, 16, 4))})),
}  # fmt: skip


def names() -> list[str]:
    """All of them: ``hand/...``, ``hf/...``, ``timm/...``."""
    return [
        *(f"hand/{name}" for name in zoo_hand.MODELS),
        *(f"hf/{name}" for name in sorted(_HF)),
        *(f"timm/{name}" for name in sorted(_TIMM)),
    ]


def load(name: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The module, with positional and named example inputs."""
    torch.manual_seed(0)
    group, _, model = name.partition("/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = {"hand": _hand, "hf": _transformers, "timm": _timm}[group](model).eval()
    _wake(module)
    kind = _kind(name)
    example = {key: torch.from_numpy(value) for key, value in _feed(kind, np.random.default_rng(0)).items()}
    return (module, tuple(example.values()), {}) if kind.positional else (module, (), example)


def feeds(name: str, seed: int, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Inputs by name."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield _feed(_kind(name), rng)


def _hand(model: str) -> nn.Module:
    module: nn.Module = zoo_hand.MODELS[model].make()
    return module


def _transformers(model: str) -> nn.Module:
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    import transformers

    transformers.logging.set_verbosity_error()
    cls = getattr(transformers, model)
    known, entry = cls.config_class(), _HF[model]
    small = {key: value for key, value in _SMALL.items() if hasattr(known, key)}
    settings = {key: value for key, value in {**small, **entry.settings}.items() if value is not None}
    module: nn.Module = cls(cls.config_class(**settings))
    return module


def _timm(model: str) -> nn.Module:
    # timm imports torchvision, whose wheels fit no torch without CUDA; its Python files and two schemas are enough
    if "timm" not in sys.modules:
        sys.path.append(os.environ["ZOO_VISION"])
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
    import timm

    module: nn.Module = timm.create_model(model, pretrained=False, num_classes=50, **_TIMM[model][1])
    return module


def _kind(name: str) -> Kind:
    group, _, model = name.partition("/")
    if group == "timm":
        edge = _TIMM[model][0]
        return Kind({"x": ("image", (1, 3, edge, edge))}, positional=True)
    return _HF[model].inputs if group == "hf" else Kind(zoo_hand.MODELS[model].inputs, positional=True)


def _feed(kind: Kind, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: _made(what, shape, rng) for name, (what, shape) in kind.inputs.items()}


def _made(what: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if what == "image":
        coarse = rng.standard_normal((1, shape[-3], 6, 6)).astype(np.float32)
        smooth = F.interpolate(torch.from_numpy(coarse), size=shape[-2:], mode="bicubic", align_corners=False).numpy()
        return np.clip(smooth + 0.15 * rng.standard_normal(shape), -2.5, 2.5).astype(np.float32)
    if what == "sound":
        seconds = np.arange(shape[-1]) / 16000
        tones = [rng.uniform(0.02, 0.3) * np.sin(2 * np.pi * rng.uniform(80, 3000) * seconds) for _ in range(5)]
        return (sum(tones) + 0.02 * rng.standard_normal(shape)).astype(np.float32)
    if what == "tokens":
        return (3 + np.minimum(rng.zipf(1.3, shape), 196)).astype(np.int64)
    if what == "mask":
        ones = int(rng.integers(shape[-1] // 2, shape[-1] + 1))
        return np.broadcast_to(np.arange(shape[-1]) < ones, shape).astype(np.int64)
    if what == "box":
        corner = rng.integers(0, 10, (*shape[:-1], 2))
        return np.concatenate([corner, corner + rng.integers(1, 10, corner.shape)], -1).astype(np.int64)
    if what == "lengths":
        return rng.integers(1, 9, shape).astype(np.int64)
    return rng.standard_normal(shape).astype(np.float32)


def _wake(module: nn.Module) -> None:
    """Let branches count that start from zero, such as LayerScale's, and tokens: in trained networks they do."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            flat = parameter.numel() > 1 and float(parameter.max() - parameter.min()) == 0
            if flat and not name.endswith("bias") and float(parameter.abs().max()) < 0.05:
                parameter.uniform_(0.25, 0.75)
