"""``cryosegnet view``: look at picks at full resolution, correct them, or label micrographs."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CryoSegNetError, UsageError, plural
from ..picking.options import PIXEL_SIZES
from ..runs.stopping import Stopped
from .logs import say
from .readers import PICK_FORMATS, diameter, number, pick_formats, whole

if TYPE_CHECKING:
    from ..viewer.server import PageServer
    from ..viewer.session import ViewSession

log = logging.getLogger(__name__)

HELP = "look at picks at full resolution in the browser, correct them, label micrographs"

_DESCRIPTION = """Open the output folder of a run in the browser: the page of report.html at full resolution, where a
click adds or removes a pick. Edited picks are saved to DIR/picks_edited/<micrograph>.star; the run's own files do not
change. With --micrographs it shows micrographs without picks, to label them for `cryosegnet finetune`.

With --audit LABELS it shows the picks that have no label, one after the other. Mark them as particle (key 1), junk (2)
or unsure (3). The verdicts are saved in DIR/audit.json; a later session continues there.

With --live it follows a run that goes on, or has not begun: state, counts, time left, failures and the latest
micrographs. It only reads the run's folder, so it cannot disturb the run.

The page can be opened on this machine only, at an address with a random token. To open it on another machine, give
--port N here, run `ssh -L N:localhost:N` there, and open the printed address there."""

_EPILOG = """examples:
  cryosegnet view picked
  cryosegnet view --live picked
  cryosegnet view --micrographs Micrographs/ -o labels
  cryosegnet view picked --compare topaz/
  cryosegnet view picked --audit labels/
  cryosegnet view picked --port 8090 --no-browser"""


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet view``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, nargs="?", help="output folder of cryosegnet pick, or of a RELION job")
    add(
        "--micrographs", metavar="INPUT", nargs="+", help="micrographs without picks: files, folders, globs, STAR files"
    )
    add(
        "--compare",
        metavar="OTHER",
        type=Path,
        help="show other picks over these, and count the common ones: the folder of another run, or a file or folder "
        "of STAR, BOX, CBOX, CSV or .cs files",
    )
    add("--live", action="store_true", help="follow the run of DIR while it goes on; DIR need not exist yet")
    add("--audit", metavar="LABELS", type=Path, help="judge the picks that have none of these labels")
    add("--audit-file", metavar="FILE", type=Path, help="where the verdicts are kept (default: DIR/audit.json)")
    add("-o", "--output", metavar="DIR", type=Path, help="folder for saved picks (default: DIR/picks_edited)")
    add("--format", metavar="F", type=pick_formats, default=("star",), help=f"{','.join(PICK_FORMATS)} (default: star)")
    add(
        "--diameter",
        metavar="A|Npx",
        type=diameter,
        help="of new circles: angstrom, or pixels as 151px; with --micrographs always pixels unless --pixel-size or "
        "their STAR file gives the pixel size; with --audit, of the labels: a pick within 0.3 of it is labelled",
    )
    pixel = number(*PIXEL_SIZES, "angstrom")
    add(
        "--pixel-size",
        metavar="A",
        type=pixel,
        help="angstrom per pixel of --micrographs (default: as in their STAR file)",
    )
    group = parser.add_argument_group("server")
    group.add_argument("--port", metavar="N", type=whole(0, 65535), default=0, help="port (default: any free one)")
    group.add_argument(
        "--host", metavar="H", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    group.add_argument("--no-browser", action="store_true", help="print the address and open no browser")


def main(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; returns 0."""
    if (args.folder is None) == (args.micrographs is None):
        raise UsageError("name the folder of a run, or micrographs to label with --micrographs")
    if args.micrographs is not None and args.output is None:
        raise UsageError("--micrographs needs a folder for the labels; add -o labels")
    if args.folder is not None and args.pixel_size is not None:
        raise UsageError("--pixel-size goes with --micrographs; a run knows its own")
    _check_audit(args)
    if args.live and (
        args.folder is None or args.audit is not None or args.compare is not None or args.output is not None
    ):
        raise UsageError("--live follows the folder of a run and saves nothing; leave out the other options")
    from ..viewer.server import LOOPBACK, ViewServer

    session: ViewSession | None = None
    server: PageServer
    if args.live:
        server = _live_server(args)
    else:
        session = _session(args)
        server = ViewServer(session, args.host, args.port)
    if args.host not in LOOPBACK:
        log.warning(
            f"--host {args.host} lets other machines connect without encryption: anyone who knows the address can look "
            "at the micrographs" + ("" if args.live else " and save picks")
        )
    say(f"following {args.folder}" if session is None else _about(session))
    if session is not None and session.comparison is not None:
        other = session.comparison
        both, here, there = other.counts
        counts = f"{plural(both, 'pick')} in both, {here} only here, {there} only there"
        say(f"over them, on {plural(len(other.tables), 'micrograph')}: {other.name}; {counts}")
        for note in other.notes:
            log.warning(note)
    say(f"open:  {server.address}\nCtrl-C ends it.")
    if session is not None and session.hand_on:
        say(_commands(session))
    with server, contextlib.ExitStack() as files:
        try:
            if not args.no_browser and _has_display():
                _open_browser(server.address, files)
            server.serve_forever(poll_interval=0.2)
        except Stopped:
            print("\nended")
    return 0


