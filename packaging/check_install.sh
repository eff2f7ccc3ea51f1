#!/usr/bin/env bash
# Installs the built wheel in an environment of its own and picks the sample from there with the network cut.
#
#   packaging/check_install.sh [--full] [PYTHON]
#
# PYTHON is an interpreter whose environment has the dependencies, which are large and therefore borrowed; the package
# itself comes from the wheel alone. With --full the environment is empty and pip installs everything, PyTorch too.
set -euo pipefail
cd "$(dirname "$0")/.."

full=no
if [ "${1:-}" = --full ]; then full=yes; shift; fi
python=${1:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A copy, so that no build/ or *.egg-info appears in the repository, nor old ones get into the wheel.
mkdir "$work/source"
cp -r pyproject.toml README.md LICENSE cryosegnet_ext relion_external cryosparc_job "$work/source"
"$python" -m build --no-isolation --outdir "$work/dist" "$work/source" > "$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
ls -l "$work/dist"

"$python" -m venv "$work/venv"
if [ "$full" = yes ]; then
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$work"/dist/*.whl
else
    borrowed=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    site=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$work"/dist/*.whl
    echo "$borrowed" > "$site/borrowed.pth"
fi

cut=()
if unshare --net --map-root-user true 2>/dev/null; then
    cut=(unshare --net --map-root-user)
else
    echo "the network cannot be cut here (unshare is not allowed): the rest runs with it"
fi
mkdir "$work/empty" "$work/home"
cd "$work/empty"
run() { "${cut[@]}" env -i HOME="$work/home" PATH="$work/venv/bin:/usr/bin:/bin" OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" "$@"; }

run python -c 'import cryosegnet_ext, sys; assert cryosegnet_ext.__file__.startswith(sys.prefix), cryosegnet_ext.__file__'
run cryosegnet --version
run cryosegnet doctor
run cryosegnet-relion --version
run cryosegnet-cryosparc --version
run cryosegnet completion bash > /dev/null
run cryosegnet demo --output demo
test -s demo/picks/sample.star && test -s demo/overlays/sample.jpg
echo "the wheel installs and picks without network"
