"""Prefect's UI in a real browser: the run, its reports and progress, and the form that starts one.

UI_CONFIG names another config to run than the tiny one, UI_SCREENSHOTS a folder that the screenshots are kept in.
"""

import os
import shutil
from pathlib import Path

import pytest
from prefect.client.schemas.filters import ArtifactFilter

from tests.conftest import own_copy

pytest_plugins = ["tests.prefect_server"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
    pytest.mark.timeout(3600),
]
MILLISECONDS = 60_000
SIZE = {"width": 1400, "height": 1000}


@pytest.fixture(scope="module")
def page():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(MILLISECONDS)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    folder = Path(os.environ.get("UI_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def config(prepared, tmp_path_factory):
    if "UI_CONFIG" in os.environ:
        return Path(os.environ["UI_CONFIG"])
    return own_copy(prepared, tmp_path_factory.mktemp("ui"))


@pytest.fixture(scope="module")
def run(prefect, config):
    """A finished training of all its rounds, by the command."""
    done = prefect.command("flows.adversarial_training", config, timeout=3000)
    assert done.returncode == 0, done.stderr
    return prefect.begun(config)[-1]


def address(prefect, path):
    return prefect.url.removesuffix("/api") + path


def sees(page, text):
    """Wait until the text is visible."""
    page.get_by_text(text).first.wait_for(state="visible")


def test_the_run_has_its_name_its_tags_and_its_rounds(prefect, page, run, config, screenshots):
    page.goto(address(prefect, f"/runs/flow-run/{run.id}"))
    sees(page, f"{config.stem} · training")
    sees(page, f"experiment:{config.stem}")
    sees(page, "Completed")
    page.get_by_text("Subflow Runs").click()
    sees(page, f"{config.stem} · round 1")
    sees(page, f"{config.stem} · round 2")
    page.screenshot(path=screenshots / "run.png")


def test_a_round_s_report_shows_figures_and_pictures(prefect, page, run, config, screenshots):
    key = f"{config.stem}-round-02"
    (report,) = prefect.client.read_artifacts(artifact_filter=ArtifactFilter(key={"any_": [key]}))
    page.goto(address(prefect, f"/artifacts/artifact/{report.id}"))
    sees(page, f"{config.stem} · round 2")
    for text in ("viability before", "D val acc", "Before the round", "Real layouts of the validation split"):
        sees(page, text)
    page.wait_for_function("document.querySelectorAll('img[src^=\"data:image\"]').length >= 5")
    sizes = page.eval_on_selector_all(
        "img[src^='data:image']", "images => images.map(i => i.complete ? i.naturalWidth : 0)"
    )
    assert min(sizes) > 100
    page.set_viewport_size({"width": 1400, "height": 1900})
    page.screenshot(path=screenshots / "report.png")
    page.set_viewport_size(SIZE)


def test_the_last_progress_of_each_stage_is_kept(prefect, page, run, config, screenshots):
    artifacts = prefect.client.read_artifacts(artifact_filter=ArtifactFilter(key={"any_": ["continue-stage-3"]}))
    artifact = next(a for a in artifacts if a.type == "progress" and f"{config.stem}:" in a.description)
    page.goto(address(prefect, f"/artifacts/artifact/{artifact.id}"))
    sees(page, "steps, ")
    sees(page, "noise 0.")
    page.screenshot(path=screenshots / "progress.png")


def test_the_form_explains_its_parameters(prefect, page, run, screenshots):
    page.goto(address(prefect, f"/deployments/deployment/{prefect.deployment('adversarial-round/next-round')}/run"))
    for text in ("YAML file of the experiment", "The round to do, from 1", "each as key.path=value"):
        sees(page, text)
    page.screenshot(path=screenshots / "form.png", full_page=True)


def test_the_page_for_people_without_the_ui(page, run, config, screenshots):
    name = config.stem
    where = next(
        Path(root) for root in (config.parent / "artifacts", Path("artifacts")) if (Path(root) / name).exists()
    )
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((where / name / "report.html").absolute().as_uri())
    sees(page, "Round 2")
    sizes = page.eval_on_selector_all("img", "images => images.map(i => i.complete ? i.naturalWidth : 0)")
    assert len(sizes) >= 9 and min(sizes) > 100
    assert all(url.startswith(("file:", "data:")) for url in requests)
    page.screenshot(path=screenshots / "report-html.png", full_page=True)


def test_the_gate_asks_in_the_ui(prefect, page, config, run, screenshots):
    name = f"{config.stem}-gated"
    settings = [f"experiment.name={name}", "rounds.gate=manual", "rounds.count=2"]
    command = prefect.begin("flows.adversarial_training", config, *(f"--set={setting}" for setting in settings))
    (gated,) = prefect.until(lambda: prefect.begun(config.with_stem(name)), "it does not begin", 3000)

    def paused():
        return prefect.client.read_flow_run(gated.id).state.is_paused()

    def open_question():
        page.goto(address(prefect, f"/runs/flow-run/{gated.id}"))
        page.get_by_role("button", name="Resume").click()
        sees(page, "whether to do the next round")

    def answered():
        # On SQLite a busy server may refuse the answer ("database is locked"); a person gives it again.
        if not paused():
            return True
        open_question()
        with page.expect_response(lambda response: response.url.endswith("/resume")) as response:
            page.get_by_role("button", name="Submit").click()
        return response.value.ok and response.value.json()["status"] == "ACCEPT"

    prefect.until(paused, "it does not ask", 3000)
    open_question()
    for text in ("is finished. Go on?", "viability before", "After the round"):
        sees(page, text)
    page.screenshot(path=screenshots / "gate.png")
    prefect.until(answered, "the answer is not taken")
    _, errors = command.communicate(3000)
    assert command.returncode == 0, errors
    assert prefect.finished(gated).state.is_completed()
