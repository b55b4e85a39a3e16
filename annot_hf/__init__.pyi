"""Public names, for editors and type checkers; `__init__.py` binds the same list lazily."""

from annot_hf.data.audio import load_audio as load_audio
from annot_hf.data.corpus import VoteCorpus as VoteCorpus, load_corpus_script as load_corpus_script
from annot_hf.data.export import export_corpus as export_corpus, read_export as read_export
from annot_hf.data.predictions import Predictions as Predictions
from annot_hf.data.questions import Question as Question
from annot_hf.data.targets import Targets as Targets, make_targets as make_targets
from annot_hf.data.votes import VoteTable as VoteTable
from annot_hf.evaluation.agreement import agreement as agreement
from annot_hf.evaluation.evaluate import evaluate as evaluate
from annot_hf.experiments.crossval import crossval as crossval
from annot_hf.hub.cards import write_model_card as write_model_card
from annot_hf.hub.publish import publish as publish
from annot_hf.models.adapters import add_lora as add_lora
from annot_hf.models.configuration_annotator import AnnotatorConfig as AnnotatorConfig
from annot_hf.models.configuration_distribution import DistributionConfig as DistributionConfig
from annot_hf.models.configuration_seedbert import SeedBertConfig as SeedBertConfig
from annot_hf.models.modeling_annotator import AnnotatorModel as AnnotatorModel
from annot_hf.models.modeling_distribution import DistributionModel as DistributionModel
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio as DistributionQwen2Audio
from annot_hf.models.modeling_seedbert import SeedBert as SeedBert
from annot_hf.models.register import register_models as register_models
from annot_hf.proxies.annotate import annotate as annotate
from annot_hf.report.report import build_comparison as build_comparison, build_report as build_report
from annot_hf.training.checkpoints import load_model as load_model
from annot_hf.training.collator import VoteCollator as VoteCollator
from annot_hf.training.inference import predict as predict, predict_inputs as predict_inputs
from annot_hf.training.recipe import load_recipe as load_recipe
from annot_hf.training.train import train as train

__version__: str
