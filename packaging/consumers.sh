#!/usr/bin/env bash
# Programs of others that read our files, each in an environment of its own, and its test of tests/consumers. Those that
# are light are in the extra dev instead.
#     packaging/consumers.sh [NAME...]    (all, without names)
# The environments stay in build/consumers (up to 0.7 GB each). A table of versions and results is the output.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
folder=${CRYOSEGNET_CONSUMERS:-build/consumers}

# Name, Python, arguments of pip. Old packages get the versions that they were made for, or fail at import.
list='
cryohub 3 cryohub
cryoemservices 3 cryoemservices[pipeliner]
murfey 3 murfey sqlmodel ccpem-pipeliner prometheus_client ispyb zocalo numpy mrcfile pillow jinja2 passlib graypy stomp-py cryptography
smartem-decisions 3.12 smartem-decisions[common]
napari-boxmanager 3.10 napari-boxmanager napari==0.4.19 pandas==1.5.3 numpy==1.23.5 pyqt5
cryolo 3.8 --no-deps cryolo==1.9.9 pystardb mrcfile numpy==1.23.5 pandas==1.5.3 python-dateutil==2.8.2 pytz six scikit-learn==1.2.2 joblib==1.4.2 threadpoolctl scipy==1.10.1 imageio==2.15.0 tifffile==2020.9.3 pillow==9.5.0
'
table="package | version | result"
while read -r name version packages; do
    [ -n "$name" ] || continue
    [ $# = 0 ] || [[ " $* " = *" $name "* ]] || continue
    own="$folder/$name"
    if [ ! -e "$own/.ready" ]; then
        # shellcheck disable=SC2086  # several words
        { "python$version" -m venv "$own" && "$own/bin/python" -m pip install --quiet --disable-pip-version-check $packages &&
            touch "$own/.ready"; } || { table+=$'\n'"$name | | could not be installed with Python $version"; continue; }
    fi
    found=$("$own/bin/python" -c "from importlib.metadata import version; print(version('$name'))")
    module=${name//-/_}
    result=$("$python" -m pytest -q "tests/consumers/test_$module.py" | tail -n 1)
    table+=$'\n'"$name | $found | $result"
done <<<"$list"
echo "$table"
