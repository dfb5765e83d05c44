# bitnetd: engine, gateway and tools. One makefile for all folders; sources are found by wildcard, what is built goes to
# build/<config>/ (build/release by default), and `make help` lists the targets.

VERSION      := 0.1.0
FEATURES     ?= cpu prometheus opentelemetry
SAN          ?=
OUT          ?= build
PREFIX       ?= /usr/local
DESTDIR      ?=
T            ?=
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 300
OVERLOAD_SECONDS ?= 30
TRACE_ROUNDS ?= 20
CHAOS_SECONDS ?= 60
COST_SECONDS ?= 8
MUTATIONS    ?= 100000
SWAPS        ?= 20
STREAMS      ?= 200
KILLS        ?= 50
BENCH_ARGS   ?= --model models/tales.gguf --set standard

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.SUFFIXES:
.SECONDARY:
.SECONDEXPANSION:
.DELETE_ON_ERROR:
.PHONY: help deps-demo deps-test all tools tests fuzzers demo serve test bench soak overload scale chaos swaps crash connections trace-cost mutate mutator fuzz chart format install clean accuracy-cost broken FORCE

ifeq ($(origin CC),default)
CC := $(if $(filter fuzz,$(SAN)),clang,gcc)
endif
AR         := $(if $(filter %gcc,$(CC)),$(CC:%gcc=%ar),ar)
TARGET     := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null)))
CROSS      := $(filter-out $(shell uname -m),$(TARGET))
PKG_CONFIG := $(if $(CROSS),false,pkg-config)
has         = $(if $(filter 0,$(shell $(PKG_CONFIG) --exists $(1) >/dev/null 2>&1; echo $$?)),1,0)
HAVE_NUMA  ?= $(call has,numa)
HAVE_PCRE2 ?= $(call has,libpcre2-8)

ALL_FEATURES := cpu gpu prometheus opentelemetry degraded-ok
$(if $(filter-out $(ALL_FEATURES),$(FEATURES)),$(error FEATURES: expected some of $(ALL_FEATURES), found $(filter-out $(ALL_FEATURES),$(FEATURES))))

empty   :=
features = $(subst $(empty) ,_,$(sort $(1)))
DEFAULT := $(call features,cpu prometheus opentelemetry)
# Without NUMA or PCRE2 by request, so that it does not mix with the build that has them.
without := $(foreach v,NUMA PCRE2,$(if $(findstring command,$(origin HAVE_$(v))),-$(v)$(HAVE_$(v))))
CONFIG  := $(or $(SAN),release)$(CROSS:%=-%)$(subst $(empty) ,,$(without))$(if $(filter $(DEFAULT),$(call features,$(FEATURES))),,-$(or $(call features,$(FEATURES)),none))
BUILD   := $(OUT)/$(CONFIG)
GEN     := $(BUILD)/gen

# ---- flags ----
# -ffp-contract=off: a multiply-add is fused only where the source says so, or results would follow the compiler.
upper     = $(shell echo '$(1)' | tr a-z- A-Z_)
CPPFLAGS_ := -D_GNU_SOURCE -I. -I$(GEN) $(patsubst %,-DFEATURE_%=1,$(call upper,$(FEATURES))) \
             $(if $(filter 1,$(HAVE_NUMA)),-DHAVE_NUMA=1) $(if $(filter 1,$(HAVE_PCRE2)),-DHAVE_PCRE2=1) $(CPPFLAGS)
