"""Every configuration file composes and obeys its rules; a mistake is refused with key, rule and remedy."""

from __future__ import annotations

import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import MissingConfigException
from key_reference import KEYS_MD, reference

from pipeline.config import compose
from pipeline.config.argument_parser import keys, meanings
from pipeline.config.paths import KEYS
from pipeline.config.refusals import refusal
from pipeline.config.schema import GROUPS, Config
from pipeline.core.errors import ConfigError
from pipeline.core.fingerprint import plain

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"

NEEDS = {
    "model/custom": ["model.path=somewhere"],
    "data/local": ["data.path=pairs.jsonl", "training=small"],
    "data/packaged_docs": ["training=small"],
    "evaluation/dev": ["training=small"],
    "evaluation/baselines": ["training=small"],
    "mining/run": ["mining.path=first.trec"],
    "mining/embedding": ["mining.path=somewhere"],
}
"""Options that do not stand on their own, and what goes with them: a missing key on purpose, or training defaults that
evaluate other sets than GooAQ's on the way."""

OPTIONS = sorted(
    str(path.relative_to(CONF).with_suffix(""))
    for path in CONF.rglob("*.yaml")
    if path != CONF / "config.yaml" and path.relative_to(CONF).parts[0] != "hydra"
)


def composed(*overrides: str) -> Config:
    return compose.composed(list(overrides))


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        k: v for name, inner in value.items() for k, v in flat(inner, f"{prefix}.{name}" if prefix else name).items()
    }


def changed(before: Config, after: Config) -> set[str]:
    old, new = flat(plain(before)), flat(plain(after))
    return {key for key in old if old[key] != new[key]}


@pytest.mark.parametrize(
    ("words", "model", "data"),
    [
        (["model=minilm_l6", "data=local", "data.path=/some/where/faq.csv", "training=small"], "MiniLM-L6", "faq.csv"),
        (["model=custom", "model.path=owner/encoder"], "encoder", "GooAQ"),
        (["model=custom", "model.path=owner/encoder", "model.name=ours"], "ours", "GooAQ"),
        (["model=custom", "model.path=owner/encoder", "model.title=Our own"], "Our own", "GooAQ"),
    ],
    ids=["data file", "model path", "model name", "model title"],
)
def test_missing_title_is_taken_from_the_file_name(words: list[str], model: str, data: str) -> None:
    config = composed(*words)
    assert (config.model.title or config.model.name, config.data.title or config.data.name) == (model, data)


def test_language_and_licence_are_known_of_published_data_and_models_only() -> None:
    own = ["model=minilm_l6", "data=local", "data.path=faq.csv", "training=small"]
    for words, expected in (
        (own, (None, None)),
        ([*own, "data.name=faq"], (None, None)),
        ([*own, "data.source=hub", "data.name=gooaq"], (None, None)),
        (["model=minilm_l6", "data=packaged_docs", "training=small"], ("en", "apache-2.0")),
        ([*own, "model.language=de", "model.license=mit"], ("de", "mit")),
        (["model=bert_tiny"], ("en", "apache-2.0")),
        (["model=bert_tiny", "model.path=prajjwal1/bert-tiny@main", "model.revision=null"], ("en", "apache-2.0")),
        (["model=custom", "model.path=owner/encoder"], ("en", None)),
    ):
        model = composed(*words).model
        assert (model.language, model.license) == expected


def test_groups_are_the_folders_of_conf() -> None:
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}
    assert set(GROUPS) == folders


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes(option: str) -> None:
    group, _, name = option.rpartition("/")
    config = composed(f"{group}={name}", *NEEDS.get(option, []))
    assert isinstance(config, Config)


@pytest.mark.parametrize("option", sorted(option for option in NEEDS if ".path" in NEEDS[option][0]))
def test_option_without_its_path_is_refused_by_key(option: str) -> None:
    group, _, name = option.rpartition("/")
    key = NEEDS[option][0].partition("=")[0]
    with pytest.raises(ConfigError, match=f"^{re.escape(key)} must .* Pass {re.escape(key)}=<"):
        composed(f"{group}={name}")


@pytest.mark.parametrize("experiment", [path.stem for path in sorted((CONF / "experiment").glob("*.yaml"))])
def test_overrides_win_over_an_experiment_and_change_nothing_else(experiment: str) -> None:
    config = composed(f"experiment={experiment}")
    assert config.name == experiment
    again = composed(f"experiment={experiment}", "training.learning_rate=0.25", "seed=7")
    assert changed(config, again) == {"training.learning_rate", "seed"}
    first = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()[:2]
    assert first[0] == "# @package _global_"
    assert first[1].startswith("# make ")


