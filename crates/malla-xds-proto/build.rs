//! Derives two things from the descriptor set that the `envoy-types` package carries:
//!
//! - `descriptors.bin`: that set without comments and validation options, plus the few messages this
//!   crate writes by hand, so that JSON and protobuf can be turned into each other;
//! - `map_plans.rs`: for every message, where map fields lie below it, so that encoding can put
//!   their entries in order (see `canonical.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, MessageOptions, OneofDescriptorProto,
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let source = envoy_types_directory()?.join("src/generated/types.bin");
    println!("cargo::rerun-if-changed={}", source.display());

    let bytes = fs::read(&source).map_err(|e| format!("read {}: {e}", source.display()))?;
    let mut set = FileDescriptorSet::decode(&*bytes)?;
    for file in &mut set.file {
        file.source_code_info = None;
    }
    set.file.extend([
        typed_struct("udpa/type/v1/typed_struct.proto", "udpa.type.v1"),
        typed_struct("xds/type/v3/typed_struct.proto", "xds.type.v3"),
        name_table(),
        stats_config(),
        peer_metadata(),
        metadata_exchange(),
        alpn(),
        peak_ewma(),
    ]);

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;
    fs::write(out.join("map_plans.rs"), map_plans(&set))?;
    Ok(())
}

/// Where cargo keeps the `envoy-types` package, wherever it comes from (registry, vendored, path).
///
/// The question is about every package of the workspace, and cargo fetched only those that it builds: it may have to fetch
/// some for the answer, unless it is told to stay offline.
fn envoy_types_directory() -> Result<PathBuf, Box<dyn Error>> {
    let cargo = env::var_os("CARGO").ok_or("CARGO is not set: run this through cargo")?;
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
        ])
        .arg(env::var("TARGET")?)
        .arg("--manifest-path")
        .arg(manifest)
        .output()?;
    if !output.status.success() {
        return Err(format!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| {
            PathBuf::from(package["manifest_path"].as_str()?)
                .parent()
                .map(Into::into)
        })
        .ok_or_else(|| "cargo metadata does not list the package envoy-types".into())
}

fn field(
    name: &str,
    number: i32,
    kind: Type,
    label: Label,
    type_name: Option<&str>,
) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.into()),
        number: Some(number),
        r#type: Some(kind.into()),
        label: Some(label.into()),
        type_name: type_name.map(Into::into),
        ..FieldDescriptorProto::default()
    }
}

fn text(name: &str, number: i32) -> FieldDescriptorProto {
    field(name, number, Type::String, Label::Optional, None)
}

/// `TypedStruct { string type_url = 1; google.protobuf.Struct value = 2; }`
fn typed_struct(path: &str, package: &str) -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some(path.into()),
        package: Some(package.into()),
        dependency: vec!["google/protobuf/struct.proto".into()],
        syntax: Some("proto3".into()),
        message_type: vec![DescriptorProto {
            name: Some("TypedStruct".into()),
            field: vec![
                text("type_url", 1),
                field(
                    "value",
                    2,
                    Type::Message,
                    Label::Optional,
                    Some(".google.protobuf.Struct"),
                ),
            ],
            ..DescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    }
}

