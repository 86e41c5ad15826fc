import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_experts import SITES, make_expert

from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError, ZooError
from loragen.recipes.expert import Start
from loragen.zoo.card import MULTITASK_FOLDER, SNAPSHOTS, VARIANCE, ZOO_MANIFEST, expert_files
from loragen.zoo.zoo import Zoo, default_zoo

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def root(tiny_zoo, tmp_path) -> Path:
    """A copy of the tiny zoo to do damage to."""
    return Path(shutil.copytree(tiny_zoo.root, tmp_path / "zoo"))


def rewrite(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def faults(root: Path) -> dict[str, str]:
    return {expert: fault for expert, fault in Zoo.open(root).check() if fault is not None}


# --- opening --------------------------------------------------------------------------------------------------------


def test_an_opened_zoo_lists_its_experts_in_alphabetical_order(tiny_zoo):
    assert tiny_zoo.ids == ("bank", "card", "cook", "mood", "news", "rain", "rude", "shop")
    assert len(tiny_zoo) == 8
    assert tuple(card.id for card in tiny_zoo) == tiny_zoo.ids
    assert tiny_zoo.manifest.name == "tiny"


def test_an_expert_reads_back_as_it_was_trained(tiny_zoo):
    start = Start.random(SITES, 2, rng=torch.Generator().manual_seed(0))
    expert = make_expert(start, seed=0)  # as the fixture made "bank"
    adapter = tiny_zoo.adapter("bank")
    assert set(adapter.sites) == set(SITES)
    assert adapter.settings.base_model_name_or_path == "tiny-base"
    variance, snapshots = tiny_zoo.variance("bank"), tiny_zoo.snapshots("bank")
    for site, (out_features, in_features) in SITES.items():
        assert torch.equal(adapter.lora_A[site].float(), start.lora_A[site]), "A was in bfloat16 precision already"
        torch.testing.assert_close(adapter.delta_weight(site), expert.mean[site] @ start.lora_A[site], rtol=0, atol=0.1)
        assert adapter.delta_weight(site).shape == (out_features, in_features)
        for met, wanted in ((variance, expert.variance), (snapshots, expert.snapshots)):
            assert met[site].dtype == torch.float32
            torch.testing.assert_close(met[site], wanted[site], rtol=2**-7, atol=0)
    assert snapshots["layer.0.query"].shape == (3, 6, 2)
    card = tiny_zoo.card("bank")
    assert (card.provenance.steps, card.provenance.held_out_losses) == (10, {5: 1.0, 10: 0.9})
    assert card.descriptions == (card.description, *card.paraphrases)


def test_the_files_of_an_expert_are_the_same_each_time(tiny_zoo):
    expert = make_expert(Start.random(SITES, 2, rng=torch.Generator().manual_seed(0)), seed=0)
    adapter, files = expert_files(expert, tiny_zoo.card("bank"))
    assert {tensor.dtype for tensor in (*adapter.lora_A.values(), *adapter.lora_B.values())} == {torch.bfloat16}
    for name, content in files.items():
        written = (tiny_zoo.folder("bank") / name).read_bytes()
        assert written == (content.encode() if isinstance(content, str) else content), name


def test_a_folder_without_a_zoo_is_refused_with_the_way_to_one(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ZooError, match=r"no zoo in .*loragen zoo build"):
            Zoo.open(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("id: rain", "id: [rain"),
        ("licence: ", "license: "),
        ("steps: 10", "steps: ten"),
        ("kind: trained", "kind: found"),
        ("provenance:", "provenances:"),
    ],
)
def test_a_damaged_card_is_named_with_a_way_out(root, old, new):
    replace_in(root / "experts" / "rain" / "card.yaml", old, new)
    with pytest.raises(ZooError, match=r"(?s)remove its folder and build again.*experts/rain"):
        Zoo.open(root)


def test_a_damaged_manifest_is_refused(root):
    replace_in(root / ZOO_MANIFEST, "name: tiny", "nom: tiny")
    with pytest.raises(ZooError, match=r"(?s)manifest is damaged.*nom"):
        Zoo.open(root)