def test_there_are_four_experiments() -> None:
    assert {path.stem for path in (CONF / "experiment").rglob("*.yaml")} == {
        "quickstart",
        "smoke",
        "gooaq_bert_tiny",
        "gooaq_modernbert_large",
    }


def test_smoke_trains_in_fp32_without_dropout() -> None:
    config = composed("experiment=smoke")
    assert config.training.precision.name == config.evaluation.precision.name == "fp32"
    assert config.model.dropout == 0.0
    assert config.training.logging_steps == 1
    assert config.training.max_steps is not None and config.training.max_steps >= 50


@pytest.mark.parametrize("experiment", ["gooaq_bert_tiny", "gooaq_modernbert_large", "quickstart"])
def test_size_tiny_changes_only_amounts(experiment: str) -> None:
    recipe, tiny = composed(f"experiment={experiment}"), composed(f"experiment={experiment}", "size=tiny")
    assert changed(recipe, tiny) == {"data.limit", "data.dev_queries", "mining.dev_depth", "training.max_steps"}


def test_every_file_of_conf_opens_with_a_comment() -> None:
    bare = [str(path) for path in CONF.rglob("*.yaml") if not path.read_text(encoding="utf-8").startswith("# ")]
    assert bare == []


def test_conf_holds_no_import_paths_or_interpolations() -> None:
    for path in CONF.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "_target_" not in text, path
        if path.relative_to(CONF).parts[0] != "hydra" and path != CONF / "config.yaml":
            assert "${" not in text, path


def test_key_reference_is_current() -> None:
    """A changed page is a changed interface: say so in the change log, then run tests/key_reference.py."""
    assert reference() == KEYS_MD.read_text(encoding="utf-8")


def test_every_key_is_documented() -> None:
    assert list(meanings(Config)) == list(keys(Config))


