#!/bin/sh
# Find a Chromium for the page tests, or install one: sh tests/support/install_browser.sh PYTHON
set -u
python=${1:-python3}
cd "$(dirname "$0")/../.." || exit 1

usable() { "$python" tests/support/browser.py 2>/dev/null; }
has() { command -v "$1" >/dev/null 2>&1; }
as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; elif has sudo; then sudo "$@"; else return 1; fi
}
attempt() {  # WHAT COMMAND...: run the command, and end here if there is a browser afterwards
  echo "browser: none yet, trying $1"
  shift
  "$@" >/dev/null 2>&1
  if usable; then exit 0; fi
}

if ! "$python" -c 'import playwright, pytest' 2>/dev/null; then
  echo "browser: $python cannot import playwright and pytest; run make install" >&2
  exit 1
fi
if usable; then exit 0; fi
attempt "playwright install chromium" "$python" -m playwright install chromium
if has apt-get; then
  as_root apt-get update >/dev/null 2>&1
  attempt "apt-get install chromium" as_root apt-get install -y chromium
  attempt "playwright install-deps chromium" as_root "$python" -m playwright install-deps chromium
fi
if has dnf; then attempt "dnf install chromium" as_root dnf install -y chromium; fi
if has apk; then attempt "apk add chromium" as_root apk add chromium; fi
if has brew; then attempt "brew install chromium" brew install --cask chromium; fi
"$python" tests/support/browser.py  # says why, if it is an error
echo "browser: the page tests need Chromium, which could not be installed; put chromium or google-chrome on PATH" \
  "and run make test again, or run make test-fast, which needs no browser" >&2
exit 1
