"""The bibliography, held to a table that was written down separately: title, first author, year."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pybtex = pytest.importorskip("pybtex.database")
richtext = pytest.importorskip("pybtex.richtext")

ROOT = Path(__file__).parents[2]
BIB = ROOT / "book" / "references.bib"

# key: (first author's family name, year, title)
WORKS = {
    "blalock2020": ("Blalock", 2020, "What is the State of Neural Network Pruning?"),
    "fang2023": ("Fang", 2023, "DepGraph: Towards Any Structural Pruning"),
    "han2015": ("Han", 2015, "Learning both Weights and Connections for Efficient Neural Networks"),
    "hinton2015": ("Hinton", 2015, "Distilling the Knowledge in a Neural Network"),
    "jacob2018": (
        "Jacob",
        2018,
        "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    ),
    "kim2016": (
        "Kim",
        2016,
        "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
    ),
    "lebedev2015": (
        "Lebedev",
        2015,
        "Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition",
    ),
    "li2017": ("Li", 2017, "Pruning Filters for Efficient ConvNets"),
    "liu2019": ("Liu", 2019, "Rethinking the Value of Network Pruning"),
    "renda2020": ("Renda", 2020, "Comparing Rewinding and Fine-tuning in Neural Network Pruning"),
    "little1961": ("Little", 1961, r"A Proof for the Queuing Formula: $L = \lambda W$"),
    "kleinrock1979": (
        "Kleinrock",
        1979,
        "Power and Deterministic Rules of Thumb for Probabilistic Problems in Computer Communications",
    ),
    "harcholbalter2013": (
        "Harchol-Balter",
        2013,
        "Performance Modeling and Design of Computer Systems: Queueing Theory in Action",
    ),
    "schroeder2006": ("Schroeder", 2006, "Open Versus Closed: A Cautionary Tale"),
    "crankshaw2017": ("Crankshaw", 2017, "Clipper: A Low-Latency Online Prediction Serving System"),
    "patarasuk2009": ("Patarasuk", 2009, "Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations"),
    "sanders2009": ("Sanders", 2009, "Two-tree algorithms for full bandwidth broadcast, reduction and scan"),
    "li2020": ("Li", 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training"),
    "rajbhandari2020": (
        "Rajbhandari",
        2020,
        "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
    ),
    "zhao2023": ("Zhao", 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel"),
    "huang2019": (
        "Huang",
        2019,
        "GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism",
    ),
    "narayanan2021": (
        "Narayanan",
        2021,
        "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM",
    ),
    "nvidia2020dgx": ("NVIDIA", 2020, "NVIDIA DGX A100 System Architecture"),
    "williams2009": (
        "Williams",
        2009,
        "Roofline: An Insightful Visual Performance Model for Multicore Architectures",
    ),
    "chowdhery2022": ("Chowdhery", 2022, "PaLM: Scaling Language Modeling with Pathways"),
    "besiroglu2024": ("Besiroglu", 2024, "Chinchilla Scaling: A replication attempt"),
    "dawid1979": (
        "Dawid",
        1979,
        "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm",
    ),
    "fieller1954": ("Fieller", 1954, "Some Problems in Interval Estimation"),
    "northcutt2021": ("Northcutt", 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels"),
    "coates2011": ("Coates", 2011, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning"),
    "barz2020": ("Barz", 2020, "Do We Train on Test Data? Purging CIFAR of Near-Duplicates"),
    "devries2017": ("DeVries", 2017, "Improved Regularization of Convolutional Neural Networks with Cutout"),
    "gidaris2018": ("Gidaris", 2018, "Unsupervised Representation Learning by Predicting Image Rotations"),
    "guo2017": ("Guo", 2017, "On Calibration of Modern Neural Networks"),
    "he2016": ("He", 2016, "Deep Residual Learning for Image Recognition"),
    "hoffmann2022": ("Hoffmann", 2022, "Training Compute-Optimal Large Language Models"),
    "hu2021": ("Hu", 2021, "LoRA: Low-Rank Adaptation of Large Language Models"),
    "hutter2021": ("Hutter", 2021, "Learning Curve Theory"),
    "ioffe2015": (
        "Ioffe",
        2015,
        "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
    ),
    "izmailov2018": ("Izmailov", 2018, "Averaging Weights Leads to Wider Optima and Better Generalization"),
    "jordan2024": ("Jordan", 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU"),
    "jordan2024muon": ("Jordan", 2024, "Muon: An optimizer for hidden layers in neural networks"),
    "kaplan2020": ("Kaplan", 2020, "Scaling Laws for Neural Language Models"),
    "kingma2015": ("Kingma", 2015, "Adam: A Method for Stochastic Optimization"),
    "kornblith2019": ("Kornblith", 2019, "Do Better ImageNet Models Transfer Better?"),
    "krizhevsky2009": ("Krizhevsky", 2009, "Learning Multiple Layers of Features from Tiny Images"),
    "loshchilov2019": ("Loshchilov", 2019, "Decoupled Weight Decay Regularization"),
    "michaud2023": ("Michaud", 2023, "The Quantization Model of Neural Scaling"),
    "muennighoff2023": ("Muennighoff", 2023, "Scaling Data-Constrained Language Models"),
    "muller2019": ("Müller", 2019, "When Does Label Smoothing Help?"),
    "paul2021": ("Paul", 2021, "Deep Learning on a Data Diet: Finding Important Examples Early in Training"),
    "rosenfeld2020": ("Rosenfeld", 2020, "A Constructive Prediction of the Generalization Error Across Scales"),
    "sardana2024": (
        "Sardana",
        2024,
        "Beyond Chinchilla-Optimal: Accounting for Inference in Language Model Scaling Laws",
    ),
    "scheffer2001": ("Scheffer", 2001, "Active Hidden Markov Models for Information Extraction"),
    "sener2018": ("Sener", 2018, "Active Learning for Convolutional Neural Networks: A Core-Set Approach"),
    "smith2019": (
        "Smith",
        2019,
        "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
    ),
    "sorscher2022": ("Sorscher", 2022, "Beyond neural scaling laws: beating power law scaling via data pruning"),
    "tan2019": ("Tan", 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"),
    "wei2022": (
        "Wei",
        2022,
        "Learning with Noisy Labels Revisited: A Study Using Real-World Human Annotations",
    ),
    "zhang2018": ("Zhang", 2018, "mixup: Beyond Empirical Risk Minimization"),
    "zhang2019": ("Zhang", 2019, "Lookahead Optimizer: k steps forward, 1 step back"),
    "yang2021": (
        "Yang",
        2021,
        "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer",
    ),
}


@pytest.fixture(scope="module")
def entries():
    return pybtex.parse_file(str(BIB)).entries


def test_bibliography_and_table_name_the_same_works(entries):
    assert set(entries) == set(WORKS)


@pytest.mark.parametrize("key", sorted(WORKS))
def test_entry_agrees_with_the_table(entries, key):
    entry = entries[key]
    author = entry.persons["author"][0]
    title = str(richtext.Text.from_latex(entry.fields["title"]))
    assert (str(author.rich_last_names[0]), int(entry.fields["year"]), title) == WORKS[key]


def test_every_entry_can_be_found(entries):
    """An arXiv number of the right form, an address, or an institution."""
    for key, entry in entries.items():
        number = entry.fields.get("eprint", "")
        found = re.fullmatch(r"\d{4}\.\d{4,5}", number) or {"howpublished", "institution"} & set(entry.fields)
        assert found, f"{key} gives a reader no way to find it"


def test_every_citation_has_an_entry(entries):
    pages = [*ROOT.glob("book/**/*.md"), *ROOT.glob("notebooks/text/*.py")]
    cited = {
        key.strip()
        for page in pages
        for group in re.findall(r"\{cite(?::[a-z]+)?\}`([^`]+)`", page.read_text(encoding="utf-8"))
        for key in group.split(",")
    }
    assert cited, "no page cites anything: the pattern or the pages are wrong"
    assert cited <= set(entries)
