"""The command of the benchmarks; what they measure is not run here."""

import base64
import http.client
import json
import re
import threading
import urllib.request
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.chat_server import Reply, serve
from benchmarks.qwen2_audio_memory import counts, estimate, shape_7b

PAGE = Path(command.__file__).parents[1] / "docs" / "adapters.md"
RUN = [
    path
    for path in Path(command.__file__).parent.glob("bench_*.py")
    if re.search(r"^def run\(", path.read_text(), re.M)
]


def test_help_lists_every_benchmark_with_a_line(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out.split("benchmarks:\n")[1]
    found = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert set(found) == {path.stem.removeprefix("bench_") for path in RUN} == set(command.SUBJECTS)
    assert found["saturation"].startswith("Saturation curve of 5,000 items")


def test_an_unknown_benchmark_is_told_before_any_runs(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["votes", "vote"])
    assert end.value.code == 2
    out, error = capsys.readouterr()
    assert not out and "there is no benchmark 'vote'" in error
    assert all(f"  {name} " in error for name in command.SUBJECTS)


def test_the_page_states_the_memory_that_is_worked_out():
    page, shape = PAGE.read_text(), shape_7b()
    found, parts = counts(shape), estimate(shape, 8)
    frozen = found.audio_tower + found.projector + found.language_model
    for number in (frozen, found.adapters, found.head, found.plain):
        assert f"{number:,}" in page
    rows = [float(row) for row in re.findall(r"\| ([\d.]+) \|$", page, re.M)]
    assert rows == [round(size / 1e9, 2) for size in (*parts.values(), sum(parts.values()))]
    assert rows[-1] == pytest.approx(sum(rows[:-1]), abs=0.02)
    smaller = [sum(estimate(shape, size).values()) / 1e9 for size in (4, 1)]
    assert re.search(r"Batch 4 takes (\d+\.\d), batch 1 (\d+\.\d)", page).groups() == tuple(
        f"{size:.1f}" for size in smaller
    )


def test_the_parameters_counted_are_those_of_the_published_checkpoint():
    """By hand, from its shapes: two convolutions and 32 layers; a projector; 32 layers and an embedding; a head."""
    d, wide, words, layers = 4096, 11_008, 156_032, 32
    found, a = counts(shape_7b()), 1280
    attention = 4 * a * a + 3 * a  # the key has no bias
    layer = attention + 2 * 4 * a * a + 4 * a + a + 4 * a
    assert found.audio_tower == 3 * 128 * a + a + 3 * a * a + a + 1500 * a + layers * layer + 2 * a
    assert found.projector == a * d + d
    assert found.language_model == words * d + layers * (4 * d * d + 3 * d + 3 * d * wide + 2 * d) + d
    assert found.output_layer == words * d
    assert found.adapters == layers * 4 * 2 * 8 * d
    norms = 2 * d + 2 * d + 2 * (d // 2)
    assert found.head == 4 * d * d + 4 * d + d * d + d + norms + d * (d // 2) + d // 2 + (d // 2) * 4 + 4


@pytest.mark.parametrize("slow", [{"stall": 60.0}, {"drip": 1.0}])
def test_the_chat_server_goes_quietly_while_it_stalls(caplog, slow):
    came, ended = threading.Semaphore(0), []
    audio = {"input_audio": {"data": base64.b64encode(b"RIFF").decode()}}
    body = json.dumps({"messages": [{"content": [audio]}]}).encode()

    def answer(_):
        came.release()
        return Reply("late", **slow)

    def ask(url):
        try:
            urllib.request.urlopen(urllib.request.Request(url, body), timeout=600).read()
        except (OSError, http.client.HTTPException) as error:
            ended.append(error)

    with serve(answer) as url:
        asking = [threading.Thread(target=ask, args=(url,)) for _ in range(3)]
        for one in asking:
            one.start()
        for _ in asking:
            came.acquire()
    for one in asking:
        one.join()
    # connections are closed: one that was left open would have brought its answer, late
    assert len(ended) == 3 and not any(isinstance(error, TimeoutError) for error in ended)
    assert not caplog.records
