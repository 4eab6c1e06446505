# tierfs. `make help` lists the targets.
#
# The tree decides what is built: every src/FOLDER/*.c is part of its folder's product, every tests/unit/test_*.c is a
# program of its own, and so on. A new file needs no change here.

VERSION := 0.1.0
SONAME_VERSION := 1

# What is installed, shown and measured is the release build; what is tested is the debug build.
debug_goals := check% run-check% tests cov build/debug/%
MODE ?= $(if $(filter $(debug_goals),$(MAKECMDGOALS)),debug,release)
BUILD ?= build/$(MODE)
PREFIX ?= /usr/local
DESTDIR ?=
CC = gcc
CLANG ?= clang
PKG_CONFIG ?= pkg-config

ifeq ($(V),1)
Q :=
say = @:
else
Q := @
say = @printf '  %-8s %s\n' $(1) $(2)
endif

# --- modes ---------------------------------------------------------------------------------------------------

MODES := debug release asan tsan cov fuzz
ifeq ($(filter $(MODE),$(MODES)),)
$(error MODE=$(MODE): use one of $(MODES))
endif

mode_debug := -O1 -g -DTIERFS_DEBUG
# What only asserts use is unused here.
mode_release = -O2 -g -DNDEBUG
WARN_release := -Wno-unused-variable -Wno-unused-const-variable -Wno-unused-but-set-variable -Wno-unused-function
mode_asan := -O1 -g -fno-omit-frame-pointer -DTIERFS_DEBUG
mode_tsan := -O1 -g -fno-omit-frame-pointer -DTIERFS_DEBUG
mode_cov := -O0 -g -DTIERFS_DEBUG
mode_fuzz := -O1 -g -fno-omit-frame-pointer -DTIERFS_DEBUG
sanitize_asan := -fsanitize=address,undefined -fno-sanitize-recover=undefined
sanitize_tsan := -fsanitize=thread
sanitize_cov := --coverage
sanitize_fuzz := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
SANITIZE := $(sanitize_$(MODE))
ifeq ($(MODE),fuzz)
CC = $(CLANG)
endif

# --- flags ---------------------------------------------------------------------------------------------------

# Missing packages must not break `make help` and `make deps`; the compiler names them well enough otherwise.
pkg_cflags = $(shell $(PKG_CONFIG) --cflags $(1) 2>/dev/null)
pkg_libs = $(shell $(PKG_CONFIG) --libs $(1) 2>/dev/null || echo $(2))

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings -Wundef -Wvla \
	-Wformat=2 -Wimplicit-fallthrough $(WARN_$(MODE))
WERROR ?= -Werror
# Warnings are gcc's to give; clang builds the fuzzers alone.
ifeq ($(MODE),fuzz)
WARN := -w
endif
HARDEN_release := -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 -ftrivial-auto-var-init=zero -fstack-clash-protection -fcf-protection=full
HARDEN := -fstack-protector-strong $(HARDEN_$(MODE))
CPPFLAGS_ALL := -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DTIERFS_VERSION='"$(VERSION)"' -Iinclude -Isrc $(CPPFLAGS)
CFLAGS_BASE := -std=gnu17 $(mode_$(MODE)) $(WARN) $(WERROR) $(HARDEN) -fPIC -pthread $(CFLAGS)
CFLAGS_ALL := $(CFLAGS_BASE) $(SANITIZE)
LDFLAGS_BASE := -pthread -Wl,--as-needed -Wl,-z,relro,-z,now $(LDFLAGS)
# A sanitizer's runtime comes with the program, so a library leaves its symbols open.
LDFLAGS_SHARED := -shared $(if $(SANITIZE),,-Wl,-z,defs)
LDFLAGS_ALL := $(SANITIZE) $(LDFLAGS_BASE)

FUSE_CFLAGS := $(call pkg_cflags,fuse3)
# Of tools/libraries, those that a program is linked with.
libs_of = $(shell while read -r _ name link who _; do \
	case ",$$who," in (*,$(1),*) $(PKG_CONFIG) --libs "$$name" 2>/dev/null || echo " $$link" ;; esac; done <tools/libraries)
DAEMON_LIBS := $(call libs_of,daemon)
TIERCTL_LIBS := $(call libs_of,tierctl)
CHECK_LIBS := $(call pkg_libs,check,-lcheck)
CPPFLAGS_ALL += $(FUSE_CFLAGS) $(call pkg_cflags,smartcols)

# --- sources -------------------------------------------------------------------------------------------------

