"""With the package installed, `AutoModel` knows our models without trusting remote code."""

from transformers import AutoConfig, AutoModel

from .modeling_annotator import AnnotatorModel
from .modeling_distribution import DistributionModel
from .modeling_distribution_qwen2_audio import DistributionQwen2Audio
from .modeling_log_mel import LogMelModel
from .modeling_seedbert import SeedBert


def register_models() -> None:
    """Register every configuration and model with the library's Auto classes; calling it again is harmless."""
    for model in (LogMelModel, DistributionModel, AnnotatorModel, SeedBert, DistributionQwen2Audio):
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModel.register(model.config_class, model, exist_ok=True)
