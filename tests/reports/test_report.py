"""The report of a run whose records lie on disk: what the discriminator knows, audits and curves; older records too."""

import hashlib
import io
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from PIL import Image

from core.config.experiment import ExperimentConfig
from core.records.artifacts import RECORD_NAME, ROUND_RECORD, round_location
from core.records.record_files import create_record
from core.reports.audit_table import audit_table
from core.reports.curves import draw_curves, draw_fifths
from core.reports.knowledge import known_of_viability, viable_by_fifths
from core.reports.report import make_report, round_summary
from core.storage.opening import open_store
from core.training.file_names import extremes_name, metrics_name, real_layouts_name, samples_name

FIFTHS = [0.2, 0.35, 0.4, 0.45, 0.6]
KNOWN = {
    "viability_auc": 0.63,
    "viability_auc_low": 0.58,
    "viability_auc_high": 0.68,
    "auc_reachable": 0.57,
    "auc_enclosed": 0.66,
    "viable_share": 0.4,
    **{f"viable_fifth_{number}": share for number, share in enumerate(FIFTHS, 1)},
}
SENTENCE = (
    "The discriminator on generated latents that it did not see: AUC of viability 0.63 (0.58 to 0.68); "
    "by rule: enclosed 0.66, reachable 0.57. An AUC of 0.5 is chance."
)
RULES = {"rounds": {"viability": {"labels": "rules", "rules": ("enclosed",)}}}


def figures(**values):
    return {**values, "intervals": {name: [value - 0.02, value + 0.03] for name, value in values.items()}}


OLDER = figures(viable=0.5, coverage=0.25, frechet_distance=6.0, enclosed=0.7, nearest_agreement=0.9)
AUDIT = OLDER | figures(**{name: OLDER[name] for name in OLDER["intervals"]}, judge_sound=0.26, doorless=0.15)


def config_at(root, **sections):
    named = {"experiment": {"name": "a"}, "dataset": {"manifest": "m.csv"}}
    return ExperimentConfig.model_validate({**named, "artifacts": {"root": str(root)}, **sections})


def written_run(config, *rounds):
    """The config of a run, after its rounds were written as the records with these metrics and other fields."""
    for number, (metrics, fields) in enumerate(rounds, 1):
        location = round_location(config, number)
        epochs = {"first_epoch": number - 1, "epoch": number}
        scores = {"viability_before": 0.4, "viability_after": 0.5, "discriminator_val_acc": 0.7}
        record = {
            **{"round": number, "location": location, "experiment": "a", "outputs": {}, "seconds": 60.0, "size": 1},
            **{"stage": "round", "inputs": {"manifest": entry(b"m"), "autoencoder": entry(b"a")}, "settings": {}},
            **{"metrics": {**epochs, **scores, **metrics}, **fields},
        }
        write_stage3(open_store(f"{location}/stage3", config.artifacts), epochs, scores)
        create_record(record, open_store(location, config.artifacts), ROUND_RECORD)
    return config


def write_stage3(store, epochs, scores):
    picture, table = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture, format="PNG")
    pd.DataFrame({"epoch": [1, 2], "train_noise_loss": [0.3, 0.2]}).to_csv(table, index=False)
    names = [*(samples_name("a", epoch) for epoch in epochs.values()), real_layouts_name("a"), extremes_name("a")]
    files = {name: picture.getvalue() for name in names} | {metrics_name("a"): table.getvalue()}
    for name, data in files.items():
        store.create(name, data)
    outputs = {name: {key: entry(data)[key] for key in ("size", "sha256")} for name, data in files.items()}
    made = {"stage": "stage3", "inputs": {}, "settings": {}, "metrics": {**epochs, **scores}, "seconds": 1.0}
    create_record({**made, "outputs": outputs}, store, RECORD_NAME)


