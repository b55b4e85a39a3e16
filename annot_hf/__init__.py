"""annot-hf: votes in, a distribution of human opinion out.

Public names are bound when first used, so that `import annot_hf` costs nothing and never loads torch by itself.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "data.agreement": ["agreement"],
    "data.annotations": ["Annotations", "read_annotations", "write_annotations"],
    "data.audio": ["AudioError", "AudioLimits", "load_audio"],
    "data.conditions": ["Condition"],
    "data.corpus": ["VoteCorpus", "load_corpus_script"],
    "data.dime": ["plan_mixtures"],
    "data.dime_dataset": ["mix_dataset"],
    "data.dime_features": ["write_features"],
    "data.export": ["ExportedCorpus", "export_corpus", "read_export"],
    "data.questions": ["Question"],
    "data.simulate": ["SimulatedCorpus", "read_truth", "simulate_corpus"],
    "data.sources": ["combine_votes", "weigh_sources"],
    "data.targets": ["Targets", "make_targets"],
    "data.votes": ["VoteTable"],
    "evaluation.breakdown": ["break_down"],
    "evaluation.comparison": ["compare"],
    "evaluation.comparison_report": ["build_comparison"],
    "evaluation.predictions": ["Predictions"],
    "evaluation.report": ["build_report"],
    "evaluation.robustness": ["measure_conditions", "read_conditions"],
    "evaluation.saturation": ["measure_saturation"],
    "evaluation.scoring": ["score"],
    "models.configuration_annotator": ["AnnotatorConfig"],
    "models.configuration_distribution": ["DistributionConfig"],
    "models.configuration_distribution_qwen2_audio": ["DistributionQwen2AudioConfig"],
    "models.configuration_log_mel": ["LogMelConfig"],
    "models.configuration_seedbert": ["SeedBertConfig"],
    "models.modeling_annotator": ["AnnotatorModel"],
    "models.modeling_distribution": ["DistributionModel"],
    "models.modeling_distribution_qwen2_audio": ["DistributionQwen2Audio"],
    "models.modeling_seedbert": ["SeedBert"],
    "models.register": ["register_models"],
    "proxies.annotate": ["annotate"],
    "proxies.backend": ["make_backend"],
    "proxies.job": ["make_job"],
    "training.collator": ["VoteCollator"],
    "training.crossval": ["crossval"],
    "training.inference": ["load_model", "predict", "predict_inputs"],
    "training.lora": ["add_lora", "load_lora", "merge_lora", "save_lora"],
    "training.recipe": ["load_recipe"],
    "training.salient": ["measure_saliency"],
    "training.train": ["train"],
}
_HOME_OF = {name: f"annot_hf.{home}" for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'annot_hf' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
