# SPDX-License-Identifier: Apache-2.0
# mod_ratelimit_redis
#
#   make            builds the module into build/
#   make test       installs missing packages, builds, runs every test
#   make demo       shows the module at work on two hosts and one Redis
#   make lint       checks the sources: clang, gcc's analyzer, cppcheck, includes, widths, licence lines, perl, sh
#   make sanitize   runs the tests under ASan and UBSan, the unit tests also under TSan
#   make test-hours runs the tests shortly before and after midnight and at the end of February
#   make test-debian13   runs make test in a Debian 13, and the tests that use Redis with Valkey
#   make storm      runs many losses of Redis, restarts and schedules; memory, threads and files stay flat
#   make fuzz       feeds each parser random bytes for FUZZ_SECONDS
#   make bench      measures the cost of a decision
#   make install    installs the module and its configuration below DESTDIR
#   make clean
#
# make Q= prints the commands.

BUILD   = build
CC      = gcc
CLANG   = clang
APXS    = apxs
CFLAGS  = -O2 -g
WARN    = -Wall -Wextra -Wformat=2 -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror
PROVE   = prove -It/lib
JOBS    = 4
TESTS   = t/httpd
CONFDIR = /etc/apache2/mods-available
Q       = @

MAKEFLAGS += --no-print-directory

# Sources. The wings in PURE include no header of httpd, so unit tests can link them.

PURE     := core rule shm redis
SRC      := $(wildcard mod_ratelimit_redis.c src/*/*.c)
UNIT_SRC := $(wildcard $(PURE:%=src/%/*.c))
UNIT_T   := $(wildcard t/unit/*.c)
STORM_T  := $(wildcard t/storm/*.c)
EXPLORE_T := $(wildcard t/explore/*.c)
LUA      := $(wildcard src/redis/*.lua)
PERL     := $(wildcard t/*.pl t/*/*.pl t/*/*.pm t/*/*.t)