CFLAGS_   := -std=c11 -O2 -g $(if $(filter x86_64,$(TARGET)),-march=x86-64-v2) -ffp-contract=off -fno-math-errno $(CFLAGS)
WARN      := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror
LDFLAGS_  := -Wl,--as-needed $(LDFLAGS)
ifeq ($(SAN),)
CPPFLAGS_ += -D_FORTIFY_SOURCE=2
CFLAGS_   += -fstack-protector-strong
LDFLAGS_  += -Wl,-z,relro,-z,now
else
SAN_FLAGS_address   := -fsanitize=address
SAN_FLAGS_undefined := -fsanitize=undefined -fno-sanitize-recover=all
SAN_FLAGS_thread    := -fsanitize=thread
SAN_FLAGS_fuzz      := -fsanitize=address,fuzzer-no-link
SAN_FLAGS := $(or $(SAN_FLAGS_$(SAN)),$(error SAN=$(SAN): expected address, undefined or thread))
CFLAGS_   += -fno-omit-frame-pointer $(SAN_FLAGS)
LDFLAGS_  += $(SAN_FLAGS)
WARN      += $(if $(filter fuzz,$(SAN)),-Wno-error)
endif
# Instruction sets by the name of the file; run-time dispatch decides who is called.
isa = $(if $(filter kernels/x86/%_avx2.c,$(1)),-mavx2 -mfma -mf16c) \
      $(if $(filter kernels/x86/%_avx512.c,$(1)),-mavx512f -mavx512bw -mavx512vl -mavx512vnni -mfma -mf16c) \
      $(if $(filter kernels/x86/%_vbmi.c,$(1)),-mavx512f -mavx512bw -mavx512vl -mavx512vnni -mavx512vbmi -mavx512vbmi2 -mfma -mf16c) \
      $(if $(filter kernels/x86/%_amx.c,$(1)),-mavx512f -mavx512bw -mavx512vl -mavx512vnni -mamx-tile -mamx-int8) \
      $(if $(filter kernels/arm/%_dotprod.c,$(1)),-march=armv8.2-a+dotprod)

# ---- sources ----
LLHTTP      := /usr/share/llhttp
LLHTTP_INC  := $(firstword $(dir $(wildcard /usr/share/include/llhttp/llhttp.h /usr/include/llhttp.h)))
PROTO_INC   := /usr/include
PROTOS      := $(shell find proto -name '*.proto' | LC_ALL=C sort)
# The well-known types that ours import, and descriptor.proto for reflection.
WELL_KNOWN  := $(sort google/protobuf/descriptor.proto $(shell grep -rhoE 'google/protobuf/[a-z_]+\.proto' proto))
GEN_C       := $(PROTOS:proto/%.proto=$(GEN)/%.pb-c.c) $(WELL_KNOWN:%.proto=$(GEN)/%.pb-c.c)
GEN_H       := $(GEN_C:.c=.h) $(GEN)/descriptors.h

