"""``cryosegnet weights``: list, download and import named weights."""

from __future__ import annotations

import argparse

HELP = "list, download and import named weights"


_DESCRIPTION = """Named weights. Downloads are kept in the folder $CRYOSEGNET_CACHE (default: the user's cache folder).
Their sha256 is checked each time they are used."""

_EPILOG = """examples:
  cryosegnet weights list                       what there is, and what is on this machine
  cryosegnet weights download sam_vit_b
  cryosegnet weights import sam_vit_b sam_vit_b_01ec64.pth     on a machine without network
  cryosegnet weights path default"""


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="list names, sizes, sha256, licences and sources")
    download = actions.add_parser("download", help="download weights, even if they are in the cache")
    download.add_argument("name", metavar="NAME")
    take = actions.add_parser("import", help="import a file that you downloaded, for example on another machine")
    take.add_argument("name", metavar="NAME")
    take.add_argument("file", metavar="FILE", help="the weights, or the archive that holds them")
    path = actions.add_parser("path", help="print the path of the file")
    path.add_argument("name", metavar="NAME")


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    from .. import weights

    if args.action == "list":
        _list()
    elif args.action == "path":
        print(weights.resolve(args.name, download=False))
    else:
        path = weights.fetch(args.name) if args.action == "download" else weights.adopt(args.name, args.file)
        known = "as published" if weights.SOURCES[args.name].sha256 else "recorded now, as its publisher gives none"
        print(f"{path}\nsha256 {weights.expected_sha256(args.name)} ({known})")
    return 0


def _list() -> None:
    from .. import weights

    rows = [("NAME", "SIZE", "SHA256", "LICENCE", "WHAT", "SOURCE")]
    for name, source in weights.SOURCES.items():
        path = weights.location(name)
        size = f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "not here"
        rows.append((name, size, _checked(name), source.licence, source.about, source.url or "this package"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(f"\ncache: {weights.cache_folder()}")


def _checked(name: str) -> str:
    """The state of a cached file by its sha256, in a word."""
    from .. import weights

    path, expected = weights.location(name), weights.expected_sha256(name)
    if not path.is_file() or weights.SOURCES[name].url is None:
        return "-"
    if expected is None:
        return "unknown"
    if weights.sha256_of(path) != expected:
        return "DIFFERS"
    return "verified" if weights.SOURCES[name].sha256 else "as recorded"
