"""What of a folder goes to the Hub: files on an allow-list, with copies of those that name raters or this machine."""

import hmac
import json
import os
import re
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from huggingface_hub import RepoCard, constants

from annot_hf.data.export import EXPORT_FILE, EXPORT_KIND, seal_export
from annot_hf.data.files import is_own_card, read_text
from annot_hf.data.questions import SECRET
from annot_hf.models.access import read_object
from annot_hf.report.corpus_page import write_dataset_card
from annot_hf.training.checkpoints import CARD_FILES, FACTS, MODEL_FILES, WEIGHTS, read_facts
from annot_hf.training.recipe import ELSEWHERE

# raters who must share what is told of each of them
ANONYMOUS = 5
README = "README.md"
# in HF_HOME: what rater ids are salted with
KEY_FILE = "annot-hf.key"
_PAGE = (README, "*.py", "requirements.txt", "packages.txt", "*.css")
_MODEL = (*MODEL_FILES, *CARD_FILES, README)
# what a publication may hold, by its kind; publishing anew removes such files that it holds no longer
ALLOWED = {
    "model": _MODEL,
    "dataset": (README, EXPORT_FILE, *(f"{config}/*.parquet" for config in ("votes", "items", "histograms", "spans"))),
    "space": (*_PAGE, *(f"model/{name}" for name in _MODEL)),
    "metric": _PAGE,
}
# what tells a publication of each kind from other repositories
MARKERS = {"model": "config.json", "dataset": EXPORT_FILE, "space": "app.py", "metric": "app.py"}
# columns of items that are neither a clip nor a text, nor anything else of the corpus that could be one
_ABOUT = ("item", "file", "speaker", "split", "seconds")
# keys of configurations under which libraries keep where they read them
_PLACES = ("_name_or_path", "name_or_path", "tokenizer_file", "vocab_file")
# files that people write, and are searched for tokens and keys; words of a tokenizer may look like one
_SCANNED = (
    "*.yaml",
    "*.md",
    "*.py",
    "*.jinja",
    "*.css",
    "*config.json",
    "training.json",
    "corpus.json",
    "requirements.txt",
)


@dataclass(frozen=True)
class Contents:
    """What goes up: a file for each name in the repository; names of files that stay, and what was changed or left out."""

    kind: str
    files: dict[str, Path]
    left: tuple[str, ...]
    notes: tuple[str, ...]
    # what a Space runs on
    sdk: str | None = None


