# `make test` is all that a change must pass; `make cross` shows that it builds
# for every platform. Both run in .ci/run.

GO ?= go

# Debian packages that the tests use: the race detector needs a C compiler, the
# end-to-end tests run these programs in network namespaces, those of Kerberos a
# KDC and its clients, those of IPsec two strongSwans, those of the bench its peers.
# Where Debian starts what it installs, danted's and stunnel's services end by themselves:
# nobody has told them what to listen at.
PACKAGES := gcc libc6-dev iproute2 util-linux \
	curl ncat netcat-openbsd proxychains4 openssh-client openssh-server \
	git python3 python3-socks chromium \
	krb5-kdc krb5-admin-server krb5-user python3-gssapi \
	strongswan-charon strongswan-swanctl libcharon-extra-plugins libstrongswan-standard-plugins \
	dante-client dante-server stunnel4 microsocks vsftpd tnftp nodejs node-socks \
	snmp snmpd tftp-hpa tftpd-hpa coturn shadowsocks-libev \
	tsocks torsocks tor redsocks nftables omniorb omniorb-nameserver \
	openjdk-17-jre-headless firefox-esr \
	wireguard-tools wireguard-go iperf3 iputils-ping bind9-dnsutils \
	openssl ngtcp2-client ngtcp2-server ffmpeg sip-tester aria2 rsync memcached mosquitto redis-server postgresql \
	dovecot-imapd dovecot-pop3d python3-aiosmtpd python3-impacket \
	prometheus tmux

BUILD     := CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w'
E2E       := ./cmd/adit/e2e
UNIT       = $$($(GO) list ./... | grep -v '/cmd/adit/e2e$$')
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64 \
	freebsd/amd64 freebsd/arm64 android/arm64

# What a mobile app embeds. A program for iOS needs Apple's linker, a library does not.
LIBRARIES := ./client ./tunnel/... ./crypto/...

FUZZTIME ?= 10s

ROUNDS ?= 3
WINDOW ?= 1s
# Further flags: -only adit,ssh, -adit before=PROGRAM to measure another build of adit, too, or
# -into README.md to put the tables there.
BENCH  ?=

# In order, also under -j.
.NOTPARALLEL:

.PHONY: help build test packages check unit e2e full cross lint bench loops fuzz

help: ## say what can be made
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12

build: ## the program, as bin/adit
	$(BUILD) -o bin/adit ./cmd/adit

test: packages check unit e2e ## install what tests need, then check and test everything

packages: ## the Debian packages that tests need, only those that are missing
	@missing=; for p in $(PACKAGES); do \
		[ "$$(dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null)" = installed ] || missing="$$missing $$p"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	fail() { echo "make test: these packages are missing:$$missing" >&2; echo "make test: $$1" >&2; exit 1; }; \
	command -v apt-get >/dev/null || fail 'apt-get is not here: install them another way, then run make check unit e2e'; \
	sudo=; if [ "$$(id -u)" != 0 ]; then \
		sudo='sudo -n'; $$sudo true 2>/dev/null || fail 'run it as root, or as a user whose sudo asks no password'; \
	fi; \
	echo "installing$$missing"; \
	$$sudo apt-get -qq update && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $$missing >/dev/null || \
		fail 'apt-get could not install them'

check: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not as gofmt writes it:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# The end-to-end tests come by themselves, so that nothing takes the processors
# from the real programs that they wait for. They are never cached: Go does not
# see that they depend on the whole program.
unit: ## every test but the end-to-end tests, with the race detector
	$(GO) test -race -p 2 -timeout 15m $(UNIT)

e2e: ## real programs through adit in network namespaces (root or sudo)
	$(GO) test -race -count 1 -timeout 20m $(E2E)

full: ## the long proofs: a million schedules, five minutes without a network, 100,000 attackers …
	ADIT_FULL=1 $(GO) test -count 1 -timeout 60m ./tunnel/...
	$(GO) test -count 1 -timeout 90m $(E2E) -full

cross: ## build for every platform
	@set -e; for p in $(PLATFORMS); do \
		echo "build $$p"; \
		GOOS=$${p%/*} GOARCH=$${p#*/} $(BUILD) -o /dev/null ./cmd/adit; \
	done; \
	echo "build ios/arm64 (libraries)"; \
	GOOS=ios GOARCH=arm64 $(BUILD) $(LIBRARIES)

lint: check ## golangci-lint on top of the checks; the first run builds it
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run

# All ends of all programs share the machine, so it should have nothing else to do.
bench: ## tables of adit's speed beside that of others that are installed (ROUNDS=5 WINDOW=5s)
	$(GO) run ./cmd/adit/bench -rounds $(ROUNDS) -window $(WINDOW) $(BENCH)

loops: ## every Go benchmark, those of the inner loops
	$(GO) test -run '^$$' -bench . -benchmem $(UNIT)

fuzz: ## every fuzz target for FUZZTIME
	@set -e; for pkg in $(UNIT); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done
