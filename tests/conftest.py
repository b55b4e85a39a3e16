"""Shared fixtures. The environment is set before any Hugging Face library is imported: no test needs a network."""

import os
import pathlib

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_EVALUATE_OFFLINE="1",
    HF_UPDATE_DOWNLOAD_COUNTS="0",
    HF_HUB_DISABLE_TELEMETRY="1",
    GRADIO_ANALYTICS_ENABLED="False",
    TRANSFORMERS_VERBOSITY="error",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import Phase, settings

ROOT = pathlib.Path(__file__).parents[1]

settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("first failure", settings.get_profile("quick"), phases=[Phase.explicit, Phase.generate])
settings.load_profile("quick")


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of reference corpora beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the reference corpora are not there: {folder}")
    return folder