def gather(folder: Path, kind: str, scratch: Path, *, keep_raters: bool = False, license: str = "") -> Contents:
    """What of a folder goes to the Hub; changed copies of files are written to `scratch`, and the folder stays as it is.

    Raises:
        ValueError: The folder is not of that kind, something is missing in it, what its licence forbids to pass on would go
            up, or a file holds a secret.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; give that of a model, a corpus, a Space or a metric.")
    kind = kind or _kind_of(folder)
    if kind not in ALLOWED:
        raise ValueError(f"The kind is {kind!r}; it is one of {', '.join(ALLOWED)}.")
    if not (folder / MARKERS[kind]).is_file():
        raise ValueError(f"{folder} has no {MARKERS[kind]}, which every {kind} has; name the kind that it is.")
    if license and kind != "dataset":
        raise ValueError(f"A licence is given, and {folder} is a {kind}, whose README.md names it; leave it out.")
    inside = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: folder / name for name in inside if any(fnmatch(name, rule) for rule in ALLOWED[kind])}
    # a pattern's star also stands for a slash
    files = {name: path for name, path in files.items() if name.count("/") <= (2 if kind == "space" else 1)}
    left = tuple(name for name in inside if name not in files)
    notes: list[str] = []
    sdk = None
    if kind == "model":
        files |= _changed_model(folder, scratch, keep_raters, notes)
    elif kind == "dataset":
        files = _shareable_copy(folder, scratch / "corpus", keep_raters, license, notes)
    elif not (sdk := _card(folder).get("sdk")):
        raise ValueError(f"{folder / README} does not begin with metadata that name the sdk of a Space; write them.")
    if kind == "space" and (folder / "model" / "config.json").is_file():
        changed = _changed_model(folder / "model", scratch, keep_raters, notes)
        files |= {f"model/{name}": path for name, path in changed.items()}
    for name, path in files.items():
        if any(fnmatch(path.name, rule) for rule in _SCANNED) and SECRET.search(read_text(path)):
            raise ValueError(
                f"{folder / name} holds a token or a key; remove it, and revoke it where it has been shared."
            )
    return Contents(kind, dict(sorted(files.items())), left, tuple(notes), sdk)


def address_card(contents: Contents, repository: str, revision: str | None, scratch: Path) -> Contents:
    """The contents with a card that loads this repository, where it says FOLDER; one that a person wrote stays as it is."""
    path = contents.files.get(README)
    if path is None or not is_own_card(path):
        return contents
    text = re.sub(r"^FOLDER is the folder of this file.*\n\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    quoted, option = (f', revision="{revision}"', f" --revision {revision}") if revision else ("", "")
    text = text.replace('"FOLDER"', f'"{repository}"{quoted}')
    text = re.sub(r"(annot-hf \w+) FOLDER\b", rf"\1 {repository}{option}", text)
    card = scratch / README
    card.write_text(text, encoding="utf-8")
    return replace(contents, files=contents.files | {README: card})


def _kind_of(folder: Path) -> str:
    """The kind of a folder by what lies in it."""
    if (folder / MARKERS["dataset"]).is_file():
        return "dataset"
    if (folder / "app.py").is_file():
        return "metric" if "metric" in _card(folder).get("tags", ()) else "space"
    if (folder / MARKERS["model"]).is_file():
        return "model"
    near = next((name for name in ("model", "run/model", "corpus") if (folder / name).is_dir()), "")
    raise ValueError(
        f"{folder} is neither a model (config.json), nor a corpus (corpus.json), nor a Space or a metric (app.py); give "
        f"{folder / near if near else 'the folder of one'}."
    )


def _card(folder: Path) -> dict[str, Any]:
    """The metadata of README.md."""
    return RepoCard(read_text(folder / README)).data.to_dict() if (folder / README).is_file() else {}


def _changed_model(folder: Path, scratch: Path, keep_raters: bool, notes: list[str]) -> dict[str, Path]:
    """Copies of the files of a checkpoint that name raters, or places on this machine."""
    config, facts = read_object(folder / "config.json"), read_facts(folder)
    if not str(config.get("model_type")).startswith("annot-"):
        raise ValueError(
            f"{folder} holds a model of type {config.get('model_type')!r}; give one trained with annot-hf."
        )
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ValueError(f"{folder} holds no weights ({', '.join(WEIGHTS)}); give output_dir/model of a run.")
    base = (config.get("adapted_from") or {}).get("base", "")
    if os.path.isabs(base) or os.path.isdir(base):
        raise ValueError(
            f"{folder} holds adapters for {base}, a folder of this machine that nobody else has; train on a base of the Hub, "
            "or publish the whole model (merge_lora)."
        )
    _check_known(config, folder)
    raters = config.get("annotators") or []
    names = _other_names(raters, facts.get("corpus", ""), keep_raters, notes)
    recipe = _shareable_recipe(facts.get("recipe", {}))
    joined = [one | {"answers": _renamed(one["answers"], names)} for one in facts.get("onboarded", ())]
    told = facts | ({"recipe": recipe} if recipe else {}) | ({"onboarded": joined} if joined else {})
    told |= {"members": [_shareable_recipe(one) for one in facts["members"]]} if "members" in facts else {}
    told |= {"trunks": [_without_folders(one) for one in facts["trunks"]]} if "trunks" in facts else {}
    changes = {"config.json": config | ({"annotators": [names.get(one, one) for one in raters]} if raters else {})}
    changes |= {FACTS: told} if facts else {}
    for path in folder.glob("*_config.json"):
        changes[path.name] = read_object(path)
    changed = {}
    for name, content in changes.items():
        content = _without_places(content)
        if content != read_object(folder / name):
            changed[name] = scratch / name
            changed[name].write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return changed


def _shareable_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says, without what lies elsewhere on this machine."""
    return {key: _without_folders(value) for key, value in recipe.items() if key not in ELSEWHERE}


