"""What may be named to be predicted: files, folders, patterns, lists, columns and corpora."""

import numpy as np
import pandas as pd
import pytest
import soundfile

from annot_hf.data.given_inputs import find_inputs


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Clips a, b and c, of which c lies deeper, and lists and tables of them and of texts."""
    monkeypatch.chdir(tmp_path)
    for name in ("clips/b.wav", "clips/a.wav", "clips/more/c.wav", "other/a.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(400, np.float32), 16_000)
    (tmp_path / "clips" / "notes.md").write_text("no clip")
    (tmp_path / "paths.txt").write_text("clips/a.wav\n\n clips/more/c.wav \n")
    (tmp_path / "texts.txt").write_text("\ufeffso good\n\nso bad\n", encoding="utf-8")
    pd.DataFrame({"file": ["clips/a.wav", "clips/b.wav", ""]}).assign(n=1).to_csv("table.csv", index=False)
    pd.DataFrame({"Comment": ["hi", "", "ho"], "id": [7, 8, 9]}).to_csv("texts.csv", index=False)
    pd.DataFrame({"said": ["hi", "ho"]}).to_parquet("table.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["clips/b.wav", "clips/a.wav"], {"b.wav": "clips/b.wav", "a.wav": "clips/a.wav"}),
        (["clips"], {"a.wav": "clips/a.wav", "b.wav": "clips/b.wav", "more/c.wav": "clips/more/c.wav"}),
        (["clips/*.wav", "clips/a.wav"], {"a.wav": "clips/a.wav", "b.wav": "clips/b.wav"}),
        (["**/c.*"], {"c.wav": "clips/more/c.wav"}),
        (["paths.txt"], {"clips/a.wav": "clips/a.wav", "clips/more/c.wav": "clips/more/c.wav"}),
        (["table.csv"], {"clips/a.wav": "clips/a.wav", "clips/b.wav": "clips/b.wav"}),
        (
            ["clips", "other/a.wav"],
            {
                "a.wav": "clips/a.wav",
                "b.wav": "clips/b.wav",
                "more/c.wav": "clips/more/c.wav",
                "other/a.wav": "other/a.wav",
            },
        ),
    ],
)
def test_clips(given, expected, home):
    names, sources, _ = find_inputs(given, texts=False)
    assert dict(zip(names, map(str, sources), strict=True)) == expected


@pytest.mark.parametrize(
    ("given", "column", "expected"),
    [
        (["texts.txt"], "", {"texts.txt:1": "so good", "texts.txt:3": "so bad"}),
        (["texts.csv"], "", {"7": "hi", "9": "ho"}),
        (["texts.csv"], "comment", {"7": "hi", "9": "ho"}),
        (["table.parquet"], "said", {"table.parquet:1": "hi", "table.parquet:2": "ho"}),
    ],
)
def test_texts(given, column, expected, home):
    names, sources, rows = find_inputs(given, texts=True, column=column)
    assert dict(zip(names, sources, strict=True)) == expected and rows == list(range(len(expected)))


@pytest.mark.parametrize(
    ("given", "texts", "expected"),
    [
        (["clips/a.wav", "clips/*.wav"], False, ["a.wav", "a.wav", "b.wav"]),
        (["twice.csv"], False, ["clips/b.wav", "clips/b.wav", "clips/a.wav"]),
        (["twice.csv", "twice.csv"], False, ["clips/b.wav", "clips/b.wav", "clips/a.wav"] * 2),
        (["texts.csv", "more.csv"], True, ["7", "9", "more.csv:7", "hi"]),
    ],
)
def test_every_row_that_is_given_stays(given, texts, expected, home):
    pd.DataFrame({"file": ["clips/b.wav", "clips/b.wav", "clips/a.wav"]}).assign(n=1).to_csv("twice.csv", index=False)
    # a text may be the name of another
    pd.DataFrame({"Comment": ["hi!", "7"], "id": ["7", "hi"]}).to_csv("more.csv", index=False)
    names, sources, rows = find_inputs(given, texts=texts)
    assert [names[row] for row in rows] == expected and len(set(names)) == len(names) == len(sources)


def test_rows_without_a_text_are_counted(home, caplog):
    find_inputs(["texts.csv"], texts=True)
    assert caplog.messages == ["texts.csv: 1 of 3 rows have no text and are left out."]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (["nowhere"], {}, r"There is no file, folder or pattern 'nowhere' with any file"),
        (["*.mp3"], {}, r"no file, folder or pattern '\*\.mp3'"),
        ([""], {}, r"A path is ''; name a file, folder or pattern, or \. for the folder you are in"),
        (["clips", " "], {}, r"A path is ' '"),
        (
            ["clips", "paths.txt"],
            {"column": "file"},
            r"--column is 'file', and clips paths\.txt is no table; leave it out",
        ),
        (["clips/notes.md"], {}, r"notes\.md is none of: sound file"),
        (["clips/a.wav"], {"texts": True}, r"a\.wav is a clip and the model reads texts"),
        (["clips"], {"texts": True}, r"clips holds no text"),
        (["table.parquet"], {"texts": True}, r"no column is known as the text; name it as --column\. There are said"),
        (["texts.csv"], {"texts": True, "column": "words"}, r"there is no column 'words'"),
    ],
)
def test_what_cannot_be_predicted_is_said(given, options, message, home):
    with pytest.raises(ValueError, match=message):
        find_inputs(given, **{"texts": False} | options)