def test_what_an_interrupted_build_left_is_no_expert(root):
    shutil.copytree(root / "experts" / "bank", root / "experts" / ".bank.x1y2.partial")
    (root / "experts" / ".rain.abc.partial").mkdir()
    (root / "experts" / "unfinished").mkdir()
    zoo = Zoo.open(root)
    assert len(zoo) == 8
    assert faults(root) == {}


def test_the_multitask_adapter_is_there_or_named(root, tiny_zoo):
    with pytest.raises(AdapterError, match=MULTITASK_FOLDER):
        tiny_zoo.multitask()
    tiny_zoo.adapter("bank").save(root / MULTITASK_FOLDER)
    assert Zoo.open(root).multitask().spec == tiny_zoo.adapter("bank").spec


def test_the_default_zoo_is_in_the_source_tree():
    if not (default_zoo() / ZOO_MANIFEST).exists():
        pytest.skip("the zoo has not been built yet")
    zoo = Zoo.open()
    assert zoo.root == default_zoo()
    if not len(zoo):
        pytest.skip("the zoo has no experts yet")
    assert zoo.manifest.base == "sentence-transformers/all-MiniLM-L6-v2"
    assert zoo.adapter(zoo.ids[0]).norm() > 0


# --- asking ---------------------------------------------------------------------------------------------------------


def test_a_selection_goes_by_split_licence_and_id(tiny_zoo):
    assert tiny_zoo.select(splits={"validation"}).ids == ("shop",)
    assert tiny_zoo.select(licences=["mit"]).ids == tiny_zoo.select(licences=["MIT"]).ids
    assert tiny_zoo.select(licences=["MIT"]).ids == ("card", "mood", "rain", "shop")
    assert tiny_zoo.select(licences=["MIT"], splits=["experts"], without={"mood"}).ids == ("card", "rain")
    assert tiny_zoo.select(without={"bank"}).ids == tiny_zoo.ids[1:]
    assert tiny_zoo.select().ids == tiny_zoo.ids
    assert tiny_zoo.select(licences=["CC BY 4.0", "mit"]).ids == tiny_zoo.ids


def test_licences_are_compared_whole(tiny_zoo):
    with pytest.raises(ZooError):
        tiny_zoo.select(licences=["CC BY"])


def test_an_empty_selection_says_what_there_is(tiny_zoo):
    with pytest.raises(ZooError, match=r"test_near.*holds: experts; validation\.$"):
        tiny_zoo.select(splits={"test_near"})
    with pytest.raises(ZooError, match=r"GPL-3\.0.*holds: CC BY 4\.0; MIT\.$"):
        tiny_zoo.select(licences=["GPL-3.0"])
    with pytest.raises(ZooError, match=r"'shop'.*holds: experts; validation\.$"):
        tiny_zoo.select(without=tiny_zoo.ids)


def test_a_zoo_names_the_scores_that_matter(tiny_zoo):
    assert tiny_zoo.score_titles() == {"accuracy": "label text", "knn_accuracy": "kNN"}


def test_an_unknown_expert_brings_up_the_nearest_name(tiny_zoo):
    for ask in (tiny_zoo.card, tiny_zoo.adapter, tiny_zoo.variance, tiny_zoo.folder):
        with pytest.raises(ZooError, match="no expert 'bonk'; did you mean 'bank'"):
            ask("bonk")
    with pytest.raises(ZooError, match="loragen zoo list"):
        tiny_zoo.card("zzzzzz")
    with pytest.raises(ZooError, match="no expert 'shop'"):
        tiny_zoo.select(splits={"experts"}).card("shop")


# --- the fingerprint ------------------------------------------------------------------------------------------------


def test_the_fingerprint_follows_the_experts_selected_and_nothing_else(root, tiny_zoo):
    assert Zoo.open(root).fingerprint == tiny_zoo.fingerprint, "the same experts elsewhere"
    assert tiny_zoo.select(splits={"experts"}).fingerprint != tiny_zoo.fingerprint
    replace_in(root / "experts" / "bank" / "card.yaml", "seconds: 1.0", "seconds: 2.0")
    assert Zoo.open(root).fingerprint == tiny_zoo.fingerprint, "a card is no weight"


