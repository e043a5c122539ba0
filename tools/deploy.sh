#!/usr/bin/env bash
# From a checkout to a cluster that runs here, and on other machines.  Each command may be
# given again: what is done already is not done twice.
#
# Owns: the wheels in dist/ and what they were built from (dist/llambo.stamp); an environment
# made of nothing but these; and on each host of the configuration's section `deploy` the
# directory ~/.local/share/llambo, with such an environment and hosts/NAME, where a host's
# options, configuration, certificate, log and pid are.  What the configuration means is for
# llambo9p_tools.deployment to say.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

usage="usage: tools/deploy.sh COMMAND [--config FILE] [--prefix DIR]

  check           whether this machine has what is needed; exit status 1 if not
  compile         build the wheels, llama.cpp's among them, into dist/
  deploy-local    install them into DIR (default: ~/.local/share/llambo)
  deploy-cluster  install them on the hosts of the section \`deploy\` of the configuration, over
                  ssh, and start these
  start           start the orchestrator, and workers where no other machine has some
  test            ask the cluster something
  status          what is installed and what runs, here and there
  all             all of these, in this order"

wheels=$root/dist
config=
case ${XDG_DATA_HOME-} in # a relative one is to be ignored, says the XDG specification
/*) prefix=$XDG_DATA_HOME/llambo ;;
*) prefix=$HOME/.local/share/llambo ;;
esac
bad=0

good() { printf '✓ %s\n' "$*"; }
so_so() { printf '⚠ %s\n' "$*"; }
bad() {
    printf '✗ %s\n' "$*"
    bad=1
}

deployment() { "$1/bin/python" -m llambo9p_tools.deployment "$2" ${config:+--config "$config"} "${@:3}"; }

llamboctl() { "$prefix/bin/llamboctl" "$@"; }

need_installation() {
    [ -x "$prefix/bin/llamboctl" ] ||
        die "nothing is installed in $prefix: tools/deploy.sh compile, then tools/deploy.sh deploy-local"
}

# -- check ---------------------------------------------------------------------------

check() {
    local python free environment
    if python=$(_find_python) && _can_make_venvs "$python"; then
        good "$("$python" --version) ($python)"
    else
        bad 'Python 3.11 or newer with venv: apt-get install python3 python3-venv, or set PYTHON'
    fi
    if command -v c++ >/dev/null; then
        good "C++ compiler: $(c++ -dumpfullversion -dumpversion)"
    else
        bad 'C++ compiler: apt-get install g++'
    fi
    if command -v cmake >/dev/null; then
        good "$(cmake --version | head -n 1)"
    else
        so_so 'cmake: apt-get install cmake; without it that of PyPI is used'
    fi
    if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then
        so_so "FUSE: /dev/fuse cannot be opened, so nothing can be mounted: modprobe fuse, or give the container this device"
    elif [ "$(id -u)" -ne 0 ] && ! command -v fusermount3 >/dev/null; then
        so_so 'FUSE: only root can mount without fusermount3: apt-get install fuse3'
    else
        good 'FUSE'
    fi
    free=$(df -Pm -- "$root" | awk 'NR == 2 { print $4 }')
    if [ "$free" -ge 1024 ]; then
        good "disk: $free MiB are free in $root"
    else
        bad "disk: $free MiB are free in $root, and the environments and wheels take 1024"
    fi
    for environment in "$prefix" "$venv"; do
        if "$environment/bin/python" -c 'import llambo9p_tools.deployment' 2>/dev/null; then
            deployment "$environment" check || bad=1
            return "$bad"
        fi
    done
    so_so 'the configuration, its models, addresses and memory were not looked at: check again after tools/deploy.sh deploy-local'
    return "$bad"
}

# -- compile, deploy-local -----------------------------------------------------------

_sources=(llambo9p nodes tools setup.cfg pyproject.toml README.md LICENSE cluster-config.yaml)

# What the wheels depend on: the sources, how llama.cpp is compiled, and for which Python.
_stamp_of_sources() {
    {
        printf '%s\n' "${CMAKE_ARGS:-}"
        cd -- "$root" && find "${_sources[@]}" -name __pycache__ -prune -o -type f -print0 |
            LC_ALL=C sort -z | xargs -0 cksum
    } | cksum | tr ' ' -
    "$venv/bin/python" -c 'import platform; print(*platform.python_version_tuple()[:2], sep="."); print(platform.machine())'
}

compile() {
    local stamp source
    _ensure_venv
    stamp=$(_stamp_of_sources)
    if [ "$(cat "$wheels/llambo.stamp" 2>/dev/null)" = "$stamp" ]; then
        good "compiled: $wheels is up to date"
        return
    fi
    mkdir -p -- "$wheels"
    rm -f -- "$wheels"/llambo.stamp "$wheels"/llambo9p-*.whl
    # from a copy, as a build leaves things behind, which get into the next one
    source=$(mktemp -d "${TMPDIR:-/tmp}/llambo-compile.XXXXXX")
    tar -C "$root" --exclude __pycache__ -c "${_sources[@]}" | tar -C "$source" -x
    say "building wheels (log: $wheels/compile.log)"
    # pip does not look at CMAKE_ARGS when it takes what it has built before
    (_pip "$venv/bin/python" "$wheels/compile.log" wheel -v --disable-pip-version-check \
        --progress-bar off ${CMAKE_ARGS:+--no-cache-dir} -c "$root/tools/constraints.txt" \
        -w "$wheels" "${source}[model]") || {
        rm -rf -- "$source"
        exit 1
    }
    rm -rf -- "$source"
    printf '%s\n' "$stamp" >"$wheels/llambo.stamp"
    good "compiled: $(find "$wheels" -name '*.whl' | wc -l) wheels are in $wheels"
}

# Install the wheels in $1 into the environment $2, which is made if it is not there.  Runs on
# other machines, too; so do those below that say it.
install_wheels() {
    local wheels=$1 prefix=$2 version machine python candidate wheel
    { read -r _ && read -r version && read -r machine; } <"$wheels/llambo.stamp"
    if cmp -s "$wheels/llambo.stamp" "$prefix/llambo.stamp"; then
        echo "✓ installed: $prefix is up to date"
        return
    fi
    if [ "$(uname -m)" != "$machine" ]; then
        echo "✗ this machine is a $(uname -m), and the wheels are for $machine: compile on one like it"
        return 1
    fi
    for candidate in "$prefix/bin/python" "python$version" python3; do
        if [ "$("$candidate" -c 'import ensurepip, venv, sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$version" ]; then
            python=$candidate
            break
        fi
    done
    if [ -z "${python:-}" ]; then
        echo "✗ no Python $version with venv, for which the wheels are: apt-get install python$version python$version-venv"
        return 1
    fi
    if [ "$python" != "$prefix/bin/python" ]; then
        mkdir -p -- "$(dirname -- "$prefix")"
        "$python" -m venv "$prefix" || return
    fi
    rm -f -- "$prefix/llambo.stamp"
    wheel=$(echo "$wheels"/llambo9p-*.whl)
    set -- -q --disable-pip-version-check --no-index --find-links "$wheels"
    # ours by force: its version stays the same from one change to the next
    "$prefix/bin/python" -m pip install "$@" --no-deps --force-reinstall "$wheel" || return
    "$prefix/bin/python" -m pip install "$@" "${wheel}[model]" || return
    if ! "$prefix/bin/python" -c 'import llama_cpp; llama_cpp.llama_backend_init()'; then
        echo "✗ llama.cpp does not run here. If it was compiled on another kind of CPU: CMAKE_ARGS=-DGGML_NATIVE=OFF tools/deploy.sh compile"
        return 1
    fi
    cp -- "$wheels/llambo.stamp" "$prefix/llambo.stamp"
    echo "✓ installed: $prefix"
}

deploy_local() {
    [ -e "$wheels/llambo.stamp" ] || die "$wheels has no wheels: tools/deploy.sh compile"
    install_wheels "$wheels" "$prefix" || exit 1
    case :$PATH: in
    *:"$prefix/bin":*) ;;
    *) say "to use it: PATH=$prefix/bin:\$PATH" ;;
    esac
}

# -- deploy-cluster ------------------------------------------------------------------

# What bash says there; $1 is what ssh calls the machine, then come a function of ours and its
# arguments.
there() {
    local ssh=$1
    shift
    {
        declare -f install_wheels running_host start_host status_of_host "$1"
        # shellcheck disable=SC2016  # its $HOME
        echo 'prefix=$HOME/.local/share/llambo'
        printf '%q ' "$@"
        echo
    } | ssh -o BatchMode=yes -- "$ssh" bash -s
}

# Copy what is in the directory $2 to ~/.local/share/llambo/$3.
copy_there() {
    tar -C "$2" -c . | ssh -o BatchMode=yes -- "$1" "umask 077; d=\"\$HOME\"/.local/share/llambo/$3; mkdir -p \"\$d\" && tar -C \"\$d\" -x"
}

installed_there() { cat "$prefix/llambo.stamp" 2>/dev/null || true; }

install_there() { install_wheels "$prefix/wheels" "$prefix"; }

# The pid of the host $1; fails when it does not run.
running_host() {
    local pid
    pid=$(cat "$prefix/hosts/$1/pid" 2>/dev/null) &&
        grep -qzxF -- "$prefix/hosts/$1/host.yaml" "/proc/$pid/cmdline" 2>/dev/null &&
        echo "$pid"
}

# Start the host $1, and end it before if it was started with something else.
start_host() {
    local dir=$prefix/hosts/$1 want pid words
    want=$(cat "$prefix/llambo.stamp" "$dir"/options "$dir"/*.yaml "$dir"/*.pem 2>/dev/null | cksum)
    if pid=$(running_host "$1"); then
        if [ "$(cat "$dir/started" 2>/dev/null)" = "$want" ]; then
            echo "✓ runs already: pid $pid"
            return
        fi
        echo "⚠ ends, to be started anew: pid $pid"
        kill "$pid"
        while running_host "$1" >/dev/null; do sleep 0.1; done
    fi
    mapfile -t words <"$dir/options"
    date +%s%N >"$dir/epoch"
    : >"$dir/log"
    # the file is the host's own log; the shell's end of it takes what Python itself says
    # shellcheck disable=SC2094
    setsid "$prefix/bin/llambo-worker" "${words[@]}" --config "$dir/host.yaml" \
        --epoch "$(cat "$dir/epoch")" --log-file "$dir/log" \
        >>"$dir/log" 2>&1 </dev/null &
    pid=$!
    echo "$pid" >"$dir/pid"
    while ! grep -q '^listening ' "$dir/log"; do
        if ! kill -0 "$pid" 2>/dev/null; then
            echo "✗ it ended: $(tail -n 1 "$dir/log")"
            return 1
        fi
        sleep 0.1
    done
    echo "$want" >"$dir/started"
    echo "✓ started: pid $pid"
}

status_of_host() {
    local pid
    if pid=$(running_host "$1"); then
        echo "✓ runs: pid $pid"
    else
        echo "✗ does not run: its log is $prefix/hosts/$1/log"
        return 1
    fi
}

epoch_of_host() { cat "$prefix/hosts/$1/epoch"; }

has_model() { [ -r "$1" ] || ! echo "✗ there is no $1: copy the model to that place"; }

# As the name of a directory.
name_of() { printf '%s' "${1//[^A-Za-z0-9.]/-}"; }

deploy_to() {
    local ssh=$1 listen=$2 model=$3 certificate=$4 name files status=0
    name=$(name_of "$listen")
    if [ "$certificate" != - ] && [ ! -e "$certificate" ]; then
        local directory host
        directory=$(dirname -- "$certificate")
        host=${listen#*!}
        [ -e "$directory/ca.key" ] ||
            die "$listen needs $certificate: have it made where the CA is, by llamboctl cert server ${host%!*}"
        say "made: $(llamboctl cert server --dir "$directory" "${host%!*}")"
    fi
    if [ "$(there "$ssh" installed_there)" != "$(cat "$wheels/llambo.stamp")" ]; then
        copy_there "$ssh" "$wheels" wheels || return
    fi
    there "$ssh" install_there || return
    if [[ $model == */* ]]; then
        there "$ssh" has_model "$model" || return
    fi
    files=$(mktemp -d "${TMPDIR:-/tmp}/llambo-host.XXXXXX")
    deployment "$prefix" files "$ssh" "$files" && copy_there "$ssh" "$files" "hosts/$name" || status=$?
    rm -rf -- "$files"
    [ "$status" -eq 0 ] && there "$ssh" start_host "$name"
}

# Wait until the orchestrator has the host on $1 that listens at $2: this start of it.
await_registration() {
    local epoch deadline=$((SECONDS + 60))
    epoch=$(there "$1" epoch_of_host "$(name_of "$2")") || return
    until llamboctl cat registry/index | grep -F -- "$2 " | grep -qw "epoch $epoch"; do
        if [ "$SECONDS" -gt "$deadline" ]; then
            echo "✗ did not register with the orchestrator: its log there says why"
            return 1
        fi
        sleep 0.2
    done
    echo '✓ registered'
}

deploy_cluster() {
    local lines line ssh listen model certificate running=0
    need_installation
    [ -e "$wheels/llambo.stamp" ] || die "$wheels has no wheels: tools/deploy.sh compile"
    lines=$(deployment "$prefix" hosts) || exit 1
    [ -n "$lines" ] || die 'the configuration names no hosts: see its section deploy'
    llamboctl status >/dev/null 2>&1 && running=1
    mapfile -t lines <<<"$lines"
    for line in "${lines[@]}"; do
        IFS=$'\t' read -r ssh listen model certificate <<<"$line"
        {
            deploy_to "$ssh" "$listen" "$model" "$certificate" &&
                if [ "$running" -eq 1 ]; then await_registration "$ssh" "$listen"; fi
        } > >(sed "s|^|$ssh: |") || bad=1
    done
    [ "$running" -eq 1 ] || so_so 'no orchestrator runs: tools/deploy.sh start'
    return "$bad"
}

# -- start, test, status -------------------------------------------------------------

start() {
    local address hosts
    need_installation
    hosts=$(deployment "$prefix" hosts) || exit 1
    if llamboctl status >/dev/null 2>&1; then
        good 'the orchestrator runs already'
    else
        address=$(llamboctl init ${config:+--config "$config"}) || exit 1
        good "started: the orchestrator, at $address"
    fi
    if [ -z "$hosts" ] && [ -z "$(llamboctl ls nodes)" ]; then
        llamboctl spawn || exit 1
        good "started: $(llamboctl ls nodes | wc -l) workers"
    fi
}

ask() {
    local question='Name a colour.' answer
    need_installation
    answer=$(llamboctl infer --temperature 0 --max-tokens 16 "$question") || exit 1
    [ -n "$answer" ] || die 'the answer is empty'
    good "$question $answer"
}

status() {
    local lines line ssh listen
    if [ -e "$prefix/llambo.stamp" ]; then
        good "installed: $("$prefix/bin/llamboctl" --version), in $prefix"
    else
        bad "nothing is installed in $prefix"
        return 1
    fi
    # 3: not every worker is healthy
    llamboctl health || [ $? -eq 3 ] || bad=1
    lines=$(deployment "$prefix" hosts) || exit 1
    [ -n "$lines" ] || return "$bad"
    mapfile -t lines <<<"$lines"
    for line in "${lines[@]}"; do
        IFS=$'\t' read -r ssh listen _ <<<"$line"
        there "$ssh" status_of_host "$(name_of "$listen")" > >(sed "s|^|$ssh: |") || bad=1
    done
    return "$bad"
}

all() {
    local hosts
    check || exit 1
    compile
    deploy_local
    start
    hosts=$(deployment "$prefix" hosts)
    if [ -n "$hosts" ]; then
        deploy_cluster || exit 1
    fi
    ask
    status
}

command=
while [ $# -gt 0 ]; do
    case $1 in
    --config | --prefix)
        [ $# -gt 1 ] || die "$1 needs a value"
        if [ "$1" = --config ]; then config=$(realpath -- "$2"); else prefix=$(realpath -m -- "$2"); fi
        shift
        ;;
    -h | --help)
        printf '%s\n' "$usage"
        exit 0
        ;;
    check | compile | start | status | all) command=$1 ;;
    deploy-local) command=deploy_local ;;
    deploy-cluster) command=deploy_cluster ;;
    test) command=ask ;;
    *)
        say "$usage"
        exit 2
        ;;
    esac
    shift
done
if [ -z "$command" ]; then
    say "$usage"
    exit 2
fi
"$command"
