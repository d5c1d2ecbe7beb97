"""The page on which a person labels layouts: what it shows, and in a real browser what one does on it."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from core.checkpoints.loading import load_autoencoder
from core.config.loading import config_bytes, load_config
from core.data.palette import DEFAULT_PALETTE
from core.inputs.tensor_files import save_tensors
from core.labels.label_files import labels_of, read_labels, require_both_labels
from core.models.pictures import decode_classes
from core.records.stage_run import run_stage
from core.reports.label_page import render_label_page, write_label_page
from core.rounds.round import open_round
from core.runtime.errors import InputError
from core.runtime.files import sha256
from tasks.command_line import run_command
from tasks.generate_bad_latents import generate_bad_latents
from tasks.label import label
from tasks.retrain_discriminator import retrain_discriminator

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# The samples of both kinds, in the order in which a manifest may have them.
KINDS = {7: "bad", 2: "viable", 0: "bad", 5: "viable", 1: "bad", 3: "bad", 6: "viable", 4: "bad"}
IN_ORDER = [f"{KINDS[number]}_latents/{KINDS[number]}_latent_{number:05d}.pt" for number in range(8)]
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def make_latents(config, folder, kinds=KINDS):
    """A finished stage of generated latents of these `kinds` and one real latent; the latents by sample."""
    latents = {number: torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(number)) for number in kinds}
    names = [f"{kind}_latents/{kind}_latent_{number:05d}.pt" for number, kind in kinds.items()]

    def work(workspace, paths):
        for name, number in zip(names, kinds, strict=True):
            save_tensors(latents[number].clone(), workspace.folder / name)
        save_tensors(torch.zeros(4, 8, 8), workspace.folder / "real_latents/real_latent_00000.pt")
        rows = pd.DataFrame({"latent_path": ["real_latents/real_latent_00000.pt", *names]})
        rows.to_csv(workspace.folder / "discriminator_manifest.csv", index=False)
        return {"real_latents": 1, "bad_latents": len(names), "bad_latent_std": 1.0}

    run_stage("bad latents", folder, {"autoencoder": config.autoencoder.checkpoint}, {}, work, config.artifacts)
    return latents


@pytest.fixture
def round_1(config, tmp_path):
    """The config of a run whose first round generated latents of both kinds, and the latents by sample."""
    config = config.with_values({"artifacts.root": str(tmp_path / "artifacts")})
    return config, make_latents(config, tmp_path / "artifacts/tiny/round-01/bad_latents")


def data_of(page):
    return json.loads(DATA.search(page.read_text())[1])


def test_the_page_shows_the_generated_layouts_in_palette_colours_in_order_of_sample(round_1, tmp_path):
    config, latents = round_1
    written = write_label_page(config, 1, tmp_path / "labels.html", 300)
    assert (written.path, written.shown, written.generated) == (tmp_path / "labels.html", 8, 8)
    data = data_of(written.path)
    assert [layout["path"] for layout in data["layouts"]] == IN_ORDER and data["side"] == 32
    decoder = load_autoencoder(config.autoencoder.checkpoint, config).decoder
    wanted = decode_classes(torch.stack([latents[number] for number in range(8)]), decoder)
    for layout, classes in zip(data["layouts"], wanted, strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(layout["picture"])))
        assert np.array_equal(np.asarray(picture.convert("RGB")), DEFAULT_PALETTE.rgb[classes])


def test_a_choice_of_layouts_is_the_same_every_time_and_grows(round_1, tmp_path):
    config, _ = round_1

    def paths(count):
        write_label_page(config, 1, tmp_path / "labels.html", count)
        return [layout["path"] for layout in data_of(tmp_path / "labels.html")["layouts"]]

    few, more = paths(3), paths(5)
    assert len(few) == 3 and set(few) < set(more) and paths(3) == few
    assert more == [path for path in IN_ORDER if path in more] and more != IN_ORDER[:5]


def test_the_digest_is_of_the_latents_whatever_their_kind_and_however_many_are_shown(round_1, tmp_path):
    config, _ = round_1

    def digest(source, count):
        return data_of(write_label_page(config, source, tmp_path / "labels.html", count).path)["digest"]

    make_latents(config, tmp_path / "all_bad", dict.fromkeys(KINDS, "bad"))
    make_latents(config, tmp_path / "other", {number + 1: kind for number, kind in KINDS.items()})
    assert re.fullmatch("[0-9a-f]{16}", digest(1, 8))
    assert digest(1, 2) == digest(1, 8) == digest(tmp_path / "all_bad", 8) != digest(tmp_path / "other", 8)


def test_the_command_writes_the_page_and_replaces_only_a_page(round_1, tmp_path):
    config, _ = round_1
    (tmp_path / "tiny.yaml").write_bytes(config_bytes(config))
    output = tmp_path / "pages" / "labels.html"
    arguments = [str(tmp_path / "tiny.yaml"), "--round", "1", "--output", str(output), "--count", "5"]
    for _ in range(2):
        assert run_command(label, arguments) == f"{output}: 5 of 8 layouts to label; open it in a browser"
    assert len(data_of(output)["layouts"]) == 5


@pytest.mark.parametrize("content", [b"", b"<!doctype html>\n<html><body>Mine</body></html>"])
def test_another_file_is_not_overwritten(round_1, tmp_path, content):
    mine = tmp_path / "mine.html"
    mine.write_bytes(content)
    with pytest.raises(InputError, match=r"--output .*mine.html is there and is not a label page: give another path"):
        write_label_page(round_1[0], 1, mine, 8)
    assert mine.read_bytes() == content


def test_what_is_no_place_for_a_page_is_refused(round_1, tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match=r"is a folder: give the path of a file, such as .*labels.html"):
        write_label_page(round_1[0], 1, tmp_path, 8)
    (tmp_path / "tiny.yaml").write_bytes(config_bytes(round_1[0]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run_command(label, ["tiny.yaml", "--round", "1", "--output", "s3://b/l.html"])
    assert "--output s3://b/l.html is an address: give the path of a file on this machine" in capsys.readouterr().err


def test_without_generated_latents_no_page_is_written(round_1, tmp_path):
    config, _ = round_1
    with pytest.raises(InputError, match=r"round-02/bad_latents holds no generated latents yet: run the round first"):
        write_label_page(config, 2, tmp_path / "pages/labels.html", 8)
    make_latents(config, tmp_path / "none", {})
    with pytest.raises(InputError, match=r"discriminator_manifest.csv names no generated latents: generate them"):
        write_label_page(config, tmp_path / "none", tmp_path / "pages/labels.html", 8)
    assert not (tmp_path / "pages").exists()


def test_an_altered_latent_is_named(round_1, tmp_path):
    altered = tmp_path / "artifacts/tiny/round-01/bad_latents/bad_latents/bad_latent_00003.pt"
    altered.unlink()
    save_tensors(torch.zeros(4, 8, 8), altered)
    with pytest.raises(InputError, match=r"bad_latent_00003.pt is altered: .*: restore the file from a copy"):
        write_label_page(round_1[0], 1, tmp_path / "labels.html", 8)


def test_another_autoencoder_is_refused(round_1, tmp_path):
    config, _ = round_1
    other = tmp_path / "other.pt"
    save_tensors({**torch.load(config.autoencoder.checkpoint, weights_only=True), "note": 1}, other)
    said = rf"was made with the autoencoder .*, the config has .*/{other.name}, .*: set autoencoder.checkpoint=/"
    with pytest.raises(InputError, match=said):
        write_label_page(config.with_values({"autoencoder.checkpoint": str(other)}), 1, tmp_path / "labels.html", 8)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser):
    """Opens a file in a profile of this test's own. At its end no script failed, and nothing was asked of a server."""
    context, wrong = browser.new_context(), []
    context.set_default_timeout(20_000)

    def open_page(path):
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    context.close()
    assert wrong == []


