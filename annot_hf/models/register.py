"""With the package installed, `AutoModel` knows our models without trusting remote code."""

from transformers import AutoConfig, AutoModel

from .configuration_annotator import AnnotatorConfig
from .configuration_distribution import DistributionConfig
from .configuration_distribution_qwen2_audio import DistributionQwen2AudioConfig
from .configuration_log_mel import LogMelConfig
from .configuration_seedbert import SeedBertConfig
from .modeling_annotator import AnnotatorModel
from .modeling_distribution import DistributionModel
from .modeling_distribution_qwen2_audio import DistributionQwen2Audio
from .modeling_log_mel import LogMelModel
from .modeling_seedbert import SeedBert


def register_models() -> None:
    """Register every configuration and model with the library's Auto classes; calling it again is harmless."""
    for config, model in (
        (LogMelConfig, LogMelModel),
        (DistributionConfig, DistributionModel),
        (AnnotatorConfig, AnnotatorModel),
        (SeedBertConfig, SeedBert),
        (DistributionQwen2AudioConfig, DistributionQwen2Audio),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
