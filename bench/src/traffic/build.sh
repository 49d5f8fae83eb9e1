#!/bin/sh
# Builds the programs of both ends into ends.bpf.o, or into the file named. Debian 12's clang 14 makes the committed octets.
# Needs clang, llvm (llvm-strip), libbpf-dev and gcc-multilib (or libc6-dev's asm/ headers).
set -eu
out=$(realpath -m "${1:-$(dirname "$0")/ends.bpf.o}")
cd "$(dirname "$0")"
clang -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Werror -fno-ident \
	-ffile-prefix-map="$PWD=." -I"/usr/include/$(uname -m)-linux-gnu" -c ends.bpf.c -o "$out"
# Leaves .BTF and .BTF.ext, which the kernel wants; drops DWARF, which nobody does.
llvm-strip -g "$out"
