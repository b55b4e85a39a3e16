"""Fixtures that other folders share, and a Hub that the clients in this process use."""

import pytest
from hub_stub import Hub, serve_hub
from huggingface_hub import constants
from small_runs import *  # noqa: F403


@pytest.fixture(scope="session")
def address_and_hub():
    """One server for all tests; each starts with an empty Hub."""
    hub = Hub({})
    with serve_hub(hub) as address:
        yield address, hub


@pytest.fixture
def hub(address_and_hub, monkeypatch, tmp_path):
    """An empty Hub that this process is logged in to."""
    address, hub = address_and_hub
    hub.__dict__.update(vars(Hub({})))
    online = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
    }
    for name, value in online.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    hub.address = address
    return hub
