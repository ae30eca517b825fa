# Sourced: chooses how a static binary is made here, and sets up what that needs.
#
# After it: $target (the triple), $target_dir, and the function `berth_cargo SUBCOMMAND [ARGS]`, which runs cargo for
# that triple. docs/building.md tells why each piece is there.

target=$(uname -m)-unknown-linux-musl
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR=$target_dir
mkdir -p "$target_dir/toolchain"

# musl-gcc has no kernel headers, and OpenSSL wants linux/, asm-generic/ and asm/ from them, but nothing else of
# /usr/include, which is glibc's.
kernel_headers=$target_dir/toolchain/kernel-headers
mkdir -p "$kernel_headers"
ln -sfn /usr/include/linux /usr/include/asm-generic "$kernel_headers/"
if [ -d /usr/include/asm ]; then
    ln -sfn /usr/include/asm "$kernel_headers/asm"
else
    ln -sfn "/usr/include/$(uname -m)-linux-gnu/asm" "$kernel_headers/asm"
fi
# Found through PATH, so that a target directory stays good where it is copied to. Written only when it differs: build
# scripts run again when their compiler changes.
musl_cc=$target_dir/toolchain/musl-cc
musl_cc_text='#!/bin/sh
exec musl-gcc "$@" -idirafter "$(dirname "$0")/kernel-headers"'
[ "$(cat "$musl_cc" 2>/dev/null)" = "$musl_cc_text" ] || printf '%s\n' "$musl_cc_text" >"$musl_cc"
chmod +x "$musl_cc"
export "CC_${target//-/_}=musl-cc" PATH="$target_dir/toolchain:$PATH"
# What Debian's packages are hardened with, and musl-gcc leaves out, and some more: see docs/building.md.
hardening="-fstack-protector-strong -fstack-clash-protection -ftrivial-auto-var-init=zero -fzero-call-used-regs=used-gpr"
if [ "$(uname -m)" = aarch64 ]; then
    hardening+=" -mbranch-protection=pac-ret"
fi
# Cargo builds C code again when this changes.
export "CFLAGS_${target//-/_}=$hardening"

# OpenSSL without what neither SSH nor HTTPS uses here, half a megabyte, and without tables for unwinding, 0.4: no panic
# passes through it. Its crate has no setting for that, but one for the perl that configures it.
openssl_perl=$target_dir/toolchain/openssl-perl
openssl_perl_text='#!/bin/sh
case $1 in
*Configure)
    set -- "$@" no-quic no-dtls no-srtp no-srp no-nextprotoneg no-ssl-trace no-http no-cms no-ts no-cmp no-ct no-rfc3779 \
        no-aria no-bf no-cast no-rc2 no-rc4 no-sm2 no-sm3 no-sm4 no-mdc2 no-rmd160 no-whirlpool no-gost no-scrypt \
        no-ec2m no-slh-dsa -fno-asynchronous-unwind-tables -fno-unwind-tables
    ;;
esac
exec perl "$@"'
if [ "$(cat "$openssl_perl" 2>/dev/null)" != "$openssl_perl_text" ]; then
    printf '%s\n' "$openssl_perl_text" >"$openssl_perl"
    # Cargo does not look at it: OpenSSL is built again where nothing tells of the last time.
    rm -rf "$target_dir/$target"/*/.fingerprint/openssl-sys-*
fi
chmod +x "$openssl_perl"
export OPENSSL_SRC_PERL=$openssl_perl

has_musl_std() {
    local libdir
    libdir=$(rustc --print target-libdir --target "$target" 2>/dev/null) && ls "$libdir"/libstd-*.rlib >/dev/null 2>&1
}

debian_flags=()
if has_musl_std || { command -v rustup >/dev/null && rustup target add "$target" >&2; }; then
    toolchain=rustup
elif [ -x /usr/bin/cargo ] && [ -d /usr/lib/rustlib/src/rust/library ]; then
    # Debian has no standard library for musl: it is built along (-Zbuild-std), and musl-gcc links, since Debian's
    # rustc carries no start files for musl either.
    toolchain=debian
    export PATH="$target_dir/toolchain:/usr/bin:/bin" RUSTC_BOOTSTRAP=1
    unwind=$target_dir/toolchain/unwind
    if [ ! -e "$unwind/libunwind.a" ] || [ scripts/dl_find_object.c -nt "$unwind/libunwind.a" ]; then
        mkdir -p "$unwind"
        musl-gcc -O2 -Wall -c scripts/dl_find_object.c -o "$unwind/dl_find_object.o" &&
            cp "$(gcc -print-file-name=libgcc_eh.a)" "$unwind/libunwind.a.new" &&
            ar r "$unwind/libunwind.a.new" "$unwind/dl_find_object.o" &&
            mv "$unwind/libunwind.a.new" "$unwind/libunwind.a"
    fi
    variable=${target^^}
    variable=CARGO_TARGET_${variable//-/_}
    export "${variable}_LINKER=musl-gcc"
    # A static position-independent executable would need start files that musl-gcc cannot choose: it would link an
    # interpreter in.
    export "${variable}_RUSTFLAGS=-Clink-self-contained=no -Ctarget-feature=+crt-static -Crelocation-model=static \
-Lnative=$unwind"
    debian_flags=(-Zbuild-std=std,panic_unwind,test)
else
    echo "scripts/toolchain.sh: no Rust for $target: 'rustup target add $target', or on Debian" \
        "'apt-get install rustc-web cargo-web rust-web-src'; 'make setup' does it for you" >&2
    exit 1
fi

# Runs a cargo subcommand for the static target.
berth_cargo() {
    local subcommand=$1
    shift
    cargo "$subcommand" --locked --target "$target" "${debian_flags[@]}" "$@"
}

# Where the release build has put the OpenSSL that it compiled.
built_openssl() {
    # By jq -e of Debian 12 it would be a failure that the last of many messages is another one.
    berth_cargo build --quiet --release --message-format=json |
        jq -r 'select(.reason == "build-script-executed" and (.package_id | contains("openssl-sys"))).out_dir
            + "/openssl-build/install"' | grep .
}