MODULE   := $(BUILD)/mod_ratelimit_redis.so
OBJ      := $(SRC:%.c=$(BUILD)/%.o)
UNIT_OBJ := $(UNIT_SRC:%.c=$(BUILD)/%.o)
UNIT     := $(UNIT_T:%.c=$(BUILD)/%)
STORM    := $(STORM_T:%.c=$(BUILD)/%)
EXPLORE  := $(EXPLORE_T:%.c=$(BUILD)/%)
FUZZ     := $(patsubst %.c,$(BUILD)/%,$(wildcard t/fuzz/*.c))
LUA_H    := $(LUA:src/redis/%.lua=$(BUILD)/%_lua.h)

# -isystem keeps warnings about headers of the system out.

HTTPD_INC := $(shell $(APXS) -q INCLUDEDIR 2>/dev/null)
LIBEXEC   := $(shell $(APXS) -q LIBEXECDIR 2>/dev/null)
LIB_FLAGS := $(shell pkg-config --cflags apr-1 apr-util-1 hiredis 2>/dev/null)
CPPFLAGS  += -I. -Isrc -I$(BUILD) $(patsubst -I%,-isystem %,-I$(HTTPD_INC) $(LIB_FLAGS)) $(DEFINES)

# TLS to Redis is built if hiredis supports it; src/redis/tls.h decides.

TLS       := $(shell echo built RL_TLS_BUILT | $(CC) $(CPPFLAGS) -include src/redis/tls.h -E -P - \
                 2>/dev/null | grep 'built 1')
LIBS       = $(if $(TLS),-lhiredis_ssl -lssl -lcrypto) -lhiredis -laprutil-1 -lapr-1 -pthread

# The local tier swaps two words at once, which every x86-64 since 2006 can do.

MACHINE    = $(if $(findstring x86_64,$(shell $(CC) -dumpmachine)),-mcx16)

# Hardening flags of Debian packages, or the same flags if dpkg-buildflags is missing. Builds with sanitizers
# have none: sanitizers check more, and cannot follow the functions that _FORTIFY_SOURCE calls.

debian     = $(shell DEB_BUILD_MAINT_OPTIONS=hardening=+all dpkg-buildflags --get $(1) 2>/dev/null)
BRANCHES   = $(if $(findstring x86_64,$(shell $(CC) -dumpmachine)),-fcf-protection)
HARD_C    := $(or $(call debian,CFLAGS) $(call debian,CPPFLAGS),-fstack-protector-strong -Wformat \
                 -Werror=format-security -D_FORTIFY_SOURCE=2) -fstack-clash-protection $(BRANCHES)
HARD_LD   := $(or $(call debian,LDFLAGS),-Wl,-z,relro -Wl,-z,now)
UNHARDENED = $(SANITIZE)$(filter -O0,$(CFLAGS))
HARDEN     = $(if $(UNHARDENED),,$(HARD_C))
LINK       = $(if $(UNHARDENED),,$(HARD_LD)) $(LDFLAGS)

COMPILE    = $(CC) -std=gnu11 $(MACHINE) $(CPPFLAGS) $(HARDEN) $(WARN) $(CFLAGS) $(SANITIZE)

all: $(MODULE)

# Only the module record is visible, because httpd looks it up by name.

$(BUILD)/mod_ratelimit_redis.o: HIDDEN =
HIDDEN = -fvisibility=hidden

$(MODULE): $(OBJ)
	@echo "  LINK $@"
	$(Q)$(CC) -shared $(HARDEN) $(CFLAGS) $(SANITIZE) $(LINK) -Wl,--as-needed -o $@ $^ $(LIBS)

$(BUILD)/%.o: %.c Makefile | $(LUA_H)
	$(if $(HTTPD_INC),,$(error $(APXS) not found; make deps installs what is missing))
	@echo "  CC   $<"; mkdir -p $(@D)
	$(Q)$(COMPILE) -fPIC $(HIDDEN) -MMD -MP -c -o $@ $<

# A script becomes a C string, decide.lua the string decide_lua. Comments and indentation are removed, because
# Redis gets the script at every handshake. A name RL_... is a macro that is replaced by its text.

$(BUILD)/%_lua.h: src/redis/%.lua
	@echo "  LUA  $<"; mkdir -p $(@D)
	$(Q)perl -ne 'BEGIN { print "static const char $*_lua[] =\n" }' \
	    -e 's/^\s+|\s+$$//g; s/\s*--[^"\x27]*$$//; s/^--.*//; next unless length;' \
	    -e 's/([\\"])/\\$$1/g; s/\bRL_\w+/" TEXT_OF($$&) "/g;' \
	    -e 'print "    \"$$_\\n\"\n"; END { print "    ;\n" }' $< >$@

# Programs of tests and benches link only the objects that they use from this archive.

$(BUILD)/unit.a: $(UNIT_OBJ)
	@mkdir -p $(@D); rm -f $@
	$(Q)ar rcs $@ $^

$(BUILD)/t/%.o: t/%.c | $(LUA_H)
	@echo "  CC   $<"; mkdir -p $(@D)
	$(Q)$(COMPILE) -It/lib -MMD -MP -c -o $@ $<

$(BUILD)/t/%: $(BUILD)/t/%.o $(BUILD)/unit.a
	$(Q)$(COMPILE) -o $@ $< $(BUILD)/unit.a $(LINK) $(LIBS) -lm

# The rooms that the explorer links. Every atomic access in them is a point where another thread can be
# scheduled. EXPLORE_SRC can be a copy of the sources with a planted fault.

EXPLORED    = core/algorithms core/limiter shm/local shm/local_count shm/local_snapshot shm/local_lease shm/stats \
              shm/top_denied shm/delayed redis/breaker
EXPLORE_SRC = src

$(BUILD)/t/explore/%: t/explore/%.c $(EXPLORED:%=$(EXPLORE_SRC)/%.c) \
                      $(wildcard t/explore/*.h src/*/*.h)
	@echo "  CC   $<"; mkdir -p $(@D)
	$(Q)$(COMPILE) -include t/explore/point.h -iquote $(EXPLORE_SRC) -It/lib -o $@ $(filter %.c,$^) \
	    -laprutil-1 -lapr-1

# The simulator of leases from a copy of its sources, which has a planted fault.

SIMULATED = core/algorithms core/limiter shm/local shm/local_lease shm/local_snapshot

$(COPY)/lease_simulator: $(COPY)/t/unit/lease_simulator.c
	$(Q)$(COMPILE) -iquote $(COPY)/src -iquote $(COPY)/t/lib -o $@ $< $(SIMULATED:%=$(COPY)/src/%.c) \
	    -laprutil-1 -lapr-1 -lm

$(BUILD)/t/fuzz/%: t/fuzz/%.c $(BUILD)/unit.a | $(LUA_H)
	@echo "  CC   $<"; mkdir -p $(@D)
	$(Q)$(COMPILE) -fsanitize=fuzzer -MMD -MP -MF $@.d -o $@ $< $(BUILD)/unit.a $(LIBS)

-include $(OBJ:.o=.d) $(UNIT_OBJ:.o=.d) $(UNIT:=.d) $(STORM:=.d) $(FUZZ:=.d)

deps:
	@t/lib/deps.sh test

# A second make, because this one looked for headers before deps installed them.
test: deps
	@$(MAKE) check

# A build of the module in which pending units become charges after seconds instead of minutes.

periods:
	@$(MAKE) BUILD=build/periods DEFINES=-DRL_PENDING_PERIOD_MS=4000 all

# Tests of the sources alone, the same on every system: planted faults and the model.

PLANTED = t/explore t/model

check: $(MODULE) $(UNIT) $(STORM) $(EXPLORE) periods
	@RL_MODULE=$(CURDIR)/$(MODULE) $(PROVE) -j$(JOBS) -r $(UNIT) $(EXPLORE) $(PLANTED) $(TESTS) $(STORM) t/storm

# The same tests at other hours: see t/lib/hours.sh.

$(BUILD)/wallclock.so: t/lib/wallclock.c
	@echo "  CC   $<"; mkdir -p $(@D)
	$(Q)$(CC) $(WARN) $(CFLAGS) -Wno-missing-prototypes -shared -fPIC -o $@ $<

test-hours: deps
	@$(MAKE) $(MODULE) $(UNIT) $(STORM) $(BUILD)/wallclock.so periods
	@RL_MODULE=$(CURDIR)/$(MODULE) t/lib/hours.sh $(BUILD)/wallclock.so \
	    $(PROVE) -j$(JOBS) -r $(UNIT) $(TESTS) $(STORM) t/storm

# The tests that use Redis, for another server that RL_REDIS_SERVER names.

REDIS_UNIT := $(shell grep -l '"redis.h"' $(UNIT_T))
REDIS_T    := $(shell grep -l 'RedisServer' t/httpd/*.t)

check-redis: $(MODULE) $(REDIS_UNIT:%.c=$(BUILD)/%)
	@RL_MODULE=$(CURDIR)/$(MODULE) $(PROVE) $(REDIS_UNIT:%.c=$(BUILD)/%) $(REDIS_T)

unit: $(UNIT) $(STORM)
	$(PROVE) -j$(JOBS) $(UNIT) $(STORM)

demo:
	@t/lib/deps.sh demo
	@$(MAKE) all
	@RL_MODULE=$(CURDIR)/$(MODULE) perl t/demo.pl

# httpd itself is not sanitized, so the runtime of ASan is preloaded and leaks are not reported.

ASAN = -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -Wno-error
TSAN = -fsanitize=thread -fno-omit-frame-pointer -Wno-error

# A tenth of the random steps is enough for sanitizers, which check memory and threads.

SANITIZED  = $(TESTS)
FEWER      = RL_STEPS=100000 RL_ROUNDS=20000

sanitize: deps
	@$(FEWER) $(MAKE) BUILD=build/tsan SANITIZE='$(TSAN)' unit
	@$(FEWER) $(MAKE) BUILD=build/asan SANITIZE='$(ASAN)' unit all
	RL_MODULE=$(CURDIR)/build/asan/mod_ratelimit_redis.so \
	    RL_LD_PRELOAD=$(realpath $(shell $(CC) -print-file-name=libasan.so)) \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    $(PROVE) -j$(JOBS) -r $(SANITIZED)

# The storm tests of make check, with more rounds.

STORM_CYCLES   = 1000
STORM_RESTARTS = 40
STORM_RANDOM   = 200000
STORM_STRIDE   = 1

storm: deps
	@$(MAKE) $(MODULE) $(STORM) $(EXPLORE)
	@RL_MODULE=$(CURDIR)/$(MODULE) STORM_CYCLES=$(STORM_CYCLES) STORM_STRIDE=$(STORM_STRIDE) \
	    EXPLORE_RANDOM=$(STORM_RANDOM) STORM_RESTARTS=$(STORM_RESTARTS) $(PROVE) -j2 --timer $(STORM) $(EXPLORE) t/storm

# The root of the Debian stays in build/debian13 and is used again.

test-debian13:
	@[ "$$(id -u)" != 0 ] || t/lib/deps.sh debian13
	@t/lib/debian13.sh

# Inputs with new coverage stay in build/fuzz/corpus; an input that fails is in build/fuzz.

FUZZ_SECONDS = 10

fuzz: deps
	@t/lib/deps.sh clang && t/lib/deps.sh fuzz
	@$(MAKE) BUILD=build/fuzz CC=$(CLANG) \
	    SANITIZE='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all' fuzz-all

fuzz-all: $(FUZZ)
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(PROVE) --exec t/lib/fuzz.sh $(FUZZ)

lint:
	@t/lib/deps.sh test lint
	@$(MAKE) analyse

analyse: $(LUA_H)
	$(CLANG) -std=gnu11 $(MACHINE) $(CPPFLAGS) -It/lib $(WARN) -fsyntax-only $(SRC) $(UNIT_T) $(STORM_T)
	for f in $(UNIT_SRC); do $(COMPILE) -fanalyzer -S -o /dev/null $$f || exit 1; done
	cppcheck --quiet --std=c11 --error-exitcode=1 --inline-suppr -Isrc -I$(BUILD) \
	    --enable=warning,performance,portability --suppress=missingIncludeSystem \
	    --suppress=normalCheckLevelMaxBranches $(SRC)
	@t/lib/wings.pl
	@! grep -L SPDX-License-Identifier $(wildcard *.c src/*/* t/*/*.[ch] t/*/*.pml) $(PERL) $(wildcard t/lib/*.sh) | grep .
	@! perl -CSD -ne 'print "$$ARGV:$$.: longer than 100 columns\n" if length > 101; close ARGV if eof' \
	    $(wildcard *.c src/*/*.[ch] t/*/*.[ch] t/*/*.pml) | grep .
	for f in $(PERL); do perl -It/lib -wc $$f 2>&1 | grep -v 'syntax OK$$' && exit 1; done; true
	for f in t/lib/*.sh; do sh -n $$f || exit 1; done
	bash -n .ci/run

bench: deps
	@t/lib/deps.sh bench
	@$(MAKE) all $(patsubst %.c,$(BUILD)/%,$(wildcard t/bench/*.c))
	for f in $(wildcard t/bench/*.pl); do perl -It/lib $$f || exit 1; done

install: $(MODULE)
	install -D -m 644 -s $(MODULE) $(DESTDIR)$(LIBEXEC)/mod_ratelimit_redis.so
	install -D -m 644 -t $(DESTDIR)$(CONFDIR) conf/ratelimit_redis.load
	[ -e $(DESTDIR)$(CONFDIR)/ratelimit_redis.conf ] \
	    || install -m 644 -t $(DESTDIR)$(CONFDIR) conf/ratelimit_redis.conf

clean:
	rm -rf build

.PHONY: all deps test check periods check-redis test-hours test-debian13 unit demo sanitize storm fuzz fuzz-all lint analyse bench install clean
.DELETE_ON_ERROR:
.PRECIOUS: $(BUILD)/t/%.o
