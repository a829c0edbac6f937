"""The toy stages of the pipeline's tests serve here, too."""

from __future__ import annotations

from tests.stages.pipeline.conftest import *  # noqa: F403