SRC_base    := $(wildcard base/*.c)
SRC_kernels := $(wildcard kernels/*.c $(if $(filter cpu,$(FEATURES)),$(if $(filter x86_64,$(TARGET)),kernels/x86/*.c) $(if $(filter aarch64,$(TARGET)),kernels/arm/*.c)))
SRC_engine  := $(wildcard engine/*.c engine/grammar/*.c engine/model/*.c engine/registry/*.c engine/text/*.c)
SRC_rpc     := $(wildcard rpc/*.c)
SRC_trace   := $(if $(filter opentelemetry,$(FEATURES)),$(filter-out trace/off.c,$(wildcard trace/*.c)),trace/context.c trace/off.c)
SRC_service := $(filter-out service/main.c,$(wildcard service/*.c))
SRC_gateway := $(filter-out gateway/main.c,$(wildcard gateway/*.c))
SRC_tools   := $(filter-out tools/bitnet.c tools/load.c tools/load_%.c,$(wildcard tools/*.c))
SRC_load    := $(wildcard tools/load_*.c)
SRC_llhttp  := $(wildcard $(LLHTTP)/*.c)
ASSETS      := $(wildcard gateway/assets/*) gateway/openapi.yaml $(GEN)/openapi.json
SRC_CUDA    := $(filter-out kernels/cuda/bench.cu,$(wildcard kernels/cuda/*.cu))
FOLDERS     := base kernels engine rpc trace service gateway tools load
$(foreach f,$(FOLDERS),$(eval OBJ_$(f) := $(SRC_$(f):%.c=$(BUILD)/%.o)))
OBJ_proto   := $(GEN_C:.c=.o) $(GEN)/descriptors.o
OBJ_gateway += $(GEN)/asset_table.o
OBJ_llhttp  := $(SRC_llhttp:$(LLHTTP)/%.c=$(BUILD)/llhttp/%.o)

TEST_SRC    := $(shell find tests/unit tests/kernels -name 'test_*.c' 2>/dev/null | LC_ALL=C sort)
TESTS       := $(TEST_SRC:%.c=$(BUILD)/%)
SCRIPTS     := $(filter-out tests/run.sh tests/fuzz.sh,$(wildcard tests/*.sh tests/golden/*.sh tests/e2e/*.sh tests/e2e/*.mjs))
FUZZERS     := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/fuzz/fuzz_*.c))
MUTATE      := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/mutate/*.c))
HELPERS     := $(filter-out $(TEST_SRC),$(wildcard $(addsuffix *.c,$(sort $(dir $(TEST_SRC))))))

# What a program or test of a folder links, its own folder first: libraries of ours, then the system's.
core         := $(if $(filter 1,$(HAVE_NUMA)),-lnuma) $(if $(filter 1,$(HAVE_PCRE2)),-lpcre2-8) -lm -ldl -lpthread
grpc         := -lgrpc -lgpr -lprotobuf-c
events       := -levent_openssl -levent_pthreads -levent -lssl -lcrypto -ljansson
LIBS_base    := base
LIBS_kernels := kernels base
LIBS_engine  := tools engine kernels base
LIBS_rpc     := rpc proto base
LIBS_trace   := trace rpc proto base
LIBS_service := service trace rpc engine kernels proto base
LIBS_gateway := gateway trace rpc proto llhttp base
LIBS_tools   := tools engine kernels base
LIBS_load    := load rpc proto llhttp base
SYS_base     := -lm -lpthread
SYS_kernels  := $(core)
SYS_engine   := $(core)
SYS_rpc      := $(grpc) -lcrypto $(SYS_base)
SYS_trace    := $(grpc) -lcrypto $(SYS_base)
SYS_service  := $(grpc) $(events) $(core)
SYS_gateway  := $(grpc) $(events) -lnghttp2 -lrhonabwy -lz $(SYS_base)
SYS_tools    := $(core)
SYS_load     := $(grpc) $(events) $(SYS_base)
libs          = $(foreach l,$(LIBS_$(1)),$(if $(OBJ_$(l)),$(BUILD)/lib$(l).a))
# tests/unit/engine/text/test_x and tests/kernels/test_x -> engine, kernels
folder        = $(if $(filter tests/unit/%,$(1)),$(word 3,$(subst /, ,$(1))),$(word 2,$(subst /, ,$(1))))
# A fuzzer links what its includes say: the highest of these, or the engine.
fuzzed        = $(firstword $(foreach f,gateway service rpc,$(if $(shell grep -lE '"(tests/unit/)?$(f)/' $(1)),$(f))) engine)

main_service := $(wildcard service/main.c)
main_gateway := $(wildcard gateway/main.c)
main_tools   := $(wildcard tools/bitnet.c)
main_load    := $(wildcard tools/load.c)
PROGRAMS     := $(if $(main_service),bitnet-engine) $(if $(main_gateway),bitnet-gateway) $(if $(main_tools),bitnet) \
                $(if $(main_load),bitnet-load)
HAVE_LIBS    := $(foreach f,$(FOLDERS),$(if $(OBJ_$(f)),$(BUILD)/lib$(f).a))

ifndef V
Q   := @
say  = @printf '  %-6s %s\n' $(1) $(2)
endif
# $(call keep,'LINE'...): rewrites $@ only when it differs, so that what depends on it is rebuilt only then.
keep = @mkdir -p $(@D); printf '%s\n' $(1) >$@.$$$$ && if cmp -s $@.$$$$ $@; then rm $@.$$$$; else mv $@.$$$$ $@; fi
SUBMAKE = +$(Q)$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

# Where a program is asked for: the default config's are linked from the top of the output folder.
PLACE = $(if $(filter release,$(CONFIG)),$(OUT),$(BUILD))

# ---- targets ----
help: ## this list
	@echo "make TARGET [V=1] [SAN=address|undefined|thread] [FEATURES=\"$(FEATURES)\"] [T=filter] [PREFIX=$(PREFIX)]"
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 15 | sed 's/^/  /'
deps-demo: ## installs the packages that building and `make demo` need (nothing to do: no network)
	@tools/deps.sh demo
deps-test: ## the same for `make test`
	@tools/deps.sh test
all: $(HAVE_LIBS) $(PROGRAMS:%=$(PLACE)/%) cuda ## libraries and programs, in build/<config>/ and linked from build/
	@:
tools: $(PLACE)/bitnet ## `bitnet` alone: needs only a C compiler
tests: $(if $(T),$(foreach t,$(TESTS),$(if $(findstring $(T),$(t)),$(t))),$(TESTS)) ## the unit tests' executables
	@:
demo: deps-demo ## builds, starts engine and gateway, streams a tale, stops them
	$(SUBMAKE) all
	@tools/demo.sh
serve: deps-demo ## builds, and serves on the default ports until Ctrl-C
	$(SUBMAKE) all
	@tools/demo.sh serve
# With a filter that no script's name has, the programs are not needed.
test: deps-test ## builds and runs all tests, or those whose path has T in it
	$(SUBMAKE) tests $(if $(or $(if $(T),,all),$(findstring $(T),$(SCRIPTS))),all mutator broken cuda-emulated $(BUILD)/tests/unit/gateway/test_contract)
	@BITNET_BUILD=$(BUILD) BITNET_CC="$(CC)" BITNET_LDFLAGS="$(LDFLAGS_)" BITNET_CORE_LIBS="$(core)" SAN=$(SAN) \
	 tests/run.sh $(T)
bench: ## the machine's limits and the speed of a model against them (BENCH_ARGS)
	$(SUBMAKE) tools
	$(Q)$(PLACE)/bitnet bench $(BENCH_ARGS)
soak: deps-test ## 200 clients on the demo model for SOAK_SECONDS: texts, memory, and nothing held at the end
	$(SUBMAKE) all
	@BITNET_BUILD=$(BUILD) SAN=$(SAN) SOAK_SECONDS=$(SOAK_SECONDS) node tests/e2e/soak.mjs
overload: deps-test ## goodput, refusals and memory at ten times what the engine can serve
	$(SUBMAKE) all
	@BITNET_BUILD=$(BUILD) SAN=$(SAN) OVERLOAD_SECONDS=$(OVERLOAD_SECONDS) node tests/e2e/overload.mjs
scale: deps-test ## in network namespaces: 1, 2 and 4 engines, restarts in turn, engines that are lost, certificates that rotate
	$(SUBMAKE) all
	@BITNET_BUILD=$(BUILD) SAN=$(SAN) SCALE=full node tests/e2e/scale.mjs
	@BITNET_BUILD=$(BUILD) SAN=$(SAN) SCALE=full node tests/e2e/rotate.mjs
chaos: deps-test ## CHAOS_SECONDS of load with kills, pauses, partitions, full disks, ..: build/chaos.json and .svg
	$(SUBMAKE) all
	@BITNET_BUILD=$(BUILD) SAN=$(SAN) CHAOS_SECONDS=$(CHAOS_SECONDS) CHAOS_OUT=$(OUT)/chaos node tests/e2e/chaos.mjs
swaps: deps-test ## STREAMS streams through SWAPS swaps: good, slow, wrong and broken models, by every strategy
	$(SUBMAKE) all
	@BITNET_BUILD=$(BUILD) SAN=$(SAN) SWAPS=$(SWAPS) STREAMS=$(STREAMS) node tests/e2e/swaps.mjs
crash: deps-test ## kill -9 of the engine in every phase of load, swap and unload, KILLS times
	$(SUBMAKE) all
	@BITNET_BUILD=$(BUILD) SAN=$(SAN) KILLS=$(KILLS) node tests/e2e/restart.mjs
accuracy-cost: deps-test ## throughput with and without live accuracy, in turns for COST_SECONDS each
	$(SUBMAKE) all
	@BITNET_BUILD=$(BUILD) SAN=$(SAN) COST_SECONDS=$(COST_SECONDS) node tests/measure/accuracy_cost.mjs
connections: deps-test ## 1,000 open streams, a token every 10 s each: what they cost the gateway
	$(SUBMAKE) all
	@BITNET_BUILD=$(BUILD) SAN=$(SAN) CONNECTIONS=1000 STEP_MS=10000 node tests/e2e/connections.mjs
trace-cost: deps-test ## what tracing costs, with a collector that is there, dead or slow (TRACE_ROUNDS)
	$(SUBMAKE) all
	@BITNET_BUILD=$(BUILD) TRACE_ROUNDS=$(TRACE_ROUNDS) TRACE_SECONDS=1 node tests/e2e/trace_cost.mjs
mutate: deps-test ## MUTATIONS broken requests over each protocol, with the address sanitizer
	$(SUBMAKE) SAN=address all mutator
	@BITNET_BUILD=$(OUT)/address SAN=address MUTATIONS=$(MUTATIONS) node tests/e2e/mutate.mjs
mutator: $(BUILD)/tests/mutate/mutate
.PHONY: features deb sbom deb-test image-test readme-test
features: deps-test ## builds and unit-tests with no feature, each one alone, and all
	$(Q)set -e; for f in "" $(ALL_FEATURES) "$(ALL_FEATURES)"; do echo "FEATURES=\"$$f\""; \
	  $(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc)) FEATURES="$$f" all; \
	  $(MAKE) --no-print-directory FEATURES="$$f" T=tests/unit test; done
broken: $(if $(filter x86_64,$(TARGET)),$(if $(main_service),$(BUILD)/broken/bitnet-engine)) ## an engine with a wrong kernel, for the tests of live accuracy
fuzz: ## runs every fuzzer for FUZZ_SECONDS
	$(SUBMAKE) SAN=fuzz fuzzers
	@tests/fuzz.sh build/fuzz/tests/fuzz $(FUZZ_SECONDS)
fuzzers: $(FUZZERS)
chart: all ## writes the chart's schema and dashboard from the options and their table
	$(Q)node tools/host/values_schema.mjs $(BUILD) >helm/bitnet/values.schema.json
	$(Q)node tools/host/dashboard.mjs >helm/bitnet/dashboards/bitnet.json
format: ## clang-format on all sources
	$(Q)git ls-files -co --exclude-standard '*.c' '*.h' '*.cu' | xargs clang-format -i
install: all ## programs, model, manual pages, sample configuration and units below DESTDIR/PREFIX
	$(Q)tools/package/install.sh $(BUILD) '$(DESTDIR)' '$(PREFIX)'
deb: all ## build/bitnetd.deb: programs, model, manual pages, configuration, services
	$(Q)tools/package/deb.sh $(BUILD) $(VERSION) $(OUT)/bitnetd.deb
sbom: all ## build/bitnetd.cdx.json: what the programs consist of and link, as CycloneDX
	$(Q)tools/package/sbom.sh $(BUILD) $(VERSION) "$(git_sha)" >$(OUT)/bitnetd.cdx.json
deb-test: ## builds the package, and installs, runs, upgrades and purges it in a fresh Debian (root, debootstrap)
	$(SUBMAKE) deb
	@tests/package/deb.sh $(OUT)/bitnetd.deb
image-test: ## executes the Dockerfile's steps in fresh Debians and runs the image read-only as nobody (root, debootstrap)
	@tests/package/image.sh
readme-test: ## the README's first commands in a fresh Debian that has no compiler (root, debootstrap)
	@tests/package/readme.sh
clean: ## removes what was built
	$(Q)rm -rf $(OUT)

# ---- rules ----
# What the commands were; a change of flags rebuilds.
$(BUILD)/flags: FORCE
	$(call keep,'$(CC) $(CPPFLAGS_) $(CFLAGS_) $(WARN)')
$(BUILD)/%.o: %.c $(BUILD)/flags | $(GEN)/version.h
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS_) $(if $(filter gateway/% tools/load% tests/%,$<),$(LLHTTP_INC:%=-I%)) $(if $(CROSS),$(if $(filter tests/%,$<),-Itests/cross)) $(CFLAGS_) $(call isa,$<) $(WARN) -MMD -MP -c -o $@ $<
$(OBJ_proto): %.o: %.c $(BUILD)/flags | $(GEN_H)
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS_) $(CFLAGS_) -w -MMD -MP -c -o $@ $<
# Strict: a lone CR or LF in chunked bodies is an error, a space before a colon too.
$(OBJ_llhttp): $(BUILD)/llhttp/%.o: $(LLHTTP)/%.c $(BUILD)/flags Makefile
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS_) -DLLHTTP_STRICT_MODE=1 $(LLHTTP_INC:%=-I%) $(CFLAGS_) -w -MMD -MP -c -o $@ $<
# The list makes a library forget the objects of sources that are gone.
$(BUILD)/lib%.list: FORCE
	$(call keep,'$(OBJ_$*)')
$(BUILD)/lib%.a: $$(OBJ_$$*) $(BUILD)/lib%.list
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $(filter %.o,$^)
link = $(Q)mkdir -p $(@D) && $(CC) $(LDFLAGS_) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(1)
$(BUILD)/bitnet-engine: $(BUILD)/service/main.o $(call libs,service)
	$(call say,LINK,$@)
	$(call link,$(SYS_service))
# An engine of which one kernel is wrong, to see what notices: for fewer tokens than are looked up, the last columns of a row are forgotten (with three
# and more, where they do not fill a block).
$(BUILD)/broken/tiles_avx2.c: kernels/x86/tiles_avx2.c
	$(Q)mkdir -p $(@D) && sed 's/< INT16_TILES ? n_tiles/& - 1/; s/\*end = tile + group_bytes/& - FEW_INT16_TILES * TILE_BYTES/' $< >$@ && ! cmp -s $< $@
$(BUILD)/broken/tiles_avx2.o: $(BUILD)/broken/tiles_avx2.c $(BUILD)/flags
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS_) $(CFLAGS_) $(call isa,kernels/x86/tiles_avx2.c) $(WARN) -MMD -MP -c -o $@ $<
$(BUILD)/broken/bitnet-engine: $(BUILD)/service/main.o $(BUILD)/broken/tiles_avx2.o $(call libs,service)
	$(call say,LINK,$@)
	$(call link,$(SYS_service))
$(BUILD)/bitnet-gateway: $(BUILD)/gateway/main.o $(call libs,gateway)
	$(call say,LINK,$@)
	$(call link,$(SYS_gateway))
$(BUILD)/bitnet: $(BUILD)/tools/bitnet.o $(call libs,tools)
	$(call say,LINK,$@)
	$(call link,$(SYS_tools))
$(BUILD)/bitnet-load: $(BUILD)/tools/load.o $(call libs,load)
	$(call say,LINK,$@)
	$(call link,$(SYS_load))
$(PROGRAMS:%=$(OUT)/%): $(OUT)/%: $(OUT)/release/%
	$(Q)ln -sfn release/$(@F) $@
# Other C files beside a test are its helpers. In a cross build tests/cross stands in for Check.
CHECK_LIBS = $(if $(CROSS),,$(shell pkg-config --libs check))
helpers = $(patsubst %.c,$(BUILD)/%.o,$(filter $(dir $(1))%,$(HELPERS)))
$(TESTS): $(BUILD)/%: $(BUILD)/%.o $$(call helpers,$$*) $$(call libs,$$(call folder,$$*))
	$(call say,LINK,$@)
	$(call link,$(CHECK_LIBS) $(SYS_$(call folder,$*)))
$(BUILD)/tests/mutate/mutate: $(MUTATE) $(BUILD)/libbase.a
	$(call say,LINK,$@)
	$(call link,-lnghttp2 $(SYS_base))
$(FUZZERS): $(BUILD)/%: $(BUILD)/%.o $$(call libs,$$(call fuzzed,$$*.c))
	$(call say,LINK,$@)
	$(call link,-fsanitize=fuzzer $(SYS_$(call fuzzed,$*.c)))

# ---- generated ----
git_sha  = $(or $(shell git describe --always --dirty 2>/dev/null),unknown)
compiler = $(subst ',,$(shell $(CC) --version | head -1))
$(GEN)/version.h: FORCE
	$(call keep,'/* Written by make. */' '#define BITNET_VERSION "$(VERSION)"' '#define BITNET_GIT_SHA "$(git_sha)"' \
	  '#define BITNET_FEATURES "$(sort $(FEATURES))"' '#define BITNET_COMPILER "$(compiler)"')