MISTAKES = {
    "training.batch_sze=3": (
        "training.batch_sze must be a key of the configuration, got an unknown name. Did you mean training.batch_size?"
    ),
    "batch_size=3": (
        "batch_size must be a key of the configuration, got an unknown name. Did you mean training.batch_size?"
    ),
    "modle=bert_tiny": "modle must be a key of the configuration, got an unknown name. Did you mean model?",
    "+training.foo=3": (
        "training.foo must be a key of the configuration, got an unknown name. Choose among training.batch_size, "
    ),
    "++a.b=1": (
        "a.b must be a key of the configuration, got an unknown name. Choose among name, needs, note, seed, "
        "outputs_dir, stop_after, model, data, mining, training"
    ),
    "model=nope": (
        "model must be one of bert_tiny, custom, minilm_l6, modernbert_large, random_tiny, got 'nope'. Pass model="
    ),
    "experiment=quick": (
        "experiment must be one of gooaq_bert_tiny, gooaq_modernbert_large, quickstart, smoke, got 'quick'. Did "
        "you mean experiment=quickstart?"
    ),
    "training.batch_size=abc": "training.batch_size must be a whole number, got 'abc'. Pass training.batch_size=",
    "training.batch_size=": "training.batch_size must be a whole number, got ''. ",
    "training.batch_size=0": "training.batch_size must be a finite number above 0, got 0. See ",
    "training.max_length=7": "training.max_length must be at least 8 tokens, got 7. Use null to take model.max_length.",
    "training.max_length=513": "training.max_length must be at most model.max_length=512, got 513. Use null to ",
    "training.learning_rate=nan": "training.learning_rate must be a finite number above 0, got nan. ",
    "training.warmup_ratio=1.5": "training.warmup_ratio must be in [0, 1], got 1.5. Use 0.1.",
    "training.adam_beta1=1": "training.adam_beta1 must be in [0, 1), got 1.0. Use 0.9.",
    "training.adam_beta2=1": "training.adam_beta2 must be in [0, 1), got 1.0. Use 0.999.",
    "training.adam_beta2=nan": "training.adam_beta2 must be in [0, 1), got nan. Use 0.999.",
    "training.weight_decay=inf": "training.weight_decay must be at least 0 and finite, got inf. Use 0.",
    "training.weight_decay=nan": "training.weight_decay must be at least 0 and finite, got nan. Use 0.",
    "training.weight_decay=-0.1": "training.weight_decay must be at least 0 and finite, got -0.1. Use 0.",
    "model.activation=tan": "model.activation must be one of identity, sigmoid, tanh, got 'tan'. ",
    "model.dropout=1": "model.dropout must be in [0, 0.99], got 1.0. Use 0 or 0.1.",
    "model.dropout=0.999999": "model.dropout must be in [0, 0.99], got 0.999999. Use 0 or 0.1.",
    "training.pos_weight=1e39": "training.pos_weight must be a finite number in fp32, got 1e+39. Use a ",
    "model.dropout=x": "model.dropout must be a number or null, got 'x'. ",
    "training.eval_sets=dev": "training.eval_sets must be a list such as [a,b], got 'dev'. ",
    "training.eval_sets=[nope]": "training.eval_sets must hold only ['dev', 'nano_beir', 'validation'], got 'nope'. ",
    "model.license=''": "model.license must be a tag of the hub, got ''. Use other.",
    "training.eval_sets=[dev,dev]": "training.eval_sets must name each set once, got ['dev', 'dev']. Remove ",
    "mining.retriever=bm25": (
        "mining.path must be used with a retriever other than bm25, which has no use for it, got "
        "'sentence-transformers/static-retrieval-mrl-en-v1'. Add mining=embedding, "
    ),
    "data.dedupe=perhaps": "data.dedupe must be true or false, got 'perhaps'. ",
    "data.dev_name=validation": (
        "data.dev_name must differ from the names of other sets (validation, NanoBEIR's), got 'validation'. "
    ),
    "data.dev_name=NanoNQ": (
        "data.dev_name must differ from the names of other sets (validation, NanoBEIR's), got 'NanoNQ'. Use dev."
    ),
    "data.dev_name=NanoBEIR_x": (
        "data.dev_name must differ from the names of other sets (validation, NanoBEIR's), got 'NanoBEIR_x'. "
    ),
    "seed=-1": "seed must be in [0, 2^32), got -1. ",
    "seed=4294967296": "seed must be in [0, 2^32), got 4294967296. Use 12.",
    "data.split_seed=-1": "data.split_seed must be in [0, 2^32), got -1. Use 12.",
    "mining.seed=-1": "mining.seed must be in [0, 2^32), got -1. Use 12.",
    "data.positive_threshold=nan": "data.positive_threshold must be a finite number in fp32, got nan. Use ",
    "data.positive_threshold=-inf": "data.positive_threshold must be a finite number in fp32, got -inf. Use ",
    "mining.relative_margin=nan": "mining.relative_margin must be a finite number in fp32, got nan. Use ",
    "mining.relative_margin=5": (
        "mining.relative_margin must be below 1, a share of the positive's score, got 5.0. Use 0.05."
    ),
    "mining.relative_margin=1": (
        "mining.relative_margin must be below 1, a share of the positive's score, got 1.0. Use 0.05."
    ),
    "mining.absolute_margin=inf": "mining.absolute_margin must be a finite number in fp32, got inf. Use ",
    "mining.range_max=4294967296": "mining.range_max must be below 2^32, got 4294967296. Use a smaller ",
    "runtime.threads=1025": "runtime.threads must be at most 1,024, got 1025. Use null to let it choose.",
    "runtime.workers=100000": "runtime.workers must be at most 1,024, got 100000. Use null to let it choose.",
    "emissions.country_iso_code=fr": (
        "emissions.country_iso_code must be three capital letters, got 'fr'. Use an ISO 3166 alpha-3 code such as FRA"
    ),
    "evaluation.nano_beir=[nq,nq]": "evaluation.nano_beir must name each set once, got ['nq', 'nq']. A set ",
    "evaluation.nano_beir=[msmarko]": (
        "evaluation.nano_beir must hold NanoBEIR names, got 'msmarko'. Choose among arguana, climatefever, "
        "dbpedia, fever, fiqa2018, hotpotqa, msmarco"
    ),
    "data.path=a[1]=b": "an argument must read key=value, got 'data.path=a[1]=b'. Give the value its own ",
    "training.batch_size=3=4": "training.batch_size must be a whole number, got '3=4'. ",
    "training.batch_size": "an argument must read key=value, got 'training.batch_size'. ",
}
"""Override → the start of its refusal."""


@pytest.mark.parametrize("override", MISTAKES)
def test_mistake_is_refused_in_one_sentence(override: str) -> None:
    with pytest.raises(ConfigError) as refused:
        composed(override)
    message = str(refused.value)
    assert message.startswith(MISTAKES[override]) and "\n" not in message


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (
            ["data=local", "data.path=p", "data.queries_per_group=2"],
            "data.queries_per_group must be used with rows in groups, ",
        ),
        (
            ["data=local", "data.path=p", "data.format=beir", "data.group_column=d"],
            "data.group_column must be used with ",
        ),
        (["mining=run", "mining.path=r.trec", "mining.query_prompt=q"], "mining.query_prompt must be used with a "),
        (["mining=run", "mining.path=r.trec", "mining.revision=v1"], "mining.revision must be used with a retrie"),
    ],
    ids=["group size", "group column", "prompt", "revision"],
)
def test_key_without_effect_is_refused(words: list[str], start: str) -> None:
    with pytest.raises(ConfigError) as refused:
        composed("training=small", *words)
    assert str(refused.value).startswith(start)


