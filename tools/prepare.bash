# Sourced by the scripts beside it: Debian packages, the Rust toolchain, and who builds.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
export PATH="$PATH:/usr/sbin:/sbin"

# install_packages COMMAND=PACKAGE...: installs the packages whose COMMAND, or file, is missing; three tries.
install_packages() {
    local pair missing=()
    for pair in "$@"; do
        [[ $pair == /* && -e ${pair%%=*} ]] || type -P "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if [[ $(id -u) -ne 0 ]] || ! type -P apt-get >/dev/null; then
        echo "missing packages (their Debian names): ${missing[*]}" >&2
        return 1
    fi
    echo "==> installing ${missing[*]}"
    local try
    for try in 1 2 3; do
        if install_without_starting "${missing[@]}"; then
            return 0
        fi
        echo "    try $try failed" >&2
        sleep $((try * 3))
    done
    echo "could not install: ${missing[*]}" >&2
    return 1
}

# What compiling the traffic generator takes: the C of xsk-rs and its bindings. Nothing of the product needs it.
install_generator_packages() {
    install_packages cc=build-essential clang=clang m4=m4 pkg-config=pkg-config \
        /usr/lib/llvm-14/lib/libclang.so=libclang-dev /usr/include/libelf.h=libelf-dev /usr/include/zlib.h=zlib1g-dev
}

# What measuring side by side takes: the peers, and what builds their namespaces.
install_comparison_packages() {
    install_packages ip=iproute2 ethtool=ethtool sysctl=procps nft=nftables iptables=iptables conntrack=conntrack \
        dpdk-testpmd=dpdk iperf3=iperf3
}

# Debian starts a server's service when its package arrives (nginx on port 80). Its programs are all that is
# wanted here, and policy-rc.d is Debian's way to say so.
install_without_starting() {
    local policy=/usr/sbin/policy-rc.d ours=no status=0
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        ours=yes
    fi
    { apt-get -qq update &&
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null; } || status=$?
    [[ $ours == no ]] || rm -f "$policy"
    return "$status"
}

# The sources' owner builds, also under sudo: the target directory and the cargo cache are then that person's,
# and the next plain `cargo build` does not stumble over files of root. Only programs that need root run as root.
find_builder() {
    builder=$(id -un)
    if [[ $(id -u) -eq 0 ]]; then
        builder=$(stat -c %U "$root")
        [[ $builder != UNKNOWN ]] || builder=root
    fi
    local home candidate
    home=$(getent passwd "$builder" | cut -d: -f6)
    local directories=("${CARGO_HOME:+$CARGO_HOME/bin}" "$home/.cargo/bin")
    if [[ $builder == root && -n ${SUDO_USER:-} ]]; then
        # Sources of root, toolchain of the one who called sudo: it is read there, the cache stays root's.
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        directories+=("$home/.cargo/bin")
        [[ ! -d $home/.rustup ]] || export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
    fi
    for candidate in "${directories[@]}"; do
        if [[ -n $candidate && -x $candidate/cargo ]]; then
            export PATH="$candidate:$PATH"
            return 0
        fi
    done
    type -P cargo >/dev/null && return 0
    echo "cargo not found for user $builder: install Rust as https://rustup.rs says, then run this again" >&2
    return 1
}

# as_builder COMMAND...: runs COMMAND in the sources' directory as the one who builds.
as_builder() {
    if [[ $(id -un) == "$builder" ]]; then
        (cd "$root" && "$@")
    else
        (cd "$root" && runuser -u "$builder" -- \
            env HOME="$(getent passwd "$builder" | cut -d: -f6)" PATH="$PATH" "$@")
    fi
}