def entry(data):
    return {"path": "x", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def table_of(html):
    """The cells of the audit tables by the figure's name."""
    rows = re.findall(r"<tr>((?:<td>[^<]*</td>){5})</tr>", html)
    return {cells[0]: cells[1:] for cells in (re.findall("<td>([^<]*)</td>", row) for row in rows)}


def test_a_report_says_what_the_discriminator_knows_and_which_figures_were_taught(tmp_path):
    fields = {"audit": AUDIT, "taught": ["viable", "enclosed"]}
    report = make_report(written_run(config_at(tmp_path), (KNOWN, fields)), 1)
    caption = "Viable share by fifths of the discriminator's score, from the lowest: 0.20, 0.35, 0.40, 0.45, 0.60"
    assert f"<p>{SENTENCE}</p>" in report.html and f'alt="{escape(caption)}"' in report.html
    assert "The labels teach viable, enclosed. What is not taught may become worse meanwhile." in report.html
    shown = table_of(report.html)
    assert list(shown)[:4] == ["viable", "enclosed", "judge sound", "doorless"]
    assert shown["viable"] == ["0.500", "0.480 to 0.530", "taught", "higher"]
    assert shown["doorless"] == ["0.150", "0.130 to 0.180", "not taught", "lower"]
    assert shown["frechet distance"][2:] == ["not taught", "lower"]
    assert shown["nearest agreement"][2:] == ["not taught", "neither"]
    assert report.html.count("data:image/png") == report.markdown.count("data:image/png") == 6
    assert SENTENCE in report.markdown and caption in report.markdown
    assert "\n| enclosed | 0.700 | 0.680 to 0.730 | taught | higher |\n" in report.markdown


@pytest.mark.parametrize(
    ("sections", "taught", "sentence"),
    [
        ({}, "not taught", "The labels teach none of these figures."),
        (RULES, "taught", "The labels teach viable, enclosed."),
        (RULES | {"discriminator": {"weight": 0.0}}, "not taught", "The labels teach none of these figures."),
    ],
)
def test_an_older_record_has_no_word_of_what_it_lacks_and_its_config_says_what_was_taught(
    sections, taught, sentence, tmp_path
):
    config = written_run(config_at(tmp_path, **sections), ({}, {}), ({"viable": 0.5}, {"audit": OLDER}))
    report = make_report(config, 2)
    for text in (report.html, report.markdown):
        assert "did not see" not in text and "fifths" not in text and "judge" not in text and sentence in text
    assert table_of(report.html)["enclosed"] == ["0.700", "0.680 to 0.730", taught, "higher"]
    assert report.html.count("data:image/png") == 9 and report.html.count("<h3>Audit</h3>") == 1
    assert report.html.index("<h3>Audit</h3>") < report.html.index("<h2>Round 1</h2>")
    assert "| 2 | 2 to 2 |" in round_summary(config, 2)


def test_text_of_a_record_does_not_leave_its_place_in_the_report(tmp_path):
    evil = "<script>|a`b"
    audit = figures(viable=0.5) | {evil: 1.0, "intervals": {"viable": [0.4, 0.6], evil: [0.9, None]}}
    report = make_report(written_run(config_at(tmp_path), (KNOWN, {"audit": audit, "taught": [evil]})), 1)
    assert evil not in report.html + report.markdown
    assert table_of(report.html)[str(escape(evil))] == ["1.000", "0.900 to -", "taught", "higher"]
    assert "\n| \\<script\\>\\|a\\`b | 1.000 |" in report.markdown


@given(st.fixed_dictionaries({}, optional={name: st.none() | st.floats(0, 1) for name in KNOWN}))
def test_what_is_unknown_is_left_out(metrics):
    told, shares = known_of_viability(metrics), viable_by_fifths(metrics)
    assert (told is None) == (metrics.get("viability_auc") is None)
    assert told is None or ("reachable" in told) == (metrics.get("auc_reachable") is not None)
    assert told is None or not {"nan", "None"} & set(re.findall(r"\w+", told))
    complete = all(metrics.get(f"viable_fifth_{number}") is not None for number in range(1, 6))
    assert (shares is not None) == complete


def test_a_round_without_an_audit_has_no_table():
    assert audit_table(None, ["viable"]) is None


# Three losses, viability, accuracy and the shares fill two rows of panels.
HISTORY = pd.DataFrame({"epoch": [1, 2], **{f"train_{name}_loss": [0.3, 0.2] for name in ("a", "b", "c")}})


def record(number, **metrics):
    epochs = {"first_epoch": number - 1, "epoch": number}
    scores = {"viability_before": 0.4, "viability_after": 0.5, "discriminator_val_acc": 0.7}
    return {"round": number, "metrics": {**epochs, **scores, **metrics}}


def test_the_curves_show_each_share_and_distance_that_is_known():
    """Every figure more changes the picture, and one that no audit has does not."""
    plain, drawn = [record(1), record(2)], [record(1, viable_share=0.3), record(2, viable_share=0.4)]
    pictures = [
        draw_curves(HISTORY, plain, []),
        draw_curves(HISTORY, drawn, []),
        draw_curves(HISTORY, plain, [(2, figures(viable=0.5))]),
        draw_curves(HISTORY, drawn, [(2, figures(viable=0.5))]),
        draw_curves(HISTORY, drawn, [(0, figures(viable=0.4)), (2, figures(viable=0.5))]),
        draw_curves(HISTORY, drawn, [(2, figures(viable=0.5, judge_sound=0.2))]),
        draw_curves(HISTORY, drawn, [(2, figures(viable=0.5, judge_sound=0.2, frechet_distance=6.0))]),
    ]
    assert len(set(pictures)) == len(pictures)
    intervals = {"viable": [None, None], "frechet_distance": [1.0, 2.0]}
    unknown = {"viable": None, "frechet_distance": None, "intervals": intervals}
    rows = [Image.open(io.BytesIO(png)).height for png in (*pictures[5:], draw_curves(HISTORY, drawn, [(2, unknown)]))]
    assert rows[0] == rows[2] < rows[1]


def test_the_curves_begin_with_what_the_first_round_started_from(tmp_path):
    runs = {
        "nothing": ({}, {}),
        "only viable": ({"viable_before": 0.4}, {}),
        "an audit": ({"viable_before": 0.4}, {"earlier_audit": AUDIT | {"viable": 0.4}}),
    }
    configs = [
        written_run(config_at(tmp_path / name), first, ({"viable": 0.5}, {"audit": AUDIT}))
        for name, first in runs.items()
    ]
    configs.append(written_run(config_at(tmp_path / "its own"), runs["nothing"], ({"viable": 0.5}, {"audit": AUDIT})))
    audited = {
        "stage": "audit",
        "inputs": {},
        "settings": {"audit": {"num_samples": 10}},
        "seconds": 1.0,
        "outputs": {},
    }
    before = open_store(f"{round_location(configs[-1], 1)}/audit_before", configs[-1].artifacts)
    create_record({**audited, "metrics": AUDIT | {"viable": 0.3}}, before, RECORD_NAME)
    curves = set()
    for config in configs:
        curves.add(re.search(r'<img src="([^"]*)" alt="Losses', make_report(config, 2).html)[1])
    assert len(curves) == len(configs)


def test_the_fifths_are_a_picture_of_their_shares():
    assert draw_fifths(FIFTHS) == draw_fifths(list(FIFTHS)) != draw_fifths(FIFTHS[::-1])


def test_the_round_that_audited_strengths_shows_what_lies_between_start_and_end(tmp_path):
    config = config_at(tmp_path)
    plain = make_report(written_run(config_at(tmp_path / "plain"), ({"viable_before": 0.4}, {"audit": AUDIT})), 1)
    outputs = {f"audit_strength_{at}/stage.json": {"size": 1, "sha256": "0" * 64} for at in (1.5, 0.5)}
    fields = {"audit": AUDIT, "outputs": outputs, "earlier_audit": AUDIT | {"viable": 0.3}}
    written_run(config, ({}, fields))
    made = {"stage": "audit", "inputs": {}, "settings": {"audit": {"num_samples": 10}}, "seconds": 1.0, "outputs": {}}
    for at, viable in ((0.5, 0.41), (1.5, 0.62)):
        store = open_store(f"{round_location(config, 1)}/audit_strength_{at}", config.artifacts)
        create_record({**made, "metrics": OLDER | {"viable": viable}}, store, RECORD_NAME)
    report = make_report(config, 1)
    shown = table_of(report.html)
    assert [shown[at][0] for at in ("0", "0.5", "1", "1.5")] == [
        f"{viable} (0.480 to 0.530)" for viable in ("0.300", "0.410", "0.500", "0.620")
    ]
    assert shown["1"][1:] == ["0.260 (0.240 to 0.290)", "0.150 (0.130 to 0.180)", "6.000 (5.980 to 6.030)"]
    assert shown["0.5"][1:3] == ["-", "-"]
    assert "\n| 0.5 | 0.410 (0.480 to 0.530) | - | - | 6.000" in report.markdown.replace("\\", "")
    assert 'alt="Audits by strength"' in report.html
    for text in (plain.html, plain.markdown):
        assert "strength" not in text and "and beyond" not in text