def test_several_values_for_one_key_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^data\.path must have one value, got 'a,b\.jsonl'\. data\.path names one file: conc"
    ):
        composed("data=local", "data.path=a,b.jsonl")
    with pytest.raises(ConfigError, match=r"^seed must have one value, got '1,2'\. `make sweep` runs several in turn"):
        composed("seed=1,2")
    with pytest.raises(
        ConfigError, match=r"^data\.path must be text or null, got .* names one file: concatenate several"
    ):
        composed("data=local", "data.path=[a.jsonl,b.jsonl]")


def test_eval_sets_may_not_name_an_absent_validation_set() -> None:
    own = ["experiment=quickstart", "data=local", "data.path=a.jsonl", "data.validation_queries=0"]
    with pytest.raises(
        ConfigError, match=r"^data\.validation_queries must be above 0 .* Pass training\.eval_sets=\[\] as "
    ):
        composed(*own)
    assert composed(*own, "training.eval_sets=[]").training.eval_sets == []
    assert composed(*own, "training.eval_sets=[dev]").data.validation_queries == 0


@pytest.mark.parametrize(
    ("eval_sets", "nano_beir", "chosen"),
    [
        ("[dev]", "[nq]", "validation"),
        ("[dev]", "[nq]", "NanoNQ"),
        ("[nano_beir]", "[msmarco]", "NanoNQ"),
        ("[nano_beir]", "[]", "NanoBEIR_R100_mean"),
        ("[nano_beir]", "[nq]", "NanoPhysics"),
        ("[validation]", "[]", "null"),
    ],
)
def test_selection_set_must_be_evaluated_at_fixed_steps(eval_sets: str, nano_beir: str, chosen: str) -> None:
    keep = ["training.keep_best=true", "training.eval_steps=10"]
    sets = ["experiment=smoke", f"training.eval_sets={eval_sets}", f"evaluation.nano_beir={nano_beir}"]
    with pytest.raises(ConfigError, match=r"^training\.selection_set must be one of the sets that .*, got "):
        composed(*keep, *sets, f"training.selection_set={chosen}")


def test_selection_set_may_be_one_of_nano_beir_or_its_mean() -> None:
    for chosen in ("NanoNQ", "NanoMSMARCO", "NanoBEIR_R100_mean", "validation"):
        config = composed(
            "experiment=smoke", "training.keep_best=true", "training.eval_steps=10", f"training.selection_set={chosen}",
            "training.eval_sets=[nano_beir,validation]", "evaluation.nano_beir=[msmarco,nq]",
        )  # fmt: skip
        assert config.training.selection_set == chosen


def test_model_without_training_settings_is_refused_with_the_remedy() -> None:
    missing = MissingConfigException("", "training/electra_small", ["bert_tiny", "small"])
    assert str(refusal(missing, ["model=electra_small"])) == (
        "training must be one of bert_tiny, small, got 'electra_small'. The default is the model's name: "
        "pass training=small, or add conf/training/electra_small.yaml."
    )
    assert "Pass training=<one of them>." in str(refusal(missing, ["training=electra_small"]))


def test_keep_best_without_eval_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^training\.eval_steps must be above 0 when .*keep_best is true, got 0"):
        composed("experiment=smoke", "training.keep_best=true", "training.eval_steps=0", "training.selection_set=dev")


def test_tilde_is_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    named = {key for key in keys(Config) if re.search(r"(^|[._])(path|dir|collections|rivals)$", key)}
    assert set(KEYS) == named
    lists = {"evaluation.collections", "evaluation.rivals"}
    words = ["data=local", "training=small", "mining=embedding", "model=custom"]
    config = composed(*words, *(f"{key}=['~/x','a/b@c']" if key in lists else f"{key}='~/x'" for key in KEYS))
    for key in KEYS:
        expected = ["/home/someone/x", "a/b@c"] if key in lists else "/home/someone/x"
        assert attrgetter(key)(config) == expected, key
    assert composed("experiment=smoke").model.path.startswith("package:")


def test_training_settings_follow_the_model() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/train.py", "model=modernbert_large", "--cfg", "job"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "path: answerdotai/ModernBERT-large" in done.stdout
    assert "max_length: 8192" in done.stdout
    assert "batch_size: 64" in done.stdout, "the training defaults follow the model"
    assert done.stderr == ""
