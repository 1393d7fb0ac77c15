"""Which protocol a set is evaluated under while a model is trained."""

from __future__ import annotations

from pipeline.evaluation.protocols import fixed_step_protocol


def test_protocols_of_the_fixed_steps() -> None:
    assert fixed_step_protocol("NanoBEIR_R100_mean") == "positives_added"
    assert fixed_step_protocol("NanoNQ") == "positives_added"
    assert fixed_step_protocol("NanoPhysics") == "as_retrieved", "a dev set of the user's"
    assert fixed_step_protocol("gooaq-dev") == "as_retrieved"
