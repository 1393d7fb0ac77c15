"""Repositories for the loopback hub, built when a test runs: small and random, in the form of the published ones."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

TOPICS = ["river", "stone", "bread", "tiger", "copper", "garden", "winter", "engine", "letter", "harbor"]
VERBS = ["is", "makes", "holds", "moves", "feeds", "covers", "shows", "keeps", "turns", "needs", "carries", "follows"]
NANO_SETS = ("NanoMSMARCO", "NanoNFCorpus", "NanoNQ")


def sentences(count: int, seed: int = 7) -> list[tuple[str, str]]:
    """Return distinct (question, answer) texts; answers hold the question's words, so that retrieval finds them."""
    chance = random.Random(seed)
    pairs = []
    for number in range(count):
        topic, other, verb = chance.choice(TOPICS), chance.choice(TOPICS), chance.choice(VERBS)
        filler = " ".join(chance.choice(TOPICS + VERBS) for _ in range(chance.randint(6, 24)))
        pairs.append(
            (f"what {verb} the {topic} number {number}", f"the {topic} number {number} {verb} {other} {filler}")
        )
    return pairs


def _parquet(path: Path, columns: dict[str, list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def gooaq(folder: Path, rows: int = 60) -> Path:
    """Write a data set like sentence-transformers/gooaq: two text columns, one split, declared in the README's YAML."""
    pairs: list[tuple[str, str]] = sentences(rows)
    if rows > 3:  # a list written as text stays text
        pairs[1] = (pairs[1][0], "['copper', 'river']")
    columns: dict[str, list[object]] = {"question": [q for q, _ in pairs], "answer": [a for _, a in pairs]}
    _parquet(folder / "pair" / "train-00000-of-00001.parquet", columns)
    (folder / "README.md").write_text(
        "---\nlanguage:\n- en\nconfigs:\n- config_name: pair\n  default: true\n  data_files:\n"
        "  - split: train\n    path: pair/train-*\n---\n# Pairs\n",
        encoding="utf-8",
    )
    return folder


def nano_beir(folder: Path, queries: int = 5, passages: int = 130) -> Path:
    """Write a data set like sentence-transformers/NanoBEIR-en: subsets corpus, queries, qrels, bm25, split by set."""
    readme = ["---", "configs:"]
    for subset in ("corpus", "queries", "qrels", "bm25"):
        readme += [f"- config_name: {subset}", "  data_files:"]
        readme += [f"  - split: {name}\n    path: {subset}/{name}-*" for name in NANO_SETS]
    (folder / "README.md").parent.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join([*readme, "---", "# NanoBEIR", ""]), encoding="utf-8")
    for number, name in enumerate(NANO_SETS):
        pairs = sentences(passages, seed=number)
        ids = [f"d{row}" for row in range(passages)]
        asked = [f"q{row}" for row in range(queries)]
        chance = random.Random(100 + number)
        judged: list[tuple[object, object]] = []
        for row, query in enumerate(asked):
            # The second set has several positives per query, in no order; passage 129 is in no candidate list.
            positives = [f"d{row}"] if number != 1 else [f"d{row + 20}", f"d{row}", "d129"]
            judged += [(query, passage) for passage in positives]
        orders = []
        for _ in asked:
            order = ids[:-1]
            chance.shuffle(order)
            orders.append(order)
        text = {
            "corpus": {"_id": ids, "text": [answer for _, answer in pairs]},
            "queries": {"_id": asked, "text": [question for question, _ in pairs[:queries]]},
            "qrels": {"query-id": [q for q, _ in judged], "corpus-id": [p for _, p in judged]},
            "bm25": {"query-id": asked, "corpus-ids": orders},
        }
        for subset, columns in text.items():
            _parquet(folder / subset / f"{name}-00000-of-00001.parquet", columns)  # type: ignore[arg-type]
    return folder


def _texts() -> list[str]:
    return [text for pair in sentences(300) for text in pair]


def wordpiece(folder: Path) -> list[str]:
    """Write vocab.txt of a small uncased BERT and return the vocabulary."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(_texts(), trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    vocabulary = [word for word, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return vocabulary


def bert_tiny(folder: Path, hidden_size: int = 32) -> Path:
    """Write a model like prajjwal1/bert-tiny: config.json, vocab.txt, a pickle and a README, nothing else.

    As in the published model, the configuration has no `model_type` (which transformers 5 asks for), no tokenizer file
    names a class, and the pickle holds the pre-training heads and the `position_ids` of earlier versions.
    """
    from transformers import BertConfig, BertForPreTraining

    vocabulary = wordpiece(folder)
    published = {
        "hidden_size": hidden_size,
        "hidden_act": "gelu",
        "initializer_range": 0.02,
        "vocab_size": len(vocabulary),
        "hidden_dropout_prob": 0.1,
        "num_attention_heads": 2,
        "type_vocab_size": 2,
        "max_position_embeddings": 512,
        "num_hidden_layers": 2,
        "intermediate_size": 4 * hidden_size,
        "attention_probs_dropout_prob": 0.1,
    }
    torch.manual_seed(1)
    model = BertForPreTraining(BertConfig(**published))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights["bert.embeddings.position_ids"] = torch.arange(512).unsqueeze(0)
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(published), encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n", encoding="utf-8")
    return folder


def modernbert(folder: Path, hidden_size: int = 32, layers: int = 4) -> Path:
    """Write a model like answerdotai/ModernBERT-large: safetensors, pickle, ONNX, mean pooling, its own tokenizer."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM, PreTrainedTokenizerFast

    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(_texts(), trainers.BpeTrainer(vocab_size=500, special_tokens=special))
    ids = {token: tokenizer.token_to_id(token) for token in special}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    folder.mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_max_length=8192,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    config = ModernBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        classifier_pooling="mean",
        local_attention=128,
        max_position_embeddings=8192,
        pad_token_id=ids["[PAD]"],
        bos_token_id=ids["[CLS]"],
        cls_token_id=ids["[CLS]"],
        eos_token_id=ids["[SEP]"],
        sep_token_id=ids["[SEP]"],
    )
    torch.manual_seed(2)
    ModernBertForMaskedLM(config).save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"never to be fetched")
    (folder / "onnx").mkdir(exist_ok=True)
    (folder / "onnx" / "model.onnx").write_bytes(b"never to be fetched")
    return folder


def static_retriever(folder: Path, dimensions: int = 64) -> Path:
    """Write a model like sentence-transformers/static-retrieval-mrl-en-v1: one StaticEmbedding module."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words.train_from_iterator(_texts(), trainers.WordPieceTrainer(vocab_size=900, special_tokens=special))
    torch.manual_seed(3)
    weights = torch.randn(words.get_vocab_size(), dimensions)
    model = SentenceTransformer(modules=[StaticEmbedding(words, embedding_weights=weights.numpy())], device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder


def all_repositories(root: Path) -> dict[tuple[str, str], Path]:
    """Write every repository that the two recipes need; return (kind, published id) → folder."""
    return {
        ("dataset", "sentence-transformers/gooaq"): gooaq(root / "gooaq"),
        ("dataset", "sentence-transformers/NanoBEIR-en"): nano_beir(root / "nano"),
        ("model", "prajjwal1/bert-tiny"): bert_tiny(root / "bert-tiny"),
        ("model", "answerdotai/ModernBERT-large"): modernbert(root / "modernbert"),
        ("model", "sentence-transformers/static-retrieval-mrl-en-v1"): static_retriever(root / "static"),
    }
