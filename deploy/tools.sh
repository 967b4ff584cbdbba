# Sourced by deploy/try and tests/run: installs what a fresh Debian or Ubuntu lacks, and nothing else.
# shellcheck shell=bash

say() {
    # Bold for people, plain for files.
    if [ -t 2 ]; then printf '\033[1m==> %s\033[0m\n' "$*" >&2; else printf '==> %s\n' "$*" >&2; fi
}
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "installing packages needs root: run this as root once, or install sudo"
    fi
}

# need COMMAND[=PACKAGE]...: installs the packages whose command is missing (the package is named like its command unless said). For
# what is no command: the file that the package brings, with its whole path.
need() {
    local missing=() entry command package
    for entry in "$@"; do
        command=${entry%%=*} package=${entry#*=}
        # nginx lives in /usr/sbin, which is not on every user's PATH.
        case $command in
            /*) [ -e "$command" ] || missing+=("$package") ;;
            *) PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null || missing+=("$package") ;;
        esac
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || die "please install: ${missing[*]} (this script knows apt-get only)"
    say "installing ${missing[*]}"
    # A service that the package would start (nginx on port 80) is not wanted: policy-rc.d exists only for this call.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" && made=1
    fi
    local status=0
    as_root env DEBIAN_FRONTEND=noninteractive sh -c '
        apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null' sh "${missing[@]}" || status=$?
    [ -n "$made" ] && as_root rm -f "$policy"
    [ "$status" = 0 ] || die "apt-get could not install: ${missing[*]}"
    # Nor at the next start of the machine, where several would want port 80.
    if [ -d /run/systemd/system ]; then
        for package in "${missing[@]}"; do
            [ ! -e "/lib/systemd/system/$package.service" ] || as_root systemctl disable --quiet "$package" || true
        done
    fi
}

# need_library PACKAGE [PACKAGE-IF-THERE-IS-ONE]: a library without a command to look for.
need_library() {
    command -v apt-get >/dev/null || die "please install: $1 (this script knows apt-get only)"
    local packages=("$1")
    as_root apt-get update -qq
    if [ -n "${2:-}" ] && apt-cache show "$2" >/dev/null 2>&1; then packages+=("$2"); fi
    say "installing ${packages[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null \
        || die "apt-get could not install: ${packages[*]}"
}

# What a build needs: a C compiler and make, cmake and nasm (libjpeg-turbo and rav1e with SIMD), meson and ninja (dav1d), and a
# Rust toolchain.
need_build_tools() {
    need cc=build-essential make cmake nasm meson ninja=ninja-build
    # HEIC sources (the feature `heic`): SENDIMAGE_HEIC=1 before this is called.
    if [ -n "${SENDIMAGE_HEIC:-}" ] && ! pkg-config --exists libheif 2>/dev/null; then
        # Newer Debians have the HEVC decoder in a package of its own.
        need pkg-config
        need_library libheif-dev libheif-plugin-libde265
    fi
    local root wanted have
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    have=$(cargo --version 2>/dev/null | cut -d' ' -f2)
    if [ -z "$have" ] || [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -1)" != "$wanted" ]; then
        if command -v rustup >/dev/null; then
            say "cargo is ${have:-missing}, $wanted is needed: asking rustup"
            rustup toolchain install stable --profile minimal -c clippy -c rustfmt \
                || die "rustup could not install a Rust toolchain of at least $wanted"
            export RUSTUP_TOOLCHAIN=stable
        else
            die "Rust $wanted or newer is needed (found: ${have:-none}); install it with rustup, https://rustup.rs"
        fi
    fi
}
