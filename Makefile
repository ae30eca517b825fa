# `make` lists what there is. Everything works from a fresh Debian 12, 13 or sid: what is missing is installed first (as root).
.PHONY: help run build test bench fuzz setup guests clean
SHELL := /bin/bash

help:
	@echo 'make run    build berth and serve a demo guest on 127.0.0.1:2222'
	@echo 'make build  build the static binary: target/berth'
	@echo 'make test   check and test everything'
	@echo 'make bench  compare with the bare APIs of Docker and Kubernetes, kubectl and OpenSSH'
	@echo 'make fuzz   run the fuzz targets for half a minute each'
	@echo 'make clean  remove what was built, and the guest images'

run:
	@scripts/setup build docker
	@scripts/run

build:
	@scripts/setup build
	@scripts/build

test:
	@scripts/setup build docker kubernetes test
	@scripts/test

bench:
	@scripts/setup build docker kubernetes test
	@scripts/build
	@scripts/guest bench
	@scripts/openssh
	@benches/run

fuzz:
	@scripts/setup build fuzz
	@scripts/fuzz

# All that `make test` needs, and no more.
setup:
	@scripts/setup build docker kubernetes test

guests:
	@scripts/guest test demo

clean:
	tests/kubernetes/cluster down
	cargo clean
	scripts/guest clean
