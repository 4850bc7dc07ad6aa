"""Fixtures of the tests that talk to the test Hub; a module loads them with `pytest_plugins = ["hub_fixtures"]`."""

import contextlib
import functools
import shutil

import pytest
from conftest import shared, write_official
from hub_server import Hub
from hub_session import NEWEST, Session
from training_runs import quick_run


@pytest.fixture(scope="session")
def session_factory(tmp_path_factory):
    """Return a function from (version, xet) to a Session; each Hub, client process and HF_HOME serves all tests."""
    with contextlib.ExitStack() as stack:
        hubs = {xet: stack.enter_context(Hub(xet=xet)) for xet in (False, True)}

        @functools.cache
        def session(version, xet=False):
            made = Session(hubs[xet], tmp_path_factory.mktemp("hf"), version)
            stack.callback(made.close)
            return made

        yield session


@pytest.fixture
def sessions(session_factory):
    """`session_factory` with empty Hubs; asserts that no client asked for something unknown."""
    yield session_factory
    for xet in (False, True):
        hub = session_factory(NEWEST, xet).hub
        complaints = list(hub.complaints)
        hub.reset()
        assert complaints == []


@pytest.fixture
def session(sessions):
    return sessions(NEWEST)


@pytest.fixture
def hub(session):
    return session.hub


@pytest.fixture(scope="session")
def made_run():
    """A run of the tiny preset on generated images, with its ONNX export."""
    return shared("made_run", make_run) / "run"


def make_run(folder):
    """Train the run of `made_run` in `folder / "run"`."""
    import modeling_eanet
    from eanet.export import export_onnx

    run = quick_run(write_official(folder / "colours"), folder / "run", "--epochs", 2, "--batch-size", 64)
    (run / "onnx").mkdir()
    export_onnx(modeling_eanet.from_pretrained_keras(run), run / "onnx" / "model.onnx")


@pytest.fixture
def run(made_run, tmp_path):
    return shutil.copytree(made_run, tmp_path / "run")
