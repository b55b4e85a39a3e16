"""The dataset card of an exported corpus."""

import html
from typing import Any

from datasets import DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from annot_hf.data.corpus import CorpusReport, VoteCorpus

CARD = """---
{metadata}
---

# Votes of {name} {version}

One row per vote, made from the upstream release by `annot-hf corpus`. {audio}

```python
from datasets import load_dataset
votes = load_dataset("FOLDER", "votes")  # or {configs}
```

- `votes`: item, annotator (null: anonymous), question, label (null on a scale), rating (null for a label), weight,
  source.
- `items`: item, file (relative to the corpus), seconds, speaker, split and metadata.
{further}
## Questions

{questions}

## What was found

{report}

## Licence, access, citation

Licence: {license}. {access}

Homepage: {homepage}

{citation}

Digest of questions, votes and items (SHA-256): `{digest}`
"""

HISTOGRAMS = """- `histograms`: item, question, labels, counts, distribution, entropy (divided by ln K, so 0 to 1) and
  votes (the sum of the counts); one row per item and category question that has votes.
"""
SPANS = """- `spans`: item, annotator, start, end and words: what a rater highlighted, `text[start:end]` of the item, in
  Unicode characters from 0.
"""


def dataset_card(
    corpus: VoteCorpus,
    report: CorpusReport,
    facts: dict[str, Any],
    features: dict[str, Features],
    sizes: dict[str, dict[str, tuple[int, int]]],
) -> str:
    """The README of an export: YAML for `load_dataset`, then text for people.

    Args:
        corpus: What was exported.
        report: What was found.
        facts: Contents of `corpus.json`.
        features: The `datasets` features of each table.
        sizes: Rows and bytes per table and split.
    """
    metadata = DatasetCardData(license=corpus.license, pretty_name=corpus.name)
    infos, configs = {}, {}
    for config, splits in sizes.items():
        described = SplitDict()
        for split, (rows, size) in splits.items():
            described.add(SplitInfo(split, num_bytes=size, num_examples=rows))
        infos[config] = DatasetInfo(features=features[config], config_name=config, splits=described)
        files = [{"split": split, "path": f"{config}/{split}.parquet"} for split in splits]
        # The cache of `datasets` is keyed by this YAML and not by the files. Without the hash, it would hide changed labels
        # in an export with the same number of rows.
        hashes = ", ".join(facts["files"][file["path"]] for file in files)
        configs[config] = {"data_files": files, "description": f"SHA-256 {hashes}"}
    configs["votes"]["default"] = True
    DatasetInfosDict(infos).to_dataset_card_data(metadata)
    MetadataConfigs(configs).to_dataset_card_data(metadata)
    rows = ["| what | number | details |", "|---|---:|---|"]
    rows += ["| " + " | ".join(_cell(text) for text in row) + " |" for row in report.rows()]
    asked = ["| question | answers | asked |", "|---|---|---|"]
    for question in facts["questions"]:
        answers = ", ".join(question["labels"]) or f"{question['low']:g} to {question['high']:g}"
        asked.append(f"| {_cell(question['name'])} | {_cell(answers)} | {_cell(question.get('prompt', ''))} |")
    audio = "The audio is inside." if facts["embedded_audio"] else "The audio is not inside; `audio` holds local paths."
    audio = audio if "file" in features["items"] else "There is no audio."
    return CARD.format(
        metadata=metadata.to_yaml().strip(),
        name=corpus.name,
        version=corpus.version,
        audio=audio,
        configs=", ".join(f'"{config}"' for config in features),
        questions="\n".join(asked),
        report="\n".join(rows),
        license=corpus.license,
        access=corpus.access or "Not stated.",
        homepage=corpus.homepage or "not stated",
        citation=corpus.citation or "Not stated.",
        digest=facts["digest"],
        further="".join(text for name, text in (("histograms", HISTOGRAMS), ("spans", SPANS)) if name in features),
    )


def _cell(text: str) -> str:
    """Text as one cell of a Markdown table; names come from files and must not act as markup."""
    return html.escape(str(text), quote=False).replace("|", "\\|").replace("`", "'").replace("\n", " ")