def _live_server(args: argparse.Namespace) -> PageServer:
    from ..viewer.live import LiveServer

    if args.folder.exists() and not args.folder.is_dir():
        raise UsageError(f"{args.folder} is a file; name the output folder of a run")
    return LiveServer(args.folder, args.host, args.port)


def _open_browser(address: str, files: contextlib.ExitStack) -> None:
    """Open the address in a browser, whose command line names a file that is removed with ``files``."""
    import webbrowser

    from ..viewer.redirect import redirect_file

    try:
        page = files.enter_context(redirect_file(address))
    except CryoSegNetError as error:
        log.warning(f"{error}: open the address above yourself")
        return
    webbrowser.open(page.as_uri())


def _check_audit(args: argparse.Namespace) -> None:
    if args.audit is None and args.audit_file is not None:
        raise UsageError("--audit-file goes with --audit; add the labels")
    if args.compare is not None and (args.folder is None or args.audit is not None):
        raise UsageError("--compare needs the folder of a run, and does not go with --audit")
    if args.audit is not None and args.folder is None:
        raise UsageError("--audit needs the folder of a run")
    if args.audit is not None and args.output is not None:
        raise UsageError("--output goes with edited picks; with --audit name the file of verdicts: --audit-file")


def _about(session: ViewSession) -> str:
    """What is opened, and where the work goes."""
    many = plural(len(session.micrographs), "micrograph")
    if session.audit is None:
        return f"{many}; saved picks go to {session.target}"
    audit = session.audit
    return f"{many}; {audit.judged} of {plural(audit.total, 'unlabelled pick')} judged; verdicts go to {audit.path}"


def _commands(session: ViewSession) -> str:
    """The commands that hand the picks on, at the threshold of the run."""
    from ..report.command import in_words

    threshold = session.data["threshold"]
    return "\n".join(
        ["to hand on the picks that you see:", *(f"  {in_words(one, threshold)}" for one in session.hand_on)]
    )


def _session(args: argparse.Namespace) -> ViewSession:
    from ..viewer.opening import open_audit, open_micrographs, open_run

    if args.audit is not None:
        return open_audit(args.folder, args.audit, args.audit_file, args.diameter)
    if args.folder is not None:
        return open_run(args.folder, args.output, args.format, compare=args.compare, diameter=args.diameter)
    from ..files.inputs import expand_inputs

    options = {"diameter": args.diameter, "pixel_size": args.pixel_size, "suffixes": args.format}
    return open_micrographs(expand_inputs(args.micrographs), args.output, **options)


def _has_display() -> bool:
    """Whether a browser has a screen; a text browser would take over this terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
