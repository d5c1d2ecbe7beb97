"""Exported models on the Hugging Face hub, which is here a server of this process that keeps its requests' bytes."""

import base64
import hashlib
import json
from urllib.parse import unquote, urlsplit

import pytest

from core.config.loading import load_config
from core.training.prerequisites import with_prerequisites
from tasks.command_line import run_command
from tasks.export import export
from tests.in_process import content, options, refusal
from tests.web_servers import answering

NAME = "me/flats"


class Hub:
    """What a repository's hub answers: `files` by name, None while there is no repository; `status` 0, or an error."""

    def __init__(self):
        self.files, self.private, self.status = None, None, 0

    def answer(self, path, body):
        if self.status:
            return self.status, {"error": "the hub has its reasons"}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user", "auth": {}}
        if path == "/api/repos/create":
            self.files, self.private = (
                self.files or {},
                json.loads(body).get("visibility") or json.loads(body)["private"],
            )
            return 200, {"url": f"https://huggingface.co/{NAME}", "id": NAME, "name": NAME}
        if self.files is None:
            return 404, {"error": "Repository not found"}
        return self._of_repository(path.removeprefix(f"/api/models/{NAME}"), body)

    def _of_repository(self, path, body):
        if path.startswith("/tree/"):
            return 200, [self._listed(name) for name in self.files]
        if path.startswith("/preupload/"):
            asked = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        if path.startswith("/commit/"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return 200, {"success": True, "commitOid": "1" * 40, "commitUrl": f"https://huggingface.co/{NAME}/commit/1"}
        return 200, {"id": NAME, "sha": "1" * 40, "siblings": []}

    def _listed(self, name):
        data = self.files[name]
        entry = {"type": "file", "path": name, "size": len(data)}
        entry["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()

    def reply(path, body):
        status, found = hub.answer(unquote(urlsplit(path).path), body)
        headers = {"Content-Type": "application/json", **({"X-Error-Code": "RepoNotFound"} if status == 404 else {})}
        return status, headers, json.dumps(found).encode()

    with answering(reply) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 20)
        yield hub


@pytest.fixture
def push(prepared, tmp_path):
    """What the command prints after it exported Stage 2 of the tiny experiment and pushed it."""
    stage2 = with_prerequisites(load_config(prepared)).diffusion.stage2_checkpoint
    given = {"checkpoint": stage2, "config": prepared, "output_dir": tmp_path / "out", "push": NAME}

    def run(**values):
        return run_command(export, options(**{n: v for n, v in (given | values).items() if v is not None}))

    return run


def test_a_new_repository_is_private_and_gets_the_files_without_the_record(hub, push, tmp_path):
    assert push().endswith(f"/{NAME}")
    files = content(tmp_path / "out")
    assert hub.files == {name: data for name, data in files.items() if name != "stage.json"} and len(files) > 8
    assert hub.private in (True, "private")
    push()  # the files there are this model's
    assert hub.files.keys() == files.keys() - {"stage.json"}


@pytest.mark.parametrize("name", ["README.md", "notes.txt", "unet/diffusion_pytorch_model.safetensors"])
def test_a_repository_with_another_file_is_refused_by_its_name(hub, push, name):
    hub.files = {".gitattributes": b"theirs", name: b"mine"}
    assert f"the repository holds {name}, which is not of this model" in refusal(push)
    assert hub.files == {".gitattributes": b"theirs", name: b"mine"}


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_hub_that_refuses_is_one_line_before_anything_is_written(hub, push, tmp_path, status):
    hub.status = status
    line = refusal(push)
    assert line.startswith(f"error: --push {NAME}: the Hugging Face hub did not take it (") and "hf_aaa" not in line
    assert "your token may write there" in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"push": "flats"}, "--push flats: give the name of a repository as ORGANISATION/MODEL"),
        ({"push": "me/../flats"}, "--push me/../flats: give the name of a repository as ORGANISATION/MODEL"),
        ({"push": "me/flats "}, "is no name of a repository"),
    ],
)
def test_a_name_that_is_none_is_refused(hub, push, tmp_path, values, line):
    assert line in refusal(push, **values) and hub.files is None and not (tmp_path / "out").exists()


def test_without_a_folder_or_a_token_or_a_network_nothing_is_written(hub, push, tmp_path, monkeypatch):
    assert "--push goes with --output_dir" in refusal(push, output_dir=None, output=tmp_path / "m.safetensors")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "there is no token of the Hugging Face hub: run hf auth login" in refusal(push)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "check the network" in refusal(push)
    assert not (tmp_path / "out").exists() and hub.files is None
