"""The fake CryoSPARC 4.7: real HTTP on loopback, for the unmodified client of cryosparc-tools 4.7.

``python -m tests.fake_cryosparc4.server FOLDER`` runs one by hand.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import socket
import threading
import traceback
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from cryosparc.dataset import Dataset
from fastapi import Request, Response
from fastapi.responses import JSONResponse

from tests.fake_cryosparc.register import JOB_TYPES
from tests.fake_cryosparc.running import RunningServer, listening
from tests.fake_cryosparc.world import Refused, World

from .documents import metafile_content
from .methods import METHODS, add_asset, find_job, operation

#: Port, counted from the base port -> service.
PORTS = {0: "web", 2: "core", 3: "vis", 5: "rtp"}
#: Path, with a star for what changes -> operation, of the requests that are not JSON-RPC.
ROUTES = {
    "/get_project_file": "projects.download_file",
    "/get_job_file": "assets.download",
    "/load_job_input": "jobs.load_input",
    "/projects/*/files": "projects.upload_file",
    "/projects/*/jobs/*/files": "assets.upload",
    "/external/projects/*/jobs/*/outputs/*/dataset": "jobs.save_output",
}
#: The documentation of 4.7 knows no newer 2D classification.
JOB_TYPES_4 = {{"class_2D_new": "class_2D"}.get(name, name): kind for name, kind in JOB_TYPES.items()}


def new_world(root: Path) -> World:
    # The client's documentation of `alloc_output` counts the columns of a location; its `save_external_result` sends
    # whatever columns a data set has.
    return World(root, version="v4.7.1", job_types=JOB_TYPES_4, template_extras=False, extra_columns=True)


def operation_of(world: World, scope: Any, body: bytes) -> str:
    """The operation of a request, under its name in 5.0."""
    path, _ = _route(scope["path"])
    if path == "/api":
        request = _parsed(body)
        return operation(world, request.get("method", ""), _named(request))
    if path == "/get_project_file" and str(_parsed(body).get("path", "")).endswith(".cs"):
        return "jobs.load_output"
    return ROUTES.get(path, path)


def make_app(base: int, world: Callable[[], World]) -> Any:
    """The application on the ports from ``base`` on; each call uses the world that ``world()`` returns."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        service = PORTS[scope["server"][1] - base]
        await _answer(world(), service, request, await request.body())(scope, receive, send)

    return app


def _answer(world: World, service: str, request: Request, body: bytes) -> Response:
    if service == "web":
        return Response("<html>CryoSPARC</html>", media_type="text/html")
    if request.method == "GET" and request.url.path == "/":
        return Response(f"Hello World from cryosparc command {service}.")
    if request.headers.get("license-id") != world.license:
        return Response("Invalid license", 401)
    try:
        with world.lock:
            path, names = _route(request.url.path)
            if path == "/api":
                return _call(world, service, _parsed(body))
            if service != "vis" or path not in ROUTES:
                return Response("Not Found", 404)
            return _file(world, path, names, request, body)
    except Refused as error:
        return Response(error.detail, error.status)


def _call(world: World, service: str, request: dict[str, Any]) -> Response:
    """A JSON-RPC call. Errors come as the client's ``CommandClient`` reads them, with the HTTP status 200."""
    reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request.get("id")}
    name = request.get("method", "")
    known = METHODS[service]
    try:
        if name == "system.describe":
            return JSONResponse({**reply, "result": {"procs": [{"name": one} for one in (name, *known)]}})
        if request.get("jsonrpc") != "2.0" or name not in known:
            raise _Error("MethodNotFoundError", -32601, f"MethodNotFoundError: Method not found: {name}")
        try:
            bound = _bound(known[name], world, request)
        except TypeError as error:
            raise _Error("InvalidParamsError", -32602, f"InvalidParamsError: {error}") from error
        return JSONResponse({**reply, "result": known[name](*bound.args, **bound.kwargs)})
    except _Error as error:
        return JSONResponse({**reply, "error": error.content})
    except Refused as error:
        # Where the world answers 404 this server's methods answer 400, as all of its own errors.
        code = 422 if error.status == 422 else 400
        content = _Error("ServerError", code, error.detail, getattr(error, "data", None)).content
        return JSONResponse({**reply, "error": content})
    except Exception as error:
        content = _Error("OtherError", 500, f"OtherError: {error}", {"traceback": traceback.format_exc()}).content
        return JSONResponse({**reply, "error": content})