BASE_SRC := $(wildcard src/base/*.c)
DAEMON_SRC := $(BASE_SRC) $(wildcard $(addsuffix /*.c,$(addprefix src/,wire mem cold engine policy names pool map front)))
# No daemon in it: tierctl and tests link it.
STREAM_SRC := $(wildcard src/stream/*.c)
MOVE_SRC := $(wildcard src/move/*.c)
# Values as they are stored: what is moved goes as it lies there.
VALUE_SRC := $(wildcard src/cold/cod*.c) src/cold/mac.c
CLIENT_SRC := $(filter-out src/client/preload%,$(wildcard src/client/*.c)) src/wire/wire.c
PRELOAD_SRC := $(wildcard src/client/*.c) src/wire/wire.c
TIERCTL_SRC := $(wildcard tools/tierctl/*.c)
# Of the tool, what unit tests link.
TESTED_SRC := tools/tierctl/curve.c
TESTLIB_SRC := $(wildcard tests/*/lib_*.c)
TEST_SRC := $(wildcard $(patsubst %,tests/%/test_*.c,unit kernel model fault))
EXAMPLE_SRC := $(wildcard docs/examples/*.c)
GUEST_SRC := $(wildcard tests/vm/guest_*.c)
PROG_SRC := $(wildcard tests/prog/prog_*.c tests/vm/prog_*.c)
INTERPOSE_SRC := $(wildcard tests/lib/interpose_*.c)
BENCH_SRC := $(wildcard tests/bench/bench_*.c)
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
HEADERS := $(wildcard include/tierfs/*.h)

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
bin = $(patsubst %.c,$(BUILD)/%,$(1))

# The build directory has the layout of an installation, so that programs find each other in the same way in both.
TIERFS := $(BUILD)/bin/tierfs
TIERCTL := $(BUILD)/bin/tierctl
SHARED := $(BUILD)/lib/libtierfs.so.$(SONAME_VERSION)
STATIC := $(BUILD)/lib/libtierfs.a
PRELOAD := $(BUILD)/lib/tierfs/libtierfs-preload.so
HELPERS := $(patsubst mount-helpers/%,$(BUILD)/sbin/%,$(wildcard mount-helpers/mount.* mount-helpers/umount.*))
DAEMON_LIB := $(BUILD)/obj/libdaemon.a
BASE_LIB := $(BUILD)/obj/libbase.a
STREAM_LIB := $(BUILD)/obj/libstream.a
MOVE_LIB := $(BUILD)/obj/libmove.a
TEST_LIB := $(BUILD)/obj/libtest.a

TESTS := $(call bin,$(TEST_SRC))
PROGS := $(call bin,$(PROG_SRC))
GUESTS := $(call bin,$(GUEST_SRC))
INTERPOSERS := $(patsubst %.c,$(BUILD)/%.so,$(INTERPOSE_SRC))
BENCHES := $(call bin,$(BENCH_SRC))
# Clients that mean no good, of the tests; a case of the benchmarks has them, too.
BENCH_PROGS := $(call bin,tests/prog/prog_rough.c tests/prog/prog_hostile.c)
EXAMPLES := $(addprefix $(BUILD)/examples/,$(notdir $(basename $(EXAMPLE_SRC))))
FUZZERS := $(call bin,$(FUZZ_SRC))
REPLAYS := $(patsubst tests/fuzz/fuzz_%.c,$(BUILD)/tests/fuzz/replay_%,$(FUZZ_SRC))

PRODUCTS := $(TIERFS) $(TIERCTL) $(SHARED) $(STATIC) $(BUILD)/lib/libtierfs.so $(PRELOAD) $(HELPERS)

.PHONY: all tests check check-unit check-root fuzz bench bench-quick lint format cov install uninstall dist clean help demo deps FORCE
.DELETE_ON_ERROR:
.SECONDARY:

all: $(PRODUCTS) $(EXAMPLES)

tests: all $(TESTS) $(REPLAYS) $(PROGS) $(INTERPOSERS) $(GUESTS) $(BENCHES)

help:
	@echo 'Targets (MODE=debug|release|asan|tsan, BUILD=DIR, V=1 shows commands); tests are built with MODE=debug, all else with release:'
	@echo '  all         daemon, tierctl, libtierfs, preload library, examples    (into build/release)'
	@echo '  check       all tests; those that need root are skipped for others'
	@echo '  check-unit  unit, model and fault programs only'
	@echo '  check-root  mount, fault and VM scripts (as root)'
	@echo '  fuzz        libFuzzer on every parser, FUZZ_SECONDS=10 each'
	@echo '  bench       benchmarks beside what they are measured against (root; BENCH_ARGS="CASE..."); bench-quick: < 3 minutes'
	@echo '  lint        layering, format, scripts, man pages, lengths'
	@echo '  format      rewrite sources with clang-format'
	@echo '  cov         line coverage of unit and model tests'
	@echo '  demo        a QEMU guest with its RAM on tierfs'
	@echo '  install     into PREFIX (/usr/local), below DESTDIR;  uninstall removes it'
	@echo '  deps        install (root) or name (others) missing Debian packages'
	@echo '  dist        source archive of HEAD;   clean  remove build/'

deps:
	@tools/deps.sh

# --- rules ---------------------------------------------------------------------------------------------------

# Objects are made again when flags change, not when this file does.
FLAGS_TEXT = $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(LDFLAGS_ALL)
$(BUILD)/obj/flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(subst ','\'',$(FLAGS_TEXT))' | cmp -s - $@ || printf '%s\n' '$(subst ','\'',$(FLAGS_TEXT))' > $@

define compile_with
	@mkdir -p $(@D)
	$(call say,CC,$(patsubst $(BUILD)/%,%,$@))
	$(Q)$(CC) $(CPPFLAGS_ALL) $(TEST_CPPFLAGS) $(1) -MMD -MP -c -o $@ $<
endef

$(BUILD)/obj/%.o: %.c $(BUILD)/obj/flags
	$(call compile_with,$(CFLAGS_ALL))
$(BUILD)/obj/tests/%.o: TEST_CPPFLAGS := -I. -Itests -Itests/lib -Itests/prog

# What runs inside a VMM is never instrumented: the VMM is not. It exports nothing but what it marks, and takes from libc
# what every libc has: _FORTIFY_SOURCE is glibc's alone.
$(BUILD)/obj/preload/%.o: %.c $(BUILD)/obj/flags
	$(call compile_with,$(CFLAGS_BASE) -fvisibility=hidden -DTIERFS_PRELOAD -U_FORTIFY_SOURCE)

define archive
	@mkdir -p $(@D)
	$(call say,AR,$(patsubst $(BUILD)/%,%,$@))
	$(Q)rm -f $@ && $(AR) rcs $@ $(filter %.o,$^)
endef

define link_with
	@mkdir -p $(@D)
	$(call say,LD,$(patsubst $(BUILD)/%,%,$@))
	$(Q)$(CC) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(1)
endef

$(DAEMON_LIB): $(call obj,$(DAEMON_SRC))
	$(archive)
$(BASE_LIB): $(call obj,$(BASE_SRC))
	$(archive)
$(STREAM_LIB): $(call obj,$(STREAM_SRC) $(VALUE_SRC))
	$(archive)
$(MOVE_LIB): $(call obj,$(MOVE_SRC))
	$(archive)
$(TEST_LIB): $(call obj,$(TESTLIB_SRC))
	$(archive)
$(STATIC): $(call obj,$(CLIENT_SRC))
	$(archive)

$(TIERFS): $(call obj,src/tierfs.c $(DAEMON_SRC))
	$(call link_with,$(LDFLAGS_ALL) $(DAEMON_LIBS))

$(TIERCTL): $(call obj,$(TIERCTL_SRC)) $(MOVE_LIB) $(STATIC) $(STREAM_LIB) $(BASE_LIB)
	$(call link_with,$(LDFLAGS_ALL) $(TIERCTL_LIBS))

$(BUILD)/obj/libtierfs.map: Makefile
	@mkdir -p $(@D)
	@echo 'LIBTIERFS_$(SONAME_VERSION) { global: tierfs_*; local: *; };' > $@

# Its thread ends with the process, so it is never unloaded.
$(SHARED): $(call obj,$(CLIENT_SRC)) $(BUILD)/obj/libtierfs.map
	$(call link_with,$(LDFLAGS_SHARED) -Wl$(comma)-z$(comma)nodelete -Wl$(comma)-soname$(comma)$(@F) \
		-Wl$(comma)--version-script=$(BUILD)/obj/libtierfs.map $(LDFLAGS_ALL))
comma := ,

$(BUILD)/lib/libtierfs.so: $(SHARED)
	$(Q)ln -sfn $(notdir $(SHARED)) $@

$(PRELOAD): $(patsubst %.c,$(BUILD)/obj/preload/%.o,$(PRELOAD_SRC))
	$(call link_with,-shared -Wl$(comma)-z$(comma)defs $(LDFLAGS_BASE) -ldl)

$(HELPERS): $(BUILD)/sbin/%: mount-helpers/%
	@mkdir -p $(@D)
	$(Q)install -m 755 $< $@

# Programs that use libtierfs from outside.
link_client = $(call link_with,-L$(BUILD)/lib -ltierfs -Wl$(comma)-rpath$(comma)'$$ORIGIN/$(1)' $(LDFLAGS_ALL))

$(BUILD)/examples/%: $(BUILD)/obj/docs/examples/%.o $(BUILD)/lib/libtierfs.so
	$(call link_client,../lib)
$(BUILD)/tests/vm/prog_%: $(BUILD)/obj/tests/vm/prog_%.o | $(BUILD)/lib/libtierfs.so
	$(call link_client,../../lib)

# Load programs know nothing of tierfs, and stand for a VMM under `tierctl run`: like a VMM they are not instrumented.
$(BUILD)/tests/prog/prog_%: $(BUILD)/obj/tests/prog/prog_%.o
	$(call link_with,$(LDFLAGS_ALL) -lm)
LOAD_PROG_SRC := $(filter tests/prog/prog_%,$(PROG_SRC))
$(call obj,$(LOAD_PROG_SRC)): private CFLAGS_ALL := $(CFLAGS_BASE)
$(call bin,$(LOAD_PROG_SRC)): private LDFLAGS_ALL := $(LDFLAGS_BASE)

# What is preloaded into a daemon that is tested.
$(INTERPOSERS): $(BUILD)/%.so: $(BUILD)/obj/%.o
	$(call link_with,-shared $(LDFLAGS_BASE))
$(call obj,$(INTERPOSE_SRC)): private CFLAGS_ALL := $(CFLAGS_BASE)

# Guest programs run alone in an initramfs: static, and without a sanitizer's runtime.
$(BUILD)/tests/vm/guest_%: tests/vm/guest_%.c $(BUILD)/obj/flags
	@mkdir -p $(@D) $(BUILD)/obj/tests/vm
	$(call say,CCLD,tests/vm/guest_$*)
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_BASE) -MMD -MP -MF $(BUILD)/obj/tests/vm/guest_$*.d -static -o $@ $<

# Test programs: Check, with everything of the daemon but main(). "/* link: FLAGS */" in a test's source adds FLAGS.
test_flags = $(shell sed -n 's:^/\* link\: \(.*\) \*/$$:\1:p' $(1))
# Benchmarks of a part are linked in the same way.
$(TESTS) $(BENCHES): $(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(call obj,$(TESTED_SRC)) $(TEST_LIB) $(DAEMON_LIB) $(MOVE_LIB) $(STREAM_LIB) $(STATIC)
	$(call link_with,$(TEST_LIB) $(DAEMON_LIB) $(call test_flags,tests/$*.c) $(LDFLAGS_ALL) $(CHECK_LIBS) $(DAEMON_LIBS))

$(FUZZERS): $(BUILD)/tests/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o $(call obj,$(TESTED_SRC)) $(TEST_LIB) $(DAEMON_LIB) $(STREAM_LIB) $(STATIC)
	$(call link_with,$(TEST_LIB) $(DAEMON_LIB) -fsanitize=fuzzer $(LDFLAGS_ALL) $(DAEMON_LIBS))

$(REPLAYS): $(BUILD)/tests/fuzz/replay_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(BUILD)/obj/tests/lib/replay.o $(call obj,$(TESTED_SRC)) $(TEST_LIB) \
		$(DAEMON_LIB) $(STREAM_LIB) $(STATIC)
	$(call link_with,$(TEST_LIB) $(DAEMON_LIB) $(LDFLAGS_ALL) $(DAEMON_LIBS))

# --- tests ---------------------------------------------------------------------------------------------------

RUN_TESTS = TIERFS_BUILD='$(abspath $(BUILD))' TIERFS_MODE=$(MODE) tests/run.sh
UNIT_TESTS = $(sort $(filter $(BUILD)/tests/unit/%,$(TESTS))) $(sort $(filter-out $(BUILD)/tests/unit/%,$(TESTS))) \
	$(sort $(REPLAYS))
ROOT_TESTS = $(sort $(wildcard tests/mount/test_*.sh)) $(sort $(wildcard tests/fault/test_*.sh)) $(sort $(wildcard tests/vm/test_*.sh))

# The packages come first: make would otherwise begin to compile without them.
check check-unit check-root: deps
	+@$(MAKE) --no-print-directory run-$@

.PHONY: run-check run-check-unit run-check-root
run-check: tests
	@TIERFS_TEST_LANES=2 $(RUN_TESTS) $(UNIT_TESTS) $(ROOT_TESTS)
run-check-unit: $(TESTS) $(REPLAYS)
	@$(RUN_TESTS) $(UNIT_TESTS)
run-check-root: tests
	@$(RUN_TESTS) $(ROOT_TESTS)

FUZZ_SECONDS ?= 10
fuzz:
	@command -v $(CLANG) >/dev/null || { echo 'make fuzz: needs clang (apt-get install clang)' >&2; exit 1; }
	+@$(MAKE) --no-print-directory MODE=fuzz BUILD=build/fuzz run-fuzz
.PHONY: run-fuzz
run-fuzz: $(FUZZERS)
	@tests/lib/fuzz.sh $(FUZZ_SECONDS) $(FUZZERS)

# Speed is measured on what is installed: optimised, without checks. BENCH_ARGS: see tests/bench/bench.py --help.
bench bench-quick:
	+@$(MAKE) --no-print-directory MODE=release run-$@
.PHONY: run-bench run-bench-quick
run-bench: all $(BENCHES) $(GUESTS) $(BENCH_PROGS)
	@TIERFS_BUILD='$(abspath $(BUILD))' tests/bench/run.sh --plan full $(BENCH_ARGS)
run-bench-quick: all $(BENCHES) $(BENCH_PROGS)
	@TIERFS_BUILD='$(abspath $(BUILD))' tests/bench/run.sh --plan quick $(BENCH_ARGS)

lint:
	@tests/run.sh $(sort $(wildcard tests/lint/lint_*.sh))

FORMAT_SRC = $(shell git ls-files -co --exclude-standard '*.c' '*.h')
format:
	clang-format -i $(FORMAT_SRC)

cov:
	+@$(MAKE) --no-print-directory MODE=cov BUILD=build/cov run-check-unit
	@tools/cov.sh build/cov

demo: deps
	+@$(MAKE) --no-print-directory run-demo
.PHONY: run-demo
run-demo: all $(GUESTS)
	@TIERFS_BUILD='$(abspath $(BUILD))' tests/vm/demo.sh

# --- installation --------------------------------------------------------------------------------------------

I := $(DESTDIR)$(PREFIX)
MAN8 := $(wildcard docs/man/*.8)
MAN1 := $(wildcard docs/man/*.1)
MAN3 := $(wildcard docs/man/*.3)
UNITS := $(wildcard mount-helpers/*.service mount-helpers/*.service.in)

install: all
	+@$(MAKE) --no-print-directory install-files

.PHONY: install-files
install-files:
	install -d '$(I)/bin' '$(I)/sbin' '$(I)/lib/tierfs' '$(I)/lib/pkgconfig' '$(I)/include/tierfs'
	install -m 755 $(TIERFS) $(TIERCTL) '$(I)/bin/'
	install -m 755 $(HELPERS) '$(I)/sbin/'
	install -m 755 $(PRELOAD) '$(I)/lib/tierfs/'
	install -m 755 $(SHARED) '$(I)/lib/'
	install -m 644 $(STATIC) '$(I)/lib/'
	ln -sfn $(notdir $(SHARED)) '$(I)/lib/libtierfs.so'
	install -m 644 $(HEADERS) '$(I)/include/tierfs/'
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' src/client/tierfs.pc.in > '$(I)/lib/pkgconfig/tierfs.pc'
	$(foreach n,1 3 8,$(if $(MAN$n),install -d '$(I)/share/man/man$n' && install -m 644 $(MAN$n) '$(I)/share/man/man$n/' &&)) true
	$(if $(UNITS),install -d '$(I)/lib/systemd/system')
	$(foreach u,$(UNITS),sed -e 's|@PREFIX@|$(PREFIX)|g' $(u) > '$(I)/lib/systemd/system/$(notdir $(u:.in=))' &&) true

uninstall:
	rm -f '$(I)/bin/tierfs' '$(I)/bin/tierctl' $(patsubst $(BUILD)/%,'$(I)/%',$(HELPERS)) '$(I)/lib/libtierfs.so' '$(I)/lib/libtierfs.a' \
		'$(I)/lib/$(notdir $(SHARED))' '$(I)/lib/pkgconfig/tierfs.pc'
	rm -rf '$(I)/lib/tierfs' '$(I)/include/tierfs'
	rm -f $(foreach n,1 3 8,$(foreach m,$(MAN$n),'$(I)/share/man/man$n/$(notdir $m)'))
	rm -f $(foreach u,$(UNITS),'$(I)/lib/systemd/system/$(notdir $(u:.in=))')

dist:
	@mkdir -p build
	git archive --prefix=tierfs-$(VERSION)/ -o build/tierfs-$(VERSION).tar.gz HEAD
	@echo build/tierfs-$(VERSION).tar.gz

clean:
	rm -rf build

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