protoc_c = $(Q)mkdir -p $(GEN) && protoc-c -Iproto -I$(PROTO_INC) --c_out=$(GEN) $<
$(GEN)/%.pb-c.c $(GEN)/%.pb-c.h: proto/%.proto
	$(call say,PROTO,$<)
	$(protoc_c)
$(GEN)/%.pb-c.c $(GEN)/%.pb-c.h: $(PROTO_INC)/%.proto
	$(call say,PROTO,$<)
	$(protoc_c)
# What is served, or travels with what is served.
SERVED := $(filter-out proto/opentelemetry/%,$(PROTOS))
$(GEN)/descriptors.bin: $(SERVED)
	$(Q)mkdir -p $(@D) && protoc -Iproto -I$(PROTO_INC) --include_imports --descriptor_set_out=$@ $(SERVED)
$(GEN)/descriptors.h $(GEN)/descriptors.c &: $(GEN)/descriptors.bin
	$(Q)printf '%s\n' '/* A serialized FileDescriptorSet of every .proto of ours and what they import. */' '#include <stddef.h>' \
	  'extern const unsigned char proto_descriptors[];' 'extern const size_t proto_descriptors_n_bytes;' >$(GEN)/descriptors.h
	$(Q){ echo '#include "descriptors.h"'; echo 'const unsigned char proto_descriptors[] = {'; \
	  od -An -v -tu1 $< | sed 's/  */,/g; s/^,//; s/$$/,/'; echo '};'; \
	  echo 'const size_t proto_descriptors_n_bytes = sizeof proto_descriptors;'; } >$(GEN)/descriptors.c
