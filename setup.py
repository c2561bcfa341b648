"""The C extensions; everything else about the package stands in pyproject.toml.

(setuptools can take extensions from there too, but calls that experimental at each installation.)
"""

from setuptools import Extension, setup

_FLAGS = ["-O3", "-Wall", "-Wextra"]

setup(
    ext_modules=[
        Extension(
            "repo.kernel._chunker",
            ["repo/kernel/native/chunker.c"],
            extra_compile_args=_FLAGS,
        ),
        Extension(
            "ingest.survey._look",
            ["ingest/survey/native/look.c"],
            extra_compile_args=_FLAGS,
        ),
    ]
)
