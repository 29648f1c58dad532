"""What counts as a model in the directory, and what is told about the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from routerd.errors import InvalidModel
from routerd.models import repository
from routerd.models.repository import CONFIG_BYTES, read, scan


def refusals(root: Path) -> dict[str, str]:
    return {refusal.path: refusal.reason for refusal in scan(root).refusals}


def test_a_directory_that_is_not_there_is_empty(tmp_path):
    assert scan(tmp_path / "absent") == ((), ())


def test_versions_are_found_with_their_files(models):
    models.put("credit", 2, "model.safetensors", b"xy", {"layers": []})
    models.put("credit", 11, "any-name.pt2", b"z")
    found = scan(models.root)
    assert [(file.model, file.version, file.file) for file in found.files] == [
        ("credit", 11, "any-name.pt2"),
        ("credit", 2, "model.safetensors"),
    ]
    assert [name for name, *_rest in found.files[1].signature] == ["config.json", "model.safetensors"]
    assert found.refusals == ()


@pytest.mark.parametrize("name", [".git", "~lock"])
def test_what_editors_leave_is_passed_over(models, name):
    models.put(name, 1, "model.pt", b"x")
    models.put("credit", 1, "model.pt", b"x")
    (models.root / "credit" / "1" / ".model.pt.swp").write_bytes(b"x")
    found = scan(models.root)
    assert [file.model for file in found.files] == ["credit"]
    assert found.refusals == ()


@pytest.mark.parametrize(
    ("model", "version", "file", "path", "reason"),
    [
        ("Credit", 1, "m.pt", "Credit", "lower case"),
        ("credit-risk", 1, "m.pt", "credit-risk", "lower case"),
        ("x" * 65, 1, "m.pt", "x" * 65, "64 characters"),
        ("demo", 1, "m.pt", "demo", "ships with routerd"),
        ("credit", "v1", "m.pt", "credit/v1", "whole number"),
        ("credit", "0", "m.pt", "credit/0", "whole number"),
        ("credit", "01", "m.pt", "credit/01", "whole number"),
        ("credit", 1, "m.onnx", "credit/1", "none is there"),
        ("credit", 1, "m.mlpackage", "credit/1", "no directory"),
    ],
)
def test_everything_else_is_reported_not_fatal(models, model, version, file, path, reason):
    models.put("good", 1, "model.pt", b"x")
    models.put(model, version, file, b"x")
    assert reason in refusals(models.root)[path]
    assert [one.model for one in scan(models.root).files] == ["good"]


def test_two_model_files_in_one_version_are_too_many(models):
    models.put("credit", 1, "a.pt", b"x")
    models.put("credit", 1, "b.pt2", b"x")
    assert "there are a.pt, b.pt2" in refusals(models.root)["credit/1"]


def test_a_file_beside_the_models_is_reported(models):
    (models.root / "readme").write_text("x")
    assert "no directory" in refusals(models.root)["readme"]


@pytest.mark.parametrize("part", ["credit", "credit/1", "credit/1/model.pt", "credit/1/config.json", ""])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_may_write_is_not_trusted(models, part, mode):
    models.put("credit", 1, "model.pt", b"x", {})
    path = models.root / part
    path.chmod(path.stat().st_mode | mode)
    found = scan(models.root)
    assert found.files == ()
    assert "others may write to it" in found.refusals[0].reason
    with pytest.raises(InvalidModel, match="others may write"):
        read(models.root, "credit", 1, "model.pt", 100)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_somebody_else_are_not_trusted(models):
    path = models.put("credit", 1, "model.pt", b"x")
    os.chown(path, 12345, -1)
    assert "belongs to user 12345" in refusals(models.root)["credit/1"]
    with pytest.raises(InvalidModel, match="belongs to user 12345"):
        read(models.root, "credit", 1, "model.pt", 100)


@pytest.mark.parametrize("part", ["credit", "credit/1", "credit/1/model.pt", "credit/1/config.json"])
def test_links_are_not_followed(models, tmp_path, part):
    outside = tmp_path / "outside"
    models.put("credit", 1, "model.pt", b"x", {})
    path = models.root / part
    path.rename(outside)
    path.symlink_to(outside)
    found = scan(models.root)
    assert found.files == ()
    assert "symbolic link" in found.refusals[0].reason
    with pytest.raises(InvalidModel):
        read(models.root, "credit", 1, "model.pt", 100)


def test_the_directory_itself_may_be_reached_through_a_link(models, tmp_path):
    models.put("credit", 1, "model.pt", b"x")
    (tmp_path / "link").symlink_to(models.root)
    assert len(scan(tmp_path / "link").files) == 1
    assert read(tmp_path / "link", "credit", 1, "model.pt", 100).model == b"x"


@pytest.mark.parametrize("file", ["../../secret", "..", "/etc/passwd", "a/b", "", "model.pt\0"])
def test_no_name_leads_out_of_the_directory(models, tmp_path, file):
    models.put("credit", 1, "model.pt", b"x")
    (tmp_path / "secret").write_text("s")
    with pytest.raises(InvalidModel):
        read(models.root, "credit", 1, file, 100)
    with pytest.raises(InvalidModel):
        read(models.root, file, 1, "model.pt", 100)


@pytest.mark.parametrize(("part", "path"), [("closed", "closed"), ("closed/1", "closed/1")])
def test_a_directory_that_cannot_be_read_is_alone_in_it(models, monkeypatch, part, path):
    models.put("closed", 1, "model.pt", b"x")
    models.put("open", 1, "model.pt", b"x")
    entries = repository._entries

    def closed(directory):
        if directory == models.root / part:
            raise PermissionError(13, "Permission denied")
        return entries(directory)

    monkeypatch.setattr(repository, "_entries", closed)
    assert [one.model for one in scan(models.root).files] == ["open"]
    assert refusals(models.root)[path] == "it cannot be read: Permission denied"


def test_a_pipe_in_place_of_a_file_holds_nobody(models):
    path = models.put("credit", 1, "model.pt", b"x")
    path.unlink()
    os.mkfifo(path, 0o644)
    assert "no regular file" in refusals(models.root)["credit/1"]
    with pytest.raises(InvalidModel, match="no regular file"):
        read(models.root, "credit", 1, "model.pt", 100)


def test_a_file_beyond_the_limit_is_not_read(models):
    models.put("credit", 1, "model.pt", b"x" * 101, " " * (CONFIG_BYTES + 1))
    with pytest.raises(InvalidModel, match=r"101 bytes, the limit is 100 \(max_model_bytes\)"):
        read(models.root, "credit", 1, "model.pt", 100)
    with pytest.raises(InvalidModel, match=r"config\.json has"):
        read(models.root, "credit", 1, "model.pt", 101)


def test_the_signature_follows_every_change(models):
    path = models.put("credit", 1, "model.pt", b"x")
    seen = {scan(models.root).files[0].signature}
    path.write_bytes(b"xy")
    seen.add(scan(models.root).files[0].signature)
    os.utime(path, ns=(1, 1))
    seen.add(scan(models.root).files[0].signature)
    models.put("credit", 1, "model.pt", b"xy", {})
    seen.add(scan(models.root).files[0].signature)
    assert len(seen) == 4