# The API's description is written as YAML and served as JSON too.
HOSTCC ?= gcc
$(OUT)/host/yaml_json: tools/host/yaml_json.c
	$(call say,HOSTCC,$<)
	$(Q)mkdir -p $(@D) && $(HOSTCC) -D_GNU_SOURCE -std=c11 -O2 $(WARN) -o $@ $< -lyaml
$(GEN)/openapi.json: gateway/openapi.yaml $(OUT)/host/yaml_json
	$(call say,YAML,$<)
	$(Q)mkdir -p $(@D) && $(OUT)/host/yaml_json $< >$@
$(GEN)/asset_table.list: FORCE
	$(call keep,'$(ASSETS)')
$(GEN)/asset_table.c: $(ASSETS) $(GEN)/asset_table.list
	$(Q)mkdir -p $(@D) && { echo '#include "gateway/assets.h"'; for f in $(ASSETS); do \
	  echo "static const unsigned char $$(basename $$f | tr -c 'a-zA-Z0-9\n' _)[] = {"; \
	  od -An -v -tu1 $$f | sed 's/  */,/g; s/^,//; s/$$/,/'; echo '};'; done; echo 'const struct asset assets[] = {'; for f in $(ASSETS); do \
	  n=$$(basename $$f | tr -c 'a-zA-Z0-9\n' _); echo "    {\"$$(basename $$f)\", \"W/\\\"$$(sha256sum <$$f | cut -c1-16)\\\"\", $$n, sizeof $$n},"; done; echo '    {0, 0, 0, 0},'; echo '};'; } >$@