/// Istio's `networking/nds/v1`: what the DNS proxy of a sidecar answers from.
fn name_table() -> FileDescriptorProto {
    const PACKAGE: &str = "istio.networking.nds.v1";
    let info = format!(".{PACKAGE}.NameTable.NameInfo");
    let entry = format!(".{PACKAGE}.NameTable.TableEntry");
    FileDescriptorProto {
        name: Some("istio/networking/nds/v1/nds.proto".into()),
        package: Some(PACKAGE.into()),
        syntax: Some("proto3".into()),
        message_type: vec![DescriptorProto {
            name: Some("NameTable".into()),
            field: vec![field(
                "table",
                1,
                Type::Message,
                Label::Repeated,
                Some(&entry),
            )],
            nested_type: vec![
                DescriptorProto {
                    name: Some("NameInfo".into()),
                    field: vec![
                        field("ips", 1, Type::String, Label::Repeated, None),
                        text("registry", 2),
                        text("shortname", 3),
                        text("namespace", 4),
                        field("alt_hosts", 5, Type::String, Label::Repeated, None),
                    ],
                    ..DescriptorProto::default()
                },
                DescriptorProto {
                    name: Some("TableEntry".into()),
                    field: vec![
                        text("key", 1),
                        field("value", 2, Type::Message, Label::Optional, Some(&info)),
                    ],
                    options: Some(MessageOptions {
                        map_entry: Some(true),
                        ..MessageOptions::default()
                    }),
                    ..DescriptorProto::default()
                },
            ],
            ..DescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    }
}

fn many(name: &str, number: i32, kind: Type, of: Option<&str>) -> FieldDescriptorProto {
    field(name, number, kind, Label::Repeated, of)
}

fn one(name: &str, number: i32, kind: Type, of: Option<&str>) -> FieldDescriptorProto {
    field(name, number, kind, Label::Optional, of)
}

fn message(name: &str, fields: Vec<FieldDescriptorProto>) -> DescriptorProto {
    DescriptorProto {
        name: Some(name.into()),
        field: fields,
        ..DescriptorProto::default()
    }
}

fn enumeration(name: &str, values: &[&str]) -> EnumDescriptorProto {
    EnumDescriptorProto {
        name: Some(name.into()),
        value: (0..)
            .zip(values)
            .map(|(number, value)| EnumValueDescriptorProto {
                name: Some((*value).into()),
                number: Some(number),
                ..EnumValueDescriptorProto::default()
            })
            .collect(),
        ..EnumDescriptorProto::default()
    }
}

/// Istio's `stats.PluginConfig`: the `istio.stats` filter.
fn stats_config() -> FileDescriptorProto {
    const DURATION: Option<&str> = Some(".google.protobuf.Duration");
    let dimensions = DescriptorProto {
        options: Some(MessageOptions {
            map_entry: Some(true),
            ..MessageOptions::default()
        }),
        ..message("DimensionsEntry", vec![text("key", 1), text("value", 2)])
    };
    let metric = DescriptorProto {
        nested_type: vec![dimensions],
        ..message(
            "MetricConfig",
            vec![
                many(
                    "dimensions",
                    1,
                    Type::Message,
                    Some(".stats.MetricConfig.DimensionsEntry"),
                ),
                text("name", 2),
                many("tags_to_remove", 3, Type::String, None),
                text("match", 4),
                one("drop", 5, Type::Bool, None),
            ],
        )
    };
    let definition = message(
        "MetricDefinition",
        vec![
            text("name", 1),
            text("value", 2),
            one("type", 3, Type::Enum, Some(".stats.MetricType")),
        ],
    );
    let config = message(
        "PluginConfig",
        vec![
            one("disable_host_header_fallback", 6, Type::Bool, None),
            one("tcp_reporting_duration", 7, Type::Message, DURATION),
            many("metrics", 8, Type::Message, Some(".stats.MetricConfig")),
            many(
                "definitions",
                9,
                Type::Message,
                Some(".stats.MetricDefinition"),
            ),
            one("reporter", 10, Type::Enum, Some(".stats.Reporter")),
            one("rescoping_duration", 11, Type::Message, DURATION),
            one("scope_grace_period_duration", 12, Type::Message, DURATION),
        ],
    );
    FileDescriptorProto {
        name: Some("istio/stats/config.proto".into()),
        package: Some("stats".into()),
        syntax: Some("proto3".into()),
        dependency: vec!["google/protobuf/duration.proto".into()],
        message_type: vec![metric, definition, config],
        enum_type: vec![
            enumeration("MetricType", &["COUNTER", "GAUGE", "HISTOGRAM"]),
            enumeration("Reporter", &["UNSPECIFIED", "SERVER_GATEWAY"]),
        ],
        ..FileDescriptorProto::default()
    }
}

/// Istio's `io.istio.http.peer_metadata.Config`.
fn peer_metadata() -> FileDescriptorProto {
    const PACKAGE: &str = "io.istio.http.peer_metadata";
    let of = |name: &str| format!(".{PACKAGE}.Config.{name}");
    let choice = |name: &str, fields: Vec<(&str, i32, &str)>| DescriptorProto {
        oneof_decl: vec![OneofDescriptorProto {
            name: Some("method_specifier".into()),
            ..OneofDescriptorProto::default()
        }],
        ..message(
            name,
            fields
                .into_iter()
                .map(|(name, number, kind)| FieldDescriptorProto {
                    oneof_index: Some(0),
                    ..one(name, number, Type::Message, Some(&of(kind)))
                })
                .collect(),
        )
    };
    let (discovery, propagation) = (of("DiscoveryMethod"), of("PropagationMethod"));
    let config = DescriptorProto {
        nested_type: vec![
            message("Baggage", Vec::new()),
            message("WorkloadDiscovery", Vec::new()),
            message(
                "IstioHeaders",
                vec![one("skip_external_clusters", 1, Type::Bool, None)],
            ),
            choice(
                "DiscoveryMethod",
                vec![
                    ("baggage", 1, "Baggage"),
                    ("workload_discovery", 2, "WorkloadDiscovery"),
                    ("istio_headers", 3, "IstioHeaders"),
                ],
            ),
            choice(
                "PropagationMethod",
                vec![("istio_headers", 1, "IstioHeaders")],
            ),
        ],
        ..message(
            "Config",
            vec![
                many("downstream_discovery", 1, Type::Message, Some(&discovery)),
                many("upstream_discovery", 2, Type::Message, Some(&discovery)),
                many(
                    "downstream_propagation",
                    3,
                    Type::Message,
                    Some(&propagation),
                ),
                many("upstream_propagation", 4, Type::Message, Some(&propagation)),
                one("shared_with_upstream", 5, Type::Bool, None),
                many("additional_labels", 6, Type::String, None),
            ],
        )
    };
    FileDescriptorProto {
        name: Some("istio/peer_metadata/config.proto".into()),
        package: Some(PACKAGE.into()),
        syntax: Some("proto3".into()),
        message_type: vec![config],
        ..FileDescriptorProto::default()
    }
}

/// Istio's `alpn` filter.
fn alpn() -> FileDescriptorProto {
    const PACKAGE: &str = "istio.envoy.config.filter.http.alpn.v2alpha1";
    let of = |name: &str| format!(".{PACKAGE}.FilterConfig.{name}");
    let (protocol, replacement) = (of("Protocol"), of("AlpnOverride"));
    let config = DescriptorProto {
        nested_type: vec![message(
            "AlpnOverride",
            vec![
                one("upstream_protocol", 1, Type::Enum, Some(&protocol)),
                many("alpn_override", 2, Type::String, None),
            ],
        )],
        enum_type: vec![enumeration("Protocol", &["HTTP10", "HTTP11", "HTTP2"])],
        ..message(
            "FilterConfig",
            vec![many("alpn_override", 1, Type::Message, Some(&replacement))],
        )
    };
    FileDescriptorProto {
        name: Some("istio/alpn/config.proto".into()),
        package: Some(PACKAGE.into()),
        syntax: Some("proto3".into()),
        message_type: vec![config],
        ..FileDescriptorProto::default()
    }
}

/// Malla's own load-balancing policy.
fn peak_ewma() -> FileDescriptorProto {
    let duration = Some(".google.protobuf.Duration");
    FileDescriptorProto {
        name: Some("malla/extensions/load_balancing_policies/peak_ewma/v1/peak_ewma.proto".into()),
        package: Some("malla.extensions.load_balancing_policies.peak_ewma.v1".into()),
        syntax: Some("proto3".into()),
        dependency: vec!["google/protobuf/duration.proto".into()],
        message_type: vec![message(
            "PeakEwma",
            vec![
                one("decay_time", 1, Type::Message, duration),
                one("default_rtt", 2, Type::Message, duration),
            ],
        )],
        ..FileDescriptorProto::default()
    }
}

/// Istio's TCP metadata exchange.
fn metadata_exchange() -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some("istio/metadata_exchange/config.proto".into()),
        package: Some("envoy.tcp.metadataexchange.config".into()),
        syntax: Some("proto3".into()),
        message_type: vec![message(
            "MetadataExchange",
            vec![
                text("protocol", 1),
                one("enable_discovery", 2, Type::Bool, None),
                many("additional_labels", 3, Type::String, None),
            ],
        )],
        ..FileDescriptorProto::default()
    }
}