def test_the_fingerprint_changes_with_one_bit_of_one_adapter(root, tiny_zoo):
    path = root / "experts" / "mood" / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert Zoo.open(root).fingerprint != tiny_zoo.fingerprint
    assert Zoo.open(root).select(without={"mood"}).fingerprint == tiny_zoo.select(without={"mood"}).fingerprint


def test_the_fingerprint_does_not_go_by_the_order_of_folders(root, tiny_zoo, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(root / ZOO_MANIFEST, other)
    for expert in reversed(tiny_zoo.ids):  # made in another order, so listed in another order by many file systems
        shutil.copytree(root / "experts" / expert, other / "experts" / expert)
    assert Zoo.open(other).fingerprint == tiny_zoo.fingerprint
    bank, card = other / "experts" / "bank" / WEIGHTS, other / "experts" / "card" / WEIGHTS
    bank.rename(other / "swap")
    card.rename(bank)
    (other / "swap").rename(card)
    assert Zoo.open(other).fingerprint != tiny_zoo.fingerprint, "whose weights they are counts"


# --- checking -------------------------------------------------------------------------------------------------------


def test_a_whole_zoo_has_no_faults(tiny_zoo):
    assert dict(tiny_zoo.check()) == dict.fromkeys(tiny_zoo.ids)


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-7])


def negate_a_variance(folder: Path) -> None:
    rewrite(folder / VARIANCE, lambda tensors: tensors["layer.1.query"].neg_())


def spoil(name: str, value: float):
    def damage(folder: Path) -> None:
        rewrite(folder / name, lambda tensors: tensors["layer.0.value"].view(-1)[3:4].fill_(value))

    return damage


def drop_a_site(folder: Path) -> None:
    rewrite(folder / VARIANCE, lambda tensors: tensors.pop("layer.0.value"))


def reshape_snapshots(folder: Path) -> None:
    rewrite(folder / SNAPSHOTS, lambda tensors: tensors.update({"layer.0.query": torch.zeros(3, 6, 3)}))


def silence(folder: Path) -> None:
    rewrite(folder / WEIGHTS, lambda tensors: [t.zero_() for name, t in tensors.items() if "lora_B" in name])


def swap_base(folder: Path) -> None:
    replace_in(folder / "card.yaml", f"base_hash: '{'0' * 64}'", f"base_hash: '{'f' * 64}'")


def lose_a_site(folder: Path) -> None:
    adapter = Lora.load(folder)
    kept = [site for site in adapter.sites if site != "layer.1.query"]
    smaller = Lora.from_factors(
        {site: adapter.lora_A[site] for site in kept},
        {site: adapter.lora_B[site] for site in kept},
        base_model_name_or_path="tiny-base",
    )
    extra = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("adapter_")}
    smaller.save(folder, extra_files=extra)


def break_config(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncate, "adapter_model.safetensors is damaged"),
        (spoil(VARIANCE, float("nan")), "layer.0.value"),
        (spoil(SNAPSHOTS, float("inf")), "layer.0.value"),
        (negate_a_variance, "layer.1.query.*negative variance"),
        (drop_a_site, "layer.0.value"),
        (reshape_snapshots, "layer.0.query"),
        (swap_base, "ffffffffffff, the zoo's is 000000000000"),
        (silence, "all delta weights are zero"),
        (lambda folder: (folder / VARIANCE).unlink(), VARIANCE),
        (lambda folder: (folder / SNAPSHOTS).write_bytes(b"no tensors"), SNAPSHOTS),
        (lambda folder: (folder / WEIGHTS).unlink(), WEIGHTS),
        (lose_a_site, "layer.1.query"),
        (break_config, "use_dora"),
    ],
)
def test_a_fault_is_found_and_named_beside_whole_experts(root, damage, named):
    damage(root / "experts" / "news")
    met = dict(Zoo.open(root).check())
    assert list(met) == list(Zoo.open(root).ids), "every expert is looked at"
    fault = met.pop("news")
    assert fault is not None
    assert re.search(named, fault), fault
    assert set(met.values()) == {None}


def test_an_expert_in_another_experts_folder_is_found(root):
    shutil.rmtree(root / "experts" / "news")
    shutil.copytree(root / "experts" / "bank", root / "experts" / "news")
    with pytest.raises(ZooError, match=r"experts/news holds the card of 'bank'"):
        Zoo.open(root)
