"""annot-hf: votes in, a distribution of human opinion out.

These are the names of everyday work; everything else is imported from its module. They are bound on first use, so that
`import annot_hf` is fast and does not load torch. Once it is imported, `AutoModel.from_pretrained` and `pipeline` of the
library know our models.
"""

import importlib
from typing import Any

from annot_hf.models.register import await_transformers

__version__ = "0.1.0"

_HOMES = {
    "evaluation.agreement": ["agreement"],
    "data.audio": ["load_audio"],
    "data.corpus": ["load_corpus_script", "VoteCorpus"],
    "data.export": ["export_corpus", "read_export"],
    "data.predictions": ["Predictions"],
    "data.questions": ["Question"],
    "data.targets": ["make_targets", "Targets"],
    "data.votes": ["VoteTable"],
    "evaluation.evaluate": ["evaluate"],
    "experiments.crossval": ["crossval"],
    "hub.cards": ["write_model_card"],
    "hub.publish": ["publish"],
    "models.adapters": ["add_lora"],
    "models.configuration_annotator": ["AnnotatorConfig"],
    "models.configuration_distribution": ["DistributionConfig"],
    "models.configuration_seedbert": ["SeedBertConfig"],
    "models.modeling_annotator": ["AnnotatorModel"],
    "models.modeling_distribution": ["DistributionModel"],
    "models.modeling_distribution_qwen2_audio": ["DistributionQwen2Audio"],
    "models.modeling_seedbert": ["SeedBert"],
    "models.register": ["register_models"],
    "proxies.annotate": ["annotate"],
    "report.report": ["build_comparison", "build_report"],
    "training.collator": ["VoteCollator"],
    "training.inference": ["predict", "predict_inputs"],
    "training.checkpoints": ["load_model"],
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


await_transformers()
