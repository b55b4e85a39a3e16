"""The page, asked through its API and once in a browser; its checkpoint is trained here on a tiny simulated corpus."""

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("gradio", reason="gradio is not installed; install annot-hf[app]")

from gradio_client import Client, handle_file  # noqa: E402

from annot_hf.data.predictions import Predictions  # noqa: E402
from annot_hf.data.questions import Question  # noqa: E402

SPACE = Path(__file__).parents[2] / "spaces" / "annotator_explorer"
SIZES = {"speakers": 3, "clips_per_speaker": 3, "annotators": 4, "ratings": (2, 3)}
# Loaded by the page's interpreter at start: notes every address that is not on this machine.
GUARD = """
import os, socket
def note(host):
    if host and str(host) not in ("127.0.0.1", "::1", "localhost", "0.0.0.0"):
        open(os.environ["NETWORK_LOG"], "a").write(f"{host}\\n")
def watch(name, host_of):
    original = getattr(*name)
    def watched(*args, **kwargs):
        note(host_of(*args))
        return original(*args, **kwargs)
    setattr(*name, watched)
watch((socket, "getaddrinfo"), lambda host, *rest: host)
watch((socket.socket, "connect"), lambda self, at: at[0] if isinstance(at, tuple) else None)
"""


@pytest.fixture(scope="module")
def app():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SPACE))
        yield importlib.import_module("app")
        for name in ("app", "charts"):
            sys.modules.pop(name)


@pytest.fixture(scope="module")
def charts(app):
    return sys.modules["charts"]