class _Error(Exception):
    """The error of a JSON-RPC reply."""

    def __init__(self, name: str, code: int, message: str, data: Any = None) -> None:
        self.content = {"name": name, "code": code, "message": message, "data": data}


def _file(world: World, path: str, names: list[str], request: Request, body: bytes) -> Response:
    """A request that sends or asks for a file or a data set."""
    query = request.query_params
    if path == "/get_project_file":
        wanted = _parsed(body)
        world.check_project(wanted["project_uid"])
        content = metafile_content(world, wanted["path"])
        return Response(content if content is not None else world.file(wanted["path"]), media_type="application/binary")
    if path == "/get_job_file":
        fileid = _parsed(body)["fileid"]
        if fileid not in world.assets:
            raise Refused(404, f"no asset {fileid}")
        return Response(world.assets[fileid][1])
    if path == "/load_job_input":
        wanted = _parsed(body)
        job = find_job(world, wanted["project_uid"], wanted["job_uid"])
        table = world.load_input(job, wanted["input_name"], wanted["slots"] or ["all"])
        return Response(b"".join(table.stream(compression="lz4")), media_type="application/x-cryosparc-dataset")
    if path == "/projects/*/files":
        world.check_project(names[0])
        world.store(query["path"], body, overwrite=query.get("overwrite") == "1")
        return Response("OK")
    job = world.job(names[0], names[1])
    if path == "/projects/*/jobs/*/files":
        return JSONResponse(add_asset(world, job.uid, body, query.get("filename"), query["format"]))
    if not body.startswith(b"\x95CSDAT"):
        raise Refused(500, "not a dataset stream")
    world.save(job, names[2], Dataset.load(BytesIO(body)), 0)
    return Response("OK")


def _route(path: str) -> tuple[str, list[str]]:
    """The path with a star for each name in it, and the names."""
    parts = path.split("/")
    for pattern in ROUTES:
        wanted = pattern.split("/")
        if len(wanted) == len(parts) and all(one in ("*", part) for one, part in zip(wanted, parts)):
            return pattern, [part for one, part in zip(wanted, parts) if one == "*"]
    return path, []


def _parsed(body: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(body)
        if isinstance(found, dict):
            return found
    return {}


def _bound(function: Callable[..., Any], world: Any, request: dict[str, Any]) -> inspect.BoundArguments:
    params = request.get("params", [])
    signature = inspect.signature(function)
    return signature.bind(world, **params) if isinstance(params, dict) else signature.bind(world, *params)


def _named(request: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a call by name; none if the call is wrong."""
    for known in METHODS.values():
        if request.get("method") in known:
            with contextlib.suppress(TypeError):
                return _bound(known[request["method"]], None, request).arguments
    return {}


class FakeCryoSPARC4(RunningServer):
    """A running server of the version 4.7; its ports are those of `PORTS`, from the one in the address on."""

    def __init__(self, root: Path) -> None:
        sockets = _listening()
        app = functools.partial(make_app, sockets[0].getsockname()[1])
        super().__init__(root, new_world, sockets, app, operation_of)


def _listening() -> list[socket.socket]:
    while True:
        sockets = [listening()]
        base = sockets[0].getsockname()[1]
        try:
            sockets += [listening(base + number) for number in PORTS if number]
        except (OSError, OverflowError):
            for one in sockets:
                one.close()
            continue
        return sockets


if __name__ == "__main__":
    import sys

    with FakeCryoSPARC4(Path(sys.argv[1])) as server:
        print(server.url, server.world.license, server.world.email, repr(server.world.password), flush=True)
        threading.Event().wait()
