#!/usr/bin/env bash
# SPF, DKIM and ARC judged by ours and by other people's implementations, side by side, and our
# Authentication-Results read by one of them:
#
#   tests/oracles/run.sh --cases 100000 --seed 1
#
# Cases are made from the seed. mail-auth is a crate, pyspf and dkimpy are Debian's python3-spf and
# python3-dkim (with python3-nacl for Ed25519), authres is python3-authres, or, where those are absent, the packages of the same
# purpose from PyPI in a virtual environment outside of the tree. Status 1 when a difference is not
# explained in src/explained: it is printed with its seed and number, and `--case N` runs it alone.
#
# Not part of the CI: a clean build takes minutes, for packages that nothing else here needs.
set -euo pipefail
cd "$(dirname "$0")"

python=/usr/bin/python3
whole() { "$1" -c 'import spf, dkim, nacl, yaml, authres' 2>&-; }
if ! whole $python; then
    environment=${XDG_CACHE_HOME:-$HOME/.cache}/fsmtp-oracles
    python=$environment/bin/python
    if ! whole "$python"; then
        python3 -m venv "$environment"
        "$python" -m pip install --quiet pyspf dkimpy pynacl pyyaml authres
    fi
fi
# mail-parser, which mail-auth uses, names a newer compiler than it needs.
cargo build --quiet --locked --ignore-rust-version
oracles=${CARGO_TARGET_DIR:-target}/debug/fsmtp-oracles
# The suite of ARC's draft for sealers, where it lies beside the repository.
suite=../../../shared/vectors/arc-valimail/arc-draft-sign-part.yml
if [ -e "$suite" ]; then
    "$python" suite.py "$suite" "$oracles" seal
else
    echo "the suite for sealers is not there"
fi
"$oracles" --python "$python" "$@"