def _without_folders(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def _other_names(raters: Sequence[str], corpus: str, keep: bool, notes: list[str]) -> dict[str, str]:
    """The name that each rater has on the Hub; empty if they stay as they are."""
    if raters:
        notes.append(f"{len(raters)} rater ids, {'as they are' if keep else 'salted'}")
    return pseudonyms(raters, corpus) if raters and not keep else {}


def _renamed(answers: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in answers.items()}


def _without_places(value: Any) -> Any:
    """JSON without the absolute paths under which libraries remember files."""
    if isinstance(value, list):
        return [_without_places(one) for one in value]
    if not isinstance(value, dict):
        return value
    places = {key for key in _PLACES if isinstance(value.get(key), str) and os.path.isabs(value[key])}
    return {key: _without_places(one) for key, one in value.items() if key not in places}


def _check_known(config: Mapping[str, Any], folder: Path) -> None:
    """Raise if what a model tells of its raters would single somebody out."""
    rows = Counter(tuple(row) for row in config.get("rater_facts") or ())
    few = sum(count for count in rows.values() if count < ANONYMOUS)
    if few:
        columns = ", ".join(column["name"] for column in config["rater_columns"])
        raise ValueError(
            f"{folder} tells {columns} of each rater, and {few} of {sum(rows.values())} raters share theirs with fewer than "
            f"{ANONYMOUS - 1} others; train with a coarser table of raters, or without one."
        )


def _shareable_copy(folder: Path, out: Path, keep_raters: bool, license: str, notes: list[str]) -> dict[str, Path]:
    """An export as it may be passed on, in another folder: with salted rater ids, and of clips and texts what may leave."""
    facts = read_object(folder / EXPORT_FILE)
    if facts.get("kind") != EXPORT_KIND:
        raise ValueError(f"{folder / EXPORT_FILE} is not of kind {EXPORT_KIND!r}; give what `annot-hf corpus` wrote.")
    whole, facts = _may_leave(folder, facts, license, notes)
    embedded = facts["embedded_audio"]
    facts |= {"embedded_audio": embedded and whole, "salted": not keep_raters}
    sources = {name: folder / name for name in facts["files"] if whole or not name.startswith("spans/")}
    named = [pq.read_table(path, columns=["annotator"]) for name, path in sources.items() if _names_raters(path)]
    names = _other_names(
        pa.concat_tables(named)["annotator"].unique().drop_null().to_pylist(), facts["name"], keep_raters, notes
    )
    if names:
        # a finding's examples may be names of raters
        findings = [one | {"examples": []} for one in facts["report"]["findings"]]
        facts["report"] = facts["report"] | {"findings": findings}
    if not whole:
        facts["report"] = facts["report"] | {"spans": 0}

    for name, path in sources.items():
        kept = [one for one in pq.read_schema(path).names if one != "audio" or facts["embedded_audio"]]
        if not whole:
            kept = [one for one in kept if one in _ABOUT or not name.startswith("items/") and one != "text"]
        _copy_parquet(path, out / name, kept, names)
    if any("audio" in pq.read_schema(path).names for path in sources.values()) and not facts["embedded_audio"]:
        notes.append("no clips" if embedded else "no clips, which are not in the export (--embed-audio puts them in)")
    seal_export(out, facts)
    write_dataset_card(out)
    if (folder / README).is_file() and not is_own_card(folder / README):
        # somebody's own words stay, under metadata of what goes up
        card = RepoCard(read_text(out / README))
        card.text = RepoCard(read_text(folder / README)).text
        card.save(out / README)
    return {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}


def _may_leave(folder: Path, facts: dict[str, Any], license: str, notes: list[str]) -> tuple[bool, dict[str, Any]]:
    """Whether clips and texts of an export may leave, and its facts with the licence that they leave under."""
    allowed = facts.get("shareable")
    if allowed is None:
        raise ValueError(
            f"{folder} does not say what of it may be passed on, as it was exported by an earlier version; export it again."
        )
    if allowed == "nothing":
        raise ValueError(f"{facts['name']} may not be passed on: {facts['access']}")
    if license and allowed:
        raise ValueError(
            f"{facts['name']} has the licence {facts['license']} already; leave the other, {license}, out."
        )
    if license:
        said = {"license": license, "access": f"Passed on by its owner under {license}.", "shareable": "everything"}
        return True, facts | said
    if allowed != "everything":
        why = facts["access"] if allowed else "name the licence (--license) under which they may be passed on"
        notes.append(f"votes alone, no clip and no text: {why}")
    return allowed == "everything", facts


def _names_raters(path: Path) -> bool:
    return "annotator" in pq.read_schema(path).names


def _copy_parquet(path: Path, out: Path, kept: list[str], names: Mapping[str, str]) -> None:
    """Copy some columns of a table, and raters by their new names; an unchanged file is linked."""
    out.parent.mkdir(parents=True, exist_ok=True)
    features = Features.from_arrow_schema(pq.read_schema(path))
    renamed = names and "annotator" in features
    if len(kept) == len(features) and not renamed:
        out.symlink_to(path.resolve())
        return
    table = pq.read_table(path, columns=kept)
    if renamed:
        new = [None if name is None else names[name] for name in table["annotator"].to_pylist()]
        table = table.set_column(table.column_names.index("annotator"), "annotator", pa.array(new, pa.string()))
    pq.write_table(table.cast(Features({column: features[column] for column in kept}).arrow_schema), out)


def pseudonyms(raters: Iterable[str], corpus: str) -> dict[str, str]:
    """A new name for each rater of a corpus: an HMAC-SHA256 of its name, the same in every publication from this machine.

    The key is drawn once and stays in the file annot-hf.key of HF_HOME. Without it, nobody can try names. A rater's name in a
    model is that in its corpus, and differs from that of a namesake in another corpus.
    """
    key, found = _salt(), {}
    for rater in raters:
        digest = hmac.digest(key, json.dumps([corpus, rater]).encode(), "sha256")
        found[rater] = f"rater-{digest.hex()[:16]}"
    return found


def _salt() -> bytes:
    """The key of this user, which is written on first use."""
    path = Path(constants.HF_HOME) / KEY_FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Readable for the user alone, and whole before it has its name.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="ascii") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ValueError(f"{path}, the key of rater ids, is damaged; restore it, or remove it and accept new ids.")
    return key
