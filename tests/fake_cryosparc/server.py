"""The fake CryoSPARC server: real HTTP on loopback, for the unmodified client of cryosparc-tools.

Its paths are its own, as the client reads them from ``openapi.json``; summaries, parameters, payloads and models are
the package's. ``python -m tests.fake_cryosparc.server FOLDER`` runs one by hand.
"""

from __future__ import annotations

import inspect
import threading
import urllib.parse
from pathlib import Path
from typing import Annotated, Any

from cryosparc.dataset import Dataset
from cryosparc.stream import Stream, Streamable
from fastapi import Body, FastAPI, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse

from .handlers import HANDLERS, OPEN
from .interface import Operation, operations
from .running import RunningServer, listening
from .world import Refused, World

PREFIX = "/api/cmd"
_READS = ("find", "get", "load", "me", "download", "health", "job_register", "ls")


def make_app(world: Any) -> FastAPI:
    """The application; each call uses the world that ``world()`` returns."""
    app = FastAPI(
        openapi_url=f"{PREFIX}/openapi.json", docs_url=None, redoc_url=None, separate_input_output_schemas=False
    )
    known = operations()
    for name, handler in HANDLERS.items():
        _add(app, known[name], handler, world)

    @app.exception_handler(Refused)
    async def _refused(_: Request, error: Refused) -> Response:
        return JSONResponse({"detail": error.detail}, status_code=error.status)

    original = app.openapi

    def relative() -> dict[str, Any]:
        # The client's base address ends with the prefix, and it appends the paths of the schema to it.
        schema = original()
        schema["paths"] = {path.removeprefix(PREFIX): one for path, one in schema["paths"].items()}
        return schema

    app.openapi = relative  # type: ignore[method-assign]
    return app


def _add(app: FastAPI, operation: Operation, handler: Any, world: Any) -> None:
    form = operation.name == "login"
    streamed = [p for p in operation.body if inspect.isclass(p.annotation) and issubclass(p.annotation, Streamable)]
    verb = operation.name.split(".")[-1]
    reads = verb.startswith(_READS) and not operation.body

    async def endpoint(request: Request, **given: Any) -> Any:
        current: World = world()
        if operation.name not in OPEN:
            _authorize(current, request)
        if form:
            fields = urllib.parse.parse_qs((await request.body()).decode())
            given = {key: values[0] for key, values in fields.items()}
        for parameter in streamed:
            given[parameter.name] = await request.body()
        with current.lock:
            result = handler(current, **given)
            if isinstance(result, Streamable):
                return Response(b"".join(result.stream()), media_type=result.media_type)
            return result

    parameters = [inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)]
    parameters += [_annotated(p, PathParameter()) for p in operation.path]
    if not form:
        parameters += [_annotated(p, Query()) for p in operation.query]
        parameters += [_annotated(p, Body()) for p in operation.body if p not in streamed]
    endpoint.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    options: dict[str, Any] = {}
    if form:
        schema = {"type": "object", "title": "Form"}
        options["openapi_extra"] = {
            "requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": schema}}}
        }
    for parameter in streamed:
        body = parameter.annotation.api_schema()
        body["content"][parameter.annotation.media_type]["schema"]["title"] = parameter.name.title()
        options["openapi_extra"] = {"requestBody": {**body, "required": True}}
    if operation.returns in (Dataset, Stream):
        options.update(response_class=Response, response_model=None, responses={200: operation.returns.api_schema()})
    else:
        options["response_model"] = operation.returns
    path = "/".join([PREFIX, operation.name, *(f"{{{p.name}}}" for p in operation.path)])
    app.add_api_route(
        path, endpoint, methods=["GET" if reads else "POST"], summary=operation.name, name=operation.name, **options
    )


def _annotated(parameter: inspect.Parameter, where: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if isinstance(where, type(PathParameter())) else parameter.default
    return parameter.replace(annotation=Annotated[parameter.annotation, where], default=default)


def _authorize(world: World, request: Request) -> None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind != "Bearer" or token not in world.tokens:
        raise Refused(401, "Could not validate credentials")


def operation_of(world: World, scope: Any, body: bytes) -> str:
    """The operation of a request."""
    parts = scope["path"].strip("/").split("/")
    return parts[2] if len(parts) > 2 else ""


class FakeCryoSPARC(RunningServer):
    """A running server of the version 5.0."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, World, [listening()], make_app, operation_of)


if __name__ == "__main__":
    import sys

    with FakeCryoSPARC(Path(sys.argv[1])) as server:
        print(server.url, server.world.email, repr(server.world.password), flush=True)
        threading.Event().wait()
