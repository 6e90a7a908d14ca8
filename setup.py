"""Packaging of psa_paddle."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "psa_paddle/__init__.py").read_text(encoding="utf-8")).group(1)

# What it lets through changes from release to release; `make web-test` tries the page with this one.
GRADIO = "gradio>=6.31,<7"

setup(
    name="psa_paddle",
    version=VERSION,
    description="Pyramid Sparse Attention for PaddlePaddle, plugged into Qwen2.5-VL",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["psa_paddle", "psa_paddle.*"]),
    package_data={
        "psa_paddle": [
            "py.typed",
            "configs/*.yaml",
            "locale/*/LC_MESSAGES/*.po",
            "report/*.html",
            "web/*.css",
            "demo/sample.*",
            "demo/checkpoint/*.json",
            "demo/checkpoint/*.txt",
            "demo/checkpoint/*.safetensors",
        ],
    },
    entry_points={"console_scripts": ["psa-paddle = psa_paddle.cli:run_process"]},
    python_requires=">=3.10,<3.13",
    # Paddle itself comes from requirements.txt or the gpu extra: a CPU and a GPU build exclude each other.
    install_requires=[
        "numpy",
        "paddleformers==1.2.0",
        "av>=17.1",
        "babel>=2.14",
        "pillow>=11",
        "jinja2>=3.1",
        "pyyaml",
        "requests>=2.32",
        "tqdm>=4.60",
        "urllib3>=2.2",
    ],  # fmt: skip
    extras_require={
        "bench": ["matplotlib>=3.8"],
        "browser": ["playwright>=1.50"],
        "gpu": ["paddlepaddle-gpu>=3.2.2", "triton>=3.5"],
        "torch": ["torch>=2.11", "transformers>=5.3"],
        "web": [GRADIO],
        # Another release of ruff or mypy may find other things: these are what `make test` is green with.
        "dev": [
            GRADIO,
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "triton==3.6.0",
            "ruff==0.17.6",
            "mypy==2.4.1",
            "types-PyYAML",
            "types-requests",
        ],
        # What builds the documents without a warning, with Python 3.10 too; `make docs` takes one for an error.
        "docs": [
            "mkdocs==1.6.1",
            "mkdocs-material==9.7.7",
            "mkdocs-static-i18n==1.3.1",
            "mkdocs-autorefs==1.4.4",
            "mkdocstrings==1.0.6",
            "mkdocstrings-python==2.0.9",
            "griffelib==2.3.0",
            "markdown==3.10.3",
            "pymdown-extensions==11.0.2",
        ],
    },
)
