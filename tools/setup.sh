# shellcheck shell=bash
# Makes the virtual environment that tools/test and tools/quickstart run in; sourced by
# both, never run.  Owns: what must be on the machine, how llama.cpp is compiled, and
# when an installation is still good.
#
#   setup EXTRAS     (`model` or `model,test`) sets $root and $venv, and leaves in
#                    $venv/bin everything that setup.cfg asks for
#   setup_clients    installs the programs that tests run as clients
#
# $LLAMBO_VENV moves the environment (default: .venv in the checkout), $PYTHON chooses
# the interpreter that makes it, $CMAKE_ARGS is appended to ours and so wins.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=${LLAMBO_VENV:-$root/.venv}

# Debian packages that only tests and checks need: clients that are put to the test, and the like.
client_packages=(curl diod fuse3 openssh-server qemu-system-x86 shellcheck stunnel4)

say() { printf '%s\n' "$*" >&2; }

die() {
    say "${0##*/}: $*"
    exit 1
}

# Print the first Python that is new enough.
_find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python3.13 python3.12; do
        if command -v -- "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# Whether $1 can make virtual environments (Debian ships that part apart).
_can_make_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Install with apt, or say what the user must install.
_need_packages() {
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing $* with apt-get"
        # an old package list may do; a failed update is not yet a failure
        apt-get -qq update >&2 || true
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >&2 ||
            die "apt-get could not install: $*"
    else
        die "this machine lacks $*; install them first, on Debian: sudo apt-get install $*"
    fi
}

_ensure_machine() {
    local missing=() python=
    python=$(_find_python) || missing+=(python3)
    if [ -z "$python" ] || ! _can_make_venvs "$python"; then
        missing+=(python3-venv)
    fi
    # llama.cpp is compiled; cmake and ninja would come from PyPI when they are missing
    command -v c++ >/dev/null || missing+=(g++)
    command -v cmake >/dev/null || missing+=(cmake)
    command -v ninja >/dev/null || missing+=(ninja-build)
    if [ "${#missing[@]}" -gt 0 ]; then
        _need_packages "${missing[@]}"
    fi
}

# What an installation depends on; when it changes we install again.
_fingerprint() {
    cat "$root/setup.cfg" "$root/pyproject.toml" "$root/tools/constraints.txt" \
        "$root/tools/llama_cpp.cmake" | cksum
}

# One line on what pip is doing, from its verbose output on standard input.  On a
# terminal the line is live; otherwise a line a tenth of the way.
_show_progress() {
    local line tty=0 shown='' seconds='' now
    [ -t 2 ] && tty=1
    while IFS= read -r line; do
        now=
        case $line in
        *'Collecting '*)
            now=${line#*Collecting }
            now="fetching ${now%% *}"
            ;;
        *'Building wheel for '*)
            now=${line#*Building wheel for }
            now="building ${now%% *}"
            ;;
        *'Installing collected packages'*) now='installing' ;;
        *)
            if [[ $line =~ ^\ *\[([0-9]+)/([0-9]+)\]\  ]]; then
                now="compiling llama.cpp: ${BASH_REMATCH[1]} of ${BASH_REMATCH[2]}"
                if [ "$tty" -eq 0 ]; then
                    local tenths=$((BASH_REMATCH[1] * 10 / BASH_REMATCH[2]))
                    now="compiling llama.cpp: $((tenths * 10))%"
                fi
            fi
            ;;
        esac
        if [ -z "$now" ] || [ "$now" = "$shown" ]; then
            continue
        fi
        shown=$now
        seconds=$((SECONDS - _began))
        if [ "$tty" -eq 1 ]; then
            printf '\r\033[K  %s (%d:%02d)' "$now" $((seconds / 60)) $((seconds % 60)) >&2
        elif [[ $now == compiling* ]]; then
            say "  $now ($((seconds / 60)):$(printf '%02d' $((seconds % 60))))"
        fi
    done
    if [ "$tty" -eq 1 ]; then
        printf '\r\033[K' >&2
    fi
}

# Run pip with $1, the interpreter, and the arguments after $2, the log, compiling llama.cpp
# for this CPU where it must be compiled; show how that goes.
_pip() {
    local python=$1 log=$2 status=0
    shift 2
    _began=$SECONDS
    # %q: scikit-build-core splits CMAKE_ARGS like a shell
    CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_ALL_WARNINGS=OFF -DGGML_NATIVE=ON \
-DCMAKE_PROJECT_llama.cpp_INCLUDE=$(printf '%q' "$root/tools/llama_cpp.cmake") ${CMAKE_ARGS:-}" \
        CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)} \
        "$python" -m pip "$@" 2>&1 | tee "$log" | _show_progress || status=$?
    if [ "$status" -ne 0 ]; then
        grep -E '^ *(ERROR|error|fatal error|CMake Error)' "$log" | tail -n 5 >&2 || true
        die "the installation failed; all of it is in $log"
    fi
}

_install() {
    local extras=$1 log=$venv/install.log
    if ! "$venv/bin/python" -c 'import llama_cpp' 2>/dev/null; then
        say "The first installation compiles llama.cpp for this CPU; that takes minutes (2 on 2 idle cores), once."
    fi
    say "installing into $venv (log: $log)"
    _pip "$venv/bin/python" "$log" install -v --disable-pip-version-check --progress-bar off \
        -c "$root/tools/constraints.txt" -e "${root}[$extras]"
}

# $venv with nothing in it but pip, if there is none.
_ensure_venv() {
    _ensure_machine
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        local python
        python=$(_find_python) || die 'needs Python 3.11 or newer; set PYTHON to one'
        "$python" -m venv "$venv" || die "cannot make the virtual environment $venv"
    fi
}

setup() {
    local extras=$1 stamp=$venv/llambo-setup.stamp want have_extras='' have=''
    want=$(_fingerprint)
    if [ -f "$stamp" ]; then
        { read -r have_extras && read -r have; } <"$stamp" || true
    fi
    # what has more than we need is good, too
    case $have_extras in
    "$extras" | "$extras",*) [ "$have" = "$want" ] && [ -x "$venv/bin/python" ] && return ;;
    esac
    _ensure_venv
    _install "$extras"
    printf '%s\n%s\n' "$extras" "$want" >"$stamp"
}

# A test whose client is missing is skipped, which in CI is a failure.
setup_clients() {
    local missing=() package
    for package in "${client_packages[@]}"; do
        [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing+=("$package")
    done
    if [ "${#missing[@]}" -gt 0 ] && ! (_need_packages "${missing[@]}"); then
        say "going on; tests that need ${missing[*]} are skipped"
    fi
}
