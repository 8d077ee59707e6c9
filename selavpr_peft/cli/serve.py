"""`selavpr serve`: show a place database in the browser."""

import errno
import ipaddress
import socket
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Annotated

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


def serve(
    database: options.PlaceDatabase,
    backbone: options.Backbone,
    adapter: options.Adapter = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8000,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
) -> None:
    """Open a page where photographs are dropped and located: ranked places, a map, and the matches.

    Example:
        selavpr serve walk.placedb --backbone facebook/dinov2-base --adapter my-city
    """
    options.check_dtype(dtype)
    uvicorn = _load_uvicorn()
    quiet_host_libraries()
    with _listen(host, port) as listening:  # before the model is loaded: a port that is taken is told at once
        from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer
        from selavpr_peft.serving import create_app

        opened = PlaceDatabase.from_pretrained(database)
        model = options.load_model(backbone, adapter, dtype=dtype, device=device, seed=seed)
        app = create_app(PlaceRecognizer(model, opened), allowed_hosts=_allowed_hosts(host, listening))
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        typer.echo(f"{database}: {len(opened)} places at {address} (Ctrl+C stops)")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)).run([listening])


def _load_uvicorn() -> ModuleType:
    try:
        import_module("fastapi")  # what serves needs it; better missed before a model is loaded
        return import_module("uvicorn")
    except ImportError as error:
        raise ImportError(
            f'selavpr serve needs {error.name}, which is missing: pip install "selavpr_peft[serve]"'
        ) from error


def _listen(host: str, port: int) -> socket.socket:
    """Take the port, or say why not."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror or error})"
        raise OSError(f"Port {port} of {host} {reason}; name another one by --port, or 0 for any.") from error


def _allowed_hosts(host: str, listening: socket.socket) -> tuple[str, ...]:
    """Name the hosts under which the server answers: any, with a warning, where others can reach it."""
    if ipaddress.ip_address(listening.getsockname()[0]).is_loopback:
        return (*LOOPBACK_NAMES, host)
    typer.echo(
        f"Warning: whoever can reach {host} can use this server and see the pictures of the database; there is no"
        " password.",
        err=True,
    )
    return ("*",)