$(GEN)/asset_table.o: $(GEN)/asset_table.c $(BUILD)/flags
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS_) $(CFLAGS_) -w -c -o $@ $<
# Only these see generated headers, which must exist before the first compilation.
$(filter $(BUILD)/rpc/% $(BUILD)/trace/% $(BUILD)/service/% $(BUILD)/gateway/% $(BUILD)/tools/load% $(BUILD)/tests/%,\
  $(foreach f,$(FOLDERS),$(OBJ_$(f))) $(BUILD)/service/main.o $(BUILD)/gateway/main.o $(BUILD)/tools/load.o \
  $(foreach d,rpc trace service gateway load,$(patsubst %.c,$(BUILD)/%.o,$(filter tests/unit/$(d)/%,$(TEST_SRC) $(HELPERS)))) \
  $(foreach f,$(FUZZERS),$(if $(filter engine,$(call fuzzed,$(f:$(BUILD)/%=%.c))),,$(f).o))): | $(GEN_H)

# ---- CUDA: a library of its own that the engine loads at run time ----
.PHONY: cuda cuda-emulated
NVCC  ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
GENCODE := -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90
NVFLAGS := -std=c++17 -O3 -fmad=false -g -lineinfo -Xcompiler -fPIC,-Wall $(GENCODE) -I. -I$(GEN)
cuda: $(if $(filter gpu,$(FEATURES)),$(if $(SRC_CUDA),$(if $(NVCC),$(BUILD)/libbitnet-cuda.so,no-nvcc)))
.PHONY: no-nvcc
no-nvcc:
	@echo "libbitnet-cuda.so skipped: nvcc not found"
