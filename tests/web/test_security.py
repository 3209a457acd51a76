"""Hostile requests: each must be refused by the server, whatever a browser would have done."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from keepstep.web.files import Files
from keepstep.web.guard import MOST_BYTES, MOST_QUERY
from tests.operations.runs import make_run
from tests.web.conftest import Page, Start, serving, stranger_get

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
ADDRESSES = ("/", "/api/about", "/api/runs", "/api/stream", "/api/runs/0/apply", "/static/js/main.js", "/nothing")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_run(root / "a", {1: 0.5, 2: 0.4})
    return root


@pytest.fixture(scope="module")
def page(root: Path, files: Files) -> Iterator[Page]:
    with serving(root, files=files, writable=True) as page:
        yield page


def code(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


# -- names of this server: DNS rebinding ------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "localhost",
        "localhost.evil.example:{port}",
        "127.0.0.1:{port}@evil.example",
        "127.0.0.1:{port}.evil.example",
        "0.0.0.0:{port}",
        "[::1]:{port}",
        "127.0.0.2:{port}",
        "",
    ],
)
def test_another_host_is_refused(page: Page, host: str, method: str) -> None:
    answer = page.client.request(method, "/api/about", headers={"Host": host.format(port=page.server.port)})
    assert answer.status_code == 403
    assert method == "HEAD" or code(answer) == "host"


def test_both_own_names_are_taken(page: Page) -> None:
    for name in ("127.0.0.1", "localhost"):
        answer = page.client.get("/api/about", headers={"Host": f"{name}:{page.server.port}"})
        assert answer.status_code == 200


def test_two_hosts_and_none_are_refused(page: Page) -> None:
    own = f"Host: 127.0.0.1:{page.server.port}\r\n"
    for hosts in (own + "Host: evil.example\r\n", "Host: evil.example\r\n" + own, ""):
        assert raw(page, f"GET /api/about HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n").split()[1] in ("400", "403")


def test_an_absolute_address_does_not_stand_in_for_the_host(page: Page) -> None:
    line = (
        f"GET http://127.0.0.1:{page.server.port}/api/about HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    )
    assert raw(page, line).split()[1] == "403"


def raw(page: Page, text: str) -> str:
    with socket.create_connection(("127.0.0.1", page.server.port), timeout=10) as connection:
        connection.sendall(text.encode())
        found = b""
        while data := connection.recv(65536):
            found += data
    return found.decode("latin-1")


# -- other sites ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1", "http://127.0.0.1", ""]
)
def test_another_origin_is_refused(page: Page, origin: str, method: str) -> None:
    answer = page.client.request(method, "/api/runs", headers={"Origin": origin.format(port=page.server.port)})
    assert answer.status_code == 403
    assert method == "HEAD" or code(answer) == "origin"


def test_the_own_origin_is_taken_and_gets_no_permission_for_others(page: Page) -> None:
    answer = page.client.get("/api/runs", headers={"Origin": page.base, "Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_that_browsers_mark_as_anothers_are_refused(page: Page, site: str) -> None:
    assert page.client.get("/api/runs", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert page.client.get("/static/js/main.js", headers={"Sec-Fetch-Site": site}).status_code == 403


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_only_reading_and_posting_is_understood(page: Page, method: str, address: str) -> None:
    assert page.client.request(method, address).status_code == 405


def test_a_web_socket_is_refused(page: Page) -> None:
    answer = page.client.get(
        "/api/stream",
        headers={
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Origin": "http://evil.example",
        },
    )
    assert answer.status_code == 403


# -- the token --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("token", ["", "wrong", "é", "%00", "x" * 43])
def test_nothing_is_told_without_the_token(page: Page, address: str, token: str) -> None:
    name = f"keepstep_{page.server.port}"
    for headers in ({}, {"Cookie": f"{name}={token}".encode()}, {"Cookie": b"\xff;;=;" + name.encode()}):
        answer = stranger_get(page.base + address, headers=headers)
        assert answer.status_code == 401
        assert code(answer) == "token"
        assert "csrf" not in answer.text.replace("keepstep-csrf", "")


def test_a_wrong_token_in_the_link_sets_no_cookie(page: Page) -> None:
    for query in (
        "token=wrong",
        "token=",
        f"token={page.token}&token=wrong",
        f"token={page.token}x",
        f"TOKEN={page.token}",
    ):
        answer = stranger_get(f"{page.base}/?{query}")
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers


def test_the_token_lets_in_at_the_front_door_alone(page: Page) -> None:
    for address in ("/api/about", "/api/runs", "/static/js/main.js"):
        answer = stranger_get(page.base + address, params={"token": page.token})
        assert answer.status_code == 401


def test_the_cookie_is_for_this_page_alone_and_out_of_reach_of_scripts(page: Page) -> None:
    answer = stranger_get(page.server.link)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    name, *attributes = (part.strip() for part in answer.headers["set-cookie"].split(";"))
    assert name == f"keepstep_{page.server.port}={page.token}"
    assert {attribute.lower() for attribute in attributes} == {"httponly", "path=/", "samesite=strict"}
    assert page.token not in stranger_get(page.base, cookies={"a": "b"}).text


def test_two_servers_have_two_tokens(page: Page, start: Start, root: Path, files: Files) -> None:
    other = start(root, files=files)
    assert other.token != page.token and len(other.token) >= 43
    assert stranger_get(other.base, params={"token": page.token}).status_code == 401
    mixed = {"Cookie": f"keepstep_{other.server.port}={page.token}"}
    assert stranger_get(other.base, headers=mixed).status_code == 401


def test_two_cookies_of_the_name_are_refused(page: Page) -> None:
    name = f"keepstep_{page.server.port}"
    headers = [("Cookie", f"{name}={page.token}"), ("Cookie", f"{name}=planted")]
    assert stranger_get(page.base + "/api/about", headers=headers).status_code == 401


# -- changing something -----------------------------------------------------------------------------------


def test_a_post_needs_the_header_that_only_the_page_knows(page: Page) -> None:
    key, body = page.key("a"), {"keep": "latest:1", "digest": "x"}
    for headers in ({}, {"X-Keepstep-CSRF": ""}, {"X-Keepstep-CSRF": page.token}, {"X-Keepstep-CSRF": "é".encode()}):
        answer = page.client.post(f"/api/runs/{key}/apply", json=body, headers=headers)
        assert answer.status_code == 403 and code(answer) == "csrf"


def test_a_form_can_not_post(page: Page) -> None:
    headers = {"X-Keepstep-CSRF": page.about["csrf"], "Content-Type": "text/plain"}
    answer = page.client.post(f"/api/runs/{page.key('a')}/apply", content=b"{}", headers=headers)
    assert answer.status_code == 415


def test_a_get_changes_nothing(page: Page) -> None:
    for action in ("apply", "verify"):
        assert page.client.get(f"/api/runs/{page.key('a')}/{action}").status_code == 405


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused(page: Page, chunked: bool) -> None:
    data = b" " * (MOST_BYTES + 1)
    headers = {"X-Keepstep-CSRF": page.about["csrf"], "Content-Type": "application/json"}
    content = iter([data[:1000], data[1000:]]) if chunked else data
    answer = page.client.post(f"/api/runs/{page.key('a')}/verify", content=content, headers=headers)
    assert answer.status_code == 413


def test_a_body_that_lies_about_its_length_is_refused(page: Page) -> None:
    csrf = page.about["csrf"]
    head = (
        f"POST /api/runs/{page.key('a')}/verify HTTP/1.1\r\nHost: 127.0.0.1:{page.server.port}\r\n"
        f"Cookie: keepstep_{page.server.port}={page.token}\r\nX-Keepstep-CSRF: {csrf}\r\n"
        "Content-Type: application/json\r\nContent-Length: 999999999999\r\nConnection: close\r\n\r\n"
    )
    assert raw(page, head).split()[1] == "413"


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "1", '"x"', "null", "[" * 10_000, '{"generation": "1"}', '{"generation": true}']
)
def test_a_body_of_another_shape_is_refused(page: Page, body: str) -> None:
    headers = {"X-Keepstep-CSRF": page.about["csrf"], "Content-Type": "application/json"}
    answer = page.client.post(f"/api/runs/{page.key('a')}/verify", content=body.encode(), headers=headers)
    assert answer.status_code == 400, answer.text


def test_a_long_query_is_refused(page: Page) -> None:
    assert page.client.get("/api/runs", params={"x": "y" * (MOST_QUERY + 1)}).status_code == 414


# -- paths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../secret.txt",
        "..%2fsecret.txt",
        "%2e%2e/secret.txt",
        "js/../../secret.txt",
        "/etc/passwd",
        "//etc/passwd",
        "link.txt",
        "NOTICE",
        "js",
        "js/",
        "",
        "index.html%00.txt",
        "INDEX.HTML",
    ],
)
def test_only_files_of_the_table_are_served(page: Page, name: str) -> None:
    cookie = f"Cookie: keepstep_{page.server.port}={page.token}\r\n"
    text = f"GET /static/{name} HTTP/1.1\r\nHost: 127.0.0.1:{page.server.port}\r\n{cookie}Connection: close\r\n\r\n"
    answer = raw(page, text)
    assert answer.split()[1] in ("400", "404")
    assert "secret" not in answer and "root:" not in answer


@pytest.mark.parametrize("key", ["..", "%2e%2e", "a", "..%2f..%2fetc", "0" * 12, "x" * 5000, "%00", "é"])
def test_a_run_is_named_by_a_key_that_was_given_out(page: Page, key: str) -> None:
    for rest in ("", "/curves", "/disk", "/plan", "/replay", "/health", "/checkpoints/1"):
        assert page.client.get(f"/api/runs/{key}{rest}").status_code == 404


def test_links_below_a_root_are_not_followed(start: Start, tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    make_run(outside, {1: 0.5})
    root.mkdir()
    (root / "linked").symlink_to(outside)
    (root / "posing").mkdir()
    (root / "posing" / ".keepstep").symlink_to(outside / ".keepstep")
    make_run(root / "real", {1: 0.5})
    page = start(root)
    found = page.get("/api/runs")["runs"]
    assert [run["name"] for run in found] == ["real"]


def test_a_run_that_becomes_a_link_is_no_run_any_more(start: Start, tmp_path: Path) -> None:
    outside, run = make_run(tmp_path / "outside", {7: 0.5}), make_run(tmp_path / "root" / "a", {1: 0.5})
    page = start(tmp_path / "root")
    key = page.key("a")
    assert page.get(f"/api/runs/{key}")["step"] == 1
    shutil.rmtree(run.path)
    run.path.symlink_to(outside.path)
    answer = page.client.get(f"/api/runs/{key}")
    assert answer.status_code == 404 and "outside" not in answer.text


def test_a_checkpoint_that_is_a_link_is_foreign(start: Start, tmp_path: Path) -> None:
    other, run = make_run(tmp_path / "other", {7: 0.5}), make_run(tmp_path / "root" / "a", {1: 0.5})
    (run.path / "checkpoint-7").symlink_to(other.path / "checkpoint-7")
    page = start(tmp_path / "root")
    found = page.get(f"/api/runs/{page.key('a')}")
    assert [one["name"] for one in found["foreign"]] == ["checkpoint-7"] and [
        one["step"] for one in found["checkpoints"]
    ] == [1]


def test_files_that_are_planted_as_pipes_or_links_do_not_hang_or_lead_out(start: Start, tmp_path: Path) -> None:
    run = make_run(tmp_path / "root" / "a", {1: 0.5})
    for name in ("events.jsonl", "metrics.jsonl", "pins.json"):
        (run.path / ".keepstep" / name).unlink(missing_ok=True)
    os.mkfifo(run.path / ".keepstep" / "events.jsonl")
    (run.path / ".keepstep" / "pins.json").symlink_to("/etc/passwd")
    page = start(tmp_path / "root")
    rows = page.get("/api/runs")["runs"]
    assert rows[0]["state"] == "damaged" and rows[0]["problem"]
    answer = page.client.get(f"/api/runs/{rows[0]['key']}")
    assert answer.status_code >= 400 and "root:" not in answer.text


# -- what every answer says -------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/", "/api/about", "/api/runs", "/static/js/main.js", "/nothing", "/api/runs/x"])
@pytest.mark.parametrize("let_in", [True, False])
def test_every_answer_has_its_headers(page: Page, address: str, let_in: bool) -> None:
    headers = page.client.get(address).headers if let_in else stranger_get(page.base + address).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy and "*" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in headers
    if not address.startswith("/static/"):
        assert headers["cache-control"] == "no-store"


def test_what_stands_in_the_page_itself_is_allowed_by_its_digest_and_nothing_else_is(start: Start, root: Path) -> None:
    answer = start(root).client.get("/")
    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-frame-options"] == "DENY"
    found = re.findall(r"<(script|style)>(.*?)</\1>", answer.text, re.DOTALL)
    assert [kind for kind, _ in found] == ["script", "style", "style"]
    digests = {kind: set[str]() for kind in ("script", "style")}
    for kind, text in found:
        digests[kind].add(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    for kind, wanted in digests.items():
        assert set(policy[f"{kind}-src"].split()) == {"'self'", *wanted}
    assert "src=" not in re.sub(r"<img[^>]*>", "", answer.text), "nothing that is waited for stands before the page"


def test_the_server_listens_on_this_machine_alone(page: Page) -> None:
    from socket import AF_INET

    assert page.server._socket.getsockname()[0] == "127.0.0.1" and page.server._socket.family == AF_INET


def test_names_of_runs_are_data(start: Start, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>\u202e\x1b[31m"
    make_run(tmp_path / "root" / name, {1: 0.5})
    page = start(tmp_path / "root")
    answer = page.client.get("/api/runs")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["runs"][0]["name"] == name
    assert "\x1b" not in answer.text
