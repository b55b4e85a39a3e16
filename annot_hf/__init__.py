"""annot-hf: votes in, a distribution of human opinion out.

Public names are bound when first used, so that `import annot_hf` costs nothing and never loads torch by itself.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "data.agreement": ["agreement"],
    "data.audio": ["AudioLimits", "load_audio"],
    "data.conditions": ["Condition"],
    "data.corpus": ["load_corpus_script", "VoteCorpus"],
    "data.dime": ["plan_mixtures"],
    "data.dime_features": ["write_features"],
    "data.export": ["export_corpus", "ExportedCorpus", "read_export"],
    "data.lengths": ["AudioError"],
    "data.mix_dataset": ["mix_dataset"],
    "data.predictions": ["Predictions"],
    "data.questions": ["Question"],
    "data.simulate": ["read_truth", "simulate_corpus", "SimulatedCorpus"],
    "data.synthetic": ["Annotations", "combine_votes", "read_annotations", "weigh_sources", "write_annotations"],
    "data.targets": ["make_targets", "Targets"],
    "data.votes": ["VoteTable"],
    "evaluation.evaluate": ["evaluate"],
    "experiments.crossval": ["crossval"],
    "experiments.salient_layer": ["measure_saliency"],
    "experiments.saturation_study": ["measure_saturation"],
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
    "proxies.annotate": ["annotate", "make_backend"],
    "proxies.job": ["make_job"],
    "report.report": ["build_comparison", "build_report"],
    "training.collator": ["VoteCollator"],
    "training.inference": ["predict", "predict_inputs"],
    "training.lora": ["add_lora", "load_lora", "save_lora"],
    "training.outputs": ["load_model", "merge_lora"],
    "training.recipe": ["load_recipe"],
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