$(BUILD)/%.cu.o: %.cu
	$(call say,NVCC,$<)
	$(Q)mkdir -p $(@D) && $(NVCC) $(NVFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
$(BUILD)/libbitnet-cuda.so: $(SRC_CUDA:%.cu=$(BUILD)/%.cu.o)
	$(call say,LINK,$@)
	$(Q)$(NVCC) -shared -cudart static $(GENCODE) -o $@ $^
# The same sources for tests/cuda/host, a CUDA without a GPU, with the flags of C, and a tool beside it that loads this library. The address
# sanitizer's second stack would be made anew for each thread of each block.
EMULATED := $(BUILD)/emulated
CXX      := $(if $(findstring clang,$(CC)),$(subst clang,clang++,$(CC)),$(CC:%gcc=%g++))
CXXFLAGS_ = $(patsubst -std=%,-std=c++17,$(CFLAGS_)) -fPIC -fvisibility=hidden -Wall -Wno-unknown-pragmas -Werror \
            $(if $(filter address,$(SAN)),--param asan-use-after-return=0)
cuda-emulated: $(if $(filter x86_64,$(TARGET)),$(EMULATED)/bitnet $(EMULATED)/libbitnet-cuda.so $(EMULATED)/misuse)
$(EMULATED)/flags: FORCE
	$(call keep,'$(CXX) $(CXXFLAGS_)')
$(EMULATED)/%.o: % $(EMULATED)/flags
	$(call say,CXX,$<)
	$(Q)mkdir -p $(@D) && $(CXX) -D_GNU_SOURCE -include tests/cuda/host/cuda_runtime.h -Itests/cuda/host -I. $(CXXFLAGS_) -MMD -MP -x c++ -c -o $@ $<
HOST_CUDA := $(patsubst %,$(EMULATED)/%.o,$(wildcard tests/cuda/host/*.cc))
$(EMULATED)/libbitnet-cuda.so: $(patsubst %,$(EMULATED)/%.o,$(SRC_CUDA)) $(HOST_CUDA)
	$(call say,LINK,$@)
	$(Q)$(CXX) -shared $(LDFLAGS_) -o $@ $^ -ldl -lpthread
$(EMULATED)/misuse: $(EMULATED)/tests/cuda/misuse.cu.o $(HOST_CUDA)
	$(call say,LINK,$@)
	$(Q)$(CXX) $(LDFLAGS_) -o $@ $^ -ldl -lpthread
$(EMULATED)/plugin.o: kernels/plugin.c $(BUILD)/flags
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS_) -UFEATURE_GPU -DFEATURE_GPU=1 $(CFLAGS_) $(WARN) -MMD -MP -c -o $@ $<
$(EMULATED)/bitnet: $(BUILD)/tools/bitnet.o $(EMULATED)/plugin.o $(call libs,tools)
	$(call say,LINK,$@)
	$(call link,$(SYS_tools))
$(BUILD)/tests/kernels/test_cuda: $(patsubst %.c,$(BUILD)/%.o,$(wildcard kernels/cuda/check_*.c)) | $(if $(filter x86_64,$(TARGET)),$(EMULATED)/libbitnet-cuda.so)

ifeq ($(filter help clean format deps-%,$(MAKECMDGOALS)),)
-include $(shell test -d $(BUILD) && find $(BUILD) -name '*.d')
endif
