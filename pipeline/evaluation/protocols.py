"""The protocols under which a set is evaluated: what each means, and which one the evaluation at fixed steps uses.

Pure: knows nothing of rankings, figures or how they are shown.
"""

from __future__ import annotations

from pipeline.config.set_names import is_nano_beir
from pipeline.core.records import AS_RETRIEVED, POSITIVES_ADDED

NOTES = {
    AS_RETRIEVED: "The first stage's candidates reordered; a positive it never found counts 0.",
    POSITIVES_ADDED: "Positives the first stage missed are added before reranking, while the first stage keeps its "
    "as-retrieved figure: this protocol supports no claim against the first stage.",
}
"""Protocol → what it means, shown beside its figures."""


def fixed_step_protocol(name: str) -> str:
    """Return the protocol of a set's evaluation at fixed steps.

    For NanoBEIR, positives are added, as in published figures; every other set is evaluated as retrieved.
    """
    return POSITIVES_ADDED if is_nano_beir(name) else AS_RETRIEVED
