"""Names of the sets a run evaluates on. Pure."""

from __future__ import annotations

from pipeline.core.errors import ConfigError, must

DEV, VALIDATION, NANO = "dev", "validation", "nano_beir"
"""Values of `training.eval_sets`; `dev` is the dev set, whatever name `data.dev_name` gives it."""

NANO_BEIR = {
    "climatefever": "NanoClimateFEVER",
    "dbpedia": "NanoDBPedia",
    "fever": "NanoFEVER",
    "fiqa2018": "NanoFiQA2018",
    "hotpotqa": "NanoHotpotQA",
    "msmarco": "NanoMSMARCO",
    "nfcorpus": "NanoNFCorpus",
    "nq": "NanoNQ",
    "quoraretrieval": "NanoQuoraRetrieval",
    "scidocs": "NanoSCIDOCS",
    "arguana": "NanoArguAna",
    "scifact": "NanoSciFact",
    "touche2020": "NanoTouche2020",
}
"""Short names of the thirteen NanoBEIR sets and their split names on the hub."""

NANO_MEAN = "NanoBEIR_R100_mean"
"""Name of the mean over the NanoBEIR sets, as published cards write it."""

NANO_CANDIDATES = 100
"""Candidates per query in NanoBEIR's published evaluation, from the BM25 lists, whatever `evaluation.depth` is."""


def nano_beir_name(short: str) -> str:
    """Return the split name of a NanoBEIR set.

    Raises:
        ConfigError: for a name that is not one of the thirteen.
    """
    if short not in NANO_BEIR:
        remedy = f"Choose among {', '.join(sorted(NANO_BEIR))}."
        raise ConfigError(must("evaluation.nano_beir", "hold NanoBEIR names", repr(short), remedy))
    return NANO_BEIR[short]


def is_nano_beir(name: str) -> bool:
    """Return whether a set of this name is one of NanoBEIR's or a mean over them."""
    return name in NANO_BEIR.values() or name.startswith("NanoBEIR_")


def is_reserved(name: str) -> bool:
    """Return whether a user's set of this name would be taken for the validation set or one of NanoBEIR's."""
    return name == VALIDATION or is_nano_beir(name)
