"""How a run executes (which changes results by rounding alone), is tracked and measured, and resolves hub names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from pipeline.config.rules import check

Device = Enum("Device", "auto cpu cuda")
Attention = Enum("Attention", "auto eager sdpa varlen")
Wandb = Enum("Wandb", "none offline online")

MOST_THREADS = 1024
"""More than any machine's cores. The system refuses some thousands of threads with an error that reads like a bug."""


@dataclass(kw_only=True)
class RuntimeConfig:
    """Memory and speed. These change results by rounding alone, so no fingerprint includes them."""

    device: Device = Device.auto
    """auto takes a GPU where torch sees one."""
    threads: int | None = None
    """CPU threads of torch, at most 1,024; None leaves torch's own choice. Part of the bit-exactness scope."""
    micro_batch_tokens: int | None = None
    """Tokens of a micro-batch; those that a CPU computes at once may hold twice as many in all. None computes a value.
    Halve it when memory runs out."""
    attention: Attention = Attention.auto
    """auto is varlen: little or no padding where models allow it (BERT, ModernBERT), else SDPA or eager, which pad."""
    workers: int | None = None
    """Processes for extraction and tokenisation, at most 1,024; None uses the cores."""

    def __post_init__(self) -> None:
        for key in ("threads", "micro_batch_tokens", "workers"):
            value = getattr(self, key)
            check(value is None or value >= 1, f"runtime.{key}", "be at least 1", value, "Use null to let it choose.")
        for key in ("threads", "workers"):
            value = getattr(self, key)
            rule = f"be at most {MOST_THREADS:,}"
            check(value is None or value <= MOST_THREADS, f"runtime.{key}", rule, value, "Use null to let it choose.")


@dataclass(kw_only=True)
class TrackingConfig:
    """Where metrics are mirrored."""

    wandb: Wandb = Wandb.none
    """Where Weights & Biases records metrics: none, offline or online; wandb is imported only when chosen."""
    project: str = "rerankers"
    """W&B project."""
    entity: str | None = None
    """W&B entity; None is the login's default."""


@dataclass(kw_only=True)
class EmissionsConfig:
    """Energy measurement by codecarbon's offline tracker."""

    enabled: bool = True
    """False records no energy; the card says so."""
    country_iso_code: str | None = None
    """Country whose grid converts kWh to CO2eq, as three letters (FRA, DEU, USA); None is the world average."""

    def __post_init__(self) -> None:
        code = self.country_iso_code
        check(
            code is None or bool(re.fullmatch(r"[A-Z]{3}", code)),
            "emissions.country_iso_code",
            "be three capital letters",
            code,
            "Use an ISO 3166 alpha-3 code such as FRA.",
        )


@dataclass(kw_only=True)
class HubConfig:
    """How names on the hub are resolved to commits."""

    refresh: bool = False
    """True resolves every revision anew; false reuses outputs/hub.lock.json."""
