EXTENSION  = pg_cqrs
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)

# In dependency order: a concept may use those before it, never those after.
# One name is one concept: src/NAME.c, src/NAME.h, src/NAME.sql (its part of
# the install script) and sql/NAME.sql (its test); not every concept has all.
BASE     = schema settings shmem catalog duration role statement registry \
           worker worker_bar worker_launcher worker_process worker_error
WRITE    = slice standby position_prepared position_stored position entity_lock last_event new_event journal_table journal \
           identity journal_guard position_worker journal_read handler effect entity_registry entity receipt \
           command_log journal_append snapshot state_cache merge fold state command
READ     = projection_registry projection_progress projection_settings \
           projection_batch projection_offset projection_step projection_failure \
           projection_forward projection_split projection_rebuild \
           projection_sync projection projection_control \
           projection_wait projection_worker projection_status
OUTSIDE  = command_delivery service_url service_address service_wait service_http service_signature service_options \
           service_latency service_breaker_state service_breaker service_control \
           service_request service_response service timer_queue timer_worker timer \
           outbox_claim outbox_event outbox outbox_control outbox_settle outbox_reply outbox_reply_worker \
           outbox_postpone outbox_worker outbox_status
CONCEPTS = $(BASE) $(WRITE) monitor $(READ) $(OUTSIDE) retention access module

MODULE_big = $(EXTENSION)
OBJS       = $(patsubst %.c,%.o,$(wildcard $(CONCEPTS:%=src/%.c)))
SQL        = $(wildcard $(CONCEPTS:%=src/%.sql))
DATA_built = $(EXTENSION)--$(EXTVERSION).sql
DATA       = $(wildcard src/upgrade/$(EXTENSION)--*.sql)
SHLIB_LINK = -lcurl

# Each suite starts a server of its own, so that "make install installcheck"
# needs none that runs. TAP tests find the same settings in TEMP_CONFIG.
SERVER         = --temp-config=test/postgresql.conf --load-extension=$(EXTENSION)
REGRESS       := $(patsubst sql/%.sql,%,$(wildcard $(patsubst %,sql/%.sql,$(CONCEPTS) privileges privileges_workers privileges_objects errors)))
REGRESS_OPTS   = --temp-instance=tmp_check $(SERVER)
ISOLATION     := $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --temp-instance=tmp_check_iso $(SERVER)
# The databases of the suites are the same whatever the environment says.
NO_LOCALE      = 1
ENCODING       = UTF8
PROVE_TESTS   := $(sort $(wildcard test/t/*.pl))
TAP_TESTS     := $(if $(PROVE_TESTS),1)
export TEMP_CONFIG ?= $(CURDIR)/test/postgresql.conf

# "make test" and "make demo" install what is missing, PostgreSQL included, so
# they must work before there is a pg_config to ask.
PG_CONFIG ?= pg_config
PGXS      := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
ifneq ($(PGXS),)
include $(PGXS)
else
all install installcheck:
	@echo "PostgreSQL's server headers are missing (asked: $(PG_CONFIG) --pgxs)" >&2; exit 1
endif

# PGXS tracks no headers; there are few, so each object depends on all of them.
$(OBJS) $(OBJS:.o=.bc): $(wildcard src/*.h)

$(DATA_built): $(SQL) $(EXTENSION).control Makefile
	cat $(SQL) > $@

.PHONY: test matrix ci sanitize valgrind coverage demo bench deb torture fuzz lint indent

# make test SUITES="regress clang"
test matrix coverage:
	@exec test/run $@ $(SUITES)

ci valgrind:
	@exec test/run $@

# make demo REPO=path: the history of another git repository
demo:
	@exec test/run demo "$(or $(REPO),.)"

# make bench CASE="append_new command_10" ROUNDS=5 SECONDS=2 CLIENTS=8 SYNC=off PUBLISH=yes
bench:
	@exec test/run bench case="$(CASE)" rounds="$(ROUNDS)" seconds="$(SECONDS)" clients="$(CLIENTS)" sync="$(SYNC)" publish="$(PUBLISH)"

# make torture DURATION=1h SEED=42; make fuzz DURATION=30m; make sanitize DURATION=30m: the fuzz there
torture:
	@exec test/run torture "$(or $(DURATION),40s)" seed="$(SEED)"

fuzz sanitize:
	@exec test/run $@ "$(or $(DURATION),2000)" seed="$(SEED)"

# Packages for Debian, in deb/
deb:
	@exec test/run deb

lint:
	@exec test/lint "$(CONCEPTS)" "$(REGRESS)"

# PostgreSQL's own layout; Debian's package is pg-bsd-indent. Two of its ways are
# mended: "type    *" above a function's name and ",.member" in an initialiser.
INDENT = pg_bsd_indent -bad -bap -bbb -bc -bl -cli1 -cp33 -cdb -nce -d0 -di12 -nfc1 -i4 \
         -l79 -lp -lpl -nip -npro -sac -tpg -ts4 -Utypedefs.list
MEND   = sed -E 's/^([A-Za-z_0-9]+)[ \t]+\*$$/\1 */; s/,([.[][a-zA-Z_])/, \1/g'
indent:
	@for file in src/*.[ch]; do $(INDENT) <$$file >indent.new && $(MEND) indent.new >$$file || break; done; rm -f indent.new
