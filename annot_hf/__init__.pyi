"""Public names, for editors and type checkers; `__init__.py` binds the same list lazily."""

from annot_hf.data.agreement import agreement as agreement
from annot_hf.data.audio import AudioLimits as AudioLimits, load_audio as load_audio
from annot_hf.data.conditions import Condition as Condition
from annot_hf.data.corpus import VoteCorpus as VoteCorpus, load_corpus_script as load_corpus_script
from annot_hf.data.dime import plan_mixtures as plan_mixtures
from annot_hf.data.dime_features import write_features as write_features
from annot_hf.data.export import (
    ExportedCorpus as ExportedCorpus,
    export_corpus as export_corpus,
    read_export as read_export,
)
from annot_hf.data.lengths import AudioError as AudioError
from annot_hf.data.mix_dataset import mix_dataset as mix_dataset
from annot_hf.data.predictions import Predictions as Predictions
from annot_hf.data.questions import Question as Question
from annot_hf.data.simulate import (
    SimulatedCorpus as SimulatedCorpus,
    read_truth as read_truth,
    simulate_corpus as simulate_corpus,
)
from annot_hf.data.synthetic import (
    Annotations as Annotations,
    combine_votes as combine_votes,
    read_annotations as read_annotations,
    weigh_sources as weigh_sources,
    write_annotations as write_annotations,
)
from annot_hf.data.targets import Targets as Targets, make_targets as make_targets
from annot_hf.data.votes import VoteTable as VoteTable
from annot_hf.evaluation.evaluate import evaluate as evaluate
from annot_hf.experiments.crossval import crossval as crossval
from annot_hf.experiments.salient_layer import measure_saliency as measure_saliency
from annot_hf.experiments.saturation_study import measure_saturation as measure_saturation
from annot_hf.models.configuration_annotator import AnnotatorConfig as AnnotatorConfig
from annot_hf.models.configuration_distribution import DistributionConfig as DistributionConfig
from annot_hf.models.configuration_distribution_qwen2_audio import (
    DistributionQwen2AudioConfig as DistributionQwen2AudioConfig,
)
from annot_hf.models.configuration_log_mel import LogMelConfig as LogMelConfig
from annot_hf.models.configuration_seedbert import SeedBertConfig as SeedBertConfig
from annot_hf.models.modeling_annotator import AnnotatorModel as AnnotatorModel
from annot_hf.models.modeling_distribution import DistributionModel as DistributionModel
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio as DistributionQwen2Audio
from annot_hf.models.modeling_seedbert import SeedBert as SeedBert
from annot_hf.models.register import register_models as register_models
from annot_hf.proxies.annotate import annotate as annotate, make_backend as make_backend
from annot_hf.proxies.job import make_job as make_job
from annot_hf.report.report import build_comparison as build_comparison, build_report as build_report
from annot_hf.training.collator import VoteCollator as VoteCollator
from annot_hf.training.inference import predict as predict, predict_inputs as predict_inputs
from annot_hf.training.lora import add_lora as add_lora, load_lora as load_lora, save_lora as save_lora
from annot_hf.training.outputs import load_model as load_model, merge_lora as merge_lora
from annot_hf.training.recipe import load_recipe as load_recipe
from annot_hf.training.train import train as train

__version__: str