/// A message: its fields of message type (number, type), and whether it is a map's entry.
struct Shape {
    fields: Vec<(i32, String)>,
    map_entry: bool,
}

fn map_plans(set: &FileDescriptorSet) -> String {
    let mut shapes = BTreeMap::new();
    for file in &set.file {
        collect(
            &format!(".{}", file.package()),
            &file.message_type,
            &mut shapes,
        );
    }
    let interesting = above_maps(&shapes);
    let index: BTreeMap<&String, usize> = interesting
        .iter()
        .enumerate()
        .map(|(at, name)| (*name, at))
        .collect();

    let mut out = String::from("pub(crate) static PLANS: &[Plan] = &[\n");
    for name in &interesting {
        let _ = write!(
            out,
            "Plan {{ name: {:?}, fields: &[",
            name.trim_start_matches('.')
        );
        for (number, target) in &shapes[*name].fields {
            if shapes.get(target).is_some_and(|shape| shape.map_entry) {
                let below = index
                    .get(target)
                    .map_or("None".to_owned(), |at| format!("Some({at})"));
                let _ = write!(
                    out,
                    "Field {{ number: {number}, kind: Kind::Map({below}) }}, "
                );
            } else if let Some(at) = index.get(target) {
                let _ = write!(
                    out,
                    "Field {{ number: {number}, kind: Kind::Message({at}) }}, "
                );
            }
        }
        out.push_str("] },\n");
    }
    out.push_str("];\n");
    out
}

fn collect(scope: &str, messages: &[DescriptorProto], shapes: &mut BTreeMap<String, Shape>) {
    for message in messages {
        let name = format!("{scope}.{}", message.name());
        collect(&name, &message.nested_type, shapes);
        let mut fields: Vec<(i32, String)> = message
            .field
            .iter()
            .filter(|field| field.r#type() == Type::Message)
            .map(|field| (field.number(), field.type_name().to_owned()))
            .collect();
        fields.sort();
        let map_entry = message
            .options
            .as_ref()
            .is_some_and(MessageOptions::map_entry);
        shapes.insert(name, Shape { fields, map_entry });
    }
}

/// Messages with a map field somewhere below them: a fixed point, because messages recurse.
fn above_maps(shapes: &BTreeMap<String, Shape>) -> BTreeSet<&String> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for (name, shape) in shapes {
            let reaches = shape.fields.iter().any(|(_, target)| {
                found.contains(target) || shapes.get(target).is_some_and(|shape| shape.map_entry)
            });
            if reaches {
                found.insert(name);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}
