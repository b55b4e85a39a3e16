"""Fixtures that other folders share."""

from small_runs import (  # noqa: F401
    adapted,
    bert_folder,
    checkpoints,
    copied,
    corpus,
    features,
    lalm,
    lalm_run,
    over_trunk,
    recipe,
    sayings,
    small_run,
    wavlm_folder,
)