@pytest.fixture
def page(round_1, opened, tmp_path):
    return opened(write_label_page(round_1[0], 1, tmp_path / "labels.html", 8).path)


def saved(page, folder):
    """What is read of the file that the page saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save labels.csv").click()
    assert download.value.suggested_filename == "labels.csv"
    download.value.save_as(folder / "labels.csv")
    return read_labels(folder / "labels.csv")


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def test_keys_and_clicks_label_layouts_and_the_file_holds_them(page, tmp_path):
    press(page, "y", "ArrowRight", "n", "s", "ArrowLeft")
    page.get_by_role("button", name="Viable", exact=False).nth(1).click()
    assert page.get_by_role("status").inner_text() == "Layout 7 of 8. 5 labelled, 60 % viable."
    labels = saved(page, tmp_path)
    wanted = {IN_ORDER[0]: True, IN_ORDER[1]: True, IN_ORDER[2]: False, IN_ORDER[4]: False, IN_ORDER[5]: True}
    assert list(labels.viable.items()) == list(wanted.items())
    text = (tmp_path / "labels.csv").read_text().splitlines()
    assert text[:2] == ["latent_path,is_viable,latents_sha256", f"{IN_ORDER[0]},true,{labels.latents_sha256}"]
    digest = data_of(tmp_path / "labels.html")["digest"]
    assert labels_of(labels, IN_ORDER, "round-01", digest) == wanted
    require_both_labels(labels)


def test_back_clear_and_the_strip_correct_what_was_said(page, tmp_path):
    press(page, "y", "y", "y", "Backspace", "u", "n")
    assert page.get_by_role("status").inner_text() == "Layout 3 of 8. 3 labelled, 67 % viable."
    page.get_by_role("button", name="Layout 1, viable").click()
    assert page.get_by_alt_text("Layout 1 of 8, viable").is_visible()
    press(page, "c")
    assert page.get_by_alt_text("Layout 1 of 8, not labelled").is_visible()
    assert saved(page, tmp_path).viable == {IN_ORDER[1]: False, IN_ORDER[2]: True}


def test_a_closed_browser_loses_nothing_and_a_page_of_fewer_layouts_goes_on(page, opened, round_1, tmp_path):
    press(page, "y", "n", "s", "y")
    page.close()
    again = opened(tmp_path / "labels.html")
    assert again.get_by_role("status").inner_text() == "Layout 5 of 8. 3 labelled, 67 % viable."
    press(again, "Backspace")
    assert again.get_by_alt_text("Layout 4 of 8, viable").is_visible()
    fewer = write_label_page(round_1[0], 1, tmp_path / "fewer.html", 5).path
    shown = [layout["path"] for layout in data_of(fewer)["layouts"]]
    wanted = {IN_ORDER[0]: True, IN_ORDER[1]: False, IN_ORDER[3]: True}
    assert saved(opened(fewer), tmp_path).viable == {path: said for path, said in wanted.items() if path in shown}


def test_another_round_and_damaged_storage_begin_anew(page, opened, round_1, tmp_path):
    config, _ = round_1
    press(page, "y")
    make_latents(config, tmp_path / "other", {number + 1: kind for number, kind in KINDS.items()})
    other = opened(write_label_page(config, tmp_path / "other", tmp_path / "other.html", 8).path)
    assert other.get_by_role("status").inner_text() == "Layout 1 of 8. 0 labelled."
    digest = data_of(tmp_path / "labels.html")["digest"]
    for damaged in ("{", "null", "7", '{"labels": 3}', json.dumps({"labels": {IN_ORDER[0]: "yes"}, "at": 5})):
        page.evaluate("([key, value]) => localStorage.setItem(key, value)", [f"layout-labels-{digest}", damaged])
        page.reload()
        assert page.get_by_role("status").inner_text() == "Layout 1 of 8. 0 labelled."


def test_two_tabs_of_a_page_do_not_undo_each_other(page, opened, tmp_path):
    second = opened(tmp_path / "labels.html")
    press(page, "y", "n")
    second.wait_for_function("document.getElementById('status').textContent.includes('2 labelled')")
    press(second, "n", "s", "y")
    assert saved(second, tmp_path).viable == {IN_ORDER[0]: False, IN_ORDER[1]: False, IN_ORDER[2]: True}


def test_after_the_last_layout_come_those_that_were_skipped(page):
    def status():
        return page.get_by_role("status").inner_text()

    press(page, "y", "s", "y", "y", "s", "y", "y", "y")
    assert status() == "Layout 2 of 8. 6 labelled, 100 % viable."
    press(page, "n")
    assert status() == "Layout 5 of 8. 7 labelled, 86 % viable."
    press(page, "s")
    assert status() == "Layout 5 of 8. 7 labelled, 86 % viable."
    press(page, "n")
    page.reload()
    assert status() == "Layout 5 of 8. 8 labelled, 75 % viable. All are labelled: save labels.csv."


def test_a_key_with_control_or_held_down_labels_nothing_more(page):
    press(page, "Control+y")
    page.keyboard.down("n")
    page.keyboard.down("n")
    page.keyboard.up("n")
    assert page.get_by_role("status").inner_text() == "Layout 2 of 8. 1 labelled, 0 % viable."


def test_the_picture_is_large_and_whole_pixels_of_the_layout(page):
    for width, height in ((1280, 900), (375, 740)):
        page.set_viewport_size({"width": width, "height": height})
        page.reload()  # the event of a change in size comes some time after the change
        box = page.get_by_alt_text("Layout 1 of 8, not labelled").bounding_box()
        assert box["width"] == box["height"] >= 256 and box["width"] % 32 == 0 and box["width"] <= width
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_hostile_text_is_shown_and_not_executed(opened, tmp_path):
    title = """</title><script>document.title = "taken"</script><img src=x onerror='document.title="taken"'>"""
    names = ["""</script><script>document.title = "taken"</script>"""]
    hostile = tmp_path / "labels.html"
    hostile.write_text(render_label_page(title, names, np.zeros((1, 32, 32), np.uint8), DEFAULT_PALETTE, "0a" * 8))
    page = opened(hostile)
    assert page.title() == f"Label layouts · {title}" and page.get_by_text(title).is_visible()
    assert page.evaluate("document.scripts.length") == 2


def test_what_is_said_on_the_page_trains_a_discriminator(prepared_base, opened, tmp_path):
    """From the generated layouts of one run to the discriminator of the next, by way of a browser and its file."""
    config = load_config(prepared_base).with_values({"experiment.name": "shown"})
    shown = open_round(config, 1)
    generate_bad_latents.fn(**shown.bad_latents_options())
    written = write_label_page(config, 1, tmp_path / "labels.html", 48)
    page = opened(written.path)
    said = {layout["path"]: layout["path"].startswith("viable") for layout in data_of(written.path)["layouts"]}
    press(page, *("y" if viable else "n" for viable in said.values()))
    assert saved(page, tmp_path).viable == said

    section = {"labels": "file", "file": str(tmp_path / "labels.csv"), "latents": f"{shown.location}/bad_latents"}
    values = {"experiment.name": "taught", "training.seed": 3, "rounds.viability": section}
    taught = open_round(config.with_values(values), 1)
    known = generate_bad_latents.fn(**taught.bad_latents_options())["metrics"]
    assert known["labels_used"] == 48 and known["critic_auc"] > 0.65
    learnt = retrain_discriminator.fn(**taught.discriminator_options())["metrics"]
    assert 0 < learnt["val_acc"] < 1
    record = json.loads(Path(taught.location, "discriminator", "stage.json").read_text())
    labelled = Path(taught.location, "bad_latents", "labelled_latents.pt")
    assert record["settings"]["learn_labels"] and record["inputs"]["labelled"]["sha256"] == sha256(labelled)