@pytest.fixture(scope="module")
def model(app, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scales") / "model"
    app.make_model(folder, ["num_train_epochs=1"], **SIZES)
    return folder


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """Address of `python app.py` on a free port, and the file that lists what it asked of other machines."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "sitecustomize.py").write_text(GUARD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "NETWORK_LOG": str(folder / "network.log"),
        "ANNOT_HF_MODEL": str(model),
        "GRADIO_TEMP_DIR": str(folder / "cache"),
        # a model may be downloaded, and this one lies in a folder
        "HF_HUB_OFFLINE": "0",
    }
    del environment["GRADIO_ANALYTICS_ENABLED"]  # the page itself turns them off
    with open(folder / "output.txt", "w") as output:
        command = [sys.executable, str(SPACE / "app.py"), "--port", str(port)]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(3000):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(url, timeout=5).read()
                    break
                assert process.poll() is None, (folder / "output.txt").read_text()
                time.sleep(0.1)
            yield url, folder / "network.log"
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def client(server):
    return Client(server[0], verbose=False, analytics_enabled=False)


def ask(client, path):
    summary, figure, raters, distribution, ratings = client.predict(handle_file(str(path)), api_name="/predict")
    return summary, figure, raters, distribution["data"], ratings["data"]


def tone(seconds, rate=16_000, channels=1):
    time_axis = np.arange(round(seconds * rate)) / rate
    wave = sum(
        0.1 * np.sin(2 * np.pi * f * time_axis) * (1 + np.sin(2 * np.pi * 4 * time_axis)) for f in (150, 600, 1400)
    )
    return np.repeat(wave[:, None], channels, axis=1)


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [("a.wav", 16_000, 1), ("b.wav", 44_100, 2), ("c.wav", 48_000, 1), ("d.flac", 8_000, 1), ("e.ogg", 48_000, 2)],
)
def test_clips_of_any_rate_and_channels(client, tmp_path, name, rate, channels):
    soundfile.write(tmp_path / name, tone(1.5, rate, channels), rate)
    summary, figure, raters, distribution, ratings = ask(client, tmp_path / name)
    assert summary.startswith("Consensus: **activation ")
    assert figure.count('class="cell"') == 16 and "valence (1 to 5)" in figure and "activation (1 to 5)" in figure
    assert len(distribution) == 16 and sum(row[1] for row in distribution) == pytest.approx(1, abs=1e-3)
    assert distribution[1][0] == "activation 1 to 2, valence 2 to 3"
    assert ratings and all(1 <= value <= 5 for row in ratings for value in row[1:])
    assert all(name in raters for name, *_ in ratings)


def test_the_same_sound_gets_the_same_answer_at_any_rate(client, tmp_path):
    answers = []
    for rate, channels in ((16_000, 1), (48_000, 2)):
        soundfile.write(tmp_path / f"{rate}.wav", tone(2.0, rate, channels), rate, subtype="FLOAT")
        answers.append(np.array([row[1:] for row in ask(client, tmp_path / f"{rate}.wav")[4]], dtype=float))
    assert np.abs(answers[0] - answers[1]).max() < 0.1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.wav", b"this is no audio " * 40, "text.wav cannot be decoded"),
        ("empty.wav", b"", "empty.wav is empty (0 bytes)"),
        ("short.wav", np.full(1_600, 0.1), "short.wav lasts 0.1 s; give between 0.3 and 30 s"),
        ("long.wav", np.full(31 * 16_000, 0.1), "long.wav lasts 31.0 s; give between 0.3 and 30 s"),
        ("bomb.flac", np.zeros(1200 * 16_000), "bomb.flac lasts 1200.0 s"),
        ("silent.wav", np.zeros((16_000, 1)), "silent.wav is silent"),
        ("many.wav", np.full((16_000, 9), 0.1), "many.wav has 9 channels"),
        ("nan.wav", np.full((16_000, 1), np.nan), "nan.wav holds nan"),
        ("<img src=x onerror=alert(1)>.wav", b"x", "cannot be decoded"),
        (f"{'n' * 240}.wav", b"no audio", "cannot be decoded"),
    ],
)
def test_a_wrong_file_gets_one_readable_sentence(client, tmp_path, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        soundfile.write(tmp_path / name, content, 16_000, subtype="FLOAT" if name == "nan.wav" else "PCM_16")
    summary, figure, raters, distribution, ratings = ask(client, tmp_path / name)
    text = re.sub("<[^>]*>", "", figure)
    assert summary == "**This clip cannot be used.**" and message in text
    assert "<img" not in figure and "/" not in text and "Traceback" not in text and len(text) < 300
    assert raters == "" and not distribution and not ratings


def test_a_very_long_file_name_is_no_problem(client, tmp_path):
    soundfile.write(tmp_path / f"{'n' * 250}.wav", tone(1.0), 16_000)
    assert ask(client, tmp_path / f"{'n' * 250}.wav")[0].startswith("Consensus")


@pytest.mark.parametrize("name", ["big.wav", "n" * 3000 + ".wav"])
def test_an_oversized_upload_is_refused(server, name):
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + bytes(21 * 1024 * 1024) + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(f"{server[0]}/gradio_api/upload", body, headers)
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=30)
    assert refusal.value.code == 413


@pytest.mark.parametrize("path", ["/etc/hostname", "../app.py", "http://127.0.0.1/x.wav", "https://example.org/x.wav"])
def test_a_path_or_address_in_place_of_an_upload_is_refused(server, path):
    call = f"{server[0]}/gradio_api/call/predict"
    data = {"data": [{"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}]}
    request = urllib.request.Request(call, json.dumps(data).encode(), {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(request, timeout=30))["event_id"]
    answer = urllib.request.urlopen(f"{call}/{event}", timeout=30).read().decode()
    assert answer.startswith("event: error") and "Traceback" not in answer
    assert ("fetches no files" in answer) == path.startswith("http")


@pytest.mark.browser
def test_in_a_browser(server, tmp_path):
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; pip install playwright"
    )
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed; apt-get install chromium")
    soundfile.write(tmp_path / "clip.wav", tone(1.5, 44_100, 2), 44_100)
    (tmp_path / "text.wav").write_text("no audio")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server[0])
        page.set_input_files("input[type=file]", tmp_path / "clip.wav")
        page.wait_for_function("document.querySelector('#summary').innerText.startsWith('Consensus: activation')")
        assert page.locator("#figure svg .cell").count() == 16 and page.locator("#raters .lane").count() >= 4
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page scrolls sideways on a phone"
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        page.get_by_label("Clear").click()
        page.set_input_files("input[type=file]", tmp_path / "text.wav")
        page.wait_for_selector("#figure .problem")
        assert "text.wav cannot be decoded" in page.inner_text("#figure")
        browser.close()
    hosts = {url.split("/")[2].split(":")[0] for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"} and not errors
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_the_server_asked_nothing_of_other_machines(server):
    assert not server[1].exists(), server[1].read_text()


@pytest.mark.parametrize("kind", ["annotator", "distribution"])
def test_a_category_model_shows_bars(app, charts, tmp_path, kind):
    recipe = {"annotator": "simulated-annotator", "distribution": "speech-distribution"}[kind]
    app.make_model(
        tmp_path / "model",
        ["num_train_epochs=1", "question=[emotion]", "pooling_size=16", "augmentation.copies=0"],
        recipe=recipe,
        **SIZES,
    )
    explorer = app.Explorer(tmp_path / "model")
    soundfile.write(tmp_path / "clip.wav", tone(1.0, 48_000, 2), 48_000)
    predictions = explorer.predict(tmp_path / "clip.wav")
    assert charts.summarise(predictions).startswith("Most votes: **")
    assert charts.draw_bars(predictions).count('class="bar"') == 4
    distribution, ratings = charts.tabulate(predictions)
    assert list(distribution["answer"]) == ["anger", "happy", "neutral", "sad"]
    assert distribution["probability"].sum() == pytest.approx(1, abs=1e-3)
    assert len(ratings) == explorer.raters and (explorer.raters > 0) == (kind == "annotator")
    if kind == "annotator":
        assert np.allclose(ratings.drop(columns="rater").sum(axis=1), 1, atol=1e-3)
        assert charts.draw_raters(predictions).count('class="bar"') == explorer.raters
    assert app.build(explorer).config["components"]


def two_scales(probs, values, names):
    questions = (Question.scale("activation", 1, 5), Question.scale("valence", 0, 10))
    support = tuple(str(cell) for cell in range(len(probs)))
    pairs = np.zeros(len(names), int)
    return Predictions(
        np.array(["0"]),
        support,
        np.array([probs]),
        questions,
        np.zeros((1, 2)),
        pairs,
        np.array(names),
        np.array(values),
    )


def test_first_question_upwards_second_to_the_right(charts):
    probs = np.zeros(4)
    probs[2] = 1.0  # high activation, low valence: the upper left cell
    drawn = charts.draw_grid(two_scales(probs, [[1.0, -1.0]], ["r1"]))
    cell = re.search(r'x="([\d.]+)" y="([\d.]+)" width="200.0" height="200.0" fill-opacity="0.850"', drawn)
    dot = re.search(r'class="rater" cx="([\d.]+)" cy="([\d.]+)"', drawn.split('role="img"')[1])
    assert cell.groups() == dot.groups()


def test_ratings_are_in_scale_points_and_end_with_the_scale(charts):
    predictions = two_scales(np.full(4, 0.25), [[0.5, 0.0], [1.7, -3.0]], ["r2", "r1"])
    table = charts.tabulate(predictions)[1]
    assert table.to_dict("list") == {
        "rater": ["r1", "r2"],
        "activation (1 to 5)": [5.0, 4.0],
        "valence (0 to 10)": [0.0, 5.0],
    }
    assert charts.summarise(predictions) == (
        "Consensus: **activation 3.0** (raters 4.0 to 5.0), **valence 5.0** (raters 0.0 to 5.0)."
    )


def test_names_are_escaped(charts):
    predictions = two_scales(np.full(4, 0.25), [[0.0, 0.0]], ["<script>x</script>"])
    drawn = charts.draw_grid(predictions) + charts.draw_raters(predictions)
    assert "<script" not in drawn and "&lt;script" in drawn
    labels = ("<b>*x*", "y")
    one = Predictions(["0"], labels, [[0.7, 0.3]], (Question.category("mood", labels),))
    assert charts.summarise(one) == "Most votes: **&lt;b&gt;\\*x\\***, 70 % of them."


def test_without_a_checkpoint_the_page_says_what_to_run(app, monkeypatch, tmp_path, caplog):
    shown = {}
    monkeypatch.setattr(app.gr.Blocks, "launch", lambda page, **options: shown.update(options, page=page))
    app.main(["--model", str(tmp_path / "nowhere")])
    text = json.dumps(shown["page"].config["components"])
    assert "is not a checkpoint folder" in text and "run `python app.py --make-model`" in text
    assert "--make-model" in caplog.text
    assert shown["max_file_size"] == "20mb"


def test_the_readme_is_a_space_card():
    import yaml

    card = yaml.safe_load(io.StringIO((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1]))
    assert (SPACE / card["app_file"]).is_file() and card["sdk"] == "gradio" and len(card["short_description"]) <= 60
    assert card["python_version"] == "3.11"  # the least that the package takes; a Space has 3.10 by default
